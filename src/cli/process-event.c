/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/process-event.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base64.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cli.h"

void process_event_deinit(struct process_event *e)
{
	free(e->data);
	*e = (struct process_event){0};
}

int process_signal_number(const char *name)
{
	size_t n = strcspn(name, "(");
	uint64_t v;

	while (n && name[n - 1] == ' ')
		n--;
	if (!str_to_u64(name, &v) && v < NSIG)
		return (int)v;
	for (int i = 1; i < NSIG; i++) {
		const char *text = sigdescr_np(i), *abbreviation = sigabbrev_np(i);

		if (text && strlen(text) == n && !strncasecmp(name, text, n))
			return i;
		if (abbreviation && n > 3 && !strncmp(name, "SIG", 3) &&
		    strlen(abbreviation) == n - 3 && !strncmp(name + 3, abbreviation, n - 3))
			return i;
	}
	return 0;
}

static int end_code(const json_t *end)
{
	const char *status = json_string_value(json_object_get(end, "status"));
	const char *signal_name = status ? str_has_prefix(status, "signal: ") : NULL;
	json_int_t code = json_integer_value(json_object_get(end, "exitCode"));
	int n;

	if (signal_name) {
		n = process_signal_number(signal_name);
		return n ? CLI_SIGNAL + n : CLI_ODD_END;
	}
	return code < 0 || code > 255 ? CLI_ODD_END : (int)code;
}

static int take_data(const json_t *data, struct problem *problem, struct process_event *e)
{
	static const struct {
		const char *key;
		int fd;
	} streams[] = {{"stdout", 1}, {"stderr", 2}, {"pty", 1}};
	json_t *text = NULL;
	ssize_t n;

	e->kind = PROCESS_EVENT_OTHER; /* a stream that we do not know */
	for (size_t i = 0; i < ARRAY_SIZE(streams) && !text; i++) {
		text = json_object_get(data, streams[i].key);
		e->fd = streams[i].fd;
	}
	if (!text)
		return 0;
	e->data = malloc(json_string_length(text) + 4);
	if (!e->data)
		return error_trace(-ENOMEM);
	n = json_is_string(text)
		    ? base64_decode(json_string_value(text), json_string_length(text), e->data)
		    : -EINVAL;
	if (n < 0) {
		problem_set(problem, 500, "the sandbox sent output that is not base64");
		process_event_deinit(e);
		return error_trace(-EBADMSG);
	}
	e->len = (size_t)n;
	e->kind = PROCESS_EVENT_DATA;
	return 0;
}

int process_event_parse(const json_t *message, struct problem *problem, struct process_event *ret)
{
	const json_t *event = json_object_get(message, "event"), *v;

	*ret = (struct process_event){0};
	if ((v = json_object_get(event, "data")))
		return take_data(v, problem, ret);
	if ((v = json_object_get(event, "start"))) {
		json_int_t pid = json_integer_value(json_object_get(v, "pid"));

		if (pid <= 0) {
			problem_set(problem, 500,
				    "the sandbox did not say which process it started");
			return error_trace(-EBADMSG);
		}
		ret->kind = PROCESS_EVENT_START;
		ret->pid = (uint64_t)pid;
	} else if ((v = json_object_get(event, "end"))) {
		ret->kind = PROCESS_EVENT_END;
		ret->exit_code = end_code(v);
	} else if (json_object_get(event, "keepalive")) {
		ret->kind = PROCESS_EVENT_KEEPALIVE;
	}
	return 0;
}

int process_start_error(const char *code, const char *message)
{
	static const char *const missing[] = {"No such file or directory",
					      "no such file or directory",
					      "executable file not found", "command not found"};
	static const char *const forbidden[] = {"Permission denied", "permission denied",
						"Exec format error", "exec format error",
						"Is a directory",    "is a directory"};

	if (!strcmp(code, "deadline_exceeded"))
		return CLI_TIMEOUT;
	/* "cwd '/x' does not exist" and sandboxes that are gone say nothing about the program */
	if (strcmp(code, "invalid_argument") != 0 || str_has_prefix(message, "cwd "))
		return CLI_OWN;
	for (size_t i = 0; i < ARRAY_SIZE(missing); i++)
		if (strstr(message, missing[i]))
			return CLI_NOT_FOUND;
	for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++)
		if (strstr(message, forbidden[i]))
			return CLI_CANNOT_RUN;
	return CLI_OWN;
}
