/* SPDX-License-Identifier: Apache-2.0 */
/* every command but exec, against a scripted dormd: requests, output, errors, exit codes */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/test-server.h"

/* One answer per line of a script: what is asked, and what it gets. */
struct line {
	const char *method, *target;
	int status;
	const char *body;
	const char *headers;
};

struct script {
	const struct line *lines;
	size_t n, used[16];
};

/* The lines of one target take turns; the last one stays. */
static void play(struct test_server *s, const struct test_request *rq, int fd)
{
	struct script *script = test_server_userdata(s);
	const struct line *chosen = NULL;

	for (size_t i = 0; i < script->n; i++) {
		const struct line *l = &script->lines[i];

		if (!test_is(rq, l->method, l->target))
			continue;
		chosen = l;
		if (!script->used[i]++)
			break;
	}
	if (!chosen)
		test_reply_json(fd, 599, "{\"code\":599,\"message\":\"not in the script\"}");
	else if (chosen->headers)
		test_reply(fd, chosen->status, "application/json", chosen->headers, chosen->body);
	else
		test_reply_json(fd, chosen->status, chosen->body);
}

struct played {
	struct test_outcome o;
	char *log;
};

static void played_deinit(struct played *p)
{
	test_outcome_deinit(&p->o);
	free(p->log);
}

#define PLAY(_lines, ...)                                                                          \
	({                                                                                         \
		struct script _script = {.lines = (_lines),                                        \
					 .n = sizeof(_lines) / sizeof(*(_lines))};                 \
		struct test_server *_s = test_server_start(play, &_script);                        \
		struct played _p = {.o = test_dorm(_s, "", __VA_ARGS__, NULL)};                    \
		_p.log = test_server_log(_s);                                                      \
		test_server_stop(_s);                                                              \
		_p;                                                                                \
	})

#define assert_contains(_text, _part)                                                              \
	do {                                                                                       \
		if (!strstr((_text), (_part)))                                                     \
			fail_msg("'%s' is not in:\n%s", (_part), (_text));                         \
	} while (0)

static const struct line nothing[] = {{"GET", "/none", 404, "{}"}};

/* ---- the command line itself
 * ----------------------------------------------------------------------- */

