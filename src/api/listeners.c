/* SPDX-License-Identifier: Apache-2.0 */
#include "api/listeners.h"

#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/server.h"
#include "api/tls.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/quota.h"

struct listeners {
	const struct listeners_config *config;
	struct host *host;
	struct access *access;
	struct server *local, *tcp[LISTENERS_MAX_TCP];
};

/* ---- TCP --------------------------------------------------------------------------------------
 */

static bool is_loopback(const struct sockaddr_storage *sa)
{
	const struct in6_addr *v6 = &((const struct sockaddr_in6 *)sa)->sin6_addr;

	if (sa->ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
	if (sa->ss_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
}

/* What may be listened to from other hosts needs keys, and something that keeps them secret. */
static int check_public(const struct listeners *l, const char *text, struct problem *problem)
{
	if (access_is_open_to_none(l->access) || keys_damage(access_keys(l->access))) {
		problem_set(problem, 400,
			    "--listen %s: not a loopback address, and there are no API keys", text);
		problem_hint(problem, "make one first, over the unix socket: `dorm key create NAME "
				      "--scope admin`; or give one with --api-key");
		return -EINVAL;
	}
	if (l->config->tls_cert)
		return 0;
	if (l->config->allow_plain) {
		log_warn("listening on %s without TLS: API keys, tokens and data cross the network "
			 "in the clear unless something in front of it encrypts them",
			 text);
		return 0;
	}
	problem_set(problem, 400,
		    "--listen %s: keys would cross the network in the clear: only a loopback "
		    "address (127.0.0.1, ::1) goes without TLS",
		    text);
	problem_hint(problem, "give --tls-cert and --tls-key; or --allow-plain, if a proxy on "
			      "another host speaks TLS with clients and the way to it is safe");
	return -EINVAL;
}

static int listen_tcp(const struct listeners *l, const char *text, struct problem *problem)
{
	_cleanup_fd_ int fd = fd_tcp_listen(text);
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	int r = 0;

	if (fd < 0) {
		problem_errno(problem, fd, "--listen %s", text);
		if (fd == -EINVAL)
			problem_hint(problem, "a numeric address and a port, as 127.0.0.1:3000");
		return fd;
	}
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return error_errno();
	if (!is_loopback(&sa))
		r = check_public(l, text, problem);
	return r < 0 ? r : take_fd(fd);
}

static int open_tcp(struct listeners *l, struct host *host, struct problem *problem)
{
	const struct listeners_config *c = l->config;

	for (unsigned i = 0; i < c->n_tcp; i++) {
		struct server_config s = {
			.access = l->access, .asks_for_key = true, .tls = c->tls_cert != NULL};
		int r = s.listen_fd = listen_tcp(l, c->tcp[i], problem);

		if (r >= 0)
			r = server_new(host, &s, problem, &l->tcp[i]);
		if (r < 0)
			return r;
		log_info("listening on %s (%s)", c->tcp[i], s.tls ? "TLS" : "plain");
	}
	return 0;
}

/* ---- the unix socket --------------------------------------------------------------------------
 */

static int find_group(const char *text, struct problem *problem, gid_t *ret)
{
	const struct group *g;
	uint64_t n;

	if (str_to_u64(text, &n) == 0 && n < UINT32_MAX) {
		*ret = (gid_t)n;
		return 0;
	}
	g = getgrnam(text); /* at the start: no other thread asks */
	if (!g) {
		problem_set(problem, 400, "--socket-group: there is no group '%.64s'", text);
		return -EINVAL;
	}
	*ret = g->gr_gid;
	return 0;
}

static int open_local(struct listeners *l, struct host *host, struct problem *problem)
{
	const struct listeners_config *c = l->config;
	unsigned mode = c->socket_mode ? c->socket_mode : c->socket_group ? 0660 : 0600;
	struct server_config s = {.access = l->access, .local = true, .group = (gid_t)-1};
	int r = 0;

	if (c->socket_group)
		r = find_group(c->socket_group, problem, &s.group);
	if (r < 0)
		return r;
	/* closed until the group is set; one that was handed over is as its owner made it */
	r = s.listen_fd = c->handed_fd > 0 ? c->handed_fd
					   : fd_unix_listen(c->socket, SOCK_STREAM, 0600);
	if (c->handed_fd > 0)
		mode = 0600;
	else if (r >= 0 && c->socket_group && chown(c->socket, (uid_t)-1, s.group) < 0)
		r = -errno;
	if (r >= 0 && mode != 0600 && chmod(c->socket, mode) < 0)
		r = -errno;
	if (r < 0)
		fd_close(s.listen_fd);
	else
		r = server_new(host, &s, problem, &l->local);
	if (r < 0)
		problem_errno(problem, r, "listening on %s", c->socket);
	return r;
}

/* ---- both -------------------------------------------------------------------------------------
 */

static bool find_quota(void *access, const char *owner, uint64_t *ret_sandboxes,
		       uint64_t *ret_memory)
{
	return keys_quota(access_keys(access), owner, ret_sandboxes, ret_memory);
}

int listeners_check(const struct listeners_config *c, struct problem *problem)
{
	if (!c->tls_cert == !c->tls_key)
		return 0;
	problem_set(problem, 400, "--tls-cert and --tls-key go together");
	problem_hint(problem, "name the files of both, or neither for plain HTTP on loopback");
	return -EINVAL;
}

int listeners_open(const struct listeners_config *c, struct host *host, struct problem *problem,
		   struct listeners **ret)
{
	_cleanup_(listeners_closep) struct listeners *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->config = c;
	l->host = host;
	r = listeners_check(c, problem);
	if (r == 0)
		r = access_open(host_root(host), c->api_key, problem, &l->access);
	if (r == 0)
		quota_set_lookup(host, find_quota, l->access);
	if (r == 0 && c->tls_cert)
		r = tls_load(c->tls_cert, c->tls_key, problem);
	if (r == 0)
		r = open_tcp(l, host, problem);
	if (r == 0)
		r = open_local(l, host, problem);
	if (r < 0)
		return r;
	*ret = take_ptr(l);
	return 0;
}

int listeners_reload(struct listeners *l, struct problem *problem)
{
	return l->config->tls_cert ? tls_load(l->config->tls_cert, l->config->tls_key, problem) : 0;
}

struct listeners *listeners_close(struct listeners *l)
{
	if (!l)
		return NULL;
	server_free(l->local);
	for (unsigned i = 0; i < LISTENERS_MAX_TCP; i++)
		server_free(l->tcp[i]);
	tls_unload();
	quota_set_lookup(l->host, NULL, NULL);
	access_free(l->access);
	free(l);
	return NULL;
}
