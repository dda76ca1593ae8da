/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-power.c - invariant 3 when the host goes down: what was not fsynced may be gone
 *
 * After a power cut a file has the content it had at its last fsync, and a directory the names it
 * had at its last fsync; anything newer may be there or not, each by itself. The model below keeps
 * for every file and directory what is durable (struct node). At each successful call of an
 * operation four stores are made from it, as extreme as file systems may be:
 *
 *     lazy    nothing is there that was not fsynced
 *     hasty   every name is there at once, contents only when fsynced
 *     mixed   names in the root, snapshots/, templates/ and tmp/ are there at once, the rest as
 * lazy
 *
 * Each is opened, and must be the state before the operation or the one after it. When the
 * operation has said that it is done, the lazy one must be the state after it: who was told of a
 * snapshot keeps it.
 *
 * So an fsync that is missing before a rename shows in the hasty or the top store, one after the
 * rename in the lazy one, and one before a removal in the deep one. The same once more with each
 * fsync failing in turn: what an operation then undoes must not come back half.
 */
#include "image/test-fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/test-fault.h"
#include "image/test-operations.h"
#include "image/test-state.h"
#include "image/test-trial.h"

#define MAX_NAMES 64
#define MAX_BYTES (1u << 20)

/* ---- what is durable --------------------------------------------------------------------------
 */

struct node {
	struct node *next;
	ino_t ino;
	mode_t mode;
	int hold;      /* O_PATH: so that no other file gets the same number meanwhile */
	char *content; /* file: at its last fsync, or NULL; symbolic link: always */
	size_t len;
	unsigned n; /* directory: the names at its last fsync */
	struct {
		char name[64];
		struct node *node;
	} names[MAX_NAMES];
};

static struct node *nodes;

/* @hold: O_PATH, consumed */
static struct node *node_of_fd(int hold)
{
	char text[200];
	struct stat st;
	struct node *x;
	ssize_t n;

	assert_true(hold >= 0);
	assert_int_equal(fstat(hold, &st), 0);
	for (x = nodes; x; x = x->next)
		if (x->ino == st.st_ino) {
			close(hold);
			return x;
		}
	x = calloc(1, sizeof(*x));
	assert_non_null(x);
	*x = (struct node){.next = nodes, .ino = st.st_ino, .mode = st.st_mode, .hold = hold};
	if (S_ISLNK(st.st_mode)) {
		n = readlinkat(hold, "", text, sizeof(text) - 1);
		assert_true(n > 0);
		x->content = strndup(text, (size_t)n);
	}
	return nodes = x;
}

static struct node *node_of(int dirfd, const char *name)
{
	return node_of_fd(openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
}

/* The one that is open as @fd. */
static struct node *node_of_open(int fd)
{
	char path[40];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return node_of_fd(open(path, O_PATH | O_CLOEXEC));
}

static void forget_all(void)
{
	while (nodes) {
		struct node *x = nodes;

		nodes = x->next;
		close(x->hold);
		free(x->content);
		free(x);
	}
}

/* The names that a directory has now. */
static void list(const struct node *x, struct node *ret)
{
	DIR *d = NULL;
	struct dirent *e;

	ret->n = 0;
	assert_int_equal(file_opendir(x->hold, ".", &d), 0);
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		assert_true(ret->n < MAX_NAMES && strlen(e->d_name) < sizeof(ret->names[0].name));
		memcpy(ret->names[ret->n].name, e->d_name, strlen(e->d_name) + 1);
		ret->names[ret->n++].node = node_of(dirfd(d), e->d_name);
	}
	closedir(d);
}

/* It has been fsynced. */
static void settle(struct node *x)
{
	char path[40];
	struct stat st;

	assert_int_equal(fstat(x->hold, &st), 0);
	x->mode = st.st_mode;
	if (S_ISDIR(x->mode)) {
		list(x, x);
	} else if (S_ISREG(x->mode)) {
		free(x->content);
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", x->hold);
		assert_int_equal(file_read(AT_FDCWD, path, MAX_BYTES, &x->content, &x->len), 0);
	}
}

static void settle_tree(struct node *x)
{
	settle(x);
	for (unsigned i = 0; S_ISDIR(x->mode) && i < x->n; i++)
		settle_tree(x->names[i].node);
}

/* ---- the stores that may be left --------------------------------------------------------------
 */

enum cut { CUT_LAZY, CUT_HASTY, CUT_TOP, CUT_DEEP, N_CUTS };

static const char *const cut_names[] = {"lazy", "hasty", "top", "deep"};

static void restore(const struct node *x, enum cut cut, unsigned depth, int dirfd, const char *name)
{
	struct node *now = NULL;
	int fd;

	if (S_ISLNK(x->mode)) {
		assert_int_equal(symlinkat(x->content, dirfd, name), 0);
		return;
	}
	if (S_ISREG(x->mode)) {
		fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, x->mode & 0777);
		assert_true(fd >= 0);
		if (x->content)
			assert_int_equal(fd_write_full(fd, x->content, x->len), 0);
		close(fd);
		return;
	}
	assert_int_equal(mkdirat(dirfd, name, 0755), 0);
	fd = file_open_dir(dirfd, name);
	assert_true(fd >= 0);
	if (cut == CUT_HASTY || (cut == CUT_TOP && depth < 2) || (cut == CUT_DEEP && depth >= 2)) {
		now = calloc(1, sizeof(*now));
		assert_non_null(now);
		list(x, now);
		x = now;
	}
	for (unsigned i = 0; i < x->n; i++)
		restore(x->names[i].node, cut, depth + 1, fd, x->names[i].name);
	free(now);
	close(fd);
}

