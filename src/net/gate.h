/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * gate.h - which frames pass between a guest and its network, and what is said to those that do not
 *
 * Every frame is judged by itself, so new rules hold for connections that exist, too. Beside the
 * rules the gate knows TCP connections (flows.h). Before the first gate_set_rules() nothing passes
 * but what the guest says to its own network.
 *
 * Allocates nothing after gate_new(). One thread.
 */
#include <jansson.h>

#include "base/mem.h"
#include "net/packet.h"
#include "net/rules.h"

struct gate;

struct gate_result {
	size_t n_forward; /* bytes of the frame to pass on; 0: it ends here */
	size_t n_back;	  /* of `back`, a frame for its sender; 0: none */
	size_t n_onward;  /* of `onward`, a frame for the other side in its place; 0: none */
	uint8_t back[PACKET_MAX_REFUSAL], onward[PACKET_MAX_REFUSAL];
};

int gate_new(struct gate **ret);
struct gate *gate_free(struct gate *g);
DEFINE_CLEANUP(struct gate *, gate_free)

/** gate_judge() - one frame of any bytes */
void gate_judge(struct gate *g, enum packet_direction direction, const uint8_t *frame, size_t len,
		struct gate_result *ret);

/**
 * gate_set_rules() - from now on; connections that they refuse are reset at both ends
 * @send: is given each of those resets, and the direction in which it goes
 */
void gate_set_rules(struct gate *g, const struct rules *rules,
		    void (*send)(void *userdata, enum packet_direction direction,
				 const uint8_t *frame, size_t len),
		    void *userdata);

/** gate_counters() - what it has done, as an object; NULL without memory */
json_t *gate_counters(const struct gate *g);
