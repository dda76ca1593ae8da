/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-transfer-crash.c - an import that ends at any instant leaves no snapshot or a whole one
 *
 * The calls that change a file system are wrapped by the linker (meson.build) and counted. At the
 * n-th the process is killed, or the call fails with EIO, for every n until the import gets
 * through. Each time the store is opened again, looked at, and the same import made to its end.
 */
#include "image/test-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

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
WRAP(int, ftruncate64, (int fd, off_t len), (fd, len))
WRAP(ssize_t, write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP(ssize_t, pwrite64, (int fd, const void *buf, size_t len, off_t at), (fd, buf, len, at))
WRAP(int, mkdirat, (int dirfd, const char *path, mode_t mode), (dirfd, path, mode))
WRAP(int, linkat, (int a, const char *from, int b, const char *to, int flags),
     (a, from, b, to, flags))
WRAP(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags))
WRAP(int, unlinkat, (int dirfd, const char *path, int flags), (dirfd, path, flags))

/* ---- what is done -----------------------------------------------------------------------------
 */

struct crash {
	struct stream_place *p;
	struct buf data;
	char id[ID_LEN + 1];	  /* of the snapshot in the stream */
	struct import_options to; /* another id for it, or none */
	char root[128];		  /* of the store that receives */
};

static int import(struct crash *c, struct store *s, struct problem *problem)
{
	return stream_import(s, &c->to, c->data.data, c->data.len, 1u << 20, NULL, problem);
}

/* In a process of its own, up to the @n-th call. Return: did it get through? */
static bool run_struck(struct crash *c, int n, bool deadly)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct problem problem = PROBLEM_INIT;
		struct store *s;
		int r;

		if (store_open(c->root, &problem, &s))
			_exit(3);
		die = deadly;
		calls_left = n;
		r = import(c, s, &problem);
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

/* The old state or the new one; and from the old one the same import gets to the new one. */
static void check(struct crash *c, bool through)
{
	const char *id = c->to.id ? c->to.id : c->id;
	struct problem problem = PROBLEM_INIT;
	struct store *s;
	unsigned n;
	int r;

	assert_int_equal(store_open(c->root, &problem, &s), 0);
	n = stream_count(s, "snapshots");
	assert_in_range(n, through, 1);
	if (n)
		stream_check(c->p, s, id);
	assert_int_equal(stream_count(s, "tmp"), 0);
	assert_in_range(stream_count(s, "incoming"), 0, 2); /* no parts */
	r = import(c, s, &problem);
	assert_int_equal(r, n ? TRANSFER_E_EXISTS : 0);
	stream_check(c->p, s, id);
	if (!n)
		assert_int_equal(stream_count(s, "incoming"), 0);
	store_close(s);
}

static void strike_everywhere(struct crash *c, int at_least)
{
	for (int deadly = 0; deadly < 2; deadly++) {
		bool through = false;
		int n;

		for (n = 0; !through; n++) {
			assert_true(n < 500);
			(void)file_remove_tree(AT_FDCWD, c->root);
			through = run_struck(c, n, deadly);
			check(c, through);
		}
		assert_true(n > at_least);
	}
}

static void test_import(void **state)
{
	strike_everywhere(*state, 30);
}

static void test_import_as(void **state)
{
	struct crash *c = *state;

	c->to.id = "sother00000000000000x";
	strike_everywhere(c, 30);
}

static int setup_with(void **state, bool plain)
{
	struct crash *c = calloc(1, sizeof(*c));
	char parent[ID_LEN + 1];
	void *place;

	assert_non_null(c);
	(void)stream_setup(&place);
	c->p = place;
	stream_snapshot(c->p, &(struct stream_options){.every = 5, .kind = 1, .plain = true},
			parent);
	stream_snapshot(
		c->p,
		&(struct stream_options){.parent = parent, .every = 7, .kind = 2, .plain = plain},
		c->id);
	stream_export(c->p->from, c->id, NULL, 0, &c->data);
	(void)snprintf(c->root, sizeof(c->root), "%s/struck", c->p->f->path);
	*state = c;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, false);
}

static int setup_plain(void **state)
{
	return setup_with(state, true);
}

static int teardown(void **state)
{
	struct crash *c = *state;
	void *place = c->p;

	buf_deinit(&c->data);
	free(c);
	return stream_teardown(&place);
}

TEST_MAIN(cmocka_unit_test_setup_teardown(test_import, setup, teardown),
	  cmocka_unit_test_setup_teardown(test_import_as, setup_plain, teardown))
