/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * control.h - what dormd tells dorm-net, and asks it
 *
 * A SOCK_SEQPACKET unix socket; every message is one JSON object, and is answered by one:
 *
 *     {"rules": {"internet": true, "allow": [...], "deny": [...], "host": [...]}}  {"ok": true}
 *     {"status": true}                                  {"ok": true, "counters": {"framesOut": 12}}
 *     anything else                                     {"ok": false, "message": "..."}
 *
 * A connection that stays open is also how dormd knows that dorm-net lives: it ends with it.
 * One thread.
 */
#include <poll.h>

#include "net/relay.h"

#define CONTROL_MAX_MESSAGE (64u << 10)
#define CONTROL_MAX_CLIENTS 4
#define CONTROL_N_POLLS	    (1 + CONTROL_MAX_CLIENTS)

struct control {
	int listen_fd; /* borrowed */
	int clients[CONTROL_MAX_CLIENTS];
	struct relay *relay; /* borrowed */
	struct gate *gate;   /* borrowed */
	char *message;	     /* CONTROL_MAX_MESSAGE + 1 */
};

int control_init(struct control *c, int listen_fd, struct relay *relay, struct gate *gate);
void control_deinit(struct control *c);

/** control_polls() - fill @polls */
void control_polls(const struct control *c, struct pollfd polls[CONTROL_N_POLLS]);

/** control_work() - after poll(2). Never fails: a client that is no good is hung up on */
void control_work(struct control *c, const struct pollfd polls[CONTROL_N_POLLS]);
