/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything goes into one datagram of rtnetlink requests, and the kernel answers each before the
 * send returns, so nothing here waits (rtnetlink(7)). What is set already may be set again.
 *
 * The gateway's hardware address is set as a permanent neighbour: nobody has to be asked for it,
 * not even after a wake, when whoever answered before is gone. Addresses need no check for
 * duplicates, since there is nobody else on the wire, and routers need not be listened to.
 */
#include "agent/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

#define FIRST_NIC                                                                                  \
	2 /* after lo: the agent loads the driver before anything else makes interfaces            \
	   */
#define MIN_MTU	  576
#define USUAL_MTU 1500 /* below 1280 the kernel takes all of IPv6 away, settings included */
#define MAX_MTU	  65535
#define BATCH_MAX 2048

/* The other end of every connection is passt, microseconds away: a large window gives no speed, but
 * bursts that have no room on their way, and what is lost there comes again after two seconds. */
#define RECEIVE_WINDOW "4096 65536 262144"

struct config {
	uint8_t address[4], gateway[4], address6[16], gateway6[16], gateway_mac[6];
	uint8_t prefix, prefix6; /* prefix6 0: no IPv6 */
	uint32_t mtu;
	char dns[INET6_ADDRSTRLEN];
};

struct network {
	bool owns_machine;
	bool up;
	struct config config; /* when up */
};

/* --- what the host sent -------------------------------------------------------------------------
 */

static int get_address(const json_t *o, const char *name, int family, uint8_t *ret)
{
	const char *text = json_string_value(json_object_get(o, name));

	return text && inet_pton(family, text, ret) == 1 ? 0 : -EINVAL;
}

static int get_number(const json_t *o, const char *name, json_int_t min, json_int_t max,
		      json_int_t *ret)
{
	json_t *v = json_object_get(o, name);

	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
		return -EINVAL;
	*ret = json_integer_value(v);
	return 0;
}

static int parse_v6(const json_t *o, struct config *c)
{
	json_int_t prefix;

	if (!json_object_get(o, "address6"))
		return 0;
	if (get_address(o, "address6", AF_INET6, c->address6) < 0 ||
	    get_address(o, "gateway6", AF_INET6, c->gateway6) < 0 ||
	    get_number(o, "prefix6", 1, 128, &prefix) < 0)
		return -EINVAL;
	c->prefix6 = (uint8_t)prefix;
	return 0;
}

static int parse(const json_t *o, struct config *c)
{
	const char *mac = json_string_value(json_object_get(o, "gatewayMac"));
	const char *dns = json_string_value(json_object_get(o, "dns"));
	uint8_t ignored[16], *m = c->gateway_mac;
	json_int_t prefix, mtu;

	if (get_address(o, "address", AF_INET, c->address) < 0 ||
	    get_address(o, "gateway", AF_INET, c->gateway) < 0 ||
	    get_number(o, "prefix", 1, 32, &prefix) < 0 ||
	    get_number(o, "mtu", MIN_MTU, MAX_MTU, &mtu) < 0 || !mac || !dns)
		return -EINVAL;
	if (sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &m[0], &m[1], &m[2], &m[3], &m[4],
		   &m[5]) != 6)
		return -EINVAL;
	if (inet_pton(strchr(dns, ':') ? AF_INET6 : AF_INET, dns, ignored) != 1)
		return -EINVAL;
	c->prefix = (uint8_t)prefix;
	c->mtu = (uint32_t)mtu;
	str_copy(c->dns, sizeof(c->dns), dns);
	return parse_v6(o, c);
}

/* --- rtnetlink ----------------------------------------------------------------------------------
 */

struct batch {
	size_t len;
	uint32_t n; /* requests; they are numbered from 1 */
	alignas(NLMSG_ALIGNTO) uint8_t data[BATCH_MAX];
};

