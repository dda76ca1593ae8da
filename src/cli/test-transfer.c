/* SPDX-License-Identifier: Apache-2.0 */
/* export and import against a scripted dormd: streams both ways, whole, broken and refused */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/extents.h"
#include "cli/test-server.h"

#define PAGE	 DORM_PAGE_SIZE
#define SNAPSHOT "application/x-dormouse-snapshot"
#define EXTENTS	 "application/x-dormouse-extents"

#define assert_contains(_text, _part)                                                              \
	do {                                                                                       \
		if (!strstr((_text), (_part)))                                                     \
			fail_msg("'%s' is not in:\n%s", (_part), (_text));                         \
	} while (0)

/* ---- dormd -------------------------------------------------------------------------------------
 */

/* What dormd does with an export or an import; the rest it answers always in the same way. */
struct dormd {
	int status;
	const char *type; /* NULL: JSON */
	const void *data;
	size_t len, promise; /* promise: Content-Length, when it is another */
	bool chunked, stall, cut, slow;
	const char *layers[2]; /* answers to GET /layers, in turn; NULL: none */
	/* results; read them after the server has stopped */
	size_t n_layers;
	struct buf body;
	char head[8192];
	pthread_mutex_t lock;
};

static void answer(const struct dormd *d, int fd)
{
	char byte;

	if (d->chunked) {
		test_stream_begin(fd, d->type);
		test_stream(fd, d->data, d->len);
		test_stream_end(fd);
		return;
	}
	test_reply_head(fd, d->status, d->type ? d->type : "application/json",
			d->promise ? d->promise : d->len);
	if (d->slow) {
		test_write(fd, d->data, d->len / 2);
		clock_sleep_ms(1300); /* dorm says nothing in the first second */
		test_write(fd, (const char *)d->data + d->len / 2, d->len - d->len / 2);
	} else {
		test_write(fd, d->data, d->len);
	}
	if (d->stall)
		(void)!read(fd, &byte, 1); /* until dorm goes */
	if (d->promise)
		test_hang_up(fd);
}

static void handle(struct test_server *s, const struct test_request *rq, int fd)
{
	struct dormd *d = test_server_userdata(s);

	if (test_is(rq, "GET", "/layers")) {
		pthread_mutex_lock(&d->lock);
		test_reply_json(fd, 200, d->layers[d->n_layers] ? d->layers[d->n_layers] : "{}");
		d->n_layers = 1;
		pthread_mutex_unlock(&d->lock);
	} else if (test_is(rq, "GET", "/snapshots/s1")) {
		test_reply_json(fd, 200,
				"{\"layers\":[{\"id\":\"aa\"},{\"id\":\"bb\"},{\"id\":\"cc\"}]}");
	} else if (d->cut) {
		test_hang_up(fd);
	} else {
		(void)strcpy(d->head, rq->head);
		(void)buf_append(&d->body, rq->body, rq->len);
		answer(d, fd);
	}
}

/* ---- dorm --------------------------------------------------------------------------------------
 */

struct run {
	struct dormd d;
	int in, out, err_fd; /* descriptors for dorm; -1: /dev/null, a memfd */
	bool early;
	/* results */
	int code;
	char *output, *err, *log;
	size_t output_len;
};

#define RUN_INIT ((struct run){.in = -1, .out = -1, .err_fd = -1})

static char *slurp(int fd, size_t *ret_len)
{
	off_t len = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)len + 1);

	assert_non_null(text);
	assert_int_equal(fd_pread_full(fd, text, (size_t)len, 0), 0);
	*ret_len = (size_t)len;
	return text;
}

static void run(struct run *x, const char *const *args)
{
	struct test_server *s;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int out = memfd_create("out", MFD_CLOEXEC), err = memfd_create("err", MFD_CLOEXEC);
	int fds[] = {x->in < 0 ? null : x->in, x->out < 0 ? out : x->out,
		     x->err_fd < 0 ? err : x->err_fd};
	size_t len;

	pthread_mutex_init(&x->d.lock, NULL);
	if (!x->d.status)
		x->d.status = 200;
	s = test_server_start(handle, &x->d);
	if (x->early)
		test_server_answer_early(s);
	x->code = test_wait(test_spawn(s, fds, args));
	x->log = test_server_log(s);
	test_server_stop(s);
	x->output = slurp(out, &x->output_len);
	x->err = slurp(err, &len);
	close(out);
	close(err);
	close(null);
}

