/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * journal.h - what a pager leaves for its successor: one small file for each session
 *
 * RUN-DIR/journal/NAME.session (of a pager that runs alone RUN-DIR/alone/NAME.session) is a JSON
 * object (docs/format-pager.md, "Journal"), replaced as a whole each time that something in it
 * changes; NAME.pages beside it is the session's slate (slate.h). Both are there from the session's
 * opening to its end, and so also after the death of the pager that wrote them. Nothing is synced:
 * VMs do not outlive their host.
 *
 * Decoding takes nothing for granted: the file may be cut, damaged, or from another version.
 * Control thread.
 */
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"
#include "image/image.h"
#include "pager/handshake.h"
#include "pager/session.h"

#define JOURNAL_VERSION	  1
#define JOURNAL_MAX_BYTES 65536u
#define JOURNAL_MAX_WHY	  159u

/* outcomes */
enum {
	JOURNAL_E_DAMAGED = 1, /* this is no record of a session; the problem says why */
};

struct journal_entry {
	char name[SESSION_NAME_MAX + 1];
	uint64_t n_pages;
	enum session_mode mode; /* not AUTO */
	char why[JOURNAL_MAX_WHY + 1];
	char image_id[IMAGE_ID_LEN + 1];  /* what the VM's memory is */
	char memory_id[IMAGE_ID_LEN + 1]; /* whose resident memory it runs on */
	uint64_t memory_dev, memory_ino;  /* the memfd of that; inode numbers are not used again */
	char directory[PATH_MAX];	  /* snapshot directory; empty: not known */
	bool zero;			  /* the image of zeros: it has no directory */
	bool sealed;			  /* it needs keys, which are not here */
	bool full;			  /* the VM has all of its memory */
	enum job_what load;		  /* what is being loaded */
	int pid;			  /* 0: no VM yet */
	uint64_t start_time;		  /* of that process: sys/proc.h */
	struct handshake map;		  /* @pid 0: no regions */
	uint64_t features;		  /* of the userfaultfd, as the kernel told; 0: unknown */
};

/** journal_open() - make the directory @run_dir/@name if need be. Return: its descriptor; negative
 *  errno, @problem says */
int journal_open(const char *run_dir, const char *name, struct problem *problem);

/** journal_lock() - for this process alone. Return: 0; -EADDRINUSE; negative errno, @problem says
 */
int journal_lock(int dirfd, struct problem *problem);

/** journal_write() - put or replace a session's record. Return: 0; negative errno */
int journal_write(int dirfd, const struct journal_entry *e);

/** journal_remove() - a session's record and slate; absent is fine */
void journal_remove(int dirfd, const char *name);

/**
 * journal_read() - the record of one session
 * Return: 0; JOURNAL_E_DAMAGED; -ENOENT; negative errno; @problem says
 */
int journal_read(int dirfd, const char *name, struct problem *problem, struct journal_entry *ret);

/**
 * journal_names() - all sessions that have a record, and remove slates that have none
 * @ret: fresh memory (free()), @ret_n names; at most PAGER_MAX_SESSIONS
 */
int journal_names(int dirfd, char (**ret)[SESSION_NAME_MAX + 1], size_t *ret_n);

/** journal_encode() - Return: fresh text; NULL without memory */
char *journal_encode(const struct journal_entry *e);

/** journal_decode() - of any bytes. Return: 0; JOURNAL_E_DAMAGED; -ENOMEM */
int journal_decode(const char *data, size_t len, struct problem *problem,
		   struct journal_entry *ret);
