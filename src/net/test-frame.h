/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* test-frame.h - frames for tests, as a guest or its network would send them */
#include <stddef.h>
#include <stdint.h>

#include "net/packet.h"

#define TEST_FRAME_MAX 2048

struct test_frame {
	uint8_t data[TEST_FRAME_MAX];
	size_t len;
};

/** test_ip() - Ethernet and IP headers around @n bytes of @protocol; addresses decide the family */
struct test_frame test_ip(const char *source, const char *target, int protocol, const void *l4,
			  size_t n);

/** test_tcp() - a segment without payload; @flags: enum packet_flag */
struct test_frame test_tcp(const char *source, int source_port, const char *target, int target_port,
			   uint32_t seq, uint32_t ack, int flags);

/** test_udp() - a datagram of @n bytes 'x' */
struct test_frame test_udp(const char *source, int source_port, const char *target, int target_port,
			   size_t n);

/** test_sum_is_right() - are the checksums of a TCP or ICMP frame right? */
int test_sum_is_right(const uint8_t *frame, size_t len);
