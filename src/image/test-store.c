/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/id.h"
#include "image/store.h"

static void test_open_and_lock(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct store *store, *other = NULL;
	unsigned long long bytes;
	char root[80], want[40];
	struct stat st;

	(void)snprintf(root, sizeof(root), "%s/a/b", f->path);
	assert_int_equal(store_open(root, &problem, &store), 0);
	assert_string_equal(store->root, root);
	assert_int_equal(stat(root, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(store_open(root, &problem, &other), -EBUSY);
	assert_null(other);
	assert_int_equal(problem.status, 409);
	(void)snprintf(want, sizeof(want), "another process (%d) owns this store", getpid());
	assert_non_null(strstr(problem.message, want));
	assert_int_equal(store_free_bytes(store, &bytes), 0);
	assert_true(bytes > 0);
	/* leftovers of a crash go, everything else stays */
	assert_int_equal(mkdirat(store->root_fd, "tmp/x", 0755), 0);
	assert_int_equal(mkdirat(store->root_fd, "tmp/x/layers", 0755), 0);
	assert_int_equal(symlinkat("/", store->root_fd, "tmp/link"), 0);
	assert_int_equal(mkdirat(store->root_fd, "snapshots/kept", 0755), 0);
	store_close(store);
	assert_int_equal(store_open(root, &problem, &store), 0);
	assert_int_equal(fstatat(store->root_fd, "tmp/x", &st, 0), -1);
	assert_int_equal(fstatat(store->root_fd, "tmp/link", &st, AT_SYMLINK_NOFOLLOW), -1);
	assert_int_equal(fstatat(store->root_fd, "snapshots/kept", &st, 0), 0);
	store_close(store);
}

/* The lock goes with the process, however it ends. */
static void test_lock_dies(void **state)
{
	struct fixture *f = *state;
	struct problem problem = PROBLEM_INIT;
	struct store *store;
	int ready[2], status;
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (store_open(f->path, NULL, &store) == 0)
			(void)!write(ready[1], "x", 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(store_open(f->path, &problem, &store), -EBUSY);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	problem = PROBLEM_INIT;
	assert_int_equal(store_open(f->path, &problem, &store), 0);
	store_close(store);
	close(ready[0]);
	close(ready[1]);
}

struct visits {
	unsigned n;
	char last[64];
	char snapshot[ID_LEN + 1];
};

static int visit_dir(void *userdata, const char *id, int dirfd)
{
	struct visits *v = userdata;
	struct stat st;

	v->n++;
	(void)snprintf(v->last, sizeof(v->last), "%s", id);
	return fstat(dirfd, &st) == 0 && S_ISDIR(st.st_mode) ? 0 : -EIO;
}

static int visit_stop(void *userdata, const char *id, int dirfd)
{
	return 7;
}

static int visit_template(void *userdata, const char *name, const char *snapshot_id)
{
	struct visits *v = userdata;

	v->n++;
	(void)snprintf(v->last, sizeof(v->last), "%s", name);
	(void)snprintf(v->snapshot, sizeof(v->snapshot), "%s", snapshot_id);
	return 0;
}

static void test_each(void **state)
{
	struct fixture *f = *state;
	struct visits v = {0};
	struct store *store;
	char id[ID_LEN + 1], path[64];

	assert_int_equal(store_open(f->path, NULL, &store), 0);
	for (int i = 0; i < 3; i++) {
		id_new('s', id);
		(void)snprintf(path, sizeof(path), "snapshots/%s", id);
		assert_int_equal(mkdirat(store->root_fd, path, 0755), 0);
	}
	/* not ours: another form of name, a link, a file */
	assert_int_equal(mkdirat(store->root_fd, "snapshots/lost+found", 0755), 0);
	id_new('s', id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	assert_int_equal(symlinkat("/", store->root_fd, path), 0);
	id_new('s', id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	assert_int_equal(file_write_atomic(store->root_fd, path, "", 0, 0644), 0);
	assert_int_equal(store_each(store, "snapshots", visit_dir, &v), 0);
	assert_int_equal(v.n, 3);
	assert_int_equal(store_each(store, "snapshots", visit_stop, NULL), 7);
	assert_int_equal(store_each(store, "sandboxes", visit_stop, NULL), 0);
	store_close(store);
}

static void test_templates(void **state)
{
	struct fixture *f = *state;
	char a[ID_LEN + 1], b[ID_LEN + 1], got[ID_LEN + 1] = "?";
	struct visits v = {0};
	struct store *store;

	id_new('s', a);
	id_new('s', b);
	assert_int_equal(store_open(f->path, NULL, &store), 0);
	assert_int_equal(store_template_get(store, "base", got), -ENOENT);
	assert_string_equal(got, "?");
	assert_int_equal(store_template_set(store, "base", a), 0);
	assert_int_equal(store_template_get(store, "base", got), 0);
	assert_string_equal(got, a);
	assert_int_equal(store_template_set(store, "base", b), 0);
	assert_int_equal(store_template_get(store, "base", got), 0);
	assert_string_equal(got, b);
	assert_int_equal(store_template_set(store, "../base", b), -EINVAL);
	assert_int_equal(store_template_set(store, "base", "../../etc"), -EINVAL);
	assert_int_equal(store_template_get(store, "..", got), -ENOENT);
	/* a link that somebody else made */
	assert_int_equal(symlinkat("/etc", store->root_fd, "templates/etc"), 0);
	assert_int_equal(store_template_get(store, "etc", got), -EBADMSG);
	assert_int_equal(store_each_template(store, visit_template, &v), 0);
	assert_int_equal(v.n, 1);
	assert_string_equal(v.last, "base");
	assert_string_equal(v.snapshot, b);
	assert_int_equal(store_template_remove(store, "base"), 0);
	assert_int_equal(store_template_remove(store, "base"), -ENOENT);
	assert_int_equal(store_template_get(store, "base", got), -ENOENT);
	store_close(store);
}

#define STORE_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(STORE_TEST(test_open_and_lock), STORE_TEST(test_lock_dies), STORE_TEST(test_each),
	  STORE_TEST(test_templates))