static void test_usage(void **state)
{
	static const struct {
		const char *args[6];
		const char *err;
	} cases[] = {
		{{NULL}, "--help"},
		{{"sleap"}, "did you mean `dorm sleep`?"},
		{{"nonsense"}, "`dorm --help` lists the commands"},
		{{"template", "biuld"}, "did you mean `dorm template build`?"},
		{{"template"}, "template ls"},
		{{"--what"}, "unknown here"},
		{{"sleep"}, "missing a sandbox id"},
		{{"sleep", ""}, "an argument is empty"},
		{{"ps", "i1", "extra"}, "'extra' is one argument too many"},
		{{"ps", "I/1"}, "'I/1' is not a sandbox id"},
		{{"ps", "-a", "i1"}, "-a is for the list of sandboxes"},
		{{"attach", "i1"}, "missing a sandbox id and a process id"},
		{{"attach", "I/1", "7"}, "'I/1' is not a sandbox id"},
		{{"kill", "i1"}, "missing a sandbox id and a process id"},
		{{"kill", "-s", "HUP", "i1", "7"}, "--signal must be KILL or TERM, not 'HUP'"},
		{{"exec", "-d", "-t", "i1", "--", "cat"}, "--detach makes no sense with -i or -t"},
		{{"ps", "--nope"}, "unknown option --nope"},
		{{"ps", "-x"}, "unknown option -x"},
		{{"ps", "--all=1"}, "takes no value"},
		{{"wake", "i1", "--timeout"}, "option --timeout needs a value"},
		{{"wake", "i1", "-t"}, "option -t needs a value"},
		{{"wake", "i1", "-t", "soon"}, "'soon' is not a time"},
		{{"wake", "i1", "-t", "0"}, "is less than 1"},
		{{"fork", "i1", "-n", "1001"}, "is not from 1 to 1000"},
		{{"fork", "i1", "-n", "x"}, "is not a number"},
		{{"template", "build", "--memory", "10K"}, "not a whole number of MiB"},
		{{"template", "build", "--memory", "0"}, "is less than 1"},
		{{"template", "build", "--memory", "lots"}, "is not a size"},
		{{"template", "build", "--base", "debian", "--from-dir", "/"}, "only one of"},
		{{"template", "build", "--ready-port", "0"}, "is not from 1 to 65535"},
		{{"run", "base", "--env", "X"}, "--env wants KEY=VALUE, not 'X'"},
		{{"run", "base", "--env", "=X"}, "--env wants KEY=VALUE"},
		{{"run", "base", "--env", "X=\xff"}, "not valid UTF-8"},
		{{"run", "base", "--rm"}, "need a command"},
		{{"run", "base", "ls"}, "put -- before the command"},
		{{"run", "--json", "base", "--", "ls"}, "--json makes no sense with a command"},
		{{"exec", "i1"}, "missing a command"},
		{{"exec", "i1", "-i", "cat"}, "put -i before the sandbox id"},
		{{"exec", "I/1", "--", "cat"}, "'I/1' is not a sandbox id"},
		{{"exec", "--json", "i1", "--", "cat"}, "--json makes no sense here"},
		{{"snapshot", "export"}, "missing a snapshot id"},
		{{"snapshot", "export", "--raw", "--skip", "a", "s1"}, "no layers that could be"},
		{{"snapshot", "import", "--diff", "f"}, "--diff goes with --raw"},
		{{"snapshot", "import", "--raw", "--diff", "f"}, "--diff needs --parent"},
		{{"snapshot", "import", "--raw", "--parent", "s1", "f"}, "--parent goes with"},
		{{"snapshot", "compact"}, "missing a snapshot id"},
		{{"snapshot", "export", "--json", "s1"}, "--json makes no sense here"},
		{{"store"}, "store repair"},
		{{"store", "chekc"}, "did you mean `dorm store check`?"},
		{{"rm"}, "or --all"},
		{{"rm", "--all", "i1"}, "exclude each other"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const char *const *a = cases[i].args;
		struct played p = PLAY(nothing, a[0], a[1], a[2], a[3], a[4], a[5]);

		assert_int_equal(p.o.code, 2);
		assert_contains(p.o.err, cases[i].err);
		assert_string_equal(p.o.out, "");
		assert_string_equal(p.log, ""); /* nothing was asked for */
		played_deinit(&p);
	}
}

static void test_help(void **state)
{
	static const char *const names[] = {"template build",
					    "template ls",
					    "template rm",
					    "run",
					    "exec",
					    "ps",
					    "sleep",
					    "wake",
					    "fork",
					    "rm",
					    "inspect",
					    "memory",
					    "snapshot create",
					    "snapshot ls",
					    "snapshot rm",
					    "snapshot inspect",
					    "snapshot verify",
					    "snapshot tree",
					    "snapshot compact",
					    "snapshot export",
					    "snapshot import",
					    "snapshot layers",
					    "store df",
					    "store check",
					    "store repair",
					    "store rewrap",
					    "doctor",
					    "version"};
	struct played all = PLAY(nothing, "--help");

	assert_int_equal(all.o.code, 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char *copy = strdup(names[i]), *first = strtok(copy, " "),
		     *second = strtok(NULL, "");
		struct played p =
			PLAY(nothing, first, second ? second : "--help", second ? "--help" : NULL);
		struct played q = PLAY(nothing, "help", first, second);
		char usage[64];

		(void)snprintf(usage, sizeof(usage), "Usage: dorm %s", names[i]);
		assert_int_equal(p.o.code, 0);
		assert_contains(p.o.out, usage);
		assert_contains(p.o.out, "\nExamples:\n  ");
		assert_string_equal(p.o.out, q.o.out);
		assert_contains(all.o.out, names[i]);
		played_deinit(&p);
		played_deinit(&q);
		free(copy);
	}
	played_deinit(&all);
}

static void test_version(void **state)
{
	struct played p = PLAY(nothing, "version"), q = PLAY(nothing, "version", "--json");

	assert_string_equal(p.o.out, "dorm " DORM_VERSION "\n");
	assert_string_equal(q.o.out, "{\n  \"version\": \"" DORM_VERSION "\"\n}\n");
	played_deinit(&p);
	played_deinit(&q);
}

/* ---- dormd's errors, and none at all
 * --------------------------------------------------------------- */

static void test_unreachable(void **state)
{
	struct played p = PLAY(nothing, "--socket", "/nonexistent/dormd.sock", "ps");
	struct played q = PLAY(nothing, "ps", "--socket", "/dev/null");
	char path[200];

	assert_int_equal(p.o.code, 1);
	assert_contains(p.o.err,
			"dorm: cannot reach dormd at /nonexistent/dormd.sock: No such file");
	assert_contains(p.o.err, "hint: start it with `dormd --root DIR`");
	assert_int_equal(q.o.code, 1);
	assert_contains(q.o.err, "cannot reach dormd at /dev/null");
	played_deinit(&p);
	played_deinit(&q);
	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	p = PLAY(nothing, "ps", "--socket", path);
	assert_int_equal(p.o.code, 1);
	assert_contains(p.o.err, "cannot be a socket");
	played_deinit(&p);
}

static void test_error_bodies(void **state)
{
	static const struct line full[] = {
		{"GET", "/templates", 507,
		 "{\"code\":507,\"message\":\"no \\u001b[2Jspace\",\"hint\":\"free some\"}"}};
	static const struct line bare[] = {{"GET", "/templates", 500, "oops"}};
	static const struct line wrong[] = {{"GET", "/templates", 200, "{\"a\":"}};
	struct played p = PLAY(full, "template", "ls"), q = PLAY(bare, "template", "ls"),
		      w = PLAY(wrong, "template", "ls", "--json");

	assert_int_equal(p.o.code, 1);
	assert_string_equal(p.o.err, "dorm: no ?[2Jspace\nhint: free some\n");
	assert_int_equal(q.o.code, 1);
	assert_string_equal(q.o.err, "dorm: dormd answered HTTP 500 without saying why\n");
	assert_int_equal(w.o.code, 1);
	assert_contains(w.o.err, "is not JSON");
	assert_string_equal(w.o.out, "");
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&w);
}

