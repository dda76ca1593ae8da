/* SPDX-License-Identifier: Apache-2.0 */
/* programs that talk, fail, hang, and are given up */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "guest/runner.h"

static char said[4096];
static struct problem problem;
static bool cancel;

static void hear(void *userdata, const char *text)
{
	size_t n = strlen(said);

	(void)snprintf(said + n, sizeof(said) - n, "%s\n", text);
}

static bool is_cancelled(void *userdata)
{
	return cancel;
}

static const struct runner runner = {
	.progress = hear, .cancelled = is_cancelled, .problem = &problem};

static int setup(void **state)
{
	said[0] = 0;
	problem = PROBLEM_INIT;
	cancel = false;
	return 0;
}

static int run(const char *script, uint64_t timeout_ms)
{
	const char *const argv[] = {"sh", "-c", script, NULL};

	return runner_run(
		&runner,
		&(struct runner_command){.what = "trying", .argv = argv, .timeout_ms = timeout_ms});
}

static void test_lines(void **state)
{
	assert_int_equal(run("printf 'one\\n\\n two\\r\\nold\\rnew\\n\\tx\\001y\\nlast'", 0), 0);
	assert_string_equal(said, "  one\n   two\n  new\n   x y\n  last\n");
	assert_false(problem_is_set(&problem));
}

static void test_long_line(void **state)
{
	assert_int_equal(run("i=0; while [ $i -lt 5000 ]; do printf x; i=$((i+1)); done", 0), 0);
	assert_int_equal(strlen(said), 2 + 400 + 1);
}

static void test_failure(void **state)
{
	assert_int_equal(run("echo first; echo the reason >&2; exit 7", 0), -EIO);
	assert_string_equal(problem.message, "trying: exit code 7: first | the reason");
	problem = PROBLEM_INIT;
	assert_int_equal(run("kill -9 $$", 0), -EIO);
	assert_non_null(strstr(problem.message, "killed by signal 9"));
	problem = PROBLEM_INIT;
	assert_int_equal(run("exit 1", 0), -EIO);
	assert_non_null(strstr(problem.message, "it printed nothing"));
}

static void test_no_such_program(void **state)
{
	const char *const argv[] = {"no-such-program", NULL};

	assert_int_equal(
		runner_run(&runner, &(struct runner_command){.what = "trying", .argv = argv}),
		-ENOENT);
	assert_non_null(strstr(problem.message, "no program \"no-such-program\""));
	assert_non_null(strstr(problem.hint, "install-deps"));
}

/* Its whole group ends with it. */
static void test_timeout(void **state)
{
	uint64_t t0 = clock_now_ns();
	char path[64], link[256];
	int pid;

	assert_int_equal(run("sleep 1000 & echo $!; wait", 300), -ETIMEDOUT);
	assert_true(clock_now_ns() - t0 < 5 * NSEC_PER_SEC);
	assert_non_null(strstr(problem.message, "not done in time"));
	assert_int_equal(sscanf(said, " %d", &pid), 1);
	(void)snprintf(path, sizeof(path), "/proc/%d/exe", pid); /* a zombie has none */
	for (int i = 0; i < 100 && readlink(path, link, sizeof(link)) >= 0; i++)
		clock_sleep_ms(20);
	assert_true(readlink(path, link, sizeof(link)) < 0);
}

static void test_cancelled(void **state)
{
	cancel = true;
	assert_int_equal(run("sleep 1000", 0), -ECANCELED);
	assert_int_equal(problem.status, 503);
}

static void test_output(void **state)
{
	const char *const argv[] = {"sh", "-c", "echo a; echo b >&2", NULL};
	_cleanup_buf_ struct buf out = {0};

	assert_int_equal(runner_run(&runner, &(struct runner_command){.what = "trying",
								      .argv = argv,
								      .output = &out}),
			 0);
	assert_string_equal(out.data, "a\nb\n");
	assert_string_equal(said, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_lines, setup),
		cmocka_unit_test_setup(test_long_line, setup),
		cmocka_unit_test_setup(test_failure, setup),
		cmocka_unit_test_setup(test_no_such_program, setup),
		cmocka_unit_test_setup(test_timeout, setup),
		cmocka_unit_test_setup(test_cancelled, setup),
		cmocka_unit_test_setup(test_output, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
