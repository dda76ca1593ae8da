/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * rate.h - a token bucket: so many requests per second, and a second's worth at once
 *
 *     limit 5/s      full: 5 requests at once; then one every 200 ms; full again after a second
 *
 * A plain value without memory of its own; the caller serialises.
 */
#include <stdint.h>

struct rate {
	double tokens;
	uint64_t at_ns; /* when there were as many; 0: never asked, so it is full */
};

/**
 * rate_take() - may a request go on now?
 * @per_s: the limit; 0: none
 * Return: 0; otherwise after how many nanoseconds there is a token
 */
uint64_t rate_take(struct rate *r, unsigned per_s, uint64_t now_ns);
