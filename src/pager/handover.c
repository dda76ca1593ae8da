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

static int exchange(int sock, json_t **ret)
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
	for (unsigned i = 0; i < WIRE_MAX_FDS && r == 0; i++)
		fd_close(fds[i]);
	return r;
}

int handover_ask(const char *socket_path, struct problem *problem)
{
	_cleanup_fd_ int sock = fd_unix_connect(socket_path, SOCK_SEQPACKET);
	json_auto_t *reply = NULL;
	const char *message;
	int r;

	if (sock == -ENOENT || sock == -ECONNREFUSED)
		return 0; /* it is not there, or died */
	r = sock < 0 ? sock : exchange(sock, &reply);
	if (r == -EPIPE || r == -ECONNRESET)
		return 0; /* it died just now */
	if (r < 0) {
		problem_errno(problem, r, "asking the pager at %s to make room", socket_path);
		return r;
	}
	if (json_is_true(json_object_get(reply, "ok")))
		return 0;
	message = json_string_value(json_object_get(reply, "message"));
	problem_set(problem, 409, "the pager at %s does not make room: %s", socket_path,
		    message ? message : "it gave no reason");
	problem_hint(problem, "end it, and start this one without --takeover");
	return -EOPNOTSUPP;
}
