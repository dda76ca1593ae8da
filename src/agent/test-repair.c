/* SPDX-License-Identifier: Apache-2.0 */
/* What an init makes of a sandbox, and the hooks around sleep and wake; a directory stands for /.
 */
#include "agent/test-box.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#define ENTROPY "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
#define MACHINE "0123456789abcdef0123456789abcdef"

/* --- a place that stands for / ------------------------------------------------------------------
 */

static void root_path(const struct box *b, const char *name, char out[256])
{
	snprintf(out, 256, "%s/%s", b->root, name);
}

static void put(const struct box *b, const char *name, const char *text, mode_t mode)
{
	char path[256];

	root_path(b, name, path);
	assert_int_equal(file_replace(AT_FDCWD, path, text, strlen(text), 0600), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static void expect_file(const struct box *b, const char *name, const char *want)
{
	_cleanup_free_ char *text = NULL;
	char path[256];

	root_path(b, name, path);
	if (file_read(AT_FDCWD, path, 65536, &text, NULL) < 0)
		fail_msg("there is no %s", path);
	assert_string_equal(text, want);
}

static void hook(const struct box *b, const char *name, const char *script, mode_t mode)
{
	_cleanup_free_ char *text = str_printf("#!/bin/sh\ncd %s\n%s\n", b->root, script);
	char path[300];

	snprintf(path, sizeof(path), "etc/dorm/hooks/%s", name);
	put(b, path, text, mode);
}

/* An agent that has not been initialised */
static void begin(struct box *b)
{
	static const char *const dirs[] = {"etc/dorm/hooks/before-sleep.d",
					   "etc/dorm/hooks/after-wake.d", "run"};

	strcpy(b->dir, "/tmp/test-repair-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/s", b->dir);
	snprintf(b->root, sizeof(b->root), "%s/root", b->dir);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		char path[256];

		root_path(b, dirs[i], path);
		assert_int_equal(file_mkdir_p(path, 0755), 0);
	}
	put(b, "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 image\n::1 localhost\n", 0644);
	put(b, "etc/hostname", "a name that is longer than the next\n", 0644);
	box_spawn(b);
	assert_int_equal(channel_connect(b->path, -1, -1, box_soon(), &b->ch), 0);
}

static void end(struct box *b)
{
	char root[64];

	strcpy(root, b->root);
	assert_int_equal(file_remove_tree(AT_FDCWD, root), 0);
	box_stop(b);
}

/* --- requests -----------------------------------------------------------------------------------
 */

/* @more: further members, beginning with a comma. Return: the status; the answer in @ret, if wanted
 */
static int init(struct box *b, const char *kind, const char *id, const char *more, json_t **ret)
{
	char request[2048], *text;
	int status;

	snprintf(request, sizeof(request),
		 "{\"kind\":\"%s\",\"sandboxID\":\"%s\",\"hostname\":\"%s\",\"timestampNs\":%llu,"
		 "\"entropy\":\"" ENTROPY "\"%s}",
		 kind, id, id, (unsigned long long)clock_real_ns(), more);
	status = box_call(b, "POST", "/init", request, &text);
	if (ret)
		*ret = json_loads(text, 0, NULL);
	free(text);
	return status;
}

static json_t *call_json(struct box *b, const char *method, const char *path)
{
	json_t *o;
	char *text;

	assert_int_equal(box_call(b, method, path, NULL, &text), 200);
	o = json_loads(text, 0, NULL);
	assert_non_null(o);
	free(text);
	return o;
}

static json_t *find_step(json_t *reply, const char *name)
{
	json_t *step;
	size_t i;

	json_array_foreach (json_object_get(reply, "steps"), i, step)
		if (!strcmp(json_string_value(json_object_get(step, "name")), name))
			return step;
	fail_msg("no step %s", name);
	return NULL;
}

static void expect_step(json_t *reply, const char *name, bool ok, const char *key, const char *want)
{
	json_t *step = find_step(reply, name);
	const char *text = key ? json_string_value(json_object_get(step, key)) : NULL;

	if (json_is_true(json_object_get(step, "ok")) != ok ||
	    (key && (!text || strcmp(text, want))))
		fail_msg("step %s: %s", name, json_dumps(step, 0));
}

static bool is_open(struct box *b)
{
	int status = box_call(b, "POST", "/process.Process/List", "{}", NULL);

	assert_true(status == 200 || status == 503);
	return status == 200;
}

/* --- names --------------------------------------------------------------------------------------
 */

static void test_identity(void **state)
{
	struct box b = {0};

	begin(&b);
	assert_int_equal(init(&b, "boot", "i1",
			      ",\"templateID\":\"base\",\"machineID\":\"" MACHINE "\"", NULL),
			 200);
	expect_file(&b, "etc/hostname", "i1\n");
	expect_file(&b, "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 i1\n::1 localhost\n");
	expect_file(&b, "etc/machine-id", MACHINE "\n");
	expect_file(&b, "run/dorm/sandbox-id", "i1");
	expect_file(&b, "run/e2b/.E2B_SANDBOX_ID", "i1");
	expect_file(&b, "run/e2b/.E2B_TEMPLATE_ID", "base");
	run_expect(&b, "echo $E2B_SANDBOX_ID $E2B_TEMPLATE_ID", 0, "i1 base\n");
	/* the same: what its programs have written stays */
	put(&b, "etc/hostname", "mine\n", 0644);
	assert_int_equal(init(&b, "wake", "i1",
			      ",\"templateID\":\"base\",\"machineID\":\"" MACHINE "\"", NULL),
			 200);
	expect_file(&b, "etc/hostname", "mine\n");
	/* another */
	put(&b, "etc/hosts", "127.0.0.1 localhost", 0644);
	assert_int_equal(init(&b, "fork", "i1234",
			      ",\"templateID\":\"t2\",\"machineID\":\"" MACHINE "\"", NULL),
			 200);
	expect_file(&b, "etc/hostname", "i1234\n");
	expect_file(&b, "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 i1234\n");
	expect_file(&b, "run/e2b/.E2B_SANDBOX_ID", "i1234");
	expect_file(&b, "run/dorm/template-id", "t2");
	run_expect(&b, "echo $E2B_SANDBOX_ID $E2B_TEMPLATE_ID", 0, "i1234 t2\n");
	end(&b);
}

/* Nothing in the sandbox's files can make its init wait or fail for a reason that is not one. */
static void test_odd_files(void **state)
{
	struct box b = {0};
	char path[256];

	begin(&b);
	root_path(&b, "etc/hostname", path);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0644), 0);
	root_path(&b, "etc/hosts", path);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0755), 0);
	root_path(&b, "etc/machine-id", path);
	assert_int_equal(symlink("/no/such/directory/file", path), 0);
	assert_int_equal(init(&b, "boot", "i1", ",\"machineID\":\"" MACHINE "\"", NULL), 200);
	end(&b);
}

