/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/uids.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/mem.h"

bool uids_may_be(uint64_t first, uint64_t n)
{
	return first >= UIDS_MIN && n && n <= UIDS_MAX && first <= UINT32_MAX - n;
}

int uids_init(struct uids *u, uint32_t first, uint32_t n)
{
	uint32_t start;

	*u = (struct uids){.first = first, .n = n};
	pthread_mutex_init(&u->lock, NULL);
	if (!uids_may_be(first, n))
		return -EINVAL;
	u->taken = calloc((n + 63) / 64, sizeof(*u->taken));
	if (!u->taken)
		return -ENOMEM;
	id_random((unsigned char *)&start, sizeof(start));
	u->next = start % n;
	return 0;
}

void uids_deinit(struct uids *u)
{
	free(u->taken);
	u->taken = NULL;
	pthread_mutex_destroy(&u->lock);
}

static bool is_taken(const struct uids *u, uint32_t i)
{
	return u->taken[i / 64] >> i % 64 & 1;
}

static void mark(struct uids *u, uint32_t uid, bool taken)
{
	uint32_t i = uid - u->first;

	if (!u->taken || uid < u->first || i >= u->n)
		return;
	if (taken)
		u->taken[i / 64] |= 1ull << i % 64;
	else
		u->taken[i / 64] &= ~(1ull << i % 64);
}

int uids_take(struct uids *u, uint32_t *ret)
{
	LOCK_SCOPE(&u->lock);
	for (uint32_t k = 0; u->taken && k < u->n; k++) {
		uint32_t i = (u->next + k) % u->n;

		if (is_taken(u, i))
			continue;
		mark(u, u->first + i, true);
		u->next = (i + 1) % u->n;
		*ret = u->first + i;
		return 0;
	}
	return -EAGAIN;
}

void uids_claim(struct uids *u, uint32_t uid)
{
	LOCK_SCOPE(&u->lock);
	mark(u, uid, true);
}

void uids_give_back(struct uids *u, uint32_t uid)
{
	LOCK_SCOPE(&u->lock);
	mark(u, uid, false);
}
