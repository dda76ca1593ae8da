/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/client.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/keyring.h"
#include "pager/wire.h"

#define CONNECT_PAUSE_MS 5
#define MAX_WORKING_SET	 (16u << 20) /* bytes of its file: WORKING_SET_MAX_BYTES of the image */

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

/* ---- words ------------------------------------------------------------------------------------
 */

static const char *const mode_names[] = {"auto", "shared", "overlay", "copy", "eager"};
static const char *const load_names[] = {"auto", "demand", "working-set", "full"};
static const char *const register_names[] = {"missing", "missing,minor", "none"};

static_assert(ARRAY_SIZE(mode_names) == PAGER_N_MODES, "a name for each");
static_assert(ARRAY_SIZE(load_names) == PAGER_N_LOADS, "a name for each");
static_assert(ARRAY_SIZE(register_names) == PAGER_N_REGISTERS, "a name for each");

const char *pager_mode_name(enum pager_mode mode)
{
	return mode_names[mode];
}

const char *pager_register_name(enum pager_register reg)
{
	return register_names[reg];
}

/* Return: the number of the word; -EINVAL */
static int find_word(const char *const *words, int n, const char *text)
{
	for (int i = 0; text && i < n; i++)
		if (!strcmp(words[i], text))
			return i;
	return -EINVAL;
}

int pager_mode_parse(const char *text, enum pager_mode *ret)
{
	int i = find_word(mode_names, PAGER_N_MODES, text);

	if (i < 0)
		return -EINVAL;
	*ret = (enum pager_mode)i;
	return 0;
}

static uint64_t get_count(const json_t *o, const char *name)
{
	json_int_t v = json_integer_value(json_object_get(o, name));

	return v > 0 ? (uint64_t)v : 0;
}

/* ---- requests ---------------------------------------------------------------------------------
 */

int pager_client_about(struct pager_client *c, uint64_t deadline_ns, struct pager_about *ret)
{
	json_auto_t *request = json_pack("{s:s}", "op", "ping"), *reply = NULL;
	int r = call(c, request, &no_descriptors, deadline_ns, NULL, &reply, NULL);

	if (r == 0)
		*ret = (struct pager_about){
			.pid = (int)json_integer_value(json_object_get(reply, "pid")),
			.takes_back = json_is_true(json_object_get(reply, "takes_back")),
		};
	return r;
}

int pager_client_ping(struct pager_client *c, uint64_t deadline_ns, int *ret_pid)
{
	struct pager_about about;
	int r = pager_client_about(c, deadline_ns, &about);

	if (r == 0 && ret_pid)
		*ret_pid = about.pid;
	return r;
}

/* A request about an image: with its directory, and the keys if there are any. */
static int call_image(struct pager_client *c, const json_t *request, int image_dirfd,
		      const struct keyring *keys, uint64_t deadline_ns, struct problem *problem,
		      json_t **ret, int *ret_fd)
{
	struct descriptors d = {.fds = {image_dirfd, -1}, .n = image_dirfd >= 0};
	_cleanup_fd_ int keys_fd = -1;

	if (keys) {
		int r = keyring_to_fd(keys, &keys_fd);

		if (r < 0) {
			problem_errno(problem, r, "handing the keys to the pager");
			return r;
		}
		d.fds[d.n++] = keys_fd;
	}
	return call(c, request, &d, deadline_ns, problem, ret, ret_fd);
}

/* What is not said is left out: the pager's own choice. */
static json_t *open_request(const char *session, bool zero, bool keys, uint64_t n_pages,
			    const struct pager_open_options *o)
{
	json_t *q = json_pack("{s:s, s:s, s:I, s:b, s:b}", "op", "open", "session", session,
			      "n_pages", (json_int_t)n_pages, "zero", (int)zero, "keys", (int)keys);
	int r = 0;

	if (!q || !o)
		return q;
	if (o->mode != PAGER_MODE_AUTO)
		r |= json_object_set_new(q, "mode", json_string(mode_names[o->mode]));
	if (o->load != PAGER_LOAD_AUTO)
		r |= json_object_set_new(q, "load", json_string(load_names[o->load]));
	if (o->is_private)
		r |= json_object_set_new(q, "private", json_true());
	if (o->mode == PAGER_MODE_EAGER || o->mode == PAGER_MODE_AUTO)
		r |= json_object_set_new(q, "wait", json_false());
	if (o->no_prefetch)
		r |= json_object_set_new(q, "prefetch", json_false());
	if (o->no_record)
		r |= json_object_set_new(q, "record", json_false());
	if (r) {
		json_decref(q);
		return NULL;
	}
	return q;
}

