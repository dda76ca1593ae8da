/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * alone.h - the front door of a pager that serves somebody else's VMs from one image
 *
 * With no dormd there is nobody who announces a VM. Whoever connects to the listening socket and
 * shakes hands (docs/format-pager.md, section 2) is a new VM of the image; the name is ours: vm-1,
 * vm-2, ... in the order in which the handshakes were complete.
 *
 *   WAITING   in a listener's backlog
 *   SHAKING   a place in the table, until the deadline; ALONE_MAX_SHAKING of them at most
 *   INSIDE    admitted: its descriptors are no longer ours
 *
 * A connection that says something wrong, or nothing in time, is closed, and the log says why. It
 * costs a place for the time of one handshake and nothing else: sessions are made of complete
 * handshakes only.
 *
 *     alone_new() -> [alone_poll() -> poll(2) -> alone_serve()]* -> alone_free()
 *
 * Control thread only. Nothing here blocks, apart from what @admit does. Logs.
 */
#include <poll.h>
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"
#include "image/image.h"
#include "pager/handshake.h"

#define ALONE_MAX_SHAKING   32u
#define ALONE_MAX_LISTENERS 4u
#define ALONE_LOCK_MS	    5000u /* how long one that was killed may take to be gone */
#define ALONE_MAX_POLL	    (ALONE_MAX_SHAKING + ALONE_MAX_LISTENERS)

/* A VM that handed over its memory. */
struct alone_vm {
	const char *name; /* "vm-" and @number */
	uint64_t number;
	struct handshake map;
	int uffd;  /* it and the next two: take_fd() them; what is left is closed */
	int conn;  /* to be kept open while the session lives */
	int pidfd; /* of the process at the other end */
	int pid;
};

/**
 * alone_admit_fn - make it a session
 * Return: 0; anything else refuses it, @problem says why; -EMFILE, -ENFILE and -EAGAIN are worth a
 * rest for the others
 */
typedef int alone_admit_fn(void *data, struct image *image, struct alone_vm *vm,
			   struct problem *problem);

struct alone_options {
	struct image *image; /* borrowed */
	const int *listeners;
	size_t n_listeners;    /* 1 to ALONE_MAX_LISTENERS; borrowed, made non-blocking */
	unsigned handshake_ms; /* time for a handshake */
	uint64_t n_before;     /* VMs that had a name before: the next is vm-(n_before + 1) */
};

struct alone;

/**
 * alone_open_image() - what --image names: a snapshot directory, or a raw memory file
 * @keys: of a sealed snapshot, or NULL
 * Return: 0; as image_open() and image_open_raw()
 */
int alone_open_image(const char *path, const struct keyring *keys, struct problem *problem,
		     struct image **ret);

/**
 * alone_listen() - listen on a socket of our own; @path.lock is locked while that goes on
 * Return: 0; -EADDRINUSE another pager listens there; negative errno; @problem says
 */
int alone_listen(const char *path, struct problem *problem, int *ret_fd, int *ret_lock_fd);

int alone_new(const struct alone_options *options, alone_admit_fn *admit, void *data,
	      struct alone **ret);

/** alone_free() - closes connections that are shaking hands; not the listeners */
struct alone *alone_free(struct alone *a);
DEFINE_CLEANUP(struct alone *, alone_free)

/**
 * alone_poll() - what to wait for
 * @polls:          ALONE_MAX_POLL places
 * @ret_timeout_ms: made smaller where a deadline is nearer; -1 is for ever
 * Return: places filled
 */
size_t alone_poll(struct alone *a, struct pollfd *polls, int *ret_timeout_ms);

/** alone_serve() - after poll(2), with what alone_poll() filled in; also when nothing is ready */
void alone_serve(struct alone *a, const struct pollfd *polls, size_t n);