static void test_bad_fields(void **state)
{
	static const char *const bad[] = {
		",\"kind\":\"sleep\"",
		",\"kind\":1",
		",\"machineID\":\"short\"",
		",\"machineID\":\"0123456789ABCDEF0123456789abcdef\"",
		",\"accessToken\":\"two words\"",
		",\"accessToken\":7",
		",\"defaultWorkdir\":\"here\"",
		",\"defaultUser\":[]",
		",\"templateID\":{}",
		",\"envVars\":{\"A\":1}",
		",\"sandboxID\":\"\"",
	};
	struct box b = {0};

	begin(&b);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (init(&b, "boot", "i1", bad[i], NULL) != 400)
			fail_msg("accepted: %s", bad[i]);
	assert_false(is_open(&b));
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	end(&b);
}

/* --- access -------------------------------------------------------------------------------------
 */

static int list_as_client(struct box *b, const char *token)
{
	const struct channel_header h[] = {{"x-dorm-client", "1"},
					   {"content-type", "application/json"},
					   {"x-access-token", token ? token : ""}};
	_cleanup_(channel_stream_closep) struct channel_stream *s = NULL;
	int status;

	assert_int_equal(channel_stream_open(b->ch, "POST", "/process.Process/List", h,
					     token ? 3 : 2, false, &s),
			 0);
	assert_int_equal(channel_stream_write(s, "{}", 2, true, box_soon()), 0);
	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	return status;
}

