/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/forward.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/output.h"

#define LANE_LEN     32768u
#define HEAD_MAX     65536u
#define HANDSHAKE_MS 20000
#define LISTEN_MAX   32u

/* One direction */
struct lane {
	size_t at, len; /* in data: read and not yet written */
	bool ended;	/* nothing more will be read */
	bool shut;	/* ... and the other end knows */
	char data[LANE_LEN];
};

struct link {
	int in, out; /* of this host; the same socket, or standard input and output */
	int remote;
	bool is_stdio, over;
	uint16_t port;
	uint64_t deadline_ns; /* of the handshake; 0: it is done */
	struct buf head;
	struct lane up, down; /* to the sandbox, from it */
};

struct forward {
	const char *socket_path, *sandbox_id;
	struct {
		int fd;
		uint16_t port;
	} listeners[LISTEN_MAX];
	size_t n_listeners;
	struct link *links[FORWARD_MAX];
	size_t n_links;
};

/* --- one connection -----------------------------------------------------------------------------
 */

static struct link *link_free(struct link *l)
{
	if (!l)
		return NULL;
	if (!l->is_stdio)
		fd_close(l->in);
	fd_close(l->remote);
	buf_deinit(&l->head);
	free(l);
	return NULL;
}

static int dial(struct forward *f, struct link *l, struct problem *problem)
{
	_cleanup_free_ char *text =
		str_printf("GET /sandboxes/%s/ports/%u HTTP/1.1\r\nHost: localhost\r\n"
			   "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
			   f->sandbox_id, l->port);
	int r;

	if (!text)
		return -ENOMEM;
	if (http_is_url(f->socket_path)) {
		problem_set(problem, 501, "raw connections go over dormd's unix socket, not %s",
			    f->socket_path);
		return -ENOTSUP;
	}
	l->remote = fd_unix_connect(f->socket_path, SOCK_STREAM);
	if (l->remote < 0) {
		problem_set(problem, 503, "cannot reach dormd at %s: %s", f->socket_path,
			    strerrordesc_np(-l->remote));
		return l->remote;
	}
	l->deadline_ns = deadline_after_ms(HANDSHAKE_MS);
	r = fd_set_nonblock(l->remote, 1);
	return r < 0 ? r : fd_write_deadline(l->remote, text, strlen(text), l->deadline_ns);
}

/* Takes @in and @out. Return: NULL with @problem */
static struct link *link_new(struct forward *f, int in, int out, uint16_t port,
			     struct problem *problem)
{
	struct link *l = calloc(1, sizeof(*l));
	int r = -ENOMEM;

	if (l) {
		l->in = in;
		l->out = out;
		l->is_stdio = in != out;
		l->remote = -1;
		l->port = port;
		r = dial(f, l, problem);
	} else if (in == out) {
		fd_close(in);
	}
	if (r == 0)
		return l;
	problem_errno(problem, r, "connecting to port %u", port);
	return link_free(l);
}

/* dormd's answer is no 101. Return: 0 when more of its text has to come; HTTP_E_STATUS */
static int take_refusal(struct link *l, size_t head_len, int status, struct problem *problem)
{
	const char *field = strcasestr(l->head.data, "\r\ncontent-length:");
	size_t want = field && field < l->head.data + head_len ? strtoul(field + 17, NULL, 10) : 0;

	if (l->head.len < head_len + want && want < HEAD_MAX)
		return 0;
	buf_consume(&l->head, head_len);
	return http_status_problem(status, &l->head, problem);
}

