/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <netinet/in.h>
#include <string.h>

#include "net/gate.h"
#include "net/test-frame.h"

#define G4 NET_GUEST_V4

static struct gate *gate;
static struct gate_result result;

static void drop(void *userdata, enum packet_direction direction, const uint8_t *frame, size_t len)
{
}

static void rules(const char *text,
		  void (*send)(void *, enum packet_direction, const uint8_t *, size_t))
{
	static struct rules r;
	json_t *o = json_loads(text, 0, NULL);

	assert_int_equal(rules_parse(o, NULL, &r), 0);
	json_decref(o);
	gate_set_rules(gate, &r, send, NULL);
}

static int setup(void **state)
{
	assert_int_equal(gate_new(&gate), 0);
	rules("{\"internet\":true}", drop);
	return 0;
}

static int teardown(void **state)
{
	gate = gate_free(gate);
	return 0;
}

static const struct gate_result *out(struct test_frame f)
{
	gate_judge(gate, PACKET_FROM_GUEST, f.data, f.len, &result);
	return &result;
}

static const struct gate_result *in(struct test_frame f)
{
	gate_judge(gate, PACKET_TO_GUEST, f.data, f.len, &result);
	return &result;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Before it has rules nothing passes but the link's own. */
static void test_beginning(void **state)
{
	static const uint8_t arp[28] = {0, 1, 8, 0, 6, 4, 0, 1};
	struct test_frame f = test_ip(G4, "1.1.1.1", 1, arp, sizeof(arp));

	gate_free(gate);
	assert_int_equal(gate_new(&gate), 0);
	assert_int_equal(out(test_tcp(G4, 1, "1.1.1.1", 443, 0, 0, PACKET_SYN))->n_forward, 0);
	assert_int_equal(out(test_udp(G4, 1, "10.0.2.3", 53, 9))->n_forward, 0);
	memcpy(f.data + 12, "\x08\x06", 2);
	memcpy(f.data + 14, arp, sizeof(arp));
	assert_int_equal(out(f)->n_forward, 42);
}

static void test_connection(void **state)
{
	assert_int_equal(out(test_tcp(G4, 1, "1.1.1.1", 443, 100, 0, PACKET_SYN))->n_forward, 54);
	assert_int_equal(
		in(test_tcp("1.1.1.1", 443, G4, 1, 5, 101, PACKET_SYN | PACKET_ACK))->n_forward,
		54);
	assert_int_equal(out(test_tcp(G4, 1, "1.1.1.1", 443, 101, 6, PACKET_ACK))->n_forward, 54);
	assert_int_equal(in(test_tcp("1.1.1.1", 443, G4, 1, 6, 0, PACKET_RST))->n_forward, 0);
	assert_int_equal(result.n_onward, 54);
	assert_int_equal(get32(result.onward + 38), 6);
	/* over: what still comes is answered */
	assert_int_equal(out(test_tcp(G4, 1, "1.1.1.1", 443, 101, 6, PACKET_ACK))->n_forward, 0);
	assert_true(result.n_back > 0);
	assert_int_equal(in(test_tcp("1.1.1.1", 443, G4, 1, 6, 101, PACKET_ACK))->n_forward, 0);
}

/* passt's answer to a SYN that nobody takes has no ACK: the guest would not believe it. */
static void test_reset_of_a_syn(void **state)
{
	out(test_tcp(G4, 1, "1.1.1.1", 443, 100, 0, PACKET_SYN));
	in(test_tcp("1.1.1.1", 443, G4, 1, 77, 101, PACKET_RST));
	assert_int_equal(result.onward[47], PACKET_RST | PACKET_ACK);
	assert_int_equal(get32(result.onward + 42), 101);
}

/* A guest that was asleep speaks on a connection that this gate has not seen begin. */
static void test_stale_connection_is_reset(void **state)
{
	assert_int_equal(out(test_tcp(G4, 1, "1.1.1.1", 443, 500, 900, PACKET_ACK))->n_forward, 0);
	assert_int_equal(result.n_back, 54);
	assert_int_equal(result.back[47], PACKET_RST);
	assert_int_equal(get32(result.back + 38), 900); /* what the guest waits for */
	assert_memory_equal(result.back + 26, ((uint8_t[]){1, 1, 1, 1}), 4);
	/* its own reset is not answered */
	assert_int_equal(out(test_tcp(G4, 1, "1.1.1.1", 443, 500, 900, PACKET_RST))->n_forward, 0);
	assert_int_equal(result.n_back, 0);
}

static void test_refused(void **state)
{
	assert_int_equal(out(test_tcp(G4, 1, "10.9.9.9", 22, 100, 0, PACKET_SYN))->n_forward, 0);
	assert_int_equal(result.back[47], PACKET_RST | PACKET_ACK);
	assert_int_equal(get32(result.back + 42), 101);
	assert_int_equal(out(test_udp(G4, 1, "127.0.0.1", 53, 9))->n_forward, 0);
	assert_memory_equal(result.back + 34, "\x03\x0d", 2);
	assert_int_equal(in(test_udp("10.9.9.9", 53, G4, 1, 9))->n_forward, 0);
	assert_int_equal(result.n_back, 0);
}

/* Only whom the guest has asked may answer, and only where it asked from. */
static void test_answers(void **state)
{
	assert_int_equal(in(test_udp("1.1.1.1", 53, G4, 1, 9))->n_forward, 0);
	assert_true(out(test_udp(G4, 1, "1.1.1.1", 53, 9))->n_forward > 0);
	assert_true(out(test_udp(G4, 1, "10.0.2.3", 53, 9))->n_forward > 0);
	assert_true(in(test_udp("1.1.1.1", 53, G4, 1, 9))->n_forward > 0);
	assert_true(in(test_udp("10.0.2.3", 53, G4, 1, 9))->n_forward > 0);
	assert_int_equal(in(test_udp("1.1.1.1", 54, G4, 1, 9))->n_forward, 0);
	assert_int_equal(in(test_udp("1.1.1.1", 53, G4, 2, 9))->n_forward, 0);
	assert_int_equal(in(test_udp("1.1.1.2", 53, G4, 1, 9))->n_forward, 0);
	rules("{\"internet\":false}", drop);
	assert_int_equal(in(test_udp("1.1.1.1", 53, G4, 1, 9))->n_forward, 0);
}

static struct test_frame resets[2];
static unsigned n_resets[2];

static void keep(void *userdata, enum packet_direction direction, const uint8_t *frame, size_t len)
{
	memcpy(resets[direction].data, frame, len);
	resets[direction].len = len;
	n_resets[direction]++;
}

/* New rules end a connection that they refuse, at both ends, with numbers that both believe. */
static void test_new_rules_reset_connections(void **state)
{
	out(test_tcp(G4, 1, "1.1.1.1", 443, 100, 0, PACKET_SYN));
	out(test_tcp(G4, 1, "1.1.1.1", 443, 101, 6, PACKET_ACK));
	out(test_tcp(G4, 2, "8.8.8.8", 443, 100, 0, PACKET_SYN));
	rules("{\"internet\":true,\"deny\":[\"1.1.1.1:443\"]}", keep);
	assert_int_equal(n_resets[PACKET_TO_GUEST], 1);
	assert_int_equal(n_resets[PACKET_FROM_GUEST], 1);
	assert_int_equal(get32(resets[PACKET_TO_GUEST].data + 38), 6);
	assert_int_equal(get32(resets[PACKET_FROM_GUEST].data + 38), 101);
	assert_true(test_sum_is_right(resets[PACKET_TO_GUEST].data, 54));
	assert_true(test_sum_is_right(resets[PACKET_FROM_GUEST].data, 54));
	assert_int_equal(in(test_tcp("1.1.1.1", 443, G4, 1, 6, 101, PACKET_ACK))->n_forward, 0);
	assert_true(out(test_tcp(G4, 2, "8.8.8.8", 443, 101, 1, PACKET_ACK))->n_forward > 0);
}

static void test_counters(void **state)
{
	json_t *o;

	out(test_udp(G4, 1, "1.1.1.1", 53, 9));
	out(test_udp(G4, 1, "10.1.1.1", 53, 9));
	out((struct test_frame){.len = 20});
	out(test_tcp(G4, 2, "8.8.8.8", 443, 100, 0, PACKET_SYN));
	o = gate_counters(gate);
	assert_int_equal(json_integer_value(json_object_get(o, "framesOut")), 2);
	assert_int_equal(json_integer_value(json_object_get(o, "refusedOut")), 1);
	assert_int_equal(json_integer_value(json_object_get(o, "badOut")), 1);
	assert_int_equal(json_integer_value(json_object_get(o, "connections")), 1);
	json_decref(o);
}

#define TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)

TEST_MAIN(TEST(test_beginning), TEST(test_connection), TEST(test_reset_of_a_syn),
	  TEST(test_stale_connection_is_reset), TEST(test_refused), TEST(test_answers),
	  TEST(test_new_rules_reset_connections), TEST(test_counters))
