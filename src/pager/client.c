/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/keyring.h"
#include "pager/wire.h"

#define CONNECT_PAUSE_MS 5

struct pager_client {
	pthread_mutex_t lock; /* one request under way */
	int sock;	      /* -1: not connected */
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
};

int pager_client_new(const char *socket_path, struct pager_client **ret)
{
	struct pager_client *c;

	if (strlen(socket_path) >= sizeof(c->path))
		return -ENAMETOOLONG;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->sock = -1;
	str_copy(c->path, sizeof(c->path), socket_path);
	*ret = c;
	return 0;
}

struct pager_client *pager_client_free(struct pager_client *c)
{
	if (!c)
		return NULL;
	fd_close(c->sock);
	pthread_mutex_destroy(&c->lock);
	free(c);
	return NULL;
}

/* A full backlog says EAGAIN to a socket that does not block; a blocking one would ignore
 * @deadline. */
static int connect_client(struct pager_client *c, uint64_t deadline_ns)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	_cleanup_fd_ int s = -1;

	if (c->sock >= 0)
		return 0;
	str_copy(sa.sun_path, sizeof(sa.sun_path), c->path);
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0)
		return error_errno();
	while (connect(s, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno; /* expected while the pager starts; not worth a trace */
		if (deadline_passed(deadline_ns))
			return -ETIMEDOUT;
		clock_sleep_ms(CONNECT_PAUSE_MS);
	}
	c->sock = take_fd(s);
	return 0;
}

static int wait_for(int sock, short events, uint64_t deadline_ns)
{
	int r = fd_poll(sock, events, deadline_ns);

	if (r < 0)
		return r;
	return r == 0 ? -ETIMEDOUT : 0;
}

/* What goes with a request. */
struct descriptors {
	int fds[WIRE_MAX_FDS];
	size_t n;
};

static const struct descriptors no_descriptors;

static int exchange(struct pager_client *c, const json_t *request, const struct descriptors *d,
		    uint64_t deadline_ns, json_t **ret, int *ret_fd)
{
	int fds[WIRE_MAX_FDS] = {-1, -1};
	int r = connect_client(c, deadline_ns);

	while (r == 0) {
		r = wire_send(c->sock, request, d->fds, d->n);
		if (r != -EAGAIN)
			break;
		r = wait_for(c->sock, POLLOUT, deadline_ns);
	}
	while (r == 0) {
		r = wait_for(c->sock, POLLIN, deadline_ns);
		if (r == 0)
			r = wire_receive(c->sock, ret, fds);
		if (r != -EAGAIN)
			break;
		r = 0;
	}
	fd_close(fds[1]); /* no reply has two */
	*ret_fd = fds[0];
	return r;
}

/* What the pager says about a failure, as this side's result. Never 0. */
static int failure(const json_t *reply, struct problem *problem)
{
	const char *message = json_string_value(json_object_get(reply, "message"));
	const char *hint = json_string_value(json_object_get(reply, "hint"));
	json_int_t status = json_integer_value(json_object_get(reply, "status"));
	int r = wire_result(json_string_value(json_object_get(reply, "code")));

	problem_set(problem, status ? (int)status : 500, "%s",
		    message ? message : "the pager gave no reason");
	if (hint && *hint)
		problem_hint(problem, "%s", hint);
	return r;
}

/*
 * One request and its reply. A connection on which that did not come to its end is not used again:
 * a late reply would be taken for the next one's. When the pager was restarted since the last call,
 * the old connection says EPIPE; nothing was done then, so try once more on a new one.
 */
static int call(struct pager_client *c, const json_t *request, const struct descriptors *d,
		uint64_t deadline_ns, struct problem *problem, json_t **ret, int *ret_fd)
{
	json_auto_t *reply = NULL;
	_cleanup_fd_ int reply_fd = -1;
	bool was_connected;
	int r;

	/* others before us wait for the same silent pager */
	if (deadline_lock(&c->lock, deadline_ns) < 0) {
		problem_errno(problem, -ETIMEDOUT, "the pager at %s does not answer", c->path);
		return -ETIMEDOUT;
	}
	was_connected = c->sock >= 0;
	r = exchange(c, request, d, deadline_ns, &reply, &reply_fd);
	if (r < 0)
		c->sock = fd_close(c->sock);
	if (was_connected && (r == -EPIPE || r == -ECONNRESET)) {
		r = exchange(c, request, d, deadline_ns, &reply, &reply_fd);
		if (r < 0)
			c->sock = fd_close(c->sock);
	}
	pthread_mutex_unlock(&c->lock);
	if (r < 0) {
		problem_errno(problem, r, "the pager at %s does not answer", c->path);
		problem_hint(problem, "is dorm-pager running?");
		return r == -ECONNRESET ? -EPIPE : r;
	}
	if (!json_is_true(json_object_get(reply, "ok")))
		return failure(reply, problem);
	*ret = take_ptr(reply);
	if (ret_fd)
		*ret_fd = take_fd(reply_fd);
	return 0;
}

