/* SPDX-License-Identifier: Apache-2.0 */
/* What a program starts belongs to it: cgroups, signals, what is left behind (test-box.h). */
#include "agent/test-box.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"

/* A program whose child ignores SIGTERM, its grandchild has left the session as well. */
#define STUBBORN                                                                                   \
	"(trap '' TERM; echo a $(sh -c 'echo $PPID'); setsid sh -c 'trap \\\"\\\" TERM; "          \
	"echo b $$; sleep 1000; :' & sleep 1000; :) & wait"

static void open_shell(struct box *b, struct run *r, const char *script, const char *fields)
{
	_cleanup_free_ char *request = str_printf(
		"{\"process\":{\"cmd\":\"/bin/sh\",\"args\":[\"-c\",\"%s\"]}%s}", script, fields);

	run_open(b, r, request, NULL, 0);
	run_until_started(r);
}

/* The number after "\nNAME " */
static int pid_after(const struct run *r, const char *name)
{
	_cleanup_free_ char *text = strndup(r->out.data, r->out.len);
	char *at = strstr(text, name);

	assert_non_null(at);
	return atoi(at + strlen(name));
}

static bool is_alive(int pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/stat", pid);
	_cleanup_free_ char *text = NULL;
	size_t len;

	return file_read(AT_FDCWD, path, 4096, &text, &len) == 0 && !strstr(text, ") Z ");
}

static void wait_dead(int pid)
{
	for (int i = 0; i < 500 && is_alive(pid); i++)
		clock_sleep_ms(10);
	assert_false(is_alive(pid));
}

static unsigned count_cells(const struct box *b)
{
	DIR *d = opendir(b->cgroup);
	struct dirent *e;
	unsigned n = 0;

	assert_non_null(d);
	while ((e = readdir(d)))
		n += e->d_type == DT_DIR && e->d_name[0] == 'p';
	closedir(d);
	return n;
}

static void test_kill_all(void **state)
{
	struct box b = {0};
	struct run r = {0};
	int child, grandchild;

	if (!box_make_cgroup(&b))
		skip();
	box_start(&b);
	open_shell(&b, &r, STUBBORN, "");
	run_until(&r, "a ");
	run_until(&r, "b ");
	run_until(&r, "\n");
	clock_sleep_ms(100);
	child = pid_after(&r, "a ");
	grandchild = pid_after(&r, "b ");
	assert_true(is_alive(child) && is_alive(grandchild));
	assert_int_equal(count_cells(&b), 1);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":\"SIGNAL_SIGKILL\"", NULL),
			 200);
	run_finish(&r);
	assert_string_equal(r.status, "signal: killed");
	wait_dead(child);
	wait_dead(grandchild);
	run_deinit(&r);
	run_expect(&b, "true", 0, ""); /* an end sweeps, too */
	assert_int_equal(count_cells(&b), 0);
	box_stop(&b);
}

/* SIGTERM ends the program; what ignored it can still be killed, and lives until then. */
static void test_left_behind(void **state)
{
	struct box b = {0};
	struct run r = {0};
	int child, grandchild;

	if (!box_make_cgroup(&b))
		skip();
	box_start(&b);
	open_shell(&b, &r, STUBBORN, "");
	run_until(&r, "b ");
	run_until(&r, "\n");
	clock_sleep_ms(100);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":15", NULL), 200);
	run_finish(&r);
	assert_string_equal(r.status, "signal: terminated");
	child = pid_after(&r, "a ");
	grandchild = pid_after(&r, "b ");
	clock_sleep_ms(100);
	assert_true(is_alive(child) && is_alive(grandchild));
	assert_int_equal(count_cells(&b), 1);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":15", NULL), 404);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":9", NULL), 200);
	wait_dead(child);
	wait_dead(grandchild);
	run_expect(&b, "true", 0, "");
	assert_int_equal(count_cells(&b), 0);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":9", NULL), 404);
	run_deinit(&r);
	box_stop(&b);
}

