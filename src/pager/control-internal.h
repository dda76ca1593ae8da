/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* control-internal.h - the inside of the control thread; for control.c and request*.c only */
#include <jansson.h>
#include <poll.h>

#include "pager/control.h"
#include "pager/door.h"
#include "pager/wire.h"

#define MAX_POLL (4 + ALONE_MAX_POLL + CONTROL_MAX_CLIENTS + 2 * PAGER_MAX_SESSIONS)

struct control {
	struct pager *p;
	struct control_options options;
	int signal_fd;
	int lock_fd;
	int listener;
	int clients[CONTROL_MAX_CLIENTS]; /* -1: free */
	struct waiting {
		json_t *reply; /* NULL: it waits for nothing, and may ask */
		int fd;	       /* that goes with it; -1: none */
		char session[SESSION_NAME_MAX + 1];
	} waiting[CONTROL_MAX_CLIENTS]; /* for a session's memory to be complete */
	struct door *doors;
	int journal;		/* directory; journal.h */
	bool handed_over;	/* a successor has it, and the sockets' names */
	struct orphan *orphans; /* takeover.h, like what follows */
	unsigned taken_back, lost;
	uint64_t takeover_ns;
	struct {
		uint64_t descriptors_ns, images_ns, memory_ns;
	} took;		     /* parts of that */
	struct alone *alone; /* lets in VMs that nobody announced, or NULL */
	uint64_t n_named;    /* VMs that it ever named */
	bool keeps_memory;   /* the supervisor has the image's memory: the next two */
	uint64_t memory_dev, memory_ino;
	uint64_t accept_after_ns; /* leave listening sockets alone until then */
	uint64_t look_stuck_ns;	  /* when to look for stuck faults again */
	bool stop;

	struct pollfd polls[MAX_POLL];
	struct door *poll_doors[MAX_POLL]; /* whose descriptor it is, or NULL */
};

/** control_forget() - a session whose VM is gone, or never came */
void control_forget(struct control *c, struct door *d);

/** control_hand_over() - to a successor: from now on nothing here touches VMs, sockets' names or
 *  the journal; the loop ends */
void control_hand_over(struct control *c);

/** control_has_exited() - is the session's VM gone, or was there none? */
bool control_has_exited(const struct session *s);

/**
 * request_serve() - do what a client asks for
 * @fds: that came with it; borrowed
 * @reply: untouched when {"ok":true} says everything; @reply_fd: goes with it
 * Return: 0; IMAGE_E_*; negative errno; @problem says
 */
int request_serve(struct control *c, const json_t *request, const int fds[WIRE_MAX_FDS],
		  struct problem *problem, json_t **reply, int *reply_fd);

/* ---- between request.c and request-open.c ---- */

/* "what" and "load": the places are those of enum job_what. */
extern const char *const request_load_words[];

/**
 * request_word() - a member that is a word of a list, which ends with NULL
 * Return: its place; @fallback when it is absent; -EINVAL, @problem says
 */
int request_word(const json_t *request, const char *member, const char *const *words, int fallback,
		 struct problem *problem);

/** request_open() - a session, or an orphan's. Results and arguments as request_serve() */
int request_open(struct control *c, const json_t *request, const int fds[WIRE_MAX_FDS],
		 struct problem *problem, json_t **reply, int *reply_fd);

/** request_warm() - load memory without a session. As request_serve() */
int request_warm(struct control *c, const json_t *request, const int fds[WIRE_MAX_FDS],
		 struct problem *problem, json_t **reply);
