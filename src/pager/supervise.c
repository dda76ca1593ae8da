/* SPDX-License-Identifier: Apache-2.0 */
/*
 * supervise.c - the parent's loop
 *
 * state      holds                                             left by
 * RUNNING    a worker, its pidfd and its keeper socket         its end: a signal -> WAITING,
 *                                                              an exit -> the end
 * WAITING    no worker until @start_ns; the kept descriptors   the time -> RUNNING,
 *            and the listening sockets' backlogs wait          SIGTERM -> the end
 *
 * Each worker has a socketpair of its own, so that nothing which a dead worker left unread is taken
 * for its successor's. A forked worker inherits the keeper's descriptors as well; it closes those
 * at once and asks for them by protocol, so that there is one way to get them.
 */
#include "pager/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "pager/keeper.h"
#include "sys/pidfd.h"

struct supervise {
	struct supervise_options options;
	struct keeper *keeper;
	sigset_t old_signals;
	int signal_fd;
	int pidfd;
	int pid;
	int sock;
	uint32_t generation; /* of the next worker */
	uint32_t n_rapid;    /* rapid deaths in a row */
	uint64_t started_ns;
	uint64_t start_ns; /* when to start the next worker, while there is none */
	bool ending;	   /* a signal to end was passed on */
};

static int take_signals(struct supervise *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, &s->old_signals) < 0)
		return error_errno();
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? error_errno() : 0;
}

static void supervise_deinit(struct supervise *s)
{
	s->keeper = keeper_free(s->keeper);
	s->signal_fd = fd_close(s->signal_fd);
	s->pidfd = fd_close(s->pidfd);
	s->sock = fd_close(s->sock);
	(void)sigprocmask(SIG_SETMASK, &s->old_signals, NULL); /* a mask that was valid before */
}

/* Return: SUPERVISE_E_WORKER in the child; 0; negative errno */
static int start_worker(struct supervise *s, struct supervise_worker *ret_worker)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return error_errno();
	pid = fork();
	if (pid == 0) {
		fd_close(pair[0]);
		*ret_worker = (struct supervise_worker){.keeper_sock = pair[1],
							.generation = s->generation};
		return SUPERVISE_E_WORKER;
	}
	fd_close(pair[1]);
	if (pid < 0) {
		fd_close(pair[0]);
		return error_errno();
	}
	s->sock = pair[0];
	s->pid = pid;
	s->pidfd = pidfd_from_pid(pid);
	s->started_ns = clock_now_ns();
	s->generation++;
	return s->pidfd < 0 ? s->pidfd : 0;
}

static void pass_signal(struct supervise *s)
{
	struct signalfd_siginfo info;

	if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	s->ending = true;
	if (s->pidfd >= 0 && pidfd_signal(s->pidfd, (int)info.ssi_signo) < 0)
		log_warn("worker pid=%d could not be told to end", s->pid);
}

static uint64_t next_delay_ms(const struct supervise *s)
{
	uint64_t delay = s->options.delay_ms;

	if (s->n_rapid <= SUPERVISE_RAPID_FREE)
		return 0;
	for (uint32_t i = SUPERVISE_RAPID_FREE + 1; i < s->n_rapid; i++)
		if ((delay *= 2) >= s->options.max_delay_ms)
			break;
	return MIN(delay, (uint64_t)s->options.max_delay_ms);
}

/* A worker that was told to end before it listened to signals has ended in order, too. */
static int final_status(const struct pidfd_end *end)
{
	if (end->signal == 0)
		return end->status;
	return end->signal == SIGTERM || end->signal == SIGINT || end->signal == SIGHUP ? 0 : 1;
}

