/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * takeover.h - going on with the sessions of a pager that died, or that makes room
 *
 *     takeover_prepare() -> [handover_ask()] -> takeover_run() -> takeover_tick()*
 *
 * A session that cannot be served yet, because its image cannot be opened from here, is an orphan:
 *
 *   ORPHANED  its VM's descriptors are held; nobody answers it. Left by adoption (a session), by
 *             its deadline or a client (ENDING)
 *   SETTLED   the same, but the VM has all of its memory: it needs nobody, and clients are told
 *             "serving". Left by adoption, by a client (ENDING), or gone with its process
 *   ENDING    killed, or closed. Its name is free and its files are gone; descriptors are kept as
 *             long as its process lives
 *
 * Control thread.
 */
#include <jansson.h>
#include <stdbool.h>

#include "pager/journal.h"

struct control;
struct orphan;
struct working_set; /* image/working-set.h */

/* Images that were opened for it. */
struct takeover_images;
struct takeover_images *takeover_images_free(struct takeover_images *images);
DEFINE_CLEANUP(struct takeover_images *, takeover_images_free)

/**
 * takeover_prepare() - open the images that the journal names, before anybody waits for it
 * Without it takeover_run() opens what it needs. Return: 0; -ENOMEM
 */
int takeover_prepare(int journal, struct takeover_images **ret);

/**
 * takeover_run() - take back what is in the journal
 * What cannot be taken back is killed, and said in the log and in the session's statistics.
 * @images: from takeover_prepare(), or NULL; borrowed
 */
void takeover_run(struct control *c, struct takeover_images *images);

/** takeover_keep_memory() - give the supervisor the memory of the image, and how many had a name */
void takeover_keep_memory(struct control *c, const struct resident *memory);

/** takeover_tick() - orphans whose process is gone, or whose time is up */
void takeover_tick(struct control *c);

/** takeover_find() - the orphan of that name that is not ENDING, or NULL */
struct orphan *takeover_find(struct control *c, const char *name);

/**
 * takeover_adopt() - an orphan has its image again
 * @dirfd: its directory, -1: none; @set: its working set, or NULL
 * On failure it goes on waiting. Return: 0, and @o is gone; -EINVAL another image; negative errno;
 * @problem says
 */
int takeover_adopt(struct control *c, struct orphan *o, struct image *image, struct image *base,
		   const struct working_set *set, struct problem *problem, struct session **ret);

/** takeover_needs_base() - is the base of its image needed too? */
bool takeover_needs_base(const struct orphan *o);

/** takeover_offer() - somebody has opened this image: share what orphans have of it */
void takeover_offer(struct control *c, struct image *image);

/** takeover_close() - a client does not want it any more */
void takeover_close(struct control *c, struct orphan *o);

/** takeover_stats() - as of a session. Return: new reference; NULL without memory */
json_t *takeover_stats(const struct orphan *o);

/** takeover_add_stats() - all orphans to "sessions", and what takeover_run() did, to stats */
void takeover_add_stats(struct control *c, json_t *stats);

void takeover_free(struct control *c);
