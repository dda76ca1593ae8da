/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * wire.h - the words of the control protocol: errors and messages, the same at both ends
 *
 * A message is one JSON object in one SOCK_SEQPACKET record. A reply that would be too long for one
 * goes into a memfd that is sent instead. Format: docs/format-pager.md.
 */
#include <jansson.h>

#include "base/problem.h"

#define WIRE_MAX_MESSAGE 65536u /* one record */
#define WIRE_MAX_INLINE	 32768u /* replies above go into a memfd */
#define WIRE_MAX_REPLY	 (64u << 20)
#define WIRE_MAX_FDS	 2u /* with one message */

/** wire_code() - the name of a result: "EEXIST", "corrupt"... */
const char *wire_code(int r);

/** wire_result() - the result of a name: negative errno or IMAGE_E_*; unknown names are -EPROTO */
int wire_result(const char *code);

/** wire_error() - {"ok":false, "code", "message", "hint", "status"}. Return: new reference */
json_t *wire_error(int r, const struct problem *problem);

/**
 * wire_send() - one message, never waiting
 * @msg: borrowed
 * @fds: @n_fds of them (at most WIRE_MAX_FDS) go with it; borrowed
 * Return: 0; -EAGAIN when the peer does not read; -EMSGSIZE; negative errno
 */
int wire_send(int sock, const json_t *msg, const int *fds, size_t n_fds);

/**
 * wire_receive() - one message, never waiting
 * @ret_fds: the descriptors that came with it, owned by the caller; -1 where there is none
 * Return: 0; -EAGAIN nothing there; -EPIPE the peer is gone; -EPROTO not an object, too long, or
 * with more than WIRE_MAX_FDS descriptors; negative errno
 */
int wire_receive(int sock, json_t **ret, int ret_fds[WIRE_MAX_FDS]);