/* Return: 0 it goes on; 1 all is over, *@ret_status is set */
static int worker_ended(struct supervise *s, int *ret_status)
{
	struct pidfd_end end = {.status = 1};
	uint64_t lived_ms = (clock_now_ns() - s->started_ns) / NSEC_PER_MSEC, delay_ms;
	char text[64];
	int r = pidfd_reap(s->pidfd, &end);

	if (r == -EAGAIN)
		return 0;
	s->pidfd = fd_close(s->pidfd);
	s->sock = fd_close(s->sock);
	pidfd_describe_end(&end, text, sizeof(text));
	if (r < 0 || end.signal == 0 || s->ending) {
		if (end.signal)
			log_error("worker pid=%d was %s", s->pid, text);
		*ret_status = final_status(&end);
		return 1;
	}
	s->n_rapid = lived_ms <= s->options.rapid_ms ? s->n_rapid + 1 : 0;
	delay_ms = next_delay_ms(s);
	s->start_ns = deadline_after_ms(delay_ms);
	log_error("worker pid=%d was %s after %llu ms; the next one starts in %llu ms, with %zu "
		  "records",
		  s->pid, text, (unsigned long long)lived_ms, (unsigned long long)delay_ms,
		  keeper_n_records(s->keeper));
	return 0;
}

/* A worker that talks nonsense is not heard any more; what it gave stays. */
static void serve_keeper(struct supervise *s)
{
	int r = keeper_serve(s->keeper, s->sock);

	if (r == 0)
		return;
	if (r != -EPIPE)
		log_error("worker pid=%d sent nonsense (error %d); it is not listened to any more",
			  s->pid, -r);
	s->sock = fd_close(s->sock);
}

/* Requests that came before the worker's end are served first: they say what it had. */
static void drain_keeper(struct supervise *s)
{
	while (s->sock >= 0 && fd_poll(s->sock, POLLIN, 0) > 0)
		serve_keeper(s);
}

static int supervise_loop(struct supervise *s, struct supervise_worker *ret_worker, int *ret_status)
{
	for (;;) {
		struct pollfd polls[] = {{.fd = s->signal_fd, .events = POLLIN},
					 {.fd = s->pidfd, .events = POLLIN},
					 {.fd = s->sock, .events = POLLIN}};
		int timeout_ms = s->pidfd < 0 ? deadline_poll_ms(s->start_ns) : -1, r;

		if (poll(polls, ARRAY_SIZE(polls), timeout_ms) < 0 && errno != EINTR)
			return error_errno();
		if (polls[0].revents & POLLIN)
			pass_signal(s);
		if (polls[2].revents)
			serve_keeper(s);
		if (polls[1].revents) {
			drain_keeper(s);
			if (worker_ended(s, ret_status))
				return 0;
		}
		if (s->pidfd >= 0)
			continue;
		if (s->ending) {
			*ret_status = 1; /* its worker had been killed */
			return 0;
		}
		if (!deadline_passed(s->start_ns))
			continue;
		r = start_worker(s, ret_worker);
		if (r > 0)
			return r;
		if (r < 0) {
			log_error("no worker could be started (error %d); again in %u ms", -r,
				  s->options.max_delay_ms);
			s->start_ns = deadline_after_ms(s->options.max_delay_ms);
		}
	}
}

int supervise_run(const struct supervise_options *options, struct supervise_worker *ret_worker,
		  int *ret_status)
{
	struct supervise s = {.options = *options, .signal_fd = -1, .pidfd = -1, .sock = -1};
	int r;

	if (!s.options.rapid_ms)
		s.options.rapid_ms = 1000;
	if (!s.options.delay_ms)
		s.options.delay_ms = 100;
	if (!s.options.max_delay_ms)
		s.options.max_delay_ms = 5000;
	sigemptyset(&s.old_signals);
	r = take_signals(&s);
	if (r == 0)
		r = keeper_new(&s.keeper);
	if (r == 0)
		r = start_worker(&s, ret_worker);
	if (r == 0)
		r = supervise_loop(&s, ret_worker, ret_status);
	supervise_deinit(&s);
	return r;
}