/* Some of dormd's answer. Return: 0; HTTP_E_STATUS or negative errno with @problem */
static int take_head(struct link *l, struct problem *problem)
{
	ssize_t n = recv(l->remote, l->down.data, sizeof(l->down.data), 0);
	const char *end;
	int status;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n > 0 && buf_append(&l->head, l->down.data, (size_t)n) < 0)
		return -ENOMEM;
	end = n > 0 ? strstr(l->head.data, "\r\n\r\n") : NULL;
	if (n <= 0 || (!end && l->head.len > HEAD_MAX) ||
	    (end && sscanf(l->head.data, "HTTP/1.%*1d %3d", &status) != 1)) {
		problem_set(problem, 502, "dormd gave no answer that makes sense");
		return -EPROTO;
	}
	if (!end)
		return 0;
	n = end + 4 - l->head.data;
	if (status != 101)
		return take_refusal(l, (size_t)n, status, problem);
	l->down.len = l->head.len - (size_t)n; /* what came with it fits: one read gave both */
	if (l->down.len > sizeof(l->down.data))
		return -EPROTO;
	memcpy(l->down.data, l->head.data + n, l->down.len);
	buf_deinit(&l->head);
	l->deadline_ns = 0;
	return 0;
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static bool is_temporary(int error)
{
	return error == EAGAIN || error == EINTR;
}

/* Return: 0; negative errno: the connection is broken */
static int lane_read(struct lane *a, int fd)
{
	ssize_t n = read(fd, a->data, sizeof(a->data));

	if (n < 0)
		return is_temporary(errno) ? 0 : -errno;
	a->at = 0;
	a->len = (size_t)n;
	a->ended = n == 0;
	return 0;
}

/* @max: so that a pipe that poll(2) called writable does not block */
static int lane_write(struct lane *a, int fd, size_t max)
{
	ssize_t n = write(fd, a->data + a->at, MIN(a->len, max));

	if (n < 0)
		return is_temporary(errno) ? 0 : -errno;
	a->at += (size_t)n;
	a->len -= (size_t)n;
	return 0;
}

static void lane_pass_end(struct lane *a, int fd)
{
	if (!a->ended || a->len || a->shut)
		return;
	a->shut = true;
	(void)shutdown(fd, SHUT_WR); /* no socket, or not connected: its close tells */
}

static short want(const struct lane *from, const struct lane *to)
{
	return (short)((!from->ended && !from->len ? POLLIN : 0) | (to->len ? POLLOUT : 0));
}

/* Three entries: in, out, remote */
static void link_poll(const struct link *l, struct pollfd p[3])
{
	short local = want(&l->up, &l->down), out = l->is_stdio ? local & POLLOUT : 0;

	if (l->is_stdio)
		local &= POLLIN;
	if (l->deadline_ns)
		local = out = 0;
	p[0] = (struct pollfd){.fd = local ? l->in : -1, .events = local};
	p[1] = (struct pollfd){.fd = out ? l->out : -1, .events = out};
	p[2] = (struct pollfd){.fd = l->remote,
			       .events = l->deadline_ns ? POLLIN : want(&l->down, &l->up)};
	if (!p[2].events)
		p[2].fd = -1;
}

/* Return: 0; negative errno */
static int link_carry(struct link *l, const struct pollfd p[3])
{
	const short readable = POLLIN | POLLHUP | POLLERR, writable = POLLOUT | POLLERR;
	short out = l->is_stdio ? p[1].revents : p[0].revents;
	int r = 0;

	if (out & writable && l->down.len)
		r = lane_write(&l->down, l->out, l->is_stdio ? PIPE_BUF : LANE_LEN);
	if (r == 0 && p[2].revents & writable && l->up.len)
		r = lane_write(&l->up, l->remote, LANE_LEN);
	if (r == 0 && p[0].revents & readable && !l->up.len && !l->up.ended)
		r = lane_read(&l->up, l->in);
	if (r == 0 && p[2].revents & readable && !l->down.len && !l->down.ended)
		r = lane_read(&l->down, l->remote);
	lane_pass_end(&l->up, l->remote);
	if (!l->is_stdio)
		lane_pass_end(&l->down, l->out);
	return r;
}

/* Return: 0; HTTP_E_STATUS or negative errno, and then it is over */
static int link_step(struct link *l, const struct pollfd p[3], struct problem *problem)
{
	bool down_done;
	int r = 0;

	if (l->deadline_ns && p[2].revents)
		r = take_head(l, problem);
	else if (l->deadline_ns && deadline_passed(l->deadline_ns))
		r = -ETIMEDOUT;
	else if (!l->deadline_ns)
		r = link_carry(l, p);
	down_done = l->down.ended && !l->down.len;
	l->over = r != 0 || (down_done && (l->is_stdio || (l->up.ended && !l->up.len)));
	return r;
}

