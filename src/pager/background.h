/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * background.h - loading what nobody waits for: working sets, whole images (graduation)
 *
 * A job loads memory for one session, or for an image without one (warming). The loader's
 * background threads ask background_next() for the next read; each job is a list of ranges of
 * frames and a cursor. The working sets of all jobs come before the rest of any, and among equals
 * jobs take turns.
 *
 *   job's state  holds                                     left by
 *   NONE         nothing was asked for
 *   LOADING      in the engine's list                      background threads -> DONE, FAILED
 *   DONE         everything that was asked for was loaded. After a graduation the session is FULL:
 *                all pages are there, its memory is not registered any more, it needs no pager
 *   FAILED       @text says why. The session goes on, page by page
 *
 * How a session graduates. Frames first; then pages that share slots with others; then it is
 * declared that the resident memory must stay (resident_keep()) and looked through once more, since
 * frames may have been evicted behind the cursor: what is missing is loaded in a second round,
 * which keeps what it has, unless the limits of resident memory (evict.h) forbid it; zeros are put
 * wherever the VM's own range has to have them; and at last the ranges are unregistered, which
 * wakes whoever waits.
 *
 * Threads: start and cancel belong to the control thread. Lock order: jobs_lock before pager.lock.
 */
#include <jansson.h>

#include "pager/loader.h"
#include "pager/pager.h"

struct working_set; /* image/working-set.h */

enum job_state { JOB_NONE, JOB_LOADING, JOB_DONE, JOB_FAILED };

/** background_init() / background_deinit() - the engine's part */
int background_init(struct pager *p);
void background_deinit(struct pager *p);

/** background_next() - the loader's source; @ctx is the pager */
bool background_next(void *ctx, struct load *l);

/**
 * background_start() - load memory, in addition to what is being loaded for it already
 * @s:   for whom; NULL: for @r alone
 * @r:   with @s NULL: which memory
 * @set: what to load first, borrowed; NULL: nothing is known. Must be of the session's image
 * @what: JOB_WORKING_SET (only @set; without one everything, in the order in which it is stored) or
 *        JOB_FULL
 * Return: 0; -ENOMEM
 */
int background_start(struct pager *p, struct session *s, struct resident *r,
		     const struct working_set *set, enum job_what what);

/** background_cancel() - no more reads for it; what is under way is finished by itself */
void background_cancel(struct pager *p, struct job *job);

/** job_free() - after cancel, when no read is under way: see job_is_busy() */
struct job *job_free(struct job *job);
bool job_is_busy(struct pager *p, struct job *job);

/** job_state() - NONE for a @job that is NULL. Any thread */
enum job_state job_state(const struct job *job);

/** job_stalled_ns() - for how long has no read of it come to an end while some are under way? */
uint64_t job_stalled_ns(struct pager *p, struct job *job);

/** job_what() - what it was asked to load */
enum job_what job_what(const struct job *job);

/** job_failure() - why it FAILED */
const char *job_failure(const struct job *job);

/** job_stats() - {"what","state","pages_done","pages_total","failure"}; @job may be NULL */
json_t *job_stats(const struct job *job);