/* A pager that knows no modes serves in the first one there was. Return: 0; -EPROTO */
static int read_session(const json_t *reply, bool has_memory, struct pager_session *ret)
{
	const char *path = json_string_value(json_object_get(reply, "socket"));
	const char *id = json_string_value(json_object_get(reply, "image_id"));
	const char *why = json_string_value(json_object_get(reply, "why"));
	const json_t *mode_word = json_object_get(reply, "mode");
	const json_t *reg_word = json_object_get(reply, "register");
	int mode = PAGER_MODE_SHARED, reg = PAGER_REGISTER_MISSING;

	if (mode_word)
		mode = find_word(mode_names, PAGER_N_MODES, json_string_value(mode_word));
	if (reg_word)
		reg = find_word(register_names, PAGER_N_REGISTERS, json_string_value(reg_word));
	if (mode <= PAGER_MODE_AUTO || reg < 0 || !id || strlen(id) >= sizeof(ret->image_id))
		return -EPROTO;
	*ret = (struct pager_session){
		.memory_fd = -1,
		.mode = (enum pager_mode)mode,
		.reg = (enum pager_register)reg,
		.working_set_pages = get_count(reply, "working_set_pages"),
		.adopted = json_is_true(json_object_get(reply, "adopted")),
	};
	if (!ret->adopted && (!path || strlen(path) >= sizeof(ret->socket_path) ||
			      (!has_memory && mode != PAGER_MODE_COPY)))
		return -EPROTO;
	str_copy(ret->socket_path, sizeof(ret->socket_path), ret->adopted ? "" : path);
	str_copy(ret->image_id, sizeof(ret->image_id), id);
	str_copy(ret->why, sizeof(ret->why), why ? why : "");
	return 0;
}

int pager_client_open_as(struct pager_client *c, const char *session, int image_dirfd,
			 const struct keyring *keys, uint64_t n_pages,
			 const struct pager_open_options *options, uint64_t deadline_ns,
			 struct problem *problem, struct pager_session *ret)
{
	json_auto_t *request = NULL, *reply = NULL;
	struct pager_session s;
	_cleanup_fd_ int fd = -1;
	int r;

	if (image_dirfd < 0)
		keys = NULL; /* zeros are no secret */
	request = open_request(session, image_dirfd < 0, keys != NULL, n_pages, options);
	if (!request)
		return -EINVAL; /* a name that is not UTF-8 */
	r = call_image(c, request, image_dirfd, keys, deadline_ns, problem, &reply, &fd);
	if (r)
		return r;
	r = read_session(reply, fd >= 0, &s);
	if (r < 0) {
		problem_set(problem, 500, "the pager's answer makes no sense");
		return r;
	}
	s.memory_fd = take_fd(fd);
	*ret = s;
	return 0;
}

int pager_client_open(struct pager_client *c, const char *session, int image_dirfd,
		      const struct keyring *keys, uint64_t n_pages, uint64_t deadline_ns,
		      struct problem *problem, struct pager_session *ret)
{
	return pager_client_open_as(c, session, image_dirfd, keys, n_pages, NULL, deadline_ns,
				    problem, ret);
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

int pager_client_load(struct pager_client *c, const char *session, enum pager_load what,
		      uint64_t deadline_ns, struct problem *problem)
{
	json_auto_t *request = NULL, *reply = NULL;

	request = json_pack("{s:s, s:s, s:s}", "op", "load", "session", session, "what",
			    load_names[what]);
	return request ? call(c, request, &no_descriptors, deadline_ns, problem, &reply, NULL)
		       : -EINVAL;
}

int pager_client_warm(struct pager_client *c, int image_dirfd, const struct keyring *keys,
		      uint64_t n_pages, enum pager_load what, uint64_t deadline_ns,
		      struct problem *problem, char ret_image_id[33])
{
	json_auto_t *request = NULL, *reply = NULL;
	const char *id;
	int r;

