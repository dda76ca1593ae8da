/* SPDX-License-Identifier: Apache-2.0 */
/* filesystem.Filesystem without watching, against a whole agent (test-box.h). */
#include "agent/test-box.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"

/* One call. Return: the status; the answer in @ret (json_decref()) */
static int call(struct place *p, const char *method, json_t *message, json_t **ret)
{
	_cleanup_free_ char *text = json_dumps(message, JSON_ENCODE_ANY);
	_cleanup_free_ char *path = str_printf("/filesystem.Filesystem/%s", method);
	char *body;
	int status = box_call(&p->b, "POST", path, text, &body);

	json_decref(message);
	*ret = json_loads(body, 0, NULL);
	if (!*ret)
		fail_msg("%s: %d: not JSON: %s", method, status, body);
	free(body);
	return status;
}

/* "DIR/name" in a message under "path" */
static json_t *at(const struct place *p, const char *name)
{
	return json_pack("{s:o}", "path", json_sprintf("%s/%s", p->dir, name));
}

static void expect_fail(struct place *p, const char *method, json_t *message, int want,
			const char *code, const char *text)
{
	json_t *o;
	int status = call(p, method, message, &o);
	const char *got = json_string_value(json_object_get(o, "code"));
	const char *said = json_string_value(json_object_get(o, "message"));

	if (status != want || !got || strcmp(got, code) || !strstr(said, text))
		fail_msg("%s: %d %s '%s' instead of %d %s '%s'", method, status, got, said, want,
			 code, text);
	json_decref(o);
}

/* The entry of a call that works; json_decref() */
static json_t *entry(struct place *p, const char *method, json_t *message)
{
	json_t *o, *e;
	int status = call(p, method, message, &o);

	if (status != 200)
		fail_msg("%s: %d %s", method, status,
			 json_string_value(json_object_get(o, "message")));
	e = json_incref(json_object_get(o, "entry"));
	json_decref(o);
	assert_non_null(e);
	return e;
}

static const char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "(none)";
}

static void expect_done(struct place *p, const char *method, json_t *message)
{
	json_t *o;

	assert_int_equal(call(p, method, message, &o), 200);
	json_decref(o);
}

static int exists(const struct place *p, const char *name)
{
	char path[512];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	return lstat(path, &st) == 0;
}

/* --- Stat --------------------------------------------------------------------------------------
 */