static void hang_up(struct test_server *s, const struct test_request *rq, int fd)
{
	static const char half[] = "HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n[";

	if (test_server_userdata(s))
		(void)!write(fd, half, sizeof(half) - 1); /* seen by the test if it fails */
	(void)shutdown(fd, 2);
}

static void test_broken_off(void **state)
{
	int partial = 1;
	int *variants[] = {NULL, &partial};

	for (size_t i = 0; i < 2; i++) {
		struct test_server *s = test_server_start(hang_up, variants[i]);
		struct test_outcome o = test_dorm(s, "", "ps", NULL);

		assert_int_equal(o.code, 1);
		assert_contains(o.err, "closed the connection before its answer was complete");
		assert_contains(o.err, "hint: ");
		test_outcome_deinit(&o);
		test_server_stop(s);
	}
}

static void test_full_output(void **state)
{
	const char *args[] = {"version", NULL};
	struct script script = {.lines = nothing, .n = 1};
	struct test_server *s = test_server_start(play, &script);
	int full = open("/dev/full", 1), null = open("/dev/null", 2), fds[] = {null, full, null};

	assert_int_equal(test_wait(test_spawn(s, fds, args)), 1);
	close(full);
	close(null);
	test_server_stop(s);
}

/* ---- templates
 * ------------------------------------------------------------------------------------ */

#define BUILD_STATUS "/templates/t1/builds/b1/status?logsOffset="

static void test_build(void **state)
{
	static const struct line lines[] = {
		{"POST", "/v3/templates", 202,
		 "{\"templateID\":\"t1\",\"buildID\":\"b1\",\"names\":[\"web\"]}"},
		{"POST", "/v2/templates/t1/builds/b1", 202, "{}"},
		{"GET", BUILD_STATUS "0", 200,
		 "{\"status\":\"waiting\",\"logEntries\":[],\"logs\":[]}"},
		{"GET", BUILD_STATUS "0", 200,
		 "{\"status\":\"building\",\"logEntries\":[{\"level\":\"info\",\"message\":\"one\"}"
		 ","
		 "{\"message\":\"two\"}],\"logs\":[\"one\",\"two\"]}"},
		{"GET", BUILD_STATUS "2", 200,
		 "{\"status\":\"ready\",\"templateID\":\"t1\",\"logs\":[\"three\"]}"},
	};
	struct played p = PLAY(lines, "template", "build", "web", "--memory", "1G", "--cpus=2",
			       "--start-cmd", "run me", "--base", "busybox");
	struct played q = PLAY(lines, "template", "build", "--json");

	assert_int_equal(p.o.code, 0);
	assert_contains(p.o.err, " s  one\n");
	assert_contains(p.o.err, " s  two\n");
	assert_contains(p.o.err, " s  three\n");
	assert_contains(p.o.out, "web is ready after ");
	assert_contains(p.log,
			"POST /v3/templates {\"name\":\"web\",\"memoryMB\":1024,\"cpuCount\":2}\n");
	assert_contains(p.log, "POST /v2/templates/t1/builds/b1 {\"recipe\":{\"base\":\"busybox\","
			       "\"start\":\"run me\",\"memoryMB\":1024,\"cpuCount\":2}}\n");
	assert_int_equal(q.o.code, 0);
	assert_contains(q.log, "{\"recipe\":{\"base\":\"debian\"}}");
	assert_contains(q.log, "{\"name\":\"base\",\"memoryMB\":512,\"cpuCount\":1}");
	assert_contains(q.o.out, "{\n  \"status\": \"ready\"");
	played_deinit(&p);
	played_deinit(&q);
}