/* ---- the trial --------------------------------------------------------------------------------
 */

static struct trial trial;
static struct node *root;
static unsigned n_calls, n_old, n_new;
static bool wait_for_fault;

/* Return: the state that is left of the store when the power goes now */
static enum trial_state cut_now(enum cut cut)
{
	enum trial_state is;
	char path[80], *text;

	(void)snprintf(path, sizeof(path), "%s/cut", trial.base);
	assert_int_equal(file_remove_tree(AT_FDCWD, path), 0);
	restore(root, cut, 0, AT_FDCWD, path);
	is = trial_judge(&trial, path, &text);
	if (is == TRIAL_OTHER)
		fail_msg("%s, %s power cut after call %u:\n%s\nbefore:\n%s\nafter:\n%s",
			 trial.op->name, cut_names[cut], n_calls, text, trial.before, trial.after);
	free(text);
	return is;
}

static void seen(unsigned group, int fd)
{
	n_calls++;
	if (group & CALL_SYNC && fd >= 0)
		settle(node_of_open(fd));
	else if (group & CALL_SYNC)
		settle_tree(root); /* syncfs */
	if (wait_for_fault && (!fault_has_struck() || n_calls % 4))
		return; /* the run without a fault has been here; and of the rest a sample */
	for (enum cut cut = 0; cut < N_CUTS; cut++)
		*(cut_now(cut) == TRIAL_OLD ? &n_old : &n_new) += 1;
}

/* Return: what the operation says. With a fault: when the @n-th fsync fails */
static int run_observed(const struct fault *f, unsigned n, bool *ret_struck)
{
	struct problem problem = PROBLEM_INIT;
	struct store *s;
	int r;

	n_calls = 0;
	wait_for_fault = f->calls;
	trial_reset(&trial);
	assert_int_equal(store_open(trial.root, &problem, &s), 0);
	root = node_of(AT_FDCWD, trial.root);
	settle_tree(root);
	fault_observe(seen);
	fault_arm(f, n);
	r = trial.op->run(s, &problem);
	*ret_struck = fault_disarm();
	fault_observe(NULL);
	for (enum cut cut = 0; cut < N_CUTS; cut++) /* by what was done without success, too */
		if (cut_now(cut) != TRIAL_NEW && r == 0 && !trial.op->goes_on)
			fail_msg("%s: done, and a power cut undoes it", trial.op->name);
	store_close(s);
	forget_all();
	return r;
}

static void try_all(void)
{
	static const struct fault none = {"no fault"},
				  eio = {"EIO", FAULT_ERROR, EIO, CALL_SYNC, 1};
	bool struck = true;

	n_old = n_new = 0;
	assert_int_equal(run_observed(&none, 0, &struck), 0);
	assert_true(n_old > 0 && n_new > 0); /* or no cut was at the right place */
	print_message("%s: %u calls, the old state %u times, the new one %u times\n",
		      trial.op->name, n_calls, n_old, n_new);
	struck = true;
	for (unsigned n = 0; struck; n++)
		(void)run_observed(&eio, n, &struck); /* test-faults.c looks at the result */
}

static void test_operation(void **state)
{
	trial_begin(&trial, *state);
	try_all();
	trial_end(&trial);
}

/* Can this test fail? A rename without any fsync must look like what it is. */
static int careless(struct store *s, struct problem *problem)
{
	return renameat(s->root_fd, "snapshots/" OLD, s->root_fd, "snapshots/" NEW) < 0 ? -errno
											: 0;
}

static void test_careless(void)
{
	static const struct operation op = {"careless", NULL, careless, "snapshots/" NEW};
	struct problem problem = PROBLEM_INIT;
	struct store *s;

	trial_begin(&trial, &op);
	trial_reset(&trial);
	assert_int_equal(store_open(trial.root, &problem, &s), 0);
	root = node_of(AT_FDCWD, trial.root);
	settle_tree(root);
	assert_int_equal(careless(s, &problem), 0);
	assert_int_equal(cut_now(CUT_LAZY), TRIAL_OLD);
	assert_int_equal(cut_now(CUT_HASTY), TRIAL_NEW);
	store_close(s);
	forget_all();
	trial_end(&trial);
}

/* A process died while it deleted, another opens the store and cleans up, then the power goes. */
static void test_grave(void)
{
	struct problem problem = PROBLEM_INIT;
	struct store *s;

	trial_begin(&trial, &operations[3]);
	trial_reset(&trial);
	root = node_of(AT_FDCWD, trial.root);
	settle_tree(root);
	assert_int_equal(renameat(root->hold, "snapshots/" OLD, root->hold, "tmp/x"), 0);
	n_calls = n_old = n_new = 0;
	wait_for_fault = false;
	fault_observe(seen);
	assert_int_equal(store_open(trial.root, &problem, &s), 0);
	fault_observe(NULL);
	assert_true(n_old > 0 && n_new > 0);
	store_close(s);
	forget_all();
	trial_end(&trial);
}

static void test_others(void **state)
{
	test_careless();
	test_grave();
}

int main(void)
{
	return trial_main(test_operation, test_others, "others");
}