static void test_stat(void **state)
{
	static const char *const times[] = {"1970-01-01 00:00:00", "1969-12-31 23:59:59",
					    "2000-02-29 12:34:56", "1904-02-29 00:00:00",
					    "2024-12-31 23:59:59", "2100-03-01 00:00:01"};
	struct place p = {0};
	char want[256];
	json_t *e;

	place_start(&p);
	box_sh("cd %s; printf abc > a; chmod 640 a; touch -d '2026-01-02 03:04:05.123456789 UTC' a; "
	   "mkdir d; chmod 1777 d; ln -s a l; ln -s d ld; ln -s nowhere dangling; ln -s loop loop; "
	   "cp a s; chmod 6755 s",
	   p.dir);
	e = entry(&p, "Stat", at(&p, "a"));
	snprintf(want, sizeof(want), "%s/a", p.dir);
	assert_string_equal(text_of(e, "name"), "a");
	assert_string_equal(text_of(e, "path"), want);
	assert_string_equal(text_of(e, "type"), "FILE_TYPE_FILE");
	assert_string_equal(text_of(e, "size"), "3");
	assert_int_equal(json_integer_value(json_object_get(e, "mode")), 0640);
	assert_string_equal(text_of(e, "permissions"), "-rw-r-----");
	assert_string_equal(text_of(e, "modifiedTime"), "2026-01-02T03:04:05.123456789Z");
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		json_t *t;

		box_sh("touch -d '%s UTC' %s/time", times[i], p.dir);
		t = entry(&p, "Stat", at(&p, "time"));
		snprintf(want, sizeof(want), "%.10sT%.8s.000000000Z", times[i], times[i] + 11);
		assert_string_equal(text_of(t, "modifiedTime"), want);
		json_decref(t);
	}
	snprintf(want, sizeof(want), "%s/a", p.dir);
	if (geteuid() == 0) {
		assert_string_equal(text_of(e, "owner"), "root");
		assert_string_equal(text_of(e, "group"), "root");
	}
	assert_null(json_object_get(e, "symlinkTarget"));
	json_decref(e);
	e = entry(&p, "Stat", at(&p, "d"));
	assert_string_equal(text_of(e, "type"), "FILE_TYPE_DIRECTORY");
	assert_string_equal(text_of(e, "permissions"), "dtrwxrwxrwx");
	assert_int_equal(json_integer_value(json_object_get(e, "mode")), 0777);
	json_decref(e);
	e = entry(&p, "Stat", at(&p, "s"));
	assert_string_equal(text_of(e, "permissions"), "ugrwxr-xr-x");
	json_decref(e);
	e = entry(&p, "Stat", at(&p, "l"));
	assert_string_equal(text_of(e, "type"), "FILE_TYPE_FILE"); /* the target's */
	assert_int_equal(json_integer_value(json_object_get(e, "mode")), 0640);
	assert_string_equal(text_of(e, "permissions"), "Lrwxrwxrwx"); /* its own */
	assert_string_equal(text_of(e, "symlinkTarget"), want);
	json_decref(e);
	e = entry(&p, "Stat", at(&p, "ld"));
	assert_string_equal(text_of(e, "type"), "FILE_TYPE_DIRECTORY");
	json_decref(e);
	for (int i = 0; i < 2; i++) {
		snprintf(want, sizeof(want), "%s/%s", p.dir, i ? "loop" : "dangling");
		e = entry(&p, "Stat", at(&p, i ? "loop" : "dangling"));
		assert_string_equal(text_of(e, "type"), "FILE_TYPE_UNSPECIFIED");
		assert_string_equal(text_of(e, "symlinkTarget"), want);
		json_decref(e);
	}
	expect_fail(&p, "Stat", at(&p, "none"), 404, "not_found", "file not found");
	expect_fail(&p, "Stat", at(&p, "a/none"), 404, "not_found", "file not found");
	place_stop(&p);
}

