/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu/qmp.h"

#include <ctype.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define READ_CHUNK 16384

struct qmp {
	int fd;
	bool broken;
	uint64_t last_id;
	struct buf in;	   /* received and not yet taken; at most QMP_LINE_MAX + READ_CHUNK */
	size_t scanned;	   /* of @in: known to hold no newline */
	char shutdown[32]; /* reason of the last SHUTDOWN event */
};

int qmp_new_take(int fd, struct qmp **ret)
{
	struct qmp *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return -ENOMEM;
	r = fd_set_nonblock(fd, 1);
	if (r < 0) {
		free(q);
		return r;
	}
	q->fd = fd;
	*ret = q;
	return 0;
}

struct qmp *qmp_free(struct qmp *q)
{
	if (!q)
		return NULL;
	fd_close(q->fd);
	buf_deinit(&q->in);
	free(q);
	return NULL;
}

bool qmp_is_broken(const struct qmp *q)
{
	return q->broken;
}

static int broken(struct qmp *q, int r)
{
	q->broken = true;
	return r;
}

/* Return: 1 something came; 0 nothing there now; -EPIPE; negative errno */
static int fill(struct qmp *q)
{
	ssize_t n;
	int r = buf_reserve(&q->in, READ_CHUNK);

	if (r < 0)
		return r;
	do
		n = recv(q->fd, q->in.data + q->in.len, READ_CHUNK, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		q->in.len += (size_t)n;
		return 1;
	}
	if (n < 0 && errno == EAGAIN)
		return 0;
	return broken(q, -EPIPE); /* its end, or ECONNRESET, which is the same to us */
}

/* Cut the next line off the input. Return: 1 and its object; 0 no complete line; -EPROTO */
static int take_line(struct qmp *q, json_t **ret)
{
	char *nl = q->in.len > q->scanned
			   ? memchr(q->in.data + q->scanned, '\n', q->in.len - q->scanned)
			   : NULL;
	size_t len = nl ? (size_t)(nl - q->in.data) : q->in.len;
	json_t *o;

	if (len > QMP_LINE_MAX)
		return broken(q, -EPROTO);
	if (!nl) {
		q->scanned = q->in.len;
		return 0;
	}
	o = json_loadb(q->in.data, len, JSON_REJECT_DUPLICATES, NULL);
	buf_consume(&q->in, len + 1);
	if (!q->in.len)
		buf_deinit(&q->in); /* there are many of us, and most are idle */
	q->scanned = 0;
	if (!json_is_object(o)) {
		json_decref(o);
		return broken(q, -EPROTO);
	}
	*ret = o;
	return 1;
}

/* Wait for one message. Return: 0; -ETIMEDOUT; -EPIPE; -EPROTO; -ENOMEM */
static int receive(struct qmp *q, uint64_t deadline_ns, json_t **ret)
{
	if (q->broken)
		return -EPIPE;
	for (;;) {
		int r = take_line(q, ret);

		if (r)
			return MIN(r, 0);
		r = fill(q);
		if (r < 0)
			return r;
		if (r > 0 && !deadline_passed(deadline_ns))
			continue;
		r = fd_poll(q->fd, POLLIN, deadline_ns);
		if (r < 0)
			return r;
		if (r == 0 || deadline_passed(deadline_ns))
			return -ETIMEDOUT;
	}
}

static void note_event(struct qmp *q, const json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "event"));
	const char *reason =
		json_string_value(json_object_get(json_object_get(message, "data"), "reason"));

	if (!name || strcmp(name, "SHUTDOWN"))
		return;
	str_copy(q->shutdown, sizeof(q->shutdown), reason ? reason : "unknown");
	for (char *p = q->shutdown; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '-')
			*p = '?';
}

const char *qmp_shutdown_reason(struct qmp *q)
{
	json_t *message;

	/* bounded, like any wait for a reply */
	for (int i = 0; i < QMP_SKIPPED_MAX && !q->broken; i++) {
		int r = take_line(q, &message);

		if (r == 0)
			r = fill(q) > 0 ? take_line(q, &message) : -EAGAIN;
		if (r < 0)
			break;
		if (r == 0)
			continue;
		note_event(q, message);
		json_decref(message);
	}
	return q->shutdown[0] ? q->shutdown : NULL;
}

static bool is_reply(const json_t *message, uint64_t id)
{
	const json_t *v = json_object_get(message, "id");

	return (json_object_get(message, "return") || json_object_get(message, "error")) &&
	       json_is_integer(v) && json_integer_value(v) == (json_int_t)id;
}