/* Paths become absolute, options go above what the file says. */
static void test_build_recipe(void **state)
{
	static const struct line lines[] = {
		{"POST", "/v3/templates", 202, "{\"templateID\":\"t1\",\"buildID\":\"b1\"}"},
		{"POST", "/v2/templates/t1/builds/b1", 202, "{}"},
		{"GET", BUILD_STATUS "0", 200, "{\"status\":\"ready\",\"logs\":[]}"},
	};
	static const char text[] = "{\"base\": \"debian\", \"memoryMB\": 100}";
	char dir[] = "/tmp/dorm-test-recipe.XXXXXX", file[64], wanted[256];
	struct played p, q, none, bad;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(file, sizeof(file), "%s/r.json", dir);
	assert_int_equal(file_replace(AT_FDCWD, file, text, strlen(text), 0644), 0);
	p = PLAY(lines, "template", "build", "-f", file, "-m", "200M", "--ready-port", "80");
	(void)snprintf(wanted, sizeof(wanted),
		       "b1 {\"recipe\":{\"base\":\"debian\",\"memoryMB\":200,\"ready\":{"
		       "\"port\":80}},\"contextDir\":\"%s\"}\n",
		       dir);
	assert_int_equal(p.o.code, 0);
	assert_contains(p.log, wanted);
	q = PLAY(lines, "template", "build", "--from-oci", "/tmp/.:v1", "--no-working-set");
	assert_contains(q.log, "b1 {\"recipe\":{\"base\":{\"oci\":\"/tmp:v1\"}},"
			       "\"workingSet\":false}\n");
	none = PLAY(lines, "template", "build", "--from-tar", "/no/such/file");
	assert_int_equal(none.o.code, 1);
	assert_contains(none.o.err, "/no/such/file");
	assert_string_equal(none.log, ""); /* nothing was asked for */
	assert_int_equal(file_replace(AT_FDCWD, file, "{\n,", 3, 0644), 0);
	bad = PLAY(lines, "template", "build", "-f", file);
	assert_int_equal(bad.o.code, 1);
	assert_contains(bad.o.err, "r.json: line 2");
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&none);
	played_deinit(&bad);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

static void test_build_fails(void **state)
{
	static const struct line lines[] = {
		{"POST", "/v3/templates", 202, "{\"templateID\":\"t1\",\"buildID\":\"b1\"}"},
		{"POST", "/v2/templates/t1/builds/b1", 202, "{}"},
		{"GET", BUILD_STATUS "0", 200,
		 "{\"status\":\"error\",\"reason\":{\"message\":\"no "
		 "kernel\",\"step\":\"guest\"}}"},
	};
	static const struct line silent[] = {{"POST", "/v3/templates", 202, "{}"}};
	struct played p = PLAY(lines, "template", "build"), q = PLAY(silent, "template", "build");

	assert_int_equal(p.o.code, 1);
	assert_string_equal(p.o.err,
			    "dorm: template base could not be built at step guest: no kernel\n");
	assert_int_equal(q.o.code, 1);
	assert_contains(q.o.err, "did not say the ids");
	played_deinit(&p);
	played_deinit(&q);
}

static void test_templates(void **state)
{
	static const struct line lines[] = {
		{"GET", "/templates", 200,
		 "[{\"templateID\":\"t1\",\"names\":[\"base\"],\"memoryMB\":512,\"cpuCount\":1,"
		 "\"createdAt\":\"2020-01-01T00:00:00Z\",\"snapshotID\":\"s1\",\"storedBytes\":"
		 "1048576}]"},
		{"DELETE", "/templates/base", 204, ""},
		{"DELETE", "/templates/a%2Fb", 404,
		 "{\"code\":404,\"message\":\"no template a/b\"}"},
	};
	static const struct line none[] = {{"GET", "/templates", 200, "[]"}};
	struct played p = PLAY(lines, "template", "ls"), q = PLAY(none, "template", "ls"),
		      r = PLAY(lines, "template", "rm", "a/b", "base");

	assert_int_equal(p.o.code, 0);
	assert_contains(p.o.out, "NAME");
	assert_contains(p.o.out, "512 MiB");
	assert_contains(p.o.out, "1.0 MiB");
	assert_int_equal(q.o.code, 0);
	assert_string_equal(q.o.out, "");
	assert_contains(q.o.err, "no templates yet");
	assert_int_equal(r.o.code, 1); /* one failed, the other was done all the same */
	assert_string_equal(r.o.out, "base\n");
	assert_contains(r.o.err, "dorm: no template a/b");
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&r);
}

/* ---- sandboxes
 * ------------------------------------------------------------------------------------ */

static void test_run(void **state)
{
	static const struct line lines[] = {
		{"POST", "/v2/sandboxes", 201,
		 "{\"sandboxID\":\"i1\",\"wake\":{\"totalMs\":47.26,\"phases\":{\"vmm\":20}}}"}};
	static const struct line refused[] = {
		{"POST", "/v2/sandboxes", 404,
		 "{\"code\":404,\"message\":\"no template x\",\"hint\":\"build it\"}"}};
	struct played p = PLAY(lines, "run", "base", "--timeout", "10m", "-e", "A=b=c",
			       "--metadata", "k=v"),
		      q = PLAY(lines, "run", "base", "--json"), r = PLAY(refused, "run", "x"),
		      a = PLAY(lines, "run", "base", "--auto-pause", "--auto-resume"),
		      c = PLAY(refused, "run", "x", "--", "ls");

	assert_int_equal(p.o.code, 0);
	assert_string_equal(p.o.out, "i1\n"); /* for id=$(dorm run base) */
	assert_contains(p.log,
			"{\"templateID\":\"base\",\"timeout\":600,\"envVars\":{\"A\":\"b=c\"},"
			"\"metadata\":{\"k\":\"v\"}}");
	assert_contains(q.log, "{\"templateID\":\"base\",\"timeout\":3600}");
	assert_contains(q.o.out, "\"totalMs\": 47.26");
	assert_contains(a.log, "\"autoPause\":true,\"autoResume\":{\"enabled\":true}}");
	assert_int_equal(r.o.code, 1);
	assert_string_equal(r.o.err, "dorm: no template x\nhint: build it\n");
	assert_int_equal(c.o.code, 125);
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&r);
	played_deinit(&c);
	played_deinit(&a);
}

