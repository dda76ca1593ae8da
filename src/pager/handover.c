/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/handover.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "pager/wire.h"

#define ANSWER_MS 10000

/* Clients are to be accepted from it: it must be what it should be. */
static bool is_listener(int fd)
{
	int listens = 0, type = 0;
	socklen_t len = sizeof(listens), type_len = sizeof(type);

	return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) == 0 && listens &&
	       type == SOCK_SEQPACKET;
}

static int exchange(int sock, json_t **ret, int *ret_fd)
{
	json_auto_t *request = json_pack("{s:s}", "op", "handover");
	int fds[WIRE_MAX_FDS], r;

	if (!request)
		return -ENOMEM;
	r = wire_send(sock, request, NULL, 0);
	if (r < 0)
		return r;
	r = fd_poll(sock, POLLIN, deadline_after_ms(ANSWER_MS));
	if (r <= 0)
		return r < 0 ? r : -ETIMEDOUT;
	r = wire_receive(sock, ret, fds);
	if (r < 0)
		return r;
	for (unsigned i = 1; i < WIRE_MAX_FDS; i++)
		fd_close(fds[i]);
	*ret_fd = fds[0];
	return 0;
}

int handover_ask(const char *socket_path, struct problem *problem, int *ret_listener)
{
	_cleanup_fd_ int sock = fd_unix_connect(socket_path, SOCK_SEQPACKET);
	_cleanup_fd_ int listener = -1;
	json_auto_t *reply = NULL;
	const char *message;
	int r;

	*ret_listener = -1;
	if (sock == -ENOENT || sock == -ECONNREFUSED)
		return 0; /* it is not there, or died */
	r = sock < 0 ? sock : exchange(sock, &reply, &listener);
	if (r == -EPIPE || r == -ECONNRESET)
		return 0; /* it died just now */
	if (r < 0) {
		problem_errno(problem, r, "asking the pager at %s to make room", socket_path);
		return r;
	}
	if (json_is_true(json_object_get(reply, "ok"))) {
		if (is_listener(listener))
			*ret_listener = take_fd(listener);
		return 0;
	}
	message = json_string_value(json_object_get(reply, "message"));
	problem_set(problem, 409, "the pager at %s does not make room: %s", socket_path,
		    message ? message : "it gave no reason");
	problem_hint(problem, "end it, and start this one without --takeover");
	return -EOPNOTSUPP;
}
