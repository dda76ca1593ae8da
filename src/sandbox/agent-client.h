/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* agent-client.h - what the host asks of the agent in a guest, over its channel. Any thread. */
#include <jansson.h>

#include "base/buf.h"
#include "base/problem.h"
#include "channel/client.h"

/* Why a guest is repaired: has it just booted, woken as itself, become another sandbox, or does it
 * only go on where it was? */
enum agent_kind { AGENT_BOOT, AGENT_WAKE, AGENT_FORK, AGENT_RESUME };

/* What a sandbox is from now on. All borrowed; NULL or "": none. */
struct agent_identity {
	enum agent_kind kind;
	const char *sandbox_id; /* also its host name */
	const char *template_id;
	const char *token; /* of clients */
	const char *default_user;
	const char *default_workdir;
	json_t *envs;
	json_t *network; /* how its interface is to be set up (docs/network.md); NULL: not at all */
	const json_t *defaults; /* of its template: manifest.defaults, below all of the above */
};

/**
 * agent_init() - repair after a boot, wake or fork: identity, token, clock, random numbers,
 *                connections, the guest's own hooks, thaw
 * @patience_ms: for the answer; for as long as the guest's hooks may take beyond that, it says how
 *               long, and is believed up to AGENT_HOOKS_MAX_MS
 * Fails closed: anything but a complete repair is an error, and the VM must not be handed out.
 */
int agent_init(struct channel *ch, const struct agent_identity *identity, unsigned patience_ms,
	       struct problem *problem);

/**
 * agent_rehearse() - have a guest that is not repaired yet run through the code of a repair
 * Asks for one without random numbers, which it refuses when it has understood all the rest, before
 * anything is done; and for its health, as clients do first. Return: 0; negative errno
 */
int agent_rehearse(struct channel *ch, const struct agent_identity *identity, unsigned patience_ms);

/** agent_network() - the step "network" of the repair alone: @network NULL ends it */
int agent_network(struct channel *ch, json_t *network, unsigned patience_ms,
		  struct problem *problem);

#define AGENT_HOOKS_MAX_MS 120000u

/**
 * agent_prepare() - before a snapshot
 * @patience_ms: as with agent_init()
 * @ret_steps:   what it did, as the snapshot's manifest keeps it: an array of {"name", "ok", "ms",
 *               "error"?, "hooks"?}; new reference
 */
int agent_prepare(struct channel *ch, unsigned patience_ms, json_t **ret_steps);

/**
 * agent_prepare_disks() - the same before a snapshot of the disks alone: every file is on them, and
 * nothing is written to them until the next agent_init()
 * Return: 0; -EIO with @problem when a step that they depend on failed; negative errno
 */
int agent_prepare_disks(struct channel *ch, unsigned patience_ms, json_t **ret_steps,
			struct problem *problem);

/** agent_last_repair() - what the guest's last repair did, in the same form; new reference, or NULL
 *  when it does not say so before @deadline_ns */
json_t *agent_last_repair(struct channel *ch, uint64_t deadline_ns);

/** agent_metrics() - GET /metrics of the guest. @ret: new reference. Return: 0; -EBADMSG; negative
 *  errno */
int agent_metrics(struct channel *ch, uint64_t deadline_ns, json_t **ret);
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
