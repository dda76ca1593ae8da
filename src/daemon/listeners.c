/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/listeners.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"

/* Without TLS a key is safe on this host alone. */
static int listen_tcp(const char *text, struct problem *problem)
{
	_cleanup_fd_ int fd = fd_tcp_listen(text);
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	bool local = false;

	if (fd < 0) {
		problem_errno(problem, fd, "--listen %s", text);
		if (fd == -EINVAL)
			problem_hint(problem, "a numeric address and a port, as 127.0.0.1:3000");
		return fd;
	}
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return error_errno();
	if (sa.ss_family == AF_INET)
		local = ntohl(((struct sockaddr_in *)&sa)->sin_addr.s_addr) >> 24 == 127;
	else if (sa.ss_family == AF_INET6)
		local = IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&sa)->sin6_addr);
	if (!local) {
		problem_set(problem, 400, "--listen %s: only a loopback address (127.0.0.1, ::1)",
			    text);
		problem_hint(problem, "keys would cross the network in the clear; put a proxy that "
				      "speaks TLS in front");
		return -EINVAL;
	}
	return take_fd(fd);
}

void listeners_close(struct listeners *l)
{
	server_free(l->local);
	server_free(l->tcp);
	access_free(l->access);
	*l = (struct listeners){0};
}

static int open_tcp(const struct settings *s, struct host *host, struct problem *problem,
		    struct listeners *l)
{
	int fd, r = access_load(s->api_key, problem, &l->access);

	if (r < 0)
		return r;
	fd = listen_tcp(s->listen, problem);
	return fd < 0 ? fd : server_new(host, fd, l->access, problem, &l->tcp);
}

int listeners_open(const struct settings *s, struct host *host, int handed_fd,
		   struct problem *problem, struct listeners *l)
{
	_cleanup_fd_ int fd = handed_fd;
	int r = s->listen ? open_tcp(s, host, problem, l) : 0;

	if (r < 0)
		return r;
	if (fd < 0)
		fd = fd_unix_listen(s->socket, SOCK_STREAM, 0600);
	r = fd < 0 ? fd : server_new(host, take_fd(fd), NULL, problem, &l->local);
	if (r < 0)
		problem_errno(problem, r, "listening on %s", s->socket);
	return r;
}
