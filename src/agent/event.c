/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/event.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/base64.h"

size_t event_start(pid_t pid, char text[EVENT_TEXT_MAX])
{
	return (size_t)snprintf(text, EVENT_TEXT_MAX, "{\"event\":{\"start\":{\"pid\":%d}}}", pid);
}

size_t event_data(const char *name, const void *data, size_t len, char text[EVENT_DATA_TEXT_MAX])
{
	size_t n = (size_t)snprintf(text, 64, "{\"event\":{\"data\":{\"%s\":\"", name);

	n += base64_encode(data, len, text + n);
	memcpy(text + n, "\"}}}", 5);
	return n + 4;
}

/* "exit status 3", "signal: killed", "signal: segmentation fault (core dumped)" */
static void describe_status(int status, char *buf, size_t size)
{
	const char *name = WIFSIGNALED(status) ? sigdescr_np(WTERMSIG(status)) : NULL;

	if (WIFEXITED(status)) {
		(void)snprintf(buf, size, "exit status %d", WEXITSTATUS(status)); /* fits */
		return;
	}
	(void)snprintf(buf, size, "signal: %s%s", name ? name : "unknown",
		       WCOREDUMP(status) ? " (core dumped)" : ""); /* fits */
	for (char *c = buf; *c; c++)
		*c = (char)tolower((unsigned char)*c);
}

size_t event_end(int wait_status, uint64_t duration_ns, char text[EVENT_TEXT_MAX])
{
	bool exited = WIFEXITED(wait_status);
	int code = exited ? WEXITSTATUS(wait_status) : -1;
	char status[96], error[128] = "";

	describe_status(wait_status, status, sizeof(status));
	if (code != 0)
		(void)snprintf(error, sizeof(error), ",\"error\":\"%s\"", status); /* fits */
	return (size_t)snprintf(
		text, EVENT_TEXT_MAX,
		"{\"event\":{\"end\":{\"exitCode\":%d,\"exited\":%s,\"status\":\"%s\","
		"\"durationNs\":\"%" PRIu64 "\"%s}}}",
		code, exited ? "true" : "false", status, duration_ns, error);
}