#define SANDBOX(_id, _status, _failure)                                                            \
	"{\"sandboxID\":\"" _id                                                                    \
	"\",\"templateID\":\"base\",\"startedAt\":\"2020-01-01T00:00:00.5Z\","                     \
	"\"endAt\":\"2999-01-01T00:00:00Z\",\"state\":\"running\",\"status\":\"" _status           \
	"\",\"failure\":" _failure ",\"memoryMB\":512}"

static void test_ps(void **state)
{
	static const struct line lines[] = {
		{"GET", "/v2/sandboxes?state=running,paused", 200,
		 "[" SANDBOX("i1", "running", "null") "]", "x-next-token: a/b\r\n"},
		{"GET", "/v2/sandboxes?state=running,paused&nextToken=a%2Fb", 200,
		 "[" SANDBOX("i2", "asleep", "null") "]"},
		{"GET", "/v2/sandboxes?state=running,paused,failed", 200,
		 "[" SANDBOX("i3", "failed", "\"QEMU died\"") "]"},
	};
	static const struct line empty[] = {
		{"GET", "/v2/sandboxes?state=running,paused", 200, "[]"}};
	static const struct line odd[] = {{"GET", "/v2/sandboxes?state=running,paused", 200, "{}"}};
	struct played p = PLAY(lines, "ps"), a = PLAY(lines, "ps", "-a"),
		      j = PLAY(lines, "ps", "--json"), e = PLAY(empty, "ps", "--json"),
		      o = PLAY(odd, "ps");
	json_t *json = json_loads(j.o.out, 0, NULL);

	assert_int_equal(p.o.code, 0);
	assert_contains(p.o.out, "ID TEMPLATE STATUS   MEMORY");
	assert_contains(p.o.out, "i1 base     running 512 MiB");
	assert_contains(p.o.out, "i2 base     asleep");
	assert_null(strstr(p.o.out, "failed"));
	assert_null(strstr(p.o.out, "\033"));
	assert_contains(a.o.out, "\n\ni3 failed: QEMU died\n");
	assert_int_equal(json_array_size(json), 2);
	assert_string_equal(e.o.out, "[]\n");
	assert_int_equal(o.o.code, 1);
	assert_contains(o.o.err, "makes no sense");
	json_decref(json);
	played_deinit(&p);
	played_deinit(&a);
	played_deinit(&j);
	played_deinit(&e);
	played_deinit(&o);
}

static void test_sleep(void **state)
{
	static const struct line lines[] = {
		{"POST", "/sandboxes/i1/pause", 204, ""},
		{"POST", "/sandboxes/i2/pause", 409,
		 "{\"code\":409,\"message\":\"already asleep\"}"},
		{"GET", "/sandboxes/i2", 200, "{\"state\":\"paused\"}"},
		{"POST", "/sandboxes/i3/pause", 409,
		 "{\"code\":409,\"message\":\"it is being forked\"}"},
		{"GET", "/sandboxes/i3", 200, "{\"state\":\"running\"}"},
	};
	struct played p = PLAY(lines, "sleep", "i1", "i2"), q = PLAY(lines, "sleep", "i3", "i1"),
		      j = PLAY(lines, "sleep", "--json", "i1", "i3"),
		      n = PLAY(lines, "sleep", "--no-memory", "i1");
	json_t *json = json_loads(j.o.out, 0, NULL);

	assert_int_equal(p.o.code, 0);
	assert_contains(p.o.out, "i1 is asleep after ");
	assert_string_equal(p.o.err, "i2 was asleep already\n");
	assert_contains(p.log, "POST /sandboxes/i1/pause {}\n");
	assert_contains(n.log, "POST /sandboxes/i1/pause {\"memory\":false}\n");
	assert_int_equal(q.o.code, 1);
	assert_contains(q.o.err, "dorm: it is being forked");
	assert_contains(q.o.out, "i1 is asleep");
	assert_int_equal(j.o.code, 1);
	assert_int_equal(json_array_size(json), 2);
	assert_string_equal(json_string_value(json_object_get(
				    json_object_get(json_array_get(json, 1), "error"), "message")),
			    "it is being forked");
	json_decref(json);
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&j);
	played_deinit(&n);
}

