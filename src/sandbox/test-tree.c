/* SPDX-License-Identifier: Apache-2.0 */
/* Trees from manifests that say anything. What is made here is only as much of a host as that
 * needs. */
#include "base/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "image/manifest.h"
#include "sandbox/private.h"

#define LONG_LINE 1000u

struct fixture {
	char dir[32];
	struct host host;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct problem p = PROBLEM_INIT;

	str_copy(f->dir, sizeof(f->dir), "/tmp/dorm-test-tree.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	pthread_mutex_init(&f->host.lock, NULL);
	assert_int_equal(store_open(f->dir, &p, &f->host.store), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	store_close(f->host.store);
	assert_int_equal(file_remove_tree(AT_FDCWD, f->dir), 0);
	free(f);
	return 0;
}

static const char *id_of(unsigned n, char buf[ID_LEN + 1])
{
	(void)snprintf(buf, ID_LEN + 1, "s%020u", n);
	return buf;
}

/* @parent: 0 for none */
static void put(struct fixture *f, unsigned n, unsigned parent)
{
	struct manifest m = {.image_id = "0abf5f7139eeabb9dc6221860ac5144e",
			     .created_ns = 1700000000123456789,
			     .memory_bytes = 1u << 20,
			     .cpus = 1,
			     .vmm = "qemu"};
	const struct manifest_files files = {.map_bytes = 94};
	_cleanup_free_ char *text = NULL;
	char path[96];

	id_of(n, m.id);
	if (parent)
		id_of(parent, m.parent_id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", m.id);
	assert_int_equal(mkdirat(f->host.store->root_fd, path, 0755), 0);
	assert_int_equal(manifest_encode(&m, &files, &text), 0);
	(void)snprintf(path, sizeof(path), "snapshots/%s/manifest.json", m.id);
	assert_int_equal(file_replace(f->host.store->root_fd, path, text, strlen(text), 0644), 0);
}

static json_t *tree(struct fixture *f, unsigned n)
{
	struct problem p = PROBLEM_INIT;
	char id[ID_LEN + 1];
	json_t *o = NULL;

	assert_int_equal(snapshots_tree(&f->host, n ? id_of(n, id) : NULL, &p, &o), 0);
	return o;
}

static unsigned count(json_t *nodes, unsigned depth, unsigned *deepest)
{
	unsigned n = 0;
	json_t *node;
	size_t i;

	*deepest = MAX(*deepest, json_array_size(nodes) ? depth : 0);
	json_array_foreach (nodes, i, node)
		n += 1 + count(json_object_get(node, "children"), depth + 1, deepest);
	return n;
}

/* Every node once, whatever the shape. */
static void expect(json_t *o, unsigned roots, unsigned nodes, unsigned depth)
{
	json_t *a = json_object_get(o, "roots");
	unsigned deepest = 0;

	assert_int_equal(json_array_size(a), roots);
	assert_int_equal(count(a, 1, &deepest), nodes);
	assert_int_equal(deepest, depth);
	json_decref(o);
}

static void test_shapes(void **state)
{
	struct fixture *f = *state;
	json_t *o, *gone;

	expect(tree(f, 0), 0, 0, 0);
	put(f, 1, 0);
	put(f, 2, 1);
	put(f, 3, 1);
	put(f, 4, 2);
	expect(tree(f, 0), 1, 4, 3);
	put(f, 5, 99); /* which is not here */
	put(f, 6, 99);
	expect(tree(f, 0), 2, 7, 3);
	expect(tree(f, 4), 1, 4, 3);
	o = tree(f, 6);
	gone = json_array_get(json_object_get(o, "roots"), 0);
	assert_true(json_is_true(json_object_get(gone, "deleted")));
	assert_int_equal(json_array_size(json_object_get(gone, "children")), 2);
	expect(o, 1, 3, 2);
}

static void test_circles(void **state)
{
	struct fixture *f = *state;

	put(f, 1, 1);
	put(f, 2, 3);
	put(f, 3, 4);
	put(f, 4, 2);
	put(f, 5, 3); /* hangs on the second circle */
	expect(tree(f, 1), 1, 1, 1);
	for (unsigned n = 2; n <= 5; n++) {
		json_t *o = tree(f, n);
		unsigned deepest = 0;

		assert_int_equal(count(json_object_get(o, "roots"), 1, &deepest), 4);
		json_decref(o);
	}
	put(f, 6, 0);
	expect(tree(f, 6), 1, 1, 1);
}

/* Deeper than any reader of JSON would follow. */
static void test_long_line(void **state)
{
	struct fixture *f = *state;
	json_t *o;

	for (unsigned n = 1; n <= LONG_LINE; n++)
		put(f, n, n - 1);
	o = tree(f, 0);
	assert_int_equal(json_array_size(json_object_get(o, "roots")), 1);
	expect(o, 1, LONG_LINE, 201);
}

TEST_MAIN(cmocka_unit_test_setup_teardown(test_shapes, set_up, tear_down),
	  cmocka_unit_test_setup_teardown(test_circles, set_up, tear_down),
	  cmocka_unit_test_setup_teardown(test_long_line, set_up, tear_down))