int pager_client_ping(struct pager_client *c, uint64_t deadline_ns, int *ret_pid)
{
	json_auto_t *request = json_pack("{s:s}", "op", "ping"), *reply = NULL;
	int r = call(c, request, &no_descriptors, deadline_ns, NULL, &reply, NULL);

	if (r == 0 && ret_pid)
		*ret_pid = (int)json_integer_value(json_object_get(reply, "pid"));
	return r;
}

int pager_client_open(struct pager_client *c, const char *session, int image_dirfd,
		      const struct keyring *keys, uint64_t n_pages, uint64_t deadline_ns,
		      struct problem *problem, struct pager_session *ret)
{
	json_auto_t *request = NULL, *reply = NULL;
	_cleanup_fd_ int fd = -1, keys_fd = -1;
	struct descriptors d = {.fds = {image_dirfd, -1}, .n = image_dirfd >= 0};
	const char *path, *id;
	int r = 0;

	if (image_dirfd < 0)
		keys = NULL; /* zeros are no secret */
	request =
		json_pack("{s:s, s:s, s:I, s:b, s:b}", "op", "open", "session", session, "n_pages",
			  (json_int_t)n_pages, "zero", image_dirfd < 0, "keys", keys != NULL);
	if (!request)
		return -EINVAL; /* a name that is not UTF-8 */
	if (keys) {
		r = keyring_to_fd(keys, &keys_fd);
		if (r < 0) {
			problem_errno(problem, r, "handing the keys to the pager");
			return r;
		}
		d.fds[d.n++] = keys_fd;
	}
	r = call(c, request, &d, deadline_ns, problem, &reply, &fd);
	if (r)
		return r;
	path = json_string_value(json_object_get(reply, "socket"));
	id = json_string_value(json_object_get(reply, "image_id"));
	if (fd < 0 || !path || !id || strlen(path) >= sizeof(ret->socket_path) ||
	    strlen(id) >= sizeof(ret->image_id)) {
		problem_set(problem, 500, "the pager's answer makes no sense");
		return -EPROTO;
	}
	str_copy(ret->socket_path, sizeof(ret->socket_path), path);
	str_copy(ret->image_id, sizeof(ret->image_id), id);
	ret->memory_fd = take_fd(fd);
	return 0;
}

int pager_client_close_session(struct pager_client *c, const char *session, uint64_t deadline_ns)
{
	json_auto_t *request = NULL, *reply = NULL;

	request = json_pack("{s:s, s:s}", "op", "close", "session", session);
	return request ? call(c, request, &no_descriptors, deadline_ns, NULL, &reply, NULL)
		       : -EINVAL;
}

static int get_stats(struct pager_client *c, const json_t *request, uint64_t deadline_ns,
		     json_t **ret)
{
	json_auto_t *reply = NULL;
	json_t *stats;
	int r = call(c, request, &no_descriptors, deadline_ns, NULL, &reply, NULL);

	if (r)
		return r;
	stats = json_object_get(reply, "stats");
	if (!json_is_object(stats))
		return -EPROTO;
	*ret = json_incref(stats);
	return 0;
}

int pager_client_session_stats(struct pager_client *c, const char *session, uint64_t deadline_ns,
			       json_t **ret)
{
	json_auto_t *request = NULL;

	request = json_pack("{s:s, s:s}", "op", "session", "session", session);
	return request ? get_stats(c, request, deadline_ns, ret) : -EINVAL;
}

int pager_client_stats(struct pager_client *c, uint64_t deadline_ns, json_t **ret)
{
	json_auto_t *request = json_pack("{s:s}", "op", "stats");

	return get_stats(c, request, deadline_ns, ret);
}

int pager_client_ask(struct pager_client *c, const char *op, uint64_t deadline_ns,
		     struct problem *problem, json_t **ret)
{
	json_auto_t *request = json_pack("{s:s}", "op", op);

	return request ? call(c, request, &no_descriptors, deadline_ns, problem, ret, NULL)
		       : -EINVAL;
}
