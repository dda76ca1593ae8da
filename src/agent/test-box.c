/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/test-box.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"

#define CGROUP2 "/sys/fs/cgroup/unified"

const char *box_program;

uint64_t box_soon(void)
{
	return deadline_after_ms(20000);
}

void box_spawn(struct box *b)
{
	const char *args[10] = {box_program, "--no-boot", "--listen", b->path};
	size_t n = 4;

	if (b->cgroup[0]) {
		args[n++] = "--cgroup";
		args[n++] = b->cgroup;
	}
	if (b->root[0]) {
		args[n++] = "--root";
		args[n++] = b->root;
	}
	b->pid = fork();
	assert_true(b->pid >= 0);
	if (b->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* when a test is killed */
		execv(box_program, (char **)args);
		_exit(127);
	}
}

void box_init(struct box *b, int want_status)
{
	struct buf body = {0};
	char request[512];
	int status;

	snprintf(request, sizeof(request),
		 "{\"sandboxID\":\"i123\",\"hostname\":\"i123\",\"timestampNs\":%llu,"
		 "\"entropy\":\"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\","
		 "\"envVars\":{\"COLOUR\":\"blue\",\"E2B_SANDBOX_ID\":\"forged\"}}",
		 (unsigned long long)clock_real_ns());
	assert_int_equal(channel_call(b->ch, "POST", "/init", "application/json", request,
				      strlen(request), box_soon(), &status, &body),
			 0);
	if (status != want_status)
		fail_msg("init: %d %s", status, body.data);
	buf_deinit(&body);
}

void box_reconnect(struct box *b)
{
	channel_free(b->ch);
	assert_int_equal(channel_connect(b->path, -1, -1, box_soon(), &b->ch), 0);
}

/* An agent that has been initialised */
void box_start(struct box *b)
{
	strcpy(b->dir, "/tmp/test-agent-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/s", b->dir);
	box_spawn(b);
	assert_int_equal(channel_connect(b->path, -1, -1, box_soon(), &b->ch), 0);
	box_init(b, 200);
}

/* Whatever is still in it, and below it. */
static void remove_cgroup(const char *path)
{
	_cleanup_free_ char *kill_file = str_printf("%s/cgroup.kill", path);
	_cleanup_free_ char *line = str_printf("rmdir %s/p* %s 2>/dev/null", path, path);
	int fd = open(kill_file, O_WRONLY | O_CLOEXEC);

	assert_int_equal(write(fd, "1", 1), 1);
	fd_close(fd);
	for (int i = 0; i < 200 && access(path, F_OK) == 0; i++) {
		clock_sleep_ms(10);
		(void)!system(line);
	}
	assert_int_equal(access(path, F_OK), -1);
}

void box_stop(struct box *b)
{
	int status;

	b->ch = channel_free(b->ch);
	kill(b->pid, SIGTERM);
	assert_int_equal(waitpid(b->pid, &status, 0), b->pid);
	assert_true(WIFSIGNALED(status)); /* it did not end by itself before */
	unlink(b->path);
	rmdir(b->dir);
	if (b->cgroup[0])
		remove_cgroup(b->cgroup);
}

/* --- calls --------------------------------------------------------------------------------------
 */

/* Return: the status; the body in @ret if wanted (free()) */
int box_call(struct box *b, const char *method, const char *path, const char *request, char **ret)
{
	struct buf body = {0};
	int status;

	assert_int_equal(channel_call(b->ch, method, path, request ? "application/json" : NULL,
				      request, request ? strlen(request) : 0, box_soon(), &status,
				      &body),
			 0);
	if (ret)
		*ret = body.data ? body.data : strdup("");
	else
		buf_deinit(&body);
	return status;
}

void run_deinit(struct run *r)
{
	channel_stream_close(r->s);
	buf_deinit(&r->raw);
	buf_deinit(&r->out);
	buf_deinit(&r->err);
}

