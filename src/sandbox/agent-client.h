/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* agent-client.h - what the host asks of the agent in a guest, over its channel. Any thread. */
#include <jansson.h>

#include "base/buf.h"
#include "base/problem.h"
#include "channel/client.h"

/**
 * agent_init() - repair after a boot, wake or fork: identity, clock, random numbers, thaw
 * @envs:     the sandbox's own environment; may be NULL
 * @defaults: of its template (manifest.defaults); its environment lies below @envs. May be NULL
 * Fails closed: anything but a complete repair is an error, and the VM must not be handed out.
 */
int agent_init(struct channel *ch, const char *sandbox_id, json_t *envs, const json_t *defaults,
	       uint64_t deadline_ns, struct problem *problem);

/** agent_prepare() - before a snapshot; @ret_steps: what it did, new reference */
int agent_prepare(struct channel *ch, uint64_t deadline_ns, json_t **ret_steps);

/* A shell command in a guest. */
struct agent_command {
	const char *command; /* for /bin/sh -c */
	const char *user;    /* NULL: root */
	const char *workdir; /* NULL: the user's home */
};

/**
 * agent_run_as() - run a shell command to its end
 * @output: its standard output and error, appended, at most 64 KiB
 */
int agent_run_as(struct channel *ch, const struct agent_command *command, uint64_t deadline_ns,
		 struct buf *output, int *ret_exit_code, struct problem *problem);

/** agent_run() - the same as root */
int agent_run(struct channel *ch, const char *command, uint64_t deadline_ns, struct buf *output,
	      int *ret_exit_code, struct problem *problem);

/** agent_start() - start a shell command, and leave it running */
int agent_start(struct channel *ch, const struct agent_command *command, uint64_t deadline_ns,
		struct problem *problem);
