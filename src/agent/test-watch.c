/* SPDX-License-Identifier: Apache-2.0 */
/* WatchDir and the polled watchers, against a whole agent (test-box.h). */
#include "agent/test-box.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"

#define WATCH "/filesystem.Filesystem/WatchDir"

/* A stream and what it has said: "CREATE a;WRITE a;" */
struct seen {
	struct channel_stream *s;
	struct buf raw, text;
	bool started, over;
	unsigned keepalives, entries;
	char code[64], message[512], last_path[256];
};

static void watch_start(struct place *p, const char *path, const char *options,
			const struct channel_header *headers, size_t n, struct seen *ret)
{
	struct channel_header h[4] = {{"content-type", "application/connect+json"}};
	_cleanup_free_ char *json = str_printf("{\"path\":\"%s\"%s}", path, options);
	size_t len = strlen(json);
	char head[5] = {0, (char)(len >> 24), (char)(len >> 16), (char)(len >> 8), (char)len};
	int status;

	for (size_t i = 0; i < n; i++)
		h[1 + i] = headers[i];
	*ret = (struct seen){0};
	assert_int_equal(channel_stream_open(p->b.ch, "POST", WATCH, h, 1 + n, false, &ret->s), 0);
	assert_int_equal(channel_stream_write(ret->s, head, 5, false, box_soon()), 0);
	assert_int_equal(channel_stream_write(ret->s, json, len, true, box_soon()), 0);
	assert_int_equal(channel_stream_head(ret->s, box_soon(), &status), 0);
	assert_int_equal(status, 200);
}

static void seen_event(struct seen *w, json_t *o)
{
	json_t *e = json_object_get(o, "filesystem"), *entry = json_object_get(e, "entry");
	const char *type = json_string_value(json_object_get(e, "type"));

	if (json_object_get(o, "start")) {
		assert_false(w->started);
		w->started = true;
		return;
	}
	assert_true(w->started); /* start is the first */
	if (json_object_get(o, "keepalive")) {
		w->keepalives++;
		return;
	}
	assert_non_null(type);
	type = str_has_prefix(type, "EVENT_TYPE_");
	assert_int_equal(
		buf_printf(&w->text, "%s %s;", type, json_string_value(json_object_get(e, "name"))),
		0);
	if (entry) {
		assert_true(!strcmp(type, "CREATE") || !strcmp(type, "WRITE") ||
			    !strcmp(type, "CHMOD"));
		w->entries++;
		str_copy(w->last_path, sizeof(w->last_path),
			 json_string_value(json_object_get(entry, "path")));
	}
}

static void seen_message(struct seen *w, int flags, const char *text, size_t len)
{
	json_t *o = json_loadb(text, len, 0, NULL), *e = json_object_get(o, "error");

	assert_non_null(o);
	assert_false(w->over);
	if (flags == 2) {
		w->over = true;
		str_copy(w->code, sizeof(w->code),
			 json_string_value(json_object_get(e, "code")) ?: "");
		str_copy(w->message, sizeof(w->message),
			 json_string_value(json_object_get(e, "message")) ?: "");
	} else {
		seen_event(w, o);
	}
	json_decref(o);
}

/* Some more. Return: as channel_stream_read() */
static ssize_t seen_step(struct seen *w, uint64_t deadline_ns)
{
	static char chunk[65536];
	ssize_t n = channel_stream_read(w->s, chunk, sizeof(chunk), deadline_ns);
	size_t at = 0;

	if (n <= 0)
		return n;
	assert_int_equal(buf_append(&w->raw, chunk, (size_t)n), 0);
	while (w->raw.len - at >= 5) {
		const uint8_t *p = (const uint8_t *)w->raw.data + at;
		size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];

		if (w->raw.len - at < 5 + len)
			break;
		seen_message(w, p[0], w->raw.data + at + 5, len);
		at += 5 + len;
	}
	buf_consume(&w->raw, at);
	return n;
}