/* Begin a request whose fixed part is @size bytes. All of ours together fit. */
static void *request(struct batch *b, uint16_t type, uint16_t flags, const void *fixed, size_t size)
{
	struct nlmsghdr *h = (struct nlmsghdr *)(void *)(b->data + b->len);

	*h = (struct nlmsghdr){.nlmsg_len = (uint32_t)NLMSG_LENGTH(size),
			       .nlmsg_type = type,
			       .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags),
			       .nlmsg_seq = ++b->n};
	memcpy(NLMSG_DATA(h), fixed, size);
	b->len += NLMSG_ALIGN(h->nlmsg_len);
	return h;
}

static void attribute(struct batch *b, struct nlmsghdr *h, uint16_t type, const void *data,
		      size_t len)
{
	struct rtattr *a = (struct rtattr *)(void *)((uint8_t *)h + NLMSG_ALIGN(h->nlmsg_len));

	*a = (struct rtattr){.rta_len = (uint16_t)RTA_LENGTH(len), .rta_type = type};
	memcpy(RTA_DATA(a), data, len);
	h->nlmsg_len = NLMSG_ALIGN(h->nlmsg_len) + (uint32_t)RTA_ALIGN(a->rta_len);
	b->len = (size_t)((uint8_t *)h - b->data) + NLMSG_ALIGN(h->nlmsg_len);
}

static void add_link(struct batch *b, bool up, uint32_t mtu)
{
	const struct ifinfomsg m = {
		.ifi_index = FIRST_NIC, .ifi_flags = up ? IFF_UP : 0, .ifi_change = IFF_UP};
	struct nlmsghdr *h = request(b, RTM_NEWLINK, 0, &m, sizeof(m));

	if (up)
		attribute(b, h, IFLA_MTU, &mtu, sizeof(mtu));
}

static void add_address(struct batch *b, uint8_t family, const uint8_t *address, size_t len,
			uint8_t prefix)
{
	const struct ifaddrmsg m = {.ifa_family = family,
				    .ifa_prefixlen = prefix,
				    .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0,
				    .ifa_index = FIRST_NIC};
	struct nlmsghdr *h = request(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof(m));

	attribute(b, h, IFA_LOCAL, address, len);
	attribute(b, h, IFA_ADDRESS, address, len);
}

static void add_neighbour(struct batch *b, uint8_t family, const uint8_t *gateway, size_t len,
			  const uint8_t mac[6])
{
	const struct ndmsg m = {
		.ndm_family = family, .ndm_ifindex = FIRST_NIC, .ndm_state = NUD_PERMANENT};
	struct nlmsghdr *h = request(b, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof(m));

	attribute(b, h, NDA_DST, gateway, len);
	attribute(b, h, NDA_LLADDR, mac, 6);
}

static void add_route(struct batch *b, uint8_t family, const uint8_t *gateway, size_t len)
{
	const struct rtmsg m = {.rtm_family = family,
				.rtm_table = RT_TABLE_MAIN,
				.rtm_protocol = RTPROT_STATIC,
				.rtm_scope = RT_SCOPE_UNIVERSE,
				.rtm_type = RTN_UNICAST};
	const uint32_t index = FIRST_NIC;
	struct nlmsghdr *h = request(b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof(m));

	attribute(b, h, RTA_GATEWAY, gateway, len);
	attribute(b, h, RTA_OIF, &index, sizeof(index));
}

/* The first error of as many answers as there are requests. */
static int read_answers(int fd, uint32_t n)
{
	alignas(NLMSG_ALIGNTO) uint8_t data[8192];

	while (n) {
		ssize_t len = recv(fd, data, sizeof(data), MSG_DONTWAIT);
		struct nlmsghdr *h = (struct nlmsghdr *)(void *)data;

		if (len < 0)
			return error_errno();
		for (; n && NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
			const struct nlmsgerr *e = NLMSG_DATA(h);

			if (h->nlmsg_type != NLMSG_ERROR)
				continue;
			if (e->error)
				return e->error;
			n--;
		}
	}
	return 0;
}

static int run(const struct batch *b)
{
	_cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || send(fd, b->data, b->len, 0) < 0)
		return error_errno();
	return error_trace(read_answers(fd, b->n));
}

/* --- the interface ------------------------------------------------------------------------------
 */

static void set_sysctl(const char *path, const char *value)
{
	_cleanup_fd_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;

	if (fd >= 0)
		(void)!write(fd, value, strlen(value)); /* the kernel's own is good, too */
}

