/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * notify.h - tell the service manager how this process is: the protocol of sd_notify(3)
 *
 * A datagram of NAME=VALUE lines to the socket in $NOTIFY_SOCKET; nothing happens without it.
 * What it hands over, the other way round: sockets that it listens on in our place, from descriptor
 * 3 on (sd_listen_fds(3)).
 *
 * notify_init() before there are threads and children; the rest from one thread.
 */
#include <stdbool.h>
#include <stdint.h>

struct notify {
	char address[108];    /* sun_path; "": nobody listens */
	uint64_t watchdog_ms; /* how often WATCHDOG=1 is wanted; 0: never */
};

/** notify_init() - take the variables out of the environment: children must not speak for us */
void notify_init(struct notify *n);

/** notify_send() - @state: "READY=1\nSTATUS=..."; failing is only logged */
void notify_send(const struct notify *n, const char *state);

/** notify_send_reloading() - before READY=1 says that it is over */
void notify_send_reloading(const struct notify *n);

/**
 * notify_take_socket() - the one listening unix socket that the service manager hands over
 * Return: the descriptor, CLOEXEC, owned by the caller; -1: there is none; -EINVAL: what is handed
 *         over is something else
 */
int notify_take_socket(void);