static void test_wake(void **state)
{
	static const struct line lines[] = {
		{"POST", "/v2/sandboxes/i1/connect", 201,
		 "{\"sandboxID\":\"i1\",\"wake\":{\"totalMs\":47.26,\"phases\":{\"vmm\":20,"
		 "\"load\":6.04}}}"},
		{"POST", "/v2/sandboxes/i2/connect", 200, "{\"sandboxID\":\"i2\"}"},
	};
	struct played p = PLAY(lines, "wake", "i1", "i2", "--timeout", "2h"),
		      b = PLAY(lines, "wake", "i1", "--reboot");

	assert_int_equal(p.o.code, 0);
	assert_string_equal(p.o.out, "i1 is awake after 47.3 ms (vmm 20.0 ms, load 6.0 ms)\n"
				     "i2 was awake already\n");
	assert_contains(p.log, "POST /v2/sandboxes/i1/connect {\"timeout\":7200}\n");
	assert_contains(b.log, "POST /v2/sandboxes/i1/connect {\"memory\":false}\n");
	played_deinit(&p);
	played_deinit(&b);
}

static void test_fork(void **state)
{
	static const struct line lines[] = {{"POST", "/sandboxes/i1/fork", 201,
					     "[{\"sandbox\":{\"sandboxID\":\"i2\"}},{\"error\":{"
					     "\"code\":503,\"message\":\"no memory\"}},"
					     "{\"sandbox\":{\"sandboxID\":\"i3\"}}]"}};
	static const struct line good[] = {
		{"POST", "/sandboxes/i1/fork", 201, "[{\"sandbox\":{\"sandboxID\":\"i2\"}}]"}};
	struct played p = PLAY(lines, "fork", "-n", "3", "i1"),
		      q = PLAY(good, "fork", "i1", "-t", "60");

	assert_int_equal(p.o.code, 1);
	assert_string_equal(p.o.out, "i2\ni3\n");
	assert_string_equal(p.o.err,
			    "dorm: fork 2 of 3: no memory\ndorm: 2 of 3 forks were made\n");
	assert_contains(p.log, "{\"count\":3}");
	assert_int_equal(q.o.code, 0);
	assert_contains(q.log, "{\"count\":1,\"timeout\":60}");
	played_deinit(&p);
	played_deinit(&q);
}

static void test_network(void **state)
{
	static const struct line run[] = {
		{"POST", "/v2/sandboxes", 201, "{\"sandboxID\":\"i1\"}"}};
	static const struct line change[] = {
		{"PUT", "/sandboxes/i1/network", 204, ""},
		{"GET", "/sandboxes/i1/network", 200, "{\"allowInternetAccess\":false}"}};
	static const struct line refused[] = {
		{"PUT", "/sandboxes/i1/network", 400,
		 "{\"code\":400,\"message\":\"'x' is no network rule\"}"}};
	struct played p = PLAY(run, "run", "--allow", "1.2.3.4:5", "--allow", "::/0", "--deny",
			       "9.9.9.9", "--no-internet", "base"),
		      q = PLAY(change, "network", "--network", "i1"),
		      r = PLAY(change, "network", "--off", "i1", "--json"),
		      s = PLAY(refused, "network", "--allow", "x", "i1"),
		      t = PLAY(change, "network", "i1"),
		      u = PLAY(change, "network", "--off", "--allow", "x", "i1");

	assert_contains(p.log,
			"\"allow_internet_access\":false,\"network\":{\"allowOut\":[\"1.2.3.4:5\","
			"\"::/0\"],\"denyOut\":[\"9.9.9.9\"]}}");
	assert_int_equal(q.o.code, 0);
	assert_contains(q.log, "PUT /sandboxes/i1/network {\"allow_internet_access\":true,"
			       "\"allowOut\":[],\"denyOut\":[]}\n");
	assert_contains(r.log,
			"PUT /sandboxes/i1/network {\"allow_internet_access\":false}\n");
	assert_contains(r.o.out, "\"allowInternetAccess\": false");
	assert_int_equal(s.o.code, 1);
	assert_string_equal(s.o.err, "dorm: 'x' is no network rule\n");
	assert_int_equal(t.o.code, 0);
	assert_null(strstr(t.log, "PUT"));
	assert_int_equal(u.o.code, 2);
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&r);
	played_deinit(&s);
	played_deinit(&t);
	played_deinit(&u);
}

static void test_rm(void **state)
{
	static const struct line lines[] = {
		{"DELETE", "/sandboxes/i1", 204, ""},
		{"DELETE", "/sandboxes/i9", 404, "{\"code\":404,\"message\":\"no sandbox i9\"}"},
		{"DELETE", "/sandboxes/..", 404, "{\"code\":404,\"message\":\"no sandbox ..\"}"},
		{"GET", "/v2/sandboxes?state=running,paused,failed", 200,
		 "[{\"sandboxID\":\"i1\"}]"},
	};
	struct played p = PLAY(lines, "rm", "i1"), q = PLAY(lines, "rm", "i9", ".."),
		      r = PLAY(lines, "rm", "--all");

	assert_int_equal(p.o.code, 0);
	assert_string_equal(p.o.out, "i1\n");
	assert_int_equal(q.o.code, 1);
	assert_string_equal(q.o.err, "dorm: no sandbox i9\ndorm: no sandbox ..\n");
	assert_int_equal(r.o.code, 0);
	assert_string_equal(r.o.out, "i1\n");
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&r);
}

