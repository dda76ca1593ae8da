/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * problem.h - an error as a person meets it: what failed, on what, what to do now
 *
 * Errors travel as ints (base/error.h). Where a number would lose what a person needs (which file,
 * at which offset, why), a function also takes a `struct problem *`, which may be NULL. The function
 * closest to the cause fills it; callers above add nothing, so the first text wins. At the edges of
 * a process (HTTP, command line) it becomes {code, message, hint}.
 *
 * A problem is a plain value: no life cycle, no allocation; one thread at a time.
 */
#include <stdbool.h>

struct problem {
	int status;         /* HTTP status that fits: 400, 404, 409, 500, 503, 507...; 0: none set */
	char message[512];  /* what failed, on what, why; one sentence, no trailing newline */
	char hint[256];     /* what to do now; may be empty */
	unsigned retry_s;   /* trying again makes sense after so many seconds; 0: not known */
	const char *code;   /* the same for programs: a constant ("sandbox_capacity_unavailable"); NULL */
};

#define PROBLEM_INIT ((struct problem){0})

/** problem_set() - describe a failure, unless something below has already done so; @p may be NULL */
void problem_set(struct problem *p, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** problem_hint() - say what to do about it, unless a hint is there already; @p may be NULL */
void problem_hint(struct problem *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** problem_retry() - say when to try again, unless that is known already; @p may be NULL */
void problem_retry(struct problem *p, unsigned seconds);

/** problem_code() - give it a code for programs, a constant, unless it has one; @p may be NULL */
void problem_code(struct problem *p, const char *code);

/** problem_errno() - describe errno -@r on "@what"; chooses the status (ENOSPC is 507, ENOENT 404...) */
void problem_errno(struct problem *p, int r, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** problem_is_set() - has something been described? */
static inline bool problem_is_set(const struct problem *p)
{
	return p && p->message[0];
}
