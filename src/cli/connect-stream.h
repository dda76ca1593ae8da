/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * connect-stream.h - the answer of a streaming RPC, as the Connect protocol frames it (JSON codec)
 *
 * A stream is frames: one byte of flags, four bytes of length (big-endian), that many bytes of
 * JSON.
 *
 *     00 00000002 7b7d              a message, {}
 *     02 00000021 {"error":{...}}   the end, exactly once, last; {} when all went well
 *     01 ...                        compressed: refused, we do not offer it
 *
 * The bytes arrive in pieces of any size. Pure: no I/O; one thread.
 * Source: https://connectrpc.com/docs/protocol (streaming RPCs, enveloped messages)
 */
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/problem.h"

#define CONNECT_MAX_FRAME                                                                          \
	(4u << 20) /* honest ones have at most 44 KiB: 32 KiB of output in base64 */
#define CONNECT_HEADER 5

struct connect_stream {
	/* Return: 0; negative errno, which connect_stream_feed() then returns */
	int (*on_message)(void *userdata, json_t *message, struct problem *problem);
	void *userdata;

	uint8_t header[CONNECT_HEADER];
	size_t n_header;
	struct buf payload; /* of the frame that is arriving */
	bool ended;	    /* the end frame has come */
	char code[64];	    /* its error, as in "not_found"; "" when there was none */
	char message[512];
};

void connect_stream_deinit(struct connect_stream *s);

/**
 * connect_stream_feed() - the next @len bytes
 * Return: 0; -EBADMSG for bytes that are no such stream (@problem says what); -EMSGSIZE; -ENOMEM;
 * what on_message() returned. After an error the stream is of no more use.
 */
int connect_stream_feed(struct connect_stream *s, const void *data, size_t len,
			struct problem *problem);

/** connect_stream_finish() - no more bytes will come. Return: 0; -ENODATA when the end is missing
 */
int connect_stream_finish(const struct connect_stream *s, struct problem *problem);

/** connect_stream_frame() - append one message frame to @out. Return: 0; -ENOMEM */
int connect_stream_frame(struct buf *out, const json_t *message);
