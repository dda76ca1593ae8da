/* SPDX-License-Identifier: Apache-2.0 */
/*
 * build-ready.c - a template's workload, before the snapshot is taken
 *
 * The start command is a process of the agent like any other, with its output in
 * /tmp/start-command.log, and its exit status, should it end, in /tmp/start-command.status. One
 * that ends with an error before it is ready fails the build at once.
 *
 * Whether something listens on a port is read from the guest's /proc/net/tcp and tcp6, where
 * listening is state 0A: any address will do.
 */
#include "sandbox/build-internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "sandbox/agent-client.h"

#define EVERY_MS    250
#define START_MS    30000
#define LOOK_MS	    30000
#define LOG	    START_LOG
#define STATUS	    START_STATUS
#define LINES_SHOWN 20

/* The last output of the workload goes into the log, its very end into @ret. */
static void show_output(struct build *b, struct sandbox *sb, char *ret, size_t size)
{
	static const char tail[] = "tail -c 4096 " LOG " 2>/dev/null";
	_cleanup_buf_ struct buf output = {0};
	char *rest, *line;
	int code, n = 0;

	*ret = 0;
	if (agent_run(sb->channel, tail, deadline_after_ms(LOOK_MS), &output, &code, NULL) < 0 ||
	    !output.data)
		return;
	while (output.len && strchr("\n ", output.data[output.len - 1]))
		output.data[--output.len] = 0;
	str_copy(ret, size, output.data + (output.len < size ? 0 : output.len - size + 1));
	for (char *c = ret; *c; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
	rest = output.data;
	while ((line = strsep(&rest, "\n")) && n++ < LINES_SHOWN)
		build_say(b, "  %s", line);
}

static int start(struct build *b, struct sandbox *sb, const struct workload *w,
		 struct problem *problem)
{
	_cleanup_free_ char *command = start_script(w->start);
	const struct agent_command c = {.command = command, .user = w->user, .workdir = w->workdir};

	if (!command)
		return -ENOMEM;
	build_say(b, "start command: %s", w->start);
	return agent_start(sb->channel, &c, deadline_after_ms(START_MS), problem);
}

/* Has it ended with an error? Return: 0; -EIO with a problem; negative errno */
static int check_alive(struct build *b, struct sandbox *sb, struct problem *problem)
{
	static const char look[] = "cat " STATUS " 2>/dev/null";
	_cleanup_buf_ struct buf output = {0};
	char tail[256];
	int code, r;

	r = agent_run(sb->channel, look, deadline_after_ms(LOOK_MS), &output, &code, problem);
	if (r < 0 || code != 0 || !output.data || atoi(output.data) == 0)
		return r;
	show_output(b, sb, tail, sizeof(tail));
	problem_set(problem, 500,
		    "the start command ended with exit code %d before it was ready; its last "
		    "output: %s",
		    atoi(output.data), *tail ? tail : "none");
	return -EIO;
}

/* A command that succeeds when the workload is ready. */
static char *ready_command(const struct recipe *r)
{
	if (r->ready == RECIPE_READY_COMMAND)
		return strdup(r->ready_command);
	return str_printf("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | { while read -r n local "
			  "remote state rest; do case \"$local $state\" in *:%04X' 0A') exit 0;; "
			  "esac; done; exit 1; }",
			  r->ready_port);
}

static void say_waiting(struct build *b)
{
	if (b->recipe.ready == RECIPE_READY_PORT)
		build_say(b, "waiting until something listens on port %u", b->recipe.ready_port);
	else
		build_say(b, "waiting for the ready command: %s", b->recipe.ready_command);
}

static int not_ready(struct build *b, struct sandbox *sb, const struct buf *last,
		     struct problem *problem)
{
	char tail[256], what[64] = "the ready command still fails";

	if (b->recipe.ready == RECIPE_READY_PORT)
		(void)snprintf(what, sizeof(what), "nothing listens on port %u",
			       b->recipe.ready_port);
	show_output(b, sb, tail, sizeof(tail));
	problem_set(problem, 504, "%s after %u s; last output: %s%s%.100s", what,
		    b->recipe.ready_timeout_s, *tail ? tail : "none", last->len ? " | " : "",
		    last->len ? last->data : "");
	problem_hint(problem, "\"readyTimeout\" in the recipe gives it more time; " LOG
			      " is where its output goes");
	return -ETIMEDOUT;
}

static int wait_until_ready(struct build *b, struct sandbox *sb, const struct workload *w,
			    struct problem *problem)
{
	uint64_t deadline = deadline_after_ms(b->recipe.ready_timeout_s * 1000ull);
	_cleanup_free_ char *command = ready_command(&b->recipe);
	struct agent_command c = {.command = command};
	int r;

	if (!command)
		return -ENOMEM;
	if (b->recipe.ready == RECIPE_READY_COMMAND) {
		c.user = w->user;
		c.workdir = w->workdir;
	}
	say_waiting(b);
	for (;;) {
		_cleanup_buf_ struct buf output = {0};
		int code = 0;

		r = agent_run_as(sb->channel, &c, deadline, &output, &code, problem);
		if (r == 0 && code == 0)
			return 0;
		if (r == -ETIMEDOUT || (r == 0 && deadline_passed(deadline))) {
			if (problem)
				*problem = PROBLEM_INIT; /* ours says more */
			return not_ready(b, sb, &output, problem);
		}
		if (r == 0 && w->start)
			r = check_alive(b, sb, problem);
		if (r == 0)
			r = build_stopping(b, problem);
		if (r < 0)
			return r;
		clock_sleep_ms(EVERY_MS);
	}
}

static int wait_delay(struct build *b, struct problem *problem)
{
	uint64_t end = deadline_after_ms(b->recipe.ready_delay_s * 1000ull);
	int r = 0;

	build_say(b, "waiting for %u s", b->recipe.ready_delay_s);
	while (r == 0 && !deadline_passed(end)) {
		clock_sleep_ms(EVERY_MS);
		r = build_stopping(b, problem);
	}
	return r;
}

int build_start_workload(struct build *b, struct sandbox *sb, const struct workload *w,
			 struct problem *problem)
{
	int r = w->start ? start(b, sb, w, problem) : 0;

	if (r < 0)
		return error_trace(r);
	switch (b->recipe.ready) {
	case RECIPE_READY_NONE:
		break;
	case RECIPE_READY_DELAY:
		r = wait_delay(b, problem);
		break;
	default:
		r = wait_until_ready(b, sb, w, problem);
		break;
	}
	if (r == 0 && w->start)
		r = check_alive(b, sb, problem);
	return error_trace(r);
}
