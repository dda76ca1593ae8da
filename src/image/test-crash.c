/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-crash.c - invariant 3: after a crash at any instant there is the old state or the new one
 *
 * For each operation of test-operations.c: a process of its own does it and is killed before the
 * n-th call that changes a file, after it, or in the middle of a write, for every n until it gets
 * through. Then another process opens the store and looks at all of it. test-faults.c does the same
 * with calls that fail, test-power.c with a host that goes down.
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "image/test-fault.h"
#include "image/test-operations.h"
#include "image/test-state.h"
#include "image/test-trial.h"

#define MAX_CALLS 1000

static const struct fault faults[] = {
	{"killed before", FAULT_KILL_BEFORE, 0, CALL_CHANGES, 1},
	{"killed after", FAULT_KILL_AFTER, 0, CALL_CHANGES, 1},
	{"killed within", FAULT_KILL_PART, 0, CALL_WRITE, 1},
};

struct run {
	struct trial t;
	const struct fault *fault;
	unsigned n;
};

/* In a process of its own. Return: what waitpid() says */
static int run_apart(const struct run *x)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct problem problem = PROBLEM_INIT;
		struct store *s;
		int r = store_open(x->t.root, &problem, &s);

		if (r == 0) {
			fault_arm(x->fault, x->n);
			r = x->t.op->run(s, &problem);
			(void)fault_disarm(); /* the parent sees whether we were killed */
		}
		if (r)
			(void)fprintf(stderr, "%s: %d, %s\n", x->t.op->name, r, problem.message);
		_exit(r ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* Return: was it killed? */
static bool run_struck(struct run *x)
{
	enum trial_state is;
	bool killed;
	char *now;
	int status;

	trial_reset(&x->t);
	status = run_apart(x);
	killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	if (!killed && status)
		fail_msg("%s, %s call %u: status 0x%x", x->t.op->name, x->fault->name, x->n,
			 (unsigned)status);
	is = trial_judge(&x->t, x->t.root, &now);
	if (is != TRIAL_NEW && !(is == TRIAL_OLD && killed))
		fail_msg("%s, %s call %u:\n%s\nbefore:\n%s\nafter:\n%s", x->t.op->name,
			 x->fault->name, x->n, now, x->t.before, x->t.after);
	free(now);
	return killed;
}

static void test_operation(void **state)
{
	struct run x;
	unsigned total = 0;

	trial_begin(&x.t, *state);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		x.fault = &faults[i];
		for (x.n = 0; run_struck(&x); x.n++)
			assert_true(x.n < MAX_CALLS);
		total += x.n;
	}
	trial_end(&x.t);
	assert_true(total >= 4);
	print_message("%s: killed %u times\n", x.t.op->name, total);
}

/* ---- two processes ----------------------------------------------------------------------------
 */

static char two_root[80];
static int two_go[2], two_answer[2]; /* pipes to and from the first process */

/* The first process: says when it has the store; at each word takes a snapshot; never lets go. */
static void own_store(void)
{
	struct problem problem = PROBLEM_INIT;
	struct store *s;
	char word;

	if (store_open(two_root, &problem, &s) || write(two_answer[1], "o", 1) != 1)
		_exit(1);
	while (read(two_go[0], &word, 1) == 1) {
		if (operations[0].run(s, &problem) || write(two_answer[1], "t", 1) != 1)
			_exit(2);
		/* the next one dies in the middle, holding the lock */
		fault_arm(&faults[0], 20);
		(void)operations[1].run(s, &problem);
	}
	_exit(3);
}

static char answer(void)
{
	char c = 0;

	return read(two_answer[0], &c, 1) == 1 ? c : 0;
}

/* A second process is refused and told by whom; the first notices nothing; its death lets go. */
static void test_two_processes(void **state)
{
	struct problem problem = PROBLEM_INIT;
	char base[64], want[32], *now;
	struct store *s = NULL;
	uint64_t start;
	int status;
	pid_t pid;

	state_make_directory(base);
	(void)snprintf(two_root, sizeof(two_root), "%s/store", base);
	assert_int_equal(scene_build(&operations[0], two_root, &problem), 0);
	assert_true(pipe(two_go) == 0 && pipe(two_answer) == 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		own_store();
	assert_int_equal(answer(), 'o');
	assert_int_equal(store_open(two_root, &problem, &s), -EBUSY);
	assert_null(s);
	(void)snprintf(want, sizeof(want), "another process (%d)", (int)pid);
	assert_non_null(strstr(problem.message, want));
	assert_int_equal(problem.status, 409);
	assert_true(problem.hint[0]);
	assert_int_equal(write(two_go[1], "x", 1), 1);
	assert_int_equal(answer(), 't');
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	start = clock_now_ns();
	problem = PROBLEM_INIT;
	assert_int_equal(store_open(two_root, &problem, &s), 0);
	assert_true(clock_now_ns() - start < 500000000);
	store_close(s);
	now = state_describe(two_root);
	if (!state_has_line(now, operations[0].gives) || strstr(now, "stray"))
		fail_msg("%s", now);
	free(now);
	for (int i = 0; i < 2; i++) {
		close(two_go[i]);
		close(two_answer[i]);
	}
	scene_end();
	assert_int_equal(file_remove_tree(AT_FDCWD, base), 0);
}

int main(void)
{
	return trial_main(test_operation, test_two_processes, "two processes");
}
