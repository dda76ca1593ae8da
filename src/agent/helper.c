/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/helper.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/error.h"
#include "base/fd.h"

#define HELPER_FILES 8192 /* one for each level of a tree */

/* All but HELPER_FD and standard error: nobody may wait for an end that only a helper holds. */
static void child_descriptors(int fd)
{
	if (fd != HELPER_FD && dup2(fd, HELPER_FD) < 0)
		_exit(127);
	(void)close_range(HELPER_FD + 1, ~0u, 0); /* Linux 5.9; before it some stay open */
}

static _Noreturn void child_main(void (*work)(void *ctx), void *ctx, int fd, pid_t parent)
{
	const struct rlimit files = {HELPER_FILES, HELPER_FILES};
	sigset_t none;
	int score;

	child_descriptors(fd);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)prctl(PR_SET_NAME, "dorm-helper");
	(void)setrlimit(RLIMIT_NOFILE, &files); /* less is only fewer levels */
	umask(0);
	score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (score >= 0) {
		(void)!write(score, "200", 3);
		close(score);
	}
	work(ctx);
	_exit(0);
}

int helper_start(struct agent *a, void (*work)(void *ctx), void *ctx, struct helper *ret)
{
	_cleanup_fd_ int ours = -1, theirs = -1;
	pid_t pid, parent = getpid();
	int sv[2], r;

	if (a->helpers.n >= HELPER_MAX)
		return -EAGAIN;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return error_errno();
	ours = sv[0];
	theirs = sv[1];
	r = fd_set_nonblock(ours, 1);
	if (r < 0)
		return r;
	pid = fork();
	if (pid == 0)
		child_main(work, ctx, theirs, parent);
	if (pid < 0)
		return error_errno();
	a->helpers.pids[a->helpers.n++] = pid;
	*ret = (struct helper){.pid = pid, .fd = take_fd(ours)};
	return 0;
}

struct helper helper_stop(struct agent *a, struct helper h)
{
	for (unsigned i = 0; h.pid > 0 && i < a->helpers.n; i++)
		if (a->helpers.pids[i] == h.pid) /* not reaped: the number is still its own */
			(void)kill(h.pid, SIGKILL);
	fd_close(h.fd);
	return HELPER_NONE;
}

bool helper_reaped(struct helper_set *set, pid_t pid)
{
	for (unsigned i = 0; i < set->n; i++) {
		if (set->pids[i] != pid)
			continue;
		set->pids[i] = set->pids[--set->n];
		return true;
	}
	return false;
}
