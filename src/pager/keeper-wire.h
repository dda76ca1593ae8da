/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* keeper-wire.h - messages between worker and keeper, as bytes and as structs; no I/O */
#include <stddef.h>
#include <stdint.h>

#include "pager/keeper.h"

#define KEEPER_HEADER_BYTES  16u
#define KEEPER_MESSAGE_BYTES (KEEPER_HEADER_BYTES + KEEPER_MAX_NAME + KEEPER_MAX_JSON)

/* On the wire; never renumbered. */
enum keeper_op { KEEPER_PUT = 1, KEEPER_REMOVE = 2, KEEPER_GET = 3, KEEPER_ANSWER = 4 };

struct keeper_message {
	uint8_t op;
	uint32_t seq;	/* of the request, and repeated in its answer */
	uint32_t value; /* GET: which record, from 0; ANSWER: 0 or a positive errno */
	uint32_t name_len;
	uint32_t json_len;
	const char *name; /* not terminated: within the message */
	const char *json;
};

/** keeper_encode() - lengths must be within the limits. Return: bytes */
size_t keeper_encode(const struct keeper_message *m, uint8_t out[KEEPER_MESSAGE_BYTES]);

/** keeper_decode() - checks everything. Return: 0; -EPROTO */
int keeper_decode(const uint8_t *data, size_t len, struct keeper_message *ret);
