/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"

void output_init(struct cli *cli)
{
	const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
	bool able = term && *term && strcmp(term, "dumb") != 0;

	cli->tty_out = isatty(STDOUT_FILENO);
	cli->tty_err = isatty(STDERR_FILENO) && able;
	cli->colour = cli->tty_out && able && !(no_colour && *no_colour);
}

int output_finish(int code)
{
	if (!fflush(stdout) && !ferror(stdout))
		return code;
	(void)fprintf(stderr, "dorm: cannot write to standard output: %s\n",
		      strerrordesc_np(errno));
	return code ? code : CLI_FAILED;
}

void output_json(const json_t *value)
{
	/* a failed write is found by output_finish() */
	(void)json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
	(void)putchar('\n');
}

void output_text(FILE *f, const char *s)
{
	for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
		bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f; /* U+0080 to U+009F */

		if (c1)
			p++;
		if (c1 || *p == 0x7f || (*p < 0x20 && *p != '\t' && *p != '\n'))
			(void)fputc('?', f);
		else
			(void)fputc(*p, f);
	}
}

void output_padded(FILE *f, const char *s, size_t width)
{
	size_t n = strlen(s);

	output_text(f, s);
	(void)fprintf(f, "%*s", (int)(n < width ? width - n : 0), "");
}

void output_problem(const struct problem *problem)
{
	(void)fflush(stdout); /* keep the order when both go to one place */
	(void)fputs("dorm: ", stderr);
	output_text(stderr, problem->message[0] ? problem->message : "failed without a reason");
	(void)fputc('\n', stderr);
	if (!problem->hint[0])
		return;
	(void)fputs("hint: ", stderr);
	output_text(stderr, problem->hint);
	(void)fputc('\n', stderr);
}

size_t output_width(int fd)
{
	struct winsize ws;

	return !ioctl(fd, TIOCGWINSZ, &ws) && ws.ws_col >= 20 ? ws.ws_col : 80;
}

void output_wrapped(FILE *f, size_t indent, const char *s)
{
	size_t width = output_width(fileno(f)), column = indent;

	while (*(s += strspn(s, " \n"))) {
		size_t n = strcspn(s, " \n");
		_cleanup_free_ char *word = strndup(s, n);

		if (column > indent && column + 1 + n > width) {
			(void)fprintf(f, "\n%*s", (int)indent, "");
			column = indent;
		} else if (column > indent) {
			(void)fputc(' ', f);
			column++;
		}
		if (word)
			output_text(f, word);
		column += n;
		s += n;
	}
	(void)fputc('\n', f);
}

char *output_duration(double ms, char buf[32])
{
	if (ms < 999.95)				/* not "1000.0 ms" */
		(void)snprintf(buf, 32, "%.1f ms", ms); /* fits, as do the others */
	else if (ms < 59995)
		(void)snprintf(buf, 32, "%.2f s", ms / 1000);
	else
		(void)snprintf(buf, 32, "%.0fm %.0fs", (double)(uint64_t)(ms / 60000),
			       (double)((uint64_t)(ms / 1000) % 60));
	return buf;
}

char *output_span(int64_t seconds, char buf[32])
{
	if (seconds < 0)
		seconds = 0;
	if (seconds < 60)
		(void)snprintf(buf, 32, "%" PRId64 "s", seconds);
	else if (seconds < 3600)
		(void)snprintf(buf, 32, "%" PRId64 "m", seconds / 60);
	else if (seconds < 86400)
		(void)snprintf(buf, 32, "%" PRId64 "h", seconds / 3600);
	else
		(void)snprintf(buf, 32, "%" PRId64 "d", seconds / 86400);
	return buf;
}

int output_parse_time(const char *s, int64_t *ret)
{
	struct tm tm = {0};
	const char *end = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);

	if (!end)
		return -EINVAL;
	if (*end == '.')
		end += 1 + strspn(end + 1, "0123456789");
	if (strcmp(end, "Z") != 0 && strcmp(end, "+00:00") != 0)
		return -EINVAL;
	*ret = timegm(&tm);
	return 0;
}

const char *output_field(const json_t *object, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s && *s ? s : otherwise;
}

uint64_t output_field_number(const json_t *object, const char *key)
{
	double v = json_number_value(json_object_get(object, key));

	/* 2^63 and above, and what is no number, do not occur in honest answers */
	return v > 0 && v < 9e18 ? (uint64_t)v : 0;
}

const char *output_field_first(const json_t *object, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_array_get(json_object_get(object, key), 0));

	return s && *s ? s : otherwise;
}

char *output_wake(const json_t *sandbox)
{
	json_t *wake = json_object_get(sandbox, "wake"), *value;
	_cleanup_buf_ struct buf b = {0};
	const char *key, *separator = " (";
	char text[32];

	if (!json_is_number(json_object_get(wake, "totalMs")))
		return strdup("");
	(void)buf_printf(
		&b, "%s",
		output_duration(json_number_value(json_object_get(wake, "totalMs")), text));
	json_object_foreach (json_object_get(wake, "phases"), key, value) {
		if (!json_is_number(value))
			continue;
		(void)buf_printf(&b, "%s%s %s", separator, key,
				 output_duration(json_number_value(value), text));
		separator = ", ";
	}
	if (*separator == ',')
		(void)buf_printf(&b, ")");
	return take_ptr(b.data); /* NULL without memory, which printf shows as (null) */
}

char *output_age(const json_t *object, const char *key, char buf[32])
{
	int64_t then;

	if (output_parse_time(output_field(object, key, ""), &then) < 0)
		return strcpy(buf, "-");
	return output_span((int64_t)(clock_real_ns() / NSEC_PER_SEC) - then, buf);
}
