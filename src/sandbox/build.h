/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * build.h - building templates: boot a guest once, let it settle, put it to sleep under a name
 *
 * template_build_new() reserves an id; template_build_start() runs the build on a thread of its
 * own; template_build_status() tells how it goes. The last 32 builds are remembered. Any thread.
 */
#include "base/id.h"
#include "sandbox/host.h"

#define TEMPLATE_MIN_MEMORY (64ull << 20)

struct template_options {
	const char *name;
	uint64_t memory_bytes;
	uint32_t cpus;
	uint64_t disk_bytes; /* of a disk of its own that it writes to; 0: it writes to memory */
};

/**
 * template_build_new() - check the options against this host and reserve ids
 * @ret_template_id: will be the id of the snapshot
 */
int template_build_new(struct host *host, const struct template_options *options,
		       struct problem *problem, char ret_template_id[ID_LEN + 1],
		       char ret_build_id[ID_LEN + 1]);

/**
 * template_build_start() - @start_cmd, @ready_cmd: shell commands, or NULL; copied
 * @working_set: restore it once, to record what that needs
 */
int template_build_start(struct host *host, const char *template_id, const char *build_id,
			 const char *start_cmd, const char *ready_cmd, bool working_set,
			 struct problem *problem);

/** template_build_status() - GET .../builds/{id}/status; log lines from @logs_offset on */
int template_build_status(struct host *host, const char *template_id, const char *build_id,
			  size_t logs_offset, struct problem *problem, json_t **ret);
