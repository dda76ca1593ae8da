/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-guest.c - the real thing: packages, mkfs, and a boot
 *
 * DORM_TEST_CACHE names a cache directory to keep between runs; without it everything is made from
 * nothing. Skipped (77) where no kernel package can be had. test-init stands in for the agent.
 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "guest/guest.h"
#include "sys/spawn.h"

static char cache_dir[256] = "/tmp/dorm-test-guest.XXXXXX";
static bool cache_is_temporary;
static char agent[4096];

static void say(void *userdata, const char *text)
{
	unsigned *n = userdata;

	(*n)++;
	print_message("  %s\n", text);
}

static void prepare(struct guest *ret, unsigned *ret_steps)
{
	struct problem problem = PROBLEM_INIT;
	int r;

	*ret_steps = 0;
	r = guest_prepare(cache_dir, agent, say, ret_steps, &problem, ret);
	if (r < 0)
		fail_msg("%s (%s)", problem.message, problem.hint);
}

static void corrupt(const char *path, bool cut)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	if (cut)
		assert_int_equal(ftruncate(fd, 1000), 0);
	else
		assert_int_equal(pwrite(fd, "X", 1, 5000), 1);
	close(fd);
}

static void test_once(void **state)
{
	struct guest a = {0}, b = {0};
	struct stat st;
	unsigned steps;
	uint64_t t;

	prepare(&a, &steps);
	assert_int_equal(stat(a.kernel, &st), 0);
	assert_true(st.st_size > 1 << 20);
	assert_int_equal(stat(a.initramfs, &st), 0);
	assert_int_equal(stat(a.rootfs, &st), 0);
	assert_non_null(strstr(a.kernel, cache_dir));
	assert_true(a.kernel_version[0] >= '0' && a.kernel_version[0] <= '9');
	/* and is remembered, with the agent that it was made with */
	assert_int_equal(guest_last(cache_dir, agent, &b), 0);
	assert_string_equal(b.kernel, a.kernel);
	assert_string_equal(b.initramfs, a.initramfs);
	assert_string_equal(b.kernel_version, a.kernel_version);
	assert_int_equal(guest_last(cache_dir, "/bin/true", &b), 1);
	assert_int_equal(guest_last("/nowhere", agent, &b), -ENOENT);
	/* the second time nothing is made */
	t = clock_now_ns();
	prepare(&b, &steps);
	t = clock_now_ns() - t;
	assert_int_equal(steps, 0);
	assert_memory_equal(&a, &b, sizeof(a));
	print_message("  found again in %.1f ms\n", (double)t / 1e6);
}

/* Equal inputs give equal bytes; damage is found, and only what is damaged is made again. */
static void test_damage(void **state)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct guest a = {0}, b = {0};
	size_t before_len, after_len;
	unsigned steps;

	prepare(&a, &steps);
	assert_int_equal(file_read(AT_FDCWD, a.rootfs, 1 << 30, &before, &before_len), 0);
	corrupt(a.rootfs, false);
	corrupt(a.initramfs, true);
	prepare(&b, &steps);
	assert_int_equal(steps, 3); /* damaged, damaged, making the root file system */
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(file_read(AT_FDCWD, a.rootfs, 1 << 30, &after, &after_len), 0);
	assert_int_equal(before_len, after_len);
	assert_memory_equal(before, after, before_len);
}

static void test_two_at_once(void **state)
{
	struct guest g = {0};
	unsigned steps;
	pid_t pids[2];
	int status;

	prepare(&g, &steps);
	corrupt(g.rootfs, true);
	for (int i = 0; i < 2; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0) {
			struct guest mine = {0};

			_exit(guest_prepare(cache_dir, agent, NULL, NULL, NULL, &mine) == 0 &&
					      !memcmp(&mine, &g, sizeof(g))
				      ? 0
				      : 1);
		}
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	prepare(&g, &steps);
	assert_int_equal(steps, 0);
}

