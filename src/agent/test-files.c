/* SPDX-License-Identifier: Apache-2.0 */
/* /files with a whole agent: every file that is named lies in a directory of the test. */
#include "agent/test-box.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <jansson.h>
#include <zlib.h>

#include "agent/worker.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"

#define NOBODY 65534
#define OCTETS "application/octet-stream"

struct answer {
	int status;
	struct buf body;
	char length[32], etag[96], modified[40], encoding[16], range[64], vary[32], disposition[16];
};

/* --- helpers ------------------------------------------------------------------------------------
 */

static size_t entries(const char *dir)
{
	DIR *d = opendir(dir);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void put(const struct place *p, const char *name, const void *data, size_t len)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, data, len), 0);
	close(fd);
}

static void expect_file(const struct place *p, const char *name, const void *data, size_t len)
{
	char path[512], *got;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	if (file_read(AT_FDCWD, path, 64 << 20, &got, &n) < 0)
		fail_msg("%s is not there", path);
	assert_int_equal(n, len);
	assert_memory_equal(got, data, len);
	free(got);
}

static char *pattern(size_t len)
{
	char *data = malloc(len + 1);
	uint32_t x = 1;

	assert_non_null(data);
	for (size_t i = 0; i < len; i++) {
		x = x * 1664525 + 1013904223;
		data[i] = (char)(x >> 24);
	}
	return data;
}

static void copy_header(struct channel_stream *s, const char *name, char *ret, size_t size)
{
	const char *value = channel_stream_header(s, name);

	str_copy(ret, size, value ? value : "");
}

static void finish(struct channel_stream *s, struct answer *a)
{
	char chunk[16384];
	ssize_t n;

	*a = (struct answer){0};
	assert_int_equal(channel_stream_head(s, box_soon(), &a->status), 0);
	copy_header(s, "content-length", a->length, sizeof(a->length));
	copy_header(s, "etag", a->etag, sizeof(a->etag));
	copy_header(s, "last-modified", a->modified, sizeof(a->modified));
	copy_header(s, "content-encoding", a->encoding, sizeof(a->encoding));
	copy_header(s, "content-range", a->range, sizeof(a->range));
	copy_header(s, "vary", a->vary, sizeof(a->vary));
	copy_header(s, "content-disposition", a->disposition, sizeof(a->disposition));
	assert_int_equal(buf_append(&a->body, "", 0), 0);
	while ((n = channel_stream_read(s, chunk, sizeof(chunk), box_soon())) > 0)
		assert_int_equal(buf_append(&a->body, chunk, (size_t)n), 0);
	assert_int_equal(n, 0);
	channel_stream_close(s);
}

/* @headers: name, value, ..., NULL */
static struct channel_stream *open_stream(struct place *p, const char *method, const char *path,
					  const char *const *headers, bool end)
{
	struct channel_header h[16];
	struct channel_stream *s;
	size_t n = 0;

	for (; headers && headers[2 * n]; n++)
		h[n] = (struct channel_header){headers[2 * n], headers[2 * n + 1]};
	assert_int_equal(channel_stream_open(p->b.ch, method, path, h, n, end, &s), 0);
	return s;
}

#define HEADERS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct answer get(struct place *p, const char *query, const char *const *headers)
{
	struct answer a;
	char path[1024];

	snprintf(path, sizeof(path), "/files?%s", query);
	finish(open_stream(p, "GET", path, headers, true), &a);
	return a;
}

static struct answer get_file(struct place *p, const char *name, const char *const *headers)
{
	char query[512];

	snprintf(query, sizeof(query), "path=%s/%s", p->dir, name);
	return get(p, query, headers);
}

/* The body in two pieces, cut at @cut. */
static struct answer post_cut(struct place *p, const char *query, const char *const *headers,
			      const void *body, size_t len, size_t cut)
{
	struct channel_stream *s;
	struct answer a;
	char path[1024];

	snprintf(path, sizeof(path), "/files?%s", query);
	s = open_stream(p, "POST", path, headers, false);
	if (cut)
		assert_int_equal(channel_stream_write(s, body, cut, false, box_soon()), 0);
	assert_int_equal(
		channel_stream_write(s, (const char *)body + cut, len - cut, true, box_soon()), 0);
	finish(s, &a);
	return a;
}

static struct answer post(struct place *p, const char *name, const char *more,
			  const char *const *headers, const void *body, size_t len)
{
	char query[512];

	snprintf(query, sizeof(query), "path=%s/%s%s", p->dir, name, more);
	return post_cut(p, query, headers ? headers : HEADERS("content-type", OCTETS), body, len,
			0);
}

static void expect(struct answer a, int status, const char *text)
{
	if (a.status != status || !strstr(a.body.data, text))
		fail_msg("%d '%s', not %d '%s'", a.status, a.body.data, status, text);
	if (status >= 400 && status != 416) { /* as the SDK wants errors */
		json_t *o = json_loads(a.body.data, 0, NULL);

		assert_int_equal(json_integer_value(json_object_get(o, "code")), status);
		assert_non_null(json_string_value(json_object_get(o, "message")));
		json_decref(o);
	}
	buf_deinit(&a.body);
}

static void expect_bytes(struct answer a, int status, const void *data, size_t len)
{
	if (a.status != status || a.body.len != len)
		fail_msg("%d with %zu bytes, not %d with %zu", a.status, a.body.len, status, len);
	assert_memory_equal(a.body.data, data, len);
	buf_deinit(&a.body);
}

/* --- reading ------------------------------------------------------------------------------------
 */

