/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * flows.h - what a guest began while this process ran: TCP connections, or datagrams to somebody
 *
 * What passt does not know it drops in silence, and a guest that was asleep would wait for minutes.
 * So a connection counts from its SYN on, and a segment of any other is answered with a reset. For
 * each connection the numbers are kept that a reset must have to be believed by either end.
 *
 * At most FLOWS_MAX: a new one takes the place of the one that was silent longest, which is reset
 * when it speaks again. One thread.
 */
#include <stdint.h>

#include "base/mem.h"
#include "net/address.h"

#define FLOWS_MAX 4096

struct flow {
	struct address remote;
	uint16_t remote_port, guest_port;
	uint32_t guest_next;  /* the sequence number that the guest uses next */
	uint32_t remote_next; /* ... and the one that it waits for */
	/* of flows.c */
	uint16_t hash_next, older, newer; /* index + 1; 0: none */
};

struct flows;

int flows_new(struct flows **ret);
struct flows *flows_free(struct flows *f);
DEFINE_CLEANUP(struct flows *, flows_free)

/** flows_find() - and it is the newest from now on. Return: NULL when there is none; valid until
 * the next flows_add() or flows_remove() */
struct flow *flows_find(struct flows *f, const struct address *remote, uint16_t remote_port,
			uint16_t guest_port);

/** flows_add() - one that is not there, without numbers; never fails */
struct flow *flows_add(struct flows *f, const struct address *remote, uint16_t remote_port,
		       uint16_t guest_port);

void flows_remove(struct flows *f, struct flow *flow);

unsigned flows_count(const struct flows *f);

/** flows_each() - @visit may remove the one that it is given */
void flows_each(struct flows *f, void (*visit)(void *userdata, struct flow *flow), void *userdata);