/* --- all of them --------------------------------------------------------------------------------
 */

static void take_connection(struct forward *f, size_t i)
{
	struct problem problem = PROBLEM_INIT;
	int fd = accept4(f->listeners[i].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct link *l;

	if (fd < 0)
		return;
	l = link_new(f, fd, fd, f->listeners[i].port, &problem);
	if (l)
		f->links[f->n_links++] = l;
	else
		output_problem(&problem);
}

static void step_link(struct forward *f, size_t i, const struct pollfd p[3])
{
	struct problem problem = PROBLEM_INIT;
	struct link *l = f->links[i];

	/* a connection that breaks after it was made is its two ends' business */
	if (link_step(l, p, &problem) != 0 && l->deadline_ns) {
		problem_set(&problem, 504, "dormd did not connect to port %u in time", l->port);
		output_problem(&problem);
	}
}

static void drop_finished(struct forward *f)
{
	size_t kept = 0;

	for (size_t i = 0; i < f->n_links; i++) {
		if (f->links[i]->over)
			link_free(f->links[i]);
		else
			f->links[kept++] = f->links[i];
	}
	f->n_links = kept;
}

int forward_run(struct forward *f)
{
	struct pollfd p[LISTEN_MAX + 3 * FORWARD_MAX];

	for (;;) {
		size_t n_links = f->n_links;
		struct pollfd *links = p + f->n_listeners;

		for (size_t i = 0; i < f->n_listeners; i++)
			p[i] = (struct pollfd){.fd = n_links < FORWARD_MAX ? f->listeners[i].fd
									   : -1,
					       .events = POLLIN};
		for (size_t i = 0; i < n_links; i++)
			link_poll(f->links[i], links + 3 * i);
		if (poll(p, f->n_listeners + 3 * n_links, n_links ? 1000 : -1) < 0 &&
		    errno != EINTR)
			return error_errno();
		for (size_t i = 0; i < n_links; i++)
			step_link(f, i, links + 3 * i);
		for (size_t i = 0; i < f->n_listeners && f->n_links < FORWARD_MAX; i++)
			if (p[i].revents)
				take_connection(f, i);
		drop_finished(f);
	}
}

int forward_stdio(struct forward *f, uint16_t port, struct problem *problem)
{
	struct link *l = link_new(f, STDIN_FILENO, STDOUT_FILENO, port, problem);
	struct pollfd p[3];
	int r = l ? 0 : -EIO;

	while (r == 0 && !l->over) {
		link_poll(l, p);
		if (poll(p, 3, 1000) < 0)
			r = errno == EINTR ? 0 : -errno;
		else
			r = link_step(l, p, problem);
	}
	if (r < 0)
		problem_errno(problem, r, "the connection to port %u", port);
	link_free(l);
	return r;
}

/* --- life ---------------------------------------------------------------------------------------
 */

int forward_new(const char *socket_path, const char *sandbox_id, struct forward **ret)
{
	struct forward *f = calloc(1, sizeof(*f));

	if (!f)
		return error_trace(-ENOMEM);
	f->socket_path = socket_path;
	f->sandbox_id = sandbox_id;
	*ret = f;
	return 0;
}

struct forward *forward_free(struct forward *f)
{
	if (!f)
		return NULL;
	for (size_t i = 0; i < f->n_links; i++)
		link_free(f->links[i]);
	for (size_t i = 0; i < f->n_listeners; i++)
		fd_close(f->listeners[i].fd);
	free(f);
	return NULL;
}

int forward_listen(struct forward *f, int fd, uint16_t port)
{
	if (f->n_listeners == LISTEN_MAX || fd_set_nonblock(fd, 1) < 0) {
		fd_close(fd);
		return -ENOSPC;
	}
	f->listeners[f->n_listeners].fd = fd;
	f->listeners[f->n_listeners++].port = port;
	return 0;
}
