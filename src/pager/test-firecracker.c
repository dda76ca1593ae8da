/* SPDX-License-Identifier: Apache-2.0 */
/* The program alone, against processes that do with it what Firecracker does. */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "pager/client.h"
#include "sys/uffd.h"

#define PAGES 1000u /* the last frame is short */
#define SPLIT 300u  /* the second region begins here */
#define GONE  500u  /* the balloon takes this page and the next 20 */

struct rig {
	char dir[40], image[64], listen[64], control[64];
	pid_t pager;
};

static uint8_t value_of(uint64_t gfn)
{
	return gfn % 11 == 3 ? 0 : (uint8_t)(gfn * 7 + 1);
}

static void make_image(struct rig *r)
{
	int fd = open(r->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	uint8_t page[DORM_PAGE_SIZE];

	assert_int_equal(ftruncate(fd, PAGES * DORM_PAGE_SIZE), 0);
	for (uint64_t gfn = 0; gfn < PAGES; gfn++) {
		memset(page, value_of(gfn), sizeof(page));
		if (value_of(gfn)) /* the others are holes */
			assert_int_equal(
				pwrite(fd, page, sizeof(page), (off_t)(gfn * sizeof(page))),
				sizeof(page));
	}
	close(fd);
}

/* Return: its exit status if it ended before it was ready, else 0 */
static int start_pager(struct rig *r, const char *supervise)
{
	char ready[16], c;
	int p[2], status;
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	(void)snprintf(ready, sizeof(ready), "%d", p[1]);
	r->pager = fork();
	if (r->pager == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(p[0]);
		execl(getenv("DORM_PAGER"), "dorm-pager", "--image", r->image, "--listen",
		      r->listen, "--control", r->control, "--handshake-ms", "500", "--ready-fd",
		      ready, supervise, NULL);
		_exit(127);
	}
	close(p[1]);
	n = read(p[0], &c, 1);
	close(p[0]);
	if (n == 1)
		return 0;
	assert_int_equal(waitpid(r->pager, &status, 0), r->pager);
	r->pager = 0;
	return WEXITSTATUS(status);
}

static int setup(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;

	alarm(100);
	*r = (struct rig){.dir = "/tmp/test-firecracker-XXXXXX"};
	assert_non_null(mkdtemp(r->dir));
	(void)snprintf(r->image, sizeof(r->image), "%s/mem", r->dir);
	(void)snprintf(r->listen, sizeof(r->listen), "%s/vms", r->dir);
	(void)snprintf(r->control, sizeof(r->control), "%s/control", r->dir);
	make_image(r);
	assert_int_equal(start_pager(r, "--supervise=yes"), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	int status = 0;

	kill(r->pager, SIGTERM);
	assert_int_equal(waitpid(r->pager, &status, 0), r->pager);
	assert_int_equal(status, 0);
	assert_int_equal(access(r->listen, F_OK), -1);
	assert_int_equal(file_remove_tree(AT_FDCWD, r->dir), 0);
	return 0;
}

static uint64_t count_wrong(const uint8_t *low, const uint8_t *high, bool gone)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t gfn = i * 7 % PAGES; /* 7 and PAGES have no common divisor */
		const uint8_t *p = gfn < SPLIT ? low + gfn * DORM_PAGE_SIZE
					       : high + (gfn - SPLIT) * DORM_PAGE_SIZE;
		uint8_t want = gone && gfn >= GONE && gfn <= GONE + 20 ? 0 : value_of(gfn);

		for (size_t at = 0; at < DORM_PAGE_SIZE; at += 64)
			if (p[at] != want) {
				wrong++;
				break;
			}
	}
	return wrong;
}

/* Two regions, not neighbours; a balloon that takes pages; then every page. Exits with 0 if good.
 */
