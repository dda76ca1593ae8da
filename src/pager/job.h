/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * job.h - the inside of a job; for background.c and graduate.c only
 *
 * Guarded by the engine's jobs_lock, with three exceptions. @s, @r and @p never change. Pages are
 * counted with the lock and read without. @tries and @holding belong to the thread that does a
 * step, which is alone with the job: nothing else is under way then.
 */
#include "pager/background.h"

/* Where frames go to. */
struct side {
	struct frames *frames;
	struct image *image;	 /* whose frames they are */
	bool direct;		 /* into the VM itself */
	bitmap_word *wanted;	 /* frames that are to come */
	uint64_t n_wanted;	 /* bits set */
	struct resident *favour; /* while a working set is asked for: its frames are favoured */
	uint64_t cursor;
	uint64_t pages_total, pages_done; /* atomic to read */
};

enum { SIDE_RESIDENT, SIDE_DIRECT, N_SIDES };

/* What comes when all that was wanted is there; graduate.c. */
enum job_step {
	STEP_LOOSE, /* of the working set: what is in no frame that was brought: aliases, zeros */
	STEP_WANT_ALL, /* all frames, after the working set; also where a job begins anew */
	STEP_COMPLETE, /* aliases, zeros, the look back, unregistering */
	STEP_END,
};

struct job {
	struct job *next; /* in the engine's list */
	struct pager *p;
	struct session *s;
	struct resident *r;
	enum job_what what;
	enum job_state state; /* atomic to read */
	enum job_step step;
	enum load_priority priority;
	unsigned tries;	   /* of STEP_COMPLETE */
	bool holding;	   /* it keeps the resident memory, and has to let go of it */
	uint32_t pending;  /* pieces of work under way */
	uint64_t moved_ns; /* when one of them began alone, or came to an end */
	bool cancelled;
	bool copied;	    /* the VM got what was in the resident memory */
	bitmap_word *loose; /* pages for STEP_LOOSE, or NULL */
	struct side sides[N_SIDES];
	char text[512]; /* why it failed */
};

DEFINE_CLEANUP(struct job *, job_free)

/** job_want_all() - every frame of the session's image; with jobs_lock */
void job_want_all(struct job *job);

/** job_fail() - the first reason is kept */
void job_fail(struct job *job, const char *text);

/** job_count() - pages for the session's statistics */
void job_count(struct job *job, uint64_t decoded, uint64_t inserted);

/** job_let_go() - of the resident memory, if it keeps it; jobs_lock, or nobody else has the job */
void job_let_go(struct job *job);
