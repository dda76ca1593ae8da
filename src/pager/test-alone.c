/* SPDX-License-Identifier: Apache-2.0 */
/* The front door with real sockets and userfaultfds; who is admitted is only written down. */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "pager/alone.h"
#include "sys/uffd.h"

#define GOOD                                                                                       \
	"[{\"base_host_virt_addr\":1048576,\"size\":65536,\"offset\":0,\"page_size\":4096},"       \
	"{\"base_host_virt_addr\":8388608,\"size\":65536,\"offset\":65536,\"page_size\":4096}]"
#define HUGE_PAGES                                                                                 \
	"[{\"base_host_virt_addr\":2097152,\"size\":65536,\"offset\":0,\"page_size\":2097152}]"

struct rig {
	char dir[32], path[64];
	int file;
	int listener;
	int errors; /* what is logged, a pipe */
	int old_stderr;
	struct image *image;
	struct alone *alone;
	/* what was admitted */
	int n;
	int answer;
	char name[32];
	struct handshake map;
	int uffd, conn, pidfd, pid;
};

static int admitted(void *data, struct image *image, struct alone_vm *vm, struct problem *problem)
{
	struct rig *r = data;

	assert_ptr_equal(image, r->image);
	if (r->answer) {
		problem_set(problem, 503, "not today");
		return r->answer;
	}
	r->n++;
	(void)snprintf(r->name, sizeof(r->name), "%s", vm->name);
	r->map = vm->map;
	r->uffd = take_fd(vm->uffd);
	r->conn = take_fd(vm->conn);
	r->pidfd = take_fd(vm->pidfd);
	r->pid = vm->pid;
	return 0;
}

static int setup(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;
	struct alone_options options = {.handshake_ms = 300, .n_listeners = 1};
	int p[2];

	alarm(60);
	*r = (struct rig){.dir = "/tmp/test-alone-XXXXXX", .uffd = -1, .conn = -1, .pidfd = -1};
	assert_non_null(mkdtemp(r->dir));
	(void)snprintf(r->path, sizeof(r->path), "%s/s", r->dir);
	r->listener = fd_unix_listen(r->path, SOCK_STREAM, 0600);
	r->file = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(r->file, 1 << 20), 0);
	assert_int_equal(image_open_raw(r->file, "memory", NULL, &r->image), 0);
	options.image = r->image;
	options.listeners = &r->listener;
	assert_int_equal(alone_new(&options, admitted, r, &r->alone), 0);
	assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	r->old_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	dup2(p[1], STDERR_FILENO);
	close(p[1]);
	r->errors = p[0];
	log_init("test", LOG_LEVEL_INFO);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	dup2(r->old_stderr, STDERR_FILENO);
	close(r->old_stderr);
	close(r->errors);
	r->alone = alone_free(r->alone);
	r->image = image_unref(r->image);
	fd_close(r->listener);
	fd_close(r->file);
	fd_close(r->uffd);
	fd_close(r->conn);
	fd_close(r->pidfd);
	unlink(r->path);
	rmdir(r->dir);
	return 0;
}

/* Turn the loop until nothing is ready for @ms. */
#define PATIENCE_MS 20000

static void turn(struct rig *r, int ms)
{
	uint64_t deadline = deadline_after_ms((uint64_t)ms);
	struct pollfd polls[ALONE_MAX_POLL];

	for (;;) {
		int timeout = ms;
		size_t n = alone_poll(r->alone, polls, &timeout);
		int ready = poll(polls, n, timeout);

		alone_serve(r->alone, polls, n);
		if (ready == 0 && deadline_passed(deadline))
			return;
	}
}

/* A VM is another process: it connects, sends, and waits for what becomes of it.
 * Return: its pid; it exits with 0 when the connection is closed by the other side */
static pid_t vm(struct rig *r, const char *const *pieces, int kind, size_t n_fds)
{
	pid_t pid = fork();

	if (pid == 0) {
		int s, fds[4], fd;
		char c;

		(void)close_range(3, ~0u, 0); /* the connections of others among them */
		s = fd_unix_connect(r->path, SOCK_STREAM);
		alarm(20);
		fd = kind == 'u' ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)
				 : open("/dev/null", O_RDONLY);
		for (int i = 0; i < 4; i++)
			fds[i] = fd;
		for (; *pieces; pieces++) {
			if (fd_send(s, *pieces, strlen(*pieces), fds, n_fds) < 0)
				_exit(2);
			n_fds = 0;
			clock_sleep_ms(20);
		}
		_exit(read(s, &c, 1) > 0 ? 1 : 0);
	}
	return pid;
}

