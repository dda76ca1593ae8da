/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/multipart.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/test.h"

/* What was called, as text: "<name|filename>data</>" */
static int on_begin(void *userdata, const char *name, const char *filename)
{
	return buf_printf(userdata, "<%s|%s>", name ? name : "-", filename ? filename : "-");
}

static int on_data(void *userdata, const void *data, size_t len)
{
	return buf_append(userdata, data, len);
}

static int on_end(void *userdata)
{
	return buf_append(userdata, "</>", 3);
}

static const struct multipart_ops ops = {on_begin, on_data, on_end};

#define TYPE "multipart/form-data; charset=x; boundary=b"
#define HEAD "Content-Disposition: form-data; name=\"n\"\r\n\r\n"

/* In three pieces, at every pair of places */
static void expect(const char *body, int want, const char *want_text)
{
	size_t len = strlen(body);

	for (size_t i = 0; i <= len; i++) {
		for (size_t k = i; k <= len; k++) {
			struct buf text = {0};
			struct multipart m;
			int r = multipart_init(&m, TYPE, &ops, &text);

			assert_int_equal(buf_append(&text, "", 0), 0);
			if (r == 0)
				r = multipart_feed(&m, body, i);
			if (r == 0)
				r = multipart_feed(&m, body + i, k - i);
			if (r == 0)
				r = multipart_feed(&m, body + k, len - k);
			if (r == 0)
				r = multipart_finish(&m);
			if (r != want || (want == 0 && strcmp(text.data, want_text) != 0))
				fail_msg("'%s' at %zu, %zu: %d '%s'", body, i, k, r, text.data);
			if (r == -EBADMSG)
				assert_non_null(m.error);
			multipart_deinit(&m);
			buf_deinit(&text);
		}
	}
}

static void test_bodies(void **state)
{
	expect("--b\r\n" HEAD "x\r\n--b--", 0, "<n|->x</>");
	expect("--b\r\n" HEAD "x\r\n--b--\r\nmore\r\n--b\r\n", 0, "<n|->x</>");
	expect("no\r\n--b \t\r\n" HEAD "\r\n--b--", 0, "<n|-></>");
	expect("--b\r\n" HEAD "--b--", 0, "<n|-></>"); /* empty, and its line end left out */
	expect("--b\r\n" HEAD "\r\r\n--\r\n--\r\n-b\r\r\n--b--", 0,
	       "<n|->\r\r\n--\r\n--\r\n-b\r</>");
	expect("--b\r\n" HEAD "1\r\n--b\r\n" HEAD "2\r\n--b--", 0, "<n|->1</><n|->2</>");
	expect("--b\r\nX: y\r\n\r\nz\r\n--b--", 0, "<-|->z</>");
	expect("--b--", 0, "");
	expect("", -EBADMSG, "");
	expect("--c\r\n", -EBADMSG, "");
	expect("--bc\r\n" HEAD, -EBADMSG, "");
	expect("--b\r\n" HEAD "x\r\n--b", -EBADMSG, "");
}

static void test_limits(void **state)
{
	static char body[40000];
	struct buf text = {0};
	struct multipart m;

	strcpy(body, "--b\r\n");
	memset(body + 5, 'h', sizeof(body) - 6);
	assert_int_equal(multipart_init(&m, TYPE, &ops, &text), 0);
	assert_int_equal(multipart_feed(&m, body, strlen(body)), -EBADMSG);
	multipart_deinit(&m);
	assert_int_equal(multipart_init(&m, TYPE, &ops, &text), 0);
	assert_int_equal(multipart_feed(&m, "--b\r\na\0b\r\n", 10), -EBADMSG);
	multipart_deinit(&m);
	assert_int_equal(multipart_init(&m, "multipart/form-data", &ops, &text), -EBADMSG);
	multipart_deinit(&m);
	assert_int_equal(multipart_init(&m, "x; boundary=\"\"", &ops, &text), -EBADMSG);
	multipart_deinit(&m);
	memset(body, 'b', 300);
	memcpy(body, "x; boundary=", 12);
	body[300] = 0;
	assert_int_equal(multipart_init(&m, body, &ops, &text), -EBADMSG);
	multipart_deinit(&m);
	buf_deinit(&text);
}

static void expect_parameter(const char *header, const char *want)
{
	char *value = NULL;
	int r = multipart_parameter(header, "filename", &value);

	assert_int_equal(r, want != NULL);
	if (want)
		assert_string_equal(value, want);
	free(value);
}

static void test_parameters(void **state)
{
	expect_parameter("form-data; name=x; filename=\"a b\"", "a b");
	expect_parameter("form-data; FileName=a;name=x", "a");
	expect_parameter("form-data;filename = \"a;b\\\"c\"; x", "a;b\"c");
	expect_parameter("form-data; filename=\"C:\\dir\\f\"", "C:\\dir\\f");
	expect_parameter("form-data; filename=\"cut", "cut");
	expect_parameter("form-data; filename=\"\"", "");
	expect_parameter("form-data; filename=\"a\"; filename*=UTF-8''b%20%c3%bc", "b \xc3\xbc");
	expect_parameter("form-data; filename*=UTF-8''b%2; filename=a", "b%2");
	expect_parameter("form-data; name=filename", NULL);
	expect_parameter("form-data; xfilename=a", NULL);
	expect_parameter("form-data; name=\"filename=x\"", NULL);
	expect_parameter("", NULL);
}

TEST_MAIN(cmocka_unit_test(test_bodies), cmocka_unit_test(test_limits),
	  cmocka_unit_test(test_parameters))
