/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * pool.h - VMs that are kept ready: started, loaded with a template's device state, paused
 *
 * Most of the time of a create passes before its guest runs, and nothing of that depends on whose
 * it will be. So for templates in use a few sandboxes are brought half-way up ahead: they are in
 * state creating, in the table, and nobody's. A create by the template's name takes one, makes it
 * its own and lets it run; another takes its place in the background.
 *
 * How many: none for a template that nobody used for a while. Otherwise one, and as many as will be
 * wanted while another one is made (rate of creates x time to make one, twice), up to a limit per
 * template and one of all; or as many as somebody asked to have. They are made only when no client
 * waits for a processor or for memory, and are the first to go when memory is short.
 *
 * A VM is never handed out if the template's name leads to another directory by now (built anew,
 * compacted, deleted), if its process has ended, or if its pager has: then the create brings up
 * its own, as without a pool. Nothing here survives dormd: the next one removes what it finds in
 * state creating.
 *
 * One thread makes and removes; it sleeps when there is nothing to do. Any thread may call.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/problem.h"

struct host;
struct sandbox;
struct pool;

struct pool_options {
	unsigned max;	 /* per template, unless more are asked for; 0: only what is asked for */
	unsigned total;	 /* of all templates */
	unsigned idle_s; /* after which nothing is kept for a template */
};

int pool_new(struct host *host, const struct pool_options *options, struct pool **ret);

/** pool_start() - begin to make VMs; after recovery */
int pool_start(struct pool *p);

/** pool_stop() - end the thread, and all VMs that are kept */
void pool_stop(struct pool *p);

/** pool_free() - stopped, or never started */
struct pool *pool_free(struct pool *p);

/**
 * pool_take() - one for a create by this name, if there is one
 * @dirfd: the directory that the name leads to, from snapshot_open_dir()
 * Return: with its op lock and a reference held, pooled no more; NULL: bring up your own
 */
struct sandbox *pool_take(struct pool *p, const char *name, int dirfd);

/** pool_used() - a create by this name came to its end: so much for demand. @warm: with one of
 *  ours. @p may be NULL */
void pool_used(struct pool *p, const char *name, bool warm);

/**
 * pool_pin() - keep @n VMs of that template whether it is used or not, until said otherwise
 * Not kept across dormd. Return: 0; -EINVAL, -ENOENT with @problem
 */
int pool_pin(struct pool *p, const char *name, unsigned n, struct problem *problem);

/** pool_recheck() - a template changed, or a VM died: look at what is kept. @p may be NULL */
void pool_recheck(struct pool *p);

/** pool_poke() - clients have all they wanted: there may be time to make some. @p may be NULL */
void pool_poke(struct pool *p);

/** pool_give_back() - end one VM. Return: was there one? */
bool pool_give_back(struct pool *p);

/**
 * pool_status() - new reference: {"ready", "making", "templates": [{"name", "ready", "making",
 * "wanted", "pinned", "hits", "misses"}]}
 */
json_t *pool_status(struct pool *p);

struct pool_figures {
	unsigned ready, making;
	uint64_t hits, misses, made, failed, given_back;
};
void pool_figures(struct pool *p, struct pool_figures *ret);

/* ---- arithmetic -------------------------------------------------------------------------------
 */

/* How often something happens, as a mean that forgets half of it every few seconds. */
struct pool_rate {
	double per_s;
	uint64_t when_ns;
};
/** pool_rate_add() - it happened, at @now_ns. @n: times; 0 only lets time pass */
void pool_rate_add(struct pool_rate *r, unsigned n, uint64_t now_ns);

/** pool_demand() - how many to keep. @per_s: creates; @make_ns: the time to make one */
unsigned pool_demand(double per_s, uint64_t make_ns, unsigned max);
