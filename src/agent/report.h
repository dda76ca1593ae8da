/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * report.h - what prepare and repair tell the host: an array of steps, and how it is sent
 *
 *     {"name": "freeze", "ok": true, "ms": 3.1}
 *     {"name": "sync", "ok": false, "ms": 2000.4, "error": "Connection timed out"}
 *
 * Without hooks everything is over soon and the answer goes out at once. With hooks of the guest's
 * own the head goes first, and says in HOOKS_HEADER for how many milliseconds more than usual the
 * host should wait for the body.
 */
#include "agent/router.h"

#define HOOKS_HEADER "x-dorm-hooks-ms"

/** report_add() - append a step; @r: 0, or a negative errno. Return: it, borrowed; NULL: no memory
 */
json_t *report_add(json_t *report, const char *name, int r, uint64_t took_ns);

/** report_announce() - send the head of the answer now: 200, and that hooks may take @hooks_ms.
 *  Return: 0; -ENOMEM */
int report_announce(struct request *rq, unsigned hooks_ms);

/** report_reply() - the answer, or with @announced its body; @body: consumed */
void report_reply(struct request *rq, bool announced, int status, json_t *body);
