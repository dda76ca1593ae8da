/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/keyring.h"
#include "image/le.h"

/* 00 01 02 ... 1f: its id by HKDF-SHA256 (RFC 5869), made with `openssl kdf` */
#define COUNTING_HEX "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

static void expect(struct keyring *k, const char *source, int result, const char *text)
{
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(keyring_add(k, source, &problem), result);
	if (text && !strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
	assert_true((result == 0) == !problem_is_set(&problem));
}

static void put(struct fixture *f, const char *name, const void *data, size_t len, mode_t mode,
		char *ret_source)
{
	(void)unlinkat(f->dirfd, name, 0);
	assert_int_equal(file_write_atomic(f->dirfd, name, data, len, mode), 0);
	(void)snprintf(ret_source, 128, "file:%s/%s", f->path, name);
}

/* The same key in every form has the same id. */
static void test_forms(void **state)
{
	struct fixture *f = *state;
	char base64[48], source[128], first[KEY_ID_LEN + 1] = "";
	uint8_t raw[33];
	const struct {
		const void *data;
		size_t len;
	} forms[] = {{raw, 32},
		     {raw, 33},
		     {COUNTING_HEX, 64},
		     {COUNTING_HEX "\n", 65},
		     {COUNTING_HEX "\r\n", 66},
		     {base64, 44},
		     {base64, 43}};

	assert_int_equal(str_unhex(COUNTING_HEX, raw, 32), 0);
	raw[32] = '\n';
	assert_int_equal(base64_encode(raw, 32, base64), 44);
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		_cleanup_(keyring_freep) struct keyring *k = NULL;

		assert_int_equal(keyring_new(&k), 0);
		assert_int_equal(keyring_n_keys(k), 0);
		assert_null(keyring_id(k, 0));
		put(f, "key", forms[i].data, forms[i].len, 0600, source);
		expect(k, source, 0, NULL);
		assert_int_equal(keyring_n_keys(k), 1);
		assert_int_equal(strlen(keyring_id(k, 0)), KEY_ID_LEN);
		if (!i)
			str_copy(first, sizeof(first), keyring_id(k, 0));
		assert_string_equal(keyring_id(k, 0), first);
		expect(k, source, -EEXIST, "is given twice");
	}
	assert_string_equal(first, "e9452a3d79f766e9");
}

static void test_refused_files(void **state)
{
	struct fixture *f = *state;
	_cleanup_(keyring_freep) struct keyring *k = NULL;
	char source[128];

	assert_int_equal(keyring_new(&k), 0);
	put(f, "key", COUNTING_HEX, 64, 0640, source);
	expect(k, source, -EINVAL, "group or others may use the file (mode 0640)");
	put(f, "key", COUNTING_HEX, 64, 0604, source);
	expect(k, source, -EINVAL, "group or others");
	put(f, "key", COUNTING_HEX, 63, 0600, source);
	expect(k, source, -EINVAL, "not 32 bytes, 64 hexadecimal digits or base64");
	put(f, "key", "", 0, 0600, source);
	expect(k, source, -EINVAL, "not 32 bytes");
	put(f, "key", COUNTING_HEX COUNTING_HEX COUNTING_HEX COUNTING_HEX COUNTING_HEX, 320, 0600,
	    source);
	expect(k, source, -EINVAL, "not 32 bytes");
	put(f, "key", "zz0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 64, 0600,
	    source);
	expect(k, source, -EINVAL, "not 32 bytes");
	assert_int_equal(unlinkat(f->dirfd, "key", 0), 0);
	expect(k, source, -ENOENT, "opening it");
	assert_int_equal(mkfifoat(f->dirfd, "key", 0600), 0);
	expect(k, source, -EINVAL, "not a regular file"); /* and does not wait */
	assert_int_equal(keyring_n_keys(k), 0);
}