static void test_get(void **state)
{
	struct place p;
	struct answer a;

	place_start(&p);
	put(&p, "f", "hello", 5);
	put(&p, "empty", "", 0);
	put(&p, "a\xff b", "bytes", 5);
	a = get_file(&p, "f", NULL);
	assert_string_equal(a.length, "5");
	assert_string_equal(a.vary, "Accept-Encoding");
	assert_string_equal(a.disposition, "inline");
	assert_true(a.etag[0] == '"' && a.modified[0]);
	expect_bytes(a, 200, "hello", 5);
	a = get_file(&p, "empty", HEADERS("range", "bytes=0-"));
	assert_string_equal(a.length, "0");
	expect_bytes(a, 200, "", 0);
	expect_bytes(get_file(&p, "a%ff%20b", NULL), 200, "bytes", 5);
	expect_bytes(get_file(&p, "nothing/../x/./../f", NULL), 200, "hello", 5);
	expect(get_file(&p, "none%ff", NULL), 404, "none\xef\xbf\xbd' does not exist");
	expect(get_file(&p, "f/below", NULL), 400, "not a directory");
	expect(get_file(&p, "", NULL), 400, "is a directory");
	expect(get(&p, "path=%2e%2e%2f%2e%2e%2f%2e%2e%2f..%2fproc", NULL), 400,
	       "'/proc' is a directory");
	expect(get(&p, "path=~/no-such&username=root", NULL), 404, "'/root/no-such'");
	expect(get(&p, "path=no-such&username=root", NULL), 404, "'/root/no-such'");
	expect(get(&p, "username=root", NULL), 400, "'/root' is a directory");
	expect(get(&p, "path=/x&username=no-such", NULL), 401, "no user 'no-such'");
	place_stop(&p);
}

static void test_long_names(void **state)
{
	char name[300], query[9000];
	struct channel_stream *s;
	struct answer a;
	struct place p;

	place_start(&p);
	memset(name, 'n', sizeof(name));
	name[256] = 0;
	expect(get_file(&p, name, NULL), 400, "too long");
	expect(post(&p, name, "", NULL, "x", 1), 400, "too long");
	name[255] = 0;
	expect(post(&p, name, "", NULL, "x", 1), 200, name);
	expect_bytes(get_file(&p, name, NULL), 200, "x", 1);
	memset(query, 'd', sizeof(query));
	memcpy(query, "/files?path=/", 13);
	for (size_t i = 100; i < sizeof(query); i += 100)
		query[i] = '/';
	query[sizeof(query) - 1] = 0;
	s = open_stream(&p, "GET", query, NULL, true);
	finish(s, &a);
	expect(a, 400, "too long");
	place_stop(&p);
}

/* None of these may block, nor touch what is behind the name. */
static void test_special(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct place p;
	char path[128];

	place_start(&p);
	snprintf(path, sizeof(path), "%s/fifo", p.dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", p.dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	expect(get_file(&p, "fifo", NULL), 400, "is a fifo");
	expect(post(&p, "fifo", "", NULL, "x", 1), 400, "is a fifo");
	expect(get_file(&p, "socket", NULL), 400, "is a socket");
	expect(post(&p, "socket", "", NULL, "x", 1), 400, "is a socket");
	expect(get(&p, "path=/dev/zero", NULL), 400, "is a device");
	expect(post_cut(&p, "path=/dev/null", HEADERS("content-type", OCTETS), "x", 1, 0), 400,
	       "is a device");
	expect(post(&p, "", "", NULL, "x", 1), 400, "is a directory");
	assert_int_equal(entries(p.dir), 2);
	close(fd);
	place_stop(&p);
}

/* Sizes that stat(2) does not tell */
static void test_procfs(void **state)
{
	struct place p;
	struct answer a;
	char *want;
	size_t len;

	place_start(&p);
	assert_int_equal(file_read(AT_FDCWD, "/proc/version", 4096, &want, &len), 0);
	a = get(&p, "path=/proc/version", HEADERS("range", "bytes=0-1"));
	assert_string_equal(a.etag, "");
	assert_int_equal(atoi(a.length), len);
	expect_bytes(a, 200, want, len);
	free(want);
	if (file_read(AT_FDCWD, "/sys/kernel/mm/transparent_hugepage/enabled", 4096, &want, &len) ==
	    0) {
		a = get(&p, "path=/sys/kernel/mm/transparent_hugepage/enabled", NULL);
		assert_int_equal(atoi(a.length), len); /* stat says 4096 */
		expect_bytes(a, 200, want, len);
		free(want);
	}
	a = get(&p, "path=/proc/kallsyms", HEADERS("accept-encoding", "gzip"));
	assert_string_equal(a.length, ""); /* megabytes, of which nobody knows how many */
	assert_int_equal(a.status, 200);
	assert_true(a.body.len > 100000);
	buf_deinit(&a.body);
	place_stop(&p);
}

static void test_conditional(void **state)
{
	struct place p;
	struct answer a, b;
	char other[128];

	place_start(&p);
	put(&p, "f", "0123456789", 10);
	a = get_file(&p, "f", NULL);
	b = get_file(&p, "f", HEADERS("if-none-match", a.etag));
	assert_string_equal(b.etag, a.etag);
	assert_string_equal(b.vary, "Accept-Encoding");
	expect_bytes(b, 304, "", 0);
	snprintf(other, sizeof(other), "\"x\", W/%s", a.etag);
	expect_bytes(get_file(&p, "f", HEADERS("if-none-match", other)), 304, "", 0);
	expect_bytes(get_file(&p, "f", HEADERS("if-none-match", "\"x\"")), 200, "0123456789", 10);
	expect_bytes(get_file(&p, "f", HEADERS("if-modified-since", a.modified)), 304, "", 0);
	expect_bytes(
		get_file(&p, "f", HEADERS("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")),
		200, "0123456789", 10);
	/* If-None-Match decides alone */
	expect_bytes(get_file(&p, "f",
			      HEADERS("if-none-match", "\"x\"", "if-modified-since", a.modified)),
		     200, "0123456789", 10);
	expect_bytes(get_file(&p, "f", HEADERS("range", "bytes=2-3", "if-range", a.etag)), 206,
		     "23", 2);
	expect_bytes(get_file(&p, "f", HEADERS("range", "bytes=2-3", "if-range", a.modified)), 206,
		     "23", 2);
	expect_bytes(get_file(&p, "f", HEADERS("range", "bytes=2-3", "if-range", "\"x\"")), 200,
		     "0123456789", 10);
	put(&p, "f", "0123456789a", 11);
	expect_bytes(get_file(&p, "f", HEADERS("if-none-match", a.etag)), 200, "0123456789a", 11);
	buf_deinit(&a.body);
	place_stop(&p);
}

static void test_ranges(void **state)
{
	static const struct {
		const char *range;
		int status;
		const char *body, *content_range;
	} table[] = {
		{"bytes=0-0", 206, "0", "bytes 0-0/10"},
		{"bytes=0-", 206, "0123456789", "bytes 0-9/10"},
		{"bytes=3-5", 206, "345", "bytes 3-5/10"},
		{"bytes=8-99999999999999999999999", 206, "89", "bytes 8-9/10"},
		{"bytes=9-9", 206, "9", "bytes 9-9/10"},
		{"bytes=-3", 206, "789", "bytes 7-9/10"},
		{"bytes=-30", 206, "0123456789", "bytes 0-9/10"},
		{"BYTES=1-2", 206, "12", "bytes 1-2/10"},
		{"bytes=10-", 416, "", "bytes */10"},
		{"bytes=99999999999999999999999-", 416, "", "bytes */10"},
		{"bytes=-0", 416, "", "bytes */10"},
		{"bytes=5-3", 200, "0123456789", ""},
		{"bytes=1-2,4-5", 200, "0123456789", ""},
		{"bytes=", 200, "0123456789", ""},
		{"bytes=-", 200, "0123456789", ""},
		{"bytes=a-b", 200, "0123456789", ""},
		{"bytes=1 -2", 200, "0123456789", ""},
		{"lines=1-2", 200, "0123456789", ""},
	};
	char *big = pattern(300000);
	struct place p;

	place_start(&p);
	put(&p, "f", "0123456789", 10);
	put(&p, "big", big, 300000);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct answer a = get_file(&p, "f", HEADERS("range", table[i].range));

		assert_string_equal(a.range, table[i].content_range);
		assert_int_equal(strtoul(a.length, NULL, 10), strlen(table[i].body));
		expect_bytes(a, table[i].status, table[i].body, strlen(table[i].body));
	}
	expect_bytes(get_file(&p, "big", HEADERS("range", "bytes=65530-265535")), 206, big + 65530,
		     200006);
	expect_bytes(get_file(&p, "big", NULL), 200, big, 300000);
	free(big);
	place_stop(&p);
}

