/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * peers-internal.h - what peers.c (connections and their phases) and peers-accept.c (the thread
 * that accepts them and looks after them) share
 *
 * Locks: peers.lock guards the list and the counters, peer.lock the stream that is to be cancelled;
 * the first may be held when the second is taken. A peer's descriptor is open as long as it is in
 * the list: MHD closes it after peers_on_connection(). Phases and deadlines are written by the
 * connection's thread and read by ours: between two phases there is no deadline.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>

#include "api/peers.h"

enum phase { HEAD, BODY, WORK, GUEST, SEND, TUNNEL };

/* What counts as one client; all zero over the unix socket. */
struct peer_address {
	uint8_t bytes[16];
};

/** peer_address() - of a socket's other end */
struct peer_address peer_address(const struct sockaddr *sa);

struct peer {
	struct peers *all;
	struct peer *next, **prev;
	int fd;
	struct peer_address address; /* constant */
	_Atomic int phase;
	_Atomic uint64_t since_ns;    /* of the phase */
	_Atomic uint64_t deadline_ns; /* DEADLINE_NEVER in some phases */
	pthread_mutex_t lock;
	struct channel_stream *stream; /* in GUEST */
	/* guarded by peers.lock */
	bool claimed, displaced;
	struct MHD_UpgradeResponseHandle *ended; /* since ended_ns; NULL */
	uint64_t ended_ns;
};

struct peers {
	int listen_fd, wake_fd;
	bool local, tls; /* constant */
	struct MHD_Daemon *daemon;
	pthread_t thread;
	bool started;
	atomic_bool stopping;
	pthread_mutex_t lock;
	struct peer *first;
	unsigned n, n_displaced, claimed;
	uint64_t handed, taken; /* to and by libmicrohttpd, ever; it takes them in its own thread */
	pthread_cond_t changed;
	/* the thread's own */
	struct pollfd polls[PEERS_MAX];
	struct peer *polled[PEERS_MAX];
	struct MHD_UpgradeResponseHandle *ended[PEERS_MAX];
};
