/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.c - the supervisor's table of records
 *
 * Requests and answers are records of a seqpacket socket, one answer for each request. The worker
 * fetches records one by one, by number: so the keeper never has more to send than one answer, can
 * never be made to wait, and needs no buffer. Memory is bounded by KEEPER_MAX_RECORDS and
 * KEEPER_MAX_BYTES, whatever a worker sends.
 *
 * The table is a plain array in the order of arrival: a worker puts and removes once per session.
 */
#include "pager/keeper.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "pager/keeper-wire.h"

struct record {
	char *name; /* terminated, like json */
	char *json;
	size_t bytes;
	int fds[KEEPER_MAX_FDS];
	size_t n_fds;
};

struct keeper {
	size_t n;
	size_t bytes;
	struct record records[KEEPER_MAX_RECORDS];
};

int keeper_new(struct keeper **ret)
{
	struct keeper *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	*ret = k;
	return 0;
}

static void record_deinit(struct record *r)
{
	for (size_t i = 0; i < r->n_fds; i++)
		fd_close(r->fds[i]);
	free(r->name);
	free(r->json);
	*r = (struct record){0};
}

struct keeper *keeper_free(struct keeper *k)
{
	if (!k)
		return NULL;
	for (size_t i = 0; i < k->n; i++)
		record_deinit(&k->records[i]);
	free(k);
	return NULL;
}

size_t keeper_n_records(const struct keeper *k)
{
	return k->n;
}

/* Return: its number; k->n: there is none */
static size_t find(const struct keeper *k, const struct keeper_message *m)
{
	size_t i = 0;

	while (i < k->n && (strlen(k->records[i].name) != m->name_len ||
			    memcmp(k->records[i].name, m->name, m->name_len) != 0))
		i++;
	return i;
}

static void remove_record(struct keeper *k, size_t i)
{
	if (i == k->n)
		return;
	k->bytes -= k->records[i].bytes;
	record_deinit(&k->records[i]);
	memmove(&k->records[i], &k->records[i + 1], (k->n - i - 1) * sizeof(k->records[0]));
	k->n--;
}

/* @fds are taken in every case: into the record, or closed. */
static int put(struct keeper *k, const struct keeper_message *m, const int *fds, size_t n_fds)
{
	size_t old = find(k, m), bytes = m->name_len + m->json_len;
	struct record r = {.n_fds = n_fds, .bytes = bytes};
	size_t freed = old < k->n ? k->records[old].bytes : 0;

	memcpy(r.fds, fds, n_fds * sizeof(*fds));
	if ((old == k->n && k->n == KEEPER_MAX_RECORDS) ||
	    k->bytes - freed + bytes > KEEPER_MAX_BYTES) {
		record_deinit(&r);
		return -ENOSPC;
	}
	r.name = strndup(m->name, m->name_len);
	r.json = strndup(m->json, m->json_len);
	if (!r.name || !r.json) {
		record_deinit(&r);
		return -ENOMEM;
	}
	k->bytes = k->bytes - freed + bytes;
	if (old < k->n)
		record_deinit(&k->records[old]);
	else
		k->n++;
	k->records[old] = r;
	return 0;
}

static int answer(const struct keeper *k, int sock, const struct keeper_message *request, int r)
{
	uint8_t out[KEEPER_MESSAGE_BYTES];
	struct keeper_message m = {
		.op = KEEPER_ANSWER, .seq = request->seq, .value = r < 0 ? (uint32_t)-r : 0};
	const struct record *record = NULL;
	size_t len;

	if (r == 0 && request->op == KEEPER_GET) {
		record = &k->records[request->value];
		m.name = record->name;
		m.name_len = (uint32_t)strlen(record->name);
		m.json = record->json;
		m.json_len = (uint32_t)strlen(record->json);
	}
	len = keeper_encode(&m, out);
	return fd_send(sock, out, len, record ? record->fds : NULL, record ? record->n_fds : 0);
}

static int serve(struct keeper *k, const struct keeper_message *m, const int *fds, size_t n_fds)
{
	if (m->op == KEEPER_PUT)
		return put(k, m, fds, n_fds);
	if (m->op == KEEPER_REMOVE) {
		remove_record(k, find(k, m));
		return 0;
	}
	return m->value < k->n ? 0 : -ENOENT;
}

int keeper_serve(struct keeper *k, int sock)
{
	uint8_t data[KEEPER_MESSAGE_BYTES];
	struct keeper_message m;
	int fds[KEEPER_MAX_FDS + 1];
	size_t n_fds = 0;
	ssize_t n = fd_recv(sock, data, sizeof(data), fds, ARRAY_SIZE(fds), &n_fds);
	int r = n < 0 ? (int)n : n == 0 ? -EPIPE : keeper_decode(data, (size_t)n, &m);

	if (r == 0 && (m.op == KEEPER_ANSWER || n_fds > (m.op == KEEPER_PUT ? KEEPER_MAX_FDS : 0)))
		r = -EPROTO;
	if (r < 0) {
		for (size_t i = 0; i < n_fds; i++)
			fd_close(fds[i]);
		return r == -EAGAIN ? 0 : r == -ECONNRESET ? -EPIPE : r;
	}
	r = answer(k, sock, &m, serve(k, &m, fds, n_fds));
	return r == -ECONNRESET ? -EPIPE : r;
}