static void test_special_files(void **state)
{
	static const char *const names[] = {"fifo", "socket"};
	struct place p = {0};
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	json_t *e;

	place_start(&p);
	box_sh("mkfifo %s/fifo", p.dir);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/socket", p.dir);
	assert_int_equal(bind(fd, (void *)&sa, sizeof(sa)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		e = entry(&p, "Stat", at(&p, names[i]));
		assert_string_equal(text_of(e, "type"), "FILE_TYPE_UNSPECIFIED");
		assert_int_equal(text_of(e, "permissions")[0], i ? 'S' : 'p');
		json_decref(e);
	}
	e = entry(&p, "Stat", json_pack("{s:s}", "path", "/dev/null"));
	assert_string_equal(text_of(e, "type"), "FILE_TYPE_UNSPECIFIED");
	assert_string_equal(text_of(e, "permissions"), "Dcrw-rw-rw-");
	json_decref(e);
	e = entry(&p, "Stat", json_pack("{s:s}", "path", "/"));
	assert_string_equal(text_of(e, "name"), "/");
	json_decref(e);
	close(fd);
	place_stop(&p);
}

static void test_metadata(void **state)
{
	struct place p = {0};
	char path[64];
	json_t *e;

	place_start(&p);
	snprintf(path, sizeof(path), "%s/a", p.dir);
	box_sh("touch %s", path);
	if (setxattr(path, "user.e2b.colour", "blue", 4, 0) < 0) {
		print_message("no user attributes in /tmp: %s\n", strerror(errno));
		place_stop(&p);
		skip();
	}
	e = entry(&p, "Stat", at(&p, "a"));
	assert_string_equal(text_of(json_object_get(e, "metadata"), "colour"), "blue");
	json_decref(e);
	place_stop(&p);
}

static void test_bad_messages(void **state)
{
	struct place p = {0};
	json_t *o;

	place_start(&p);
	expect_fail(&p, "Stat", json_pack("{s:i}", "path", 3), 400, "invalid_argument",
		    "path must be a string");
	expect_fail(&p, "Stat", json_array(), 400, "invalid_argument", "not a JSON object");
	expect_fail(&p, "ListDir", json_pack("{s:s, s:i}", "path", "/", "depth", -1), 400,
		    "invalid_argument", "depth");
	expect_fail(&p, "ListDir", json_pack("{s:s, s:s}", "path", "/", "depth", "x"), 400,
		    "invalid_argument", "depth");
	expect_fail(&p, "Move", json_pack("{s:[]}", "source"), 400, "invalid_argument",
		    "source must be a string");
	/* "" is the default directory */
	(void)call(&p, "Stat", json_object(), &o);
	json_decref(o);
	place_stop(&p);
}

/* --- MakeDir, Remove, Move ---------------------------------------------------------------------
 */

static void test_make(void **state)
{
	struct place p = {0};
	json_t *e;

	place_start(&p);
	e = entry(&p, "MakeDir", at(&p, "x/y/z"));
	assert_string_equal(text_of(e, "name"), "z");
	assert_string_equal(text_of(e, "permissions"), "drwxr-xr-x");
	json_decref(e);
	assert_true(exists(&p, "x/y/z"));
	expect_fail(&p, "MakeDir", at(&p, "x/y"), 409, "already_exists", "already exists");
	box_sh("touch %s/file; ln -s none %s/dangling", p.dir, p.dir);
	expect_fail(&p, "MakeDir", at(&p, "file"), 400, "invalid_argument", "not a directory");
	expect_fail(&p, "MakeDir", at(&p, "file/below"), 400, "invalid_argument",
		    "not a directory");
	expect_fail(&p, "MakeDir", at(&p, "dangling"), 400, "invalid_argument", "not a directory");
	place_stop(&p);
}

/* What is made belongs to the user who asked, and so do the directories on the way. */
static void test_make_as_user(void **state)
{
	const struct channel_header headers[] = {
		{"content-type", "application/json"},
		{"authorization", "Basic bm9ib2R5Og=="}, /* nobody: */
	};
	struct place p = {0};
	struct channel_stream *s;
	char request[128], path[64];
	struct stat st;
	int status;

	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	place_start(&p);
	snprintf(request, sizeof(request), "{\"path\":\"%s/u/v\"}", p.dir);
	assert_int_equal(channel_stream_open(p.b.ch, "POST", "/filesystem.Filesystem/MakeDir",
					     headers, 2, false, &s),
			 0);
	assert_int_equal(channel_stream_write(s, request, strlen(request), true, box_soon()), 0);
	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	assert_int_equal(status, 200);
	channel_stream_close(s);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/u%s", p.dir, i ? "/v" : "");
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_uid, 65534);
	}
	place_stop(&p);
}

static void test_remove(void **state)
{
	struct place p = {0};

	place_start(&p);
	box_sh("cd %s; mkdir -p t/a/b t/c keep; touch t/a/1 t/a/b/2 keep/x; ln -s ../keep t/link; "
	   "ln -s keep top; mkfifo t/fifo; chmod 0 t/c; touch file",
	   p.dir);
	expect_done(&p, "Remove", at(&p, "t"));
	assert_false(exists(&p, "t"));
	assert_true(exists(&p, "keep/x")); /* not through the link */
	expect_done(&p, "Remove", at(&p, "top"));
	assert_false(exists(&p, "top"));
	assert_true(exists(&p, "keep/x"));
	expect_done(&p, "Remove", at(&p, "file"));
	expect_done(&p, "Remove", at(&p, "file"));   /* missing is fine */
	expect_done(&p, "Remove", at(&p, "no/way")); /* also on the way */
	expect_fail(&p, "Remove", json_pack("{s:s}", "path", "/"), 400, "failed_precondition",
		    "mount point");
	place_stop(&p);
}

