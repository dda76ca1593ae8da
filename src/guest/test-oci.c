/* SPDX-License-Identifier: Apache-2.0 */
/* configurations of images, and which image of a layout is meant */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/oci.h"

static int parse(const char *text, struct problem *p, struct oci_config *ret)
{
	return oci_config_parse(text, strlen(text), p, ret);
}

static void test_config(void **state)
{
	_cleanup_oci_config_ struct oci_config c = {0};
	struct problem p = PROBLEM_INIT;

	assert_int_equal(
		parse("{\"config\": {\"Env\": [\"PATH=/bin\", \"A=b=c\", \"E=\"], \"WorkingDir\": "
		      "\"/srv\", \"User\": \"app:staff\", \"Entrypoint\": [\"/bin/sh\", \"-c\"], "
		      "\"Cmd\": [\"echo $A 'x'\", \"\"]}}",
		      &p, &c),
		0);
	assert_string_equal(json_string_value(json_object_get(c.env, "A")), "b=c");
	assert_string_equal(json_string_value(json_object_get(c.env, "E")), "");
	assert_int_equal(json_object_size(c.env), 3);
	assert_string_equal(c.workdir, "/srv");
	assert_string_equal(c.user, "app");
	assert_string_equal(c.command, "/bin/sh -c 'echo $A '\\''x'\\''' ''");
}

static void test_empty_configs(void **state)
{
	static const char *const texts[] = {"{}", "{\"config\": null}", "{\"config\": {}}",
					    ("{\"config\": {\"Env\": null, \"WorkingDir\": \"\", "
					     "\"User\": \"\", \"Cmd\": null}}")};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct oci_config c = {0};
		struct problem p = PROBLEM_INIT;

		assert_int_equal(parse(texts[i], &p, &c), 0);
		assert_null(c.env);
		assert_null(c.workdir);
		assert_null(c.user);
		assert_null(c.command);
	}
}

static void test_wrong_configs(void **state)
{
	static const struct {
		const char *text, *named;
	} wrong[] = {
		{"", "not a JSON object"},
		{"[]", "not a JSON object"},
		{"{\"config\": []}", "config is not an object"},
		{"{\"config\": {\"Env\": \"A=b\"}}", "Env"},
		{"{\"config\": {\"Env\": [\"A\"]}}", "Env"},
		{"{\"config\": {\"Env\": [\"=b\"]}}", "Env"},
		{"{\"config\": {\"Env\": [1]}}", "Env"},
		{"{\"config\": {\"WorkingDir\": \"srv\"}}", "WorkingDir"},
		{"{\"config\": {\"WorkingDir\": 1}}", "WorkingDir"},
		{"{\"config\": {\"User\": {}}}", "User"},
		{"{\"config\": {\"Cmd\": \"sh\"}}", "Cmd"},
		{"{\"config\": {\"Entrypoint\": [1]}}", "Entrypoint"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct oci_config c = {0};
		struct problem p = PROBLEM_INIT;

		assert_int_equal(parse(wrong[i].text, &p, &c), -EINVAL);
		if (!strstr(p.message, wrong[i].named))
			fail_msg("%s: \"%s\" is not in \"%s\"", wrong[i].text, wrong[i].named,
				 p.message);
		assert_null(c.env); /* untouched */
	}
}

/* ---- layouts ----------------------------------------------------------------------------------
 */

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define REF(_digest, _name)                                                                        \
	"{\"digest\": \"sha256:" _digest "\", \"annotations\": "                                   \
	"{\"org.opencontainers.image.ref.name\": \"" _name "\"}}"

static char dir[64];

static int setup(void **state)
{
	char path[128];

	strcpy(dir, "/tmp/dorm-test-oci.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(path, sizeof(path), "%s/blobs/sha256", dir);
	return file_mkdir_p(path, 0755);
}

static int teardown(void **state)
{
	return file_remove_tree(AT_FDCWD, dir);
}

static void put(const char *name, const char *text)
{
	char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(file_replace(AT_FDCWD, path, text, strlen(text), 0644), 0);
}

static void expect_tag(const char *tag, const char *found, const char *user)
{
	_cleanup_oci_config_ struct oci_config c = {0};
	struct problem p = PROBLEM_INIT;
	char ret[128] = "";

	if (oci_config_read(dir, tag, &p, ret, &c) < 0)
		fail_msg("%s", p.message);
	assert_string_equal(ret, found);
	assert_string_equal(c.user, user);
}

static void expect_refused(const char *tag, const char *why)
{
	struct oci_config c = {0};
	struct problem p = PROBLEM_INIT;
	char ret[128] = "";

	assert_true(oci_config_read(dir, tag, &p, ret, &c) < 0);
	if (!strstr(p.message, why))
		fail_msg("\"%s\" is not in \"%s\"", why, p.message);
}

static void test_layout(void **state)
{
	put("blobs/sha256/" A, "{\"config\": {\"digest\": \"sha256:" B "\"}}");
	put("blobs/sha256/" B, "{\"config\": {\"User\": \"one\"}}");
	/* an index for several machines */
	put("blobs/sha256/" C,
	    "{\"manifests\": [{\"digest\": \"sha256:" B "\", \"platform\": {\"os\": \"linux\", "
	    "\"architecture\": \"arm64\"}}, {\"digest\": \"sha256:" A "\", \"platform\": {\"os\": "
	    "\"linux\", \"architecture\": \"amd64\"}}]}");
	put("index.json", "{\"manifests\": [" REF(A, "v1") ", " REF(C, "v2") "]}");
	expect_tag("v1", "v1", "one");
	expect_tag("v2", "v2", "one");
	expect_refused("v3", "no image with the tag \"v3\"");
	expect_refused(NULL, "several images");
	put("index.json", "{\"manifests\": [{\"digest\": \"sha256:" A "\"}]}");
	expect_tag(NULL, "", "one");
}

static void test_hostile_layouts(void **state)
{
	static const struct {
		const char *index, *why;
	} wrong[] = {
		{"[]", "not a JSON object"},
		{"{}", "no image for linux/amd64"},
		{"{\"manifests\": [{}]}", "not a sha256 digest"},
		{"{\"manifests\": [{\"digest\": \"sha256:../../../../etc/passwd\"}]}",
		 "not a sha256 digest"},
		{"{\"manifests\": [{\"digest\": \"sha512:" A "\"}]}", "not a sha256 digest"},
		/* an index that leads to itself */
		{"{\"manifests\": [{\"digest\": \"sha256:" A "\"}]}", "do not lead to an image"},
		{"{\"manifests\": [{\"digest\": \"sha256:" C "\"}]}", "No such file"},
	};

	put("blobs/sha256/" A, "{\"manifests\": [{\"digest\": \"sha256:" A "\"}]}");
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		put("index.json", wrong[i].index);
		expect_refused(NULL, wrong[i].why);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_empty_configs),
		cmocka_unit_test(test_wrong_configs),
		cmocka_unit_test_setup_teardown(test_layout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_layouts, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
