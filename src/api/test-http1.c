/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/http1.h"

/* What came of a whole response: heads as "200 ", the body, "." at the end, "!" for an error. */
static void run(const char *text, size_t len, size_t step, bool to_head, char *out, size_t size)
{
	struct http1 p;
	size_t at = 0, n = 0;
	int r = HTTP1_MORE;

	http1_init(&p, to_head);
	*out = 0;
	while (r >= 0 && r != HTTP1_END) {
		const char *body = NULL;
		size_t used, body_len = 0, give = len - at < step ? len - at : step;

		r = http1_next(&p, text + at, give, &used, &body, &body_len);
		if (r >= 0)
			at += used;
		if (r == HTTP1_HEAD)
			n += (size_t)snprintf(out + n, size - n, "%d ", p.status);
		if (r == HTTP1_BODY)
			n += (size_t)snprintf(out + n, size - n, "%.*s", (int)body_len, body);
		if (r == HTTP1_MORE) {
			assert_int_equal(used, give);
			if (at == len)
				break;
		}
	}
	if (r == HTTP1_MORE)
		r = http1_eof(&p) == 0 ? HTTP1_END : -EBADMSG;
	if (r == -EBADMSG)
		assert_non_null(p.error);
	snprintf(out + n, size - n, "%s", r == HTTP1_END ? "." : "!");
	http1_deinit(&p);
}

static void expect(const char *text, bool to_head, const char *want)
{
	char out[256];

	for (size_t step = 1; step <= strlen(text); step++) { /* however it is cut */
		run(text, strlen(text), step, to_head, out, sizeof(out));
		if (strcmp(out, want))
			fail_msg("'%s' by %zu: '%s', wanted '%s'", text, step, out, want);
	}
}

static void test_bodies(void **state)
{
	expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, "200 hello.");
	expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "200 .");
	expect("HTTP/1.0 200 OK\n\nuntil the end", false, "200 until the end.");
	expect("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello and more", false, "200 hello.");
	expect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=\"b\"\r\n!"
	       "\r\n0\r\nX: y\r\n\r\n",
	       false, "200 hello!.");
	expect("HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\nA\n0123456789\n0\n\n", false,
	       "200 0123456789.");
	expect("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
	       "2\r\nab\r\n0\r\n\r\n",
	       false, "200 ab.");
	expect("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello", false,
	       "200 hello.");
}