static int firecracker(const char *path, const char *page_size)
{
	uint8_t *space = mmap(NULL, 4 * PAGES * DORM_PAGE_SIZE, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t low_len = SPLIT * DORM_PAGE_SIZE, high_len = (PAGES - SPLIT) * DORM_PAGE_SIZE;
	uint8_t *low = space + 2 * PAGES * DORM_PAGE_SIZE, *high = space + 64 * DORM_PAGE_SIZE;
	int uffd = uffd_new(UFFD_FEATURE_EVENT_REMOVE), s;
	char text[512], c;

	if (mprotect(low, low_len, PROT_READ | PROT_WRITE) ||
	    mprotect(high, high_len, PROT_READ | PROT_WRITE) || uffd < 0 ||
	    uffd_register(uffd, (uintptr_t)low, low_len, UFFDIO_REGISTER_MODE_MISSING) ||
	    uffd_register(uffd, (uintptr_t)high, high_len, UFFDIO_REGISTER_MODE_MISSING))
		return 100;
	(void)snprintf(text, sizeof(text),
		       "[{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":0,\"page_size\":%s,"
		       "\"page_size_kib\":4096},{\"base_host_virt_addr\":%lu,\"size\":%zu,"
		       "\"offset\":%zu,\"page_size\":%s}]",
		       (uintptr_t)low, low_len, page_size, (uintptr_t)high, high_len, low_len,
		       page_size);
	s = fd_unix_connect(path, SOCK_STREAM);
	if (s < 0 || fd_send(s, text, strlen(text), &uffd, 1) < 0)
		return 101;
	if (strcmp(page_size, "4096") != 0)
		return read(s, &c, 1) == 0 ? 0 : 102;
	if (high[(GONE - SPLIT) * DORM_PAGE_SIZE] != value_of(GONE))
		return 103;
	if (madvise(high + (GONE - SPLIT) * DORM_PAGE_SIZE, 21 * DORM_PAGE_SIZE, MADV_DONTNEED))
		return 104;
	if (count_wrong(low, high, true))
		return 105;
	memset(high + (GONE - SPLIT) * DORM_PAGE_SIZE, 0xaa, DORM_PAGE_SIZE); /* it is its own */
	return high[(GONE - SPLIT) * DORM_PAGE_SIZE] == 0xaa ? 0 : 106;
}

static pid_t start_vm(struct rig *r, const char *page_size)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(30);
		_exit(firecracker(r->listen, page_size));
	}
	return pid;
}

static int end_of(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void expect_mode(struct rig *r, const char *name, const char *mode)
{
	_cleanup_(pager_client_freep) struct pager_client *client = NULL;
	json_auto_t *stats = NULL;

	assert_int_equal(pager_client_new(r->control, &client), 0);
	assert_int_equal(pager_client_session_stats(client, name, deadline_after_ms(5000), &stats),
			 0);
	assert_string_equal(json_string_value(json_object_get(stats, "mode")), mode);
}

static void test_vms(void **state)
{
	struct rig *r = *state;
	pid_t pids[4];

	for (int i = 0; i < 4; i++)
		pids[i] = start_vm(r, "4096");
	for (int i = 0; i < 4; i++)
		assert_int_equal(end_of(pids[i]), 0);
	expect_mode(r, "vm-1", "copy");
	expect_mode(r, "vm-4", "copy");
}

/* What is refused is closed at once, and holds nobody else up. */
static void test_refused(void **state)
{
	struct rig *r = *state;
	int s = fd_unix_connect(r->listen, SOCK_STREAM);
	char c;

	assert_int_equal(write(s, "garbage", 7), 7);
	assert_true(fd_poll(s, POLLIN, deadline_after_ms(300)) > 0);
	assert_int_equal(read(s, &c, 1), 0);
	close(s);
	/* one that gave a userfaultfd would wait for ever */
	assert_int_equal(end_of(start_vm(r, "2097152")), -SIGKILL);
	assert_int_equal(end_of(start_vm(r, "4096")), 0);
	expect_mode(r, "vm-1", "copy");
}

/* One pager for each socket. */
static void test_conflicts(void **state)
{
	struct rig *r = *state;
	struct rig second = *r;

	assert_int_equal(start_pager(&second, "--supervise=no"), 1);
}

/* A worker that is killed has a successor, on the same socket. */
static void test_restart(void **state)
{
	struct rig *r = *state;
	_cleanup_free_ char *path = str_printf("/proc/%d/task/%d/children", r->pager, r->pager);
	_cleanup_free_ char *text = NULL;
	size_t len;

	assert_int_equal(file_read(AT_FDCWD, path, 100, &text, &len), 0);
	assert_true(atoi(text) > 1);
	assert_int_equal(kill(atoi(text), SIGKILL), 0);
	assert_int_equal(end_of(start_vm(r, "4096")), 0);
}

/* The options that do not go together, or are missing. */
static void test_usage(void **state)
{
	static const char *const bad[][6] = {
		{NULL},
		{"--image", "x", NULL},
		{"--image", "x", "--socket", "y", NULL},
		{"--listen", "x", NULL},
		{"--socket", "x", "--run-dir", "y", "--supervise=yes", NULL},
		{"--image", "x", "--listen", "y", "--control=y", NULL},
		{"--image", "x", "--listen", "y", "--seccomp=maybe", NULL},
		{"--image", "x", "--listen", "y", "more", NULL},
		{"--nonsense", NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *argv[8] = {"dorm-pager"};
		pid_t pid;

		for (size_t j = 0; j < 6 && bad[i][j]; j++)
			argv[j + 1] = bad[i][j];
		pid = fork();
		if (pid == 0) {
			execv(getenv("DORM_PAGER"), (char **)argv);
			_exit(127);
		}
		if (end_of(pid) != 2)
			fail_msg("usage %zu was accepted", i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_usage),
		cmocka_unit_test_setup_teardown(test_vms, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_conflicts, setup, teardown)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