/* More than a batch of names in one directory, and a tree deeper than a path may be long. */
static void test_remove_large(void **state)
{
	struct place p = {0};
	char path[64];
	int fd;

	place_start(&p);
	box_sh("mkdir %s/t; cd %s/t; seq 1 5000 | xargs touch", p.dir, p.dir);
	snprintf(path, sizeof(path), "%s/t", p.dir);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 1500; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "deep", 0755), 0);
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(fd);
		fd = next;
	}
	close(fd);
	expect_done(&p, "Remove", at(&p, "t"));
	assert_false(exists(&p, "t"));
	place_stop(&p);
}

/* Nothing of another mount goes, and the answer names it. */
static void test_remove_mount(void **state)
{
	struct place p = {0};
	char path[64];

	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	place_start(&p);
	box_sh("cd %s; mkdir -p t/a t/m other; touch t/a/1 other/precious", p.dir);
	snprintf(path, sizeof(path), "%s/t/m", p.dir);
	box_sh("cd %s; mount --bind other t/m", p.dir); /* the same device: st_dev would not tell */
	expect_fail(&p, "Remove", at(&p, "t"), 400, "failed_precondition", "t/m");
	assert_true(exists(&p, "other/precious"));
	assert_false(exists(&p, "t/a"));
	expect_fail(&p, "Remove", at(&p, "t/m"), 400, "failed_precondition", "mount point");
	assert_int_equal(umount(path), 0);
	assert_true(exists(&p, "other/precious"));
	expect_done(&p, "Remove", at(&p, "t"));
	place_stop(&p);
}

static json_t *from_to(const char *from_dir, const char *from, const char *to_dir, const char *to)
{
	return json_pack("{s:o, s:o}", "source", json_sprintf("%s/%s", from_dir, from),
			 "destination", json_sprintf("%s/%s", to_dir, to));
}

static void test_move(void **state)
{
	struct place p = {0};
	json_t *e;

	place_start(&p);
	box_sh("cd %s; echo 1 > a; echo 2 > b; mkdir -p d/e full; touch d/e/f full/x", p.dir);
	e = entry(&p, "Move", from_to(p.dir, "a", p.dir, "new/parents/a2"));
	assert_string_equal(text_of(e, "name"), "a2");
	json_decref(e);
	assert_false(exists(&p, "a"));
	json_decref(entry(&p, "Move", from_to(p.dir, "b", p.dir, "new/parents/a2")));
	box_sh("[ \"$(cat %s/new/parents/a2)\" = 2 ]", p.dir); /* replaced */
	json_decref(entry(&p, "Move", from_to(p.dir, "d", p.dir, "d2")));
	assert_true(exists(&p, "d2/e/f"));
	expect_fail(&p, "Move", from_to(p.dir, "none", p.dir, "z"), 404, "not_found",
		    "source file not found");
	assert_false(exists(&p, "z"));
	expect_fail(&p, "Move", from_to(p.dir, "d2", p.dir, "d2/e/inside"), 400, "invalid_argument",
		    "cannot move");
	expect_fail(&p, "Move", from_to(p.dir, "d2", p.dir, "full"), 400, "failed_precondition",
		    "cannot move");
	assert_true(exists(&p, "d2/e/f"));
	place_stop(&p);
}

