/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * frame.h - frames on the byte stream between host and guest: docs/format-channel.md
 *
 *     frame  = type u8, length u16 LE, payload, 0x5A
 *     type   = 0x00 padding: one byte alone, skipped
 *              0xD1 HELLO, 0xD2 HELLO reply: magic, version, nonce
 *              0xD3 DATA: 1 to 16384 bytes of HTTP/2
 *
 * A frame counts only when its last byte has arrived and is right. So whatever frame a snapshot or
 * a dropped connection has cut off is ended by the *resync marker*, FRAME_MARKER_LEN zeros: they
 * fill the frame up, its trailer is then 0 and it is dropped, and the rest of the zeros is padding.
 * From every state of the parser the marker leads to "between frames"; test-frame.c tries them all.
 *
 * Pure: no I/O, no allocation, no clock. A parser is 16 KiB, embedded by value; one thread at a
 * time.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/fifo.h"

#define FRAME_PAYLOAD_MAX 16384u
#define FRAME_MARKER_LEN  (FRAME_PAYLOAD_MAX + 8u)
#define FRAME_TRAILER	  0x5A

enum frame_type {
	FRAME_PADDING = 0x00,
	FRAME_HELLO = 0xD1,
	FRAME_HELLO_REPLY = 0xD2,
	FRAME_DATA = 0xD3,
};

enum frame_state {
	FRAME_STATE_BETWEEN, /* next byte is a type or padding */
	FRAME_STATE_LEN_LOW,
	FRAME_STATE_LEN_HIGH,
	FRAME_STATE_PAYLOAD,
	FRAME_STATE_TRAILER,
	FRAME_STATE_LOST, /* not a frame: waiting for FRAME_PAYLOAD_MAX zeros in a row */
};

struct frame_parser {
	enum frame_state state;
	uint8_t type;
	size_t len;		/* of the payload, as announced */
	size_t have;		/* payload bytes so far */
	size_t zeros;		/* zeros in a row while lost */
	const uint8_t *payload; /* in the input when it is there as a whole, otherwise `store` */
	uint8_t store[FRAME_PAYLOAD_MAX];
};

/** frame_parser_init() - between frames */
void frame_parser_init(struct frame_parser *p);

enum frame_result {
	FRAME_MORE = 0,	 /* all input used, no frame complete */
	FRAME_READY = 1, /* p->type, p->payload, p->len are a frame until the next call, as long as
			    the input */
	FRAME_DROPPED = 2, /* something that was not a whole frame was thrown away */
};

/**
 * frame_next() - parse until the next frame is complete
 * @data, @len: input; advanced past what was used
 * Call again until it gives FRAME_MORE.
 */
enum frame_result frame_next(struct frame_parser *p, const uint8_t **data, size_t *len);

/** frame_put() - append one frame. @len <= FRAME_PAYLOAD_MAX. Return: 0; -ENOMEM */
int frame_put(struct fifo *out, enum frame_type type, const void *payload, size_t len);

/** frame_put_data() - append @len bytes as as many DATA frames as it takes. Return: 0; -ENOMEM */
int frame_put_data(struct fifo *out, const void *data, size_t len);

/* --- HELLO -------------------------------------------------------------------------------------
 */

#define HELLO_VERSION	  1
#define HELLO_NONCE_LEN	  16
#define HELLO_PAYLOAD_LEN 25u				/* magic 8, version 1, nonce 16 */
#define HELLO_FRAME_LEN	  (3u + HELLO_PAYLOAD_LEN + 1u) /* with type, length and trailer */

struct hello {
	uint8_t version;
	uint8_t nonce[HELLO_NONCE_LEN];
};

/** hello_put() - append a HELLO or a HELLO reply. Return: 0; -ENOMEM */
int hello_put(struct fifo *out, enum frame_type type, const struct hello *h);

/** hello_parse() - a frame's payload. Return: 0; -EBADMSG */
int hello_parse(const void *payload, size_t len, struct hello *ret);

/**
 * hello_find_reply() - look for the reply to one nonce in raw bytes of any origin
 * @ret_version: the version that the other end speaks
 * @ret_end:     offset just after the reply: framing is in step from there
 * Return: true when it is there completely. Otherwise keep the last HELLO_FRAME_LEN - 1 bytes and
 * look again when more have come.
 */
bool hello_find_reply(const void *data, size_t len, const uint8_t nonce[HELLO_NONCE_LEN],
		      uint8_t *ret_version, size_t *ret_end);
