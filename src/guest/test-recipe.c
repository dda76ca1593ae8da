/* SPDX-License-Identifier: Apache-2.0 */
/* every member of a recipe: what it becomes, and that a wrong one is named */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "guest/recipe.h"

static json_t *parse_json(const char *text)
{
	json_error_t e;
	json_t *o = json_loads(text, 0, &e);

	if (!o)
		fail_msg("%s: %s", text, e.text);
	return o;
}

static void test_all_members(void **state)
{
	static const char text[] =
		"{\"base\": {\"oci\": \"img:latest\"}, \"packages\": [\"jq\", "
		"\"libc6:amd64=2.36-9\"],"
		" \"files\": [{\"path\": \"/a\", \"text\": \"A\\n\", \"mode\": \"0640\","
		"              \"owner\": \"user:100\"},"
		"             {\"path\": \"/b/c\", \"from\": \"d/e\"}],"
		" \"commands\": [\"one\", {\"run\": \"two\", \"user\": \"user\"}],"
		" \"env\": {\"A\": \"1\"}, \"workdir\": \"/srv\", \"user\": \"root\","
		" \"start\": {\"run\": \"serve\", \"user\": \"www\"}, \"ready\": {\"port\": 80},"
		" \"readyTimeout\": 9, \"memoryMB\": 64, \"cpuCount\": 2, \"diskSizeMB\": 100}";
	_cleanup_recipe_ struct recipe r = RECIPE_INIT;
	struct problem p = PROBLEM_INIT;
	json_t *o = parse_json(text);

	if (recipe_parse(o, RECIPE_DEBIAN, &p, &r) < 0)
		fail_msg("%s", p.message);
	json_decref(o); /* the recipe has a reference of its own */
	assert_int_equal(r.base, RECIPE_OCI);
	assert_string_equal(r.source, "img:latest");
	assert_int_equal(r.n_packages, 2);
	assert_string_equal(r.packages[1], "libc6:amd64=2.36-9");
	assert_int_equal(r.n_files, 2);
	assert_int_equal(r.files[0].mode, 0640);
	assert_int_equal(r.files[0].text_len, 2);
	assert_string_equal(r.files[0].owner, "user:100");
	assert_null(r.files[1].text);
	assert_string_equal(r.files[1].from, "d/e");
	assert_int_equal(r.files[1].mode, (mode_t)-1);
	assert_int_equal(r.n_commands, 2);
	assert_string_equal(r.commands[0].user, "root");
	assert_string_equal(r.commands[1].user, "user");
	assert_string_equal(json_string_value(json_object_get(r.env, "A")), "1");
	assert_string_equal(r.workdir, "/srv");
	assert_string_equal(r.user, "root");
	assert_string_equal(r.start, "serve");
	assert_string_equal(r.start_user, "www");
	assert_int_equal(r.ready, RECIPE_READY_PORT);
	assert_int_equal(r.ready_port, 80);
	assert_int_equal(r.ready_timeout_s, 9);
	assert_int_equal(r.memory_mb, 64);
	assert_int_equal(r.cpus, 2);
	assert_int_equal(r.disk_mb, 100);
}

static void test_nothing_said(void **state)
{
	_cleanup_recipe_ struct recipe r = RECIPE_INIT;
	struct problem p = PROBLEM_INIT;
	json_t *o = parse_json("{\"user\": null}");

	assert_int_equal(recipe_parse(o, RECIPE_BUSYBOX, &p, &r), 0);
	json_decref(o);
	assert_int_equal(r.base, RECIPE_BUSYBOX);
	assert_null(r.user);
	assert_null(r.start);
	assert_int_equal(r.ready, RECIPE_READY_NONE);
	assert_int_equal(r.ready_timeout_s, RECIPE_READY_SECONDS);
	assert_int_equal(r.memory_mb, 0);
}

