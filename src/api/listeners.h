/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * listeners.h - where dormd is reached, and what it takes to be served there
 *
 *     the unix socket    file permissions, and the peer's user (SO_PEERCRED): root and dormd's own
 *                        always, others when they are in the group named. They may do everything.
 *     TCP, loopback      an API key
 *     TCP, elsewhere     an API key and TLS; dormd does not start listening there without
 *
 *     listeners_open()     before the first client: refuses what is not safe
 *     listeners_reload()   another certificate for new connections
 *     listeners_close()    let requests under way finish
 */
#include "api/access.h"
#include "base/mem.h"
#include "base/problem.h"
#include "sandbox/host.h"

#define LISTENERS_MAX_TCP 8

struct listeners_config {
	const char *socket;   /* path */
	int handed_fd;	      /* it, listening already, by the service manager; consumed; 0: none */
	unsigned socket_mode; /* 0: 0600, or 0660 with a group */
	const char *socket_group; /* name or number; NULL: root and dormd's own user alone */
	const char *tcp[LISTENERS_MAX_TCP]; /* "ADDRESS:PORT" */
	unsigned n_tcp;
	const char *api_key;		/* source of the static key (access.h); NULL: none */
	const char *tls_cert, *tls_key; /* paths; both or neither. Then TCP is TLS only */
	bool allow_plain; /* keys and data may cross the network in the clear: somebody else's
			     TLS is in front */
};

struct listeners;

/** listeners_check() - can @config be meant? Looks at no file. Return: 0; -EINVAL with @problem */
int listeners_check(const struct listeners_config *config, struct problem *problem);

/**
 * listeners_open() - listen everywhere @config says; borrowed, must outlive it
 * Return: 0; negative errno, and then nowhere
 */
int listeners_open(const struct listeners_config *config, struct host *host,
		   struct problem *problem, struct listeners **ret);

/** listeners_reload() - read the certificate again. Return: 0; negative errno: the old one stays */
int listeners_reload(struct listeners *l, struct problem *problem);

struct listeners *listeners_close(struct listeners *l);
DEFINE_CLEANUP(struct listeners *, listeners_close)
