/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/pager-process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "sys/pidfd.h"
#include "sys/spawn.h"

#define PING_MS	    3000
#define HELP_MS	    5000
#define START_MS    10000
#define STOP_MS	    5000
#define END_MS	    3000
#define EXIT_MS	    500 /* from closing its descriptors to having ended */
#define START_TRIES 3

int pager_process_find(struct pager_process *p, struct pager_client *client)
{
	struct pager_about about;
	int fd, r;

	r = pager_client_about(client, deadline_after_ms(PING_MS), &about);
	if (r < 0)
		return r;
	p->takes_back = about.takes_back;
	if (p->pid == about.pid && p->pidfd >= 0)
		return 0;
	fd = pidfd_from_pid(about.pid);
	if (fd < 0)
		return fd;
	pager_process_deinit(p);
	*p = (struct pager_process){.pid = about.pid, .pidfd = fd, .takes_back = about.takes_back};
	return 0;
}

/* ---- its command line -------------------------------------------------------------------------
 */

#define MAX_ARGS 24

struct arguments {
	const char *argv[MAX_ARGS];
	size_t n;
	char *owned[MAX_ARGS];
	size_t n_owned;
};

static void arguments_deinit(struct arguments *a)
{
	for (size_t i = 0; i < a->n_owned; i++)
		free(a->owned[i]);
}

static void add(struct arguments *a, const char *word)
{
	assert(a->n + 1 < MAX_ARGS);
	a->argv[a->n++] = word;
}

static int add_owned(struct arguments *a, char *word)
{
	if (!word)
		return -ENOMEM;
	a->owned[a->n_owned++] = word;
	add(a, word);
	return 0;
}

/* The program may be older or newer than this daemon: it gets only what its --help lists. */
static bool knows(const struct buf *help, const char *flag)
{
	size_t n = strlen(flag);

	for (const char *p = help->data; p && (p = strstr(p, flag)); p += n)
		if (p[n] == ' ' || p[n] == '=' || p[n] == '\n' || p[n] == ',')
			return true;
	return false;
}

static int add_flag(struct arguments *a, const struct buf *help, const char *flag, char *value)
{
	if (knows(help, flag)) {
		add(a, flag);
		return value ? add_owned(a, value) : 0;
	}
	log_warn("this dorm-pager has no %s: it goes without", flag);
	free(value);
	return 0;
}

static int read_help(const char *program, struct buf *ret)
{
	const char *const argv[] = {program, "--help", NULL};
	int status = 0, r;

	r = spawn_run(argv, NULL, deadline_after_ms(HELP_MS), ret, &status);
	return r < 0 ? r : buf_append(ret, "", 1);
}

static bool has_options(const struct pager_process_options *o)
{
	return o->no_prefetch || o->no_userfaultfd || o->memory_limit || o->image_limit;
}

static int add_options(struct arguments *a, const struct pager_process_options *o,
		       const struct buf *help)
{
	int r = 0;

	if (o->no_prefetch)
		r = add_flag(a, help, "--no-prefetch", NULL);
	if (r == 0 && o->no_userfaultfd)
		r = add_flag(a, help, "--no-userfaultfd", NULL);
	if (r == 0 && o->memory_limit)
		r = add_flag(a, help, "--memory-limit",
			     str_printf("%llu", (unsigned long long)o->memory_limit));
	if (r == 0 && o->image_limit)
		r = add_flag(a, help, "--image-limit",
			     str_printf("%llu", (unsigned long long)o->image_limit));
	return r;
}

static int make_arguments(struct arguments *a, const struct pager_process_options *o, bool takeover)
{
	_cleanup_buf_ struct buf help = {0};
	int r;

	add(a, o->program);
	add(a, "--socket");
	r = add_owned(a, str_printf("%s/pager.sock", o->run_dir));
	add(a, "--run-dir");
	if (r == 0)
		r = add_owned(a, str_printf("%s/sessions", o->run_dir));
	add(a, "--ready-fd");
	add(a, "3");
	/* not asked for what is not needed: VMs may wait for this pager */
	if (r == 0 && (takeover || has_options(o)))
		r = read_help(o->program, &help);
	if (r == 0 && takeover) {
		if (!knows(&help, "--takeover"))
			return -EOPNOTSUPP;
		add(a, "--takeover");
	}
	if (r == 0)
		r = add_options(a, o, &help);
	add(a, NULL);
	return r;
}

/* ---- starting ---------------------------------------------------------------------------------
 */

static int spawn_pager(const struct arguments *a, int ready, const char *run_dir,
		       struct problem *problem, pid_t *ret_pid, int *ret_pidfd)
{
	_cleanup_free_ char *log = str_printf("%s/pager.log", run_dir);
	_cleanup_fd_ int output = -1;
	int r;