#define RUN(_run, ...) run(_run, (const char *const[]){"snapshot", __VA_ARGS__, NULL})

static void run_deinit(struct run *x)
{
	free(x->output);
	free(x->err);
	free(x->log);
	buf_deinit(&x->d.body);
	*x = RUN_INIT;
}

/* ---- a place for files -------------------------------------------------------------------------
 */

static char dir[64];

static int set_up(void **state)
{
	(void)strcpy(dir, "/tmp/test-transfer-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	return file_remove_tree(AT_FDCWD, dir);
}

static const char *in_dir(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % 4];

	(void)snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

static size_t count_files(void)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	size_t n = 0;

	assert_int_equal(file_opendir(AT_FDCWD, dir, &d), 0);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	return n;
}

static void put_file(const char *name, const void *data, size_t len)
{
	assert_int_equal(file_replace(AT_FDCWD, in_dir(name), data, len, 0644), 0);
}

static void expect_file(const char *name, const void *data, size_t len)
{
	_cleanup_free_ char *text = NULL;
	size_t n;

	assert_int_equal(file_read(AT_FDCWD, in_dir(name), 64 << 20, &text, &n), 0);
	assert_int_equal(n, len);
	assert_memory_equal(text, data, len);
}

/* Bytes that no two positions have in common. */
static unsigned char *noise(size_t len)
{
	unsigned char *p = malloc(len);
	uint64_t x = 88172645463325252ull;

	assert_non_null(p);
	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (unsigned char)x;
	}
	return p;
}

/* ---- export ------------------------------------------------------------------------------------
 */

static void test_export(void **state)
{
	struct run x = RUN_INIT;
	size_t len = 3 << 20;
	_cleanup_free_ unsigned char *data = noise(len);

	x.d = (struct dormd){.type = SNAPSHOT, .data = data, .len = len};
	RUN(&x, "export", "s1");
	assert_int_equal(x.code, 0);
	assert_int_equal(x.output_len, len);
	assert_memory_equal(x.output, data, len);
	assert_string_equal(x.err, "");
	assert_string_equal(x.log, "GET /snapshots/s1/export \n");
	run_deinit(&x);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "", .len = 0};
	RUN(&x, "export", "-o", "-",
	    "a/b"); /* nothing is a stream, too, as far as dorm is concerned */
	assert_int_equal(x.code, 0);
	assert_string_equal(x.log, "GET /snapshots/a%2Fb/export \n");
	run_deinit(&x);
}

