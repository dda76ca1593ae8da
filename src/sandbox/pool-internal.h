/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pool-internal.h - what pool.c and pool-keep.c share
 *
 * An entry per template, by the name that clients use: a name that leads elsewhere by now shows by
 * its directory, of which the entry keeps a descriptor, so that its inode number is not given to
 * another one meanwhile. What is in `ready` is in the table of sandboxes too, with a reference for
 * each; whoever takes one out of `ready`, under the lock, is the only one to have it.
 *
 * The lock is held for moments: taking a VM down, making one, opening directories happen without.
 * Nothing of private.h's is taken with it. An entry with n_making or n_ready keeps its place.
 */
#include <pthread.h>

#include "sandbox/pool.h"
#include "sandbox/private.h"

#define POOL_TEMPLATES 32u
#define POOL_READY     64u

struct entry {
	char name[64]; /* "": free */
	int dirfd;     /* what those in ready were made from; -1: none */
	struct sandbox *ready[POOL_READY];
	unsigned n_ready, n_making;
	unsigned pinned;
	struct pool_rate rate;
	uint64_t used_ns; /* 0: never */
	uint64_t make_ns; /* mean time to make one */
	unsigned failures;
	uint64_t not_before_ns;
	uint64_t hits, misses;
};

struct pool {
	struct host *host;
	struct pool_options options;

	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t thread;
	bool started, stopping;
	bool recheck; /* something changed under what is kept */
	bool poked;
	uint64_t looked_ns; /* at memory */
	struct entry entries[POOL_TEMPLATES];
	struct pool_figures figures;
};

/* ---- pool.c -----------------------------------------------------------------------------------
 * With the lock held.
 */

struct entry *pool_find(struct pool *p, const char *name);

/** pool_wanted() - how many of it there should be, if there is room */
unsigned pool_wanted(struct pool *p, struct entry *e, uint64_t now);

/** pool_pop() - take one out; there is one */
struct sandbox *pool_pop(struct entry *e);

/** pool_same_directory() - do two descriptors lead to one directory? -1 leads nowhere */
bool pool_same_directory(int a, int b);

/* ---- pool-keep.c ------------------------------------------------------------------------------
 */

/** pool_main() - the thread. @arg: the pool */
void *pool_main(void *arg);

/** pool_least_wanted() - lock held: the one to go first when there is no room for all: not asked
 * for, and not used for longest; NULL: nothing is kept */
struct entry *pool_least_wanted(struct pool *p);

/** pool_end_one() - lock held, given up meanwhile: end one of @e; false for NULL */
bool pool_end_one(struct pool *p, struct entry *e);

/** pool_is_fit() - op held: is it as good as when it was made? */
bool pool_is_fit(struct sandbox *sb);

/** pool_end() - no lock held: consumes the reference */
void pool_end(struct sandbox *sb);
