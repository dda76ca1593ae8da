/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/trace.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

static _Thread_local struct trace *now;

void trace_deinit(struct trace *t)
{
	free(t->spans);
	*t = (struct trace){0};
}

void trace_begin(struct trace *t)
{
	now = t;
}

void trace_end(void)
{
	now = NULL;
}

struct trace *trace_now(void)
{
	return now;
}

static void add(struct trace *t, const char *name, unsigned lane, uint64_t begin_ns,
		uint64_t end_ns)
{
	struct trace_span *s;

	if (t->n == TRACE_MAX || mem_grow(&t->spans, &t->cap, t->n, sizeof(*t->spans)) < 0)
		return;
	s = &t->spans[t->n++];
	*s = (struct trace_span){.lane = lane, .begin_ns = begin_ns, .end_ns = end_ns};
	str_copy(s->name, sizeof(s->name), name);
}

void trace_add(const char *name, uint64_t begin_ns, uint64_t end_ns)
{
	if (now)
		add(now, name, now->lane, begin_ns, end_ns);
}

static double ns_of(const json_t *step)
{
	double ms = json_number_value(json_object_get(step, "ms"));

	return ms > 0 ? ms * 1e6 : 0;
}

void trace_steps(const json_t *steps, uint64_t begin_ns, uint64_t end_ns)
{
	double sum = 0, scale, at, room = (double)(end_ns - begin_ns);
	const json_t *v;
	size_t i;

	json_array_foreach (steps, i, v)
		sum += ns_of(v);
	scale = sum > room ? room / sum : 1;
	at = (room - sum * scale) / 2;
	json_array_foreach (steps, i, v) {
		const char *name = json_string_value(json_object_get(v, "name"));
		double next = MIN(at + ns_of(v) * scale, room);

		trace_add(name ? name : "?", begin_ns + (uint64_t)at, begin_ns + (uint64_t)next);
		at = next;
	}
}

void trace_join(struct trace *t, const struct trace *other, unsigned lane)
{
	for (size_t i = 0; i < other->n; i++)
		add(t, other->spans[i].name, lane, other->spans[i].begin_ns,
		    other->spans[i].end_ns);
}

static json_t *describe(const struct trace_span *s, uint64_t first_ns)
{
	return json_pack("{s:s, s:s, s:s, s:f, s:f, s:i, s:i}", "name", s->name, "cat", "dormouse",
			 "ph", "X", "ts", (double)(s->begin_ns - first_ns) / 1e3, "dur",
			 (double)(s->end_ns - s->begin_ns) / 1e3, "pid", (int)getpid(), "tid",
			 (int)s->lane);
}

json_t *trace_describe(const struct trace *t)
{
	json_t *events = json_array();
	uint64_t first = UINT64_MAX;

	for (size_t i = 0; i < t->n; i++)
		first = MIN(first, t->spans[i].begin_ns);
	for (size_t i = 0; events && i < t->n; i++)
		if (json_array_append_new(events, describe(&t->spans[i], first)) < 0) {
			json_decref(events);
			events = NULL;
		}
	return json_pack("{s:o, s:s}", "traceEvents", events, "displayTimeUnit", "ms");
}

struct trace_scope trace_scope_begin(const char *name)
{
	return (struct trace_scope){name, now ? clock_now_ns() : 0};
}

void trace_scope_end(struct trace_scope *s)
{
	if (now && s->begin_ns)
		trace_add(s->name, s->begin_ns, clock_now_ns());
}