static void test_bad_agent(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct guest g = {0};

	assert_int_equal(guest_prepare(cache_dir, "/absent", NULL, NULL, &problem, &g), -ENOENT);
	assert_non_null(strstr(problem.message, "/absent"));
	problem = PROBLEM_INIT;
	assert_int_equal(guest_prepare(cache_dir, "/bin/cat", NULL, NULL, &problem, &g), -ENOEXEC);
	assert_non_null(strstr(problem.message, "not a static"));
	problem = PROBLEM_INIT;
	assert_int_equal(guest_prepare("relative", agent, NULL, NULL, &problem, &g), -EINVAL);
	assert_non_null(strstr(problem.message, "\"relative\""));
	assert_int_equal(g.kernel[0], 0);
}

/* Boots what was made; every line that test-init.c prints is looked at. */
static void test_boot(void **state)
{
	const char *qemu = getenv("DORM_QEMU") ? getenv("DORM_QEMU") : "qemu-system-x86_64";
	_cleanup_free_ char *cmdline = guest_cmdline(2000000);
	_cleanup_buf_ struct buf out = {0};
	struct guest g = {0};
	unsigned steps;
	char drive[8192];
	int status, r;

	prepare(&g, &steps);
	(void)snprintf(drive, sizeof(drive), "if=none,id=d0,file=%s,format=raw,readonly=on",
		       g.rootfs);
	r = spawn_run((const char *const[]){qemu,
					    "-M",
					    "microvm,acpi=on,rtc=on,x-option-roms=off",
					    "-bios",
					    "qboot.rom",
					    "-accel",
					    "tcg,tb-size=32",
					    "-cpu",
					    "max",
					    "-m",
					    "256",
					    "-nodefaults",
					    "-no-user-config",
					    "-display",
					    "none",
					    "-no-reboot",
					    "-serial",
					    "stdio",
					    "-kernel",
					    g.kernel,
					    "-initrd",
					    g.initramfs,
					    "-append",
					    cmdline,
					    "-device",
					    "virtio-serial-device",
					    "-chardev",
					    "null,id=c0",
					    "-device",
					    "virtserialport,chardev=c0,name=agent",
					    "-drive",
					    drive,
					    "-device",
					    "virtio-blk-device,drive=d0",
					    NULL},
		      NULL, deadline_after_ms(120000), &out, &status);
	if (r == -ENOENT) {
		print_message("%s is not installed\n", qemu);
		skip();
	}
	print_message("%s\n", out.data ? out.data : "(no output)");
	assert_int_equal(r, 0);
	assert_non_null(strstr(out.data, "test: init"));
	assert_null(strstr(out.data, "test: module /"));
	assert_null(strstr(out.data, "test: mount:"));
	assert_non_null(strstr(out.data, "test: ports yes"));
	assert_non_null(strstr(out.data, "test: user 1000 home 1000:755 tmp 0:1777 root 0:700 path "
					 "/usr/local/sbin:"));
	assert_non_null(strstr(out.data, "test: status 768")); /* exit(3) */
}

static int setup(void **state)
{
	const char *kept = getenv("DORM_TEST_CACHE");

	if (kept)
		(void)snprintf(cache_dir, sizeof(cache_dir), "%s", kept);
	else if (!mkdtemp(cache_dir))
		return -1;
	cache_is_temporary = !kept;
	return 0;
}

static int teardown(void **state)
{
	return cache_is_temporary ? file_remove_tree(AT_FDCWD, cache_dir) : 0;
}

/* Is there a package to make a guest from, and the right to? Says why when not. */
static bool can_run(void)
{
	const char *const argv[] = {"sh", "-c",
				    "apt-cache show linux-image-cloud-amd64 >/dev/null "
				    "2>&1 || apt-get -q update >/dev/null 2>&1",
				    NULL};
	int status = -1;

	if (geteuid() != 0) {
		print_message("needs root: the files of a root file system have owners\n");
		return false;
	}
	if (spawn_run(argv, NULL, deadline_after_ms(120000), NULL, &status) < 0 || status != 0) {
		print_message("no kernel package can be had: apt-get update fails\n");
		return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_once),	    cmocka_unit_test(test_damage),
		cmocka_unit_test(test_two_at_once), cmocka_unit_test(test_bad_agent),
		cmocka_unit_test(test_boot),
	};

	if (argc != 2 || !realpath(argv[1], agent)) {
		(void)fprintf(stderr, "usage: test-guest PATH-OF-TEST-INIT\n");
		return 2;
	}
	return can_run() ? cmocka_run_group_tests(tests, setup, teardown) : 77;
}