static const struct {
	const char *text, *named;
} wrong[] = {
	{"[]", "must be an object"},
	{"{\"bse\": 1}", "no member \"bse\""},
	{"{\"base\": \"suse\"}", "base: \"suse\""},
	{"{\"base\": 1}", "base: must be"},
	{"{\"base\": {}}", "base: must be"},
	{"{\"base\": {\"dir\": \"/a\", \"tar\": \"/b\"}}", "base: must be"},
	{"{\"base\": {\"zip\": \"/a\"}}", "base: has no member \"zip\""},
	{"{\"base\": {\"dir\": 1}}", "base.dir: must be a text"},
	{"{\"base\": {\"image\": \"\"}}", "base.image: must have 1 to"},
	{"{\"packages\": {}}", "packages: must be an array"},
	{"{\"packages\": [\"ok\", 1]}", "packages[1]: must be a text"},
	{"{\"packages\": [\"-o\"]}", "packages[0]: \"-o\""},
	{"{\"packages\": [\"a b\"]}", "packages[0]: \"a b\""},
	{"{\"packages\": [\"jq=1';reboot\"]}", "packages[0]"},
	{"{\"packages\": [\"jq=\"]}", "packages[0]"},
	{"{\"base\": \"busybox\", \"packages\": [\"jq\"]}", "packages: the busybox base"},
	{"{\"files\": 1}", "files: must be an array"},
	{"{\"files\": [1]}", "files[0]: must be an object"},
	{"{\"files\": [{\"text\": \"\"}]}", "files[0].path: must be a text"},
	{"{\"files\": [{\"path\": \"a\", \"text\": \"\"}]}",
	 "files[0].path: \"a\" is not an absolute"},
	{"{\"files\": [{\"path\": \"/a/../b\", \"text\": \"\"}]}",
	 "files[0].path: \"/a/../b\" leads"},
	{"{\"files\": [{\"path\": \"/a/..\", \"text\": \"\"}]}", "files[0].path"},
	{"{\"files\": [{\"path\": \"/a\"}]}", "files[0]: must have either"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"from\": \"b\"}]}", "must have either"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": 1}]}", "files[0].text"},
	{"{\"files\": [{\"path\": \"/a\", \"from\": \"/b\"}]}",
	 "files[0].from: \"/b\" is not a rel"},
	{"{\"files\": [{\"path\": \"/a\", \"from\": \"../b\"}]}", "files[0].from: \"../b\" leads"},
	{"{\"files\": [{\"path\": \"/a\", \"from\": \"c/../b\"}]}", "files[0].from"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"mode\": 420}]}", "files[0].mode"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"mode\": \"0888\"}]}", "files[0].mode"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"mode\": \"00644\"}]}", "files[0].mode"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"owner\": \"a:b\"}]}", "files[0].owner"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"owner\": \":1\"}]}", "files[0].owner"},
	{"{\"files\": [{\"path\": \"/a\", \"text\": \"\", \"x\": 1}]}", "files[0]: has no member"},
	{"{\"commands\": \"make\"}", "commands: must be an array"},
	{"{\"commands\": [\"\"]}", "commands[0]: must have 1 to"},
	{"{\"commands\": [[]]}", "commands[0]: must be a text or an object"},
	{"{\"commands\": [{\"user\": \"a\"}]}", "commands[0].run: must be a text"},
	{"{\"commands\": [{\"run\": \"a\", \"user\": \"a b\"}]}", "commands[0].user"},
	{"{\"commands\": [{\"run\": \"a\", \"as\": \"b\"}]}", "commands[0]: has no member \"as\""},
	{"{\"env\": []}", "env: must be an object"},
	{"{\"env\": {\"A\": 1}}", "env.A: must be a text"},
	{"{\"env\": {\"A=B\": \"1\"}}", "env.A=B: is not the name"},
	{"{\"env\": {\"\": \"1\"}}", "env.: is not the name"},
	{"{\"workdir\": \"srv\"}", "workdir: \"srv\" is not an absolute"},
	{"{\"user\": \"../x\"}", "user: \"../x\""},
	{"{\"user\": \"-x\"}", "user: \"-x\""},
	{"{\"start\": []}", "start: must be"},
	{"{\"ready\": \"true\"}", "ready: must be an object"},
	{"{\"ready\": {}}", "ready: must have one of"},
	{"{\"ready\": {\"port\": 1, \"delay\": 1}}", "ready: must have one of"},
	{"{\"ready\": {\"http\": 1}}", "ready: has no member \"http\""},
	{"{\"ready\": {\"port\": 0}}", "ready.port: must be a whole number from 1 to 65535"},
	{"{\"ready\": {\"port\": \"80\"}}", "ready.port"},
	{"{\"ready\": {\"delay\": 3601}}", "ready.delay"},
	{"{\"ready\": {\"command\": 1}}", "ready.command"},
	{"{\"readyTimeout\": 0}", "readyTimeout"},
	{"{\"memoryMB\": \"1G\"}", "memoryMB"},
	{"{\"memoryMB\": -1}", "memoryMB"},
	{"{\"cpuCount\": 0.5}", "cpuCount"},
	{"{\"diskSizeMB\": -1}", "diskSizeMB"},
};

static void test_wrong(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct recipe r = RECIPE_INIT;
		struct problem p = PROBLEM_INIT;
		json_t *o = parse_json(wrong[i].text);

		assert_int_equal(recipe_parse(o, RECIPE_DEBIAN, &p, &r), -EINVAL);
		json_decref(o);
		assert_int_equal(p.status, 400);
		if (!strstr(p.message, wrong[i].named))
			fail_msg("%s: \"%s\" is not in \"%s\"", wrong[i].text, wrong[i].named,
				 p.message);
		assert_null(r.json); /* untouched */
	}
}

static void test_too_many(void **state)
{
	static const struct {
		const char *name;
		size_t n;
	} limits[] = {{"packages", RECIPE_MAX_PACKAGES},
		      {"files", RECIPE_MAX_FILES},
		      {"commands", RECIPE_MAX_COMMANDS}};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct recipe r = RECIPE_INIT;
		struct problem p = PROBLEM_INIT;
		json_t *o = json_object(), *list = json_array();

		for (size_t k = 0; k <= limits[i].n; k++)
			assert_int_equal(json_array_append_new(list, json_string("jq")), 0);
		assert_int_equal(json_object_set_new(o, limits[i].name, list), 0);
		assert_int_equal(recipe_parse(o, RECIPE_DEBIAN, &p, &r), -EINVAL);
		assert_non_null(strstr(p.message, limits[i].name));
		assert_non_null(strstr(p.message, "at most"));
		json_decref(o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_members),
		cmocka_unit_test(test_nothing_said),
		cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