static void expect_gunzip(struct answer a, const char *data, size_t len)
{
	char *out = malloc(len + 1);
	z_stream z = {.next_in = (Bytef *)a.body.data,
		      .avail_in = (uInt)a.body.len,
		      .next_out = (Bytef *)out,
		      .avail_out = (uInt)len + 1};

	assert_int_equal(a.status, 200);
	assert_string_equal(a.encoding, "gzip");
	assert_string_equal(a.length, "");
	assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
	assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
	assert_int_equal(z.total_out, len);
	assert_int_equal(z.avail_in, 0);
	assert_memory_equal(out, data, len);
	inflateEnd(&z);
	free(out);
	buf_deinit(&a.body);
}

static void test_get_gzip(void **state)
{
	char *text = malloc(400001), *noise = pattern(5000);
	struct place p;
	struct answer a;

	place_start(&p);
	for (size_t i = 0; i < 400000; i += 10)
		sprintf(text + i, "%09zu\n", i);
	put(&p, "text", text, 400000);
	put(&p, "small", text, 3000);
	put(&p, "tiny", text, 100);
	put(&p, "noise", noise, 5000);
	expect_gunzip(get_file(&p, "text", HEADERS("accept-encoding", "gzip, deflate")), text,
		      400000);
	a = get_file(&p, "small", HEADERS("accept-encoding", "br, gzip;q=0.5"));
	assert_true(!strncmp(a.etag, "W/\"", 3) && a.body.len < 1500);
	expect_gunzip(a, text, 3000);
	expect_bytes(get_file(&p, "small", HEADERS("accept-encoding", "gzip;q=0, deflate")), 200,
		     text, 3000);
	expect_bytes(
		get_file(&p, "small", HEADERS("accept-encoding", "gzip", "range", "bytes=0-9")),
		206, text, 10);
	expect_bytes(get_file(&p, "tiny", HEADERS("accept-encoding", "gzip")), 200, text, 100);
	expect_bytes(get_file(&p, "noise", HEADERS("accept-encoding", "gzip")), 200, noise, 5000);
	expect_gunzip(get_file(&p, "tiny", HEADERS("accept-encoding", "gzip, identity;q=0")), text,
		      100);
	expect(get_file(&p, "tiny", HEADERS("accept-encoding", "br, *;q=0")), 406, "identity");
	free(text);
	free(noise);
	place_stop(&p);
}

/* --- writing ------------------------------------------------------------------------------------
 */

static void expect_owner(const struct place *p, const char *name, uid_t uid, mode_t mode)
{
	char path[512];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, uid);
	assert_int_equal(st.st_mode & 07777, mode);
}

