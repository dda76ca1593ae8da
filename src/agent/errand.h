/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * errand.h - a unary request that a helper (helper.h) answers
 *
 * The helper's answer is forwarded as it comes (answer.h). When the client goes away, a helper that
 * only looks is killed; one that changes something goes on to its end. Both have ERRAND_MS, or what
 * Connect-Timeout-Ms says if that is less.
 */
#include "agent/router.h"

#define ERRAND_MS (15u * 60 * 1000)

/**
 * errand_run() - answer @rq with what @work says, which it does with answer_send() or
 * answer_fail(), exactly once
 * @changes: it goes on without the client
 * Answers by itself when it cannot start.
 */
void errand_run(struct request *rq, bool changes, void (*work)(void *ctx), void *ctx);
