/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-crash.c - invariant 3: after a crash at any instant there is the old state or the new one
 *
 * The calls that change a file system are wrapped by the linker (meson.build), counted, and at the
 * n-th the process is killed, or the call fails with EIO, for every n until the operation gets
 * through. Then a new process opens the store and looks at all of it.
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/compact.h"
#include "image/snapshot.h"
#include "image/store.h"

#define N_PAGES 64u
#define OLD	"sold000000000000000aa"
#define BASE	"sbase00000000000000aa"
#define NEW	"snew000000000000000aa"

/* ---- the wrapped calls ------------------------------------------------------------------------
 */

static int calls_left = -1; /* -1: do nothing */
static bool die;	    /* killed, or EIO */

static bool strike(void)
{
	if (calls_left < 0 || calls_left-- > 0)
		return false;
	if (die)
		(void)kill(getpid(), SIGKILL);
	errno = EIO;
	return true;
}

#define WRAP(_type, _name, _params, _args)                                                         \
	_type __real_##_name _params;                                                              \
	_type __wrap_##_name _params;                                                              \
	_type __wrap_##_name _params                                                               \
	{                                                                                          \
		return strike() ? -1 : __real_##_name _args;                                       \
	}

WRAP(int, fsync, (int fd), (fd))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(ssize_t, write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP(int, mkdirat, (int dirfd, const char *path, mode_t mode), (dirfd, path, mode))
WRAP(int, linkat, (int a, const char *from, int b, const char *to, int flags),
     (a, from, b, to, flags))
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags))
WRAP(int, unlinkat, (int dirfd, const char *path, int flags), (dirfd, path, flags))

/* ---- what is done -----------------------------------------------------------------------------
 */

/* of the old snapshot, the new one, and the old one's parent */
static uint8_t memory[3][N_PAGES * DORM_PAGE_SIZE];

static int write_image(struct snapshot_tmp *tmp, struct image *parent, int parent_dirfd,
		       const uint8_t *pages, struct manifest *m, struct problem *problem)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	int r = image_writer_new(tmp->dirfd, parent, parent_dirfd, NULL, problem, &w);

	if (r == 0)
		r = image_writer_add(w, 0, N_PAGES, pages, problem);
	return r ? r : image_writer_commit(w, &m->stats, m->image_id, problem);
}

static int take(struct store *s, struct image *parent, int parent_dirfd, const char *id,
		const uint8_t *pages, struct problem *problem)
{
	struct manifest m = {.memory_bytes = N_PAGES * DORM_PAGE_SIZE};
	struct snapshot_tmp tmp;
	char final[64];
	int r;

	(void)snprintf(m.id, sizeof(m.id), "%s", id);
	(void)snprintf(final, sizeof(final), "snapshots/%s", id);
	r = snapshot_begin(s->root_fd, s->root, problem, &tmp);
	if (r)
		return r;
	r = file_write_atomic(tmp.dirfd, "device", "state", 5, 0644);
	if (r < 0)
		problem_errno(problem, r, "device");
	else
		r = write_image(&tmp, parent, parent_dirfd, pages, &m, problem);
	if (r == 0)
		r = snapshot_commit(&tmp, s->root_fd, final, &m, NULL, problem);
	snapshot_abort(&tmp, s->root_fd);
	return r;
}

static int do_take(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, "snapshots/" OLD);
	_cleanup_(image_unrefp) struct image *parent = NULL;
	int r = image_open(fd, NULL, problem, &parent);

	return r ? r : take(s, parent, fd, NEW, memory[1], problem);
}

static int do_clone(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, "snapshots/" OLD);

	return snapshot_clone(s->root_fd, s->root, fd, NULL, "snapshots/" NEW, NEW, problem);
}

static int do_delete(struct store *s, struct problem *problem)
{
	return snapshot_delete(s->root_fd, "snapshots/" OLD, problem);
}

static int compact(struct store *s, const char *final, const char *id, struct problem *problem)
{
	const struct compact_options options = {.force = true};
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, "snapshots/" OLD);
	struct compact_stats stats;

	return snapshot_compact(s->root_fd, s->root, fd, final, !id, id, &options, problem, &stats);
}

static int do_compact(struct store *s, struct problem *problem)
{
	return compact(s, "snapshots/" NEW, NEW, problem);
}

static int do_compact_in_place(struct store *s, struct problem *problem)
{
	return compact(s, "snapshots/" OLD, NULL, problem);
}

/* ---- what must hold ---------------------------------------------------------------------------
 */

static int check_one(void *userdata, const char *id, int dirfd)
{
	static uint8_t out[N_PAGES * DORM_PAGE_SIZE];
	const uint8_t *new_memory = userdata;
	struct problem problem = PROBLEM_INIT;
	struct manifest m;
	struct image *image;

	if (snapshot_verify(dirfd, NULL, NULL, NULL, &problem))
		fail_msg("%s: %s", id, problem.message);
	assert_int_equal(snapshot_open(dirfd, NULL, &problem, &m), 0);
	assert_string_equal(m.id, id);
	assert_int_equal(image_open(dirfd, NULL, &problem, &image), 0);
	assert_int_equal(fixture_read_all(image, out, &problem), 0);
	assert_memory_equal(out, strcmp(id, NEW) ? memory[0] : new_memory, sizeof(out));
	image_unref(image);
	manifest_deinit(&m);
	return 0;
}

