/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * packet.h - what an Ethernet frame is, as far as rules can judge it; and how it is refused
 *
 * A frame is either understood to its last relevant byte, or PACKET_BAD, which nobody forwards: an
 * IPv4 header with options, any fragment, IPv6 extension headers, VLAN tags, lengths that do not
 * fit, another sender than the guest. What is behind the packet in its frame (padding) is cut off
 * by
 * @len, so that nobody further on can read it in another way.
 *
 * Pure functions on memory; any bytes are fine as input. Any thread.
 * Source: RFC 791, 793, 768, 792, 4443, 8200, 826, 4861; refusals as RFC 1122 and RFC 9293 3.10.7.1
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/address.h"

#define PACKET_MIN_FRAME   14
#define PACKET_MAX_FRAME   (14 + 65535 + 40)
#define PACKET_MAX_REFUSAL 160 /* bytes that packet_refuse() and packet_reset() write at most */

enum packet_kind {
	PACKET_BAD,
	PACKET_LINK, /* ARP, neighbour discovery, DHCP: between the guest and its own network */
	PACKET_TCP,
	PACKET_UDP,
	PACKET_ICMP, /* from the guest: an echo request; to it: anything */
};

enum packet_direction { PACKET_FROM_GUEST, PACKET_TO_GUEST };

enum packet_flag { PACKET_FIN = 1, PACKET_SYN = 2, PACKET_RST = 4, PACKET_ACK = 16 };

struct packet {
	const uint8_t *frame; /* borrowed */
	size_t len;	      /* of the frame without what is behind the packet */
	int protocol;	      /* IPPROTO_...; ICMPv6 is IPPROTO_ICMPV6 */
	struct address source, target;
	uint16_t source_port, target_port; /* TCP, UDP */
	size_t ip;			   /* offset of the IP header */
	size_t l4;			   /* ... of what is in it */
	/* TCP */
	uint32_t seq, ack;
	uint32_t n_payload;
	uint8_t flags; /* enum packet_flag and others */
};

/** packet_parse() - @ret is filled as far as its kind says; of PACKET_BAD nothing counts */
enum packet_kind packet_parse(const uint8_t *frame, size_t len, enum packet_direction direction,
			      struct packet *ret);

/**
 * packet_refuse() - the frame that tells @p's sender at once: a TCP reset, or ICMP "prohibited"
 * @p: TCP, UDP or ICMP
 * Return: its length; 0 when there is nothing to say (a reset is not answered)
 */
size_t packet_refuse(enum packet_kind kind, const struct packet *p,
		     uint8_t out[PACKET_MAX_REFUSAL]);

/* One end of a TCP connection, seen from the wire. */
struct packet_end {
	uint8_t mac[6];
	struct address address;
	uint16_t port;
};

/** packet_reset() - a reset from @from to @to; @seq must be what @to expects next. Return: length
 */
size_t packet_reset(const struct packet_end *from, const struct packet_end *to, uint32_t seq,
		    uint32_t ack, bool with_ack, uint8_t out[PACKET_MAX_REFUSAL]);
