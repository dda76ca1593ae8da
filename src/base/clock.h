/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * clock.h - monotonic time and deadlines
 *
 * A deadline is a point on CLOCK_MONOTONIC in nanoseconds (`deadline_ns`), made once at the top of
 * an operation and handed down unchanged, so that nested waits share it. DEADLINE_NEVER is for waits
 * that something else bounds.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEADLINE_NEVER UINT64_MAX
#define NSEC_PER_SEC   1000000000ull
#define NSEC_PER_MSEC  1000000ull

/** clock_now_ns() - CLOCK_MONOTONIC in nanoseconds */
uint64_t clock_now_ns(void);

/** clock_real_ns() - CLOCK_REALTIME in nanoseconds since the epoch */
uint64_t clock_real_ns(void);

/** deadline_after_ms() - the deadline @ms milliseconds from now */
uint64_t deadline_after_ms(uint64_t ms);

/** deadline_min() - the earlier of two deadlines */
static inline uint64_t deadline_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/** deadline_passed() - is it too late? */
bool deadline_passed(uint64_t deadline_ns);

/** deadline_poll_ms() - what is left as a poll(2) timeout: rounded up, 0 when passed, -1 for never */
int deadline_poll_ms(uint64_t deadline_ns);

/** deadline_lock() - lock @mutex. Return: 0; -ETIMEDOUT */
int deadline_lock(pthread_mutex_t *mutex, uint64_t deadline_ns);

/** clock_sleep_ms() - sleep, undisturbed by signals */
void clock_sleep_ms(unsigned ms);

/**
 * clock_rfc3339() - format a real time as "2026-01-02T03:04:05.678Z"
 * @real_ns: nanoseconds since the epoch
 * @buf:     at least 32 bytes
 */
char *clock_rfc3339(uint64_t real_ns, char buf[32]);
