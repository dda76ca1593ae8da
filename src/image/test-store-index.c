/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "image/snapshot.h"
#include "image/store-index.h"

#define A "saaaaaaaaaaaaaaaaaaaa"
#define B "sbbbbbbbbbbbbbbbbbbbb"
#define C "scccccccccccccccccccc"
#define N 8

struct seen {
	unsigned n, stop_after;
	char id[N][32], text[N][400], damage[N][256];
	struct index_entry e[N];
	struct store *delete_from;
};

static int visit(void *userdata, const struct index_entry *e)
{
	struct seen *seen = userdata;
	unsigned i = seen->n++;

	assert_true(i < N);
	seen->e[i] = *e;
	(void)snprintf(seen->id[i], sizeof(seen->id[i]), "%s", e->id);
	(void)snprintf(seen->text[i], sizeof(seen->text[i]), "%s|%s|%s|%s|%s|%s|%s", e->name,
		       e->parent_id, e->template_id, e->source_id, e->vmm, e->accel, e->seal);
	(void)snprintf(seen->damage[i], sizeof(seen->damage[i]), "%s", e->damage ? e->damage : "");
	if (seen->delete_from)
		assert_int_equal(snapshot_delete(seen->delete_from->root_fd,
						 store_fixture_path("snapshots/%s", e->id), NULL),
				 0);
	return seen->n == seen->stop_after ? 7 : 0;
}

static void list(struct store_index *x, struct seen *seen)
{
	*seen = (struct seen){0};
	assert_int_equal(store_index_each(x, visit, seen), 0);
}

static struct store_index *open_index(struct store_fixture *s)
{
	struct problem problem = PROBLEM_INIT;
	struct store_index *x = NULL;

	assert_int_equal(store_index_open(s->store, &problem, &x), 0);
	return x;
}

static void three(struct store_fixture *s)
{
	store_fixture_snapshot(s, A, NULL, NULL);
	store_fixture_snapshot(s, B, A, NULL);
	store_fixture_snapshot(s, C, A, NULL);
}

static void test_list(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x = open_index(s);
	struct seen seen;
	uint64_t n = 9, own;

	list(x, &seen);
	assert_int_equal(seen.n, 0);
	three(s);
	store_fixture_write(s, "snapshots/stray", "");
	assert_int_equal(symlinkat(A, s->store->root_fd, "snapshots/sllllllllllllllllllll"), 0);
	list(x, &seen);
	assert_int_equal(seen.n, 3);
	assert_string_equal(seen.id[0], C);
	assert_string_equal(seen.id[1], B);
	assert_string_equal(seen.id[2], A);
	assert_string_equal(seen.text[1], "name of sbbbbbbbbb|" A "|base||qemu|tcg|xxh3");
	assert_int_equal(seen.e[0].memory_bytes, STORE_PAGES * DORM_PAGE_SIZE);
	assert_int_equal(seen.e[0].cpus, 2);
	assert_int_equal(seen.e[0].n_layers, 2);
	assert_int_equal(seen.e[2].n_layers, 1);
	assert_int_equal(seen.e[0].device_bytes, 12);
	/* its map is the base of its children */
	assert_int_equal(seen.e[2].shared_bytes, seen.e[2].layer_bytes + seen.e[2].map_bytes);
	for (unsigned i = 0; i < 3; i++) {
		assert_null(seen.e[i].damage);
		assert_int_equal(seen.e[i].own_bytes + seen.e[i].shared_bytes,
				 seen.e[i].layer_bytes + seen.e[i].map_bytes + 12 + 9);
	}
	own = seen.e[1].own_bytes;
	/* the last one of several that share has it alone */
	assert_int_equal(snapshot_delete(s->store->root_fd, "snapshots/" A, NULL), 0);
	assert_int_equal(snapshot_delete(s->store->root_fd, "snapshots/" C, NULL), 0);
	list(x, &seen);
	assert_int_equal(seen.n, 1);
	assert_string_equal(seen.id[0], B);
	assert_int_equal(seen.e[0].shared_bytes, 0);
	assert_true(seen.e[0].own_bytes > own + STORE_PAGES * DORM_PAGE_SIZE);
	assert_int_equal(store_index_rebuild(x, NULL, NULL, &n), 0);
	assert_int_equal(n, 1);
	store_index_close(x);
	assert_null(store_index_close(NULL));
}

static void test_visit(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x = open_index(s);
	struct seen seen = {.stop_after = 2};

	three(s);
	assert_int_equal(store_index_each(x, visit, &seen), 7);
	assert_int_equal(seen.n, 2);
	/* what is deleted between two visits is not shown */
	seen = (struct seen){.delete_from = s->store};
	assert_int_equal(store_index_each(x, visit, &seen), 0);
	assert_int_equal(seen.n, 3);
	list(x, &seen);
	assert_int_equal(seen.n, 0);
	store_index_close(x);
}

