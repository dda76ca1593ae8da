/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *log_name = "dorm";
static enum log_level log_max = LOG_LEVEL_INFO;

void log_init(const char *name, enum log_level level)
{
	const char *e = getenv("DORM_LOG");

	log_name = name;
	log_max = level;
	for (unsigned i = 0; e && i < sizeof(level_names) / sizeof(*level_names); i++)
		if (!strcmp(e, level_names[i]))
			log_max = (enum log_level)i;
}

bool log_wants(enum log_level level)
{
	return level <= log_max;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	int saved = errno;
	char line[2048];
	struct timespec ts;
	struct tm tm;
	va_list ap;
	size_t n;

	if (!log_wants(level))
		return;
	(void)clock_gettime(CLOCK_REALTIME, &ts); /* cannot fail for this clock */
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03ldZ %s %s: ", ts.tv_nsec / 1000000,
			      log_name, level_names[level]);
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap); /* long lines are cut */
	va_end(ap);
	n = strlen(line);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)line[i] < ' ')
			line[i] = ' '; /* what a guest or client sent cannot forge a line */
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0) {
		/* nowhere left to complain to */
	}
	errno = saved;
}
