/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * recording.h - what one session needs, watched until it settles, and the working set that follows
 *
 *     recording_new() -> fault threads: recording_need(), recording_prefetched()
 *                     -> control thread: recording_watch() ... recording_answer() ->
 * recording_free()
 *
 * One session of an image is recorded at a time: the first one, while it lives. When its guest has
 * settled (pager/settle.h), what it needed and the set it began with become a better set
 * (pager/refine.h), which waits here for the owner of the store. Nothing is written by the pager.
 *
 * Threads: what it notes is atomic; all else belongs to the control thread. It is freed with its
 * session, when no thread has a reference to that and no read of its job is under way.
 *
 * Without a userfaultfd (EAGER) nothing is seen, and nothing recorded.
 */
#include <jansson.h>

#include "image/working-set.h"
#include "pager/session.h"

struct recording;

/** recording_new() - of session @s, from the moment when its VM attaches. Return: 0; -ENOMEM */
int recording_new(struct session *s, struct recording **ret);

/** recording_begin_with() - the set that is loaded for it; moves in, empty afterwards */
void recording_begin_with(struct recording *r, struct working_set *set);
struct recording *recording_free(struct recording *r);

/** recording_need() - the VM waited for one of these pages; @r may be NULL. Any thread */
void recording_need(struct recording *r, uint64_t gfn, uint64_t n_pages);

/** recording_prefetched() - they were brought in before anybody asked; @r may be NULL. Any thread
 */
void recording_prefetched(struct recording *r, uint64_t gfn, uint64_t n_pages);

/**
 * recording_watch() - has it settled? Control thread, now and then while the session serves
 * Return: when to ask again, UINT64_MAX: never
 */
uint64_t recording_watch(struct recording *r, uint64_t now_ns);

/**
 * recording_answer() - what is known: {"settled", "pages", "precision", "recall", ...}
 * @ret_fd: once it has settled, and there is something to store: the file, as a sealed memfd
 * Return: 0; -ENOMEM; negative errno
 */
int recording_answer(struct recording *r, json_t **ret, int *ret_fd);

/** recording_counts() - pages prefetched, and of those used, for the statistics; @r may be NULL */
void recording_counts(const struct recording *r, uint64_t *ret_prefetched, uint64_t *ret_used);
