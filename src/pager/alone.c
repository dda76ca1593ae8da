/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alone.c - handshakes of VMs that nobody announced
 *
 * Bounds: the table has ALONE_MAX_SHAKING places and each is free again after @handshake_ms; while
 * it is full the listeners are not polled, and connections wait in their backlogs. A connection may
 * send HANDSHAKE_MAX_BYTES and one descriptor. When the process has no descriptors left (EMFILE),
 * listeners rest for REST_MS rather than being asked in a circle.
 *
 * A raw image is a file that somebody may have written to since it was opened. It is asked before
 * each VM is admitted: pages of two states of a file would be nobody's memory.
 */
#include "pager/alone.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "sys/pidfd.h"
#include "sys/uffd.h"

#define REST_MS 100

struct shaking {
	int conn; /* -1: a free place */
	int uffd;
	int pidfd;
	int pid;
	bool certain;  /* that @pidfd is of the process that connected */
	bool ended;    /* the connection, by the other side */
	bool has_uffd; /* it gave a userfaultfd */
	uint64_t deadline_ns;
	struct buf text;
};

struct alone {
	struct alone_options options;
	int listeners[ALONE_MAX_LISTENERS];
	alone_admit_fn *admit;
	void *data;
	uint64_t n_named;
	uint64_t rest_until_ns;
	size_t n_shaking;
	struct shaking shaking[ALONE_MAX_SHAKING];
	/* what alone_poll() filled in: listeners first, then these places of the table */
	size_t n_polled_listeners;
	size_t polled[ALONE_MAX_SHAKING];
};

static void shaking_init(struct shaking *s)
{
	*s = (struct shaking){.conn = -1, .uffd = -1, .pidfd = -1};
}

static void forget(struct alone *a, struct shaking *s)
{
	fd_close(s->conn);
	fd_close(s->uffd);
	fd_close(s->pidfd);
	buf_deinit(&s->text);
	shaking_init(s);
	a->n_shaking--;
}

int alone_new(const struct alone_options *options, alone_admit_fn *admit, void *data,
	      struct alone **ret)
{
	_cleanup_(alone_freep) struct alone *a = NULL;

	if (options->n_listeners == 0 || options->n_listeners > ALONE_MAX_LISTENERS)
		return -EINVAL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	for (size_t i = 0; i < ALONE_MAX_SHAKING; i++)
		shaking_init(&a->shaking[i]);
	a->options = *options;
	a->admit = admit;
	a->data = data;
	a->n_named = options->n_before;
	for (size_t i = 0; i < options->n_listeners; i++) {
		int r = fd_set_nonblock(options->listeners[i], 1);

		if (r < 0)
			return r;
		a->listeners[i] = options->listeners[i];
	}
	*ret = take_ptr(a);
	return 0;
}

struct alone *alone_free(struct alone *a)
{
	if (!a)
		return NULL;
	for (size_t i = 0; i < ALONE_MAX_SHAKING; i++)
		if (a->shaking[i].conn >= 0)
			forget(a, &a->shaking[i]);
	free(a);
	return NULL;
}

/* ---- coming in --------------------------------------------------------------------------------
 */

static void rest(struct alone *a)
{
	log_warn("VMs have to wait: no descriptors left, or too many sessions");
	a->rest_until_ns = deadline_after_ms(REST_MS);
}

static void accept_one(struct alone *a, int listener)
{
	struct shaking *s = a->shaking;
	int r, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		rest(a);
	if (fd < 0)
		return;	     /* it went away again, or a signal: poll tells */
	while (s->conn >= 0) /* alone_serve() made sure that there is a place */
		s++;
	s->conn = fd;
	s->deadline_ns = deadline_after_ms(a->options.handshake_ms);
	a->n_shaking++;
	r = pidfd_from_peer(s->conn, &s->pid, &s->pidfd, &s->certain);
	if (r == -EMFILE || r == -ENFILE)
		rest(a);
	if (r == 0)
		return;
	log_warn("refused a VM: its process is not visible from here (error %d)", -r);
	forget(a, s);
}

/* ---- shaking hands ----------------------------------------------------------------------------
 */

static int read_some(struct shaking *s, struct problem *problem)
{
	char data[4096];
	int fds[2] = {-1, -1};
	size_t n_fds = 0;
	ssize_t n = fd_recv(s->conn, data, sizeof(data), fds, ARRAY_SIZE(fds), &n_fds);

	if (n == -EAGAIN)
		return 0;
	if (n_fds == 1 && s->uffd < 0) {
		s->uffd = fds[0];
	} else if (n_fds) {
		for (size_t i = 0; i < n_fds; i++)
			fd_close(fds[i]);
		problem_set(problem, 400, "handshake: more than one descriptor");
		return -EINVAL;
	}
	if (n <= 0) {
		s->ended = true;
		problem_set(problem, 400, "handshake: the connection ended after %zu bytes",
			    s->text.len);
		return -EINVAL;
	}
	return buf_append(&s->text, data, (size_t)n);
}

static int check_uffd(struct shaking *s, struct problem *problem)
{
	s->has_uffd = s->uffd >= 0 && uffd_is(s->uffd);
	if (s->has_uffd)
		return 0;
	problem_set(problem, 400,
		    s->uffd < 0 ? "handshake: no descriptor came with it"
				: "handshake: its descriptor is not a userfaultfd");
	return -EINVAL;
}