static void test_post(void **state)
{
	uid_t owner = geteuid() == 0 ? NOBODY : geteuid();
	char want[256], *big = pattern(3000000);
	struct place p;

	place_start(&p);
	umask(022);
	snprintf(want, sizeof(want), "[{\"path\":\"%s/x/y/f\",\"name\":\"f\",\"type\":\"file\"}]",
		 p.dir);
	expect(post(&p, "x/y/f", geteuid() ? "" : "&username=nobody", NULL, "hello", 5), 200, want);
	expect_file(&p, "x/y/f", "hello", 5);
	expect_owner(&p, "x", owner, 0755);
	expect_owner(&p, "x/y", owner, 0755);
	expect_owner(&p, "x/y/f", owner, 0644);
	expect(post(&p, "big", "", NULL, big, 3000000), 200, "big");
	expect_file(&p, "big", big, 3000000);
	expect(post(&p, "empty", "", NULL, "", 0), 200, "empty");
	expect_file(&p, "empty", "", 0);
	expect(post(&p, "script", "&mode=0750", NULL, "#!", 2), 200, "script");
	expect_owner(&p, "script", geteuid(), 0750);
	expect(post(&p, "script", "", NULL, "#!x", 3), 200, "script"); /* keeps its mode */
	expect_owner(&p, "script", geteuid(), 0750);
	expect(post(&p, "bad", "&mode=9", NULL, "", 0), 400, "octal");
	expect(post(&p, "a%ffb", "", NULL, "x", 1), 200,
	       "a\xef\xbf\xbd"
	       "b");
	expect_file(&p,
		    "a\xff"
		    "b",
		    "x", 1);
	expect(post(&p, "big/below", "", NULL, "x", 1), 400, "not a directory");
	expect(post(&p, "f", "", HEADERS("content-type", "text/plain"), "x", 1), 400, "text/plain");
	expect(post(&p, "f", "", HEADERS("content-type", OCTETS, "content-encoding", "br"), "x", 1),
	       400, "'br'");
	expect(post_cut(&p, "", HEADERS("content-type", OCTETS), "x", 1, 0), 400, "'path'");
	assert_int_equal(entries(p.dir), 5); /* x, big, empty, script, a?b */
	free(big);
	place_stop(&p);
}