static void test_export_file(void **state)
{
	struct run x = RUN_INIT;
	struct stat st;

	put_file("old", "old", 3);
	assert_int_equal(symlink("old", in_dir("link")), 0);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "stream", .len = 6};
	RUN(&x, "export", "-o", in_dir("link"), "s1");
	assert_int_equal(x.code, 0);
	assert_int_equal(x.output_len, 0);
	run_deinit(&x);
	expect_file("old", "stream", 6);
	assert_int_equal(lstat(in_dir("link"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stat(in_dir("old"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(count_files(), 2);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "stream", .len = 6};
	RUN(&x, "export", "s1", "-o", "/dev/null"); /* which stays what it is */
	assert_int_equal(x.code, 0);
	assert_int_equal(stat("/dev/null", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	run_deinit(&x);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "stream", .len = 6};
	RUN(&x, "export", "s1", "-o", in_dir("no/such"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "no/such: No such file or directory");
	assert_string_equal(x.log, "");
	run_deinit(&x);
}

/* Whatever happens, FILE is what it was and nothing lies beside it. */
static void test_export_fails(void **state)
{
	static const char refusal[] =
		"{\"code\":404,\"message\":\"no snapshot s1\",\"hint\":\"look\"}";
	const struct {
		struct dormd d;
		const char *err;
	} cases[] = {
		{{.type = SNAPSHOT, .data = "half", .len = 4, .promise = 9},
		 "closed the connection before its answer was complete"},
		{{.type = SNAPSHOT, .data = "whole", .len = 5, .chunked = true},
		 "did not say how long its answer is"},
		{{.type = "text/html", .data = "page", .len = 4},
		 "dormd answered with text/html where " SNAPSHOT " belongs"},
		{{.type = EXTENTS, .data = "", .len = 0}, "where " SNAPSHOT " belongs"},
		{{.status = 404, .data = refusal, .len = sizeof(refusal) - 1},
		 "dorm: no snapshot s1\nhint: look\n"},
		{{.cut = true}, "closed the connection"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct run x = RUN_INIT;

		put_file("f", "old", 3);
		x.d = cases[i].d;
		RUN(&x, "export", "-o", in_dir("f"), "s1");
		assert_int_equal(x.code, 1);
		assert_contains(x.err, cases[i].err);
		expect_file("f", "old", 3);
		assert_int_equal(count_files(), 1);
		run_deinit(&x);
	}
}

static void test_export_interrupted(void **state)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

	(void)signal(SIGHUP, SIG_DFL); /* under nohup it is ignored, and stays so in a child */
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct dormd d = {.status = 200,
				  .type = SNAPSHOT,
				  .data = "half",
				  .len = 4,
				  .promise = 9,
				  .stall = true};
		const char *args[] = {"snapshot", "export", "-o", in_dir("f"), "s1", NULL};
		struct test_server *s = test_server_start(handle, &d);
		int null = open("/dev/null", O_RDWR | O_CLOEXEC), fds[] = {null, null, null};
		uint64_t deadline_ns = deadline_after_ms(10000);
		pid_t pid = test_spawn(s, fds, args);

		while (!count_files() && !deadline_passed(deadline_ns))
			clock_sleep_ms(2);
		assert_int_equal(count_files(), 1); /* f.part-... */
		assert_int_equal(access(in_dir("f"), F_OK), -1);
		clock_sleep_ms(20); /* let the handlers be set */
		assert_int_equal(kill(pid, signals[i]), 0);
		assert_int_equal(test_wait(pid), -signals[i]);
		assert_int_equal(count_files(), 0);
		test_server_stop(s);
		buf_deinit(&d.body);
		close(null);
	}
}

static void test_export_to_nobody(void **state)
{
	struct run x = RUN_INIT;
	_cleanup_free_ unsigned char *data = noise(1 << 20);
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	close(p[0]);
	x.d = (struct dormd){.type = SNAPSHOT, .data = data, .len = 1 << 20};
	x.out = p[1];
	RUN(&x, "export", "s1");
	assert_int_equal(x.code, 1);
	assert_string_equal(x.err, "dorm: cannot write to standard output: Broken pipe\n");
	close(p[1]);
	run_deinit(&x);
	x.d = (struct dormd){.type = SNAPSHOT, .data = data, .len = 1 << 20};
	x.out = open("/dev/full", O_WRONLY | O_CLOEXEC);
	RUN(&x, "export", "s1");
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "cannot write to standard output: No space left on device\nhint: ");
	close(x.out);
	run_deinit(&x);
}

static void test_export_to_terminal(void **state)
{
	struct run x = RUN_INIT;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (master < 0 || grantpt(master) || unlockpt(master)) {
		print_message("skipped: there are no pseudo-terminals\n");
		skip();
	}
	x.out = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(x.out >= 0);
	RUN(&x, "export", "s1");
	assert_int_equal(x.code, 2);
	assert_contains(x.err, "standard output is a terminal");
	assert_string_equal(x.log, "");
	close(x.out);
	run_deinit(&x);
	x.in = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	RUN(&x, "import");
	assert_int_equal(x.code, 2);
	assert_contains(x.err, "standard input is a terminal");
	close(x.in);
	close(master);
	run_deinit(&x);
}

static void test_progress(void **state)
{
	struct run x = RUN_INIT;
	_cleanup_free_ unsigned char *data = NULL;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	char text[2048] = "";

	if (master < 0 || grantpt(master) || unlockpt(master)) {
		print_message("skipped: there are no pseudo-terminals\n");
		skip(); /* does not return */
	}
	data = noise(4096);
	(void)setenv("TERM", "xterm", 1);
	x.err_fd = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(x.err_fd >= 0);
	x.d = (struct dormd){.type = SNAPSHOT, .data = data, .len = 4096, .slow = true};
	RUN(&x, "export", "s1");
	assert_int_equal(x.code, 0);
	assert_int_equal(x.output_len, 4096);
	assert_true(read(master, text, sizeof(text) - 1) > 0);
	assert_contains(text, "exporting s1 [===============               ]  50 %");
	assert_contains(text, "2.0 KiB of 4.0 KiB");
	close(x.err_fd);
	close(master);
	run_deinit(&x);
}

static void test_skip(void **state)
{
	struct run x = RUN_INIT;

	put_file("have", "zz\ncc\n\naa\n", 10);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "x", .len = 1};
	RUN(&x, "export", "--skip", "bb,yy", "--skip-file", in_dir("have"), "s1");
	assert_int_equal(x.code, 0);
	assert_string_equal(x.log, "GET /snapshots/s1 \n"
				   "GET /snapshots/s1/export?skip=aa,bb,cc \n");
	run_deinit(&x);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "x", .len = 1};
	x.in = open(in_dir("have"), O_RDONLY | O_CLOEXEC);
	RUN(&x, "export", "--skip-file", "-", "s1");
	assert_string_equal(x.log, "GET /snapshots/s1 \nGET /snapshots/s1/export?skip=aa,cc \n");
	close(x.in);
	run_deinit(&x);
	x.d = (struct dormd){.type = SNAPSHOT, .data = "x", .len = 1};
	RUN(&x, "export", "--skip", "nn", "s1"); /* none of its layers */
	assert_string_equal(x.log, "GET /snapshots/s1 \nGET /snapshots/s1/export \n");
	run_deinit(&x);
	RUN(&x, "export", "--skip", "../x", "s1");
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "'../x' is not the id of a layer");
	assert_string_equal(x.log, "");
	run_deinit(&x);
	RUN(&x, "export", "--skip-file", in_dir("none"), "s1");
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "none: No such file");
	run_deinit(&x);
}