static void test_describe(void **state)
{
	static const struct line lines[] = {
		{"GET", "/sandboxes/i1?repair=1", 200,
		 "{\"sandboxID\":\"i1\",\"memoryMB\":512,\"metadata\":{\"jobName\":\"x\\u001b\"}}"},
		{"GET", "/sandboxes/i1/memory", 200,
		 "{\"sharedBytes\":1048576,\"faults\":{\"missing\":3,\"deep\":{\"a\":1}},\"empty\":"
		 "{}}"},
	};
	struct played p = PLAY(lines, "inspect", "i1"), q = PLAY(lines, "memory", "i1"),
		      r = PLAY(lines, "memory", "i1", "--json");

	assert_string_equal(p.o.out,
			    "sandbox ID  i1\nmemory      512 MiB\n\nmetadata\n  jobName  x?\n");
	assert_string_equal(q.o.out,
			    "shared  1.0 MiB\n\nfaults\n  missing  3\n\n  deep\n    a  1\n");
	assert_contains(r.o.out, "\"sharedBytes\": 1048576");
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&r);
}

/* ---- snapshots
 * ------------------------------------------------------------------------------------ */

static void test_snapshots(void **state)
{
	static const struct line lines[] = {
		{"POST", "/sandboxes/i1/snapshots", 201, "{\"snapshotID\":\"s1\",\"names\":[]}"},
		{"GET", "/snapshots", 200,
		 "[{\"snapshotID\":\"s1\",\"names\":[\"n\"],\"memoryMB\":512,\"storedBytes\":5,"
		 "\"sharedBytes\":2048},{\"snapshotID\":\"s2\",\"damaged\":\"no \\u001b "
		 "map\"}]"},
		{"GET", "/snapshots/s1", 200,
		 "{\"id\":\"s1\",\"layers\":[{\"id\":\"l1\",\"bytes\":4096},{\"id\":\"l2\","
		 "\"bytes\":8192}]}"},
		{"DELETE", "/templates/s1", 204, ""},
	};
	struct played p = PLAY(lines, "snapshot", "i1"),
		      q = PLAY(lines, "snapshot", "create", "i1", "--name", "n"),
		      l = PLAY(lines, "snapshot", "ls"),
		      i = PLAY(lines, "snapshot", "inspect", "s1"),
		      r = PLAY(lines, "snapshot", "rm", "s1");

	assert_string_equal(p.o.out, "s1\n");
	assert_contains(p.log, "POST /sandboxes/i1/snapshots {}\n");
	assert_contains(q.log, "{\"name\":\"n\"}");
	assert_contains(l.o.out, "2.0 KiB");
	assert_contains(l.o.out, "\n\ns2 is damaged: no ? map\n");
	assert_contains(i.o.out, "id  s1\n\nlayers\n");
	assert_contains(i.o.out, "8.0 KiB");
	assert_int_equal(r.o.code, 0);
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&l);
	played_deinit(&i);
	played_deinit(&r);
}

static void verify(struct test_server *s, const struct test_request *rq, int fd)
{
	static const char cut[] = "{\"done\":1,\"total\":2}\n{\"done\":2,\"total\":2}\n";
	const char *last = test_server_userdata(s);

	test_stream_begin(fd, "application/x-ndjson");
	test_stream(fd, cut, 12); /* in the middle of a line */
	test_stream(fd, cut + 12, sizeof(cut) - 1 - 12);
	test_stream(fd, last, strlen(last));
	test_stream_end(fd);
}

static struct test_outcome verify_with(const char *last, const char *option)
{
	struct test_server *s = test_server_start(verify, (void *)last);
	struct test_outcome o = test_dorm(s, "", "snapshot", "verify", "s1", option, NULL);

	test_server_stop(s);
	return o;
}

static void test_verify(void **state)
{
	struct test_outcome o = verify_with("{\"ok\":true,\"frames\":3,\"bytes\":2048}\n", NULL);

	assert_int_equal(o.code, 0);
	assert_string_equal(o.out, "s1 is sound: 3 frames, 2.0 KiB\n");
	assert_string_equal(o.err, ""); /* no bar without a terminal */
	test_outcome_deinit(&o);
	o = verify_with("{\"ok\":false,\"error\":{\"message\":\"layer l1, frame 2: bad "
			"seal\",\"hint\":\"h\"}}\n",
			"--json");
	assert_int_equal(o.code, 1);
	assert_string_equal(o.err, "dorm: layer l1, frame 2: bad seal\nhint: h\n");
	assert_contains(o.out, "\"ok\": false");
	test_outcome_deinit(&o);
	o = verify_with("{\"done\":2,\"total\":2}\n", NULL);
	assert_int_equal(o.code, 1);
	assert_contains(o.err, "did not say how the verification ended");
	test_outcome_deinit(&o);
	o = verify_with("{\"ok\":true", NULL);
	assert_int_equal(o.code, 1);
	assert_contains(o.err, "in the middle of a line");
	test_outcome_deinit(&o);
	o = verify_with("[]\n", NULL);
	assert_int_equal(o.code, 1);
	assert_contains(o.err, "not a JSON object");
	test_outcome_deinit(&o);
}

