/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of a jail, and dorm-jail itself with a shell in the VMM's place. What a VMM in
 * its jail cannot reach is the business of tests/e2e/test_jail.py. DORM_TEST_JAIL names the
 * program.
 */
#include "base/test.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "sys/spawn.h"
#include "vmm/jail.h"
#include "vmm/vmm.h"

#define WAIT deadline_after_ms(10000)

static bool has(char *const *words, const char *option, const char *value)
{
	for (; *words && strcmp(*words, "--") != 0; words++)
		if (!strcmp(*words, option) && words[1] && !strcmp(words[1], value))
			return true;
	return false;
}

static size_t count(char *const *words, const char *option)
{
	size_t n = 0;

	for (; *words; words++)
		n += !strcmp(*words, option);
	return n;
}

static const char *const qemu[] = {"sh", "-x", "--user", NULL};

static char **command(unsigned walls)
{
	static const struct vmm_layer layers[] = {{"/s/m/disks/a", false}, {"/s/m/disks/b", false}};
	const struct vmm_config config = {
		.work_dir = "/s/i1",
		.preload = "/lib/preload.so",
		.pager_socket = "/run/p.sock",
		.accel = "tcg",
		.disks = {{.path = "/s/m/disks/root", .read_only = true},
			  {.path = "/s/i1/disks/top", .layers = layers, .n_layers = 2}},
		.n_disks = 2};
	const struct vmm_jail jail = {.program = "/bin/jail",
				      .walls = walls,
				      .uid = 123456,
				      .tag = "t/i1",
				      .max_file = 5};
	char **words = NULL;

	assert_int_equal(jail_command(&jail, &config, qemu, NULL, &words), 0);
	return words;
}

static void test_whole(void **state)
{
	char **all = command(JAIL_ALL), **w = all;

	assert_string_equal(w[0], "/bin/jail");
	assert_true(has(w, "--root", "t/i1") && has(w, "--user", "123456"));
	assert_true(has(w, "--cwd", "/s/i1") && has(w, "--directory", "/s/i1"));
	assert_true(has(w, "--read", "/s/m/disks/root") && has(w, "--read", "/s/m/disks/a"));
	assert_true(has(w, "--read", "/s/m/disks/b") && has(w, "--read", "/lib/preload.so"));
	/* the folder, for files to come, and nothing else */
	assert_true(has(w, "--write", "/s/i1/disks"));
	assert_int_equal(count(w, "--write"), 1);
	assert_true(has(w, "--pager", "/run/p.sock") && has(w, "--max-file", "5"));
	assert_false(has(w, "--device", "/dev/kvm"));
	/* the program's own words come after ours, as they were */
	while (strcmp(*w, "--") != 0)
		w++;
	assert_int_equal(w[1][0], '/');
	assert_string_equal(w[2], "-x");
	assert_string_equal(w[3], "--user");
	assert_null(w[4]);
	jail_command_free(all);
}

static void test_less(void **state)
{
	char **w = command(JAIL_FILTER);

	assert_int_equal(count(w, "--filter"), 1);
	assert_int_equal(count(w, "--root") + count(w, "--read") + count(w, "--namespaces"), 0);
	assert_false(has(w, "--user", "123456"));
	jail_command_free(w);
}

static void test_no_program(void **state)
{
	const struct vmm_config config = {.work_dir = "/s"};
	const struct vmm_jail jail = {.program = "/bin/jail"};
	const char *const argv[] = {"no-such-qemu", NULL};
	struct problem problem = PROBLEM_INIT;
	char **w = NULL;

	assert_int_equal(jail_command(&jail, &config, argv, &problem, &w), -ENOENT);
	assert_non_null(strstr(problem.message, "no-such-qemu"));
	assert_null(w);
}

/* What @script prints in a jail with every wall. */
static int run(const char *script, struct buf *out)
{
	const char *const argv[] = {getenv("DORM_TEST_JAIL"),
				    "--root",
				    "test",
				    "--namespaces",
				    "--user",
				    "2147483000",
				    "--filter",
				    "--try-read",
				    "/usr/lib/x86_64-linux-gnu",
				    "--try-read",
				    "/usr/lib64",
				    "--try-read",
				    "/lib",
				    "--try-read",
				    "/lib64",
				    "--read",
				    "/usr/bin",
				    "--device",
				    "/dev/null",
				    "--directory",
				    "/some/where",
				    "--cwd",
				    "/some/where",
				    "--",
				    "/usr/bin/sh",
				    "-c",
				    script,
				    NULL};
	int status = -1;

	assert_int_equal(spawn_run_isolated(argv, true, WAIT, out, &status), 0);
	return status;
}

static void need_jail(void)
{
	char why[JAIL_N_WALLS][160];
	const char *program = getenv("DORM_TEST_JAIL");

	if (!program || jail_probe(program, why) != JAIL_ALL) {
		print_message("not every wall can be had here\n");
		skip();
	}
}

static void test_inside(void **state)
{
	_cleanup_buf_ struct buf out = {0};

	need_jail();
	assert_int_equal(run("pwd; echo $$; id -u; id -G; cd /; echo *; uname -n; ulimit -c", &out),
			 0);
	assert_string_equal(out.data, "/some/where\n1\n2147483000\n2147483000\n"
				      "dev lib lib64 some usr\nvm\n0\n");
}

static void test_cannot(void **state)
{
	static const char *const scripts[] = {
		"echo x >/some/where/x",     "echo x >/x",    "mount -t tmpfs x /some/where",
		"unshare -U true",	     "ls /.host",     "ls /proc/self",
		"mknod /some/where/x c 1 3", "chroot / true", "ulimit -c 1",
	};

	need_jail();
	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		_cleanup_buf_ struct buf out = {0};

		if (run(scripts[i], &out) == 0)
			fail_msg("it could: %s", scripts[i]);
	}
}

/* A wall that cannot be put up is no reason to go on without it. */
static void test_all_or_nothing(void **state)
{
	const char *const argv[] = {
		getenv("DORM_TEST_JAIL"), "--root",  "t", "--read", "/no/such/file", "--",
		"/usr/bin/echo",	  "started", NULL};
	_cleanup_buf_ struct buf out = {0};
	int status = -1;

	need_jail();
	assert_int_equal(spawn_run(argv, NULL, WAIT, &out, &status), 0);
	assert_int_equal(status, 71);
	assert_non_null(strstr(out.data, "/no/such/file"));
	assert_null(strstr(out.data, "started"));
}

TEST_MAIN(cmocka_unit_test(test_whole), cmocka_unit_test(test_less),
	  cmocka_unit_test(test_no_program), cmocka_unit_test(test_inside),
	  cmocka_unit_test(test_cannot), cmocka_unit_test(test_all_or_nothing))
