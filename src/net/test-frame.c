/* SPDX-License-Identifier: Apache-2.0 */
#include "net/test-frame.h"

#include <netinet/in.h>
#include <string.h>

#include "base/test.h"

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

struct test_frame test_ip(const char *source, const char *target, int protocol, const void *l4,
			  size_t n)
{
	struct test_frame f = {0};
	struct address s, t;
	uint8_t *h = f.data + 14;

	assert_int_equal(address_parse(source, &s), 0);
	assert_int_equal(address_parse(target, &t), 0);
	mac_parse(NET_GATEWAY_MAC, f.data);
	mac_parse(NET_GUEST_MAC, f.data + 6);
	put16(f.data + 12, s.family == 4 ? 0x0800 : 0x86dd);
	if (s.family == 4) {
		h[0] = 0x45;
		put16(h + 2, (unsigned)(20 + n));
		h[8] = 64;
		h[9] = (uint8_t)protocol;
		memcpy(h + 12, s.bytes, 4);
		memcpy(h + 16, t.bytes, 4);
		f.len = 34;
	} else {
		h[0] = 0x60;
		put16(h + 4, (unsigned)n);
		h[6] = (uint8_t)protocol;
		h[7] = 64;
		memcpy(h + 8, s.bytes, 16);
		memcpy(h + 24, t.bytes, 16);
		f.len = 54;
	}
	assert_true(f.len + n <= sizeof(f.data));
	memcpy(f.data + f.len, l4, n);
	f.len += n;
	return f;
}

struct test_frame test_tcp(const char *source, int source_port, const char *target, int target_port,
			   uint32_t seq, uint32_t ack, int flags)
{
	uint8_t h[20] = {0};

	put16(h, (unsigned)source_port);
	put16(h + 2, (unsigned)target_port);
	put32(h + 4, seq);
	put32(h + 8, ack);
	h[12] = 0x50;
	h[13] = (uint8_t)flags;
	return test_ip(source, target, IPPROTO_TCP, h, sizeof(h));
}

struct test_frame test_udp(const char *source, int source_port, const char *target, int target_port,
			   size_t n)
{
	uint8_t h[1600];

	memset(h, 'x', sizeof(h));
	put16(h, (unsigned)source_port);
	put16(h + 2, (unsigned)target_port);
	put16(h + 4, (unsigned)(8 + n));
	put16(h + 6, 0);
	return test_ip(source, target, IPPROTO_UDP, h, 8 + n);
}

static uint32_t add(uint32_t s, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s += i % 2 ? p[i] : (uint32_t)p[i] << 8;
	return s;
}

static int is_zero(uint32_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s == 0xffff;
}

int test_sum_is_right(const uint8_t *frame, size_t len)
{
	const uint8_t *h = frame + 14;
	int v4 = h[0] >> 4 == 4, protocol = v4 ? h[9] : h[6];
	size_t l4 = v4 ? 34 : 54;
	uint32_t s = 0;

	if (v4 && !is_zero(add(0, h, 20)))
		return 0;
	if (protocol != IPPROTO_ICMP) {
		s = (uint32_t)protocol + (uint32_t)(len - l4);
		s = v4 ? add(s, h + 12, 8) : add(s, h + 8, 32);
	}
	return is_zero(add(s, frame + l4, len - l4));
}