static int admit(struct alone *a, struct shaking *s, const struct handshake *map,
		 struct problem *problem)
{
	char name[32];
	struct alone_vm vm = {.name = name, .number = a->n_named + 1, .map = *map, .pid = s->pid};
	int r = check_uffd(s, problem);

	if (r == 0)
		r = image_check_unchanged(a->options.image, problem);
	if (r)
		return r;
	(void)snprintf(name, sizeof(name), "vm-%llu", (unsigned long long)vm.number);
	vm.uffd = take_fd(s->uffd);
	vm.conn = take_fd(s->conn);
	vm.pidfd = take_fd(s->pidfd);
	s->pidfd =
		fcntl(vm.pidfd, F_DUPFD_CLOEXEC, 0); /* in case that it is refused; -1: ran out */
	r = a->admit(a->data, a->options.image, &vm, problem);
	if (r == 0)
		a->n_named++;
	fd_close(vm.uffd);
	fd_close(vm.conn);
	fd_close(vm.pidfd);
	if (r == -EMFILE || r == -ENFILE || r == -EAGAIN)
		rest(a);
	return r;
}

/* Return: 0 it goes on; 1 admitted; negative errno: refused */
static int shake(struct alone *a, struct shaking *s, struct problem *problem)
{
	struct handshake map;
	int r = read_some(s, problem);

	if (r < 0)
		return r;
	r = handshake_parse(s->text.data ? s->text.data : "", s->text.len,
			    image_n_pages(a->options.image), &map, problem);
	if (r == HANDSHAKE_E_MORE)
		return 0;
	if (r == 0)
		r = admit(a, s, &map, problem);
	if (r == 0)
		return 1;
	return r > 0 ? -EINVAL : r;
}

/*
 * Whoever handed over a userfaultfd has memory behind it that nobody will ever bring: its guest
 * would wait for ever at its first page, and a VMM does not look at the connection. So it is ended,
 * as it would be if its session failed later on. Only where it is certain that the process is the
 * one that connected (SO_PEERPIDFD), and that the descriptor is what it should be; and not when it
 * ended the connection itself.
 */
static void end_refused(struct shaking *s)
{
	s->has_uffd |= s->uffd >= 0 && uffd_is(s->uffd);
	if (s->ended || !s->certain || s->pidfd < 0 || !s->has_uffd)
		return;
	if (pidfd_signal(s->pidfd, SIGKILL) == 0)
		log_error("pid=%d was killed: its memory cannot be served", s->pid);
}

static void serve_shaking(struct alone *a, struct shaking *s)
{
	struct problem problem = PROBLEM_INIT;
	int r = shake(a, s, &problem);

	if (r == 0)
		return;
	if (r < 0) {
		problem_errno(&problem, r, "handshake: failed"); /* unless it was described */
		log_warn("refused a VM, pid=%d: %s%s%s", s->pid, problem.message,
			 problem.hint[0] ? "; " : "", problem.hint);
	}
	if (r < 0)
		end_refused(s);
	forget(a, s);
}

static void expire(struct alone *a)
{
	for (size_t i = 0; i < ALONE_MAX_SHAKING; i++) {
		struct shaking *s = &a->shaking[i];

		if (s->conn < 0 || !deadline_passed(s->deadline_ns))
			continue;
		log_warn("refused a VM, pid=%d: its handshake was not complete after %u ms", s->pid,
			 a->options.handshake_ms);
		forget(a, s);
	}
}

/* ---- the caller's loop ------------------------------------------------------------------------
 */

size_t alone_poll(struct alone *a, struct pollfd *polls, int *ret_timeout_ms)
{
	uint64_t nearest = DEADLINE_NEVER;
	bool resting = !deadline_passed(a->rest_until_ns);
	size_t n = 0, n_places = 0;

	if (resting)
		nearest = a->rest_until_ns;
	for (size_t i = 0; i < a->options.n_listeners; i++)
		if (!resting && a->n_shaking < ALONE_MAX_SHAKING)
			polls[n++] = (struct pollfd){.fd = a->listeners[i], .events = POLLIN};
	a->n_polled_listeners = n;
	for (size_t i = 0; i < ALONE_MAX_SHAKING; i++) {
		const struct shaking *s = &a->shaking[i];

		if (s->conn < 0)
			continue;
		nearest = deadline_min(nearest, s->deadline_ns);
		a->polled[n_places++] = i;
		polls[n++] = (struct pollfd){.fd = s->conn, .events = POLLIN};
	}
	if (nearest != DEADLINE_NEVER) {
		int ms = deadline_poll_ms(nearest);

		*ret_timeout_ms = *ret_timeout_ms < 0 ? ms : MIN(*ret_timeout_ms, ms);
	}
	return n;
}

void alone_serve(struct alone *a, const struct pollfd *polls, size_t n)
{
	for (size_t i = a->n_polled_listeners; i < n; i++)
		if (polls[i].revents)
			serve_shaking(a, &a->shaking[a->polled[i - a->n_polled_listeners]]);
	expire(a);
	for (size_t i = 0; i < a->n_polled_listeners; i++)
		if (polls[i].revents && a->n_shaking < ALONE_MAX_SHAKING)
			accept_one(a, polls[i].fd);
}
