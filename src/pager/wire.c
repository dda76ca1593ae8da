/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/wire.h"

#include <errno.h>
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

static int send_in_memfd(int sock, const char *text, size_t len, int fd)
{
	_cleanup_fd_ int memfd = -1;
	json_auto_t *note = NULL;

	if (fd >= 0 || len > WIRE_MAX_REPLY)
		return -EMSGSIZE;
	memfd = memfd_from_bytes("dorm-pager-reply", text, len);
	if (memfd < 0)
		return memfd;
	note = json_pack("{s:b, s:I}", "ok", 1, "reply_in_fd", (json_int_t)len);
	return note ? wire_send(sock, note, memfd) : -ENOMEM;
}

int wire_send(int sock, const json_t *msg, int fd)
{
	_cleanup_free_ char *text = json_dumps(msg, JSON_COMPACT);
	size_t len;

	if (!text)
		return -ENOMEM;
	len = strlen(text);
	if (len > WIRE_MAX_INLINE)
		return send_in_memfd(sock, text, len, fd);
	return fd_send(sock, text, len, &fd, fd >= 0 ? 1 : 0); /* sockets here do not block */
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

int wire_receive(int sock, json_t **ret, int *ret_fd)
{
	_cleanup_free_ char *text = malloc(WIRE_MAX_MESSAGE + 1);
	_cleanup_fd_ int fd = -1;
	json_t *msg = NULL, *in_fd;
	int fds[2] = {-1, -1};
	size_t n_fds = 0;
	ssize_t n;
	int r;

	if (!text)
		return -ENOMEM;
	n = fd_recv(sock, text, WIRE_MAX_MESSAGE + 1, fds, ARRAY_SIZE(fds), &n_fds);
	fd = fds[0];
	if (n_fds > 1) {
		fd_close(fds[1]);
		return -EPROTO;
	}
	if (n <= 0)
		return n == 0 || n == -ECONNRESET ? -EPIPE : (int)n;
	if ((size_t)n > WIRE_MAX_MESSAGE)
		return -EPROTO;
	r = parse_object(text, (size_t)n, &msg);
	if (r < 0)
		return r;
	in_fd = json_object_get(msg, "reply_in_fd");
	if (in_fd) {
		json_int_t len = json_integer_value(in_fd);

		json_decref(msg);
		r = fd >= 0 ? read_memfd(fd, len, &msg) : -EPROTO;
		if (r < 0)
			return r;
		fd = fd_close(fd);
	}
	*ret = msg;
	*ret_fd = take_fd(fd);
	return 0;
}
