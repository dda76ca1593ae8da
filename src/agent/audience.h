/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * audience.h - the clients that follow one program, each with a stream of its own
 *
 * A subscriber is a kept `struct request` whose head has been sent. It gets what is said while it
 * is there, in the form of connect-proto.h, and goes when its client does, at its own deadline, or
 * when the audience is ended.
 *
 * Back-pressure. A subscriber that has AUDIENCE_HIGH bytes waiting is held, and while anyone is
 * held whoever speaks should not (audience_is_held(); on_room tells when it is over). So a program
 * waits for the slowest of its clients, as it would for the reader of a pipe, and nothing is lost.
 * But no client may stop the others for ever: one that in AUDIENCE_PATIENCE_MS, with another
 * waiting for it, has not taken what it has, is ended with resource_exhausted. It may come back
 * with Connect. Memory is bounded by AUDIENCE_HIGH, and one message, for each stream. A program
 * without subscribers waits for nobody.
 *
 *     A takes 1 MB/s, B has stopped:  B is held after 160 KiB, A waits; 10 s later B is ended
 *     A takes 1 MB/s, B takes 50 kB/s: both get 50 kB/s, B is never held for 10 s
 *     B alone has stopped:            the program waits as long as B does
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/connect-proto.h"
#include "agent/loop.h"

#define AUDIENCE_HIGH	     (160u * 1024)
#define AUDIENCE_TOTAL	     (16u << 20) /* of all audiences of the agent */
#define AUDIENCE_PATIENCE_MS 10000u

struct subscriber;

/* All subscribers of the agent. */
struct crowd {
	unsigned n;
};

struct audience {
	struct loop *loop;
	struct crowd *crowd;
	struct subscriber *first;
	unsigned n, n_held;
	uint64_t waiting_ns; /* since when some wait for others; 0: none does */
	struct loop_timer patience;
	void (*on_room)(void *userdata); /* nobody is held any more */
	void *userdata;
};

/* How long a client listens; from its request's headers. */
struct listening {
	uint64_t deadline_ns; /* DEADLINE_NEVER: none. Then the stream fails: deadline_exceeded */
	uint64_t timeout_ms;  /* what that came from, for the message */
	uint64_t keepalive_ms;
};

void audience_init(struct audience *a, struct loop *l, struct crowd *crowd,
		   void (*on_room)(void *userdata), void *userdata);

/** audience_deinit() - without a word to those who are still there */
void audience_deinit(struct audience *a);

/** audience_join() - Return: 0; -ENOMEM */
int audience_join(struct audience *a, struct request *rq, const struct listening *how);

/** audience_send() - one message to all */
void audience_send(struct audience *a, const char *json, size_t len);

/** audience_tell() - one message to that one, which has joined */
void audience_tell(struct request *rq, const char *json, size_t len);

static inline bool audience_is_held(const struct audience *a)
{
	return a->n_held > 0;
}

/** audience_end() - the last envelope to all, without an error; nobody is left */
void audience_end(struct audience *a);

/** audience_fail() - the same with an error */
void audience_fail(struct audience *a, enum connect_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
