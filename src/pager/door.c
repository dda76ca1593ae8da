/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/door.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "pager/ledger.h"
#include "sys/pidfd.h"

int door_new_inside(struct session *session, int conn, struct door **ret)
{
	struct door *d = calloc(1, sizeof(*d));

	if (!d) {
		fd_close(conn);
		return -ENOMEM;
	}
	d->session = session;
	d->listener = d->uffd = -1;
	d->conn = conn;
	*ret = d;
	return 0;
}

void door_abandon(struct door *d)
{
	d->path[0] = 0;
}

int door_new(const char *run_dir, struct session *session, struct problem *problem,
	     struct door **ret)
{
	_cleanup_(door_freep) struct door *d = NULL;
	int n = door_new_inside(session, -1, &d);

	if (n < 0)
		return n;
	n = snprintf(d->path, sizeof(d->path), "%s/vm-%s.sock", run_dir, session->name);
	if (n < 0 || (size_t)n >= sizeof(d->path)) {
		d->path[0] = 0;
		problem_set(problem, 400, "the path of session %s's socket is longer than %u bytes",
			    session->name, DOOR_PATH_MAX);
		problem_hint(problem, "choose a shorter --run-dir");
		return -ENAMETOOLONG;
	}
	d->listener = fd_unix_listen(d->path, SOCK_STREAM, 0600);
	if (d->listener < 0) {
		problem_errno(problem, d->listener, "cannot listen on %s", d->path);
		return d->listener;
	}
	n = fd_set_nonblock(d->listener, 1);
	if (n < 0)
		return n;
	*ret = take_ptr(d);
	return 0;
}

/* No more connections. The name goes first, so that nobody is left waiting behind it. */
static void shut(struct door *d)
{
	if (d->path[0])
		(void)unlink(d->path); /* gone already: as good */
	d->path[0] = 0;
	d->listener = fd_close(d->listener);
}

static void drop_conn(struct door *d)
{
	d->conn = fd_close(d->conn);
	d->uffd = fd_close(d->uffd);
	buf_deinit(&d->text);
}

struct door *door_free(struct door *d)
{
	if (!d)
		return NULL;
	drop_conn(d);
	shut(d);
	ledger_free(d->ledger);
	free(d);
	return NULL;
}

static int accept_conn(struct door *d, unsigned handshake_ms)
{
	int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		return -errno;
	if (fd < 0)
		return 0; /* it went away again, or a signal: poll tells */
	d->conn = fd;
	d->deadline_ns = deadline_after_ms(handshake_ms);
	return 0;
}

static int attach(struct door *d, struct pager *p, const struct handshake *map,
		  struct problem *problem)
{
	int pid = 0, pidfd = -1, r;

	r = pidfd_from_peer(d->conn, &pid, &pidfd, NULL);
	if (r < 0) {
		problem_errno(problem, r, "session %s: the VM's process is not visible from here",
			      d->session->name);
		return r;
	}
	/* first: once it is served, it must never be forgotten */
	if (d->ledger)
		ledger_attach(d->ledger, map, pid, d->uffd);
	r = pager_attach(p, d->session, map, take_fd(d->uffd), pidfd, pid, problem);
	if (r < 0 && d->ledger)
		ledger_detach(d->ledger);
	return r;
}

static int read_some(struct door *d, struct problem *problem)
{
	char data[4096];
	int fds[2] = {-1, -1};
	size_t n_fds = 0;
	ssize_t n = fd_recv(d->conn, data, sizeof(data), fds, ARRAY_SIZE(fds), &n_fds);

	if (n == -EAGAIN)
		return 0;
	if (n_fds == 1 && d->uffd < 0) {
		d->uffd = fds[0];
	} else if (n_fds) {
		for (size_t i = 0; i < n_fds; i++)
			fd_close(fds[i]);
		problem_set(problem, 400, "handshake: more than one descriptor");
		return -EINVAL;
	}
	if (n <= 0) {
		problem_set(problem, 400, "handshake: the connection ended after %zu bytes",
			    d->text.len);
		return -EINVAL;
	}
	return buf_append(&d->text, data, (size_t)n);
}

static int shake(struct door *d, struct pager *p, struct problem *problem)
{
	struct handshake map;
	int r = read_some(d, problem);

	if (r < 0)
		return r;
	r = handshake_parse(d->text.data ? d->text.data : "", d->text.len,
			    d->session->resident->n_pages, &map, problem);
	if (r == HANDSHAKE_E_MORE)
		return 0;
	if (r == 0)
		r = attach(d, p, &map, problem);
	if (r)
		return r > 0 ? -EINVAL : r;
	buf_deinit(&d->text);
	shut(d);
	return 0;
}

int door_ready(struct door *d, struct pager *p, unsigned handshake_ms, struct problem *problem)
{
	int r;

	if (d->conn < 0)
		return accept_conn(d, handshake_ms);
	r = shake(d, p, problem);
	if (r == 0)
		return 0;
	problem_errno(problem, r, "handshake: failed"); /* unless it was described */
	drop_conn(d);
	if (session_state(d->session) != SESSION_LISTENING)
		shut(d);
	return -EINVAL;
}

bool door_expire(struct door *d)
{
	if (d->listener < 0 || d->conn < 0 || !deadline_passed(d->deadline_ns))
		return false;
	drop_conn(d);
	return true;
}
