/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define CHILD_FILES_SOFT 1024
#define CHILD_FILES_HARD 65536

/* Both ends of everything the child gets; those that were handed on are -1. */
struct plumbing {
	int in[2], out[2], err[2], exec[2];
};

static void plumbing_close(struct plumbing *p)
{
	int *fds[] = {p->in, p->out, p->err, p->exec};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		for (int k = 0; k < 2; k++)
			fds[i][k] = fd_close(fds[i][k]);
}

/*
 * The child's ends are owned by its user: opening /dev/stdout again must work for it.
 * Only our end is non-blocking.
 */
static int pipe_open(int p[2], int ours, const struct user *u)
{
	if (pipe2(p, O_CLOEXEC) < 0)
		return error_errno();
	if (u->uid != geteuid() && fchown(p[!ours], u->uid, u->gid) < 0)
		return error_errno();
	return fd_set_nonblock(p[ours], 1);
}

/* A descriptor for each direction: a loop watches one descriptor once. */
static int plumbing_open_pty(struct plumbing *p, const struct spawn_config *c)
{
	int r = pty_open(&c->size, c->user->uid, &p->out[0], &p->out[1]);

	if (r < 0)
		return r;
	p->in[1] = fcntl(p->out[0], F_DUPFD_CLOEXEC, 0);
	return p->in[1] < 0 ? error_errno() : 0;
}

static int plumbing_open_pipes(struct plumbing *p, const struct spawn_config *c)
{
	int r;

	if (c->with_stdin) {
		r = pipe_open(p->in, 1, c->user);
	} else {
		p->in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		r = p->in[0] < 0 ? error_errno() : 0;
	}
	if (r == 0)
		r = pipe_open(p->out, 0, c->user);
	if (r == 0)
		r = pipe_open(p->err, 0, c->user);
	return r;
}

static int plumbing_open(struct plumbing *p, const struct spawn_config *c)
{
	int r;

	*p = (struct plumbing){{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
	r = c->with_pty ? plumbing_open_pty(p, c) : plumbing_open_pipes(p, c);
	if (r == 0 && pipe2(p->exec, O_CLOEXEC) < 0)
		r = error_errno();
	if (r == 0)
		r = fd_set_nonblock(p->exec[0], 1);
	return r;
}

/* --- in the child; every step returns 0 or -1 with errno ----------------------------------------
 */

static void child_reset_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
}

/* What only the agent may have. Best effort: none of it is worth not running the program. */
static void child_reset_privileges(const struct spawn_config *c)
{
	const struct rlimit files = {CHILD_FILES_SOFT, CHILD_FILES_HARD};
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		(void)!(c->system ? write(fd, "0", 1) : write(fd, "100", 3));
		close(fd);
	}
	(void)setrlimit(RLIMIT_NOFILE, &files);
	umask(022);
}

static int child_join_cgroup(const struct spawn_config *c)
{
	return c->procs_fd < 0 || write(c->procs_fd, "0", 1) == 1 ? 0 : -1;
}

static int child_stdio(const struct spawn_config *c, const struct plumbing *p)
{
	int tty = p->out[1];

	if (c->with_pty)
		return ioctl(tty, TIOCSCTTY, 0) < 0 || dup2(tty, 0) < 0 || dup2(tty, 1) < 0 ||
				       dup2(tty, 2) < 0
			       ? -1
			       : 0;
	return dup2(p->in[0], 0) < 0 || dup2(p->out[1], 1) < 0 || dup2(p->err[1], 2) < 0 ? -1 : 0;
}

static int child_become(const struct user *u)
{
	if (geteuid() != 0 && geteuid() == u->uid)
		return 0;
	if (setgroups(u->n_groups, u->groups) < 0 || setgid(u->gid) < 0)
		return -1;
	return setuid(u->uid);
}

static int child_cwd(const struct spawn_config *c)
{
	if (chdir(c->cwd) == 0)
		return 0;
	return c->cwd_is_default ? chdir("/") : -1;
}

static enum spawn_stage child_run(const struct spawn_config *c, const struct plumbing *p)
{
	child_reset_signals();
	(void)setsid(); /* cannot fail in a fresh child */
	child_reset_privileges(c);
	if (child_join_cgroup(c) < 0)
		return SPAWN_CGROUP;
	if (child_stdio(c, p) < 0)
		return SPAWN_STDIO;
	if (child_become(c->user) < 0)
		return SPAWN_USER;
	if (child_cwd(c) < 0)
		return SPAWN_CWD;
	environ = c->envp;
	(void)execvp(c->argv[0], c->argv); /* returns only to fail */
	return SPAWN_EXEC;
}

static _Noreturn void child_main(const struct spawn_config *c, const struct plumbing *p)
{
	struct spawn_failure f = {.stage = child_run(c, p)};

	f.error = errno;
	(void)!write(p->exec[1], &f, sizeof(f)); /* nobody else to tell */
	_exit(127);
}

int spawn_start(const struct spawn_config *config, struct spawn *ret)
{
	struct plumbing p;
	int r = plumbing_open(&p, config);
	pid_t pid;

	if (r < 0) {
		plumbing_close(&p);
		return r;
	}
	pid = fork();
	if (pid == 0)
		child_main(config, &p);
	if (pid < 0) {
		r = error_errno();
	} else {
		*ret = (struct spawn){.pid = pid,
				      .stdin_fd = take_fd(p.in[1]),
				      .stdout_fd = take_fd(p.out[0]),
				      .stderr_fd = take_fd(p.err[0]),
				      .exec_fd = take_fd(p.exec[0])};
	}
	plumbing_close(&p);
	return r;
}
