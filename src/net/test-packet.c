/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/test-frame.h"

#define G4 NET_GUEST_V4
#define G6 NET_GUEST_V6

static enum packet_kind parse(const struct test_frame *f, struct packet *ret)
{
	static struct packet p;
	/* a copy that ends where the frame does: what reads further is found */
	uint8_t *copy = malloc(f->len ? f->len : 1);
	enum packet_kind kind;

	memcpy(copy, f->data, f->len);
	kind = packet_parse(copy, f->len, PACKET_FROM_GUEST, ret ? ret : &p);
	if (ret)
		ret->frame = f->data;
	free(copy);
	return kind;
}

static void test_good(void **state)
{
	struct test_frame f = test_tcp(G4, 40000, "1.2.3.4", 443, 7, 9, PACKET_SYN);
	struct packet p;

	assert_int_equal(parse(&f, &p), PACKET_TCP);
	assert_int_equal(p.source_port, 40000);
	assert_int_equal(p.target_port, 443);
	assert_int_equal(p.seq, 7);
	assert_int_equal(p.ack, 9);
	assert_int_equal(p.flags, PACKET_SYN);
	assert_int_equal(p.n_payload, 0);
	assert_int_equal(p.target.family, 4);
	assert_memory_equal(p.target.bytes, ((uint8_t[]){1, 2, 3, 4}), 4);
	f = test_tcp(G6, 40000, "2600::1", 443, 7, 9, PACKET_SYN);
	assert_int_equal(parse(&f, &p), PACKET_TCP);
	assert_int_equal(p.target.family, 6);
	f = test_udp(G4, 1000, "1.2.3.4", 53, 100);
	assert_int_equal(parse(&f, &p), PACKET_UDP);
	assert_int_equal(p.target_port, 53);
	f = test_udp(G6, 1000, "2600::1", 53, 100);
	assert_int_equal(parse(&f, &p), PACKET_UDP);
}

/* Padding is cut off, so that nobody behind us can take it for something. */
static void test_padding(void **state)
{
	struct test_frame f = test_udp(G4, 1000, "1.2.3.4", 53, 4);
	size_t len = f.len;
	struct packet p;

	f.len += 20;
	assert_int_equal(parse(&f, &p), PACKET_UDP);
	assert_int_equal(p.len, len);
}

/* One byte (or two) of a good frame changed, and it is no good any more. */
static void test_bad_bytes(void **state)
{
	static const struct {
		const char *what;
		size_t at;
		uint8_t value;
	} v4[] =
		{
			{"another protocol", 12, 0x99},
			{"VLAN", 12, 0x81},
			{"version 5", 14, 0x55},
			{"options", 14, 0x46},
			{"a header of 16 bytes", 14, 0x44},
			{"longer than the frame", 17, 200},
			{"shorter than its header", 17, 19},
			{"more fragments", 20, 0x20},
			{"a later fragment", 21, 1},
			{"an offset of 7936", 20, 0x1f},
			{"IGMP", 23, 2},
			{"SCTP", 23, 132},
			{"IPv6 in IPv4", 23, 41},
			{"another sender", 29, 16},
			{"TCP header too long", 46, 0x60},
			{"TCP header too short", 46, 0x40},
		},
	  v6[] = {
		  {"version 4", 14, 0x45},
		  {"longer than the frame", 19, 200},
		  {"too short for TCP", 19, 19},
		  {"hop-by-hop", 20, 0},
		  {"routing", 20, 43},
		  {"fragment", 20, 44},
		  {"ESP", 20, 50},
		  {"destination options", 20, 60},
		  {"nothing", 20, 59},
		  {"ICMP of the wrong family", 20, 1},
		  {"another sender", 37, 0x16},
	  };

	for (size_t i = 0; i < ARRAY_SIZE(v4); i++) {
		struct test_frame f = test_tcp(G4, 40000, "1.2.3.4", 443, 7, 9, PACKET_SYN);

		f.data[v4[i].at] = v4[i].value;
		if (parse(&f, NULL) != PACKET_BAD)
			fail_msg("IPv4: %s", v4[i].what);
	}
	for (size_t i = 0; i < ARRAY_SIZE(v6); i++) {
		struct test_frame f = test_tcp(G6, 40000, "2600::1", 443, 7, 9, PACKET_SYN);

		f.data[v6[i].at] = v6[i].value;
		if (parse(&f, NULL) != PACKET_BAD)
			fail_msg("IPv6: %s", v6[i].what);
	}
}

static void test_udp_lengths(void **state)
{
	struct test_frame f = test_udp(G4, 1000, "1.2.3.4", 53, 10);

	f.data[39] = 17; /* shorter than what IP says: the rest could be something else */
	assert_int_equal(parse(&f, NULL), PACKET_BAD);
	f.data[39] = 19;
	assert_int_equal(parse(&f, NULL), PACKET_BAD);
	f.data[39] = 18;
	assert_int_equal(parse(&f, NULL), PACKET_UDP);
}

static void test_truncated(void **state)
{
	const struct test_frame all[] = {
		test_tcp(G4, 40000, "1.2.3.4", 443, 7, 9, PACKET_ACK),
		test_tcp(G6, 40000, "2600::1", 443, 7, 9, PACKET_ACK),
		test_udp(G4, 1000, "1.2.3.4", 53, 10),
		test_udp(G6, 1000, "2600::1", 53, 10),
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t len = 0; len < all[i].len; len++) {
			struct test_frame f = all[i];

			f.len = len;
			assert_int_equal(parse(&f, NULL), PACKET_BAD);
		}
}

