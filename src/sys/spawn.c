/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork, then only async-signal-safe calls until exec: another thread may have held any lock at the
 * moment of the fork. Whatever needs memory (the environment) is made before.
 *
 * Descriptors: the child's table is an array of sources, where source i becomes descriptor i: null,
 * output, output, the caller's, and last the pipe that reports a failing exec. Sources may collide
 * with targets (source 5 is to become 3, source 3 to become 4), so all of them move above the
 * targets first. Then close_range() drops the rest, so it does not matter what was CLOEXEC.
 */
#include "sys/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "sys/pidfd.h"

#define TABLE_MAX (3 + SPAWN_MAX_FDS + 1)

struct plan {
	const struct spawn_options *options;
	pid_t parent;
	char **envp;
	int table[TABLE_MAX]; /* becomes 0, 1, 2, ...; the last is the report pipe */
	int n_table;
};

/*
 * By the system call, since glibc's sigaction() refuses its own two signals (32 and 33), and its
 * posix_spawn() leaves them ignored: whatever make or another such parent starts inherits that.
 * All zeros is the kernel's struct sigaction for SIG_DFL.
 */
static void reset_signals(void)
{
	static const unsigned long dfl[4];
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++) /* SIGKILL and SIGSTOP refuse, and may */
		(void)syscall(SYS_rt_sigaction, sig, dfl, NULL, sizeof(unsigned long));
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL); /* cannot fail with these arguments */
}

static int move_descriptors(struct plan *p)
{
	for (int i = 0; i < p->n_table; i++) {
		p->table[i] = fcntl(p->table[i], F_DUPFD_CLOEXEC, p->n_table);
		if (p->table[i] < 0)
			return -errno;
	}
	for (int i = 0; i < p->n_table; i++)
		if (dup3(p->table[i], i, i == p->n_table - 1 ? O_CLOEXEC : 0) < 0)
			return -errno;
	return close_range((unsigned)p->n_table, ~0u, 0) < 0 ? -errno : 0;
}

static int apply_limits(const struct spawn_options *o)
{
	for (size_t i = 0; i < o->n_limits; i++) {
		struct rlimit l = {o->limits[i].value, o->limits[i].value};

		if (setrlimit((__rlimit_resource_t)o->limits[i].resource, &l) < 0)
			return -errno;
	}
	return 0;
}

static int child_prepare(struct plan *p)
{
	const struct spawn_options *o = p->options;
	int r;

	reset_signals();
	if (o->new_session && setsid() < 0)
		return -errno;
	if (o->die_with_parent) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
			return -errno;
		if (getppid() != p->parent)
			return -ESRCH; /* it ended before that */
	}
	if (o->cwd && chdir(o->cwd) < 0)
		return -errno;
	if (o->netns_fd > 0 && setns(o->netns_fd, CLONE_NEWNET) < 0)
		return -errno;
	r = apply_limits(o);
	return r < 0 ? r : move_descriptors(p);
}

static void __attribute__((noreturn)) child_run(struct plan *p)
{
	int report = p->table[p->n_table - 1];
	int r = child_prepare(p);

	if (r == 0) {
		report = p->n_table - 1;
		(void)execvpe(p->options->argv[0], (char *const *)p->options->argv, p->envp);
		r = -errno;
	} else if (fcntl(report, F_GETFD) < 0) {
		report = p->n_table - 1; /* failed after the table had been moved */
	}
	(void)!write(report, &r, sizeof(r)); /* the parent sees an early end otherwise */
	_exit(127);
}

static bool same_name(const char *a, const char *b)
{
	size_t n = strcspn(a, "=");

	return strncmp(a, b, n) == 0 && b[n] == '=';
}

static bool is_replaced(const char *entry, const char *const *env)
{
	for (; env && *env; env++)
		if (same_name(*env, entry))
			return true;
	return false;
}

static size_t count_strings(char *const *v)
{
	size_t n = 0;

	while (v && v[n])
		n++;
	return n;
}

/* The new environment: pointers to our strings and the caller's. */
static char **make_environment(const struct spawn_options *o)
{
	size_t n = 0;
	char **envp = calloc(count_strings(environ) + count_strings((char *const *)o->env) + 1,
			     sizeof(*envp));

	if (!envp)
		return NULL;
	for (char **e = environ; e && *e; e++)
		if (!is_replaced(*e, o->env) && (!o->clear_env || str_has_prefix(*e, "PATH=")))
			envp[n++] = *e;
	for (const char *const *e = o->env; e && *e; e++)
		envp[n++] = (char *)*e;
	return envp;
}

/* What the child had to say before its exec: nothing when that worked. */
static int read_report(int fd)
{
	int r = 0, e = fd_read_full(fd, &r, sizeof(r));

	if (e == -ENODATA)
		return 0;
	return e < 0 ? e : r;
}

