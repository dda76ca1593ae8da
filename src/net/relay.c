/* SPDX-License-Identifier: Apache-2.0 */
#include "net/relay.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"

#define HEAD 4u
#define IN_SIZE                                                                                    \
	(128u << 10) /* a frame of the largest size fits, and the next can come meanwhile          \
		      */
/* passt throws away what has no room, and sends it again after seconds: so the windows of a few
 * connections fit. */
#define OUT_SIZE (1u << 20)

struct lane {
	uint8_t *data;
	size_t start, end, size;
};

struct side {
	int fd;
	struct lane in, out;
};

struct relay {
	struct gate *gate;
	struct side sides[2];
};

static int lane_init(struct lane *l, size_t size)
{
	*l = (struct lane){.data = malloc(size), .size = size};
	return l->data ? 0 : -ENOMEM;
}

static size_t lane_used(const struct lane *l)
{
	return l->end - l->start;
}

static void lane_consume(struct lane *l, size_t n)
{
	l->start += n;
	if (l->start == l->end)
		l->start = l->end = 0;
}

static void lane_compact(struct lane *l)
{
	memmove(l->data, l->data + l->start, lane_used(l));
	l->end -= l->start;
	l->start = 0;
}

static bool lane_has_room(const struct lane *l, size_t n)
{
	return l->size - lane_used(l) >= n;
}

/* The caller has seen that there is room. */
static void lane_put(struct lane *l, const uint8_t *frame, size_t len)
{
	if (l->size - l->end < HEAD + len)
		lane_compact(l);
	for (unsigned i = 0; i < HEAD; i++)
		l->data[l->end++] = (uint8_t)(len >> (24 - 8 * i));
	memcpy(l->data + l->end, frame, len);
	l->end += len;
}

static void lane_offer(struct lane *l, const uint8_t *frame, size_t len)
{
	if (len && lane_has_room(l, HEAD + len))
		lane_put(l, frame, len);
}

int relay_new(const int fds[2], struct gate *gate, struct relay **ret)
{
	_cleanup_(relay_freep) struct relay *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->gate = gate;
	for (int i = 0; i < 2; i++) {
		r->sides[i].fd = fds[i];
		if (lane_init(&r->sides[i].in, IN_SIZE) < 0 ||
		    lane_init(&r->sides[i].out, OUT_SIZE) < 0)
			return -ENOMEM;
	}
	*ret = take_ptr(r);
	return 0;
}

struct relay *relay_free(struct relay *r)
{
	for (int i = 0; r && i < 2; i++) {
		free(r->sides[i].in.data);
		free(r->sides[i].out.data);
	}
	free(r);
	return NULL;
}

short relay_events(const struct relay *r, enum relay_side side)
{
	const struct side *s = &r->sides[side];

	return (short)((lane_has_room(&s->in, 1) ? POLLIN : 0) |
		       (lane_used(&s->out) ? POLLOUT : 0));
}

/* Return: 0; -EPIPE; negative errno */
static int fill(struct side *s, short revents)
{
	ssize_t n;

	if (s->in.end == s->in.size)
		lane_compact(&s->in);
	if (s->in.end == s->in.size) /* who has hung up would be told about without end */
		return revents & (POLLHUP | POLLERR) ? -EPIPE : 0;
	n = recv(s->fd, s->in.data + s->in.end, s->in.size - s->in.end, MSG_DONTWAIT);
	if (n > 0)
		s->in.end += (size_t)n;
	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return 0;
	return n == 0 || errno == ECONNRESET ? -EPIPE : error_errno();
}

static int drain(struct side *s)
{
	ssize_t n;

	if (!lane_used(&s->out))
		return 0;
	n = send(s->fd, s->out.data + s->out.start, lane_used(&s->out),
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n > 0)
		lane_consume(&s->out, (size_t)n);
	if (n >= 0 || errno == EAGAIN || errno == EINTR)
		return 0;
	return errno == EPIPE || errno == ECONNRESET ? -EPIPE : error_errno();
}

/* The first frame of a lane. Return: 1; 0 when it is not whole yet; -EPROTO */
static int first_frame(const struct lane *l, const uint8_t **ret, size_t *ret_len)
{
	const uint8_t *p = l->data + l->start;
	size_t len;

	if (lane_used(l) < HEAD)
		return 0;
	len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
	if (len > PACKET_MAX_FRAME)
		return -EPROTO;
	if (lane_used(l) < HEAD + len)
		return 0;
	*ret = p + HEAD;
	*ret_len = len;
	return 1;
}

/* Judge what came in from @from, as long as what follows from it has room. */
static int judge(struct relay *r, enum relay_side from)
{
	struct lane *in = &r->sides[from].in, *back = &r->sides[from].out;
	struct lane *on = &r->sides[!from].out;
	const uint8_t *frame;
	size_t len;
	int e;

	while ((e = first_frame(in, &frame, &len)) > 0) {
		struct gate_result result;

		if (!lane_has_room(on, HEAD + MAX(len, (size_t)PACKET_MAX_REFUSAL)))
			return 0;
		gate_judge(r->gate, from == RELAY_VM ? PACKET_FROM_GUEST : PACKET_TO_GUEST, frame,
			   len, &result);
		lane_offer(on, frame, result.n_forward);
		lane_offer(on, result.onward, result.n_onward);
		lane_offer(back, result.back, result.n_back); /* full: the guest asks again */
		lane_consume(in, HEAD + len);
	}
	return e;
}

int relay_work(struct relay *r, const short revents[2])
{
	int e = 0;

	for (int i = 0; i < 2 && e == 0; i++)
		if (revents[i] & (POLLIN | POLLHUP | POLLERR))
			e = fill(&r->sides[i], revents[i]);
	for (int i = 0; i < 2 && e == 0; i++)
		e = judge(r, (enum relay_side)i);
	for (int i = 0; i < 2 && e == 0; i++)
		e = drain(&r->sides[i]);
	for (int i = 0; i < 2 && e == 0; i++)
		e = judge(r, (enum relay_side)i); /* now there may be room again */
	return e;
}

static void send_reset(void *userdata, enum packet_direction direction, const uint8_t *frame,
		       size_t len)
{
	struct relay *r = userdata;

	lane_offer(&r->sides[direction == PACKET_FROM_GUEST ? RELAY_NETWORK : RELAY_VM].out, frame,
		   len);
}

void relay_set_rules(struct relay *r, const struct rules *rules)
{
	gate_set_rules(r->gate, rules, send_reset, r);
}