/* /dev/shm is another file system than /tmp. */
static void test_move_across(void **state)
{
	/* everything but what a copy cannot keep */
	static const char look[] = "cd %s && (find m -printf '%%p %%y %%m %%u %%T@ %%l\\n'; cksum "
				   "m/data m/sparse) | sort "
				   "> %s/%s";
	char other[] = "/dev/shm/test-filesystem-XXXXXX";
	struct place p = {0};
	struct stat a, b;
	char path[64];

	place_start(&p);
	if (!mkdtemp(other) || stat(other, &a) < 0 || stat(p.dir, &b) < 0 || a.st_dev == b.st_dev) {
		print_message("needs /dev/shm as a file system of its own\n");
		place_stop(&p);
		skip();
	}
	box_sh("cd %s; mkdir -p m/sub/empty; seq 1 100000 > m/data; ln -s /nowhere m/link; "
	   "mkfifo m/fifo; truncate -s 64M m/sparse; printf end >> m/sparse; chmod 4711 m/data; "
	   "touch -d '2020-02-02 UTC' m/data m/sub; chmod 1770 m/sub",
	   p.dir);
	box_sh(look, p.dir, p.dir, "before");
	json_decref(entry(&p, "Move", from_to(p.dir, "m", other, "deep/m")));
	assert_false(exists(&p, "m"));
	snprintf(path, sizeof(path), "%s/deep", other);
	box_sh(look, path, p.dir, "after");
	box_sh("cd %s; cmp before after; [ $(du -k %s/deep/m/sparse | cut -f1) -lt 1000 ]", p.dir,
	   other);
	box_sh("[ $(ls -A %s/deep | wc -l) = 1 ]", other); /* no temporary name is left */
	/* and back, onto what is there */
	json_decref(entry(&p, "Move", from_to(other, "deep/m/data", p.dir, "before")));
	box_sh("cd %s; [ $(wc -l < before) = 100000 ]; rm -r %s", p.dir, other);
	place_stop(&p);
}

/* --- ListDir -----------------------------------------------------------------------------------
 */

/* The names below the listed directory, separated by blanks. */
static char *listed(struct place *p, const char *name, int depth)
{
	json_t *m = at(p, name), *o, *list;
	char *text = calloc(1, 1 << 20);
	size_t i, n = 0;
	int status;

	json_object_set_new(m, "depth", json_integer(depth));
	status = call(p, "ListDir", m, &o);
	if (status != 200)
		fail_msg("ListDir %s: %d %s", name, status, text_of(o, "message"));
	list = json_object_get(o, "entries");
	for (i = 0; i < json_array_size(list); i++) {
		const char *path = text_of(json_array_get(list, i), "path");

		path += strlen(p->dir) + 1;
		if (n + strlen(path) + 2 < 1 << 20)
			n += (size_t)sprintf(text + n, "%s%s", i ? " " : "", path);
	}
	json_decref(o);
	return text;
}

static void expect_listed(struct place *p, const char *name, int depth, const char *want)
{
	_cleanup_free_ char *got = listed(p, name, depth);

	if (strcmp(got, want))
		fail_msg("%s to %d: '%s' instead of '%s'", name, depth, got, want);
}

static void test_list(void **state)
{
	struct place p = {0};

	place_start(&p);
	box_sh("cd %s; mkdir -p t/b/c/d t/a-b t/a; touch t/b/1 t/b/c/2 t/Z t/a/x; ln -s t link; "
	   "ln -s ../t t/b/up",
	   p.dir);
	expect_listed(&p, "t", 0, "t/Z t/a t/a-b t/b");
	expect_listed(&p, "t", 1, "t/Z t/a t/a-b t/b");
	expect_listed(&p, "t", 2, "t/Z t/a t/a/x t/a-b t/b t/b/1 t/b/c t/b/up");
	expect_listed(&p, "t", 9, "t/Z t/a t/a/x t/a-b t/b t/b/1 t/b/c t/b/c/2 t/b/c/d t/b/up");
	expect_listed(&p, "link", 1, "link/Z link/a link/a-b link/b"); /* the prefix asked for */
	expect_listed(&p, "t/b/c/d", 1, "");
	expect_fail(&p, "ListDir", at(&p, "none"), 404, "not_found", "directory not found");
	expect_fail(&p, "ListDir", at(&p, "t/Z"), 400, "invalid_argument", "not a directory");
	place_stop(&p);
}

