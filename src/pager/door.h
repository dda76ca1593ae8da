/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * door.h - where one VM comes in: a session's socket, and the handshake on it
 *
 *   LISTENING   a unix socket under the run directory; connections wait in its backlog
 *   SHAKING     one connection is sending its handshake; it has until @deadline_ns
 *   INSIDE      the session is SERVING (or was); the socket's name is gone, the connection is kept
 *               open for the VMM's sake and never read again
 *
 * A connection that sends garbage, half a handshake or none in time goes back to LISTENING: it was
 * not our VM, the next may be. Control thread only. Nothing here blocks.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/problem.h"
#include "pager/pager.h"

#define DOOR_PATH_MAX 107u

struct door {
	struct door *next;
	struct session *session;
	char path[DOOR_PATH_MAX + 1]; /* empty once it is unlinked */
	int listener;
	int conn;
	int uffd; /* arrived, but the text is not complete yet */
	struct buf text;
	uint64_t deadline_ns;  /* of the handshake under way */
	bool told;	       /* its failure was logged */
	bool returned;	       /* the session was taken back from an earlier pager */
	struct ledger *ledger; /* its part of the journal; ledger.h */
};

/** door_new() - listen for the VM of @session. Return: 0; -ENAMETOOLONG; negative errno */
int door_new(const char *run_dir, struct session *session, struct problem *problem,
	     struct door **ret);

/**
 * door_new_inside() - of a session that serves already; @conn is consumed in every case
 * Return: 0; -ENOMEM
 */
int door_new_inside(struct session *session, int conn, struct door **ret);

/** door_abandon() - leave the socket's name to a successor */
void door_abandon(struct door *d);

/** door_free() - close and unlink; the session is not touched */
struct door *door_free(struct door *d);
DEFINE_CLEANUP(struct door *, door_free)

/** door_fd() - the descriptor to poll for POLLIN; -1: none */
static inline int door_fd(const struct door *d)
{
	if (d->listener < 0)
		return -1;
	return d->conn >= 0 ? d->conn : d->listener;
}

/**
 * door_ready() - go on with what door_fd() has become readable for
 * Return: 0; -EMFILE, -ENFILE when a connection could not be accepted now; -EINVAL when a handshake
 * was refused, @problem says why
 */
int door_ready(struct door *d, struct pager *p, unsigned handshake_ms, struct problem *problem);

/** door_expire() - refuse a handshake whose time is up. Return: was it? */
bool door_expire(struct door *d);
