/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/output.h"

#define QUIET_MS    1000 /* what is over sooner shows nothing */
#define INTERVAL_MS 100
#define BAR_WIDTH   30

void progress_start(struct progress *p, const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	*p = (struct progress){.enabled = cli->tty_err, .start_ns = clock_now_ns()};
	va_start(ap, fmt);
	(void)vsnprintf(p->text, sizeof(p->text), fmt, ap); /* cut is fine */
	va_end(ap);
}

double progress_elapsed_ms(const struct progress *p)
{
	return (double)(clock_now_ns() - p->start_ns) / NSEC_PER_MSEC;
}

static bool is_due(struct progress *p)
{
	uint64_t now = clock_now_ns();

	if (!p->enabled || now - p->start_ns < QUIET_MS * NSEC_PER_MSEC ||
	    now - p->drawn_ns < INTERVAL_MS * NSEC_PER_MSEC)
		return false;
	p->drawn_ns = now;
	return true;
}

/* One line, cut one column before the edge so that no terminal wraps it. */
static void draw(struct progress *p, const char *line)
{
	int room = (int)output_width(STDERR_FILENO) - 1;
	char cut[256];

	(void)snprintf(cut, sizeof(cut), "%.*s", room, line);
	(void)fputs("\r\033[K", stderr);
	output_text(stderr, cut);
	(void)fflush(stderr);
	p->visible = true;
}

void progress_tick(struct progress *p)
{
	char line[256];

	if (!is_due(p))
		return;
	(void)snprintf(line, sizeof(line), "%s ... %.0f s", p->text, progress_elapsed_ms(p) / 1000);
	draw(p, line);
}

/* "[=====     ]  50 %", @buf holds BAR_WIDTH + 16 bytes */
static char *format_bar(uint64_t done, uint64_t total, char *buf)
{
	double part = total ? (double)MIN(done, total) / (double)total : 0;
	size_t n = (size_t)(part * BAR_WIDTH);

	buf[0] = '[';
	memset(buf + 1, '=', n);
	memset(buf + 1 + n, ' ', BAR_WIDTH - n);
	(void)sprintf(buf + 1 + BAR_WIDTH, "] %3.0f %%", part * 100); /* fits: at most 100 */
	return buf;
}

void progress_bar(struct progress *p, uint64_t done, uint64_t total)
{
	char line[256], bar[BAR_WIDTH + 16];

	if (!is_due(p))
		return;
	(void)snprintf(line, sizeof(line), "%s %s  %.0f s", p->text, format_bar(done, total, bar),
		       progress_elapsed_ms(p) / 1000);
	draw(p, line);
}

void progress_bytes(struct progress *p, uint64_t done, uint64_t total)
{
	char line[256], bar[BAR_WIDTH + 16], some[16], all[16];

	if (!is_due(p))
		return;
	if (total)
		(void)snprintf(line, sizeof(line), "%s %s  %s of %s  %.0f s", p->text,
			       format_bar(done, total, bar), str_format_bytes(done, some),
			       str_format_bytes(total, all), progress_elapsed_ms(p) / 1000);
	else
		(void)snprintf(line, sizeof(line), "%s ... %s  %.0f s", p->text,
			       str_format_bytes(done, some), progress_elapsed_ms(p) / 1000);
	draw(p, line);
}

void progress_end(struct progress *p)
{
	if (!p->visible)
		return;
	(void)fputs("\r\033[K", stderr);
	p->visible = false;
	p->drawn_ns = 0;
}
