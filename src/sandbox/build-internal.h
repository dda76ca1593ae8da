/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * build-internal.h - one build of a template, and its parts
 *
 *     build.c        the builds of a host: made, started, asked about; their log
 *     build-run.c    what a build does, from the recipe to the snapshot
 *     build-ready.c  its workload: started, and waited for
 */
#include "guest/recipe.h"
#include "sandbox/private.h"

enum build_status { BUILD_WAITING, BUILD_BUILDING, BUILD_READY, BUILD_ERROR };

struct build {
	struct host *host;
	char template_id[ID_LEN + 1];
	char build_id[ID_LEN + 1];
	char name[64];
	uint64_t memory_bytes;
	uint32_t cpus;
	uint64_t disk_bytes; /* 0: it writes to memory */
	bool working_set;
	struct recipe recipe;
	char *context;	  /* where the recipe's files lie; NULL: nowhere */
	const char *step; /* what is being done, a constant: for the reason of a failure */
	/* host.lock */
	enum build_status status;
	json_t *log; /* array of {timestamp, level, message} */
	bool log_is_full;
	struct problem problem;
};

/* What runs in the guest before it is saved; borrowed from the recipe or an image's configuration.
 */
struct workload {
	const char *start;
	const char *user; /* NULL: root */
	const char *workdir;
};

/** build_say() - a line for the log. Any thread */
void build_say(struct build *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** build_make_printable() - what programs print may be anything: control characters become spaces,
 *  and if it is not UTF-8 everything beyond ASCII '?' */
void build_make_printable(char *text);

/** build_stopping() - is dormd ending? Then a problem is set. Return: 0; -ECANCELED */
int build_stopping(struct build *b, struct problem *problem);

/** build_check_options() - name, memory, processors against this host. Return: 0; -EINVAL */
int build_check_options(const struct template_options *o, struct problem *problem);

/** build_main() - all of a build, on a thread of its own; @arg: the build */
void build_main(struct host *host, void *arg);

/**
 * build_start_workload() - op held, the guest runs: start the start command and wait until it is
 * ready, within the recipe's time limit
 * Return: 0; -ETIMEDOUT, -EIO with the end of its output in @problem; negative errno
 */
int build_start_workload(struct build *b, struct sandbox *sb, const struct workload *w,
			 struct problem *problem);