/* Any bytes are a name on Linux, and JSON is UTF-8. */
static void test_odd_names(void **state)
{
	struct place p = {0};
	json_t *o, *list;

	place_start(&p);
	box_sh("cd %s; mkdir t; touch \"$(printf 't/b\\377\\300\\257d')\" \"$(printf 't/new\\nline')\" "
	   "\"$(printf 't/\\303\\244\\342\\202\\254\\360\\237\\230\\200')\" 't/q\"\\'",
	   p.dir);
	assert_int_equal(call(&p, "ListDir", at(&p, "t"), &o), 200);
	list = json_object_get(o, "entries");
	assert_int_equal(json_array_size(list), 4);
	assert_string_equal(text_of(json_array_get(list, 0), "name"),
			    "b\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
			    "d");
	assert_string_equal(text_of(json_array_get(list, 1), "name"), "new\nline");
	assert_string_equal(text_of(json_array_get(list, 2), "name"), "q\"\\");
	assert_string_equal(text_of(json_array_get(list, 3), "name"), "ä€😀");
	json_decref(o);
	place_stop(&p);
}

static struct channel_stream *open_call(struct place *p, const char *method, const char *message)
{
	struct channel_stream *s;

	assert_int_equal(channel_stream_open(p->b.ch, "POST", method, NULL, 0, false, &s), 0);
	assert_int_equal(channel_stream_write(s, message, strlen(message), true, box_soon()), 0);
	return s;
}

/* VmRSS of the agent, KiB */
static unsigned long resident_kib(const struct place *p)
{
	char path[32], line[128];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", p->b.pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		(void)sscanf(line, "VmRSS: %lu", &kib);
	fclose(f);
	assert_true(kib > 0);
	return kib;
}

/* All of the processes end, those without a client too. */
static void expect_no_helpers(const struct place *p)
{
	char command[64];

	snprintf(command, sizeof(command), "pgrep -P %d -x dorm-helper > /dev/null", p->b.pid);
	for (int i = 0; system(command) == 0; i++) {
		assert_true(i < 500);
		clock_sleep_ms(20);
	}
}

/* A listing larger than what one answer may be in memory, read slowly: it waits in the helper. */
static size_t count_listed(struct place *p, const char *message)
{
	static char chunk[65536];
	struct channel_stream *s = open_call(p, "/filesystem.Filesystem/ListDir", message);
	/* the sanitizers keep what was freed */
	unsigned long limit = resident_kib(p) + (strstr(box_program, "-dev") ? 16384 : 2048);
	size_t n = 0, len = 0;
	ssize_t got;
	int status;

	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	assert_int_equal(status, 200);
	clock_sleep_ms(300);
	assert_true(resident_kib(p) < limit);
	while ((got = channel_stream_read(s, chunk, sizeof(chunk), box_soon())) > 0) {
		len += (size_t)got;
		for (ssize_t i = 0; i < got; i++)
			n += chunk[i] == '{';
	}
	assert_int_equal(got, 0);
	assert_true(len > 8u << 20);
	channel_stream_close(s);
	return n - 1; /* the answer itself is one; no metadata here */
}

/* While a large tree is listed and removed, the agent answers others at once. */
static void test_large(void **state)
{
	struct place p = {0};
	struct channel_stream *s;
	char request[128];
	uint64_t worst_ns = 0, begin_ns;
	int status = 0;

	place_start(&p);
	box_sh("cd %s; mkdir t; for d in $(seq 1 50); do mkdir t/$d; (cd t/$d; seq 1 1000 | xargs "
	   "touch); "
	   "done",
	   p.dir);
	snprintf(request, sizeof(request), "{\"path\":\"%s/t\",\"depth\":2}", p.dir);
	assert_int_equal(count_listed(&p, request), 50050);
	s = open_call(&p, "/filesystem.Filesystem/Remove", request);
	begin_ns = clock_now_ns();
	while (channel_stream_head(s, deadline_after_ms(1), &status) == -ETIMEDOUT) {
		uint64_t start_ns = clock_now_ns();

		assert_int_equal(box_call(&p.b, "GET", "/health", NULL, NULL), 204);
		worst_ns = MAX(worst_ns, clock_now_ns() - start_ns);
	}
	assert_int_equal(status, 200);
	channel_stream_close(s);
	assert_false(exists(&p, "t"));
	print_message(
		"50,000 files removed in %llu ms, meanwhile the slowest answer took %llu ms\n",
		(unsigned long long)((clock_now_ns() - begin_ns) / NSEC_PER_MSEC),
		(unsigned long long)(worst_ns / NSEC_PER_MSEC));
	assert_true(worst_ns < NSEC_PER_SEC); /* far less; but the machine may be busy */
	place_stop(&p);
}