/* Alter a manifest so that inode, size and times stay as they are: only who reads it notices. */
static void alter_unseen(struct store_fixture *s, const char *path)
{
	struct timespec times[2];
	struct stat st;

	assert_int_equal(fstatat(s->store->root_fd, path, &st, 0), 0);
	fixture_flip(s->store->root_fd, path, 40, 1);
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	assert_int_equal(utimensat(s->store->root_fd, path, times, 0), 0);
}

static void count(void *userdata, uint64_t done, uint64_t total)
{
	unsigned *n = userdata;

	assert_int_equal(done, ++*n);
	assert_int_equal(total, 3);
}

static void test_reads_only_changes(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x = open_index(s);
	struct seen seen;
	unsigned calls = 0;
	uint64_t n;

	three(s);
	list(x, &seen);
	alter_unseen(s, "snapshots/" B "/manifest.json");
	list(x, &seen);
	assert_null(seen.e[1].damage);
	/* the file of a former process is used again */
	store_index_close(x);
	x = open_index(s);
	list(x, &seen);
	assert_int_equal(seen.n, 3);
	assert_null(seen.e[1].damage);
	assert_int_equal(store_index_rebuild(x, count, &calls, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(calls, 3);
	list(x, &seen);
	assert_string_equal(seen.id[2], B); /* its age is not known any more */
	assert_non_null(strstr(seen.damage[2], "manifest.json"));
	/* a manifest that is replaced by rename is read */
	assert_int_equal(snapshot_delete(s->store->root_fd, "snapshots/" B, NULL), 0);
	store_fixture_snapshot(s, B, A, NULL);
	list(x, &seen);
	assert_string_equal(seen.id[0], B);
	assert_null(seen.e[0].damage);
	store_index_close(x);
}

static void check_damage(struct store_fixture *s, struct store_index *x, const char *text)
{
	struct seen seen;

	list(x, &seen);
	assert_int_equal(seen.n, 3);
	for (unsigned i = 0; i < 3; i++) {
		if (strcmp(seen.id[i], B)) {
			assert_string_equal(seen.damage[i], "");
			continue;
		}
		if (!strstr(seen.damage[i], text))
			fail_msg("\"%s\" is not in \"%s\"", text, seen.damage[i]);
	}
	assert_int_equal(snapshot_delete(s->store->root_fd, "snapshots/" B, NULL), 0);
}

static void test_damage(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x = open_index(s);
	int root = s->store->root_fd;
	const char *path;
	char layer[40];

	three(s);
	assert_int_equal(unlinkat(root, "snapshots/" B "/manifest.json", 0), 0);
	check_damage(s, x, "manifest.json: missing");

	store_fixture_snapshot(s, B, A, NULL);
	store_fixture_write(s, "snapshots/" B "/manifest.json", "\xff\n{");
	check_damage(s, x, "manifest.json");

	store_fixture_snapshot(s, B, A, NULL);
	assert_int_equal(renameat(root, "snapshots/" B, root, "tmp/b"), 0);
	store_fixture_snapshot(s, "sdddddddddddddddddddd", A, NULL);
	assert_int_equal(renameat(root, "snapshots/sdddddddddddddddddddd", root, "snapshots/" B),
			 0);
	check_damage(s, x, "it is that of sdddddddddddddddddddd");

	store_fixture_snapshot(s, B, A, NULL);
	assert_int_equal(unlinkat(root, "snapshots/" B "/manifest.json", 0), 0);
	assert_int_equal(mkfifoat(root, "snapshots/" B "/manifest.json", 0600), 0);
	check_damage(s, x, "not a regular file");

	store_fixture_snapshot(s, B, A, layer);
	path = store_fixture_path("snapshots/" B "/layers/%s", layer);
	assert_int_equal(unlinkat(root, path, 0), 0);
	check_damage(s, x, store_fixture_path("layers/%s: missing", layer));

	store_fixture_snapshot(s, B, A, NULL);
	assert_int_equal(unlinkat(root, "snapshots/" B "/device", 0), 0);
	store_fixture_write(s, "snapshots/" B "/device", "short");
	check_damage(s, x, "device: 5 bytes, the manifest says 12");
	store_index_close(x);
}

/* ---- what may lie in the place of the index ---------------------------------------------------
 */

static void sql(struct store_fixture *s, const char *text)
{
	sqlite3 *db;

	assert_int_equal(sqlite3_open(store_fixture_path("%s/index.sqlite", s->store->root), &db),
			 SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int64_t ask(struct store_fixture *s, const char *text)
{
	sqlite3_stmt *st;
	sqlite3 *db;
	int64_t n;

	assert_int_equal(sqlite3_open_v2(store_fixture_path("%s/index.sqlite", s->store->root), &db,
					 SQLITE_OPEN_READONLY, NULL),
			 SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	n = sqlite3_column_int64(st, 0);
	assert_int_equal(sqlite3_finalize(st), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	return n;
}

/* Whatever is there now: it is opened, lists everything, and is a good index on disk afterwards. */
static void check_survives(struct store_fixture *s)
{
	struct store_index *x = open_index(s);
	struct seen seen;

	list(x, &seen);
	assert_int_equal(seen.n, 3);
	store_index_close(x);
	assert_int_equal(ask(s, "SELECT count(*) FROM snapshot"), 3);
	assert_int_equal(ask(s, "PRAGMA user_version"), 1);
	assert_int_equal(ask(s, "PRAGMA application_id"), 0x444f524d);
}

static void test_foreign(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char *data;
	size_t len;

	three(s);
	check_survives(s);
	sql(s, "PRAGMA user_version = 2; DROP TABLE file"); /* a newer one */
	check_survives(s);
	sql(s, "PRAGMA user_version = 0");
	check_survives(s);
	assert_int_equal(unlinkat(root, "index.sqlite", 0), 0);
	sql(s, "CREATE TABLE snapshot (x); INSERT INTO snapshot VALUES (1)"); /* another's */
	check_survives(s);
	store_fixture_write(s, "index.sqlite", "this is no database, and it is not empty either");
	check_survives(s);
	store_fixture_write(s, "index.sqlite", "");
	check_survives(s);
	assert_int_equal(unlinkat(root, "index.sqlite", 0), 0);
	assert_int_equal(mkdirat(root, "index.sqlite", 0755), 0);
	store_fixture_write(s, "index.sqlite/x", "somebody's");
	check_survives(s);
	assert_int_equal(unlinkat(root, "index.sqlite", 0), 0);
	assert_int_equal(mkfifoat(root, "index.sqlite", 0600), 0);
	check_survives(s);
	assert_int_equal(unlinkat(root, "index.sqlite", 0), 0);
	store_fixture_write(s, "victim", "not ours to write");
	assert_int_equal(symlinkat("victim", root, "index.sqlite"), 0);
	check_survives(s);
	assert_int_equal(file_read(root, "victim", 100, &data, &len), 0);
	assert_string_equal(data, "not ours to write");
	free(data);
	/* the journal of another database beside none */
	assert_int_equal(unlinkat(root, "index.sqlite", 0), 0);
	store_fixture_write(s, "index.sqlite-wal", "garbage");
	check_survives(s);
}

static void overwrite(struct store_fixture *s, off_t offset, size_t len)
{
	int fd = openat(s->store->root_fd, "index.sqlite", O_WRONLY);
	char *noise = malloc(len);

	assert_non_null(noise);
	memset(noise, 0xa5, len);
	assert_int_equal(pwrite(fd, noise, len, offset), len);
	free(noise);
	close(fd);
}

/* Every page of the file, one after the other, before it is opened and while it is open. */
static void test_garbage(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x;
	struct seen seen;
	struct stat st;

	three(s);
	check_survives(s);
	assert_int_equal(fstatat(s->store->root_fd, "index.sqlite", &st, 0), 0);
	for (off_t at = 0; at < st.st_size; at += 4096) {
		overwrite(s, at, 4096);
		check_survives(s);
		x = open_index(s);
		overwrite(s, at, 4096);
		list(x, &seen);
		assert_int_equal(seen.n, 3);
		list(x, &seen);
		assert_int_equal(seen.n, 3);
		store_index_close(x);
	}
	/* truncated, and gone, while it is open */
	x = open_index(s);
	assert_int_equal(truncate(store_fixture_path("%s/index.sqlite", s->store->root), 4096), 0);
	list(x, &seen);
	assert_int_equal(seen.n, 3);
	assert_int_equal(unlinkat(s->store->root_fd, "index.sqlite", 0), 0);
	list(x, &seen);
	assert_int_equal(seen.n, 3);
	store_index_close(x);
	check_survives(s);
}

/* Somebody holds a lock on it with another program. */
static void test_busy(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x = open_index(s);
	struct seen seen;
	sqlite3 *db;

	three(s);
	assert_int_equal(sqlite3_open(store_fixture_path("%s/index.sqlite", s->store->root), &db),
			 SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	list(x, &seen);
	assert_int_equal(seen.n, 3);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	store_index_close(x);
	check_survives(s);
}

static void *list_often(void *userdata)
{
	for (int i = 0; i < 20; i++) {
		struct seen seen = {0};

		assert_int_equal(store_index_each(userdata, visit, &seen), 0);
		assert_int_equal(seen.n, 3);
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct store_fixture *s = *state;
	struct store_index *x = open_index(s);
	pthread_t threads[3];

	three(s);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, list_often, x), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	store_index_close(x);
}

#define INDEX_TEST(_f)                                                                             \
	cmocka_unit_test_setup_teardown(_f, store_fixture_setup, store_fixture_teardown)
TEST_MAIN(INDEX_TEST(test_list), INDEX_TEST(test_visit), INDEX_TEST(test_reads_only_changes),
	  INDEX_TEST(test_damage), INDEX_TEST(test_foreign), INDEX_TEST(test_garbage),
	  INDEX_TEST(test_busy), INDEX_TEST(test_threads))
