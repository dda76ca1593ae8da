/* SPDX-License-Identifier: Apache-2.0 */
/* StreamInput: input as a stream of messages (test-box.h). */
#include "agent/test-box.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"

static void stream_open(struct box *b, struct channel_stream **ret)
{
	const struct channel_header h[] = {{"content-type", "application/connect+json"},
					   {"connect-protocol-version", "1"}};

	assert_int_equal(channel_stream_open(b->ch, "POST", "/process.Process/StreamInput", h, 2,
					     false, ret),
			 0);
}

static void put(struct buf *out, const char *json)
{
	size_t len = strlen(json);

	assert_int_equal(buf_append(out,
				    (uint8_t[]){0, (uint8_t)(len >> 24), (uint8_t)(len >> 16),
						(uint8_t)(len >> 8), (uint8_t)len},
				    5),
			 0);
	assert_int_equal(buf_append(out, json, len), 0);
}

static void put_start(struct buf *out, int pid)
{
	_cleanup_free_ char *text = str_printf("{\"start\":{\"process\":{\"pid\":%d}}}", pid);

	put(out, text);
}

/* All that the stream answers, flags and lengths taken out: "{}{}" */
static char *answer(struct channel_stream *s)
{
	struct buf raw = {0}, text = {0};
	char chunk[4096];
	ssize_t n;
	int status;

	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	assert_int_equal(status, 200);
	while ((n = channel_stream_read(s, chunk, sizeof(chunk), box_soon())) > 0)
		assert_int_equal(buf_append(&raw, chunk, (size_t)n), 0);
	assert_int_equal(n, 0);
	for (size_t at = 0; at < raw.len;) {
		const uint8_t *p = (const uint8_t *)raw.data + at;
		size_t len = (size_t)p[3] << 8 | p[4];

		assert_true(at + 5 + len <= raw.len);
		assert_int_equal(buf_append(&text, raw.data + at + 5, len), 0);
		at += 5 + len;
	}
	assert_int_equal(buf_append(&text, "", 1), 0);
	buf_deinit(&raw);
	return text.data;
}

static void send_all(struct box *b, struct buf *body, size_t piece, char **ret)
{
	struct channel_stream *s;

	stream_open(b, &s);
	for (size_t at = 0; at < body->len; at += piece)
		assert_int_equal(channel_stream_write(s, body->data + at,
						      MIN(piece, body->len - at), false,
						      box_soon()),
				 0);
	assert_int_equal(channel_stream_write(s, NULL, 0, true, box_soon()), 0);
	*ret = answer(s);
	channel_stream_close(s);
	body->len = 0;
}

static void test_pieces(void **state)
{
	struct box b = {0};
	struct run r = {0};
	struct buf body = {0};
	char *text;

	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"cat\"}}", NULL, 0);
	run_until_started(&r);
	put_start(&body, r.pid);
	put(&body, "{\"data\":{\"input\":{\"stdin\":\"aGVsbG8g\"}}}");
	put(&body, "{\"keepalive\":{}}");
	put(&body, "{\"data\":{\"input\":{\"stdin\":\"d29ybGQK\"}}}");
	send_all(&b, &body, 1, &text);	   /* every byte by itself */
	assert_string_equal(text, "{}{}"); /* the answer, and the end */
	free(text);
	run_until(&r, "hello world\n");
	for (int i = 0; i < 20000; i++) { /* many small ones in one body */
		if (!i)
			put_start(&body, r.pid);
		put(&body, "{\"data\":{\"input\":{\"stdin\":\"eHh4\"}}}");
	}
	send_all(&b, &body, 65536, &text);
	assert_string_equal(text, "{}{}");
	free(text);
	assert_int_equal(box_about(&b, "CloseStdin", r.pid, "", NULL), 200);
	run_finish(&r);
	assert_int_equal(r.out.len, 12 + 60000);
	run_deinit(&r);
	buf_deinit(&body);
	box_stop(&b);
}

static void test_terminal(void **state)
{
	struct box b = {0};
	struct run r = {0};
	struct buf body = {0};
	char *text;

	box_start(&b);
	run_open(&b, &r, "{\"pty\":{},\"tag\":\"t\",\"process\":{\"cmd\":\"cat\"}}", NULL, 0);
	run_until_started(&r);
	put(&body, "{\"start\":{\"process\":{\"tag\":\"t\"}}}");
	put(&body, "{\"data\":{\"input\":{\"pty\":\"aGkN\"}}}"); /* hi, Enter */
	put(&body, "{\"data\":{\"input\":{\"pty\":\"BA==\"}}}"); /* Ctrl-D */
	send_all(&b, &body, 1000, &text);
	assert_string_equal(text, "{}{}");
	free(text);
	run_finish(&r);
	assert_int_equal(r.exit_code, 0);
	assert_non_null(memmem(r.out.data, r.out.len, "hi\r\nhi\r\n", 8));
	run_deinit(&r);
	buf_deinit(&body);
	box_stop(&b);
}