static void test_other_sources(void **state)
{
	_cleanup_(keyring_freep) struct keyring *k = NULL;
	int fds[2];
	char source[32];

	assert_int_equal(keyring_new(&k), 0);
	assert_int_equal(setenv("DORM_TEST_KEY", COUNTING_HEX, 1), 0);
	expect(k, "env:DORM_TEST_KEY", 0, NULL);
	assert_null(getenv("DORM_TEST_KEY")); /* nobody that we start inherits it */
	expect(k, "env:DORM_TEST_KEY", -EINVAL, "no such variable");
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "abcdefghijklmnopqrstuvwxyz012345", 32), 32);
	close(fds[1]);
	(void)snprintf(source, sizeof(source), "fd:%d", fds[0]);
	expect(k, source, 0, NULL);
	assert_int_equal(fcntl(fds[0], F_GETFD), -1); /* closed */
	assert_int_equal(keyring_n_keys(k), 2);
	assert_string_not_equal(keyring_id(k, 0), keyring_id(k, 1));
	expect(k, source, -EBADF, "reading it");
	expect(k, "fd:-1", -EINVAL, "not the number of a descriptor");
	expect(k, "fd:99999999999", -EINVAL, "not the number of a descriptor");
}

/* Somebody gives the key itself: it does not come back in a message. */
static void test_never_printed(void **state)
{
	_cleanup_(keyring_freep) struct keyring *k = NULL;
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(keyring_new(&k), 0);
	assert_int_equal(keyring_add(k, COUNTING_HEX, &problem), -EINVAL);
	assert_null(strstr(problem.message, "0001020304"));
	assert_null(strstr(problem.hint, "0001020304"));
}

static void fill(struct keyring *k, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char text[65];

		(void)snprintf(text, sizeof(text), "%064x", i + 1);
		assert_int_equal(setenv("DORM_TEST_KEY", text, 1), 0);
		expect(k, "env:DORM_TEST_KEY", 0, NULL);
	}
}

static void test_handed_over(void **state)
{
	_cleanup_(keyring_freep) struct keyring *k = NULL, *again = NULL;
	_cleanup_fd_ int fd = -1;

	assert_int_equal(keyring_new(&k), 0);
	fill(k, KEYRING_MAX_KEYS);
	assert_int_equal(setenv("DORM_TEST_KEY", COUNTING_HEX, 1), 0);
	expect(k, "env:DORM_TEST_KEY", -EINVAL, "more than 16");
	assert_int_equal(keyring_to_fd(k, &fd), 0);
	assert_int_equal(write(fd, "x", 1), -1); /* sealed */
	assert_int_equal(keyring_from_fd(fd, NULL, &again), 0);
	assert_int_equal(keyring_n_keys(again), KEYRING_MAX_KEYS);
	for (size_t i = 0; i < KEYRING_MAX_KEYS; i++)
		assert_string_equal(keyring_id(again, i), keyring_id(k, i));
}

static void expect_not_handed(const void *data, size_t len)
{
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int fd = memfd_create("keys", MFD_CLOEXEC);
	struct keyring *k = NULL;

	assert_int_equal(fd_write_full(fd, data, len), 0);
	assert_int_equal(keyring_from_fd(fd, &problem, &k), -EINVAL);
	assert_true(problem_is_set(&problem));
	assert_null(k);
}

static void test_hostile_descriptors(void **state)
{
	uint8_t raw[16 + 17 * 32] = "DORMKEY";
	struct keyring *k = NULL;
	int fds[2];

	le_put32(raw + 8, 1);
	le_put32(raw + 12, 0);
	expect_not_handed(raw, 16);
	le_put32(raw + 12, 1);
	expect_not_handed(raw, 0);
	expect_not_handed(raw, 15);
	expect_not_handed(raw, 16 + 31);
	expect_not_handed(raw, 16 + 33);
	le_put32(raw + 12, 2);
	expect_not_handed(raw, 16 + 64); /* the same key twice */
	le_put32(raw + 12, 17);
	expect_not_handed(raw, sizeof(raw));
	le_put32(raw + 12, UINT32_MAX);
	expect_not_handed(raw, 16 + 32);
	le_put32(raw + 12, 1);
	le_put32(raw + 8, 2);
	expect_not_handed(raw, 16 + 32);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(keyring_from_fd(fds[0], NULL, &k), -EINVAL); /* and does not wait */
	close(fds[0]);
	close(fds[1]);
}

#define KEYRING_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(KEYRING_TEST(test_forms), KEYRING_TEST(test_refused_files),
	  cmocka_unit_test(test_other_sources), cmocka_unit_test(test_never_printed),
	  cmocka_unit_test(test_handed_over), cmocka_unit_test(test_hostile_descriptors))
