/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * forecast.h - how much memory of its own will the next sandbox of a template take?
 *
 * Learned from those before it: when one ends or falls asleep, or has run for a while, what it held
 * is a sample. The forecast is their mean plus twice their mean deviation, both moving (the way TCP
 * forecasts round trips, RFC 6298), so that about one in twenty takes more; two that took 30 and
 * 50 MiB make a forecast of about 60.
 *
 * Not kept on disk: the first samples come within minutes. Not thread-safe: admission.c's lock.
 */
#include <stddef.h>
#include <stdint.h>

#define FORECAST_KEYS  128u	     /* the one not asked for longest goes */
#define FORECAST_LEAST (16ull << 20) /* a VMM alone takes as much */

struct forecast {
	char key[64]; /* what clients call the template; "": free */
	double mean, deviation;
	uint64_t n;
	uint64_t turn; /* when it was last used */
};

struct forecasts {
	struct forecast items[FORECAST_KEYS];
	uint64_t turn;
};

/** forecast_learn() - a sandbox of @key held @bytes of its own */
void forecast_learn(struct forecasts *f, const char *key, uint64_t bytes);

/** forecast_ask() - for the next one. Return: bytes; @start when nothing is known */
uint64_t forecast_ask(struct forecasts *f, const char *key, uint64_t start);