/* Without IPv6 in the guest there is no such file, and no need. */
static void set_ipv6(const char *interface, const char *name, const char *value)
{
	_cleanup_free_ char *path = str_printf("/proc/sys/net/ipv6/conf/%s/%s", interface, name);

	set_sysctl(path, value);
}

/* No address but ours, and no talking to find others: there is nobody. */
static void keep_quiet(void)
{
	char name[IF_NAMESIZE];

	if (!if_indextoname(FIRST_NIC, name))
		return;
	set_ipv6(name, "accept_ra", "0");
	set_ipv6(name, "addr_gen_mode", "1");
}

/* A root file system that cannot be written keeps the resolver that it has. */
static void write_resolver(const char *dns)
{
	_cleanup_free_ char *text = str_printf("nameserver %s\n", dns);
	int r = text ? file_replace(AT_FDCWD, "/etc/resolv.conf", text, strlen(text), 0644)
		     : -ENOMEM;

	if (r < 0)
		log_warn("/etc/resolv.conf: %s", strerrordesc_np(-r));
}

static int bring_up(const struct config *c)
{
	struct batch b = {0};
	int r;

	add_link(&b, true, c->mtu);
	add_address(&b, AF_INET, c->address, 4, c->prefix);
	add_neighbour(&b, AF_INET, c->gateway, 4, c->gateway_mac);
	add_route(&b, AF_INET, c->gateway, 4);
	r = run(&b);
	if (r < 0 || !c->prefix6)
		return r;
	b = (struct batch){0};
	add_address(&b, AF_INET6, c->address6, 16, c->prefix6);
	add_neighbour(&b, AF_INET6, c->gateway6, 16, c->gateway_mac);
	add_route(&b, AF_INET6, c->gateway6, 16);
	if (run(&b) < 0)
		log_warn("no IPv6: the guest's kernel does not want it");
	return 0;
}

static int take_down(void)
{
	struct batch b = {0};

	add_link(&b, false, 0);
	return run(&b);
}

/*
 * Once up and down at the boot, which only templates do: the driver fills its ring of buffers the
 * first time, and that is then part of every sandbox. No device is fine.
 */
static void rehearse(void)
{
	struct batch b = {0};

	keep_quiet();
	set_sysctl("/proc/sys/net/ipv4/tcp_rmem", RECEIVE_WINDOW);
	add_link(&b, true, USUAL_MTU);
	if (run(&b) == 0)
		(void)take_down(); /* then it is down, or tried again by the first change */
}

int network_repair(struct network *n, const json_t *config)
{
	struct config c = {0};
	bool up = config && !json_is_null(config);
	int r = up ? parse(config, &c) : 0;

	if (r < 0 || !n->owns_machine || (!up && !n->up) ||
	    (up && n->up && !memcmp(&c, &n->config, sizeof(c))))
		return r;
	/* IPv6 that is not wanted any more goes with the interface */
	r = n->up ? take_down() : 0;
	if (r == 0 && up)
		r = bring_up(&c);
	if (r < 0)
		return r;
	if (up)
		write_resolver(c.dns);
	n->up = up;
	n->config = c;
	return 0;
}

int network_new(bool owns_machine, struct network **ret)
{
	struct network *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->owns_machine = owns_machine;
	if (owns_machine)
		rehearse();
	*ret = n;
	return 0;
}

struct network *network_free(struct network *n)
{
	free(n);
	return NULL;
}

/* --- POST /network ------------------------------------------------------------------------------
 */

static void handle_network(struct request *rq)
{
	json_t *o = json_loadb(rq->body.data ?: "", rq->body.len, 0, NULL);
	int r = json_is_object(o)
			? network_repair(rq->agent->network, json_object_get(o, "network"))
			: -EINVAL;

	json_decref(o);
	if (r < 0)
		request_fail(rq, r == -EINVAL ? 400 : 500, "network: %s", strerrordesc_np(-r));
	else
		request_reply_json(rq, 200, json_pack("{s:b}", "ok", 1));
}

static const struct route routes[] = {{"POST", "/network", handle_network, 0}};

int network_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}
