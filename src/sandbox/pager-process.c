/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/pager-process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "sys/pidfd.h"
#include "sys/spawn.h"

#define PING_MS	 3000
#define START_MS 10000
#define STOP_MS	 5000
#define END_MS	 3000

int pager_process_find(struct pager_process *p, struct pager_client *client)
{
	int pid, fd, r;

	r = pager_client_ping(client, deadline_after_ms(PING_MS), &pid);
	if (r < 0)
		return r;
	if (p->pid == pid && p->pidfd >= 0)
		return 0;
	fd = pidfd_from_pid(pid);
	if (fd < 0)
		return fd;
	pager_process_deinit(p);
	p->pid = pid;
	p->pidfd = fd;
	return 0;
}

static int start(struct pager_process *p, const char *program, const char *run_dir,
		 struct problem *problem)
{
	_cleanup_free_ char *socket = str_printf("%s/pager.sock", run_dir);
	_cleanup_free_ char *sessions = str_printf("%s/sessions", run_dir);
	_cleanup_free_ char *log = str_printf("%s/pager.log", run_dir);
	_cleanup_fd_ int ready = -1, child_end = -1, output = -1;
	int pipes[2], r;
	pid_t pid;

	if (!socket || !sessions || !log)
		return -ENOMEM;
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	ready = pipes[0];
	child_end = pipes[1];
	output = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (output < 0) {
		r = error_errno();
		problem_errno(problem, r, "%s", log);
		return r;
	}
	const char *const argv[] = {program,  "--socket",   socket, "--run-dir",
				    sessions, "--ready-fd", "3",    NULL};
	const struct spawn_options options = {.argv = argv,
					      .fds = &child_end,
					      .n_fds = 1,
					      .output_fd = output,
					      .new_session = true};
	pager_process_deinit(p);
	r = spawn(&options, &pid, &p->pidfd);
	if (r < 0) {
		problem_errno(problem, r, "starting %s", program);
		return r;
	}
	child_end = fd_close(child_end);
	p->pid = pid;
	r = fd_poll(ready, POLLIN, deadline_after_ms(START_MS));
	if (r < 0 || !(r & POLLIN)) {
		problem_set(problem, 503, "the pager did not start; see %s", log);
		return r < 0 ? r : -ETIMEDOUT;
	}
	log_info("pager started pid=%d", (int)pid);
	return 0;
}

static int await(struct pager_process *p, struct pager_client *client)
{
	uint64_t deadline = deadline_after_ms(END_MS);

	while (pager_process_find(p, client) < 0) {
		if (deadline_passed(deadline))
			return -ETIMEDOUT;
		clock_sleep_ms(20);
	}
	return 0;
}

int pager_process_ensure(struct pager_process *p, struct pager_client *client, const char *program,
			 const char *run_dir, struct problem *problem)
{
	struct problem local = PROBLEM_INIT;
	int r = pager_process_find(p, client);

	if (r == 0)
		return 0;
	if (p->pid && r != -ETIMEDOUT) /* it refuses: it is about to be gone, give it the time */
		(void)fd_poll(p->pidfd, POLLIN, deadline_after_ms(END_MS));
	if (p->pid && pidfd_is_gone(p->pidfd) == 0) {
		problem_set(problem, 503, "the pager (pid %d) does not answer", (int)p->pid);
		problem_hint(problem, "if this goes on, kill it: a new one is started, but the "
				      "sandboxes it serves are lost");
		return r;
	}
	r = start(p, program, run_dir, &local);
	if (r < 0 && await(p, client) < 0) { /* one that a daemon before us had just started? */
		if (problem)
			*problem = local;
		return error_trace(r);
	}
	r = pager_process_find(p, client);
	if (r < 0)
		problem_errno(problem, r, "the pager that was just started does not answer");
	return error_trace(r);
}

void pager_process_stop(struct pager_process *p)
{
	if (p->pidfd < 0)
		return;
	(void)pidfd_signal(p->pidfd, SIGTERM); /* gone already is as good */
	(void)fd_poll(p->pidfd, POLLIN, deadline_after_ms(STOP_MS));
	(void)waitpid(p->pid, NULL, WNOHANG); /* not our child when an earlier daemon started it */
	pager_process_deinit(p);
}

void pager_process_deinit(struct pager_process *p)
{
	if (p->pid)
		(void)waitpid(p->pid, NULL, WNOHANG); /* reap it if it was ours and is gone */
	p->pidfd = fd_close(p->pidfd);
	p->pid = 0;
}
