/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * tunnel.h - raw bytes between a client's socket and a stream to a guest, both ways at once
 *
 * The caller's thread carries what comes from the guest, one more thread carries what comes from
 * the client; each holds one buffer, and reads only when the last has been taken: back-pressure
 * reaches from end to end. An end of one direction is passed on and leaves the other open, for
 * TUNNEL_HALF_MS without a byte at most. Anything else ends both: a reset, a client that takes
 * nothing for TUNNEL_STALL_MS, a sandbox that sleeps or goes.
 */
#include <stddef.h>

#include <gnutls/gnutls.h>

#include "channel/client.h"

#define TUNNEL_STALL_MS 60000u
#define TUNNEL_HALF_MS	300000u

/**
 * tunnel_run() - until it is over
 * @fd: the client's non-blocking socket; borrowed, and of no use afterwards
 * @tls: what is spoken on it; NULL: nothing
 * @first, @n_first: bytes that were read from the client already
 * @back, @n_back: bytes that were read from the guest already
 * Return: 0 when both directions have ended; negative errno when it was broken off
 */
int tunnel_run(int fd, gnutls_session_t tls, struct channel_stream *s, const void *first,
	       size_t n_first, const void *back, size_t n_back);