/* ---- doctor
 * --------------------------------------------------------------------------------------- */

static void test_doctor(void **state)
{
	static const struct line bad[] = {
		{"GET", "/doctor", 200,
		 "{\"checks\":[{\"name\":\"kernel\",\"status\":\"ok\",\"found\":\"6.18\"},"
		 "{\"name\":\"kvm\",\"status\":\"warn\",\"found\":\"emulated\",\"cost\":\"slow\","
		 "\"remedy\":\"buy\"},"
		 "{\"name\":\"uffd\",\"status\":\"fail\",\"found\":\"no\",\"cost\":\"all\","
		 "\"remedy\":\"root\"}]}"}};
	static const struct line good[] = {
		{"GET", "/doctor", 200,
		 "{\"checks\":[{\"name\":\"kernel\",\"status\":\"ok\",\"found\":\"6\"}]}"}};
	struct played p = PLAY(bad, "doctor"), q = PLAY(good, "doctor", "--json"),
		      r = PLAY(nothing, "doctor");

	assert_int_equal(p.o.code, 1);
	assert_contains(p.o.out,
			"ok    kernel  6.18\nwarn  kvm     emulated\n              cost:   slow\n");
	assert_contains(p.o.out, "3 checks: 1 ok, 1 to know about, 1 failed");
	assert_int_equal(q.o.code, 0);
	assert_contains(q.o.out, "\"checks\": [");
	assert_int_equal(r.o.code, 1); /* it answers, so its own program is not asked */
	assert_contains(r.o.err, "not in the script");
	played_deinit(&p);
	played_deinit(&q);
	played_deinit(&r);
}

/* Without a daemon the program dormd on $PATH is asked. */
static void test_doctor_alone(void **state)
{
	char dir[] = "/tmp/test-doctor-XXXXXX", program[64];
	char *old = strdup(getenv("PATH")), *path = NULL;
	struct played p;
	FILE *f;

	assert_non_null(mkdtemp(dir));
	(void)snprintf(program, sizeof(program), "%s/dormd", dir);
	f = fopen(program, "w");
	assert_non_null(f);
	(void)fputs("#!/bin/sh\n[ \"$*\" = --doctor ] && echo "
		    "'{\"checks\":[{\"name\":\"kvm\",\"status\":\"warn\",\"found\":\"none\"}]}'"
		    "\nexit 1\n",
		    f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(program, 0755), 0);
	assert_true(asprintf(&path, "%s:%s", dir, old) > 0);
	(void)setenv("PATH", path, 1);
	p = PLAY(nothing, "--socket", "/nonexistent", "doctor");
	assert_int_equal(p.o.code, 0);
	assert_contains(p.o.err, "asking `dormd --doctor` instead");
	assert_contains(p.o.out, "warn  kvm  none");
	played_deinit(&p);
	(void)setenv("PATH", "/nonexistent", 1);
	p = PLAY(nothing, "--socket", "/nonexistent", "doctor");
	assert_int_equal(p.o.code, 1);
	assert_contains(p.o.err, "cannot run dormd --doctor");
	played_deinit(&p);
	(void)setenv("PATH", old, 1);
	(void)unlink(program);
	(void)rmdir(dir);
	free(old);
	free(path);
}

TEST_MAIN(cmocka_unit_test(test_usage), cmocka_unit_test(test_help), cmocka_unit_test(test_version),
	  cmocka_unit_test(test_unreachable), cmocka_unit_test(test_error_bodies),
	  cmocka_unit_test(test_broken_off), cmocka_unit_test(test_full_output),
	  cmocka_unit_test(test_build), cmocka_unit_test(test_build_recipe),
		cmocka_unit_test(test_build_fails),
	  cmocka_unit_test(test_templates), cmocka_unit_test(test_run), cmocka_unit_test(test_ps),
	  cmocka_unit_test(test_sleep), cmocka_unit_test(test_wake), cmocka_unit_test(test_fork),
	  cmocka_unit_test(test_network), cmocka_unit_test(test_rm), cmocka_unit_test(test_describe),
	  cmocka_unit_test(test_snapshots), cmocka_unit_test(test_verify),
	  cmocka_unit_test(test_doctor), cmocka_unit_test(test_doctor_alone))