/* Skip events, and replies to commands that were given up. */
static int receive_reply(struct qmp *q, uint64_t id, uint64_t deadline_ns, json_t **ret)
{
	for (int i = 0; i < QMP_SKIPPED_MAX; i++) {
		json_t *message = NULL;
		int r = receive(q, deadline_ns, &message);

		if (r < 0)
			return r;
		if (is_reply(message, id)) {
			*ret = message;
			return 0;
		}
		note_event(q, message);
		json_decref(message);
	}
	return broken(q, -EPROTO);
}

/* A command that went out in part leaves a connection that nobody can use. */
static int send_command(struct qmp *q, const char *text, size_t len, int fd, uint64_t deadline_ns)
{
	int r;

	if (fd < 0) {
		r = fd_write_deadline(q->fd, text, len, deadline_ns);
	} else {
		/* the descriptor goes with the first byte, so the rest is an ordinary write */
		r = fd_poll(q->fd, POLLOUT, deadline_ns);
		if (r == 0)
			r = -ETIMEDOUT;
		if (r > 0)
			r = fd_send(q->fd, text, 1, &fd, 1);
		if (r == 0)
			r = fd_write_deadline(q->fd, text + 1, len - 1, deadline_ns);
	}
	if (r == -ECONNRESET)
		r = -EPIPE;
	return r < 0 ? broken(q, r) : 0;
}

static int exchange(struct qmp *q, const char *command, json_t *arguments, int fd,
		    uint64_t deadline_ns, json_t **ret)
{
	_cleanup_free_ char *text = NULL, *line = NULL;
	uint64_t id = ++q->last_id;
	json_t *o = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)id);
	int r;

	if (o && arguments && json_object_set(o, "arguments", arguments) < 0)
		o = (json_decref(o), NULL);
	text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	line = text ? str_printf("%s\n", text) : NULL;
	json_decref(o);
	if (!line)
		return -ENOMEM;
	r = send_command(q, line, strlen(line), fd, deadline_ns);
	return r < 0 ? r : receive_reply(q, id, deadline_ns, ret);
}

static void explain(struct problem *problem, const char *command, int r)
{
	if (r == -ETIMEDOUT)
		problem_set(problem, 504, "QEMU did not answer \"%s\" in time", command);
	else if (r == -EPIPE)
		problem_set(problem, 500, "QEMU closed its control connection during \"%s\"",
			    command);
	else if (r == -EPROTO)
		problem_set(problem, 500, "QEMU's answer to \"%s\" is not QMP", command);
	else
		problem_errno(problem, r, "QMP command \"%s\"", command);
}

/* QEMU's text, made printable: it is not to be trusted. */
static void explain_remote(struct problem *problem, const char *command, const json_t *error)
{
	const char *desc = json_string_value(json_object_get(error, "desc"));
	char text[256];

	str_copy(text, sizeof(text), desc ? desc : "no description");
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	problem_set(problem, 500, "QEMU refused \"%s\": %s", command, text);
}

int qmp_call(struct qmp *q, const char *command, json_t *arguments, int fd, uint64_t deadline_ns,
	     struct problem *problem, json_t **ret_value)
{
	json_t *reply = NULL, *error;
	int r = q->broken ? -EPIPE : exchange(q, command, arguments, fd, deadline_ns, &reply);

	json_decref(arguments);
	if (r < 0) {
		explain(problem, command, r);
		return error_trace(r);
	}
	error = json_object_get(reply, "error");
	if (error) {
		explain_remote(problem, command, error);
		r = -EREMOTEIO;
	} else if (ret_value) {
		*ret_value = json_incref(json_object_get(reply, "return"));
	}
	json_decref(reply);
	return r;
}

int qmp_handshake(struct qmp *q, uint64_t deadline_ns)
{
	json_t *greeting = NULL;
	int r = receive(q, deadline_ns, &greeting);

	if (r < 0)
		return r;
	if (!json_is_object(json_object_get(greeting, "QMP")))
		r = broken(q, -EPROTO);
	json_decref(greeting);
	return r < 0 ? r : qmp_call(q, "qmp_capabilities", NULL, -1, deadline_ns, NULL, NULL);
}

int qmp_connect(const char *path, uint64_t deadline_ns, struct qmp **ret)
{
	_cleanup_(qmp_freep) struct qmp *q = NULL;
	int fd = fd_unix_connect(path, SOCK_STREAM), r;

	if (fd < 0)
		return fd;
	r = qmp_new_take(fd, &q);
	if (r < 0) {
		fd_close(fd);
		return r;
	}
	r = qmp_handshake(q, deadline_ns);
	if (r == 0)
		*ret = take_ptr(q);
	return r;
}
