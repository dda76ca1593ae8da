/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control-logs.c - GET /sandboxes/{id}/logs: the guest's console, and what happened to the sandbox
 *
 *     {"logs": [{"timestamp", "line"}],
 *      "logEntries": [{"timestamp", "level", "message", "fields": {"source": "console"|"event"}}]}
 *
 * as E2B's clients know it; /v2 answers {"logs": [the entries]}. A console has no times: its lines
 * carry that of the sandbox's latest start, and come before the events. ?limit= gives the last
 * ones.
 */
#include "api/routes.h"

#include <errno.h>
#include <string.h>

#include "api/fields.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "sandbox/events.h"
#include "sandbox/sandbox.h"

#define DEFAULT_LINES 1000u
#define MAX_LINES     10000u

static int add_entry(json_t *entries, const char *when, const char *level, json_t *message,
		     const char *source)
{
	return json_array_append_new(entries, json_pack("{s:s, s:s, s:o, s:{s:s}}", "timestamp",
							when, "level", level, "message", message,
							"fields", "source", source));
}

/* What a guest wrote, as text. Return: NULL without memory */
static json_t *text_of(char *line, size_t len)
{
	_cleanup_free_ char *text = NULL;
	char behind = line[len];

	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < ' ' && line[i] != '\t' && line[i] != '\x1b')
			line[i] = ' ';
	line[len] = 0;
	text = utf8_from(line);
	line[len] = behind;
	return text ? json_string(text) : NULL;
}

static int add_console(struct request *q, const char *id, json_t *entries, struct problem *problem)
{
	_cleanup_free_ char *text = NULL;
	uint64_t since_ns;
	char when[32];
	int r = sandbox_console(q->host, id, problem, &text, &since_ns);

	if (r < 0)
		return r;
	clock_rfc3339(since_ns, when);
	for (char *line = text, *end; *line && r == 0; line = *end ? end + 1 : end) {
		size_t len;

		end = line + strcspn(line, "\n");
		len = (size_t)(end - line);
		while (len && line[len - 1] == '\r')
			len--;
		r = add_entry(entries, when, "info", text_of(line, len), "console");
	}
	return r < 0 ? -ENOMEM : 0;
}

/* "sandbox.state failed: its VM ended" */
static json_t *summary(const json_t *event)
{
	const char *type = json_string_value(json_object_get(event, "type")),
		   *state = json_string_value(json_object_get(event, "state")),
		   *reason = json_string_value(json_object_get(event, "reason"));

	return json_sprintf("%s%s%s%s%s", type ? type : "?", state ? " " : "", state ? state : "",
			    reason ? ": " : "", reason ? reason : "");
}

static int add_event(json_t *entries, const char *text)
{
	json_auto_t *event = json_loads(text, 0, NULL);
	const char *when = json_string_value(json_object_get(event, "time"));

	return add_entry(entries, when ? when : "",
			 json_object_get(event, "reason") ? "error" : "info", summary(event),
			 "event");
}

static int add_events(struct request *q, const char *id, json_t *entries)
{
	const struct event_filter f = {.sandbox_id = id};
	struct event ev = {0};
	int r;

	while ((r = events_next(host_events(q->host), ev.number, &f, clock_now_ns(), &ev)) == 1) {
		r = add_event(entries, ev.text);
		free(ev.text);
		if (r < 0)
			return -ENOMEM;
	}
	return r;
}

static int keep_last(json_t *entries, uint64_t limit)
{
	size_t n = json_array_size(entries);

	while (n-- > limit)
		if (json_array_remove(entries, 0) < 0)
			return -ENOMEM;
	return 0;
}

static int collect(struct request *q, struct problem *problem, json_t *entries)
{
	uint64_t limit = DEFAULT_LINES;
	int r = fields_query_uint(request_query(q, "limit"), "limit", 1, MAX_LINES, problem,
				  &limit);

	if (r == 0)
		r = add_console(q, q->args[0], entries, problem);
	if (r == 0)
		r = add_events(q, q->args[0], entries);
	return r < 0 ? r : keep_last(entries, limit);
}

int control_sandbox_logs_2(struct request *q, struct reply *y)
{
	json_t *entries = json_array();
	int r = collect(q, &y->problem, entries);

	if (r < 0) {
		json_decref(entries);
		return r;
	}
	return reply_json(y, 200, json_pack("{s:o}", "logs", entries));
}

int control_sandbox_logs(struct request *q, struct reply *y)
{
	json_t *entries = json_array(), *lines = json_array(), *v;
	int r = collect(q, &y->problem, entries);
	size_t i;

	json_array_foreach (entries, i, v)
		if (json_array_append_new(lines, json_pack("{s:O, s:O}", "timestamp",
							   json_object_get(v, "timestamp"), "line",
							   json_object_get(v, "message"))) < 0)
			r = -ENOMEM;
	if (r < 0) {
		json_decref(entries);
		json_decref(lines);
		return r;
	}
	return reply_json(y, 200, json_pack("{s:o, s:o}", "logs", lines, "logEntries", entries));
}
