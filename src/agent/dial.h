/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * dial.h - one connection to a port of the guest's loopback, as the two bodies of a request
 *
 *     dial_begin()   connects to 127.0.0.1, then to ::1, without blocking and with a deadline
 *     200            connected: from here the request's body goes to the socket, and what the
 *                    socket gives is the response's body
 *     502, 504       nobody listens there; nobody answered in time
 *
 * The end of the request's body is a shutdown for writing, the socket's end of file is the end of
 * the response. A reset of either is a reset of the other: a stream that goes before its request
 * ended resets the socket. Both directions stop reading when the other end does not take what is
 * there: at most DIAL_HIGH bytes wait for the host, one window of the stream for the socket.
 *
 * A dial lives as long as its stream; `struct dial_list` knows them all. No timer runs once it is
 * connected, so that idle connections never wake the agent.
 */
#include <stdint.h>

#include "agent/loop.h"
#include "agent/router.h"

#define DIAL_HIGH    (192u * 1024)
#define DIAL_WAIT_MS 5000u

struct dial;

struct dial_list {
	struct dial *first;
	unsigned n;
};

/**
 * dial_begin() - connect @rq (ROUTE_STREAM) to @port, and answer it
 * Return: 0, also when it has failed already and was answered; -ENOMEM, and @rq is the caller's
 */
int dial_begin(struct dial_list *list, struct request *rq, uint16_t port);

/** dial_close_idle() - reset those that have moved no byte since @since_ns. Return: how many */
unsigned dial_close_idle(struct dial_list *list, uint64_t since_ns);
