/* SPDX-License-Identifier: Apache-2.0 */
/* The real relay between two socket pairs; the test plays the VM and passt. */
#include "base/test.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "net/control.h"
#include "net/test-frame.h"

#define G4 NET_GUEST_V4

static struct gate *gate;
static struct relay *relay;
static int ours[2], theirs[2]; /* by side: what the test has, what the relay has */

static void set_rules(const char *text)
{
	static struct rules r;
	json_t *o = json_loads(text, 0, NULL);

	assert_int_equal(rules_parse(o, NULL, &r), 0);
	json_decref(o);
	relay_set_rules(relay, &r);
}

static int setup(void **state)
{
	for (int i = 0; i < 2; i++) {
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		ours[i] = pair[0];
		theirs[i] = pair[1];
	}
	assert_int_equal(gate_new(&gate), 0);
	assert_int_equal(relay_new(theirs, gate, &relay), 0);
	set_rules("{\"internet\":true}");
	return 0;
}

static int teardown(void **state)
{
	relay = relay_free(relay);
	gate = gate_free(gate);
	for (int i = 0; i < 2; i++) {
		fd_close(ours[i]);
		fd_close(theirs[i]);
	}
	return 0;
}

/* Until nothing more happens. */
static int work(void)
{
	for (;;) {
		struct pollfd p[2] = {{theirs[0], relay_events(relay, RELAY_VM), 0},
				      {theirs[1], relay_events(relay, RELAY_NETWORK), 0}};
		int r;

		if (poll(p, 2, 20) == 0)
			return 0;
		r = relay_work(relay, (const short[]){p[0].revents, p[1].revents});
		if (r < 0)
			return r;
	}
}

static size_t put(const struct test_frame *f, uint8_t *at)
{
	memset(at, 0, 2);
	at[2] = (uint8_t)(f->len >> 8);
	at[3] = (uint8_t)f->len;
	memcpy(at + 4, f->data, f->len);
	return 4 + f->len;
}

static void test_both_ways(void **state)
{
	struct test_frame f = test_udp(G4, 1000, "1.1.1.1", 53, 10),
			  back = test_udp("1.1.1.1", 53, G4, 1000, 20);
	uint8_t sent[4096], got[4096];
	size_t n = put(&f, sent);

	/* in pieces */
	for (size_t i = 0; i < n; i += 7) {
		assert_true(send(ours[0], sent + i, n - i < 7 ? n - i : 7, 0) > 0);
		assert_int_equal(work(), 0);
	}
	assert_int_equal(recv(ours[1], got, sizeof(got), MSG_DONTWAIT), n);
	assert_memory_equal(got, sent, n);
	n = put(&back, sent);
	n += put(&back, sent + n);
	assert_int_equal(send(ours[1], sent, n, 0), n);
	assert_int_equal(work(), 0);
	assert_int_equal(recv(ours[0], got, sizeof(got), MSG_DONTWAIT), n);
	assert_memory_equal(got, sent, n);
}

static void test_refusal_goes_back(void **state)
{
	struct test_frame f = test_tcp(G4, 1, "192.168.0.1", 80, 1, 0, PACKET_SYN);
	uint8_t sent[100], got[200];
	size_t n = put(&f, sent);

	assert_int_equal(send(ours[0], sent, n, 0), n);
	assert_int_equal(work(), 0);
	assert_int_equal(recv(ours[0], got, sizeof(got), MSG_DONTWAIT), 58);
	assert_int_equal(got[51], PACKET_RST | PACKET_ACK);
	assert_int_equal(recv(ours[1], got, sizeof(got), MSG_DONTWAIT), -1);
}