/* What fork() is, but for handlers of which we have none, and with a namespace. */
static pid_t new_process(const struct spawn_options *o)
{
	if (!o->new_pids)
		return fork();
	return (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
}

static int spawn_planned(struct plan *p, pid_t *ret_pid, int *ret_pidfd)
{
	_cleanup_fd_ int report_r = -1, report_w = -1, pidfd = -1;
	sigset_t all, old;
	int pipes[2], r;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	report_r = pipes[0];
	report_w = pipes[1];
	p->table[p->n_table++] = report_w;
	/* no handler of ours may run in the child */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	pid = new_process(p->options);
	if (pid == 0)
		child_run(p);
	r = pid < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r < 0)
		return error_trace(r);
	report_w = fd_close(report_w);
	pidfd = pidfd_from_pid(pid);
	r = pidfd < 0 ? pidfd : read_report(report_r);
	if (r < 0) {
		(void)kill(pid, SIGKILL); /* not yet collected, so the pid is still the child's */
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return r;
	}
	if (ret_pid)
		*ret_pid = pid;
	*ret_pidfd = take_fd(pidfd);
	return 0;
}

int spawn(const struct spawn_options *options, pid_t *ret_pid, int *ret_pidfd)
{
	_cleanup_free_ char **envp = make_environment(options);
	_cleanup_fd_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int output = options->output_fd < 0 ? null : options->output_fd;
	struct plan p = {.parent = getpid(),
			 .options = options,
			 .envp = envp,
			 .table = {null, output, output},
			 .n_table = 3};

	if (!envp)
		return -ENOMEM;
	if (null < 0)
		return error_errno();
	if (options->n_fds > SPAWN_MAX_FDS)
		return error_trace(-EINVAL);
	for (size_t i = 0; i < options->n_fds; i++)
		p.table[p.n_table++] = options->fds[i];
	return spawn_planned(&p, ret_pid, ret_pidfd);
}

/* Read what is there. Return: 1 more may come, 0 end of stream; negative errno */
static int drain(int fd, struct buf *output, size_t base)
{
	for (;;) {
		char chunk[16384];
		ssize_t n = read(fd, chunk, sizeof(chunk));
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 1 : error_errno();
		if (n == 0)
			return 0;
		if (!output)
			continue;
		r = buf_append(output, chunk, (size_t)n);
		if (r < 0)
			return r;
		if (output->len - base > SPAWN_OUTPUT_MAX) {
			size_t cut = output->len - base - SPAWN_OUTPUT_MAX;

			memmove(output->data + base, output->data + base + cut, SPAWN_OUTPUT_MAX);
			output->len -= cut;
			output->data[output->len] = 0;
		}
	}
}

/* Until the program itself ended; a descendant that keeps the pipe open does not hold us up. */
static int collect(int out, int pidfd, uint64_t deadline_ns, struct buf *output)
{
	size_t base = output ? output->len : 0;
	struct pollfd p[2] = {{.fd = out, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};

	for (;;) {
		int n = poll(p, 2, deadline_poll_ms(deadline_ns)), r;

		if (n < 0 && errno != EINTR)
			return error_errno();
		if (n > 0 && p[0].revents) {
			r = drain(out, output, base);
			if (r < 0)
				return r;
			if (r == 0)
				p[0].fd = -1;
		}
		if (n > 0 && p[1].revents)
			return MIN(drain(out, output, base), 0);
		if (deadline_passed(deadline_ns))
			return -ETIMEDOUT;
	}
}

static int run(struct spawn_options o, uint64_t deadline_ns, struct buf *output, int *ret_status)
{
	_cleanup_fd_ int out_r = -1, out_w = -1, pidfd = -1;
	struct pidfd_end end = {0};
	int pipes[2], r;
	pid_t pid = 0;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	out_r = pipes[0];
	out_w = o.output_fd = pipes[1];
	r = fd_set_nonblock(out_r, 1);
	if (r < 0)
		return r;
	r = spawn(&o, &pid, &pidfd);
	if (r < 0)
		return r;
	out_w = fd_close(out_w);
	r = collect(out_r, pidfd, deadline_ns, output);
	if (r < 0) {
		(void)kill(
			-pid,
			SIGKILL); /* its whole group; not collected yet, so it is still its own */
		(void)pidfd_wait(pidfd,
				 deadline_after_ms(5000)); /* SIGKILL takes its time at most */
	}
	if (pidfd_reap(pidfd, &end) == 0 && r == 0)
		*ret_status = end.signal ? 128 + end.signal : end.status;
	return r;
}

int spawn_run(const char *const argv[], const char *cwd, uint64_t deadline_ns, struct buf *output,
	      int *ret_status)
{
	return run((struct spawn_options){.argv = argv, .cwd = cwd, .new_session = true},
		   deadline_ns, output, ret_status);
}

int spawn_run_isolated(const char *const argv[], bool new_pids, uint64_t deadline_ns,
		       struct buf *output, int *ret_status)
{
	return run((struct spawn_options){.argv = argv, .new_session = true, .new_pids = new_pids},
		   deadline_ns, output, ret_status);
}