static void seen_deinit(struct seen *w)
{
	channel_stream_close(w->s);
	buf_deinit(&w->raw);
	buf_deinit(&w->text);
}

static void seen_until_started(struct seen *w)
{
	while (!w->started && !w->over)
		assert_true(seen_step(w, box_soon()) > 0);
	if (!w->started)
		fail_msg("%s: %s", w->code, w->message);
}

static const char *text_of(const struct seen *w)
{
	return w->text.data ? w->text.data : "";
}

/* Until it has said "@what;". */
static void seen_until(struct seen *w, const char *what)
{
	uint64_t deadline_ns = box_soon();

	while (!strstr(text_of(w), what))
		if (seen_step(w, deadline_ns) <= 0)
			fail_msg("no '%s' in '%s' (%s %s)", what, text_of(w), w->code, w->message);
}

/* Nothing but @want has happened since the last look, which @marker, made by this, ends. */
static void seen_exactly(struct seen *w, const struct place *p, const char *want)
{
	static int count;
	char marker[32], full[1024];

	snprintf(marker, sizeof(marker), "marker-%d", ++count);
	box_sh("mkdir %s/%s", p->dir, marker);
	snprintf(full, sizeof(full), "CREATE %s;", marker);
	seen_until(w, full);
	snprintf(full, sizeof(full), "%sCREATE %s;", want, marker);
	if (strcmp(text_of(w), full))
		fail_msg("'%s' instead of '%s'", text_of(w), full);
	buf_deinit(&w->text);
	box_sh("rmdir %s/%s", p->dir, marker);
	snprintf(full, sizeof(full), "REMOVE %s;", marker);
	seen_until(w, full);
	buf_deinit(&w->text);
}

static void expect_refused(struct place *p, const char *path, const char *options, const char *code,
			   const char *message)
{
	struct seen w;

	watch_start(p, path, options, NULL, 0, &w);
	while (seen_step(&w, box_soon()) > 0)
		;
	if (!w.over || w.started || strcmp(w.code, code) || !strstr(w.message, message))
		fail_msg("%s: %s '%s' instead of %s '%s'", path, w.code, w.message, code, message);
	seen_deinit(&w);
}

/* --- streams ------------------------------------------------------------------------------------
 */

