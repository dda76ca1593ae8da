/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* takeover-internal.h - the inside of taking back; for takeover*.c and orphan.c only. Control
 * thread */
#include "pager/control-internal.h"
#include "pager/takeover.h"

/* ---- takeover-images.c ---- */

/** takeover_images_add() - one that is open already. Return: 0; -ENOMEM */
int takeover_images_add(struct takeover_images *images, struct image *image);

struct takeover_images {
	struct opened {
		struct opened *next;
		char id[IMAGE_ID_LEN + 1];
		uint64_t n_pages;
		struct image *image; /* NULL: it could not be opened, @problem says why */
		struct image *base;  /* for sessions in overlay mode; NULL: none */
		struct problem problem;
		int dirfd;
	} * first;
};

/** takeover_image() - each image is tried once. Return: what came of it; NULL without memory */
const struct opened *takeover_image(struct takeover_images *images, const struct journal_entry *e);

/* ---- takeover-session.c ---- */

/* What is being put together again. */
struct taking {
	const struct journal_entry *e;
	int pidfd, uffd, memfd;
	int conn; /* to be kept open for the VM; -1: none */
	struct slate slate;
	bool full;
	bool kept;		       /* the supervisor has it already */
	struct image *image, *base;    /* borrowed */
	const struct working_set *set; /* borrowed */
};

void taking_deinit(struct taking *t);

/** taking_slate() - a VM that cannot give pages back has nothing in its slate that it needs */
int taking_slate(int journal, struct taking *t, struct problem *problem);

/** taking_descriptors() - all that comes from the process and the journal. Return: 0; -ESRCH it is
 *  gone; negative errno */
int taking_descriptors(struct control *c, struct taking *t, struct problem *problem);

/** taking_finish() - with everything at hand: from here on it is a session as any other, only not
 *  served yet */
int taking_finish(struct control *c, struct taking *t, struct problem *problem,
		  struct session **ret);

/* ---- takeover.c ---- */

/** takeover_entry_stats() - the statistics of a session of which there is only the record */
json_t *takeover_entry_stats(const struct journal_entry *e, const char *state, const char *failure,
			     bool full);

/** takeover_note() - it is over: into the history, and out of the journal */
void takeover_note(struct control *c, const struct journal_entry *e, const char *state,
		   const char *text);

/** takeover_give_up() - what cannot be taken back is killed, if there is a @pidfd, and noted */
void takeover_give_up(struct control *c, const struct journal_entry *e, int pidfd, int r,
		      const struct problem *problem);

/* ---- takeover-alone.c ---- */

/** takeover_count_name() - a VM had this name: it is not given again */
void takeover_count_name(struct control *c, const char *name);

/** takeover_kept() - take back what the supervisor keeps; nothing is served yet */
void takeover_kept(struct control *c);

/** takeover_keep_pressure() - what must not be closed by a worker that is dying */
void takeover_keep_pressure(struct control *c);

/* ---- orphan.c ---- */

/** orphan_new() - @why: the image could not be opened. Return: 0; -ENOMEM */
int orphan_new(struct control *c, struct taking *t, const char *why);

/**
 * orphan_revive_memory() - pager_take_memory(), for the sake of orphans as well
 * VMs that are left alone may touch what is not there; their memory must not be taken for poisoned,
 * nor be evicted.
 */
int orphan_revive_memory(struct control *c, struct image *image, const struct journal_entry *e,
			 int memfd, struct problem *problem, struct resident **ret);

/** orphan_add_stats() - of all of them */
void orphan_add_stats(const struct control *c, json_t *sessions);
