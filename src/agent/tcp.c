/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/tcp.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/mem.h"

#define ANSWER_BYTES  16384
#define MAX_ROUNDS    64 /* a dump of sockets that come and go ends all the same */
#define RESET_AT_ONCE 128
#define CONNECTED_STATES                                                                           \
	(1u << TCP_ESTABLISHED | 1u << TCP_SYN_SENT | 1u << TCP_SYN_RECV | 1u << TCP_FIN_WAIT1 |   \
	 1u << TCP_FIN_WAIT2 | 1u << TCP_CLOSE_WAIT | 1u << TCP_LAST_ACK | 1u << TCP_CLOSING)

struct query {
	struct nlmsghdr head;
	struct inet_diag_req_v2 body;
};

/* Those found by one dump; more than fit are only counted. */
struct found {
	struct inet_diag_sockid ids[RESET_AT_ONCE];
	int n;
};

static int request(int fd, int type, int flags, const struct inet_diag_req_v2 *body)
{
	struct query q = {.head = {.nlmsg_len = sizeof(q),
				   .nlmsg_type = (uint16_t)type,
				   .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)},
			  .body = *body};

	return send(fd, &q, sizeof(q), MSG_DONTWAIT) < 0 ? error_errno() : 0;
}

static bool goes_outside(const struct inet_diag_sockid *id)
{
	return memcmp(id->idiag_src, id->idiag_dst, sizeof(id->idiag_src)) != 0;
}

static int take_error(const struct nlmsghdr *m)
{
	const struct nlmsgerr *e = NLMSG_DATA(m);

	return m->nlmsg_len < NLMSG_LENGTH(sizeof(*e)) ? -EBADMSG : e->error;
}

/* Return: 1 at the end of the answer; 0: more is to come; negative errno */
static int take_answer(const void *data, size_t len, struct found *f)
{
	const struct nlmsghdr *m;

	for (m = data; NLMSG_OK(m, len); m = NLMSG_NEXT(m, len)) {
		const struct inet_diag_msg *d = NLMSG_DATA(m);

		if (m->nlmsg_type == NLMSG_DONE)
			return 1;
		if (m->nlmsg_type == NLMSG_ERROR)
			return take_error(m) ?: 1;
		if (m->nlmsg_len < NLMSG_LENGTH(sizeof(*d)) || !goes_outside(&d->id))
			continue;
		if (f->n < RESET_AT_ONCE)
			f->ids[f->n] = d->id;
		f->n++;
	}
	return 0;
}

/* Adds to @f. */
static int dump(int fd, int family, struct found *f)
{
	const struct inet_diag_req_v2 body = {.sdiag_family = (uint8_t)family,
					      .sdiag_protocol = IPPROTO_TCP,
					      .idiag_states = CONNECTED_STATES};
	_Alignas(struct nlmsghdr) char answer[ANSWER_BYTES];
	int r = request(fd, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &body);

	for (int i = 0; r == 0 && i < MAX_ROUNDS; i++) {
		ssize_t n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);

		r = n < 0 ? error_errno() : take_answer(answer, (size_t)n, f);
	}
	return r == 1 ? 0 : r ? r : -E2BIG;
}

static int destroy(int fd, int family, const struct inet_diag_sockid *id)
{
	const struct inet_diag_req_v2 body = {.sdiag_family = (uint8_t)family,
					      .sdiag_protocol = IPPROTO_TCP,
					      .idiag_states = CONNECTED_STATES,
					      .id = *id};
	_Alignas(struct nlmsghdr) char answer[512];
	struct found none = {.n = 0};
	ssize_t n;
	int r = request(fd, SOCK_DESTROY, NLM_F_ACK, &body);

	if (r < 0)
		return r;
	n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	r = n < 0 ? error_errno() : take_answer(answer, (size_t)n, &none);
	return r == -ENOENT ? 0 : MIN(r, 0); /* it has ended by itself */
}

/* All of a family, some at a time. */
static int reset_family(int fd, int family)
{
	int total = 0;

	for (int round = 0; round < MAX_ROUNDS; round++) {
		struct found f = {.n = 0};
		int n, r = dump(fd, family, &f);

		if (r < 0 || !f.n)
			return r < 0 ? r : total;
		n = MIN(f.n, RESET_AT_ONCE);
		for (int i = 0; i < n; i++) {
			r = destroy(fd, family, &f.ids[i]);
			if (r < 0)
				return r;
		}
		total += n;
		if (f.n <= RESET_AT_ONCE)
			return total;
	}
	return -E2BIG;
}

int tcp_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);

	return fd < 0 ? error_errno() : fd;
}

int tcp_count(int fd)
{
	struct found f = {.n = 0};
	int r = dump(fd, AF_INET, &f);

	if (r == 0)
		r = dump(fd, AF_INET6, &f);
	return r < 0 ? r : f.n;
}

int tcp_reset(int fd)
{
	int a = reset_family(fd, AF_INET), b = a < 0 ? a : reset_family(fd, AF_INET6);

	return b < 0 ? b : a + b;
}