	if (!log)
		return -ENOMEM;
	output = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (output < 0) {
		r = error_errno();
		problem_errno(problem, r, "%s", log);
		return r;
	}
	const struct spawn_options options = {.argv = a->argv,
					      .fds = &ready,
					      .n_fds = 1,
					      .output_fd = output,
					      .new_session = true};
	r = spawn(&options, ret_pid, ret_pidfd);
	if (r < 0)
		problem_errno(problem, r, "starting %s", a->argv[0]);
	return r;
}

static void abandon(struct pager_process *p)
{
	(void)pidfd_signal(p->pidfd, SIGKILL); /* gone already is as good */
	(void)fd_poll(p->pidfd, POLLIN, deadline_after_ms(END_MS));
	pager_process_deinit(p);
}

/* It closed its end of the pipe without a word. One that exits has a reason, which is in the log,
 * and may be that another pager is about to serve; one that was killed has none. */
static bool was_killed(const struct pager_process *p)
{
	struct pidfd_end end = {0};

	return pidfd_wait(p->pidfd, deadline_after_ms(EXIT_MS)) == 0 &&
	       pidfd_reap(p->pidfd, &end) == 0 && end.signal != 0;
}

/* Return: 0; -EOWNERDEAD when it was killed before it was ready; negative errno */
static int start(struct pager_process *p, const struct pager_process_options *o, bool takeover,
		 struct problem *problem)
{
	__attribute__((cleanup(arguments_deinit))) struct arguments a = {0};
	_cleanup_fd_ int ready = -1, child_end = -1;
	struct pager_process new = PAGER_PROCESS_INIT;
	uint64_t t0 = clock_now_ns(), started;
	int pipes[2], r;

	r = make_arguments(&a, o, takeover);
	if (r < 0) {
		problem_errno(problem, r, "asking %s for its options", o->program);
		return r;
	}
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	ready = pipes[0];
	child_end = pipes[1];
	if (!takeover)
		pager_process_deinit(p);
	r = spawn_pager(&a, child_end, o->run_dir, problem, &new.pid, &new.pidfd);
	if (r < 0)
		return r;
	started = clock_now_ns();
	child_end = fd_close(child_end);
	r = fd_poll(ready, POLLIN, deadline_after_ms(START_MS));
	if (r < 0 || !(r & POLLIN)) {
		problem_set(problem, 503, "the pager did not start; see %s/pager.log", o->run_dir);
		if (r > 0 && was_killed(&new))
			r = -EOWNERDEAD;
		if (takeover) /* the old one is still the one that counts, if it lives */
			abandon(&new);
		else
			*p = new;
		return r < 0 ? r : -ETIMEDOUT;
	}
	if (takeover && p->pidfd >= 0)
		(void)fd_poll(p->pidfd, POLLIN, deadline_after_ms(END_MS));
	pager_process_deinit(p);
	*p = new;
	log_info("pager started pid=%d exec_ms=%.1f ready_ms=%.1f", (int)p->pid,
		 (double)(started - t0) / 1e6, (double)(clock_now_ns() - t0) / 1e6);
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

/* What is lost when a pager is killed that could not be taken over from. */
static void hint_kill(const struct pager_process *p, struct problem *problem)
{
	problem_hint(problem,
		     p->takes_back ? "if this goes on, kill it: a new one takes its sandboxes back"
				   : "if this goes on, kill it: a new one is started, but the "
				     "sandboxes it serves are lost");
}

int pager_process_ensure(struct pager_process *p, struct pager_client *client,
			 const struct pager_process_options *options, struct problem *problem)
{
	struct problem local = PROBLEM_INIT;
	int r = pager_process_find(p, client);

	if (r == 0)
		return 0;
	if (p->pid && r != -ETIMEDOUT) /* it refuses: it is about to be gone, give it the time */
		(void)fd_poll(p->pidfd, POLLIN, deadline_after_ms(END_MS));
	if (p->pid && pidfd_is_gone(p->pidfd) == 0) {
		problem_set(problem, 503, "the pager (pid %d) does not answer", (int)p->pid);
		hint_kill(p, problem);
		return r;
	}
	for (int i = 0; i < START_TRIES; i++) { /* VMs wait: whatever kills them may stop */
		local = PROBLEM_INIT;
		r = start(p, options, false, &local);
		if (r != -EOWNERDEAD)
			break;
	}
	if (r == -EOWNERDEAD ||
	    (r < 0 && await(p, client) < 0)) { /* one that a daemon before us had just started? */
		if (problem)
			*problem = local;
		return error_trace(r);
	}
	r = pager_process_find(p, client);
	if (r < 0)
		problem_errno(problem, r, "the pager that was just started does not answer");
	return error_trace(r);
}

int pager_process_upgrade(struct pager_process *p, struct pager_client *client,
			  const struct pager_process_options *options, struct problem *problem)
{
	int r = start(p, options, true, problem);

	if (r == -EOPNOTSUPP) {
		*problem = PROBLEM_INIT;
		problem_set(problem, 501, "%s cannot take over from another pager",
			    options->program);
		problem_hint(problem, "install one whose --help lists --takeover");
		return r;
	}
	return r < 0 ? error_trace(r) : error_trace(await(p, client));
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
