/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An array of entries, in three kinds of chains of indices: those of equal hash, those that are in
 * use by age, and those that are free (through `older`). The hash has a key that the guest does not
 * know: it chooses ports and addresses.
 */
#include "net/flows.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/id.h"

#define BUCKETS 4096u

struct flows {
	uint64_t key;
	unsigned n;
	uint16_t oldest, newest, free;
	uint16_t unused; /* entries from here on were never touched */
	uint16_t buckets[BUCKETS];
	struct flow all[FLOWS_MAX];
};

static uint16_t index_of(const struct flows *f, const struct flow *flow)
{
	return (uint16_t)(flow - f->all + 1);
}

static struct flow *at(struct flows *f, uint16_t index)
{
	return index ? &f->all[index - 1] : NULL;
}

int flows_new(struct flows **ret)
{
	struct flows *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	id_random(&f->key, sizeof(f->key));
	*ret = f;
	return 0;
}

struct flows *flows_free(struct flows *f)
{
	free(f);
	return NULL;
}

static uint16_t *bucket_of(struct flows *f, const struct address *remote, uint16_t remote_port,
			   uint16_t guest_port)
{
	uint8_t bytes[21];

	bytes[0] = remote->family;
	memcpy(bytes + 1, remote->bytes, 16);
	memcpy(bytes + 17, &remote_port, 2);
	memcpy(bytes + 19, &guest_port, 2);
	return &f->buckets[XXH3_64bits_withSeed(bytes, sizeof(bytes), f->key) % BUCKETS];
}

static void unlink_age(struct flows *f, struct flow *flow)
{
	struct flow *older = at(f, flow->older), *newer = at(f, flow->newer);

	*(older ? &older->newer : &f->oldest) = flow->newer;
	*(newer ? &newer->older : &f->newest) = flow->older;
}

static void link_newest(struct flows *f, struct flow *flow)
{
	uint16_t index = index_of(f, flow);
	struct flow *newest = at(f, f->newest);

	flow->older = f->newest;
	flow->newer = 0;
	*(newest ? &newest->newer : &f->oldest) = index;
	f->newest = index;
}

struct flow *flows_find(struct flows *f, const struct address *remote, uint16_t remote_port,
			uint16_t guest_port)
{
	struct flow *flow = at(f, *bucket_of(f, remote, remote_port, guest_port));

	while (flow && (flow->remote_port != remote_port || flow->guest_port != guest_port ||
			!address_equal(&flow->remote, remote)))
		flow = at(f, flow->hash_next);
	if (flow && index_of(f, flow) != f->newest) {
		unlink_age(f, flow);
		link_newest(f, flow);
	}
	return flow;
}

void flows_remove(struct flows *f, struct flow *flow)
{
	uint16_t index = index_of(f, flow);
	uint16_t *from = bucket_of(f, &flow->remote, flow->remote_port, flow->guest_port);

	while (*from != index)
		from = &at(f, *from)->hash_next;
	*from = flow->hash_next;
	unlink_age(f, flow);
	*flow = (struct flow){.older = f->free};
	f->free = index;
	f->n--;
}

static struct flow *take(struct flows *f)
{
	struct flow *flow;

	if (!f->free && f->unused == FLOWS_MAX)
		flows_remove(f, at(f, f->oldest));
	if (!f->free)
		return &f->all[f->unused++];
	flow = at(f, f->free);
	f->free = flow->older;
	return flow;
}

struct flow *flows_add(struct flows *f, const struct address *remote, uint16_t remote_port,
		       uint16_t guest_port)
{
	struct flow *flow = take(f);
	uint16_t *bucket = bucket_of(f, remote, remote_port, guest_port);

	*flow = (struct flow){.remote = *remote,
			      .remote_port = remote_port,
			      .guest_port = guest_port,
			      .hash_next = *bucket};
	*bucket = index_of(f, flow);
	link_newest(f, flow);
	f->n++;
	return flow;
}

unsigned flows_count(const struct flows *f)
{
	return f->n;
}

void flows_each(struct flows *f, void (*visit)(void *userdata, struct flow *flow), void *userdata)
{
	for (uint16_t index = f->oldest, next; index; index = next) {
		next = at(f, index)->newer;
		visit(userdata, at(f, index));
	}
}