static void test_events(void **state)
{
	struct place p = {0};
	struct seen w;

	place_start(&p);
	box_sh("mkdir %s/sub", p.dir);
	watch_start(&p, p.dir, "", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("cd %s; mkdir d", p.dir);
	seen_exactly(&w, &p, "CREATE d;");
	box_sh("cd %s; printf x > a", p.dir);
	seen_exactly(&w, &p, "CREATE a;WRITE a;");
	box_sh("cd %s; chmod 600 a", p.dir);
	seen_exactly(&w, &p, "CHMOD a;");
	box_sh("cd %s; mv a b", p.dir);
	seen_exactly(&w, &p, "RENAME a;CREATE b;");
	box_sh("cd %s; rm b", p.dir);
	seen_exactly(&w, &p, "REMOVE b;");
	box_sh("cd %s; touch sub/x d/y; rm sub/x", p.dir);
	seen_exactly(&w, &p, ""); /* not recursive */
	/* an upload: only the name that it is for */
	box_sh("cd %s; printf x > .dorm-upload-1; mv .dorm-upload-1 up; rm up", p.dir);
	seen_exactly(&w, &p, "CREATE up;REMOVE up;");
	box_sh("cd %s; mkdir \"$(printf 'n\\377\"')\"", p.dir);
	seen_exactly(&w, &p, "CREATE n\xEF\xBF\xBD\";");
	seen_deinit(&w);
	place_stop(&p);
}

static void test_refused(void **state)
{
	struct place p = {0};
	char path[64];

	place_start(&p);
	box_sh("touch %s/file", p.dir);
	snprintf(path, sizeof(path), "%s/none", p.dir);
	expect_refused(&p, path, "", "not_found", "not found");
	snprintf(path, sizeof(path), "%s/file", p.dir);
	expect_refused(&p, path, "", "invalid_argument", "not a directory");
	expect_refused(&p, p.dir, ",\"recursive\":3", "invalid_argument",
		       "recursive must be true or false");
	place_stop(&p);
}

/* The least that a FUSE server has to know for its root to be opened. */
static void *serve_fuse(void *userdata)
{
	static char in[FUSE_MIN_READ_BUFFER + 65536];
	int fd = *(int *)userdata;

	while (read(fd, in, sizeof(in)) > 0) {
		const struct fuse_in_header *ih = (const void *)in;
		struct {
			struct fuse_out_header h;
			union {
				struct fuse_init_out init;
				struct fuse_attr_out attr;
				struct fuse_statfs_out statfs;
				struct fuse_open_out open;
			};
		} out = {.h = {.unique = ih->unique}};
		size_t len = 0;

		if (ih->opcode == FUSE_INIT) {
			out.init.major = FUSE_KERNEL_VERSION;
			out.init.minor = FUSE_KERNEL_MINOR_VERSION;
			out.init.max_write = 4096;
			len = sizeof(out.init);
		} else if (ih->opcode == FUSE_GETATTR) {
			out.attr.attr.ino = 1;
			out.attr.attr.mode = S_IFDIR | 0755;
			out.attr.attr.nlink = 2;
			len = sizeof(out.attr);
		} else if (ih->opcode == FUSE_STATFS) {
			len = sizeof(out.statfs);
		} else if (ih->opcode == FUSE_OPENDIR) {
			len = sizeof(out.open);
		} else if (ih->opcode == FUSE_FORGET) {
			continue;
		} else if (ih->opcode != FUSE_RELEASEDIR && ih->opcode != FUSE_READDIR) {
			out.h.error = -ENOSYS;
		}
		out.h.len = (uint32_t)(sizeof(out.h) + len);
		if (write(fd, &out, out.h.len) < 0)
			break;
	}
	return NULL;
}

/* inotify sees only what happens on this side: such a watch has to be asked for. */
static void test_network(void **state)
{
	struct place p = {0};
	struct seen w;
	char path[64], options[128];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	pthread_t thread;

	place_start(&p);
	snprintf(path, sizeof(path), "%s/fuse", p.dir);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	mkdir(path, 0755);
	if (fd < 0 || mount("test", path, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
		print_message("cannot mount FUSE: %s\n", strerror(errno));
		place_stop(&p);
		skip();
	}
	assert_int_equal(pthread_create(&thread, NULL, serve_fuse, &fd), 0);
	expect_refused(&p, path, "", "invalid_argument", "cannot watch path on network filesystem");
	watch_start(&p, path, ",\"allowNetworkMounts\":true", NULL, 0, &w);
	seen_until_started(&w);
	seen_deinit(&w);
	/* above it, it does not join */
	watch_start(&p, p.dir, ",\"recursive\":true", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("mkdir %s/beside", p.dir);
	seen_until(&w, "CREATE beside;");
	seen_deinit(&w);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	close(fd);
	place_stop(&p);
}

static void test_recursive(void **state)
{
	struct place p = {0};
	struct seen w;

	place_start(&p);
	box_sh("mkdir -p %s/old/er %s/elsewhere-not", p.dir, p.dir);
	watch_start(&p, p.dir, ",\"recursive\":true", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("cd %s; mkdir old/er/new", p.dir);
	seen_exactly(&w, &p, "CREATE old/er/new;");
	box_sh("cd %s; printf x > old/er/new/f", p.dir);
	seen_exactly(&w, &p, "CREATE old/er/new/f;WRITE old/er/new/f;");
	/* what is there before the new directory can be watched, and each once */
	for (int i = 0; i < 6; i++) {
		box_sh("cd %s; mkdir -p n/a/b; mkdir n/c", p.dir);
		seen_exactly(&w, &p, "CREATE n;CREATE n/a;CREATE n/a/b;CREATE n/c;");
		box_sh("cd %s; rmdir n/a/b", p.dir);
		seen_exactly(&w, &p, "REMOVE n/a/b;");
		box_sh("cd %s; rmdir n/a n/c n", p.dir);
		seen_exactly(&w, &p, "REMOVE n/a;REMOVE n/c;REMOVE n;");
	}
	seen_deinit(&w);
	place_stop(&p);
}

/* Directories that move: within the watch they keep being watched, outside they are not. */
static void test_recursive_moves(void **state)
{
	char outside[] = "/tmp/test-watch-outside-XXXXXX";
	struct place p = {0};
	struct seen w;

	place_start(&p);
	assert_non_null(mkdtemp(outside));
	box_sh("cd %s; mkdir -p one/in/side two; mkdir -p %s/come/in; touch %s/come/in/file", p.dir,
	   outside, outside);
	watch_start(&p, p.dir, ",\"recursive\":true", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("cd %s; mv one two/uno", p.dir);
	seen_exactly(&w, &p, "RENAME one;CREATE two/uno;");
	box_sh("cd %s; mkdir two/uno/in/side/x", p.dir);
	seen_exactly(&w, &p, "CREATE two/uno/in/side/x;");
	box_sh("cd %s; mkdir one", p.dir); /* the old name is another directory now */
	seen_exactly(&w, &p, "CREATE one;");
	box_sh("cd %s; mkdir one/y", p.dir);
	seen_exactly(&w, &p, "CREATE one/y;");
	box_sh("mv %s/come %s/came", outside, p.dir);
	seen_exactly(&w, &p, "CREATE came;CREATE came/in;CREATE came/in/file;");
	box_sh("mkdir %s/came/in/z", p.dir);
	seen_exactly(&w, &p, "CREATE came/in/z;");
	box_sh("mv %s/two/uno %s/gone", p.dir, outside);
	seen_exactly(&w, &p, "RENAME two/uno;");
	clock_sleep_ms(50);
	box_sh("mkdir %s/gone/in/side/unseen; rm -r %s/gone/in", outside, outside);
	seen_exactly(&w, &p, "");
	seen_deinit(&w);
	box_sh("rm -r %s", outside);
	place_stop(&p);
}

/* Many files in new directories, while they are being found: none is missed, none is told twice. */
static void test_race(void **state)
{
	struct place p = {0};
	struct seen w;

	place_start(&p);
	watch_start(&p, p.dir, ",\"recursive\":true", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("cd %s; for i in 1 2 3 4 5 6 7 8; do (mkdir -p r$i/a/b; for j in 1 2 3 4 5 6 7 8 9; do "
	   "mkdir r$i/a/$j r$i/a/b/$j; done) & done; wait; mkdir end",
	   p.dir);
	seen_until(&w, "CREATE end;");
	for (int i = 1; i <= 8; i++)
		for (int j = 0; j <= 10; j++)
			for (int k = 0; k < 2; k++) {
				char want[64], *first;

				if (j == 0)
					snprintf(want, sizeof(want), "CREATE r%d%s;", i,
						 k ? "/a" : "");
				else if (j == 10)
					snprintf(want, sizeof(want), "CREATE r%d/a/b;", i);
				else
					snprintf(want, sizeof(want), "CREATE r%d/a/%s%d;", i,
						 k ? "b/" : "", j);
				first = strstr(w.text.data, want);
				if (!first || strstr(first + 1, want))
					fail_msg("%s: %s in %s", want, first ? "twice" : "missing",
						 w.text.data);
			}
	seen_deinit(&w);
	place_stop(&p);
}

static void test_entries(void **state)
{
	struct place p = {0};
	struct seen w;
	char want[128];

	place_start(&p);
	box_sh("mkdir %s/d", p.dir);
	watch_start(&p, p.dir, ",\"recursive\":true,\"includeEntry\":true", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("mkdir %s/d/sub", p.dir);
	seen_until(&w, "CREATE d/sub;");
	assert_int_equal(w.entries, 1);
	snprintf(want, sizeof(want), "%s/d/sub", p.dir);
	assert_string_equal(w.last_path, want);
	box_sh("cd %s/d; chmod 700 sub; sleep 0.1; rmdir sub", p.dir);
	seen_until(&w, "REMOVE d/sub;");
	assert_int_equal(w.entries, 2);
	seen_deinit(&w);
	place_stop(&p);
}

/* The directory itself is ".". Afterwards there is nothing more to say, as with envd. */
static void test_root(void **state)
{
	struct place p = {0};
	struct seen w;
	char path[64];

	place_start(&p);
	snprintf(path, sizeof(path), "%s/root", p.dir);
	box_sh("mkdir %s", path);
	watch_start(&p, path, ",\"recursive\":true", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("chmod 711 %s", path);
	seen_until(&w, "CHMOD .;");
	box_sh("mv %s %s2; mkdir %s2/still", path, path, path);
	seen_until(&w, "RENAME .;CREATE still;");
	box_sh("rm -r %s2", path);
	seen_until(&w, "REMOVE still;");
	seen_until(&w, "REMOVE .;");
	seen_deinit(&w);
	place_stop(&p);
}

static void test_keepalive_and_deadline(void **state)
{
	const struct channel_header headers[] = {{"keepalive-ping-interval", "1"},
						 {"connect-timeout-ms", "2500"}};
	struct place p = {0};
	struct seen w;

	place_start(&p);
	watch_start(&p, p.dir, "", headers, 2, &w);
	while (seen_step(&w, box_soon()) > 0)
		;
	assert_true(w.over);
	assert_int_equal(w.keepalives, 2);
	assert_string_equal(w.code, "deadline_exceeded");
	seen_deinit(&w);
	place_stop(&p);
}

static unsigned count_helpers(const struct place *p)
{
	char command[64];
	unsigned n = 0;
	FILE *f;

	snprintf(command, sizeof(command), "pgrep -c -P %d -x dorm-helper", p->b.pid);
	f = popen(command, "re");
	assert_non_null(f);
	if (fscanf(f, "%u", &n) != 1)
		n = 0;
	pclose(f);
	return n;
}

static void expect_helpers(const struct place *p, unsigned want)
{
	for (int i = 0; count_helpers(p) != want; i++) {
		if (i == 250)
			fail_msg("%u helpers instead of %u", count_helpers(p), want);
		clock_sleep_ms(20);
	}
}

/* Two events for each of @n names that are as long as they can be. */
static void churn(const struct place *p, int n)
{
	char path[512];

	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%0250d", p->dir, i);
		assert_int_equal(mkdir(path, 0700), 0);
		assert_int_equal(rmdir(path), 0);
	}
}

/* A client that does not read: memory stays bounded, and it is told that events were lost. */
static void test_slow_client(void **state)
{
	struct place p = {0};
	struct seen w;

	place_start(&p);
	watch_start(&p, p.dir, "", NULL, 0, &w);
	seen_until_started(&w);
	churn(&p, 12000);
	while (seen_step(&w, box_soon()) > 0)
		;
	assert_true(w.over);
	assert_string_equal(w.code, "resource_exhausted");
	assert_non_null(strstr(w.message, "events are lost"));
	seen_deinit(&w);
	expect_helpers(&p, 0);
	assert_int_equal(box_call(&p.b, "GET", "/health", NULL, NULL), 204);
	place_stop(&p);
}

static void test_client_goes_away(void **state)
{
	struct place p = {0};
	struct seen w[20];

	place_start(&p);
	for (int i = 0; i < 20; i++) {
		watch_start(&p, p.dir, "", NULL, 0, &w[i]);
		seen_until_started(&w[i]);
	}
	assert_int_equal(count_helpers(&p), 20);
	for (int i = 0; i < 19; i++)
		seen_deinit(&w[i]);
	expect_helpers(&p, 1);
	box_sh("mkdir %s/x", p.dir);
	seen_until(&w[19], "CREATE x;");
	seen_deinit(&w[19]);
	expect_helpers(&p, 0);
	place_stop(&p);
}

/* A helper that dies (out of memory) ends its stream, and nothing else. */
static void test_helper_dies(void **state)
{
	struct place p = {0};
	struct seen w;

	place_start(&p);
	watch_start(&p, p.dir, "", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("pkill -KILL -P %d -x dorm-helper", p.b.pid);
	while (seen_step(&w, box_soon()) > 0)
		;
	assert_string_equal(w.code, "resource_exhausted");
	seen_deinit(&w);
	place_stop(&p);
}

/* Prepare ends a stream at once; a polled watcher is still there afterwards. */
static char *watcher_create(struct place *p, const char *options);
static void watcher_expect(struct place *p, const char *id, const char *want);

static void test_prepare(void **state)
{
	_cleanup_free_ char *id = NULL;
	struct place p = {0};
	struct seen w;

	place_start(&p);
	id = watcher_create(&p, "");
	watch_start(&p, p.dir, "", NULL, 0, &w);
	seen_until_started(&w);
	assert_int_equal(box_call(&p.b, "POST", "/prepare", NULL, NULL), 200);
	assert_int_equal(seen_step(&w, deadline_after_ms(1000)), -ECONNRESET);
	seen_deinit(&w);
	box_sh("mkdir %s/meanwhile", p.dir);
	box_reconnect(&p.b);
	box_init(&p.b, 200);
	watcher_expect(&p, id, "CREATE meanwhile;");
	watch_start(&p, p.dir, "", NULL, 0, &w);
	seen_until_started(&w);
	box_sh("mkdir %s/after", p.dir);
	seen_until(&w, "CREATE after;");
	seen_deinit(&w);
	place_stop(&p);
}

/* --- polled watchers ----------------------------------------------------------------------------
 */

/* One call. Return: the status; the answer in @ret (json_decref()) */
static int call(struct place *p, const char *method, json_t *message, json_t **ret)
{
	_cleanup_free_ char *text = json_dumps(message, 0);
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

static char *watcher_create(struct place *p, const char *options)
{
	_cleanup_free_ char *text = str_printf("{\"path\":\"%s\"%s}", p->dir, options);
	json_t *o;
	char *id;

	assert_int_equal(call(p, "CreateWatcher", json_loads(text, 0, NULL), &o), 200);
	id = strdup(json_string_value(json_object_get(o, "watcherId")));
	json_decref(o);
	return id;
}

/* All that it reports from now on until it has reported @want. */
static void watcher_expect(struct place *p, const char *id, const char *want)
{
	_cleanup_buf_ struct buf text = {0};
	uint64_t deadline_ns = box_soon();
	json_t *o, *e;
	size_t i;

	while (!text.data || strcmp(text.data, want)) {
		if (deadline_passed(deadline_ns))
			fail_msg("'%s' instead of '%s'", text.data, want);
		assert_int_equal(
			call(p, "GetWatcherEvents", json_pack("{s:s}", "watcherId", id), &o), 200);
		json_array_foreach (json_object_get(o, "events"), i, e)
			assert_int_equal(
				buf_printf(&text, "%s %s;",
					   json_string_value(json_object_get(e, "type")) + 11,
					   json_string_value(json_object_get(e, "name"))),
				0);
		json_decref(o);
		clock_sleep_ms(5);
	}
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

static void test_polled(void **state)
{
	_cleanup_free_ char *id = NULL, *other = NULL;
	struct place p = {0};
	json_t *o;

	place_start(&p);
	id = watcher_create(&p, ",\"recursive\":true");
	other = watcher_create(&p, ",\"includeEntry\":true");
	assert_string_not_equal(id, other);
	box_sh("cd %s; mkdir -p a/b", p.dir);
	watcher_expect(&p, id, "CREATE a;CREATE a/b;");
	watcher_expect(&p, other, "CREATE a;");
	assert_int_equal(call(&p, "GetWatcherEvents", json_pack("{s:s}", "watcherId", id), &o),
			 200);
	assert_int_equal(json_array_size(json_object_get(o, "events")), 0); /* drained */
	json_decref(o);
	assert_int_equal(call(&p, "RemoveWatcher", json_pack("{s:s}", "watcherId", id), &o), 200);
	json_decref(o);
	expect_fail(&p, "GetWatcherEvents", json_pack("{s:s}", "watcherId", id), 404, "not_found",
		    id);
	expect_fail(&p, "RemoveWatcher", json_pack("{s:s}", "watcherId", id), 404, "not_found", id);
	expect_fail(&p, "GetWatcherEvents", json_object(), 404, "not_found", "watcher with id");
	expect_fail(&p, "CreateWatcher", json_pack("{s:s}", "path", "/none"), 404, "not_found",
		    "/none not found");
	expect_fail(&p, "CreateWatcher", json_pack("{s:s}", "path", "/dev/null"), 400,
		    "invalid_argument", "not a directory");
	expect_helpers(&p, 1);
	place_stop(&p);
}

static void test_polled_at_once(void **state)
{
	_cleanup_free_ char *id = NULL, *request = NULL;
	struct place p = {0};
	struct channel_stream *s[16];
	int status;

	place_start(&p);
	id = watcher_create(&p, "");
	request = str_printf("{\"watcherId\":\"%s\"}", id);
	for (int i = 0; i < 16; i++) {
		assert_int_equal(channel_stream_open(p.b.ch, "POST",
						     "/filesystem.Filesystem/GetWatcherEvents",
						     NULL, 0, false, &s[i]),
				 0);
		assert_int_equal(
			channel_stream_write(s[i], request, strlen(request), true, box_soon()), 0);
	}
	for (int i = 0; i < 16; i += 3)
		channel_stream_close(s[i]);
	for (int i = 0; i < 16; i++) {
		if (i % 3 == 0)
			continue;
		assert_int_equal(channel_stream_head(s[i], box_soon(), &status), 0);
		assert_int_equal(status, 200);
		channel_stream_close(s[i]);
	}
	place_stop(&p);
}

static void test_polled_limits(void **state)
{
	struct place p = {0};
	json_t *o;
	char *ids[64];

	place_start(&p);
	for (int i = 0; i < 64; i++)
		ids[i] = watcher_create(&p, "");
	expect_fail(&p, "CreateWatcher", json_pack("{s:s}", "path", p.dir), 429,
		    "resource_exhausted", "remove one first");
	for (int i = 0; i < 64; i++) {
		if (i) {
			assert_int_equal(call(&p, "RemoveWatcher",
					      json_pack("{s:s}", "watcherId", ids[i]), &o),
					 200);
			json_decref(o);
			free(ids[i]);
		}
	}
	/* nobody asks: its queue is bounded, and it says so whenever somebody does */
	churn(&p, 20000);
	clock_sleep_ms(300);
	for (int i = 0; i < 2; i++)
		expect_fail(&p, "GetWatcherEvents", json_pack("{s:s}", "watcherId", ids[0]), 429,
			    "resource_exhausted", "events are lost");
	free(ids[0]);
	place_stop(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_network),
		cmocka_unit_test(test_recursive),
		cmocka_unit_test(test_recursive_moves),
		cmocka_unit_test(test_race),
		cmocka_unit_test(test_entries),
		cmocka_unit_test(test_root),
		cmocka_unit_test(test_keepalive_and_deadline),
		cmocka_unit_test(test_slow_client),
		cmocka_unit_test(test_client_goes_away),
		cmocka_unit_test(test_helper_dies),
		cmocka_unit_test(test_prepare),
		cmocka_unit_test(test_polled),
		cmocka_unit_test(test_polled_at_once),
		cmocka_unit_test(test_polled_limits),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
