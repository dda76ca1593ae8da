/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/forecast.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define MEAN_SHARE	8.0 /* of a new sample in the mean: one part in so many */
#define DEVIATION_SHARE 4.0

static struct forecast *find(struct forecasts *f, const char *key)
{
	for (unsigned i = 0; i < FORECAST_KEYS; i++)
		if (!strcmp(f->items[i].key, key))
			return &f->items[i];
	return NULL;
}

/* Free ones have never been used, and are the oldest. */
static struct forecast *replace_oldest(struct forecasts *f, const char *key)
{
	struct forecast *oldest = &f->items[0];

	for (unsigned i = 1; i < FORECAST_KEYS; i++)
		if (f->items[i].turn < oldest->turn)
			oldest = &f->items[i];
	*oldest = (struct forecast){0};
	str_copy(oldest->key, sizeof(oldest->key), key);
	return oldest;
}

void forecast_learn(struct forecasts *f, const char *key, uint64_t bytes)
{
	struct forecast *e = key[0] ? find(f, key) : NULL;
	const double x = (double)bytes;

	if (!key[0])
		return;
	if (!e)
		e = replace_oldest(f, key);
	e->turn = ++f->turn;
	if (e->n++ == 0) {
		e->mean = x;
		e->deviation = x / 2;
		return;
	}
	e->deviation += (fabs(x - e->mean) - e->deviation) / DEVIATION_SHARE;
	e->mean += (x - e->mean) / MEAN_SHARE;
}

uint64_t forecast_ask(struct forecasts *f, const char *key, uint64_t start)
{
	struct forecast *e = key[0] ? find(f, key) : NULL;

	if (!e)
		return MAX(start, FORECAST_LEAST);
	e->turn = ++f->turn;
	return MAX((uint64_t)(e->mean + 2 * e->deviation), FORECAST_LEAST);
}
