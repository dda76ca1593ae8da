/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * answer.h - what a helper (helper.h) says, and its way to a client
 *
 * On the socket an answer is `struct answer_head` and the JSON behind it. The helper sends with
 * answer_send() and answer_fail(), which block. The agent forwards one answer to one request with a
 * `struct relay`, piece by piece: a slow client makes the helper wait, and no answer is ever in the
 * agent's memory as a whole.
 */
#include <stdint.h>

#include "agent/connect-proto.h"
#include "agent/loop.h"

struct answer_head {
	uint32_t status; /* of HTTP */
	uint32_t len;	 /* bytes that follow */
};

/** answer_send() - in a helper. Return: 0; negative errno when the agent is gone */
int answer_send(int status, const void *json, size_t len);

/** answer_fail() - {"code", "message"} with its status. Return: as answer_send() */
int answer_fail(enum connect_code code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** answer_read() - a whole message of @len bytes to a helper. Return: 0; negative errno at its end
 */
int answer_read(void *data, size_t len);

/**
 * struct relay - forwards answers, one at a time
 *
 * relay_init(), then relay_begin() for each answer, until its done() was called; relay_deinit().
 * While it forwards it is the keeper of the request.
 */
struct relay {
	struct loop *loop;
	int fd; /* borrowed */
	struct loop_source *source;
	struct request *rq; /* NULL: nobody waits for the rest */
	struct answer_head head;
	size_t have; /* bytes of the head */
	size_t left; /* of the body */
	bool busy;
	/* the answer is through (0), or the helper has ended in the middle of it (-ECONNRESET; the
	 * client has been told). May free the relay */
	void (*done)(void *userdata, int r);
	/* the client went away before the end; may free the relay. NULL: the rest is thrown away */
	void (*gone)(void *userdata);
	void *userdata;
};

void relay_init(struct relay *r, struct loop *loop, int fd, void *userdata);

/** relay_begin() - the next answer is @rq's; NULL: throw it away. Return: 0; -ENOMEM, @rq kept by
 *  nobody */
int relay_begin(struct relay *r, struct request *rq);

/** relay_fail() - tell whoever waits, if nothing of an answer was sent yet; else reset the stream
 */
void relay_fail(struct relay *r, enum connect_code code, const char *message);
void relay_deinit(struct relay *r);
