/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper-client.c - the worker's side of the keeper
 *
 * A request waits for its answer, but not for ever: a supervisor that was stopped must not stop the
 * worker. An answer that comes too late is known by its number, and left out by the next request.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "pager/keeper-wire.h"
#include "pager/keeper.h"

struct answer {
	uint8_t data[KEEPER_MESSAGE_BYTES];
	struct keeper_message m;
	int fds[KEEPER_MAX_FDS];
	size_t n_fds;
};

static void close_fds(struct answer *a)
{
	for (size_t i = 0; i < a->n_fds; i++)
		a->fds[i] = fd_close(a->fds[i]);
	a->n_fds = 0;
}

static int gone(int r)
{
	return r == -ECONNRESET ? -EPIPE : r;
}

static int receive(int sock, uint32_t seq, uint64_t deadline_ns, struct answer *ret)
{
	for (;;) {
		ssize_t n;
		int r = fd_poll(sock, POLLIN, deadline_ns);

		if (r <= 0)
			return r < 0 ? r : -ETIMEDOUT;
		ret->n_fds = 0;
		n = fd_recv(sock, ret->data, sizeof(ret->data), ret->fds, ARRAY_SIZE(ret->fds),
			    &ret->n_fds);
		if (n == -EAGAIN)
			continue;
		if (n <= 0)
			return n < 0 ? gone((int)n) : -EPIPE;
		r = keeper_decode(ret->data, (size_t)n, &ret->m);
		if (r == 0 && ret->m.op == KEEPER_ANSWER && ret->m.seq == seq)
			return 0;
		close_fds(ret);
		if (r < 0)
			return r;
	}
}

static int ask(int sock, struct keeper_message *m, const int *fds, size_t n_fds, struct answer *ret)
{
	static uint32_t last_seq; /* of this process: one worker, one thread */
	uint64_t deadline_ns = deadline_after_ms(KEEPER_ANSWER_MS);
	uint8_t out[KEEPER_MESSAGE_BYTES];
	int r;

	m->seq = ++last_seq;
	r = fd_poll(sock, POLLOUT, deadline_ns);
	if (r <= 0)
		return r < 0 ? r : -ETIMEDOUT;
	r = fd_send(sock, out, keeper_encode(m, out), fds, n_fds);
	if (r == 0)
		r = receive(sock, m->seq, deadline_ns, ret);
	if (r)
		return gone(r);
	if (ret->m.value == 0)
		return 0;
	close_fds(ret);
	return ret->m.value < 4096 ? -(int)ret->m.value : -EPROTO;
}

int keeper_put(int sock, const char *name, const char *json, const int *fds, size_t n_fds)
{
	struct keeper_message m = {.op = KEEPER_PUT, .name = name, .json = json};
	struct answer a;
	size_t name_len = strlen(name), json_len = strlen(json);
	int r;

	if (name_len == 0 || name_len > KEEPER_MAX_NAME || json_len > KEEPER_MAX_JSON ||
	    n_fds > KEEPER_MAX_FDS)
		return -EINVAL;
	m.name_len = (uint32_t)name_len;
	m.json_len = (uint32_t)json_len;
	r = ask(sock, &m, fds, n_fds, &a);
	if (r == 0)
		close_fds(&a);
	return r;
}

int keeper_remove(int sock, const char *name)
{
	struct keeper_message m = {.op = KEEPER_REMOVE, .name = name};
	struct answer a;
	size_t name_len = strlen(name);
	int r;

	if (name_len == 0 || name_len > KEEPER_MAX_NAME)
		return -EINVAL;
	m.name_len = (uint32_t)name_len;
	r = ask(sock, &m, NULL, 0, &a);
	if (r == 0)
		close_fds(&a);
	return r;
}

static int hand_over(struct answer *a, keeper_record_fn *fn, void *data)
{
	_cleanup_free_ char *name = strndup(a->m.name, a->m.name_len);
	_cleanup_free_ char *json = strndup(a->m.json, a->m.json_len);
	int r = name && json ? fn(data, name, json, a->fds, a->n_fds) : -ENOMEM;

	close_fds(a);
	return r;
}

int keeper_receive_all(int sock, keeper_record_fn *fn, void *data)
{
	for (uint32_t i = 0; i < KEEPER_MAX_RECORDS; i++) {
		struct keeper_message m = {.op = KEEPER_GET, .value = i};
		struct answer a;
		int r = ask(sock, &m, NULL, 0, &a);

		if (r == -ENOENT)
			return 0;
		if (r == 0)
			r = hand_over(&a, fn, data);
		if (r)
			return r;
	}
	return 0;
}
