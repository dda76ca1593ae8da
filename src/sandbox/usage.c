/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/usage.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

void usage_deinit(struct usage *u)
{
	free(u->ring);
	*u = (struct usage){0};
}

bool usage_is_due(const struct usage *u, uint64_t now_ns)
{
	uint64_t last_ns = u->next ? u->ring[(u->next - 1) % USAGE_MAX].when_ns : 0;

	/* a clock that was set back does not end the samples */
	return !u->next || now_ns < last_ns || now_ns - last_ns >= USAGE_SPAN_NS;
}

int usage_add(struct usage *u, const struct usage_sample *s)
{
	if (!usage_is_due(u, s->when_ns))
		return 0;
	if (u->next < USAGE_MAX && mem_grow(&u->ring, &u->cap, u->next, sizeof(*u->ring)) < 0)
		return -ENOMEM;
	u->ring[u->next++ % USAGE_MAX] = *s;
	return 0;
}

static json_t *describe(const struct usage_sample *s)
{
	char text[32];

	clock_rfc3339(s->when_ns, text);
	return json_pack("{s:s, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I}", "timestamp", text,
			 "timestampUnix", (json_int_t)(s->when_ns / NSEC_PER_SEC), "cpuCount",
			 (json_int_t)s->cpu_count, "cpuUsedPct", s->cpu_used_pct, "memUsed",
			 (json_int_t)s->mem_used, "memTotal", (json_int_t)s->mem_total, "memCache",
			 (json_int_t)s->mem_cache, "diskUsed", (json_int_t)s->disk_used,
			 "diskTotal", (json_int_t)s->disk_total);
}

json_t *usage_describe(const struct usage *u, uint64_t start_ns, uint64_t end_ns)
{
	json_t *list = json_array();

	for (size_t i = u->next > USAGE_MAX ? u->next - USAGE_MAX : 0; list && i < u->next; i++) {
		const struct usage_sample *s = &u->ring[i % USAGE_MAX];

		if (s->when_ns >= start_ns && s->when_ns <= end_ns)
			(void)json_array_append_new(list,
						    describe(s)); /* without memory left out */
	}
	return list;
}

static uint64_t field(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

/* A guest can say anything; a number is all that comes of it. */
int usage_parse(const json_t *o, uint64_t now_ns, struct usage_sample *ret)
{
	double pct = json_number_value(json_object_get(o, "cpu_used_pct"));

	if (!json_is_object(o) || !json_is_integer(json_object_get(o, "mem_total")))
		return error_trace(-EBADMSG);
	*ret = (struct usage_sample){
		.when_ns = now_ns,
		.cpu_used_pct = pct >= 0 && pct <= 100 ? pct : 0,
		.cpu_count = (uint32_t)MIN(field(o, "cpu_count"), (uint64_t)UINT32_MAX),
		.mem_used = field(o, "mem_used"),
		.mem_total = field(o, "mem_total"),
		.mem_cache = field(o, "mem_cache"),
		.disk_used = field(o, "disk_used"),
		.disk_total = field(o, "disk_total"),
	};
	return 0;
}
