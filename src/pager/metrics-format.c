/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text format: https://prometheus.io/docs/instrumenting/exposition_formats/
 *
 * The buckets of a histogram end at 2^k - 1 ns, where four buckets of ours (histogram.h) end too:
 * so no value is counted in the wrong one. A bound is printed with all of its digits.
 */
#include "pager/metrics-internal.h"

#define FIRST_POWER 10 /* 1 us */
#define LAST_POWER  34 /* 17 s */

int metrics_escape(struct buf *b, const char *value)
{
	int e = buf_append(b, "", 0);

	for (; *value && e == 0; value++) {
		if (*value == '\\' || *value == '"')
			e = buf_printf(b, "\\%c", *value);
		else if (*value == '\n')
			e = buf_append(b, "\\n", 2);
		else
			e = buf_append(b, value, 1);
	}
	return e;
}

void metrics_family(struct out *o, const char *name, const char *type, const char *help)
{
	print(o, "# HELP " NAME "%s %s\n# TYPE " NAME "%s %s\n", name, help, name, type);
}

void metrics_sample(struct out *o, const char *name, const char *labels, double value)
{
	print(o, NAME "%s%s%s%s %.15g\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
	      value);
}

void metrics_one(struct out *o, const char *name, const char *type, const char *help, double value)
{
	metrics_family(o, name, type, help);
	metrics_sample(o, name, "", value);
}

void metrics_histogram(struct out *o, const char *name, const char *labels,
		       const struct histogram *h)
{
	const char *comma = *labels ? "," : "";
	uint64_t seen = 0;
	uint32_t i = 0;

	for (unsigned k = FIRST_POWER; k <= LAST_POWER; k++) {
		uint64_t bound = (1ull << k) - 1;

		for (; i < HISTOGRAM_BUCKETS && histogram_value(i) <= bound; i++)
			seen += h->count[i];
		print(o, NAME "%s_bucket{%s%sle=\"%.12g\"} %llu\n", name, labels, comma,
		      (double)bound / 1e9, ull(seen));
	}
	for (; i < HISTOGRAM_BUCKETS; i++)
		seen += h->count[i];
	print(o, NAME "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, ull(seen));
	print(o, NAME "%s_sum%s%s%s %.15g\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
	      (double)h->sum / 1e9);
	print(o, NAME "%s_count%s%s%s %llu\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
	      ull(seen));
}
