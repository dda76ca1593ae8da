/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * metrics.h - what this daemon counts, and how it is written for Prometheus
 *
 * Counters belong to the process, as there is one host in it; they begin at zero when it starts.
 * Counting takes no lock but an atomic addition, and may be done anywhere.
 * docs/observability.md has a table of all metrics, which a test compares with what is written.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* ---- text -------------------------------------------------------------------------------------
 *
 * A family is begun once, and its samples follow; "dormouse_" is put in front of its name, unless
 * that begins with "process_". Errors are remembered in .error.
 * Source: Prometheus, "Exposition formats", version 0.0.4
 */

struct metrics_text {
	struct buf *buf;
	const char *name; /* of the present family, without "dormouse_" */
	int error;
};

/** metrics_family() - @type: "counter" (its name ends in _total), "gauge", "histogram" */
void metrics_family(struct metrics_text *t, const char *name, const char *type, const char *help);

/** metrics_sample() - one sample; @label NULL: without. @value is escaped */
void metrics_sample(struct metrics_text *t, const char *label, const char *value, double number);

/** metrics_one() - a family with one sample */
void metrics_one(struct metrics_text *t, const char *name, const char *type, const char *help,
		 double number);

/* ---- operations -------------------------------------------------------------------------------
 */

enum metrics_op {
	METRICS_CREATE,
	METRICS_WAKE,
	METRICS_FORK, /* one of the copies; what the source takes is in METRICS_FORK_POINT */
	METRICS_FORK_POINT,
	METRICS_SLEEP,
	METRICS_SNAPSHOT,
	METRICS_DELETE,
	METRICS_N_OPS,
};

/**
 * metrics_op() - an operation has ended
 * @r: 0 or more: it succeeded; negative errno
 * @begun_ns: when somebody asked for it. A success ends with the agent's answer to its repair
 */
void metrics_op(enum metrics_op op, int r, uint64_t begun_ns);

struct sandbox_timings;
struct sandbox_save_timings;

/** metrics_bringup() - a VM was brought up */
void metrics_bringup(const struct sandbox_timings *t);
/** metrics_save() - a sandbox was saved */
void metrics_save(const struct sandbox_save_timings *t);
/** metrics_expired() - a sandbox's time was up */
void metrics_expired(void);

/** metrics_http() - a request was answered. @route: a constant; "": of no route */
void metrics_http(const char *method, const char *route, unsigned status, uint64_t ns);

/** metrics_watcher() - a watcher of events has come (1) or gone (-1) */
void metrics_watcher(int change);

/** metrics_write() - all of the above, and dormd's own process */
void metrics_write(struct metrics_text *t);
