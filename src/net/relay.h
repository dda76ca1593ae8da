/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * relay.h - frames from one stream socket to another, through a gate
 *
 * Both sockets, the VM's and passt's, carry frames after their length (4 bytes, big-endian). Each
 * side has a buffer for what came in and one for what is to go out; what does not fit stays where
 * it is, and so the sender waits. Nothing grows.
 *
 * One thread, which asks relay_events() what to poll for and tells relay_work() what poll said.
 */
#include "net/gate.h"

enum relay_side { RELAY_VM, RELAY_NETWORK };

struct relay;

/** relay_new() - @fds: by side; borrowed, non-blocking. @gate: borrowed */
int relay_new(const int fds[2], struct gate *gate, struct relay **ret);
struct relay *relay_free(struct relay *r);
DEFINE_CLEANUP(struct relay *, relay_free)

/** relay_events() - what to poll @side for */
short relay_events(const struct relay *r, enum relay_side side);

/**
 * relay_work() - read, judge and write as far as it goes
 * @revents: by side, as poll(2) said
 * Return: 0; -EPIPE when a side has hung up; -EPROTO for a length that no frame has; negative errno
 */
int relay_work(struct relay *r, const short revents[2]);

/** relay_set_rules() - gate_set_rules(), with its resets on their way; what does not fit is lost */
void relay_set_rules(struct relay *r, const struct rules *rules);
