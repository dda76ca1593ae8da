/* SPDX-License-Identifier: Apache-2.0 */
/* test-store-usage.c - du(1) is asked, before and after really deleting */
#include "image/test-store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/snapshot.h"
#include "image/store-usage.h"

#define A "saaaaaaaaaaaaaaaaaaaa"
#define B "sbbbbbbbbbbbbbbbbbbbb"
#define C "scccccccccccccccccccc"
#define I "iaaaaaaaaaaaaaaaaaaaa"

static uint64_t du(struct store_fixture *s, const char *options)
{
	unsigned long long n = 0;
	FILE *p;

	p = popen(store_fixture_path("du -s %s %s", options, s->store->root), "r");
	assert_non_null(p);
	assert_int_equal(fscanf(p, "%llu", &n), 1);
	assert_int_equal(pclose(p), 0);
	return n;
}

struct seen {
	unsigned n;
	char kind[4][16], id[4][32];
	struct usage_entry e[4];
};

static int visit(void *userdata, const struct usage_entry *e)
{
	struct seen *seen = userdata;

	assert_true(seen->n < 4);
	(void)snprintf(seen->kind[seen->n], 16, "%s", e->kind);
	(void)snprintf(seen->id[seen->n], 32, "%s", e->id);
	seen->e[seen->n++] = *e;
	return 0;
}

static const struct usage_entry *find(const struct seen *seen, const char *id)
{
	for (unsigned i = 0; i < seen->n; i++)
		if (!strcmp(seen->id[i], id))
			return &seen->e[i];
	return NULL;
}

static void measure(struct store_fixture *s, struct seen *seen, struct usage_total *total)
{
	struct problem problem = PROBLEM_INIT;

	*seen = (struct seen){0};
	assert_int_equal(store_usage(s->store, visit, seen, &problem, total), 0);
	assert_int_equal(total->total, du(s, "--block-size=1"));
	assert_int_equal(total->total,
			 total->snapshots + total->sandboxes + total->temporary + total->other);
	assert_true(total->free > 0);
}

static void fill(struct store_fixture *s)
{
	struct problem problem = PROBLEM_INIT;
	int root_fd = s->store->root_fd, dirfd;

	store_fixture_snapshot(s, A, NULL, NULL);
	store_fixture_snapshot(s, B, A, NULL);
	store_fixture_snapshot(s, C, A, NULL);
	assert_int_equal(mkdirat(root_fd, "sandboxes/" I, 0700), 0);
	dirfd = openat(root_fd, "snapshots/" B, O_RDONLY | O_DIRECTORY);
	assert_int_equal(snapshot_clone(root_fd, s->store->root, dirfd, NULL,
					"sandboxes/" I "/memory-0", NULL, &problem),
			 0);
	close(dirfd);
	store_fixture_write(s, "sandboxes/" I "/log", "something");
	store_fixture_write(s, "tmp/half", "something");
	store_fixture_write(s, "index.sqlite", "something");
	/* two names in one directory: still nobody else's */
	store_fixture_write(s, "snapshots/" C "/twice", "something");
	assert_int_equal(
		linkat(root_fd, "snapshots/" C "/twice", root_fd, "snapshots/" C "/twice.2", 0), 0);
	assert_int_equal(symlinkat("/", root_fd, "snapshots/" C "/link"), 0);
	assert_int_equal(mkfifoat(root_fd, "snapshots/fifo", 0600), 0);
	/* seen in snapshots/ first, whoever else links it */
	assert_int_equal(linkat(root_fd, "snapshots/" C "/twice", root_fd, "other", 0), 0);
	assert_int_equal(unlinkat(root_fd, "other", 0), 0);
}

static void test_usage(void **state)
{
	struct store_fixture *s = *state;
	static const char *const order[] = {C, B, A};
	struct usage_total before, after;
	struct seen seen;

	fill(s);
	measure(s, &seen, &before);
	assert_int_equal(seen.n, 4);
	assert_int_equal(find(&seen, A)->n_layers, 1);
	assert_int_equal(find(&seen, B)->n_layers, 2);
	assert_int_equal(find(&seen, I)->n_layers, 2);
	assert_string_equal(find(&seen, I)->kind, "sandbox");
	assert_string_equal(find(&seen, A)->kind, "snapshot");
	assert_string_equal(seen.id[3], I);
	assert_true(find(&seen, C)->own > find(&seen, B)->own); /* the sandbox links B's */
	assert_true(find(&seen, A)->shared >= STORE_PAGES * DORM_PAGE_SIZE);
	assert_true(before.sandboxes > 0 && before.temporary > 0 && before.other > 0);
	/* the layer of A is there four times */
	assert_true(before.apparent > 4ull * STORE_PAGES * DORM_PAGE_SIZE);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t own;

		measure(s, &seen, &before);
		own = find(&seen, order[i])->own;
		assert_true(own > 0);
		assert_int_equal(snapshot_delete(s->store->root_fd,
						 store_fixture_path("snapshots/%s", order[i]),
						 NULL),
				 0);
		measure(s, &seen, &after);
		assert_int_equal(before.total - after.total, own);
	}
	/* only the sandbox is left, so all it has is its own */
	assert_int_equal(seen.n, 1);
	assert_int_equal(find(&seen, I)->shared, 0);
	assert_true(find(&seen, I)->own >= STORE_PAGES * DORM_PAGE_SIZE);
}

static int stop(void *userdata, const struct usage_entry *e)
{
	return 7;
}

static void test_stop(void **state)
{
	struct store_fixture *s = *state;
	struct usage_total total;

	assert_int_equal(store_usage(s->store, NULL, NULL, NULL, &total), 0);
	assert_int_equal(total.total, du(s, "--block-size=1"));
	store_fixture_snapshot(s, A, NULL, NULL);
	assert_int_equal(store_usage(s->store, stop, NULL, NULL, &total), 7);
}

/* Deeper than anything of ours: an error, not a crash. */
static void test_deep(void **state)
{
	struct store_fixture *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct usage_total total;
	char path[256] = "x";

	for (int i = 0; i < 70; i++) {
		assert_int_equal(mkdirat(s->store->root_fd, path, 0700), 0);
		(void)strcat(path, "/x");
	}
	assert_int_equal(store_usage(s->store, NULL, NULL, &problem, &total), -ELOOP);
	assert_true(problem_is_set(&problem));
}

/* More inodes than the tables begin with, half of them with two names. */
static void test_many(void **state)
{
	struct store_fixture *s = *state;
	int root_fd = s->store->root_fd;
	struct usage_total total;
	struct seen seen;

	store_fixture_snapshot(s, A, NULL, NULL);
	for (unsigned i = 0; i < 600; i++) {
		const char *path = store_fixture_path("snapshots/" A "/disks/x%u", i);
		int fd = openat(root_fd, path, O_WRONLY | O_CREAT, 0600);

		assert_int_equal(write(fd, "x", 1), 1);
		close(fd);
		if (i % 2)
			assert_int_equal(
				linkat(root_fd, path, root_fd, store_fixture_path("tmp/y%u", i), 0),
				0);
	}
	measure(s, &seen, &total);
	assert_true(seen.e[0].shared >= 300ull * 4096);
	assert_true(seen.e[0].own >= 300ull * 4096);
	assert_true(total.apparent >= 900);
}

#define USAGE_TEST(_f)                                                                             \
	cmocka_unit_test_setup_teardown(_f, store_fixture_setup, store_fixture_teardown)
TEST_MAIN(USAGE_TEST(test_usage), USAGE_TEST(test_stop), USAGE_TEST(test_deep),
	  USAGE_TEST(test_many))
