/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-transfer-crash.c - an import that ends at any instant leaves no snapshot or a whole one
 *
 * At the n-th call that changes the file system (test-fault.h) the process is killed, or the call
 * fails with EIO, for every n until the import gets through. Each time the store is opened again,
 * looked at, and the same import made to its end.
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
#include "image/test-fault.h"

static const struct fault faults[] = {{"EIO", FAULT_ERROR, EIO, CALL_CHANGES, 1},
				      {"killed", FAULT_KILL_BEFORE, 0, CALL_CHANGES, 1}};

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
		fault_arm(&faults[deadly], (unsigned)n);
		r = import(c, s, &problem);
		if (!fault_disarm())
			_exit(r ? 4 : 0);
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
