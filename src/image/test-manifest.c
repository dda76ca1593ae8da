/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <string.h>

#include "base/str.h"
#include "image/manifest.h"

static void sample(struct manifest *m, struct manifest_files *files)
{
	static struct manifest_layer layer = {.id = "000102030405060708090a0b0c0d0e0f",
					      .bytes = 8296,
					      .digest = "7966179d398fa5fd0ec05df5be256115"};

	*m = (struct manifest){.id = "s0123456789abcdefghij",
			       .image_id = "0abf5f7139eeabb9dc6221860ac5144e",
			       .parent_id = "s9876543210abcdefghij",
			       .created_ns = 1700000000123456789,
			       .memory_bytes = 1228800,
			       .cpus = 1,
			       .vmm = "qemu",
			       .network = true,
			       .base_image_id = "00112233445566778899aabbccddeeff",
			       .n_disks = 1,
			       .disks = {{.name = "d0.img", .format = "raw", .size = 1}}};
	*files = (struct manifest_files){.map_bytes = 94, .n_layers = 1, .layers = &layer};
}

static int decode(const char *text, struct problem *problem)
{
	struct manifest_files files;
	struct manifest m;
	int r = manifest_decode(text, strlen(text), problem, &m, &files);

	if (r == 0) {
		manifest_deinit(&m);
		manifest_files_deinit(&files);
	}
	return r;
}

static void test_round_trip(void **state)
{
	_cleanup_free_ char *text = NULL, *again = NULL, *other = NULL;
	struct problem problem = PROBLEM_INIT;
	struct manifest_files files, back_files;
	struct manifest m, back;

	sample(&m, &files);
	assert_int_equal(manifest_encode(&m, &files, &text), 0);
	assert_int_equal(manifest_decode(text, strlen(text), &problem, &back, &back_files), 0);
	assert_string_equal(back.base_image_id, m.base_image_id);
	assert_true(back.network);
	assert_int_equal(back_files.map_bytes, 94);
	assert_int_equal(back_files.n_layers, 1);
	assert_memory_equal(&back_files.layers[0], &files.layers[0], sizeof(files.layers[0]));
	assert_int_equal(manifest_encode(&back, &back_files, &again), 0);
	assert_string_equal(text, again);
	assert_int_equal(manifest_replace_id(text, strlen(text), "sabcdefghijklmnopqrst", &other),
			 0);
	manifest_deinit(&back);
	manifest_files_deinit(&back_files);
	assert_int_equal(manifest_decode(other, strlen(other), &problem, &back, &back_files), 0);
	assert_string_equal(back.id, "sabcdefghijklmnopqrst");
	assert_string_equal(back.parent_id, m.parent_id);
	manifest_deinit(&back);
	manifest_files_deinit(&back_files);
}

