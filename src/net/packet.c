/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every length is checked before what it covers is read, in the order of the frame: Ethernet, IP,
 * what is in it. Header checksums are not looked at: a packet with a wrong one says what it says,
 * and whoever it is for drops it.
 */
#include "net/packet.h"

#include <netinet/in.h>
#include <string.h>

#define ETH_LEN	      14
#define TYPE_V4	      0x0800
#define TYPE_ARP      0x0806
#define TYPE_V6	      0x86dd
#define V4_LEN	      20
#define V6_LEN	      40
#define TCP_LEN	      20
#define UDP_LEN	      8
#define ICMP_LEN      8
#define ARP_LEN	      28
#define HOPS	      64
#define QUOTED_MAX    (V6_LEN + 24) /* of the packet that an ICMP error is about */
#define DHCP_CLIENT   68
#define DHCP_SERVER   67
#define DHCP6_CLIENT  546
#define DHCP6_SERVER  547
#define ICMP_ECHO_V4  8
#define ICMP_ECHO_V6  128
#define NDP_FIRST     133
#define NDP_LAST      136
#define NDP_HOP_LIMIT 255
#define V4_PROHIBITED 3, 13 /* type and code: communication administratively prohibited */
#define V6_PROHIBITED 1, 1

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static enum packet_kind parse_arp(struct packet *p)
{
	static const uint8_t ethernet_v4[] = {0, 1, 8, 0, 6, 4};

	if (p->len < ETH_LEN + ARP_LEN ||
	    memcmp(p->frame + ETH_LEN, ethernet_v4, sizeof(ethernet_v4)))
		return PACKET_BAD;
	p->len = ETH_LEN + ARP_LEN;
	return PACKET_LINK;
}

static enum packet_kind parse_tcp(struct packet *p)
{
	const uint8_t *h = p->frame + p->l4;
	size_t len = p->len - p->l4, header;

	if (len < TCP_LEN)
		return PACKET_BAD;
	header = (size_t)(h[12] >> 4) * 4;
	if (header < TCP_LEN || header > len)
		return PACKET_BAD;
	p->source_port = get16(h);
	p->target_port = get16(h + 2);
	p->seq = get32(h + 4);
	p->ack = get32(h + 8);
	p->flags = h[13];
	p->n_payload = (uint32_t)(len - header);
	return PACKET_TCP;
}

static bool is_dhcp(const struct packet *p, enum packet_direction d)
{
	bool v4 = p->source.family == 4;
	uint16_t client = v4 ? DHCP_CLIENT : DHCP6_CLIENT;
	uint16_t server = v4 ? DHCP_SERVER : DHCP6_SERVER;

	return d == PACKET_FROM_GUEST ? p->source_port == client && p->target_port == server
				      : p->source_port == server && p->target_port == client;
}

static enum packet_kind parse_udp(struct packet *p, enum packet_direction d)
{
	const uint8_t *h = p->frame + p->l4;
	size_t len = p->len - p->l4;

	if (len < UDP_LEN || get16(h + 4) != len)
		return PACKET_BAD;
	p->source_port = get16(h);
	p->target_port = get16(h + 2);
	return is_dhcp(p, d) ? PACKET_LINK : PACKET_UDP;
}

static enum packet_kind parse_icmp(struct packet *p, enum packet_direction d)
{
	const uint8_t *h = p->frame + p->l4;
	bool v6 = p->source.family == 6;

	if (p->len - p->l4 < ICMP_LEN)
		return PACKET_BAD;
	if (v6 && h[0] >= NDP_FIRST && h[0] <= NDP_LAST)
		return p->frame[p->ip + 7] == NDP_HOP_LIMIT ? PACKET_LINK : PACKET_BAD;
	if (d == PACKET_FROM_GUEST && (h[0] != (v6 ? ICMP_ECHO_V6 : ICMP_ECHO_V4) || h[1]))
		return PACKET_BAD;
	return PACKET_ICMP;
}