static void test_token(void **state)
{
	struct box b = {0};

	begin(&b);
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	assert_int_equal(list_as_client(&b, NULL), 200);
	assert_int_equal(list_as_client(&b, "any"), 200);
	assert_int_equal(init(&b, "fork", "i2", ",\"accessToken\":\"one\"", NULL), 200);
	assert_int_equal(list_as_client(&b, NULL), 401);
	assert_int_equal(list_as_client(&b, ""), 401);
	assert_int_equal(list_as_client(&b, "two"), 401);
	assert_int_equal(list_as_client(&b, "on"), 401);
	assert_int_equal(list_as_client(&b, "one"), 200);
	assert_int_equal(init(&b, "fork", "i3", ",\"accessToken\":\"two\"", NULL), 200);
	assert_int_equal(list_as_client(&b, "one"), 401); /* another sandbox's now */
	assert_int_equal(list_as_client(&b, "two"), 200);
	assert_int_equal(init(&b, "fork", "i4", "", NULL), 200);
	assert_int_equal(list_as_client(&b, NULL), 200);
	end(&b);
}

/* --- hooks --------------------------------------------------------------------------------------
 */

static void test_hooks_run(void **state)
{
	struct box b = {0};
	json_t *reply;

	begin(&b);
	hook(&b, "after-wake.d/20-b", "echo b >> order; echo to stdout; echo to stderr >&2", 0755);
	hook(&b, "after-wake.d/10-a",
	     "echo a >> order; echo $DORM_EVENT $DORM_KIND $DORM_OLD_SANDBOX_ID "
	     "$DORM_SANDBOX_ID $DORM_TEMPLATE_ID > env; id -u > uid",
	     0700);
	hook(&b, "after-wake.d/.hidden", "echo no >> order", 0755);
	hook(&b, "after-wake.d/30-writable", "echo no >> order", 0777);
	hook(&b, "after-wake.d/40-plain", "echo no >> order", 0644);
	hook(&b, "before-sleep.d/10-a", "echo sleep >> order; echo $DORM_EVENT,$DORM_KIND > env",
	     0755);
	assert_int_equal(init(&b, "boot", "i1", "", &reply), 200);
	assert_true(json_is_true(json_object_get(reply, "ok")));
	json_decref(reply);
	expect_file(&b, "order", "a\nb\n");
	expect_file(&b, "env", "after-wake boot i1\n");
	reply = call_json(&b, "GET", "/repair");
	expect_step(reply, "hooks", true, NULL, NULL);
	expect_step(reply, "thaw", true, NULL, NULL);
	expect_step(reply, "after-wake.d/20-b", true, "output", "to stdout\nto stderr\n");
	expect_step(reply, "after-wake.d/30-writable", false, "skipped",
		    "others than root may write it");
	expect_step(reply, "after-wake.d/40-plain", false, "skipped", "it is not executable");
	json_decref(reply);
	reply = call_json(&b, "POST", "/prepare");
	expect_step(reply, "before-sleep.d/10-a", true, NULL, NULL);
	expect_step(reply, "hooks", true, NULL, NULL);
	expect_step(reply, "drop_caches", true, NULL, NULL);
	json_decref(reply);
	expect_file(&b, "env", "before-sleep,\n");
	box_reconnect(&b);
	assert_int_equal(init(&b, "fork", "i2", ",\"templateID\":\"t\"", NULL), 200);
	expect_file(&b, "env", "after-wake fork i1 i2 t\n");
	expect_file(&b, "order", "a\nb\nsleep\na\nb\n");
	/* a new host finds it fit for use: nothing has happened to it */
	box_reconnect(&b);
	assert_int_equal(init(&b, "resume", "i2", ",\"templateID\":\"t\"", NULL), 200);
	expect_file(&b, "order", "a\nb\nsleep\na\nb\n");
	end(&b);
}