	request = json_pack("{s:s, s:I, s:b, s:s}", "op", "warm", "n_pages", (json_int_t)n_pages,
			    "keys", keys != NULL, "what", load_names[what]);
	if (!request)
		return -ENOMEM;
	r = call_image(c, request, image_dirfd, keys, deadline_ns, problem, &reply, NULL);
	if (r)
		return r;
	id = json_string_value(json_object_get(reply, "image_id"));
	if (!id || strlen(id) > 32) {
		problem_set(problem, 500, "the pager's answer makes no sense");
		return -EPROTO;
	}
	str_copy(ret_image_id, 33, id);
	return 0;
}

int pager_client_image(struct pager_client *c, const char *image_id, uint64_t deadline_ns,
		       json_t **ret)
{
	json_auto_t *request = NULL, *reply = NULL;
	json_t *image;
	int r;

	request = json_pack("{s:s, s:s}", "op", "image", "image_id", image_id);
	r = request ? call(c, request, &no_descriptors, deadline_ns, NULL, &reply, NULL) : -EINVAL;
	if (r)
		return r;
	image = json_object_get(reply, "image");
	if (!json_is_object(image))
		return -EPROTO;
	*ret = json_incref(image);
	return 0;
}

void pager_working_set_deinit(struct pager_working_set *s)
{
	free(s->data);
	*s = (struct pager_working_set){0};
}

/* It is sealed, so its size is what it is. */
static int read_whole(int fd, size_t max, void **ret, size_t *ret_len)
{
	_cleanup_free_ void *data = NULL;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return error_errno();
	if (st.st_size <= 0 || (uint64_t)st.st_size > max)
		return -EPROTO;
	data = malloc((size_t)st.st_size);
	if (!data)
		return -ENOMEM;
	r = fd_pread_full(fd, data, (size_t)st.st_size, 0);
	if (r < 0)
		return r;
	*ret = take_ptr(data);
	*ret_len = (size_t)st.st_size;
	return 0;
}

int pager_client_working_set(struct pager_client *c, const char *session, uint64_t deadline_ns,
			     struct problem *problem, struct pager_working_set *ret)
{
	json_auto_t *request = NULL, *reply = NULL;
	struct pager_working_set s = {0};
	_cleanup_fd_ int fd = -1;
	int r;

	request = json_pack("{s:s, s:s}", "op", "working-set", "session", session);
	r = request ? call(c, request, &no_descriptors, deadline_ns, problem, &reply, &fd)
		    : -EINVAL;
	if (r)
		return r;
	if (fd >= 0) {
		r = read_whole(fd, MAX_WORKING_SET, &s.data, &s.len);
		if (r < 0) {
			problem_errno(problem, r, "reading the working set from the pager");
			return r;
		}
	}
	s.settled = json_is_true(json_object_get(reply, "settled"));
	s.n_pages = get_count(reply, "pages");
	s.precision = json_number_value(json_object_get(reply, "precision"));
	s.recall = json_number_value(json_object_get(reply, "recall"));
	s.wasted_bytes = get_count(reply, "wasted_bytes");
	*ret = s;
	return 0;
}

int pager_client_config(struct pager_client *c, const json_t *changes, uint64_t deadline_ns,
			struct problem *problem, json_t **ret)
{
	json_auto_t *request = changes ? json_deep_copy(changes) : json_object(), *reply = NULL;
	int r;

	if (!request || json_object_set_new(request, "op", json_string("config")) < 0)
		return -ENOMEM;
	r = call(c, request, &no_descriptors, deadline_ns, problem, &reply, NULL);
	if (r)
		return r;
	(void)json_object_del(reply, "ok"); /* the rest are the values */
	*ret = take_ptr(reply);
	return 0;
}

int pager_client_metrics(struct pager_client *c, uint64_t deadline_ns, char **ret)
{
	json_auto_t *request = json_pack("{s:s}", "op", "metrics"), *reply = NULL;
	const char *text;
	int r = call(c, request, &no_descriptors, deadline_ns, NULL, &reply, NULL);

	if (r)
		return r;
	text = json_string_value(json_object_get(reply, "text"));
	if (!text)
		return -EPROTO;
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}
