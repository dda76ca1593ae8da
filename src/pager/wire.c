/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/wire.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "image/image.h"
#include "sys/memfd.h"

#define ERRNO_END 134 /* one past Linux's last */

const char *wire_code(int r)
{
	const char *name;

	if (r == IMAGE_E_CORRUPT)
		return "corrupt";
	if (r == IMAGE_E_VERSION)
		return "version";
	if (r == IMAGE_E_KEY)
		return "key";
	name = r < 0 ? strerrorname_np(-r) : NULL;
	return name ? name : "EIO";
}

int wire_result(const char *code)
{
	if (!code)
		return -EPROTO;
	if (!strcmp(code, "corrupt"))
		return IMAGE_E_CORRUPT;
	if (!strcmp(code, "version"))
		return IMAGE_E_VERSION;
	if (!strcmp(code, "key"))
		return IMAGE_E_KEY;
	for (int e = 1; e < ERRNO_END; e++) {
		const char *name = strerrorname_np(e);

		if (name && !strcmp(name, code))
			return -e;
	}
	return -EPROTO;
}

json_t *wire_error(int r, const struct problem *problem)
{
	struct problem p = *problem;

	if (r < 0)
		problem_errno(&p, r, "the request failed");
	return json_pack("{s:b, s:s, s:s, s:s, s:i}", "ok", 0, "code", wire_code(r), "message",
			 p.message, "hint", p.hint, "status", p.status);
}

static int send_in_memfd(int sock, const char *text, size_t len)
{
	_cleanup_fd_ int memfd = -1;
	json_auto_t *note = NULL;

	if (len > WIRE_MAX_REPLY)
		return -EMSGSIZE;
	memfd = memfd_from_bytes("dorm-pager-reply", text, len);
	if (memfd < 0)
		return memfd;
	note = json_pack("{s:b, s:I}", "ok", 1, "reply_in_fd", (json_int_t)len);
	return note ? wire_send(sock, note, &memfd, 1) : -ENOMEM;
}

int wire_send(int sock, const json_t *msg, const int *fds, size_t n_fds)
{
	_cleanup_free_ char *text = json_dumps(msg, JSON_COMPACT);
	size_t len;

	if (!text)
		return -ENOMEM;
	len = strlen(text);
	if (len > WIRE_MAX_INLINE)
		return n_fds ? -EMSGSIZE : send_in_memfd(sock, text, len);
	return fd_send(sock, text, len, fds, n_fds); /* sockets here do not block */
}

static int parse_object(const char *text, size_t len, json_t **ret)
{
	json_t *msg = json_loadb(text, len, 0, NULL);

	if (!json_is_object(msg)) {
		json_decref(msg);
		return -EPROTO;
	}
	*ret = msg;
	return 0;
}

/* The real reply is in the file; a peer that sends something else sent nothing. */
static int read_memfd(int fd, json_int_t len, json_t **ret)
{
	_cleanup_free_ char *text = NULL;
	struct stat st;
	int r;

	if (len <= 0 || len > WIRE_MAX_REPLY || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    st.st_size < len)
		return -EPROTO;
	text = malloc((size_t)len);
	if (!text)
		return -ENOMEM;
	r = fd_pread_full(fd, text, (size_t)len, 0);
	return r < 0 ? r : parse_object(text, (size_t)len, ret);
}

/* The message itself, with up to one descriptor more than there may be, to see that. */
static int receive_text(int sock, char *text, size_t *ret_len, int fds[WIRE_MAX_FDS + 1])
{
	size_t n_fds = 0;
	ssize_t n = fd_recv(sock, text, WIRE_MAX_MESSAGE + 1, fds, WIRE_MAX_FDS + 1, &n_fds);

	if (n <= 0)
		return n == 0 || n == -ECONNRESET ? -EPIPE : (int)n;
	if ((size_t)n > WIRE_MAX_MESSAGE || n_fds > WIRE_MAX_FDS)
		return -EPROTO;
	*ret_len = (size_t)n;
	return 0;
}

/* Replace the note "reply_in_fd" by the reply that it speaks of. */
static int resolve(json_t **msg, const int fds[WIRE_MAX_FDS])
{
	json_t *in_fd = json_object_get(*msg, "reply_in_fd"), *reply = NULL;
	int r;

	if (fds[0] < 0 || fds[1] >= 0)
		return -EPROTO;
	r = read_memfd(fds[0], json_integer_value(in_fd), &reply);
	if (r < 0)
		return r;
	json_decref(*msg);
	*msg = reply;
	return 0;
}

int wire_receive(int sock, json_t **ret, int ret_fds[WIRE_MAX_FDS])
{
	_cleanup_free_ char *text = malloc(WIRE_MAX_MESSAGE + 1);
	int fds[WIRE_MAX_FDS + 1] = {-1, -1, -1};
	json_auto_t *msg = NULL;
	size_t len = 0;
	bool keep;
	int r;

	if (!text)
		return -ENOMEM;
	r = receive_text(sock, text, &len, fds);
	if (r == 0)
		r = parse_object(text, len, &msg);
	keep = r == 0 && !json_object_get(msg, "reply_in_fd");
	if (r == 0 && !keep)
		r = resolve(&msg, fds);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		if (!keep)
			fds[i] = fd_close(fds[i]);
		if (r == 0 && i < WIRE_MAX_FDS)
			ret_fds[i] = fds[i];
	}
	if (r == 0)
		*ret = take_ptr(msg);
	return r;
}