/* Whoever may write the directory may put anything into it. */
static void test_untrusted_directory(void **state)
{
	struct box b = {0};
	char path[256];
	json_t *reply;

	begin(&b);
	hook(&b, "after-wake.d/10-a", "touch ran; exit 1", 0755);
	root_path(&b, "etc/dorm/hooks/after-wake.d", path);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	reply = call_json(&b, "GET", "/repair");
	expect_step(reply, "after-wake.d/10-a", false, "skipped",
		    "its directory does not belong to root alone");
	json_decref(reply);
	root_path(&b, "ran", path);
	assert_int_equal(access(path, F_OK), -1);
	end(&b);
}

static void test_after_wake_fails(void **state)
{
	struct box b = {0};
	json_t *reply;

	begin(&b);
	hook(&b, "after-wake.d/10-a", "echo the database is broken; exit 3", 0755);
	hook(&b, "after-wake.d/20-b", "touch ran", 0755);
	init(&b, "boot", "i1", "", &reply);
	assert_true(json_is_false(json_object_get(reply, "ok")));
	assert_string_equal(json_string_value(json_object_get(reply, "message")),
			    "step hooks failed: after-wake.d/10-a: exit status 3: the database is "
			    "broken\n");
	json_decref(reply);
	assert_false(is_open(&b));
	expect_file(&b, "ran", ""); /* the others ran all the same */
	reply = call_json(&b, "GET", "/repair");
	expect_step(reply, "hooks", false, NULL, NULL);
	expect_step(reply, "after-wake.d/10-a", false, "error", "exit status 3");
	json_decref(reply);
	hook(&b, "after-wake.d/10-a",
	     "head -c 3000 /dev/zero | tr '\\0' x; printf 'a\\377b\\303'; exit 1", 0755);
	init(&b, "boot", "i1", "", &reply); /* its end, and valid UTF-8 whatever it printed */
	assert_non_null(
		strstr(json_string_value(json_object_get(reply, "message")), "exit status 1: xxx"));
	assert_non_null(strstr(json_string_value(json_object_get(reply, "message")),
			       "xxxa\xef\xbf\xbd"
			       "b\xef\xbf\xbd"));
	json_decref(reply);
	hook(&b, "after-wake.d/10-a", "kill -KILL $$", 0755);
	init(&b, "boot", "i1", "", &reply);
	assert_non_null(strstr(json_string_value(json_object_get(reply, "message")),
			       "after-wake.d/10-a: signal: Killed"));
	json_decref(reply);
	assert_false(is_open(&b));
	hook(&b, "after-wake.d/10-a", "exit 0", 0755);
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	assert_true(is_open(&b));
	end(&b);
}

static void test_before_sleep_fails(void **state)
{
	struct box b = {0};
	json_t *reply;

	begin(&b);
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	hook(&b, "before-sleep.d/10-a", "exit 1", 0755);
	put(&b, "etc/dorm/hooks/before-sleep.d/20-b", "#!/no/such/shell\n", 0755);
	reply = call_json(&b, "POST", "/prepare");
	expect_step(reply, "hooks", false, NULL, NULL);
	expect_step(reply, "before-sleep.d/10-a", false, "error", "exit status 1");
	expect_step(reply, "before-sleep.d/20-b", false, "error", "No such file or directory");
	expect_step(reply, "sync", true, NULL, NULL); /* it sleeps all the same */
	expect_step(reply, "drop_caches", true, NULL, NULL);
	json_decref(reply);
	box_reconnect(&b);
	assert_int_equal(init(&b, "resume", "i1", "", NULL), 200);
	end(&b);
}