/* A side that does not read makes the other wait; no frame is lost or torn meanwhile. */
static void test_back_pressure(void **state)
{
	struct test_frame f = test_udp(G4, 1000, "1.1.1.1", 53, 1400);
	uint8_t sent[2048], got[2048];
	size_t n = put(&f, sent), n_in = 0, n_out = 0, part = 0;
	ssize_t r;

	for (;;) {
		r = send(ours[0], sent + part, n - part, MSG_DONTWAIT);
		if (r < 0) {
			assert_int_equal(work(), 0);
			r = send(ours[0], sent + part, n - part, MSG_DONTWAIT);
			if (r < 0)
				break;
		}
		part = (part + (size_t)r) % n;
		n_in += (size_t)r;
	}
	assert_true(n_in > 100000 && n_in < (4u << 20)); /* it does stop */
	for (unsigned idle = 0; idle < 2;) {
		size_t want = n - n_out % n;

		r = recv(ours[1], got, want, MSG_DONTWAIT);
		if (r > 0) {
			assert_memory_equal(got, sent + n_out % n, (size_t)r);
			n_out += (size_t)r;
			idle = 0;
		} else {
			assert_int_equal(work(), 0);
			idle++;
		}
	}
	assert_int_equal(n_out / n, n_in / n);
}

static void test_bad_length(void **state)
{
	assert_int_equal(send(ours[0], "\x00\x02\x00\x00", 4, 0), 4);
	assert_int_equal(work(), -EPROTO);
}

static void test_hang_up(void **state)
{
	ours[1] = fd_close(ours[1]);
	assert_int_equal(work(), -EPIPE);
}

/* ---- control ----------------------------------------------------------------------------------
 */

static struct control control;
static int listener = -1, client = -1;

static int setup_control(void **state)
{
	char path[] = "/tmp/test-relay.XXXXXX/s";

	setup(state);
	path[strlen(path) - 2] = 0;
	assert_non_null(mkdtemp(path));
	path[strlen(path)] = '/';
	listener = fd_unix_listen(path, SOCK_SEQPACKET, 0600);
	assert_true(listener >= 0);
	assert_int_equal(control_init(&control, listener, relay, gate), 0);
	client = fd_unix_connect(path, SOCK_SEQPACKET);
	assert_true(client >= 0);
	unlink(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	return 0;
}

static int teardown_control(void **state)
{
	control_deinit(&control);
	client = fd_close(client);
	listener = fd_close(listener);
	return teardown(state);
}

/* What it answers; "" when it hangs up. */
static const char *ask(const char *text)
{
	static char reply[4096];
	ssize_t n;

	assert_true(send(client, text, strlen(text), MSG_NOSIGNAL) >= 0);
	for (int i = 0; i < 3; i++) {
		struct pollfd p[CONTROL_N_POLLS];

		control_polls(&control, p);
		assert_true(poll(p, CONTROL_N_POLLS, 10) >= 0);
		control_work(&control, p);
	}
	n = recv(client, reply, sizeof(reply) - 1, MSG_DONTWAIT);
	reply[n > 0 ? n : 0] = 0;
	return reply;
}

static void test_control(void **state)
{
	static char huge[CONTROL_MAX_MESSAGE + 2];

	assert_string_equal(ask("{\"rules\":{\"internet\":true,\"deny\":[\"1.1.1.1\"]}}"),
			    "{\"ok\":true}");
	assert_non_null(strstr(ask("{\"status\":true}"), "\"connections\":0"));
	assert_non_null(strstr(ask("{\"rules\":{\"deny\":[\"nowhere\"]}}"), "\"ok\":false"));
	assert_non_null(strstr(ask("{}"), "neither"));
	assert_non_null(strstr(ask("garbage"), "neither"));
	memset(huge, ' ', sizeof(huge) - 1);
	assert_string_equal(ask(huge), "");
	assert_int_equal(recv(client, huge, 1, MSG_DONTWAIT), 0); /* hung up */
}

#define TEST(_f)    cmocka_unit_test_setup_teardown(_f, setup, teardown)
#define CONTROL(_f) cmocka_unit_test_setup_teardown(_f, setup_control, teardown_control)

TEST_MAIN(TEST(test_both_ways), TEST(test_refusal_goes_back), TEST(test_back_pressure),
	  TEST(test_bad_length), TEST(test_hang_up), CONTROL(test_control))
