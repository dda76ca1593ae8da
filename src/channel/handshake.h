/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * handshake.h - the host connects to a VMM's character device and agrees on a session with the
 * guest
 *
 * One attempt: connect, send the resync marker and a HELLO with a fresh nonce, throw away
 * everything that comes until the reply with that nonce. No reply within 250 ms (later 500 ms, then
 * 1 s): close and try again with another nonce, until the deadline. Reconnecting, and not just
 * asking again, is what frees a guest that was restored with a full output queue: only the port's
 * opening wakes it. Any thread; blocks.
 */
#include <stdint.h>

#include "channel/fifo.h"

/** handshake_dial() - just the connection, non-blocking. Return: a descriptor; negative errno */
int handshake_dial(const char *path);

/**
 * handshake_connect() - a connection whose framing is in step
 * @first_fd: a connection made earlier for the first attempt; consumed in every case; or -1
 * @alive_fd: give up when this becomes readable (a pidfd); or -1
 * @ret_fd:   non-blocking, CLOEXEC
 * @ret_rest: what came after the reply already; fifo_deinit()
 * Return: 0; -ETIMEDOUT; -ECONNRESET (@alive_fd); -EPROTONOSUPPORT: the guest's agent speaks
 * another version; negative errno when the socket cannot ever be connected to
 */
int handshake_connect(const char *path, int first_fd, int alive_fd, uint64_t deadline_ns,
		      int *ret_fd, struct fifo *ret_rest);
