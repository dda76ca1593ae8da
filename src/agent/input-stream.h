/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * input-stream.h - process.Process/StreamInput: a client's keystrokes as a stream of messages
 *
 *     {"start": {"process": selector}}         first
 *     {"data": {"input": {"stdin" or "pty"}}}  any number
 *     {"keepalive": {}}                        any number, no effect
 *
 * Each piece is written before the next is looked at; meanwhile no more of the body is taken than
 * the stream's window holds. When the client has ended, one message, {}, is the answer. Input
 * for a process that has ended, or reads no more, ends the stream with an error.
 */
#include "agent/router.h"

#define INPUT_STREAM_MESSAGE_MAX (1u << 20)

/** handle_stream_input() - the route's handler; ROUTE_STREAM */
void handle_stream_input(struct request *rq);