/* Wait for a hook to say who it is, once. */
static pid_t await_pid(const struct box *b)
{
	char path[256];

	root_path(b, "pid", path);
	for (int i = 0; i < 2000; i++, clock_sleep_ms(5)) {
		_cleanup_free_ char *text = NULL;

		if (file_read(AT_FDCWD, path, 64, &text, NULL) < 0 || !strchr(text, '\n'))
			continue;
		assert_int_equal(unlink(path), 0);
		return atoi(text);
	}
	fail_msg("no hook says who it is");
	return 0;
}

/* Dead is also who was killed and waits to be collected, by whoever adopts orphans here. */
static bool is_dead(pid_t pid)
{
	char path[64], *text = NULL, state = 'Z', *end;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (file_read(AT_FDCWD, path, 4096, &text, NULL) == 0 && (end = strrchr(text, ')')))
		state = end[2];
	free(text);
	return state == 'Z' || state == 'X';
}

static void expect_dead(pid_t pid)
{
	for (int i = 0; i < 500 && !is_dead(pid); i++)
		clock_sleep_ms(10);
	assert_true(is_dead(pid));
}

/* What hangs is killed at its limit, what is left behind at its end; nobody waits meanwhile. */
static void test_hook_hangs(void **state)
{
	struct box b = {0};
	json_t *reply;
	uint64_t t0;

	begin(&b);
	put(&b, "etc/dorm/hooks/timeout", "1\n", 0644);
	hook(&b, "after-wake.d/10-hang", "echo $$ > pid; echo waiting; exec sleep 100", 0755);
	t0 = clock_now_ns();
	init(&b, "boot", "i1", "", &reply);
	assert_true(clock_now_ns() - t0 >= NSEC_PER_SEC);
	assert_true(clock_now_ns() - t0 < 5 * NSEC_PER_SEC);
	assert_true(json_is_false(json_object_get(reply, "ok")));
	assert_string_equal(json_string_value(json_object_get(reply, "message")),
			    "step hooks failed: after-wake.d/10-hang: its time limit passed: "
			    "waiting\n");
	json_decref(reply);
	expect_dead(await_pid(&b));
	assert_false(is_open(&b));
	hook(&b, "after-wake.d/10-hang", "sleep 100 & echo $! > pid", 0755);
	t0 = clock_now_ns();
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	assert_true(clock_now_ns() - t0 < NSEC_PER_SEC);
	expect_dead(await_pid(&b));
	end(&b);
}

/* All together have a limit, too: twice that of each. */
static void test_hooks_total(void **state)
{
	struct box b = {0};
	json_t *reply;
	uint64_t t0 = 0;

	begin(&b);
	put(&b, "etc/dorm/hooks/timeout", "1", 0644);
	assert_int_equal(init(&b, "boot", "i1", "", NULL), 200);
	for (char c = 'a'; c < 'f'; c++)
		hook(&b,
		     (char[]){'b', 'e', 'f', 'o', 'r', 'e', '-', 's', 'l', 'e', 'e', 'p', '.', 'd',
			      '/', c, 0},
		     "sleep 100", 0755);
	t0 = clock_now_ns();
	reply = call_json(&b, "POST", "/prepare");
	assert_true(clock_now_ns() - t0 < 6 * NSEC_PER_SEC);
	expect_step(reply, "before-sleep.d/a", false, "error", "its time limit passed");
	expect_step(reply, "before-sleep.d/e", false, "error",
		    "not run: the time for all hooks had passed");
	expect_step(reply, "drop_caches", true, NULL, NULL);
	json_decref(reply);
	end(&b);
}