/* Replace one value of a good manifest, make the digest fit, and see what the reader says. */
static void expect_refused(const char *path, const char *value, const char *text)
{
	_cleanup_free_ char *good = NULL, *bad = NULL;
	struct problem problem = PROBLEM_INIT;
	struct manifest_files files;
	char object[32] = "", *dot;
	struct manifest m;
	json_t *root, *in;

	sample(&m, &files);
	assert_int_equal(manifest_encode(&m, &files, &good), 0);
	root = in = json_loads(good, 0, NULL);
	str_copy(object, sizeof(object), path);
	dot = strchr(object, '.');
	if (dot) {
		*dot = 0;
		in = json_object_get(root, object);
		if (json_is_array(in))
			in = json_array_get(in, 0);
		path += dot - object + 1;
	}
	assert_non_null(in);
	if (value)
		assert_int_equal(
			json_object_set_new(in, path, json_loads(value, JSON_DECODE_ANY, NULL)), 0);
	else
		assert_int_equal(json_object_del(in, path), 0);
	free(good);
	good = json_dumps(root, 0);
	/* manifest_replace_id() with the same id only makes the digest fit */
	if (json_is_string(json_object_get(root, "id")))
		assert_int_equal(manifest_replace_id(good, strlen(good),
						     json_string_value(json_object_get(root, "id")),
						     &bad),
				 0);
	json_decref(root);
	assert_int_equal(decode(bad ? bad : good, &problem), IMAGE_E_CORRUPT);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

static void test_no_base(void **state)
{
	_cleanup_free_ char *with = NULL, *without = NULL;
	struct manifest_files files;
	struct manifest m;

	sample(&m, &files);
	assert_int_equal(manifest_encode(&m, &files, &with), 0);
	assert_non_null(strstr(with, "\"base\""));
	m.base_image_id[0] = 0;
	assert_int_equal(manifest_encode(&m, &files, &without), 0);
	assert_null(strstr(without, "\"base\""));
	assert_int_equal(decode(without, NULL), 0);
}

static void test_refused(void **state)
{
	expect_refused("format", "\"tar\"", "\"format\": \"tar\" is not a snapshot");
	expect_refused("format", "7", "\"format\": wrong type");
	expect_refused("version.major", "0", "version 0 never existed");
	expect_refused("version.major", "70000", "\"version.major\": 70000 is not within");
	expect_refused("version", "1", "\"version.major\": missing");
	expect_refused("id", "\"../../../etc/passwdxx\"", "\"id\": not allowed there");
	expect_refused("image_id", "\"\"", "\"image_id\": not allowed there");
	expect_refused("image_id", "\"0ABF5F7139EEABB9DC6221860AC5144E\"", "\"image_id\"");
	expect_refused("base.image_id", "\"\"", "\"base.image_id\": not allowed there");
	expect_refused("base.image_id", "\"00112233445566778899aabbccddeeffa\"",
		       "\"base.image_id\": 33 characters, limit 32");
	expect_refused("base.image_id", "\"../112233445566778899aabbccddeef\"",
		       "\"base.image_id\"");
	expect_refused("base.image_id", "1", "\"base.image_id\": wrong type");
	expect_refused("parent_id", "\"short\"", "\"parent_id\"");
	expect_refused("template_id", "\"a/b\"", "\"template_id\": not allowed there: \"a/b\"");
	expect_refused("name", "\"a..b\"", "\"name\": not allowed");
	expect_refused("name", "\"a\\nb\"", "\"name\": not allowed");
	expect_refused("name",
		       "\"1234567890123456789012345678901234567890123456789012345678901234\"",
		       "\"name\": 64 characters, limit 63");
	expect_refused("name", NULL, "\"name\": missing");
	expect_refused("created_ns", "-1", "\"created_ns\": -1 is not within");
	expect_refused("created_ns", "1.5", "\"created_ns\": wrong type");
	expect_refused("memory.bytes", "0", "\"memory.bytes\"");
	expect_refused("memory.bytes", "1228801", "\"memory.bytes\": 1228801 bytes are not 300");
	expect_refused("memory.bytes", "9223372036854775807", "\"memory.bytes\"");
	expect_refused("memory.pages", "301", "\"memory.bytes\": 1228800 bytes are not 301 pages");
	expect_refused("cpus", "4294967297", "\"cpus\": 4294967297 is not within");
	expect_refused("vmm", "[]", "\"vmm.name\": missing");
	expect_refused("prepared", "1", "\"prepared\": wrong type");
	expect_refused("disks", "{}", "\"disks\": wrong type");
	expect_refused("disks", "[1]", "\"name\": missing");
	expect_refused("disks", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]",
		       "\"disks\": 17 of them, limit 16");
	expect_refused("disks.name", "\"../map\"", "\"name\": not allowed there: \"../map\"");
	expect_refused("disks.name", "\"a..b\"", "\"name\": not allowed there: \"a..b\"");
	expect_refused("disks.name", "\"\"", "\"name\": not allowed");
	expect_refused("disks.bytes", "-5", "\"bytes\": -5");
	expect_refused("disks",
		       "[{\"name\":\"a\",\"format\":\"raw\",\"read_only\":true,\"bytes\":1},"
		       "{\"name\":\"a\",\"format\":\"raw\",\"read_only\":true,\"bytes\":1}]",
		       "\"disks\": \"a\" is there twice");
	expect_refused("layers", "null", "\"layers\": wrong type");
	expect_refused("layers", "[[]]", "\"id\": missing");
	expect_refused("layers.id", "\"../../x\"", "\"id\": not allowed");
	expect_refused("layers.bytes", "\"1\"", "\"bytes\": wrong type");
	expect_refused("map.bytes", "99999999999", "\"map.bytes\": 99999999999");
}

static void test_not_json(void **state)
{
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(decode("", &problem), IMAGE_E_CORRUPT);
	problem = PROBLEM_INIT;
	assert_int_equal(decode("[]", &problem), IMAGE_E_CORRUPT);
	assert_string_equal(problem.message, "manifest.json: not an object");
	problem = PROBLEM_INIT;
	assert_int_equal(decode("{\"a\": 1, \"a\": 2}", &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "duplicate object key"));
	problem = PROBLEM_INIT;
	assert_int_equal(decode("{\"format\": \"dormouse-snapshot\", \"version\": {\"major\": 3, "
				"\"minor\": 0}}",
				&problem),
			 IMAGE_E_VERSION);
}

TEST_MAIN(cmocka_unit_test(test_round_trip), cmocka_unit_test(test_no_base),
	  cmocka_unit_test(test_refused), cmocka_unit_test(test_not_json))