/* Serve until the process has ended; a loaded machine takes its time. */
static int end_of(struct rig *r, pid_t pid)
{
	uint64_t deadline = deadline_after_ms(PATIENCE_MS);
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (deadline_passed(deadline))
			fail_msg("process %d does not end", pid);
		turn(r, 10);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Serve until that many VMs were let in. */
static void expect_in(struct rig *r, int n)
{
	uint64_t deadline = deadline_after_ms(PATIENCE_MS);

	while (r->n != n && !deadline_passed(deadline))
		turn(r, 10);
	assert_int_equal(r->n, n);
}

static void expect_log(struct rig *r, const char *text)
{
	static char log[65536];
	uint64_t deadline = deadline_after_ms(PATIENCE_MS);
	size_t len = 0;

	for (log[0] = 0; !strstr(log, text); turn(r, 10)) {
		ssize_t n = read(r->errors, log + len, sizeof(log) - 1 - len);

		len += n > 0 ? (size_t)n : 0;
		log[len] = 0;
		if (deadline_passed(deadline))
			fail_msg("\"%s\" is not in \"%s\"", text, log);
	}
}

static void expect_refused(struct rig *r, const char *text, int kind, size_t n_fds, const char *why)
{
	pid_t pid = vm(r, (const char *[]){text, NULL}, kind, n_fds);

	/* its memory is served by nobody: it would wait for ever */
	assert_int_equal(end_of(r, pid), kind == 'u' && n_fds == 1 ? -SIGKILL : 0);
	assert_int_equal(r->n, 0);
	expect_log(r, why);
}

static void test_admitted(void **state)
{
	struct rig *r = *state;
	pid_t pid =
		vm(r,
		   (const char *[]){"[{\"base_host_virt_addr\":1048576,\"size\":65",
				    "536,\"offset\":0,\"page_size\":4096,\"more\":[1,2]}]", NULL},
		   'u', 1);

	expect_in(r, 1);
	assert_string_equal(r->name, "vm-1");
	assert_int_equal(r->pid, pid);
	assert_int_equal(r->map.n_regions, 1);
	assert_int_equal(r->map.regions[0].hva, 1048576);
	assert_int_equal(r->map.regions[0].n_pages, 16);
	assert_true(uffd_is(r->uffd));
	r->uffd = fd_close(r->uffd);
	r->pidfd = fd_close(r->pidfd);
	turn(r, 400); /* no deadline any more */
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
	r->conn = fd_close(r->conn);
	assert_int_equal(end_of(r, pid), 0);
	pid = vm(r, (const char *[]){GOOD, NULL}, 'u', 1);
	expect_in(r, 2);
	assert_string_equal(r->name, "vm-2");
	assert_int_equal(r->map.n_regions, 2);
	r->conn = fd_close(r->conn);
	assert_int_equal(end_of(r, pid), 0);
}

static void test_refused(void **state)
{
	struct rig *r = *state;

	expect_refused(r, "hello", 'u', 1, "JSON array of regions");
	expect_refused(r, "[]", 'u', 1, "0 regions");
	expect_refused(r, HUGE_PAGES, 'u', 1, "pages of 4096 bytes");
	expect_refused(r, GOOD, 'n', 1, "not a userfaultfd");
	expect_refused(r, GOOD, 'u', 0, "no descriptor");
	expect_refused(r, GOOD, 'u', 2, "more than one descriptor");
	expect_refused(r, GOOD, 'u', 4, "more than one descriptor");
	expect_refused(r, "[{\"base_host_virt_addr\":4096,\"size\":2097152,\"offset\":0}]", 'u', 1,
		       "outside of the image");
	r->answer = -EAGAIN;
	expect_refused(r, GOOD, 'u', 1, "not today");
}

/* Half a handshake has until its deadline; one who hangs up has not. */
static void test_late(void **state)
{
	struct rig *r = *state;
	uint64_t begun = clock_now_ns();
	pid_t pid = vm(r, (const char *[]){"[{", NULL}, 'u', 1);

	assert_int_equal(end_of(r, pid), 0);
	assert_true(clock_now_ns() - begun > 300 * NSEC_PER_MSEC);
	expect_log(r, "not complete after 300 ms");
	pid = vm(r, (const char *[]){"[{", NULL}, 'u', 1);
	turn(r, 50);
	kill(pid, SIGKILL);
	assert_int_equal(end_of(r, pid), -SIGKILL);
	expect_log(r, "ended after 2 bytes");
}

/* Many who say nothing hold the others up for no longer than their deadline. */
static void test_flood(void **state)
{
	struct rig *r = *state;
	const char *nothing[] = {NULL};
	pid_t idle[ALONE_MAX_SHAKING + 4], good;

	for (size_t i = 0; i < sizeof(idle) / sizeof(*idle); i++)
		idle[i] = vm(r, nothing, 'n', 0);
	turn(r, 100);
	good = vm(r, (const char *[]){GOOD, NULL}, 'u', 1);
	turn(r, 50);
	assert_int_equal(r->n, 0);
	expect_in(r, 1);
	for (size_t i = 0; i < sizeof(idle) / sizeof(*idle); i++)
		assert_int_equal(end_of(r, idle[i]), 0);
	r->conn = fd_close(r->conn);
	assert_int_equal(end_of(r, good), 0);
}

/* Without descriptors it rests, and goes on when there are some. */
static void test_no_descriptors(void **state)
{
	struct rig *r = *state;
	struct rlimit old, none;
	pid_t pid = vm(r, (const char *[]){GOOD, NULL}, 'u', 1);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = (struct rlimit){.rlim_cur = 3, .rlim_max = old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	expect_log(r, "no descriptors left");
	assert_int_equal(r->n, 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	expect_in(r, 1);
	r->conn = fd_close(r->conn);
	assert_int_equal(end_of(r, pid), 0);
}

/* A raw file that was written to is served no more. */
static void test_changed_file(void **state)
{
	struct rig *r = *state;

	assert_int_equal(ftruncate(r->file, 2 << 20), 0);
	expect_refused(r, GOOD, 'u', 1, "was changed while it is served");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_admitted, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_changed_file, setup, teardown)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
