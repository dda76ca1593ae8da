/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "sandbox/record.h"

static void test_round_trip(void **state)
{
	char dir[] = "/tmp/dorm-test-record.XXXXXX";
	struct record r = {.template_id = "base",
			   .state = SANDBOX_ASLEEP,
			   .generation = 3,
			   .image_id = "0123456789abcdef0123456789abcdef",
			   .vm = {.pid = 42, .start_time = 1ull << 40, .memory_ino = 7},
			   .created_ns = 1,
			   .started_ns = 2,
			   .end_ns = 3,
			   .timeout_s = 4,
			   .auto_pause = true,
			   .auto_pause_disk = true,
			   .auto_resume = true,
			   .disk_only = true,
			   .uid = 4000000000u,
			   .owner = "k1",
			   .request = "0123456789abcdef",
			   .boot_id = "01234567-89ab-cdef-0123-456789abcdef",
			   .disk = {.below = 3, .n = 2},
			   .failure = "why \"not\"",
			   .traffic_token = "secret",
			   .mask_host = "localhost:${PORT}"};
	struct record got;
	int fd;

	id_new('i', r.id);
	record_new_token(&r);
	assert_int_equal(strlen(r.token), 2 * RECORD_TOKEN_BYTES);
	id_new('d', r.disk.names[0]);
	id_new('d', r.disk.names[1]);
	r.metadata = json_pack("{s:s}", "user", "me");
	r.network = json_pack("{s:b, s:[s]}", "internet", 0, "allow", "1.2.3.4");
	assert_non_null(mkdtemp(dir));
	fd = file_open_dir(AT_FDCWD, dir);
	for (int durable = 0; durable < 2; durable++) {
		char *text = record_encode(&r);

		assert_non_null(text);
		assert_int_equal(record_write(fd, text, durable), 0);
		free(text);
		assert_int_equal(record_read(fd, NULL, &got), 0);
		assert_string_equal(got.id, r.id);
		assert_string_equal(got.failure, r.failure);
		assert_int_equal(got.state, SANDBOX_ASLEEP);
		assert_int_equal(got.generation, 3);
		assert_string_equal(got.image_id, r.image_id);
		assert_true(got.vm.start_time == 1ull << 40);
		assert_true(got.vm.memory_ino == 7);
		assert_int_equal(got.disk.below, 3);
		assert_int_equal(got.disk.n, 2);
		assert_string_equal(got.disk.names[1], r.disk.names[1]);
		assert_true(got.auto_pause);
		assert_true(got.auto_pause_disk);
		assert_true(got.auto_resume);
		assert_true(got.timeout_s == 4);
		assert_true(got.disk_only);
		assert_true(got.uid == 4000000000u);
		assert_string_equal(got.owner, "k1");
		assert_string_equal(got.boot_id, r.boot_id);
		assert_string_equal(got.request, r.request);
		assert_true(json_equal(got.metadata, r.metadata));
		assert_string_equal(got.token, r.token);
		assert_true(json_equal(got.network, r.network));
		assert_null(got.envs);
		assert_string_equal(got.traffic_token, "secret");
		assert_string_equal(got.mask_host, "localhost:${PORT}");
		record_deinit(&got);
	}
	record_deinit(&r);
	close(fd);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

/* A record of before sandboxes knew what their memory is. */
static void test_without_image(void **state)
{
	static const char text[] =
		"{\"version\":1,\"id\":\"i0123456789abcdefghij\",\"template\":\"t\","
		"\"state\":\"asleep\",\"generation\":2,\"vm\":{\"pid\":0,\"startTime\":0,"
		"\"memoryDev\":0,\"memoryIno\":0},\"createdNs\":1,\"startedNs\":1,\"endNs\":1,"
		"\"autoPause\":false,\"failure\":\"\"}";
	char dir[] = "/tmp/dorm-test-record.XXXXXX";
	struct problem p = PROBLEM_INIT;
	struct record got;
	int fd;

	assert_non_null(mkdtemp(dir));
	fd = file_open_dir(AT_FDCWD, dir);
	assert_int_equal(file_replace(fd, "sandbox.json", text, strlen(text), 0600), 0);
	assert_int_equal(record_read(fd, &p, &got), 0);
	assert_string_equal(got.image_id, "");
	assert_string_equal(got.token, "");
	assert_int_equal(got.generation, 2);
	record_deinit(&got);
	close(fd);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

static void test_refuses(void **state)
{
	static const char *const bad[] = {
		"",
		"{",
		"[]",
		"{\"version\":1}",
		"{\"version\":1,\"id\":\"../../../../etc/"
		"passwd\",\"template\":\"t\",\"state\":\"running\","
		"\"generation\":0,\"vm\":{\"pid\":1,\"startTime\":1,\"memoryDev\":1,\"memoryIno\":"
		"1},\"createdNs\":1,\"startedNs\":1,"
		"\"endNs\":1,\"autoPause\":false,\"failure\":\"\"}",
		"{\"version\":1,\"id\":\"i0123456789abcdefghij\",\"template\":\"t\","
		"\"state\":\"asleep\",\"generation\":2,\"vm\":{\"pid\":0,\"startTime\":0,"
		"\"memoryDev\":0,\"memoryIno\":0},\"createdNs\":1,\"startedNs\":1,\"endNs\":1,"
		"\"autoPause\":false,\"failure\":\"\",\"token\":\"short\"}"};
	char dir[] = "/tmp/dorm-test-record.XXXXXX";
	struct record got;
	int fd;

	assert_non_null(mkdtemp(dir));
	fd = file_open_dir(AT_FDCWD, dir);
	assert_int_equal(record_read(fd, NULL, &got), -ENOENT);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct problem p = PROBLEM_INIT;

		assert_int_equal(file_replace(fd, "sandbox.json", bad[i], strlen(bad[i]), 0600), 0);
		assert_int_equal(record_read(fd, &p, &got), -EBADMSG);
		assert_true(problem_is_set(&p));
	}
	close(fd);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

TEST_MAIN(cmocka_unit_test(test_round_trip), cmocka_unit_test(test_without_image),
	  cmocka_unit_test(test_refuses))
