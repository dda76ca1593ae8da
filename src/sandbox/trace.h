/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * trace.h - where the time of one operation went, span by span, for Perfetto or chrome://tracing
 *
 *     struct trace t = {0};
 *     trace_begin(&t);		what this thread does from now on is traced
 *     sandbox_wake(...);
 *     trace_end();
 *     json = trace_describe(&t);
 *     trace_deinit(&t);
 *
 * A function that takes time says so with TRACE("name"), which lasts to the end of its block; where
 * nobody traces that costs one look at a thread's variable. Spans are monotonic times; those of one
 * lane nest. Copies made side by side have a lane each.
 */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

#define TRACE_MAX 65536u /* spans; what is beyond is dropped */

struct trace_span {
	char name[24];
	unsigned lane;
	uint64_t begin_ns, end_ns;
};

/* A plain value, empty when zero. */
struct trace {
	struct trace_span *spans;
	size_t n, cap;
	unsigned lane; /* of what is added now */
};

void trace_deinit(struct trace *t);

/** trace_begin() / trace_end() - this thread's operations into @t */
void trace_begin(struct trace *t);
void trace_end(void);

/** trace_now() - that of this thread; NULL: nobody traces */
struct trace *trace_now(void);

/** trace_add() - a span of this thread's trace, if there is one. Without memory it is left out */
void trace_add(const char *name, uint64_t begin_ns, uint64_t end_ns);

/** trace_steps() - the parts of a span of which only the durations are known: {"name", "ms"} each,
 *  one after the other in the middle of it, shortened if they would not fit */
void trace_steps(const json_t *steps, uint64_t begin_ns, uint64_t end_ns);

/** trace_join() - the spans of another one, as lane @lane of @t */
void trace_join(struct trace *t, const struct trace *other, unsigned lane);

/**
 * trace_describe() - {"traceEvents": [{"name", "cat", "ph": "X", "ts", "dur", "pid", "tid"}],
 *                    "displayTimeUnit": "ms"}, times in microseconds since the first begin
 * Return: new reference; NULL without memory
 * Source: Google, "Trace Event Format"
 */
json_t *trace_describe(const struct trace *t);

struct trace_scope {
	const char *name;
	uint64_t begin_ns;
};
struct trace_scope trace_scope_begin(const char *name);
void trace_scope_end(struct trace_scope *s);

/** TRACE() - a span from here to the end of the block */
#define TRACE(_name)                                                                               \
	_cleanup_(trace_scope_end) struct trace_scope LOCK_CAT(trace_, __LINE__)                   \
		__attribute__((unused)) = trace_scope_begin(_name)
