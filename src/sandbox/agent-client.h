/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* agent-client.h - what the host asks of the agent in a guest, over its channel. Any thread. */
#include <jansson.h>

#include "base/buf.h"
#include "base/problem.h"
#include "channel/client.h"

/**
 * agent_init() - repair after a boot, wake or fork: identity, clock, random numbers, thaw
 * Fails closed: anything but a complete repair is an error, and the VM must not be handed out.
 */
int agent_init(struct channel *ch, const char *sandbox_id, json_t *envs, uint64_t deadline_ns,
	       struct problem *problem);

/** agent_prepare() - before a snapshot; @ret_steps: what it did, new reference */
int agent_prepare(struct channel *ch, uint64_t deadline_ns, json_t **ret_steps);

/** agent_metrics() - GET /metrics of the guest. @ret: new reference. Return: 0; -EBADMSG; negative
 *  errno */
int agent_metrics(struct channel *ch, uint64_t deadline_ns, json_t **ret);

/**
 * agent_run() - run a shell command as root to its end
 * @output: its standard output and error, appended, at most 64 KiB
 */
int agent_run(struct channel *ch, const char *command, uint64_t deadline_ns, struct buf *output,
	      int *ret_exit_code, struct problem *problem);
