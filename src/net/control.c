/* SPDX-License-Identifier: Apache-2.0 */
#include "net/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/mem.h"

int control_init(struct control *c, int listen_fd, struct relay *relay, struct gate *gate)
{
	*c = (struct control){.listen_fd = listen_fd,
			      .relay = relay,
			      .gate = gate,
			      .message = malloc(CONTROL_MAX_MESSAGE + 1)};
	for (int i = 0; i < CONTROL_MAX_CLIENTS; i++)
		c->clients[i] = -1;
	return c->message ? 0 : -ENOMEM;
}

void control_deinit(struct control *c)
{
	for (int i = 0; i < CONTROL_MAX_CLIENTS; i++)
		fd_close(c->clients[i]);
	free(c->message);
}

void control_polls(const struct control *c, struct pollfd polls[CONTROL_N_POLLS])
{
	polls[0] = (struct pollfd){.fd = c->listen_fd, .events = POLLIN};
	for (int i = 0; i < CONTROL_MAX_CLIENTS; i++)
		polls[1 + i] = (struct pollfd){.fd = c->clients[i], .events = POLLIN};
}

static json_t *fail(const char *message)
{
	return json_pack("{s:b, s:s}", "ok", 0, "message", message);
}

static json_t *answer(struct control *c, const json_t *request)
{
	struct problem problem = PROBLEM_INIT;
	json_t *rules = json_object_get(request, "rules");
	struct rules parsed;

	if (rules) {
		if (rules_parse(rules, &problem, &parsed) < 0)
			return fail(problem.message);
		relay_set_rules(c->relay, &parsed);
		return json_pack("{s:b}", "ok", 1);
	}
	if (json_is_true(json_object_get(request, "status")))
		return json_pack("{s:b, s:o}", "ok", 1, "counters", gate_counters(c->gate));
	return fail("neither rules nor status");
}

/* Return: 0; negative when it is to be hung up on */
static int serve(struct control *c, int fd)
{
	_cleanup_free_ char *text = NULL;
	json_t *request, *reply;
	ssize_t n = recv(fd, c->message, CONTROL_MAX_MESSAGE + 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0 || n > (ssize_t)CONTROL_MAX_MESSAGE)
		return -1;
	request = json_loadb(c->message, (size_t)n, 0, NULL);
	reply = answer(c, request);
	text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;
	json_decref(request);
	json_decref(reply);
	/* one that does not read its answers is none of ours */
	return text && send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) > 0 ? 0 : -1;
}

static void admit(struct control *c)
{
	_cleanup_fd_ int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (int i = 0; fd >= 0 && i < CONTROL_MAX_CLIENTS; i++)
		if (c->clients[i] < 0)
			c->clients[i] = take_fd(fd);
}

void control_work(struct control *c, const struct pollfd polls[CONTROL_N_POLLS])
{
	for (int i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (polls[1 + i].revents && serve(c, c->clients[i]) < 0)
			c->clients[i] = fd_close(c->clients[i]);
	if (polls[0].revents & POLLIN)
		admit(c);
}