static void test_no_bodies(void **state)
{
	expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, "200 .");
	expect("HTTP/1.1 204 No Content\r\n\r\n", false, "204 .");
	expect("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, "304 .");
	expect("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
	       "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	       false, "100 103 200 ok.");
	expect("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", false, "101 .");
}

static void test_cut_off(void **state)
{
	expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", false, "200 hell!");
	expect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", false, "200 hel!");
	expect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n", false, "200 h!");
	expect("HTTP/1.1 200 OK\r\nContent-Le", false, "!");
	expect("HTTP/1.1 100 Continue\r\n\r\n", false, "100 !");
}

static void test_refused(void **state)
{
	static const char *const texts[] = {
		"HTTP/2 200 OK\r\n\r\n",
		"HTTP/1.1  200 OK\r\n\r\n",
		"HTTP/1.1 99 OK\r\n\r\n",
		"HTTP/1.1 600 OK\r\n\r\n",
		"HTTP/1.1 2000 OK\r\n\r\n",
		"SSH-2.0-OpenSSH\r\n\r\n",
		"\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
		"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
	};
	static const char *const chunks[] = {
		"g\r\n",  "\r\n",    " 5\r\n",	     "-5\r\n",	   "0x5\r\n",
		"5\r5\n", "1\r\nab", "1\r\na\r\r\n", "5 5\r\rx\n", "10000000000000000\r\n"};
	char text[256], out[64];

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		run(texts[i], strlen(texts[i]), 1000, false, out, sizeof(out));
		if (strcmp(out, "!"))
			fail_msg("'%s': '%s'", texts[i], out);
	}
	for (size_t i = 0; i < sizeof(chunks) / sizeof(*chunks); i++) {
		snprintf(text, sizeof(text),
			 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s", chunks[i]);
		run(text, strlen(text), 1000, false, out, sizeof(out));
		if (!strchr(out, '!') || strchr(out, '.'))
			fail_msg("'%s': '%s'", chunks[i], out);
	}
	run("HTTP/1.1 200 OK\r\nA: \0b\r\n\r\n", 26, 1000, false, out, sizeof(out));
	assert_string_equal(out, "!");
}

static void test_limits(void **state)
{
	static char big[HTTP1_HEAD_MAX * 4];
	const char *body;
	struct http1 p;
	size_t used, len, n;

	memset(big, 'x', sizeof(big));
	memcpy(big, "HTTP/1.1 200 OK\r\nA: ", 20);
	http1_init(&p, false);
	assert_int_equal(http1_next(&p, big, sizeof(big), &used, &body, &len), -EMSGSIZE);
	http1_deinit(&p);
	n = (size_t)snprintf(big, sizeof(big), "HTTP/1.1 200 OK\r\n");
	for (size_t i = 0; i <= HTTP1_FIELDS_MAX; i++)
		n += (size_t)snprintf(big + n, sizeof(big) - n, "A: b\r\n");
	n += (size_t)snprintf(big + n, sizeof(big) - n, "\r\n");
	http1_init(&p, false);
	assert_int_equal(http1_next(&p, big, n, &used, &body, &len), -EBADMSG);
	http1_deinit(&p);
	http1_init(&p, false); /* interim responses without an end */
	for (n = 0; n < HTTP1_INTERIM_MAX; n++)
		assert_int_equal(http1_next(&p, "HTTP/1.1 102 P\n\n", 16, &used, &body, &len),
				 HTTP1_HEAD);
	assert_int_equal(http1_next(&p, "HTTP/1.1 102 P\n\n", 16, &used, &body, &len), -EBADMSG);
	http1_deinit(&p);
}

static void test_fields(void **state)
{
	static const char text[] = "HTTP/1.1 101 Go\r\nConnection:  keep-alive ,Upgrade\t\r\n"
				   "X:\r\n\r\nrest";
	const char *body;
	struct http1 p;
	size_t used, len;

	http1_init(&p, false);
	assert_int_equal(http1_next(&p, text, sizeof(text) - 1, &used, &body, &len), HTTP1_HEAD);
	assert_string_equal(text + used, "rest"); /* of another protocol: left alone */
	assert_string_equal(http1_find(&p, "connection"), "keep-alive ,Upgrade");
	assert_string_equal(http1_find(&p, "x"), "");
	assert_null(http1_find(&p, "y"));
	assert_true(http1_has_token(http1_find(&p, "CONNECTION"), "upgrade"));
	assert_true(http1_has_token(http1_find(&p, "CONNECTION"), "Keep-Alive"));
	assert_false(http1_has_token("upgrades, up", "upgrade"));
	assert_false(http1_has_token(NULL, "upgrade"));
	http1_deinit(&p);
}

static void test_requests(void **state)
{
	struct buf b = {0};

	assert_int_equal(http1_put_request(&b, "GET", "/a?b=%20c"), 0);
	assert_int_equal(http1_put_field(&b, "Host", "x"), 0);
	assert_int_equal(http1_put_end(&b), 0);
	assert_string_equal(b.data, "GET /a?b=%20c HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_int_equal(http1_put_request(&b, "G ET", "/"), -EINVAL);
	assert_int_equal(http1_put_request(&b, "GET", "/ HTTP/1.1\r\nX: y"), -EINVAL);
	assert_int_equal(http1_put_request(&b, "GET", ""), -EINVAL);
	assert_int_equal(http1_put_field(&b, "A:", "b"), -EINVAL);
	assert_int_equal(http1_put_field(&b, "A", "b\r\nC: d"), -EINVAL);
	buf_deinit(&b);
}

TEST_MAIN(cmocka_unit_test(test_bodies), cmocka_unit_test(test_no_bodies),
	  cmocka_unit_test(test_cut_off), cmocka_unit_test(test_refused),
	  cmocka_unit_test(test_limits), cmocka_unit_test(test_fields),
	  cmocka_unit_test(test_requests))
