/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * exited.h - how programs ended, for clients that ask a little late
 *
 * Kept for EXITED_KEEP_MS and at most EXITED_MAX of them; what is older goes when somebody looks,
 * so no timer wakes an idle agent.
 */
#include <stdint.h>
#include <sys/types.h>

#define EXITED_KEEP_MS 30000u
#define EXITED_MAX     1024u

struct exited {
	struct exited *next;
	pid_t pid;
	char *tag; /* or NULL */
	int wait_status;
	uint64_t duration_ns; /* as event_end() says it */
	uint64_t end_ns; /* forgotten then */
};

struct exited_list {
	struct exited *first; /* the newest */
	unsigned n;
};

/** exited_add() - best effort: without memory it is forgotten at once */
void exited_add(struct exited_list *l, pid_t pid, const char *tag, int wait_status,
		uint64_t duration_ns);

/** exited_find() - the newest by pid, or by tag when @tag is not NULL; or NULL */
const struct exited *exited_find(struct exited_list *l, pid_t pid, const char *tag);

/** exited_clear() - forget all */
void exited_clear(struct exited_list *l);