static enum packet_kind parse_l4(struct packet *p, enum packet_direction d)
{
	if (p->protocol == IPPROTO_TCP)
		return parse_tcp(p);
	if (p->protocol == IPPROTO_UDP)
		return parse_udp(p, d);
	if (p->protocol == (p->source.family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return parse_icmp(p, d);
	return PACKET_BAD;
}

static enum packet_kind parse_v4(struct packet *p, enum packet_direction d)
{
	const uint8_t *h = p->frame + ETH_LEN;
	size_t total;

	if (p->len < ETH_LEN + V4_LEN || h[0] != 0x45) /* version 4, no options */
		return PACKET_BAD;
	total = get16(h + 2);
	if (total < V4_LEN || total > p->len - ETH_LEN)
		return PACKET_BAD;
	if (get16(h + 6) & 0x3fff) /* more fragments, or not the first */
		return PACKET_BAD;
	p->len = ETH_LEN + total;
	p->protocol = h[9];
	p->source = address_from(4, h + 12);
	p->target = address_from(4, h + 16);
	p->l4 = ETH_LEN + V4_LEN;
	return parse_l4(p, d);
}

static enum packet_kind parse_v6(struct packet *p, enum packet_direction d)
{
	const uint8_t *h = p->frame + ETH_LEN;
	size_t payload;

	if (p->len < ETH_LEN + V6_LEN || h[0] >> 4 != 6)
		return PACKET_BAD;
	payload = get16(h + 4);
	if (payload > p->len - ETH_LEN - V6_LEN)
		return PACKET_BAD;
	p->len = ETH_LEN + V6_LEN + payload;
	p->protocol = h[6]; /* extension headers are other protocols, and so bad */
	p->source = address_from(6, h + 8);
	p->target = address_from(6, h + 24);
	p->l4 = ETH_LEN + V6_LEN;
	return parse_l4(p, d);
}

/* The end of a packet that is the guest: its own address, or on its own link one of a beginner. */
static bool is_guest(const struct address *a, bool link)
{
	static const struct address own[] = {
		{4, {10, 0, 2, 15}}, /* NET_GUEST_V4 */
		{6, {0xfd, 0x64, 0x6f, 0x72, 0x6d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x15}}, /* _V6 */
	};
	static const struct address none[] = {{4, {0}}, {6, {0}}}, link_local = {6, {0xfe, 0x80}};

	if (address_equal(a, &own[0]) || address_equal(a, &own[1]))
		return true;
	return link && (address_equal(a, &none[0]) || address_equal(a, &none[1]) ||
			address_in(a, &link_local, 10));
}

enum packet_kind packet_parse(const uint8_t *frame, size_t len, enum packet_direction direction,
			      struct packet *ret)
{
	struct packet p = {.frame = frame, .len = len, .ip = ETH_LEN};
	enum packet_kind kind = PACKET_BAD;
	uint16_t type;

	if (len < ETH_LEN || len > PACKET_MAX_FRAME)
		return PACKET_BAD;
	type = get16(frame + 12);
	if (type == TYPE_ARP)
		kind = parse_arp(&p);
	else if (type == TYPE_V4)
		kind = parse_v4(&p, direction);
	else if (type == TYPE_V6)
		kind = parse_v6(&p, direction);
	if (kind == PACKET_BAD)
		return kind;
	if (type != TYPE_ARP && direction == PACKET_FROM_GUEST &&
	    !is_guest(&p.source, kind == PACKET_LINK))
		return PACKET_BAD;
	*ret = p;
	return kind;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static uint32_t sum(uint32_t s, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i + 1 < len; i += 2)
		s += get16(p + i);
	if (len % 2)
		s += (uint32_t)p[len - 1] << 8;
	return s;
}

static uint16_t fold(uint32_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static size_t address_len(const struct address *a)
{
	return a->family == 4 ? 4 : 16;
}

/* Ethernet and IP headers for @n bytes of @protocol. Return: offset of what comes next */
static size_t put_headers(uint8_t *out, const struct packet_end *from, const struct packet_end *to,
			  int protocol, size_t n)
{
	uint8_t *h = out + ETH_LEN;
	bool v4 = from->address.family == 4;

	memcpy(out, to->mac, 6);
	memcpy(out + 6, from->mac, 6);
	put16(out + 12, v4 ? TYPE_V4 : TYPE_V6);
	memset(h, 0, V6_LEN);
	if (!v4) {
		h[0] = 0x60;
		put16(h + 4, (uint16_t)n);
		h[6] = (uint8_t)protocol;
		h[7] = HOPS;
		memcpy(h + 8, from->address.bytes, 16);
		memcpy(h + 24, to->address.bytes, 16);
		return ETH_LEN + V6_LEN;
	}
	h[0] = 0x45;
	put16(h + 2, (uint16_t)(V4_LEN + n));
	h[6] = 0x40; /* do not fragment */
	h[8] = HOPS;
	h[9] = (uint8_t)protocol;
	memcpy(h + 12, from->address.bytes, 4);
	memcpy(h + 16, to->address.bytes, 4);
	put16(h + 10, fold(sum(0, h, V4_LEN)));
	return ETH_LEN + V4_LEN;
}

/* The checksum of TCP and ICMPv6, which covers the addresses too. */
static uint16_t checksum(const struct packet_end *from, const struct packet_end *to, int protocol,
			 const uint8_t *p, size_t n)
{
	uint32_t s = sum((uint32_t)protocol + (uint32_t)n, p, n);

	s = sum(s, from->address.bytes, address_len(&from->address));
	return fold(sum(s, to->address.bytes, address_len(&to->address)));
}

size_t packet_reset(const struct packet_end *from, const struct packet_end *to, uint32_t seq,
		    uint32_t ack, bool with_ack, uint8_t out[PACKET_MAX_REFUSAL])
{
	size_t at = put_headers(out, from, to, IPPROTO_TCP, TCP_LEN);
	uint8_t *h = out + at;

	memset(h, 0, TCP_LEN);
	put16(h, from->port);
	put16(h + 2, to->port);
	put32(h + 4, seq);
	put32(h + 8, with_ack ? ack : 0);
	h[12] = TCP_LEN / 4 << 4;
	h[13] = (uint8_t)(PACKET_RST | (with_ack ? PACKET_ACK : 0));
	put16(h + 16, checksum(from, to, IPPROTO_TCP, h, TCP_LEN));
	return at + TCP_LEN;
}

/* The ends of a packet, for an answer to it. */
static void ends_of(const struct packet *p, struct packet_end *source, struct packet_end *target)
{
	*source = (struct packet_end){.address = p->source, .port = p->source_port};
	*target = (struct packet_end){.address = p->target, .port = p->target_port};
	memcpy(target->mac, p->frame, 6);
	memcpy(source->mac, p->frame + 6, 6);
}

static size_t refuse_tcp(const struct packet *p, const struct packet_end *source,
			 const struct packet_end *target, uint8_t *out)
{
	uint32_t end =
		p->seq + p->n_payload + !!(p->flags & PACKET_SYN) + !!(p->flags & PACKET_FIN);

	if (p->flags & PACKET_RST)
		return 0;
	if (p->flags & PACKET_ACK)
		return packet_reset(target, source, p->ack, 0, false, out);
	return packet_reset(target, source, 0, end, true, out);
}

static size_t prohibit(const struct packet *p, const struct packet_end *source,
		       const struct packet_end *target, uint8_t *out)
{
	static const uint8_t codes[2][2] = {{V4_PROHIBITED}, {V6_PROHIBITED}};
	bool v6 = p->source.family == 6;
	int protocol = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	size_t quoted = p->len - p->ip, at;
	uint8_t *h;

	quoted = quoted > QUOTED_MAX ? QUOTED_MAX : quoted;
	at = put_headers(out, target, source, protocol, ICMP_LEN + quoted);
	h = out + at;
	memset(h, 0, ICMP_LEN);
	memcpy(h, codes[v6], 2);
	memcpy(h + ICMP_LEN, p->frame + p->ip, quoted);
	put16(h + 2, v6 ? checksum(target, source, protocol, h, ICMP_LEN + quoted)
			: fold(sum(0, h, ICMP_LEN + quoted)));
	return at + ICMP_LEN + quoted;
}

size_t packet_refuse(enum packet_kind kind, const struct packet *p, uint8_t out[PACKET_MAX_REFUSAL])
{
	struct packet_end source, target;

	ends_of(p, &source, &target);
	switch (kind) {
	case PACKET_TCP:
		return refuse_tcp(p, &source, &target, out);
	case PACKET_UDP:
	case PACKET_ICMP:
		return prohibit(p, &source, &target, out);
	default:
		return 0;
	}
}
