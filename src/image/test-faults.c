/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-faults.c - every system call of every operation fails once, and from there on
 *
 * For each operation of test-operations.c and each fault below: the n-th call is struck, for every
 * n until the operation gets through without. Then must hold
 *
 *     it succeeded and the state is the new one, or it said that it failed, why, and with the cause
 *     that was injected, and the state is the old one (or the new one, where fault or header say
 * so) nothing is left in tmp/ when only one call failed as many descriptors are open as before;
 * under AddressSanitizer: nothing is leaked interrupted and short calls are not noticed at all
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/disk.h"
#include "image/test-fault.h"
#include "image/test-operations.h"
#include "image/test-state.h"
#include "image/test-trial.h"

#define MAX_CALLS 1000

static const struct fault faults[] = {
	{"EIO", FAULT_ERROR, EIO, CALL_CHANGES, 1},
	{"EIO for good", FAULT_ERROR, EIO, CALL_CHANGES, FAULT_FOR_GOOD},
	{"EIO when reading", FAULT_ERROR, EIO, CALL_READ, 1},
	{"EIO when reading, for good", FAULT_ERROR, EIO, CALL_READ, FAULT_FOR_GOOD},
	{"ENOSPC", FAULT_ERROR, ENOSPC, CALL_GROWS, 1},
	{"ENOSPC for good", FAULT_ERROR, ENOSPC, CALL_GROWS, FAULT_FOR_GOOD},
	{"EDQUOT for good", FAULT_ERROR, EDQUOT, CALL_GROWS, FAULT_FOR_GOOD},
	{"EINTR", FAULT_ERROR, EINTR, CALL_INTERRUPTIBLE, 1, true},
	{"EINTR thrice", FAULT_ERROR, EINTR, CALL_INTERRUPTIBLE, 3, true},
	{"a short write", FAULT_SHORT, 0, CALL_WRITE, 1, true},
	{"short writes", FAULT_SHORT, 0, CALL_WRITE, FAULT_FOR_GOOD, true},
	{"a short read", FAULT_SHORT, 0, CALL_READ, 1, true},
	{"short reads", FAULT_SHORT, 0, CALL_READ, FAULT_FOR_GOOD, true},
};

struct run {
	struct trial t;
	const struct fault *fault;
	unsigned n;
};

