/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * record.h - sandboxes/<id>/sandbox.json: what a new daemon needs to know of a sandbox
 *
 * Written by replacing the file. A write is made durable (fsync) when it commits a state that must
 * outlive the host (asleep, deleting); what only matters while processes live (pids) is not synced,
 * since it has no meaning after the host went down.
 */
#include <jansson.h>
#include <stdint.h>

#include "base/id.h"
#include "base/problem.h"
#include "image/image.h"
#include "sandbox/state.h"
#include "sandbox/traffic.h"
#include "vmm/vmm.h"

#define RECORD_TOKEN_BYTES 32
#define RECORD_MAX_LAYERS  20
#define RECORD_OWNER_LEN   32
#define RECORD_REQUEST_LEN 64

/*
 * The disk of a running VM: the lowest layers of the chain in memory-<generation>, then files in
 * disks/ of the sandbox, of which the last is being written.
 *
 *     memory-3: base a b       record: below 3, d1          woken: d1 is empty
 *     a snapshot is taken      record: below 3, d1 d2       d1 is immutable and in the snapshot
 */
struct record_disk {
	unsigned below;
	unsigned n; /* 0: no VM, or one without a writable disk */
	char names[RECORD_MAX_LAYERS][ID_LEN + 1];
};

struct record {
	char id[ID_LEN + 1];
	char template_id[64]; /* what the caller named when it was created */
	enum sandbox_state state;
	unsigned generation;		 /* its memory is in memory-<generation>/ */
	char image_id[IMAGE_ID_LEN + 1]; /* ... and has this content; "": not known (yet) */
	struct vmm_identity vm;		 /* pid 0: none */
	struct record_disk disk;
	uint64_t created_ns;		  /* real time */
	uint64_t started_ns;		  /* of the latest start or wake */
	uint64_t end_ns;		  /* when its time is up; 0: never */
	uint64_t timeout_s;		  /* what it was given last; 0: not known, or for ever */
	bool auto_pause;		  /* then sleep instead of deleting */
	bool auto_pause_disk;		  /* ... keeping only the disk */
	bool auto_resume;		  /* traffic wakes it */
	bool disk_only;			  /* memory-<generation>/ holds only its disks: a wake
					     boots it; one that runs was booted (reboot.c) */
	uint32_t uid;			  /* of its VMM's jail; 0: it has none */
	char owner[RECORD_OWNER_LEN + 1]; /* which API key it was made with; "": the unix socket */
	char boot_id[37];		  /* of the host when its VM was started; "": not known */
	json_t *metadata;		  /* object or NULL; owned */
	json_t *envs;			  /* object or NULL; owned */
	json_t *network; /* whom it may talk to (net/rules.h); NULL: nobody; owned */
	char request[RECORD_REQUEST_LEN + 1]; /* sandbox_options.request */
	char failure[512];
	/* What clients have to show in the sandbox, in hexadecimal: a secret, of this sandbox
	 * alone, kept as long as it lives. "": none is asked for */
	char token[2 * RECORD_TOKEN_BYTES + 1];
	char traffic_token[TRAFFIC_TOKEN_LEN + 1]; /* see sandbox.h; "": traffic is public */
	char mask_host[TRAFFIC_HOST_MAX + 1];	   /* see sandbox.h; "": not masked */
};

/** record_new_token() - give it an access token of its own */
void record_new_token(struct record *r);

/* What stands in `failure` of one that ran when the host went down; its disk is as it was then. */
#define RECORD_HOST_RESTARTED "the host was restarted while it ran"

/** record_is_host_restarted() - is it failed for that reason, and for no other? */
bool record_is_host_restarted(const struct record *r);

/** record_deinit() - release what it owns */
void record_deinit(struct record *r);

/** record_encode() - its text; NULL without memory. The caller frees it */
char *record_encode(const struct record *r);

/** record_write() - @text: of record_encode(). @dirfd: sandboxes/<id> */
int record_write(int dirfd, const char *text, bool durable);

/** record_read() - Return: 0; -ENOENT; -EBADMSG with @problem for anything else than a good record
 */
int record_read(int dirfd, struct problem *problem, struct record *ret);
