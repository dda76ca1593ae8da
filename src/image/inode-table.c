/* SPDX-License-Identifier: Apache-2.0 */
#include "image/inode-table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SLOTS 256u

struct inode_key {
	uint64_t dev, ino;
	uint32_t number; /* plus 1; 0: empty */
};

void inode_table_deinit(struct inode_table *t)
{
	free(t->slots);
	*t = (struct inode_table){0};
}

/* Inode numbers are dense, so spread them: the multiplier of Fibonacci hashing (Knuth, 6.4). */
static struct inode_key *find(struct inode_key *slots, size_t n_slots, uint64_t dev, uint64_t ino)
{
	size_t i = (size_t)(((ino ^ (dev << 32)) * 0x9e3779b97f4a7c15ull) >> 32);

	for (;; i++) {
		struct inode_key *k = &slots[i & (n_slots - 1)];

		if (!k->number || (k->ino == ino && k->dev == dev))
			return k;
	}
}

static int grow(struct inode_table *t)
{
	size_t n_slots = t->n_slots ? t->n_slots * 2 : FIRST_SLOTS;
	struct inode_key *slots = calloc(n_slots, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_slots; i++)
		if (t->slots[i].number)
			*find(slots, n_slots, t->slots[i].dev, t->slots[i].ino) = t->slots[i];
	free(t->slots);
	t->slots = slots;
	t->n_slots = n_slots;
	return 0;
}

int inode_table_put(struct inode_table *t, const struct stat *st, uint32_t *ret_number)
{
	struct inode_key *k;

	if ((size_t)t->n * 2 >= t->n_slots && grow(t) < 0)
		return -ENOMEM;
	k = find(t->slots, t->n_slots, (uint64_t)st->st_dev, (uint64_t)st->st_ino);
	if (k->number) {
		*ret_number = k->number - 1;
		return 0;
	}
	*k = (struct inode_key){
		.dev = (uint64_t)st->st_dev, .ino = (uint64_t)st->st_ino, .number = ++t->n};
	*ret_number = t->n - 1;
	return 1;
}
