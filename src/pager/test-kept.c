/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker does with records that the supervisor kept: right ones, and all kinds of wrong. */
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
#include "base/str.h"
#include "pager/control-internal.h"
#include "pager/journal.h"
#include "pager/keeper.h"
#include "sys/pidfd.h"
#include "sys/proc.h"
#include "sys/uffd.h"

#define PAGES 64u

enum wrong {
	NOTHING,
	TEXT,
	NAME,
	NO_VM,
	START_TIME,
	IMAGE,
	N_PAGES,
	MODE,
	REGION,
	NO_UFFD,
	NO_SLATE,
	SHORT_SLATE,
	N_WRONG,
	GONE /* not wrong */
};

struct rig {
	int keeper; /* our end of its socket */
	pid_t keeper_pid, vm;
	struct image *image;
	uint8_t *memory;
	int uffd;
};

static pid_t start_keeper(int *ret_sock)
{
	struct keeper *k;
	int s[2];
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s),
			 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(s[1]);
		if (keeper_new(&k) < 0)
			_exit(1);
		do
			fd_poll(s[0], POLLIN, DEADLINE_NEVER);
		while (keeper_serve(k, s[0]) == 0);
		keeper_free(k);
		_exit(0);
	}
	close(s[0]);
	*ret_sock = s[1];
	return pid;
}

static int setup(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;

	alarm(60);
	r->keeper_pid = start_keeper(&r->keeper);
	assert_int_equal(image_open_zero(PAGES, &r->image), 0);
	r->memory = mmap(NULL, PAGES * DORM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r->uffd = uffd_new(UFFD_FEATURE_EVENT_REMOVE);
	assert_int_equal(uffd_register(r->uffd, (uintptr_t)r->memory, PAGES * DORM_PAGE_SIZE,
				       UFFDIO_REGISTER_MODE_MISSING),
			 0);
	r->vm = fork();
	if (r->vm == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	kill(r->vm, SIGKILL);
	waitpid(r->vm, NULL, 0);
	close(r->keeper);
	waitpid(r->keeper_pid, NULL, 0);
	image_unref(r->image);
	close(r->uffd);
	munmap(r->memory, PAGES * DORM_PAGE_SIZE);
	return 0;
}

static char *make_text(const struct rig *r, enum wrong wrong)
{
	struct journal_entry e = {.name = "vm-7",
				  .n_pages = wrong == N_PAGES ? 2 * PAGES : PAGES,
				  .mode = wrong == MODE ? SESSION_SHARED : SESSION_COPY,
				  .pid = r->vm,
				  .features = UFFD_FEATURE_EVENT_REMOVE,
				  .map = {.n_regions = 1}};

	if (wrong == TEXT)
		return strdup("{\"format\": 7}");
	str_copy(e.name, sizeof(e.name), wrong == NAME ? "vm-8" : "vm-7");
	str_copy(e.image_id, sizeof(e.image_id), image_id(r->image));
	str_copy(e.memory_id, sizeof(e.memory_id), image_id(r->image));
	e.image_id[0] ^= wrong == IMAGE; /* another digit */
	assert_int_equal(proc_start_time(r->vm, &e.start_time), 0);
	e.start_time += wrong == START_TIME;
	e.map.regions[0].hva = (uintptr_t)r->memory;
	e.map.regions[0].hva += wrong == REGION ? PAGES * DORM_PAGE_SIZE : 0;
	e.map.regions[0].n_pages = PAGES;
	if (wrong == NO_VM)
		e.pid = 0;
	if (wrong == NO_VM)
		e.map.n_regions = 0;
	return journal_encode(&e);
}

static void put_record(const struct rig *r, enum wrong wrong)
{
	_cleanup_free_ char *text = make_text(r, wrong);
	_cleanup_fd_ int pidfd = pidfd_from_pid(r->vm),
			 null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct slate slate;
	int fds[3];

	assert_int_equal(slate_new(SLATE_MEMFD, "test", wrong == SHORT_SLATE ? PAGES / 64 : PAGES,
				   NULL, &slate),
			 0);
	if (wrong == SHORT_SLATE)
		assert_int_equal(ftruncate(slate.fd, 100), 0);
	fds[0] = wrong == NO_UFFD ? null : r->uffd;
	fds[1] = pidfd;
	fds[2] = slate.fd;
	assert_int_equal(keeper_put(r->keeper, "vm-7", text, fds, wrong == NO_SLATE ? 2 : 3), 0);
	slate_deinit(&slate);
}

static int count(void *data, const char *name, const char *json, int *fds, size_t n_fds)
{
	unsigned *n = data;

	*n += !strncmp(name, "vm-", 3);
	return 0;
}

/* What a worker does at its start. */
static void take_back(const struct rig *r, unsigned taken, unsigned lost)
{
	_cleanup_(pager_freep) struct pager *p = NULL;
	_cleanup_(control_freep) struct control *c = NULL;
	_cleanup_fd_ int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pager_options options = {.slate_dirfd = -1, .n_threads = 1};
	struct alone_options alone = {
		.image = r->image, .listeners = &listener, .n_listeners = 1, .handshake_ms = 1000};
	struct control_options control = {
		.listener = -1, .keeper_sock = r->keeper, .alone = &alone};
	struct problem problem = PROBLEM_INIT;
	unsigned n = 0;

	assert_int_equal(pager_new(&options, &p), 0);
	assert_int_equal(control_new(p, &control, -1, &problem, &c), 0);
	assert_int_equal(c->taken_back, taken);
	assert_int_equal(c->lost, lost);
	assert_int_equal(c->n_named, 7);
	assert_int_equal(pager_find(p, "vm-7") != NULL, taken);
	assert_int_equal(keeper_receive_all(r->keeper, count, &n), 0);
	assert_int_equal(n, taken); /* what is lost is not kept for the next one */
}

static bool is_dead(const struct rig *r)
{
	siginfo_t info = {0};

	assert_int_equal(waitid(P_PID, (id_t)r->vm, &info, WEXITED | WNOWAIT | WNOHANG), 0);
	return info.si_pid == r->vm;
}

/* Again and again: a record stays until the VM is gone. */
static void test_right(void **state)
{
	struct rig *r = *state;

	put_record(r, NOTHING);
	for (int i = 0; i < 3; i++)
		take_back(r, 1, 0);
	assert_false(is_dead(r));
}

static void test_wrong(void **state)
{
	for (enum wrong wrong = NOTHING + 1; wrong < N_WRONG; wrong++) {
		siginfo_t info;
		struct rig *r;

		assert_int_equal(setup(state), 0);
		r = *state;
		put_record(r, wrong);
		take_back(r, 0, 1);
		assert_int_equal(waitid(P_PID, (id_t)r->vm, &info, WEXITED | WNOWAIT), 0);
		assert_int_equal(info.si_status, SIGKILL);
		assert_int_equal(teardown(state), 0);
	}
}

/* It ended while no worker ran: nothing is lost. */
static void test_gone(void **state)
{
	struct rig *r = *state;
	siginfo_t info;

	put_record(r, GONE);
	kill(r->vm, SIGTERM);
	assert_int_equal(waitid(P_PID, (id_t)r->vm, &info, WEXITED | WNOWAIT), 0);
	take_back(r, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_right, setup, teardown),
		cmocka_unit_test(test_wrong),
		cmocka_unit_test_setup_teardown(test_gone, setup, teardown)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
