/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/runner.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/pidfd.h"
#include "sys/spawn.h"

#define LOOK_EVERY_MS 200
#define LINE_MAX_LEN  400
#define TAIL_BYTES    300 /* of the output, in a problem */
#define OUTPUT_MAX    (256u << 10)
#define KILL_MS	      5000

/* One program under way. */
struct run {
	const struct runner *runner;
	const struct runner_command *command;
	int out_fd, pidfd;
	pid_t pid;
	char line[LINE_MAX_LEN + 1]; /* that has not ended yet */
	size_t line_len;
	bool returned; /* a carriage return: what follows replaces the line, unless it ends here */
	char tail[TAIL_BYTES + 1]; /* the last complete lines, joined by " | " */
};

const char *runner_busybox(void)
{
	return access("/bin/busybox", X_OK) == 0 ? "/bin/busybox" : "/usr/bin/busybox";
}

void runner_say(const struct runner *r, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (!r->progress)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r->progress(r->userdata, text);
}

int runner_cancelled(const struct runner *r)
{
	if (!r->cancelled || !r->cancelled(r->userdata))
		return 0;
	problem_set(r->problem, 503, "the build was cancelled");
	return -ECANCELED;
}

static void keep_tail(struct run *run)
{
	char joined[TAIL_BYTES + LINE_MAX_LEN + 8];
	size_t n = (size_t)snprintf(joined, sizeof(joined), "%s%s%s", run->tail,
				    run->tail[0] ? " | " : "", run->line);

	str_copy(run->tail, sizeof(run->tail), joined + (n > TAIL_BYTES ? n - TAIL_BYTES : 0));
}

static void end_line(struct run *run)
{
	while (run->line_len && run->line[run->line_len - 1] == ' ')
		run->line_len--;
	run->line[run->line_len] = 0;
	run->line_len = 0;
	if (!run->line[0])
		return;
	keep_tail(run);
	if (!run->command->quiet && !run->command->output)
		runner_say(run->runner, "  %s", run->line);
}

static void take_output(struct run *run, const char *data, size_t len)
{
	struct buf *out = run->command->output;

	if (out && out->len + len <= OUTPUT_MAX)
		(void)buf_append(out, data, len); /* what is missing will be noticed */
	for (size_t i = 0; i < len; i++) {
		char c = data[i];

		if (c == '\n') {
			end_line(run);
		} else if (c == '\r') {
			run->returned = true;
			continue;
		} else {
			if (run->returned)
				run->line_len = 0;
			if (run->line_len < LINE_MAX_LEN)
				run->line[run->line_len++] = (unsigned char)c < ' ' ? ' ' : c;
		}
		run->returned = false;
	}
}

/* Return: 1 more may come; 0 end of stream; negative errno */
static int drain(struct run *run)
{
	char chunk[8192];
	ssize_t n;

	for (;;) {
		n = read(run->out_fd, chunk, sizeof(chunk));
		if (n > 0)
			take_output(run, chunk, (size_t)n);
		else if (n == 0)
			return 0;
		else if (errno != EINTR)
			return errno == EAGAIN ? 1 : error_errno();
	}
}

static int check_space(const struct run *run)
{
	const struct runner *r = run->runner;
	struct statvfs v;

	if (!r->watch_dir || statvfs(r->watch_dir, &v) < 0 ||
	    (uint64_t)v.f_bavail * v.f_frsize >= RUNNER_FREE_BYTES)
		return 0;
	problem_set(r->problem, 507, "%s: no space left on the file system of %s",
		    run->command->what, r->watch_dir);
	return -ENOSPC;
}

static int look(struct run *run, uint64_t deadline_ns)
{
	int r = runner_cancelled(run->runner);

	if (r == 0)
		r = check_space(run);
	if (r == 0 && deadline_passed(deadline_ns)) {
		problem_set(run->runner->problem, 504, "%s: not done in time; its last output: %s",
			    run->command->what, run->tail[0] ? run->tail : "none");
		r = -ETIMEDOUT;
	}
	return r;
}

static int wait_for_end(struct run *run, uint64_t deadline_ns)
{
	struct pollfd p[2] = {{.fd = run->out_fd, .events = POLLIN},
			      {.fd = run->pidfd, .events = POLLIN}};

	for (;;) {
		int n = poll(p, 2, LOOK_EVERY_MS), r = 0;

		if (n < 0 && errno != EINTR)
			return error_errno();
		if (n > 0 && p[0].revents) {
			r = drain(run);
			if (r == 0)
				p[0].fd = -1;
		}
		if (n > 0 && p[1].revents)
			return MIN(drain(run), 0);
		if (r >= 0)
			r = look(run, deadline_ns);
		if (r < 0)
			return r;
	}
}

static int describe_end(const struct run *run, const struct pidfd_end *end)
{
	const struct runner_command *c = run->command;

	if (!end->signal && !end->status)
		return 0;
	if (end->signal)
		problem_set(run->runner->problem, 500, "%s: killed by signal %d: %s", c->what,
			    end->signal, run->tail);
	else
		problem_set(run->runner->problem, 500, "%s: exit code %d: %s", c->what, end->status,
			    run->tail[0] ? run->tail : "it printed nothing");
	return -EIO;
}

static int start(struct run *run, int out_w, const int *guard)
{
	const struct runner_command *c = run->command;
	const struct spawn_options o = {.argv = c->argv,
					.env = c->env,
					.cwd = c->cwd,
					.fds = c->guarded ? guard : c->fds,
					.n_fds = c->guarded ? 1 : c->n_fds,
					.output_fd = out_w,
					.new_session = true,
					.die_with_parent = true};
	int r = spawn(&o, &run->pid, &run->pidfd);

	if (r == -ENOENT) {
		problem_set(run->runner->problem, 500,
			    "%s: there is no program \"%s\" on this host", c->what, c->argv[0]);
		problem_hint(run->runner->problem, "run tools/install-deps");
	} else if (r < 0) {
		problem_errno(run->runner->problem, r, "%s: %s", c->what, c->argv[0]);
	}
	return r;
}

static int make_pipe(int *ret_r, int *ret_w)
{
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	*ret_r = pipes[0];
	*ret_w = pipes[1];
	return 0;
}

int runner_run(const struct runner *runner, const struct runner_command *c)
{
	struct run run = {.runner = runner, .command = c, .out_fd = -1, .pidfd = -1};
	uint64_t deadline_ns = deadline_after_ms(c->timeout_ms ? c->timeout_ms : RUNNER_TIMEOUT_MS);
	_cleanup_fd_ int out_r = -1, out_w = -1, pidfd = -1, guard_r = -1, guard_w = -1;
	struct pidfd_end end = {0};
	int r = make_pipe(&out_r, &out_w);

	if (r == 0 && c->guarded)
		r = make_pipe(&guard_r, &guard_w); /* ours stays open until we are through */
	if (r == 0)
		r = fd_set_nonblock(out_r, 1);
	run.out_fd = out_r;
	if (r == 0)
		r = start(&run, out_w, &guard_r);
	if (r < 0)
		return r;
	pidfd = run.pidfd;
	out_w = fd_close(out_w);
	r = wait_for_end(&run, deadline_ns);
	if (r < 0) {
		(void)kill(-run.pid, SIGKILL); /* not collected yet: still its own group */
		(void)pidfd_wait(pidfd, deadline_after_ms(KILL_MS));
	}
	end_line(&run);
	if (pidfd_reap(pidfd, &end) == 0 && r == 0)
		r = describe_end(&run, &end);
	if (r < 0)
		problem_errno(runner->problem, r, "%s", c->what);
	return r;
}
