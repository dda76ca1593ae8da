/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log-format.h"
#include "base/str.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

static const char *log_name = "dorm";
static enum log_level log_max = LOG_LEVEL_INFO;
static enum log_format how = LOG_FORMAT_TEXT;
static int journal = -1; /* a datagram socket; -1: none is needed */
static _Thread_local char request[LOG_REQUEST_MAX + 1];

/* $JOURNAL_STREAM names the device and inode of the stream to the journal that a service is given:
 * is standard error still that? Source: systemd.exec(5) */
static bool is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

static void choose_format(void)
{
	const char *wanted = getenv("DORM_LOG_FORMAT");

	if (wanted && !strcmp(wanted, "json"))
		how = LOG_FORMAT_JSON;
	else if (wanted ? !strcmp(wanted, "journal") : is_journal())
		how = LOG_FORMAT_JOURNAL;
	if (how == LOG_FORMAT_JOURNAL)
		journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

void log_init(const char *name, enum log_level level)
{
	const char *e = getenv("DORM_LOG");

	log_name = name;
	log_max = level;
	for (enum log_level i = LOG_LEVEL_ERROR; e && i <= LOG_LEVEL_DEBUG; i++)
		if (!strcmp(e, log_level_name(i)))
			log_max = i;
	choose_format();
}

bool log_wants(enum log_level level)
{
	return level <= log_max;
}

void log_set_request(const char *id)
{
	str_copy(request, sizeof(request), id ? id : "");
}

const char *log_request(void)
{
	return request;
}

/* Never waits: a journal that does not keep up gets the line as text, on standard error. */
static bool send_journal(const char *text, size_t len)
{
	const struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};

	return sendto(journal, text, len, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to,
		      sizeof(to)) == (ssize_t)len;
}

static void write_line(enum log_format format, const struct log_record *r)
{
	char line[LOG_LINE_MAX];
	size_t n = log_format(format, r, line, sizeof(line));

	if (format == LOG_FORMAT_JOURNAL && !send_journal(line, n))
		n = log_format(LOG_FORMAT_TEXT, r, line, sizeof(line));
	else if (format == LOG_FORMAT_JOURNAL)
		return;
	if (write(STDERR_FILENO, line, n) < 0) {
		/* nowhere left to complain to */
	}
}

void log_write(enum log_level level, const char *fmt, ...)
{
	int saved = errno;
	char message[LOG_LINE_MAX];
	struct log_record r = {
		.program = log_name, .level = level, .request = request, .message = message};
	va_list ap;

	if (!log_wants(level))
		return;
	r.real_ns = clock_real_ns();
	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap); /* long lines are cut */
	va_end(ap);
	write_line(how, &r);
	errno = saved;
}