static bool exists(struct store *s, const char *path)
{
	return faccessat(s->root_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

struct operation {
	int (*run)(struct store *s, struct problem *problem);
	const uint8_t *new_memory;
};

/* Run it in a process of its own up to the @n-th call. Return: did it get through? */
static bool run_struck(const char *root, const struct operation *op, int n, bool deadly)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct problem problem = PROBLEM_INIT;
		struct store *s;
		int r;

		if (store_open(root, &problem, &s))
			_exit(3);
		die = deadly;
		calls_left = n;
		r = op->run(s, &problem);
		if (calls_left >= 0)
			_exit(r ? 4 : 0);
		calls_left = -1;
		if (r >= 0) /* the failure was in something that does not matter */
			_exit(r ? 5 : 1);
		_exit(problem_is_set(&problem) ? 2 : 6);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (deadly && WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGKILL);
		return false;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) > 2)
		fail_msg("call %d: status 0x%x", n, (unsigned)status);
	return WEXITSTATUS(status) == 0;
}

/* The old snapshot has two layers of its own. */
static void prepare(const char *root)
{
	struct problem problem = PROBLEM_INIT;
	struct image *zero, *base;
	struct store *s;
	int fd;

	(void)file_remove_tree(AT_FDCWD, root);
	assert_int_equal(store_open(root, &problem, &s), 0);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	assert_int_equal(take(s, zero, -1, BASE, memory[2], &problem), 0);
	image_unref(zero);
	fd = file_open_dir(s->root_fd, "snapshots/" BASE);
	assert_int_equal(image_open(fd, NULL, &problem, &base), 0);
	assert_int_equal(take(s, base, fd, OLD, memory[0], &problem), 0);
	image_unref(base);
	close(fd);
	assert_int_equal(snapshot_delete(s->root_fd, "snapshots/" BASE, &problem), 0);
	store_close(s);
}

static void check(const char *root, const struct operation *op, bool through)
{
	struct problem problem = PROBLEM_INIT;
	struct store *s;

	assert_int_equal(store_open(root, &problem, &s), 0);
	assert_int_equal(store_each(s, "snapshots", check_one, (void *)op->new_memory), 0);
	if (op->run == do_delete) {
		assert_true(!through || !exists(s, "snapshots/" OLD));
	} else {
		const char *there = op->run == do_compact_in_place ? OLD : NEW;
		char path[64];

		(void)snprintf(path, sizeof(path), "snapshots/%s", there);
		assert_true(exists(s, "snapshots/" OLD));
		assert_true(!through || exists(s, path));
	}
	assert_int_equal(unlinkat(s->root_fd, "tmp", AT_REMOVEDIR), 0); /* it was emptied */
	store_close(s);
}

static void strike_everywhere(struct fixture *f, struct operation op, int at_least)
{
	char root[80];
	int n;

	(void)snprintf(root, sizeof(root), "%s/store", f->path);
	for (int deadly = 0; deadly < 2; deadly++) {
		bool through = false;

		for (n = 0; !through; n++) {
			assert_true(n < 500);
			prepare(root);
			through = run_struck(root, &op, n, deadly);
			check(root, &op, through);
		}
		assert_true(n > at_least);
	}
}

static void test_take(void **state)
{
	strike_everywhere(*state, (struct operation){do_take, memory[1]}, 20);
}

static void test_clone(void **state)
{
	strike_everywhere(*state, (struct operation){do_clone, memory[0]}, 12);
}

static void test_delete(void **state)
{
	strike_everywhere(*state, (struct operation){do_delete, memory[0]}, 6);
}

static void test_compact(void **state)
{
	strike_everywhere(*state, (struct operation){do_compact, memory[0]}, 18);
}

static void test_compact_in_place(void **state)
{
	strike_everywhere(*state, (struct operation){do_compact_in_place, memory[0]}, 25);
}

static int setup(void **state)
{
	uint64_t seed = 4;

	for (unsigned i = 0; i < N_PAGES; i++)
		fixture_page(memory[0] + i * DORM_PAGE_SIZE, i % 3, &seed);
	memcpy(memory[1], memory[0], sizeof(memory[1]));
	for (unsigned i = 0; i < N_PAGES; i += 3)
		fixture_page(memory[1] + i * DORM_PAGE_SIZE, 2, &seed);
	memcpy(memory[2], memory[0], sizeof(memory[2]));
	for (unsigned i = 0; i < N_PAGES; i += 5)
		fixture_page(memory[2] + i * DORM_PAGE_SIZE, 2, &seed);
	return fixture_setup(state);
}

#define CRASH_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, fixture_teardown)
TEST_MAIN(CRASH_TEST(test_take), CRASH_TEST(test_clone), CRASH_TEST(test_delete),
	  CRASH_TEST(test_compact), CRASH_TEST(test_compact_in_place))