static void test_too_large(void **state)
{
	struct place p = {0};

	place_start(&p);
	box_sh("cd %s; mkdir t; cd t; seq 1 100001 | xargs touch", p.dir);
	expect_fail(&p, "ListDir", at(&p, "t"), 429, "resource_exhausted", "100000 entries");
	expect_done(&p, "Remove", at(&p, "t"));
	place_stop(&p);
}

/* A file system whose server never answers: only who asks for it waits, and not for ever. */
static void test_hanging(void **state)
{
	const struct channel_header limit = {"connect-timeout-ms", "300"};
	struct place p = {0};
	struct channel_stream *s, *limited;
	char path[64], options[128], request[128];
	int status, fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	place_start(&p);
	snprintf(path, sizeof(path), "%s/hangs", p.dir);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	mkdir(path, 0755);
	if (fd < 0 || mount("test", path, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
		print_message("cannot mount FUSE: %s\n", strerror(errno));
		place_stop(&p);
		skip();
	}
	snprintf(request, sizeof(request), "{\"path\":\"%s/x\"}", path);
	s = open_call(&p, "/filesystem.Filesystem/Stat", request);
	assert_int_equal(channel_stream_open(p.b.ch, "POST", "/filesystem.Filesystem/ListDir",
					     &limit, 1, false, &limited),
			 0);
	assert_int_equal(channel_stream_write(limited, request, strlen(request), true, box_soon()),
			 0);
	assert_int_equal(channel_stream_head(s, deadline_after_ms(200), &status), -ETIMEDOUT);
	assert_int_equal(box_call(&p.b, "GET", "/health", NULL, NULL), 204);
	json_decref(entry(&p, "Stat", json_pack("{s:s}", "path", "/")));
	assert_int_equal(channel_stream_head(limited, box_soon(), &status), 0);
	assert_int_equal(status, 504);
	channel_stream_close(limited);
	channel_stream_close(s);
	expect_no_helpers(&p);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	close(fd);
	place_stop(&p);
}

/* Forty at once, and nobody waits for the answer of the half. */
static void test_many_at_once(void **state)
{
	struct place p = {0};
	struct channel_stream *s[40];
	char request[128];
	int status;

	place_start(&p);
	box_sh("cd %s; mkdir t; cd t; seq 1 2000 | xargs touch", p.dir);
	snprintf(request, sizeof(request), "{\"path\":\"%s/t\"}", p.dir);
	for (int i = 0; i < 40; i++)
		s[i] = open_call(&p, "/filesystem.Filesystem/ListDir", request);
	for (int i = 0; i < 40; i += 2)
		channel_stream_close(s[i]);
	for (int i = 1; i < 40; i += 2) {
		assert_int_equal(channel_stream_head(s[i], box_soon(), &status), 0);
		assert_int_equal(status, 200);
		channel_stream_close(s[i]);
	}
	expect_no_helpers(&p);
	place_stop(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stat),	     cmocka_unit_test(test_special_files),
		cmocka_unit_test(test_metadata),     cmocka_unit_test(test_bad_messages),
		cmocka_unit_test(test_make),	     cmocka_unit_test(test_make_as_user),
		cmocka_unit_test(test_remove),	     cmocka_unit_test(test_remove_large),
		cmocka_unit_test(test_remove_mount), cmocka_unit_test(test_move),
		cmocka_unit_test(test_move_across),  cmocka_unit_test(test_list),
		cmocka_unit_test(test_odd_names),    cmocka_unit_test(test_large),
		cmocka_unit_test(test_too_large),    cmocka_unit_test(test_hanging),
		cmocka_unit_test(test_many_at_once),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