static void test_link(void **state)
{
	static const uint8_t arp[28] = {0, 1, 8, 0, 6, 4, 0, 1};
	uint8_t solicit[24] = {135}, echo[8] = {8}, echo6[8] = {128}, unreachable[8] = {3, 3};
	struct test_frame f = test_udp(G4, 1, "1.1.1.1", 1, 60);

	memcpy(f.data + 12, "\x08\x06", 2);
	memcpy(f.data + 14, arp, sizeof(arp));
	assert_int_equal(parse(&f, NULL), PACKET_LINK);
	f.data[18] = 8; /* hardware addresses of 8 bytes */
	assert_int_equal(parse(&f, NULL), PACKET_BAD);

	f = test_ip("fe80::5054:ff:fe64:6f01", "ff02::1:ff00:2", IPPROTO_ICMPV6, solicit, 24);
	assert_int_equal(parse(&f, NULL), PACKET_BAD); /* 64 hops: it was forwarded */
	f.data[21] = 255;
	assert_int_equal(parse(&f, NULL), PACKET_LINK);
	f = test_udp("0.0.0.0", 68, "255.255.255.255", 67, 240);
	assert_int_equal(parse(&f, NULL), PACKET_LINK);
	f = test_udp("0.0.0.0", 69, "255.255.255.255", 67, 240);
	assert_int_equal(parse(&f, NULL), PACKET_BAD);
	f = test_udp("fe80::1", 546, "ff02::1:2", 547, 40);
	assert_int_equal(parse(&f, NULL), PACKET_LINK);

	f = test_ip(G4, "1.1.1.1", IPPROTO_ICMP, echo, 8);
	assert_int_equal(parse(&f, NULL), PACKET_ICMP);
	f = test_ip(G6, "2600::1", IPPROTO_ICMPV6, echo6, 8);
	assert_int_equal(parse(&f, NULL), PACKET_ICMP);
	f = test_ip(G4, "1.1.1.1", IPPROTO_ICMP, unreachable, 8);
	assert_int_equal(parse(&f, NULL), PACKET_BAD);
	f = test_ip(G4, "1.1.1.1", IPPROTO_ICMP, echo, 7);
	assert_int_equal(parse(&f, NULL), PACKET_BAD);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void check_reset(const char *source, const char *target, size_t tcp)
{
	struct test_frame f = test_tcp(source, 40000, target, 443, 7, 9, PACKET_SYN);
	uint8_t out[PACKET_MAX_REFUSAL];
	struct packet p;
	size_t n;

	assert_int_equal(parse(&f, &p), PACKET_TCP);
	n = packet_refuse(PACKET_TCP, &p, out);
	assert_int_equal(n, tcp + 20);
	assert_memory_equal(out, f.data + 6, 6);
	assert_memory_equal(out + 6, f.data, 6);
	assert_int_equal(out[tcp + 1], 443 & 0xff);
	assert_int_equal(out[tcp + 13], PACKET_RST | PACKET_ACK);
	assert_int_equal(get32(out + tcp + 8), 8); /* SYN counts as one */
	assert_true(test_sum_is_right(out, n));

	f = test_tcp(source, 40000, target, 443, 7, 9, PACKET_ACK | PACKET_FIN);
	assert_int_equal(parse(&f, &p), PACKET_TCP);
	n = packet_refuse(PACKET_TCP, &p, out);
	assert_int_equal(out[tcp + 13], PACKET_RST);
	assert_int_equal(get32(out + tcp + 4), 9);
	assert_true(test_sum_is_right(out, n));

	f = test_tcp(source, 40000, target, 443, 7, 9, PACKET_RST);
	assert_int_equal(parse(&f, &p), PACKET_TCP);
	assert_int_equal(packet_refuse(PACKET_TCP, &p, out), 0);
}

static void test_resets(void **state)
{
	check_reset(G4, "1.2.3.4", 34);
	check_reset(G6, "2600::1", 54);
}

static void test_prohibited(void **state)
{
	uint8_t out[PACKET_MAX_REFUSAL];
	struct packet p;

	for (size_t n = 0; n < 1000; n += 33) {
		struct test_frame f = test_udp(G4, 1000, "1.2.3.4", 53, n);
		size_t len;

		assert_int_equal(parse(&f, &p), PACKET_UDP);
		len = packet_refuse(PACKET_UDP, &p, out);
		assert_true(len <= sizeof(out));
		assert_memory_equal(out + 34, "\x03\x0d", 2);
		assert_true(test_sum_is_right(out, len));
		assert_memory_equal(out + 42, f.data + 14, 28);

		f = test_udp(G6, 1000, "2600::1", 53, n);
		assert_int_equal(parse(&f, &p), PACKET_UDP);
		len = packet_refuse(PACKET_UDP, &p, out);
		assert_true(len <= sizeof(out));
		assert_memory_equal(out + 54, "\x01\x01", 2);
		assert_true(test_sum_is_right(out, len));
	}
}

TEST_MAIN(cmocka_unit_test(test_good), cmocka_unit_test(test_padding),
	  cmocka_unit_test(test_bad_bytes), cmocka_unit_test(test_udp_lengths),
	  cmocka_unit_test(test_truncated), cmocka_unit_test(test_link),
	  cmocka_unit_test(test_resets), cmocka_unit_test(test_prohibited))
