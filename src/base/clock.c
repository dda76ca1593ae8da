/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts); /* cannot fail for the two clocks used here */
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t clock_now_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_real_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

uint64_t deadline_after_ms(uint64_t ms)
{
	return clock_now_ns() + ms * NSEC_PER_MSEC;
}

bool deadline_passed(uint64_t deadline_ns)
{
	return deadline_ns != DEADLINE_NEVER && clock_now_ns() >= deadline_ns;
}

int deadline_poll_ms(uint64_t deadline_ns)
{
	uint64_t now = clock_now_ns(), left;

	if (deadline_ns == DEADLINE_NEVER)
		return -1;
	if (now >= deadline_ns)
		return 0;
	left = (deadline_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
	return left > INT_MAX ? INT_MAX : (int)left;
}

#ifdef __SANITIZE_THREAD__
/* The thread sanitizer of gcc 12 does not know pthread_mutex_clocklock(). */
int deadline_lock(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
	while (pthread_mutex_trylock(mutex) != 0) {
		if (deadline_passed(deadline_ns))
			return -ETIMEDOUT;
		clock_sleep_ms(1);
	}
	return 0;
}
#else
int deadline_lock(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
			      .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};

	return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &ts) == 0 ? 0 : -ETIMEDOUT;
}
#endif

void clock_sleep_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

char *clock_rfc3339(uint64_t real_ns, char buf[32])
{
	time_t s = (time_t)(real_ns / NSEC_PER_SEC);
	struct tm tm;
	size_t n;

	gmtime_r(&s, &tm);
	n = strftime(buf, 32, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(buf + n, 32 - n, ".%03uZ",
		       (unsigned)(real_ns % NSEC_PER_SEC / NSEC_PER_MSEC)); /* always fits */
	return buf;
}