static void open_at(struct box *b, struct run *r, const char *path, const char *request,
		    const struct channel_header *headers, size_t n)
{
	struct channel_header h[8] = {{"content-type", "application/connect+json"},
				      {"connect-protocol-version", "1"}};
	size_t len = strlen(request);
	char *envelope = malloc(len + 5);
	int status;

	for (size_t i = 0; i < n; i++)
		h[2 + i] = headers[i];
	memcpy(envelope, (uint8_t[]){0, len >> 24, len >> 16, len >> 8, len}, 5);
	memcpy(envelope + 5, request, len);
	assert_int_equal(channel_stream_open(b->ch, "POST", path, h, 2 + n, false, &r->s), 0);
	assert_int_equal(channel_stream_write(r->s, envelope, len + 5, true, box_soon()), 0);
	free(envelope);
	assert_int_equal(channel_stream_head(r->s, box_soon(), &status), 0);
	assert_int_equal(status, 200);
	assert_string_equal(channel_stream_header(r->s, "content-type"),
			    "application/connect+json");
}

void run_open(struct box *b, struct run *r, const char *request,
	      const struct channel_header *headers, size_t n)
{
	open_at(b, r, "/process.Process/Start", request, headers, n);
}

void run_connect(struct box *b, struct run *r, const char *selector,
		 const struct channel_header *headers, size_t n)
{
	_cleanup_free_ char *request = str_printf("{\"process\":%s}", selector);

	open_at(b, r, "/process.Process/Connect", request, headers, n);
}

void run_connect_pid(struct box *b, struct run *r, int pid)
{
	char selector[32];

	snprintf(selector, sizeof(selector), "{\"pid\":%d}", pid);
	run_connect(b, r, selector, NULL, 0);
}

int box_about(struct box *b, const char *method, int pid, const char *fields, char **ret)
{
	_cleanup_free_ char *path = str_printf("/process.Process/%s", method);
	_cleanup_free_ char *request = str_printf("{\"process\":{\"pid\":%d}%s}", pid, fields);

	return box_call(b, "POST", path, request, ret);
}

int box_type(struct box *b, int pid, const char *kind, const char *text)
{
	_cleanup_free_ char *coded = malloc(base64_encoded_len(strlen(text)) + 1);
	_cleanup_free_ char *fields = NULL;

	base64_encode(text, strlen(text), coded);
	fields = str_printf(",\"input\":{\"%s\":\"%s\"}", kind, coded);
	return box_about(b, "SendInput", pid, fields, NULL);
}

static void append_base64(struct run *r, struct buf *b, json_t *o)
{
	char *data;
	ssize_t n;

	if (!o)
		return;
	data = malloc(json_string_length(o) + 4);
	n = base64_decode(json_string_value(o), json_string_length(o), data);
	assert_true(n > 0 && n <= 32768);
	assert_int_equal(buf_append(b, data, (size_t)n), 0);
	r->largest = MAX(r->largest, (size_t)n);
	free(data);
}

static void run_event(struct run *r, json_t *event)
{
	json_t *o;

	assert_false(r->ended);
	if ((o = json_object_get(event, "start"))) {
		assert_false(r->started);
		r->started = true;
		r->pid = (int)json_integer_value(json_object_get(o, "pid"));
		return;
	}
	assert_true(r->started); /* start is first */
	if ((o = json_object_get(event, "data"))) {
		append_base64(r, &r->out, json_object_get(o, "stdout"));
		append_base64(r, &r->out, json_object_get(o, "pty"));
		append_base64(r, &r->err, json_object_get(o, "stderr"));
	} else if ((o = json_object_get(event, "end"))) {
		r->ended = true;
		r->exit_code = (int)json_integer_value(json_object_get(o, "exitCode"));
		r->exited = json_is_true(json_object_get(o, "exited"));
		str_copy(r->status, sizeof(r->status),
			 json_string_value(json_object_get(o, "status")));
		assert_int_equal(json_object_get(o, "error") != NULL, r->exit_code != 0);
		assert_int_equal(str_to_u64(json_string_value(json_object_get(o, "durationNs")),
					    &r->duration_ns),
				 0);
	} else {
		assert_non_null(json_object_get(event, "keepalive"));
		r->keepalives++;
	}
}

