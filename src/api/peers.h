/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * peers.h - the clients' connections of one listener: how many there may be, and how long each may
 * do nothing
 *
 * libmicrohttpd runs a thread for each connection. One thread of this module accepts them, and
 * looks once a second at those there are (never, while there is none). A connection is always in
 * one phase, set by the thread that works on it:
 *
 *     phase       what it waits for                          the connection ends after
 *     HEAD        a request, or the rest of its head         PEER_HEAD_MS in all
 *     BODY        the next part of a body                    PEER_BODY_MS without a byte; a body
 *                                                            for the control API takes no longer
 *                                                            in all
 *     WORK        us                                         -
 *     GUEST       something in a sandbox                     the client hangs up: the stream to the
 *                                                            guest is cancelled
 *     SEND        the client to take what we send            PEER_SEND_MS without taking any
 *     TUNNEL      whoever is at either end                   -; api/tunnel.h looks after itself
 *
 * Ending means that the socket is shut down, on which the thread gives up.
 *
 * When there are PEERS_MAX, those that have been longest in HEAD give way to the next (an idle
 * client connects again; an attack with connections that say nothing displaces itself). When none
 * is, the next one is told 429 and closed. Requests to sandboxes may take PEERS_MAX_PROXIED of
 * them, so that the control API can always be reached. One address over TCP may have
 * PEERS_MAX_ADDRESS; beyond them its own silent ones give way.
 *
 * A TLS handshake is part of HEAD.
 */
#include <microhttpd.h>

#include "api/server.h"
#include "base/mem.h"
#include "channel/client.h"

#define PEERS_MAX	  2048u
#define PEERS_MAX_PROXIED 1536u
#define PEERS_MAX_ADDRESS 1024u /* of one IPv4 address, of one IPv6 network /64 */
/* More room than we ever use: libmicrohttpd 0.9.75 hangs when it has to refuse a connection that
 * was given to it. */
#define PEERS_SPARE	  2048u
#define PEERS_MAX_LEAVING 3072u /* with those that gave way and have not gone yet */

#define PEER_HEAD_MS	  30000u
#define PEER_BODY_MS	  60000u
#define PEER_SEND_MS	  60000u

struct peers;
struct peer;

/** peers_new() - accept on @config's socket (consumed in every case) once peers_start() is called
 */
int peers_new(const struct server_config *config, struct peers **ret);

/** peers_start() - hand connections to @daemon, which does not listen and notifies with
 *  peers_on_connection(). Return: 0; negative errno */
int peers_start(struct peers *p, struct MHD_Daemon *daemon);

/** peers_stop() - accept no more, and end those that do not work on a request */
void peers_stop(struct peers *p);

/** peers_free() - after the daemon */
struct peers *peers_free(struct peers *p);
DEFINE_CLEANUP(struct peers *, peers_free)

/** peers_on_connection() - MHD_NotifyConnectionCallback; @cls: the struct peers */
void peers_on_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
			 enum MHD_ConnectionNotificationCode code);

/** peer_of() - never NULL while a request is handled */
struct peer *peer_of(struct MHD_Connection *connection);

/* The phases; from the connection's own thread. @p may be NULL: no limits, as in tests of parts. */
void peer_head(struct peer *p);
void peer_body(struct peer *p);
void peer_work(struct peer *p);
void peer_send(struct peer *p);
void peer_tunnel(struct peer *p);
/** peer_guest() - @s: cancelled when the client hangs up; another phase before it is closed */
void peer_guest(struct peer *p, struct channel_stream *s);

/** peer_claim() - its request is for a sandbox. Return: 0; -EAGAIN: there are too many; released
 *  with peer_unclaim() */
int peer_claim(struct peer *p);
void peer_unclaim(struct peer *p);

/**
 * peer_upgrade_ended() - as the last thing of a MHD_UpgradeHandler: close its connection soon
 * libmicrohttpd can miss that a connection is to be closed when it is told so before the handler
 * has returned; the accepting thread tells it a moment later.
 */
void peer_upgrade_ended(struct peer *p, struct MHD_UpgradeResponseHandle *urh);
