/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * metrics-internal.h - what the families of metrics are written with; for metrics*.c only
 *
 * The control thread alone writes them; what it reads is atomic, or its own.
 */
#include <stddef.h>

#include "base/buf.h"
#include "pager/metrics.h"

#define NAME	"dormouse_pager_"
#define ull(_v) ((unsigned long long)(_v))

/* Appending fails for want of memory only, and then goes on failing: the caller looks once. */
struct out {
	struct buf *b;
	int e;
};

#define print(_o, ...)                                                                             \
	do {                                                                                       \
		if ((_o)->e == 0)                                                                  \
			(_o)->e = buf_printf((_o)->b, __VA_ARGS__);                                \
	} while (0)

/** metrics_load() - the counter at an offset of some struct */
static inline uint64_t metrics_load(const void *base, size_t offset)
{
	return __atomic_load_n((const uint64_t *)((const char *)base + offset), __ATOMIC_RELAXED);
}

/** metrics_family() - the two lines at its head; samples follow */
void metrics_family(struct out *o, const char *name, const char *type, const char *help);

/** metrics_sample() - one line. @labels: without braces, escaped; empty: none */
void metrics_sample(struct out *o, const char *name, const char *labels, double value);

/** metrics_one() - a family with one sample, and no labels */
void metrics_one(struct out *o, const char *name, const char *type, const char *help, double value);

/** metrics_histogram() - the samples of one; @labels as above */
void metrics_histogram(struct out *o, const char *name, const char *labels,
		       const struct histogram *h);

/* ---- metrics-sessions.c ---- */

/** metrics_sessions() - one row for each session, or for each image and mode when there are many */
void metrics_sessions(struct out *o, struct pager *p);

/** metrics_totals() - of all sessions ever, by mode */
void metrics_totals(struct out *o, struct pager *p);