static void test_many_hooks(void **state)
{
	struct box b = {0};
	json_t *reply;

	begin(&b);
	for (int i = 0; i < 20; i++) {
		char name[64];

		snprintf(name, sizeof(name), "after-wake.d/%02d", i);
		hook(&b, name, "head -c 100000 /dev/zero | tr '\\0' x; echo end", 0755);
	}
	init(&b, "boot", "i1", "", &reply);
	assert_true(json_is_false(json_object_get(reply, "ok")));
	assert_non_null(strstr(json_string_value(json_object_get(reply, "message")),
			       "more hooks than are run"));
	json_decref(reply);
	reply = call_json(&b, "GET", "/repair");
	assert_int_equal(json_array_size(json_object_get(reply, "steps")), 8 + 1 + 16);
	json_decref(reply);
	end(&b);
}

/* --- others meanwhile ---------------------------------------------------------------------------
 */

static struct channel_stream *init_open(struct box *b)
{
	const char request[] = "{\"kind\":\"wake\",\"sandboxID\":\"i1\",\"hostname\":\"i1\","
			       "\"timestampNs\":1,\"entropy\":\"" ENTROPY "\"}";
	struct channel_stream *s;
	int status;

	assert_int_equal(channel_stream_open(b->ch, "POST", "/init", NULL, 0, false, &s), 0);
	assert_int_equal(channel_stream_write(s, request, strlen(request), true, box_soon()), 0);
	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0); /* before its hooks */
	assert_int_equal(status, 200);
	assert_string_equal(channel_stream_header(s, "x-dorm-hooks-ms"), "10000");
	return s;
}

static void test_others_meanwhile(void **state)
{
	struct channel_stream *s;
	struct box b = {0};
	char chunk[64];
	pid_t pid;

	begin(&b);
	hook(&b, "after-wake.d/10-slow", "echo $$ > pid; exec sleep 100", 0755);
	s = init_open(&b);
	pid = await_pid(&b);
	assert_int_equal(box_call(&b, "GET", "/health", NULL, NULL), 204); /* it does not block */
	assert_int_equal(box_call(&b, "POST", "/prepare", NULL, NULL), 409);
	assert_false(is_open(&b));
	/* the next init takes over */
	hook(&b, "after-wake.d/10-slow", "exit 0", 0755);
	assert_int_equal(init(&b, "wake", "i1", "", NULL), 200);
	assert_int_equal(channel_stream_read(s, chunk, sizeof(chunk), box_soon()), -ECONNRESET);
	channel_stream_close(s);
	expect_dead(pid);
	assert_true(is_open(&b));
	/* a host that goes away leaves the gate shut */
	assert_int_equal(box_call(&b, "POST", "/prepare", NULL, NULL), 200);
	box_reconnect(&b);
	hook(&b, "after-wake.d/10-slow", "echo $$ > pid; exec sleep 100", 0755);
	s = init_open(&b);
	pid = await_pid(&b);
	channel_stream_close(s);
	box_reconnect(&b);
	assert_false(is_open(&b));
	expect_dead(pid);
	hook(&b, "after-wake.d/10-slow", "exit 0", 0755);
	assert_int_equal(init(&b, "wake", "i1", "", NULL), 200);
	assert_true(is_open(&b));
	end(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),	 cmocka_unit_test(test_odd_files),
		cmocka_unit_test(test_bad_fields),	 cmocka_unit_test(test_token),
		cmocka_unit_test(test_hooks_run),	 cmocka_unit_test(test_untrusted_directory),
		cmocka_unit_test(test_after_wake_fails), cmocka_unit_test(test_before_sleep_fails),
		cmocka_unit_test(test_hook_hangs),	 cmocka_unit_test(test_hooks_total),
		cmocka_unit_test(test_many_hooks),	 cmocka_unit_test(test_others_meanwhile),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