static void test_post_links(void **state)
{
	char name[128], other[128];
	struct stat st;
	struct place p;

	place_start(&p);
	put(&p, "file", "old", 3);
	snprintf(name, sizeof(name), "%s/link", p.dir);
	assert_int_equal(symlink("file", name), 0);
	expect(post(&p, "link", "", NULL, "new", 3), 200, "/link\"");
	expect_file(&p, "file", "new", 3);
	assert_int_equal(lstat(name, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	snprintf(name, sizeof(name), "%s/dangling", p.dir);
	snprintf(other, sizeof(other), "%s/made", p.dir);
	assert_int_equal(symlink(other, name), 0);
	expect(post(&p, "dangling", "", NULL, "x", 1), 200, "dangling");
	expect_file(&p, "made", "x", 1);
	snprintf(name, sizeof(name), "%s/loop", p.dir);
	assert_int_equal(symlink("loop", name), 0);
	expect(post(&p, "loop", "", NULL, "x", 1), 400, "symbolic links");
	/* the other name of a file keeps what it had */
	snprintf(name, sizeof(name), "%s/file", p.dir);
	snprintf(other, sizeof(other), "%s/hard", p.dir);
	assert_int_equal(link(name, other), 0);
	expect(post(&p, "file", "", NULL, "newer", 5), 200, "file");
	expect_file(&p, "file", "newer", 5);
	expect_file(&p, "hard", "new", 3);
	assert_int_equal(entries(p.dir), 6);
	place_stop(&p);
}

static bool own_mounts(void)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* A file that is a mount point can only be written where it is. */
static void test_post_mount_point(void **state)
{
	char a[128], b[128];
	struct place p;

	if (!own_mounts()) {
		print_message("SKIPPED: no mounts of our own: %s\n", strerror(errno));
		skip();
	}
	place_start(&p);
	put(&p, "a", "long enough", 11);
	put(&p, "b", "", 0);
	snprintf(a, sizeof(a), "%s/a", p.dir);
	snprintf(b, sizeof(b), "%s/b", p.dir);
	assert_int_equal(mount(a, b, NULL, MS_BIND, NULL), 0);
	expect(post(&p, "b", "", NULL, "new", 3), 200, "/b\"");
	expect_file(&p, "a", "new", 3);
	assert_int_equal(umount(b), 0);
	assert_int_equal(entries(p.dir), 2);
	place_stop(&p);
}

/* --- multipart ----------------------------------------------------------------------------------
 */

#define FORM "multipart/form-data; boundary=\"xyz\""
#define B    "--xyz\r\n"
#define LAST "--xyz--\r\n"
#define PART(name, filename, data)                                                                 \
	B "Content-Disposition: form-data; name=\"" name "\"" filename                             \
	  "\r\nContent-Type: application/octet-stream\r\n\r\n" data "\r\n"

static struct answer form(struct place *p, const char *query, const char *text, size_t cut)
{
	return post_cut(p, query, HEADERS("content-type", FORM), text, strlen(text), cut);
}

static void test_multipart(void **state)
{
	char text[1024], want[512];
	struct place p;

	place_start(&p);
	snprintf(text, sizeof(text),
		 "ignored\r\n" PART("file", "; filename=\"%s/a/1\"",
				    "one") PART("other", "; filename=\"%s/a/no\"", "no")
			 PART("file", "; filename=\"%s/2\"", "t\r\n--xywo\r\n")
				 PART("file", "; filename*=UTF-8''%s/%%33", "") LAST "ignored, too",
		 p.dir, p.dir, p.dir, p.dir);
	snprintf(want, sizeof(want),
		 "[{\"path\":\"%s/a/1\",\"name\":\"1\",\"type\":\"file\"},"
		 "{\"path\":\"%s/2\",\"name\":\"2\",\"type\":\"file\"},"
		 "{\"path\":\"%s/3\",\"name\":\"3\",\"type\":\"file\"}]",
		 p.dir, p.dir, p.dir);
	for (size_t cut = 0; cut < strlen(text); cut++) {
		expect(form(&p, "", text, cut), 200, want);
		expect_file(&p, "a/1", "one", 3);
		expect_file(&p, "2", "t\r\n--xywo\r\n", 11);
		expect_file(&p, "3", "", 0);
		assert_int_equal(entries(p.dir), 3);
		file_remove_tree(AT_FDCWD, p.dir);
		assert_int_equal(mkdir(p.dir, 0755), 0);
	}
	place_stop(&p);
}

static void test_multipart_paths(void **state)
{
	char query[128], text[512];
	struct place p;

	place_start(&p);
	snprintf(query, sizeof(query), "path=%s/f", p.dir);
	expect(form(&p, query, PART("file", "", "1") LAST, 0), 200, "/f\"");
	expect_file(&p, "f", "1", 1);
	/* the path wins over the name */
	expect(form(&p, query, PART("file", "; filename=\"/nowhere/x\"", "2") LAST, 0), 200,
	       "/f\"");
	expect_file(&p, "f", "2", 1);
	expect(form(&p, "", PART("file", "", "1") LAST, 0), 400, "no filename");
	expect(form(&p, "", PART("other", "; filename=\"x\"", "1") LAST, 0), 400,
	       "no part named 'file'");
	expect(form(&p, query, PART("file", "", "3") PART("file", "", "4") LAST, 0), 400, "twice");
	expect_file(&p, "f", "2", 1);
	/* the second file is refused: the first is not written either */
	snprintf(text, sizeof(text),
		 PART("file", "; filename=\"%s/new/g\"", "1") PART("file", "; filename=\"%s\"", "2")
			 LAST,
		 p.dir, p.dir);
	expect(form(&p, "", text, 0), 400, "is a directory");
	expect(form(&p, query, PART("file", "", "cut"), 0), 400, "last boundary");
	expect(form(&p, query, "nothing at all", 0), 400, "no boundary");
	expect(form(&p, query, B "Content-Disposition: form-data; name=\"file\"\r\n", 0), 400,
	       "last boundary");
	expect(post_cut(&p, query, HEADERS("content-type", "multipart/form-data"), "", 0, 0), 400,
	       "no boundary");
	expect_file(&p, "f", "2", 1);
	assert_int_equal(entries(p.dir), 1);
	place_stop(&p);
}

/* --- gzip ---------------------------------------------------------------------------------------
 */

static size_t compress_to(const char *data, size_t len, char *out, size_t size)
{
	z_stream z = {.next_in = (Bytef *)data,
		      .avail_in = (uInt)len,
		      .next_out = (Bytef *)out,
		      .avail_out = (uInt)size};

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static void test_post_gzip(void **state)
{
	static const char *const headers[] = {"content-type", OCTETS, "content-encoding", "gzip",
					      NULL};
	static const char part[] = PART("file", "", "packed") LAST;
	size_t len = 2000000, n;
	char *data = pattern(len), *packed = malloc(2 * len);
	struct place p;
	char query[128];

	place_start(&p);
	memset(data, 'a', len / 2);
	n = compress_to(data, len, packed, 2 * len);
	expect(post(&p, "f", "", headers, packed, n), 200, "f");
	expect_file(&p, "f", data, len);
	expect(post(&p, "f", "", headers, packed, n - 5), 400, "cut");
	expect_file(&p, "f", data, len);
	packed[n / 2] ^= 1;
	expect(post(&p, "g", "", headers, packed, n), 400, "damaged");
	expect(post(&p, "g", "", headers, "plain", 5), 400, "not gzip");
	expect(post(&p, "g", "", headers, "", 0), 400, "cut");
	/* two members, cut everywhere */
	n = compress_to("one ", 4, packed, 100);
	n += compress_to("two", 3, packed + n, 100);
	snprintf(query, sizeof(query), "path=%s/m", p.dir);
	for (size_t cut = 0; cut < n; cut++) {
		expect(post_cut(&p, query, headers, packed, n, cut), 200, "m");
		expect_file(&p, "m", "one two", 7);
	}
	n = compress_to(part, sizeof(part) - 1, packed, 1000);
	expect(post_cut(&p, query, HEADERS("content-type", FORM, "content-encoding", "gzip"),
			packed, n, 0),
	       200, "m");
	expect_file(&p, "m", "packed", 6);
	assert_int_equal(entries(p.dir), 2);
	free(data);
	free(packed);
	place_stop(&p);
}

/* --- failures -----------------------------------------------------------------------------------
 */

static void test_full_disk(void **state)
{
	char *data = pattern(4000000), query[128];
	struct channel_stream *s;
	struct answer a;
	struct place p;

	if (!own_mounts()) {
		print_message("SKIPPED: no mounts of our own: %s\n", strerror(errno));
		skip();
	}
	place_start(&p);
	assert_int_equal(mount("none", p.dir, "tmpfs", 0, "size=1m"), 0);
	put(&p, "old", "old", 3);
	expect(post(&p, "new/f", "", NULL, data, 4000000), 507, "not enough disk space");
	expect(post(&p, "old", "", NULL, data, 4000000), 507, "not enough disk space");
	expect_file(&p, "old", "old", 3);
	assert_int_equal(entries(p.dir), 1);
	/* a client that goes on sending gets its answer, and can send all the rest */
	snprintf(query, sizeof(query), "/files?path=%s/new", p.dir);
	s = open_stream(&p, "POST", query, HEADERS("content-type", OCTETS), false);
	for (int i = 0; i < 4; i++)
		assert_int_equal(channel_stream_write(s, data, 4000000, i == 3, box_soon()), 0);
	finish(s, &a);
	expect(a, 507, "not enough disk space");
	assert_int_equal(entries(p.dir), 1);
	assert_int_equal(umount(p.dir), 0);
	free(data);
	place_stop(&p);
}

static void expect_entries(const char *dir, size_t n)
{
	uint64_t deadline_ns = box_soon();

	while (entries(dir) != n) {
		assert_false(deadline_passed(deadline_ns));
		clock_sleep_ms(5);
	}
}

/* Begins an upload to new/f, and waits until its temporary file is there */
static struct channel_stream *half_upload(struct place *p, const char *data, size_t len)
{
	struct channel_stream *s;
	char query[128], dir[64];

	snprintf(query, sizeof(query), "/files?path=%s/new/f", p->dir);
	s = open_stream(p, "POST", query, HEADERS("content-type", OCTETS), false);
	assert_int_equal(channel_stream_write(s, data, len, false, box_soon()), 0);
	snprintf(dir, sizeof(dir), "%s/new", p->dir);
	expect_entries(p->dir, 1);
	expect_entries(dir, 1);
	return s;
}

static void test_disappear(void **state)
{
	char *data = pattern(100000);
	struct channel_stream *s;
	struct place p;

	place_start(&p);
	s = half_upload(&p, data, 100000);
	channel_stream_close(s);
	expect_entries(p.dir, 0);
	s = half_upload(&p, data, 100000);
	channel_cut(p.b.ch);
	channel_stream_close(s);
	expect_entries(p.dir, 1);
	box_reconnect(&p.b); /* a new session ends the old one */
	expect_entries(p.dir, 0);
	free(data);
	place_stop(&p);
}

static void test_sleep(void **state)
{
	char *data = pattern(3000000), query[128], chunk[1000];
	struct channel_stream *up, *down;
	uint64_t begin_ns;
	struct place p;
	struct answer a;
	int status;

	place_start(&p);
	put(&p, "../test-files-sleep", data, 3000000);
	up = half_upload(&p, data, 100000);
	snprintf(query, sizeof(query), "/files?path=%s/../test-files-sleep", p.dir);
	down = open_stream(&p, "GET", query, NULL, true);
	assert_int_equal(channel_stream_head(down, box_soon(), &status), 0);
	assert_int_equal(channel_stream_read(down, chunk, sizeof(chunk), box_soon()), 1000);
	assert_int_equal(box_call(&p.b, "POST", "/prepare", NULL, NULL), 200);
	begin_ns = clock_now_ns();
	while (channel_stream_read(down, chunk, sizeof(chunk), box_soon()) > 0)
		;
	finish(up, &a);
	expect(a, 503, "about to sleep");
	assert_true(clock_now_ns() - begin_ns < NSEC_PER_SEC);
	assert_int_equal(channel_stream_read(down, chunk, sizeof(chunk), box_soon()), -ECONNRESET);
	channel_stream_close(down);
	expect_entries(p.dir, 0);
	box_reconnect(&p.b);
	box_init(&p.b, 200);
	expect(post(&p, "new/f", "", NULL, "x", 1), 200, "f");
	unlink("/tmp/test-files-sleep");
	free(data);
	place_stop(&p);
}

/* A mount whose server does not answer holds up those who use it, and nobody else. */
static void test_hanging_mount(void **state)
{
	char options[64], query[128];
	struct channel_stream *s[2];
	struct place p;
	struct answer a;
	int fd = -1;

	if (!own_mounts() || (fd = open("/dev/fuse", O_RDWR | O_CLOEXEC)) < 0) {
		print_message("SKIPPED: no mounts of our own, or no FUSE: %s\n", strerror(errno));
		skip();
	}
	place_start(&p);
	put(&p, "f", "x", 1);
	snprintf(query, sizeof(query), "%s/mnt", p.dir);
	assert_int_equal(mkdir(query, 0755), 0);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("none", query, "fuse", 0, options) < 0) {
		print_message("SKIPPED: mounting FUSE: %s\n", strerror(errno));
		close(fd);
		place_stop(&p);
		skip();
	}
	box_stop(&p.b); /* an agent that is in these mounts */
	box_start(&p.b);
	snprintf(query, sizeof(query), "/files?path=%s/mnt/x", p.dir);
	s[0] = open_stream(&p, "GET", query, NULL, true);
	s[1] = open_stream(&p, "POST", query, HEADERS("content-type", OCTETS), true);
	for (int i = 0; i < 20; i++) {
		uint64_t begin_ns = clock_now_ns();

		assert_int_equal(box_call(&p.b, "GET", "/health", NULL, NULL), 204);
		expect_bytes(get_file(&p, "f", NULL), 200, "x", 1);
		assert_true(clock_now_ns() - begin_ns < 2 * NSEC_PER_SEC);
	}
	close(fd); /* the server ends */
	for (int i = 0; i < 2; i++) {
		finish(s[i], &a);
		assert_true(a.status >= 500);
		buf_deinit(&a.body);
	}
	snprintf(query, sizeof(query), "%s/mnt", p.dir);
	assert_int_equal(umount2(query, MNT_DETACH), 0);
	place_stop(&p);
}

static void test_too_many(void **state)
{
	struct channel_stream *s[WORKERS_MAX];
	char query[128];
	struct place p;
	struct answer a;

	place_start(&p);
	for (unsigned i = 0; i < WORKERS_MAX; i++) {
		snprintf(query, sizeof(query), "/files?path=%s/%u", p.dir, i);
		s[i] = open_stream(&p, "POST", query, HEADERS("content-type", OCTETS), false);
	}
	expect(post(&p, "more", "", NULL, "x", 1), 503, "at once");
	for (unsigned i = 0; i < WORKERS_MAX; i++) {
		assert_int_equal(channel_stream_write(s[i], "x", 1, true, box_soon()), 0);
		finish(s[i], &a);
		expect(a, 200, "file");
	}
	expect(post(&p, "more", "", NULL, "x", 1), 200, "more");
	assert_int_equal(entries(p.dir), WORKERS_MAX + 1);
	place_stop(&p);
}

/* --- metadata, signatures, compose --------------------------------------------------------------
 */

static void test_metadata(void **state)
{
	char path[128], value[16], name[300] = "x-metadata-", *large = malloc(5000);
	struct place p;

	place_start(&p);
	put(&p, "f", "x", 1);
	snprintf(path, sizeof(path), "%s/f", p.dir);
	if (setxattr(path, "user.other", "kept", 4, 0) < 0) {
		print_message("SKIPPED: no user attributes in /tmp: %s\n", strerror(errno));
		place_stop(&p);
		free(large);
		skip();
	}
	expect(post(&p, "f", "",
		    HEADERS("content-type", OCTETS, "x-metadata-one", "1", "x-metadata-b-c", "2 3"),
		    "x", 1),
	       200, "\"metadata\":{\"one\":\"1\",\"b-c\":\"2 3\"}");
	assert_int_equal(getxattr(path, "user.e2b.b-c", value, sizeof(value)), 3);
	assert_memory_equal(value, "2 3", 3);
	expect(post(&p, "f", "", HEADERS("content-type", OCTETS, "x-metadata-two", ""), "x", 1),
	       200, "\"metadata\":{\"two\":\"\"}");
	assert_int_equal(getxattr(path, "user.e2b.one", value, sizeof(value)), -1);
	assert_int_equal(getxattr(path, "user.e2b.two", value, sizeof(value)), 0);
	expect(post(&p, "f", "", NULL, "x", 1), 200, "\"type\":\"file\"}]");
	assert_int_equal(getxattr(path, "user.e2b.two", value, sizeof(value)), -1);
	assert_int_equal(getxattr(path, "user.other", value, sizeof(value)), 4);
	memset(name + 11, 'k', 247);
	expect(post(&p, "f", "", HEADERS("content-type", OCTETS, name, "v"), "x", 1), 400, "247");
	memset(large, 'v', 4999);
	large[4999] = 0;
	expect(post(&p, "f", "", HEADERS("content-type", OCTETS, "x-metadata-k", large), "x", 1),
	       400, "4096");
	expect(post(&p, "f", "", HEADERS("content-type", OCTETS, "x-metadata-k", "\xc3\xbc"), "x",
		    1),
	       400, "ASCII");
	free(large);
	place_stop(&p);
}

static void set_token(struct box *b, const char *token)
{
	struct buf body = {0};
	char request[512];
	int status;

	snprintf(request, sizeof(request),
		 "{\"sandboxID\":\"i123\",\"hostname\":\"i123\",\"timestampNs\":%llu,"
		 "\"entropy\":\"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\","
		 "\"accessToken\":\"%s\"}",
		 (unsigned long long)clock_real_ns(), token);
	assert_int_equal(channel_call(b->ch, "POST", "/init", "application/json", request,
				      strlen(request), box_soon(), &status, &body),
			 0);
	assert_int_equal(status, 200);
	buf_deinit(&body);
}

/* The vectors were made with openssl(1) */
static void test_signatures(void **state)
{
	static const char *const client[] = {"x-dorm-client", "1", NULL};
	static const char *const octets[] = {"x-dorm-client", "1", "content-type", OCTETS, NULL};
	struct place p;
	struct answer a;

	place_start(&p);
	set_token(&p.b, "sekrit");
	a = get(&p, "path=/x", client);
	if (a.status == 404) {
		print_message("SKIPPED: this agent's init takes no accessToken\n");
		buf_deinit(&a.body);
		place_stop(&p);
		skip();
	}
	expect(a, 401, "missing signature query parameter");
	expect(get(&p, "path=/x", NULL), 404, "/x"); /* the host itself needs none */
	expect(get(&p, "path=/x&signature=v1_abc", client), 401, "invalid signature");
	expect(get(&p, "path=/x", HEADERS("x-dorm-client", "1", "x-access-token", "sekrit")), 404,
	       "/x");
	expect(get(&p, "path=/x", HEADERS("x-dorm-client", "1", "x-access-token", "wrong")), 401,
	       "access token");
	/* "/home/user/a b:read::sekrit" */
#define READ_SIGNATURE "v1_5ad2ZC8P/h2F25EvHXA3/lfF9QaeTT2zSwbuax0jfKs"
	expect(get(&p, "path=/home/user/a%20b&signature=" READ_SIGNATURE, client), 404, "a b");
	expect(get(&p, "path=/home/user/a%20c&signature=" READ_SIGNATURE, client), 401,
	       "invalid signature");
	expect(post_cut(&p, "path=/home/user/a%20b&signature=" READ_SIGNATURE, octets, "x", 1, 0),
	       401, "invalid signature");
	/* "x:write:root:sekrit:4102444800", "/x:read::sekrit:1" */
	expect(post_cut(&p,
			"path=x&username=root&signature_expiration=4102444800&signature="
			"v1_QDE4Z3YrFk5lfoxrNe7Qq9ZugbM6pO0Gj1H7p2vWBas&mode=x",
			octets, "x", 1, 0),
	       400, "octal"); /* let in, and then refused before it writes to /root */
	expect(post_cut(&p,
			"path=x&username=root&signature_expiration=4102444801&signature="
			"v1_QDE4Z3YrFk5lfoxrNe7Qq9ZugbM6pO0Gj1H7p2vWBas",
			octets, "x", 1, 0),
	       401, "invalid signature");
	expect(get(&p,
		   "path=/"
		   "x&signature_expiration=1&signature=v1_Fto7uIrwv1CG3wGmF2dH8lHS4dSZ2cjTetNSlOp3/"
		   "0c",
		   client),
	       401, "signature is already expired");
	expect(get(&p,
		   "path=/"
		   "x&signature_expiration=1x&signature=v1_"
		   "V8ssYmoFft0mjFcUE3HfRT50uGLlarLAzCpFk4D5iLM",
		   client),
	       401, "invalid signature");
	assert_int_equal(box_call(&p.b, "POST", "/files/compose", "{}", NULL), 400);
	place_stop(&p);
}

/* @text: with @ for the directory */
static struct answer compose(struct place *p, const char *text)
{
	struct answer a = {0};
	struct buf request = {0};
	char *body;

	for (const char *at = text; *at; at++)
		assert_int_equal(buf_append(&request, *at == '@' ? p->dir : at,
					    *at == '@' ? strlen(p->dir) : 1),
				 0);
	a.status = box_call(&p->b, "POST", "/files/compose", request.data, &body);
	a.body = (struct buf){.data = body, .len = strlen(body)};
	buf_deinit(&request);
	return a;
}

static void test_compose(void **state)
{
	struct place p;

	place_start(&p);
	put(&p, "a", "one ", 4);
	put(&p, "b", "two", 3);
	expect(compose(&p, "{\"source_paths\":[\"@/a\",\"@/b\"],\"destination\":\"@/x/c\"}"), 200,
	       "/x/c\",\"name\":\"c\"");
	expect_file(&p, "x/c", "one two", 7);
	expect(compose(&p, "{\"source_paths\":[\"@/b\",\"@/a\"],\"destination\":\"@/a\"}"), 200,
	       "/a\"");
	expect_file(&p, "a", "twoone ", 7);
	expect(compose(&p, "{\"source_paths\":[\"@/b\",\"@/none\"],\"destination\":\"@/y/d\"}"),
	       404, "/none' does not exist");
	expect(compose(&p, "{\"source_paths\":[\"@/b\",\"@\"],\"destination\":\"@/y/d\"}"), 400,
	       "directory");
	expect(compose(&p, "{\"source_paths\":[],\"destination\":\"@/y/d\"}"), 400, "source_paths");
	expect(compose(&p, "{\"source_paths\":[\"@/b\"]}"), 400, "destination");
	expect(compose(&p, "{\"source_paths\":[\"@/b\"],\"destination\":\"@/z\",\"username\":\"no-"
			   "such\"}"),
	       401, "no-such");
	assert_int_equal(entries(p.dir), 3);
	place_stop(&p);
}

/* --- large --------------------------------------------------------------------------------------
 */

static unsigned long peak_kib(const struct box *b)
{
	char path[40], line[128];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", b->pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		(void)sscanf(line, "VmHWM: %lu kB", &kib);
	fclose(f);
	return kib;
}

static double mib_per_s(uint64_t bytes, uint64_t begin_ns)
{
	return (double)bytes / (1 << 20) / ((double)(clock_now_ns() - begin_ns) / NSEC_PER_SEC);
}

/* Memory does not depend on the size, whichever side is the slower. */
static void test_large(void **state)
{
	const size_t piece = 1 << 20, pieces = 200;
	char *data = pattern(piece), *got = malloc(piece), query[128];
	unsigned long before, after;
	struct channel_stream *s;
	uint64_t begin_ns;
	struct place p;
	struct answer a;
	int status;

	place_start(&p);
	before = peak_kib(&p.b);
	snprintf(query, sizeof(query), "/files?path=%s/f", p.dir);
	begin_ns = clock_now_ns();
	s = open_stream(&p, "POST", query, HEADERS("content-type", OCTETS), false);
	for (size_t i = 0; i < pieces; i++)
		assert_int_equal(channel_stream_write(s, data, piece, i == pieces - 1, box_soon()),
				 0);
	finish(s, &a);
	expect(a, 200, "f");
	print_message("in: %.0f MiB/s\n", mib_per_s(piece * pieces, begin_ns));
	begin_ns = clock_now_ns();
	s = open_stream(&p, "GET", query, HEADERS("accept-encoding", "gzip"), true);
	assert_int_equal(channel_stream_head(s, box_soon(), &status), 0);
	for (size_t i = 0; i < pieces; i++) {
		for (size_t at = 0; at < piece;) {
			ssize_t n = channel_stream_read(s, got + at, piece - at, box_soon());

			assert_true(n > 0);
			at += (size_t)n;
		}
		assert_memory_equal(got, data, piece);
	}
	assert_int_equal(channel_stream_read(s, got, piece, box_soon()), 0);
	channel_stream_close(s);
	print_message("out: %.0f MiB/s\n", mib_per_s(piece * pieces, begin_ns));
	after = peak_kib(&p.b);
	print_message("the agent's peak: %lu KiB before, %lu KiB after\n", before, after);
	if (!str_has_suffix(box_program, "-dev")) /* sanitizers keep what was freed */
		assert_true(after - before < 4096);
	free(data);
	free(got);
	place_stop(&p);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_get),
		cmocka_unit_test(test_long_names),
		cmocka_unit_test(test_special),
		cmocka_unit_test(test_procfs),
		cmocka_unit_test(test_conditional),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_get_gzip),
		cmocka_unit_test(test_post),
		cmocka_unit_test(test_post_links),
		cmocka_unit_test(test_multipart),
		cmocka_unit_test(test_multipart_paths),
		cmocka_unit_test(test_post_gzip),
		cmocka_unit_test(test_disappear),
		cmocka_unit_test(test_sleep),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_metadata),
		cmocka_unit_test(test_signatures),
		cmocka_unit_test(test_compose),
		cmocka_unit_test(test_large),
		/* these move to mounts of their own */
		cmocka_unit_test(test_post_mount_point),
		cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_hanging_mount),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