static void test_layers(void **state)
{
	struct run x = RUN_INIT;

	x.d.layers[0] = "{\"layers\":[\"aa\",\"b\\u001b\",3]}";
	RUN(&x, "layers");
	assert_int_equal(x.code, 0);
	assert_string_equal(x.output, "aa\nb?\n-\n");
	run_deinit(&x);
}

/* ---- raw export --------------------------------------------------------------------------------
 */

static void add_extent(struct buf *b, uint64_t offset, const void *data, size_t len)
{
	unsigned char head[EXTENTS_HEAD];

	extents_head(offset, len, head);
	assert_int_equal(buf_append(b, head, sizeof(head)), 0);
	if (len)
		assert_int_equal(buf_append(b, data, len), 0);
}

/* 1 GiB with a page at 1 MiB and two at 512 MiB */
static void make_memory(struct buf *b, const unsigned char *data)
{
	add_extent(b, 1 << 20, data, PAGE);
	add_extent(b, 512 << 20, data + PAGE, 2 * PAGE);
	add_extent(b, 1 << 30, NULL, 0);
}

static void test_export_sparse(void **state)
{
	_cleanup_free_ unsigned char *data = noise(3 * PAGE);
	_cleanup_buf_ struct buf stream = {0};
	struct run x = RUN_INIT;
	char page[2 * PAGE];
	struct stat st;
	int fd;

	make_memory(&stream, data);
	x.d = (struct dormd){
		.type = EXTENTS, .data = stream.data, .len = stream.len, .chunked = true};
	RUN(&x, "export", "--raw", "-o", in_dir("memory"), "s1");
	assert_int_equal(x.code, 0);
	assert_string_equal(x.log, "GET /snapshots/s1/export?format=raw \n");
	run_deinit(&x);
	fd = open(in_dir("memory"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1 << 30);
	assert_true(st.st_blocks * 512 < 1 << 20);
	assert_int_equal(fd_pread_full(fd, page, PAGE, 1 << 20), 0);
	assert_memory_equal(page, data, PAGE);
	assert_int_equal(fd_pread_full(fd, page, 2 * PAGE, 512 << 20), 0);
	assert_memory_equal(page, data + PAGE, 2 * PAGE);
	/* and nothing else is data */
	assert_int_equal(lseek(fd, 0, SEEK_DATA), 1 << 20);
	assert_int_equal(lseek(fd, (1 << 20) + PAGE, SEEK_DATA), 512 << 20);
	assert_int_equal(lseek(fd, (512 << 20) + 2 * PAGE, SEEK_DATA), -1);
	close(fd);
}

static void test_export_flat(void **state)
{
	_cleanup_free_ unsigned char *data = noise(3 * PAGE), *want = calloc(40, PAGE);
	_cleanup_buf_ struct buf stream = {0};
	struct run x = RUN_INIT;

	add_extent(&stream, 2 * PAGE, data, PAGE);
	add_extent(&stream, 30 * PAGE, data + PAGE, 2 * PAGE);
	add_extent(&stream, 40 * PAGE, NULL, 0);
	memcpy(want + 2 * PAGE, data, PAGE);
	memcpy(want + 30 * PAGE, data + PAGE, 2 * PAGE);
	x.d = (struct dormd){.type = EXTENTS, .data = stream.data, .len = stream.len};
	RUN(&x, "export", "--raw", "s1");
	assert_int_equal(x.code, 0);
	assert_int_equal(x.output_len, 40 * PAGE);
	assert_memory_equal(x.output, want, 40 * PAGE);
	run_deinit(&x);
}

static void test_export_raw_fails(void **state)
{
	_cleanup_free_ unsigned char *data = noise(3 * PAGE);
	_cleanup_buf_ struct buf stream = {0}, bad = {0};
	struct run x = RUN_INIT;

	make_memory(&stream, data);
	for (int cut = 1; cut <= 17; cut += 16) { /* in the last head, and before it */
		x.d = (struct dormd){
			.type = EXTENTS, .data = stream.data, .len = stream.len - (size_t)cut};
		RUN(&x, "export", "--raw", "-o", in_dir("f"), "s1");
		assert_int_equal(x.code, 1);
		assert_contains(x.err, "the memory ended too early, after offset ");
		assert_int_equal(count_files(), 0);
		run_deinit(&x);
	}
	add_extent(&bad, 5 * PAGE, data, PAGE);
	add_extent(&bad, 4 * PAGE, data, PAGE);
	x.d = (struct dormd){.type = EXTENTS, .data = bad.data, .len = bad.len};
	RUN(&x, "export", "--raw", "s1");
	assert_int_equal(x.code, 1);
	assert_contains(x.err,
			"damaged on its way: an extent of 4096 bytes at 16384 does not ascend");
	run_deinit(&x);
}

/* ---- import ------------------------------------------------------------------------------------
 */

static const char imported[] = "{\"snapshotID\":\"s9\",\"layersReceived\":3,\"layersPresent\":2,"
			       "\"bytesReceived\":2048}";
#define IMPORTED .status = 201, .data = imported, .len = sizeof(imported) - 1

struct feeder {
	int fd;
	const void *data;
	size_t len;
};

static void *feed(void *userdata)
{
	const struct feeder *f = userdata;

	(void)fd_write_full(f->fd, f->data, f->len); /* dorm may leave; the test sees it */
	close(f->fd);
	return NULL;
}

/* Runs with @data coming through a pipe. */
static void run_piped(struct run *x, const void *data, size_t len, const char *const *args)
{
	struct feeder f = {.data = data, .len = len};
	pthread_t thread;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	f.fd = p[1];
	x->in = p[0];
	assert_int_equal(pthread_create(&thread, NULL, feed, &f), 0);
	run(x, args);
	close(p[0]);
	(void)pthread_join(thread, NULL);
}

#define RUN_PIPED(_run, _data, _len, ...)                                                          \
	run_piped(_run, _data, _len, (const char *const[]){"snapshot", __VA_ARGS__, NULL})

static void test_import_file(void **state)
{
	_cleanup_free_ unsigned char *data = noise(1000001);
	struct run x = RUN_INIT;

	put_file("f", data, 1000001);
	x.d = (struct dormd){IMPORTED};
	RUN(&x, "import", in_dir("f"));
	assert_int_equal(x.code, 0);
	assert_string_equal(x.output, "s9\n"); /* for id=$(dorm snapshot import) */
	assert_string_equal(x.err, "3 layers received, 2.0 KiB; 2 were here already\n");
	assert_contains(x.log, "GET /layers \nPOST /snapshots/import ");
	assert_contains(x.d.head, "\r\nContent-Length: 1000001\r\n");
	assert_contains(x.d.head, "\r\nContent-Type: " SNAPSHOT "\r\n");
	assert_null(strstr(x.d.head, "Expect"));
	assert_int_equal(x.d.body.len, 1000001);
	assert_memory_equal(x.d.body.data, data, 1000001);
	run_deinit(&x);
	/* the same on standard input, from where it stands */
	x.d = (struct dormd){IMPORTED};
	x.in = open(in_dir("f"), O_RDONLY | O_CLOEXEC);
	assert_int_equal(lseek(x.in, 1, SEEK_SET), 1);
	RUN(&x, "import", "--json", "-n", "a&b");
	assert_contains(x.output, "\"snapshotID\": \"s9\"");
	assert_string_equal(x.err, "");
	assert_contains(x.log, "POST /snapshots/import?name=a%26b ");
	assert_int_equal(x.d.body.len, 1000000);
	assert_memory_equal(x.d.body.data, data + 1, 1000000);
	close(x.in);
	run_deinit(&x);
}

static void test_import_pipe(void **state)
{
	size_t len = (5 << 20) + 7;
	_cleanup_free_ unsigned char *data = noise(len);
	struct run x = RUN_INIT;

	x.d = (struct dormd){IMPORTED};
	RUN_PIPED(&x, data, len, "import", "-");
	assert_int_equal(x.code, 0);
	assert_contains(x.d.head, "\r\nTransfer-Encoding: chunked\r\n");
	assert_int_equal(x.d.body.len, len);
	assert_memory_equal(x.d.body.data, data, len);
	run_deinit(&x);
}

static const char exists[] =
	"{\"code\":409,\"message\":\"snapshot s9 is here\",\"hint\":\"rm it\"}";
#define EXISTS .status = 409, .data = exists, .len = sizeof(exists) - 1

/* dormd answers at once and closes, whatever is still on its way to it. */
static void test_import_refused(void **state)
{
	size_t len = 8 << 20;
	_cleanup_free_ unsigned char *data = noise(len);
	struct run x = RUN_INIT;

	put_file("f", data, len);
	for (int i = 0; i < 30; i++) { /* who is faster is a matter of luck */
		x.d = (struct dormd){EXISTS};
		x.early = true;
		if (i % 2)
			RUN(&x, "import", in_dir("f"));
		else
			RUN_PIPED(&x, data, len, "import");
		assert_int_equal(x.code, 1);
		assert_string_equal(x.err, "dorm: snapshot s9 is here\nhint: rm it\n");
		assert_string_equal(x.output, "");
		run_deinit(&x);
	}
}

/* ... and while the sender says nothing at all. */
static void test_import_silent_sender(void **state)
{
	uint64_t start_ns = clock_now_ns();
	struct run x = RUN_INIT;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	x.d = (struct dormd){EXISTS};
	x.early = true;
	x.in = p[0];
	RUN(&x, "import");
	assert_int_equal(x.code, 1);
	assert_string_equal(x.err, "dorm: snapshot s9 is here\nhint: rm it\n");
	assert_true(clock_now_ns() - start_ns < 4 * NSEC_PER_SEC);
	close(p[0]);
	close(p[1]);
	run_deinit(&x);
}

static void test_import_broken(void **state)
{
	static const char cut_short[] =
		"{\"code\":400,\"message\":\"the stream ends in the middle of layer bb\"}";
	struct run x = RUN_INIT;

	put_file("f", "half", 4);
	x.d = (struct dormd){.status = 400,
			     .data = cut_short,
			     .len = sizeof(cut_short) - 1,
			     .layers = {"{\"layers\":[\"aa\"]}", "{\"layers\":[\"aa\",\"bb\"]}"}};
	RUN(&x, "import", in_dir("f"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "dorm: the stream ends in the middle of layer bb\n"
			       "1 layer arrived whole and is kept for a week.");
	assert_contains(x.err, "\n  dorm snapshot layers | ssh THERE dorm snapshot export "
			       "--skip-file - ID |\n    dorm snapshot import\n");
	run_deinit(&x);
	x.d = (struct dormd){.cut = true, .layers = {"{\"layers\":[]}", "{\"layers\":[]}"}};
	RUN(&x, "import", in_dir("f"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "closed the connection before its answer was complete");
	assert_null(strstr(x.err, "kept"));
	run_deinit(&x);
	x.d = (struct dormd){.cut = true};
	x.early = true;
	RUN(&x, "import", in_dir("f"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "closed the connection");
	run_deinit(&x);
	RUN(&x, "import", in_dir("none"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "none: No such file or directory");
	assert_string_equal(x.log, "");
	run_deinit(&x);
	/* a file of the kernel's says 4096 bytes and has fewer */
	x.d = (struct dormd){IMPORTED};
	RUN(&x, "import", "/sys/kernel/mm/transparent_hugepage/enabled");
	if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0)
		assert_contains(x.err, "enabled became shorter while it was read");
	assert_int_equal(x.code, 1);
	run_deinit(&x);
	x.d = (struct dormd){IMPORTED};
	RUN(&x, "import", "/proc/version"); /* says that it is empty */
	assert_int_equal(x.code, 0);
	assert_contains(x.log, "POST /snapshots/import Linux version");
	run_deinit(&x);
	RUN(&x, "import", dir);
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "is a directory");
	run_deinit(&x);
}

/* ---- raw import --------------------------------------------------------------------------------
 */

static const char stored[] = "{\"snapshotID\":\"s9\",\"pagesStored\":3,\"bytesStored\":2048}";
#define STORED .status = 201, .data = stored, .len = sizeof(stored) - 1

/* 64 pages: data at 4, two pages of zeros at 10, data at 20 and 21; the rest holes */
static void make_file(const char *name, const unsigned char *data)
{
	static const unsigned char zeros[2 * PAGE];
	int fd = open(in_dir(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 64 * PAGE), 0);
	assert_int_equal(pwrite(fd, data, PAGE, 4 * PAGE), PAGE);
	assert_int_equal(pwrite(fd, zeros, 2 * PAGE, 10 * PAGE), 2 * PAGE);
	assert_int_equal(pwrite(fd, data + PAGE, 2 * PAGE, 20 * PAGE), 2 * PAGE);
	close(fd);
}

static void expect_stream(const struct run *x, const struct buf *want)
{
	assert_int_equal(x->d.body.len, want->len);
	assert_memory_equal(x->d.body.data, want->data, want->len);
}

static void test_import_raw(void **state)
{
	_cleanup_free_ unsigned char *data = noise(3 * PAGE);
	_cleanup_buf_ struct buf full = {0}, diff = {0};
	static const unsigned char zeros[2 * PAGE];
	struct run x = RUN_INIT;

	make_file("f", data);
	add_extent(&full, 4 * PAGE, data, PAGE);
	add_extent(&full, 20 * PAGE, data + PAGE, 2 * PAGE);
	add_extent(&full, 64 * PAGE, NULL, 0);
	add_extent(&diff, 4 * PAGE, data, PAGE);
	add_extent(&diff, 10 * PAGE, zeros, 2 * PAGE); /* zeros that the guest wrote */
	add_extent(&diff, 20 * PAGE, data + PAGE, 2 * PAGE);
	add_extent(&diff, 64 * PAGE, NULL, 0);
	x.d = (struct dormd){STORED};
	RUN(&x, "import", "--raw", "-n", "n", in_dir("f"));
	assert_int_equal(x.code, 0);
	assert_string_equal(x.output, "s9\n");
	assert_string_equal(x.err, "3 pages stored, 2.0 KiB\n");
	assert_contains(x.log, "POST /snapshots/import?format=raw&bytes=262144&name=n ");
	assert_contains(x.d.head, "\r\nContent-Type: " EXTENTS "\r\n");
	expect_stream(&x, &full);
	run_deinit(&x);
	x.d = (struct dormd){STORED};
	RUN(&x, "import", "--raw", "--diff", "--parent", "s/1", in_dir("f"));
	assert_int_equal(x.code, 0);
	assert_contains(x.log, "POST /snapshots/import?format=raw&parent=s%2F1 ");
	expect_stream(&x, &diff);
	assert_null(strstr(x.err, "note"));
	run_deinit(&x);
}

static void test_import_raw_pipe(void **state)
{
	size_t len = 200 * PAGE; /* several chunks */
	_cleanup_free_ unsigned char *data = noise(len);
	_cleanup_buf_ struct buf want = {0};
	struct run x = RUN_INIT;

	memset(data + 10 * PAGE, 0, 5 * PAGE);
	memset(data + 60 * PAGE, 0, 80 * PAGE); /* over the borders of chunks of 64 pages */
	add_extent(&want, 0, data, 10 * PAGE);
	add_extent(&want, 15 * PAGE, data + 15 * PAGE, 45 * PAGE);
	add_extent(&want, 140 * PAGE, data + 140 * PAGE, 52 * PAGE);
	add_extent(&want, 192 * PAGE, data + 192 * PAGE, 8 * PAGE);
	add_extent(&want, len, NULL, 0);
	x.d = (struct dormd){STORED};
	RUN_PIPED(&x, data, len, "import", "--raw");
	assert_int_equal(x.code, 0);
	assert_contains(x.log, "POST /snapshots/import?format=raw "); /* its size is unknown */
	expect_stream(&x, &want);
	run_deinit(&x);
	x.d = (struct dormd){STORED};
	RUN_PIPED(&x, data, len - 1, "import", "--raw");
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "standard input has 819199 bytes, which is not a multiple of 4096");
	assert_string_equal(x.output, "");
	run_deinit(&x);
	x.d = (struct dormd){STORED};
	RUN_PIPED(&x, data, 0, "import", "--raw");
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "standard input is empty");
	run_deinit(&x);
	x.d = (struct dormd){STORED};
	RUN_PIPED(&x, data, PAGE, "import", "--raw", "--diff", "--parent", "s1");
	assert_int_equal(x.code, 1);
	assert_contains(x.err,
			"standard input is no regular file, and only that has holes\nhint: ");
	run_deinit(&x);
}

static void test_import_raw_refused(void **state)
{
	_cleanup_free_ unsigned char *data = noise(3 * PAGE);
	struct run x = RUN_INIT;

	put_file("odd", data, PAGE + 1);
	RUN(&x, "import", "--raw", in_dir("odd"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "odd has 4097 bytes, which is not a multiple of 4096");
	assert_string_equal(x.log, "");
	run_deinit(&x);
	put_file("dense", data, 2 * PAGE);
	x.d = (struct dormd){STORED};
	RUN(&x, "import", "--raw", "--diff", "--parent", "s1", in_dir("dense"));
	assert_int_equal(x.code, 0);
	assert_contains(x.err, "dense has no holes: every page of it replaces the parent's\n");
	run_deinit(&x);
	put_file("big", data, 3 * PAGE);
	assert_int_equal(truncate(in_dir("big"), 5l << 40), 0);
	RUN(&x, "import", "--raw", in_dir("big"));
	assert_int_equal(x.code, 1);
	assert_contains(x.err, "has more than 4 TiB");
	run_deinit(&x);
}

#define WITH_DIR(_test) cmocka_unit_test_setup_teardown(_test, set_up, tear_down)

TEST_MAIN(cmocka_unit_test(test_export), WITH_DIR(test_export_file), WITH_DIR(test_export_fails),
	  WITH_DIR(test_export_interrupted), cmocka_unit_test(test_export_to_nobody),
	  cmocka_unit_test(test_export_to_terminal), cmocka_unit_test(test_progress),
	  WITH_DIR(test_skip), cmocka_unit_test(test_layers), WITH_DIR(test_export_sparse),
	  cmocka_unit_test(test_export_flat), WITH_DIR(test_export_raw_fails),
	  WITH_DIR(test_import_file), cmocka_unit_test(test_import_pipe),
	  WITH_DIR(test_import_refused), cmocka_unit_test(test_import_silent_sender),
	  WITH_DIR(test_import_broken), WITH_DIR(test_import_raw),
	  cmocka_unit_test(test_import_raw_pipe), WITH_DIR(test_import_raw_refused))