#define wrong(_run, _fmt, ...)                                                                     \
	fail_msg("%s, %s at call %u (%s): " _fmt, (_run)->t.op->name, (_run)->fault->name,         \
		 (_run)->n, fault_call(), ##__VA_ARGS__)

static void check_result(const struct run *x, int r, const struct problem *problem)
{
	const struct fault *f = x->fault;

	if (r != 0 && f->invisible)
		wrong(x, "noticed: %d, %s", r, problem->message);
	if (r > 0)
		wrong(x, "taken for something else: %d, %s", r, problem->message);
	if (r < 0 && !problem_is_set(problem))
		wrong(x, "failed with %d and no reason", r);
	if (r < 0 && r != -f->error)
		wrong(x, "failed with %d: %s", r, problem->message);
	if (r < 0 && f->times == 1 && !x->t.op->leaves_tmp && !state_tmp_is_empty(x->t.root))
		wrong(x, "something is left in tmp/");
}

static void check_state(const struct run *x, int r)
{
	char *now;
	enum trial_state is = trial_judge(&x->t, x->t.root, &now);

	if (is == TRIAL_OTHER)
		wrong(x,
		      "result %d, neither the old state nor the new "
		      "one:\n%s\nbefore:\n%s\nafter:\n%s",
		      r, now, x->t.before, x->t.after);
	if (r == 0 && is != TRIAL_NEW && !x->t.op->goes_on)
		wrong(x, "success, and the state is the old one");
	if (r < 0 && is != TRIAL_OLD && !x->t.op->late && x->fault->times == 1)
		wrong(x, "failed with %d, and the state is the new one", r);
	free(now);
}

/* Return: was a call struck? */
static bool run_struck(struct run *x)
{
	struct problem problem = PROBLEM_INIT;
	int fds = state_n_fds(), r;
	struct store *s;
	bool struck;

	trial_reset(&x->t);
	assert_int_equal(store_open(x->t.root, &problem, &s), 0);
	fault_arm(x->fault, x->n);
	r = x->t.op->run(s, &problem);
	struck = fault_disarm();
	if (!struck && r)
		wrong(x, "failed by itself: %d, %s", r, problem.message);
	check_result(x, r, &problem);
	store_close(s);
	if (state_n_fds() != fds)
		wrong(x, "%d descriptors more are open", state_n_fds() - fds);
	check_state(x, r);
	return struck;
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
	assert_true(total > 5);
	print_message("%s: %u calls struck\n", x.t.op->name, total);
}

/* ---- copies of disks --------------------------------------------------------------------------
 */

/* What a file system or kernel says that has not got a way of copying. */
static const struct fault refusals[] = {
	{"EXDEV", FAULT_ERROR, EXDEV, CALL_KERNEL_COPY, FAULT_FOR_GOOD, true},
	{"EINVAL", FAULT_ERROR, EINVAL, CALL_KERNEL_COPY, FAULT_FOR_GOOD, true},
	{"ENOSYS", FAULT_ERROR, ENOSYS, CALL_KERNEL_COPY, 1, true},
	{"EOPNOTSUPP", FAULT_ERROR, EOPNOTSUPP, CALL_KERNEL_COPY, 1, true},
	{"no SEEK_DATA", FAULT_ERROR, EINVAL, CALL_SEEK, FAULT_FOR_GOOD, true},
	{"no SEEK_HOLE", FAULT_ERROR, EOPNOTSUPP, CALL_SEEK, 1, true},
	{"no FICLONE", FAULT_ERROR, ENOTTY, CALL_CLONE, 1, true},
	{"seeking fails", FAULT_ERROR, EIO, CALL_SEEK, 1},
};

#define DISK_BYTES (300000ul + 77)

/* Return: was a call struck? */
static bool copy_struck(int dirfd, int from, const char *content, const struct fault *f, unsigned n,
			enum disk_reflink way)
{
	const struct operation op = {.name = "copy of a disk"};
	struct run x = {.t.op = &op, .fault = f, .n = n};
	_cleanup_free_ char *copy = NULL;
	struct problem problem = PROBLEM_INIT;
	int fds = state_n_fds(), r;
	bool struck;
	size_t len;

	fault_arm(f, n);
	r = disk_copy(from, dirfd, "to", 0444, way, &problem, NULL);
	struck = fault_disarm();
	assert_int_equal(state_n_fds(), fds);
	if (r && (!struck || f->invisible))
		wrong(&x, "noticed: %d, %s", r, problem.message);
	if (r && (r != -f->error || !problem_is_set(&problem)))
		wrong(&x, "failed with %d: %s", r, problem.message);
	if (r) {
		/* a call that fails for good cannot be cleaned up behind */
		if (unlinkat(dirfd, "to", 0) == 0 && f->times == 1)
			wrong(&x, "something is left");
		return struck;
	}
	assert_int_equal(file_read(dirfd, "to", 2 * DISK_BYTES, &copy, &len), 0);
	if (len != DISK_BYTES || memcmp(copy, content, DISK_BYTES))
		wrong(&x, "the copy is another one");
	assert_int_equal(unlinkat(dirfd, "to", 0), 0);
	return struck;
}

static void copy_with(int dirfd, int from, const char *content, const struct fault *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (int way = 0; way < 2; way++) {
			unsigned k = 0;

			while (copy_struck(dirfd, from, content, &list[i], k,
					   way ? DISK_REFLINK_AUTO : DISK_REFLINK_NEVER))
				assert_true(++k < MAX_CALLS);
		}
}

static void test_disk_copy(void **state)
{
	char *content = calloc(1, DISK_BYTES), base[64];
	int dirfd, fd;

	assert_non_null(content);
	memset(content + 4096, 'a', 100);
	memset(content + 131072, 'b', 100000);
	content[DISK_BYTES - 1] = 'c';
	state_make_directory(base);
	dirfd = file_open_dir(AT_FDCWD, base);
	fd = openat(dirfd, "from", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	assert_int_equal(pwrite(fd, content + 4096, 4096, 4096), 4096);
	assert_int_equal(pwrite(fd, content + 131072, DISK_BYTES - 131072, 131072),
			 DISK_BYTES - 131072);
	copy_with(dirfd, fd, content, faults, ARRAY_SIZE(faults));
	copy_with(dirfd, fd, content, refusals, ARRAY_SIZE(refusals));
	close(fd);
	close(dirfd);
	free(content);
	assert_int_equal(file_remove_tree(AT_FDCWD, base), 0);
}

int main(void)
{
	return trial_main(test_operation, test_disk_copy, "copy of a disk");
}