static void run_message(struct run *r, uint8_t flags, const char *text, size_t len)
{
	json_t *o = json_loadb(text, len, 0, NULL), *error;

	assert_non_null(o);
	assert_false(r->over);
	if (flags == 2) {
		r->over = true;
		error = json_object_get(o, "error");
		if (error) {
			str_copy(r->code, sizeof(r->code),
				 json_string_value(json_object_get(error, "code")));
			str_copy(r->message, sizeof(r->message),
				 json_string_value(json_object_get(error, "message")));
		}
	} else {
		assert_int_equal(flags, 0);
		run_event(r, json_object_get(o, "event"));
	}
	json_decref(o);
}

/* Some more of the stream. Return: 0 at its end; negative errno */
ssize_t run_step(struct run *r, uint64_t deadline_ns)
{
	static char chunk[65536];
	ssize_t n = channel_stream_read(r->s, chunk, sizeof(chunk), deadline_ns);

	if (n <= 0)
		return n;
	assert_int_equal(buf_append(&r->raw, chunk, (size_t)n), 0);
	while (r->raw.len >= 5) {
		const uint8_t *p = (const uint8_t *)r->raw.data;
		size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];

		if (r->raw.len < 5 + len)
			break;
		run_message(r, p[0], r->raw.data + 5, len);
		buf_consume(&r->raw, 5 + len);
	}
	return n;
}

void run_finish(struct run *r)
{
	ssize_t n;

	while ((n = run_step(r, box_soon())) > 0)
		;
	if (n < 0)
		fail_msg("pid %d: %s after %zu bytes", r->pid, strerrordesc_np((int)-n),
			 r->out.len);
	assert_true(r->over);
}

void run_until_started(struct run *r)
{
	while (!r->started)
		assert_true(run_step(r, box_soon()) > 0);
}

void run_until(struct run *r, const char *text)
{
	while (!memmem(r->out.data ?: "", r->out.len, text, strlen(text)))
		if (run_step(r, box_soon()) <= 0)
			fail_msg("no '%s' in '%.*s'", text, (int)r->out.len, r->out.data ?: "");
}

long box_rss_kb(const struct box *b)
{
	char path[64], line[256];
	long kb = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", b->pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %ld", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

bool box_make_cgroup(struct box *b)
{
	if (geteuid() != 0 || access(CGROUP2 "/cgroup.procs", W_OK) < 0) {
		print_message("needs root and a cgroup2 mount at %s\n", CGROUP2);
		return false;
	}
	snprintf(b->cgroup, sizeof(b->cgroup), CGROUP2 "/test-agent-%d", getpid());
	return true;
}

/* sh -c @script, to the end */
struct run run_shell(struct box *b, const char *script)
{
	struct run r = {0};
	json_t *o = json_pack("{s:{s:s, s:[s, s]}, s:b}", "process", "cmd", "/bin/sh", "args", "-c",
			      script, "stdin", 0);
	char *text = json_dumps(o, 0);

	run_open(b, &r, text, NULL, 0);
	run_finish(&r);
	free(text);
	json_decref(o);
	return r;
}

void run_expect(struct box *b, const char *script, int exit_code, const char *out)
{
	struct run r = run_shell(b, script);

	if (r.exit_code != exit_code || strcmp(r.out.data ? r.out.data : "", out))
		fail_msg("%s: %d '%s' '%s' %s %s", script, r.exit_code, r.out.data, r.err.data,
			 r.code, r.message);
	run_deinit(&r);
}

void box_sh(const char *fmt, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	if (system(command) != 0)
		fail_msg("%s", command);
}

void place_start(struct place *p)
{
	*p = (struct place){0};
	box_start(&p->b);
	strcpy(p->dir, "/tmp/test-place-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
}

void place_stop(struct place *p)
{
	box_sh("rm -rf %s", p->dir);
	box_stop(&p->b);
}

int box_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n)
{
	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: %s AGENT [TEST]\n", argv[0]);
		return 2;
	}
	if (argc == 3)
		cmocka_set_test_filter(argv[2]);
	box_program = argv[1];
	return _cmocka_run_group_tests("agent", tests, n, NULL, NULL);
}