static void test_errors(void **state)
{
	static const struct {
		const char *first, *second, *want;
	} cases[] = {
		{"{\"data\":{\"input\":{\"stdin\":\"eA==\"}}}", NULL, "the first message must be"},
		{"{\"start\":{\"process\":{\"pid\":999999}}}", NULL, "not_found"},
		{"{\"start\":{\"process\":{}}}", NULL, "invalid_argument"},
		{"{\"start\":{\"process\":{\"tag\":\"t\"}}}",
		 "{\"data\":{\"input\":{\"pty\":\"eA==\"}}}", "has no terminal"},
		{"{\"start\":{\"process\":{\"tag\":\"t\"}}}",
		 "{\"data\":{\"input\":{\"stdin\":\"?\"}}}", "is not base64"},
		{"nonsense", NULL, "is not a JSON object"},
	};
	struct box b = {0};
	struct run r = {0};
	struct buf body = {0};
	char *text;

	box_start(&b);
	run_open(&b, &r, "{\"tag\":\"t\",\"process\":{\"cmd\":\"cat\"}}", NULL, 0);
	run_until_started(&r);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		put(&body, cases[i].first);
		if (cases[i].second)
			put(&body, cases[i].second);
		send_all(&b, &body, 100000, &text);
		if (!strstr(text, cases[i].want) || !strstr(text, "\"error\""))
			fail_msg("%s: %s", cases[i].first, text);
		free(text);
	}
	assert_int_equal(buf_append(&body, "\0\0\0\0\x09{}", 7), 0); /* cut */
	send_all(&b, &body, 7, &text);
	assert_non_null(strstr(text, "the last message is cut"));
	free(text);
	assert_int_equal(buf_append(&body, "\0\x7f\0\0\0", 5), 0); /* absurd */
	send_all(&b, &body, 5, &text);
	assert_non_null(strstr(text, "at most"));
	free(text);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":9", NULL), 200);
	run_finish(&r);
	run_deinit(&r);
	buf_deinit(&body);
	box_stop(&b);
}

/* A program that does not read: the client can send a bounded amount, and then waits. */
static void test_no_reader(void **state)
{
	struct box b = {0};
	struct run r = {0};
	struct buf body = {0};
	struct channel_stream *s;
	char *big = malloc(400001), *text;
	_cleanup_free_ char *message = NULL;
	size_t sent = 0;
	long before;

	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"1000\"]}}", NULL, 0);
	run_until_started(&r);
	memset(big, 'A', 400000);
	big[400000] = 0;
	message = str_printf("{\"data\":{\"input\":{\"stdin\":\"%s\"}}}", big);
	put_start(&body, r.pid);
	put(&body, message);
	before = box_rss_kb(&b);
	stream_open(&b, &s);
	for (int i = 0; i < 50; i++) {
		if (channel_stream_write(s, body.data, body.len, false, deadline_after_ms(300)) < 0)
			break;
		sent += body.len;
	}
	assert_true(sent < 2 << 20);
	assert_true(box_rss_kb(&b) - before < 8192);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":9", NULL), 200);
	run_finish(&r);
	text = answer(s); /* it will never be written, and the client hears so */
	assert_non_null(strstr(text, "\"error\""));
	free(text);
	channel_stream_close(s);
	run_expect(&b, "echo fine", 0, "fine\n");
	run_deinit(&r);
	buf_deinit(&body);
	free(big);
	box_stop(&b);
}

/* A client that goes away in the middle takes nothing with it. */
static void test_client_leaves(void **state)
{
	struct box b = {0};
	struct run r = {0};
	struct buf body = {0};
	struct channel_stream *s;

	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"cat\"}}", NULL, 0);
	run_until_started(&r);
	put_start(&body, r.pid);
	put(&body, "{\"data\":{\"input\":{\"stdin\":\"aGVsbG8g\"}}}");
	stream_open(&b, &s);
	assert_int_equal(channel_stream_write(s, body.data, body.len, false, box_soon()), 0);
	run_until(&r, "hello ");
	channel_stream_close(s);
	assert_int_equal(box_type(&b, r.pid, "stdin", "again"), 200);
	assert_int_equal(box_about(&b, "CloseStdin", r.pid, "", NULL), 200);
	run_finish(&r);
	assert_memory_equal(r.out.data, "hello again", 11);
	run_deinit(&r);
	buf_deinit(&body);
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces),	      cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_errors),	      cmocka_unit_test(test_no_reader),
		cmocka_unit_test(test_client_leaves),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
