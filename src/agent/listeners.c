/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel makes a dump while it is read, so nothing is waited for: a read that finds nothing is
 * an error. Formats: linux/inet_diag.h, linux/sock_diag.h, netlink(7).
 */
#include "agent/listeners.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define LISTEN_STATE 10 /* TCP_LISTEN of the kernel */
#define REPLY_MAX    32768u

struct listener {
	uint8_t family;
	uint16_t port;
	uint32_t address[4];
	uint32_t uid, inode;
	unsigned pid; /* 0: not known */
	char process[32];
};

struct listeners {
	struct listener *list;
	size_t n;
	size_t unnamed; /* without a pid */
	unsigned links; /* descriptors looked at */
};

/* --- sockets ------------------------------------------------------------------------------------
 */

static int add(struct listeners *l, const struct inet_diag_msg *m)
{
	struct listener *one;

	if (l->n == LISTENERS_MAX)
		return -EFBIG;
	if ((l->n & (l->n - 1)) == 0) { /* at powers of two */
		one = reallocarray(l->list, l->n ? 2 * l->n : 1, sizeof(*one));
		if (!one)
			return -ENOMEM;
		l->list = one;
	}
	one = &l->list[l->n++];
	*one = (struct listener){.family = m->idiag_family,
				 .port = ntohs(m->id.idiag_sport),
				 .uid = m->idiag_uid,
				 .inode = m->idiag_inode};
	memcpy(one->address, m->id.idiag_src, sizeof(one->address));
	return 0;
}

/* The messages of one read. Return: 1 when the dump is complete; 0; negative errno */
static int take_messages(struct listeners *l, const char *data, size_t len)
{
	const struct nlmsghdr *h = (const struct nlmsghdr *)data;
	int r = 0;

	for (; r == 0 && NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
		size_t body = h->nlmsg_len - NLMSG_HDRLEN;

		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR && body >= sizeof(struct nlmsgerr))
			r = ((const struct nlmsgerr *)NLMSG_DATA(h))->error ?: -EPROTO;
		else if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
			 body >= sizeof(struct inet_diag_msg))
			r = add(l, NLMSG_DATA(h));
	}
	return r;
}

static int ask(int fd, uint8_t family)
{
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 body;
	} q = {.head = {.nlmsg_len = sizeof(q),
			.nlmsg_type = SOCK_DIAG_BY_FAMILY,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
	       .body = {.sdiag_family = family,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1u << LISTEN_STATE}};
	const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

	if (sendto(fd, &q, sizeof(q), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return error_errno();
	return 0;
}

static int dump_family(struct listeners *l, uint8_t family)
{
	_Alignas(struct nlmsghdr) char reply[REPLY_MAX];
	_cleanup_fd_ int fd =
		socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	int r = fd < 0 ? error_errno() : ask(fd, family);

	while (r == 0) {
		ssize_t n = recv(fd, reply, sizeof(reply), 0);

		if (n < 0 && errno == EINTR)
			continue;
		r = n < 0 ? error_errno() : take_messages(l, reply, (size_t)n);
	}
	return r < 0 ? r : 0;
}

/* --- whose they are -----------------------------------------------------------------------------
 */

static void name_process(struct listener *one, unsigned pid)
{
	char path[64];
	_cleanup_fd_ int fd = -1;
	ssize_t n;

	one->pid = pid;
	(void)snprintf(path, sizeof(path), "/proc/%u/comm", pid); /* fits */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, one->process, sizeof(one->process) - 1);
	if (n > 0)
		one->process[strcspn(one->process, "\n")] = 0;
}

static void take_link(struct listeners *l, const char *link, unsigned pid)
{
	unsigned inode;

	if (sscanf(link, "socket:[%u]", &inode) != 1)
		return;
	for (size_t i = 0; i < l->n; i++) {
		if (l->list[i].inode != inode || l->list[i].pid)
			continue;
		name_process(&l->list[i], pid);
		l->unnamed--;
	}
}

static void scan_process(struct listeners *l, unsigned pid)
{
	char path[64], link[64];
	struct dirent *e;
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%u/fd", pid); /* fits */
	d = opendir(path);
	while (d && l->unnamed && l->links < LISTENERS_MAX_LINKS && (e = readdir(d))) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);

		l->links++;
		if (n > 0) {
			link[n] = 0;
			take_link(l, link, pid);
		}
	}
	if (d)
		closedir(d);
}

static void scan_processes(struct listeners *l)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	uint64_t pid;

	l->unnamed = l->n;
	while (d && l->unnamed && l->links < LISTENERS_MAX_LINKS && (e = readdir(d)))
		if (str_to_u64(e->d_name, &pid) == 0)
			scan_process(l, (unsigned)pid);
	if (d)
		closedir(d);
}

/* --- the report ---------------------------------------------------------------------------------
 */

static int by_port(const void *a, const void *b)
{
	const struct listener *x = a, *y = b;

	if (x->port != y->port)
		return x->port < y->port ? -1 : 1;
	if (x->family != y->family)
		return x->family == AF_INET ? -1 : 1;
	return memcmp(x->address, y->address, sizeof(x->address));
}

static json_t *describe(const struct listener *one)
{
	char address[INET6_ADDRSTRLEN] = "";
	json_t *o;

	(void)inet_ntop(one->family, one->address, address, sizeof(address)); /* fits */
	o = json_pack("{s:i, s:s, s:s, s:i}", "port", (int)one->port, "address", address, "family",
		      one->family == AF_INET6 ? "ipv6" : "ipv4", "uid", (int)one->uid);
	if (o && one->pid) {
		json_t *name = json_string(one->process);

		(void)json_object_set_new(o, "pid", json_integer(one->pid));
		(void)json_object_set_new(o, "process", name ? name : json_string("(not UTF-8)"));
	}
	return o;
}

static json_t *describe_all(const struct listeners *l)
{
	json_t *all = json_array();

	for (size_t i = 0; all && i < l->n; i++) {
		if (json_array_append_new(all, describe(&l->list[i])) < 0) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}

int listeners_list(json_t **ret)
{
	struct listeners l = {0};
	json_t *all = NULL;
	int r = dump_family(&l, AF_INET);

	if (r == 0)
		r = dump_family(&l, AF_INET6);
	if (r == 0) {
		scan_processes(&l);
		if (l.n)
			qsort(l.list, l.n, sizeof(*l.list), by_port);
		all = describe_all(&l);
		r = all ? 0 : -ENOMEM;
	}
	free(l.list);
	if (r == 0)
		*ret = all;
	return error_trace(r);
}