static void test_deadline_kills_all(void **state)
{
	const struct channel_header h = {"connect-timeout-ms", "1500"};
	struct box b = {0};
	struct run r = {0};

	if (!box_make_cgroup(&b))
		skip();
	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"/bin/sh\",\"args\":[\"-c\",\"" STUBBORN "\"]}}",
		 &h, 1);
	run_finish(&r);
	assert_string_equal(r.code, "deadline_exceeded");
	wait_dead(pid_after(&r, "a "));
	wait_dead(pid_after(&r, "b "));
	run_deinit(&r);
	run_expect(&b, "true", 0, "");
	assert_int_equal(count_cells(&b), 0);
	box_stop(&b);
}

/* Without cgroups the process group has to do. */
static void test_without_cgroup(void **state)
{
	struct box b = {0};
	struct run r = {0};
	int child;

	box_start(&b);
	open_shell(&b, &r, "(trap '' TERM; echo a $(sh -c 'echo $PPID'); sleep 1000; :) & wait",
		   "");
	run_until(&r, "a ");
	run_until(&r, "\n");
	child = pid_after(&r, "a ");
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":9", NULL), 200);
	run_finish(&r);
	wait_dead(child);
	run_deinit(&r);
	box_stop(&b);
}

static void test_system(void **state)
{
	struct box b = {0};
	struct run r = {0}, s = {0};
	const char *script =
		"cat /proc/self/oom_score_adj /proc/self/cgroup; echo; read x; echo $x";
	char *body;

	if (!box_make_cgroup(&b))
		skip();
	box_start(&b);
	open_shell(&b, &r, script, "");
	open_shell(&b, &s, script, ",\"tag\":\"_system\"");
	run_until(&r, "\n\n");
	run_until(&s, "\n\n");
	assert_memory_equal(r.out.data, "100\n", 4);
	assert_memory_equal(s.out.data, "0\n", 2);
	assert_non_null(strstr(r.out.data, strrchr(b.cgroup, '/')));
	assert_null(strstr(s.out.data, strrchr(b.cgroup, '/')));
	assert_int_equal(box_call(&b, "POST", "/process.Process/List", "{}", &body), 200);
	assert_non_null(strstr(body, "\"tag\":\"_system\""));
	free(body);
	assert_int_equal(box_type(&b, r.pid, "stdin", "x\n"), 200);
	assert_int_equal(box_type(&b, s.pid, "stdin", "x\n"), 200);
	run_finish(&r);
	run_finish(&s);
	run_deinit(&r);
	run_deinit(&s);
	box_stop(&b);
}

/* Wake-ups of the agent while a program is silent and a client waits: none. */
static void test_idle(void **state)
{
	struct box b = {0};
	struct run r = {0};
	unsigned long before[2], after[2];

	box_start(&b);
	open_shell(&b, &r, "sleep 1000", "");
	clock_sleep_ms(300);
	for (int i = 0; i < 2; i++) {
		unsigned long *at = i ? after : before;
		_cleanup_free_ char *path = str_printf("/proc/%d/status", b.pid);
		_cleanup_free_ char *text = NULL;
		size_t len;

		assert_int_equal(file_read(AT_FDCWD, path, 16384, &text, &len), 0);
		assert_int_equal(sscanf(strstr(text, "\nvoluntary_ctxt_switches"),
					"\nvoluntary_ctxt_switches: %lu", &at[0]),
				 1);
		if (!i)
			clock_sleep_ms(2000);
	}
	assert_int_equal(after[0], before[0]);
	assert_int_equal(box_about(&b, "SendSignal", r.pid, ",\"signal\":9", NULL), 200);
	run_finish(&r);
	run_deinit(&r);
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kill_all),
		cmocka_unit_test(test_left_behind),
		cmocka_unit_test(test_deadline_kills_all),
		cmocka_unit_test(test_without_cgroup),
		cmocka_unit_test(test_system),
		cmocka_unit_test(test_idle),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
