/* SPDX-License-Identifier: Apache-2.0 */
/* test-store-check.c - things are damaged for real, and exactly that must be found */
#include "image/test-store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/layer.h"
#include "image/snapshot.h"
#include "image/store-check.h"

#define A    "saaaaaaaaaaaaaaaaaaaa"
#define B    "sbbbbbbbbbbbbbbbbbbbb"
#define C    "scccccccccccccccccccc"
#define TORN "stttttttttttttttttttt"
#define I    "iaaaaaaaaaaaaaaaaaaaa"
#define SA   "snapshots/" A
#define SB   "snapshots/" B
#define SC   "snapshots/" C
#define MEM  "sandboxes/" I "/memory-0"
#define N    16

struct told {
	unsigned n;
	enum finding_kind kind[N];
	char path[N][200], why[N][500], done[N][300];
	bool lost[N], no_done[N];
	uint64_t progress, total;
	unsigned cancel_after; /* calls; 0: never */
	unsigned asked;
	struct check_stats stats;
	struct store *delete_from;
	struct store_fixture *fixture;
};

static void found(void *userdata, const struct finding *f)
{
	struct told *t = userdata;
	unsigned i = t->n++;

	assert_true(i < N);
	t->kind[i] = f->kind;
	t->lost[i] = f->lost;
	t->no_done[i] = !f->done;
	(void)snprintf(t->path[i], sizeof(t->path[i]), "%s", f->path);
	(void)snprintf(t->why[i], sizeof(t->why[i]), "%s", f->why);
	(void)snprintf(t->done[i], sizeof(t->done[i]), "%s", f->done ? f->done : "");
}

static void progress(void *userdata, uint64_t done, uint64_t total)
{
	struct told *t = userdata;

	assert_true(done >= t->progress && done <= total);
	t->progress = done;
	t->total = total;
}

static bool cancelled(void *userdata)
{
	struct told *t = userdata;

	return t->cancel_after && ++t->asked >= t->cancel_after;
}

static struct check_options options_for(struct told *t, bool data)
{
	*t = (struct told){0};
	return (struct check_options){.data = data,
				      .found = found,
				      .progress = progress,
				      .cancelled = cancelled,
				      .userdata = t};
}

static void check(struct store_fixture *s, bool data, struct told *t)
{
	struct check_options options = options_for(t, data);
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(store_check(s->store, &options, &problem, &t->stats), 0);
	assert_int_equal(t->stats.n_findings, t->n);
	assert_int_equal(t->stats.n_lost, 0);
	for (unsigned i = 0; i < t->n; i++)
		assert_true(t->no_done[i] && !t->lost[i]);
}

static void repair(struct store_fixture *s, bool data, struct told *t)
{
	struct check_options options = options_for(t, data);
	struct problem problem = PROBLEM_INIT;
	struct store_index *index = NULL;

	assert_int_equal(store_index_open(s->store, &problem, &index), 0);
	assert_int_equal(store_repair(s->store, index, &options, &problem, &t->stats), 0);
	assert_int_equal(t->stats.n_findings, t->n);
	store_index_close(index);
}

static unsigned find(const struct told *t, const char *path)
{
	for (unsigned i = 0; i < t->n; i++)
		if (!strcmp(t->path[i], path))
			return i;
	for (unsigned i = 0; i < t->n; i++)
		print_message("found: %s: %s\n", t->path[i], t->why[i]);
	fail_msg("no finding at %s", path);
	return 0;
}

static void expect(const struct told *t, enum finding_kind kind, const char *path, const char *why)
{
	unsigned i = find(t, path);

	assert_int_equal(t->kind[i], kind);
	if (!strstr(t->why[i], why))
		fail_msg("%s: \"%s\" is not in \"%s\"", path, why, t->why[i]);
}

static void expect_done(const struct told *t, const char *path, const char *done, bool lost)
{
	unsigned i = find(t, path);

	if (!strstr(t->done[i], done))
		fail_msg("%s: \"%s\" is not in \"%s\"", path, done, t->done[i]);
	assert_int_equal(t->lost[i], lost);
}

static void expect_n(const struct told *t, unsigned n)
{
	if (t->n != n)
		for (unsigned i = 0; i < t->n; i++)
			print_message("found: %s: %s (%s)\n", t->path[i], t->why[i], t->done[i]);
	assert_int_equal(t->n, n);
}

static bool exists(struct store_fixture *s, const char *path)
{
	return faccessat(s->store->root_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void clone_to(struct store_fixture *s, const char *from, const char *to, const char *id)
{
	int fd = file_open_dir(s->store->root_fd, from);
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(
		snapshot_clone(s->store->root_fd, s->store->root, fd, NULL, to, id, &problem), 0);
	close(fd);
}

/* @layer: of A, which B and a sandbox link as well */
static void fill(struct store_fixture *s, char layer[40], char own[40])
{
	store_fixture_snapshot(s, A, NULL, layer);
	store_fixture_snapshot(s, B, A, own);
	assert_int_equal(store_template_set(s->store, "base", A), 0);
	assert_int_equal(mkdirat(s->store->root_fd, "sandboxes/" I, 0700), 0);
	clone_to(s, SB, MEM, NULL);
}

static const char *layer_path(const char *dir, const char *layer)
{
	return store_fixture_path("%s/layers/%s", dir, layer);
}

/* Give @dir a file of its own with the same content, as a restored backup has. */
static void unshare_layer(struct store_fixture *s, const char *dir, const char *layer)
{
	int layers = file_open_dir(s->store->root_fd, store_fixture_path("%s/layers", dir));
	int fd = openat(layers, layer, O_RDONLY);

	assert_int_equal(unlinkat(layers, layer, 0), 0);
	assert_int_equal(plain_file_copy(fd, layers, layer), 0);
	close(fd);
	close(layers);
}

static uint64_t inode(struct store_fixture *s, const char *path)
{
	struct stat st;

	assert_int_equal(fstatat(s->store->root_fd, path, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_ino;
}

static void put_working_set(struct store_fixture *s, const char *path)
{
	_cleanup_fd_ int fd = file_open_dir(s->store->root_fd, path);

	fixture_working_set(fd, 3, 1, 7, 5);
}

/* ---- check ------------------------------------------------------------------------------------
 */

static void test_clean(void **state)
{
	struct store_fixture *s = *state;
	struct told t;
	char layer[40], own[40];

	check(s, true, &t);
	expect_n(&t, 0);
	fill(s, layer, own);
	/* a sandbox that boots: disks and no manifest; other names there are its own business */
	assert_int_equal(mkdirat(s->store->root_fd, "sandboxes/" I "/memory-1", 0700), 0);
	assert_int_equal(mkdirat(s->store->root_fd, "sandboxes/" I "/memory-1/disks", 0700), 0);
	store_fixture_write(s, "sandboxes/" I "/memory-x", "");
	put_working_set(s, "snapshots/" A);
	check(s, false, &t);
	expect_n(&t, 0);
	assert_int_equal(t.stats.n_snapshots, 2);
	assert_int_equal(t.stats.n_memories, 2);
	assert_int_equal(t.stats.n_layers, 2);
	assert_int_equal(t.stats.bytes_read, 0);
	assert_int_equal(t.total, 0);
	check(s, true, &t);
	expect_n(&t, 0);
	assert_int_equal(t.stats.bytes_read, (STORE_PAGES + 4) * DORM_PAGE_SIZE); /* each once */
	assert_true(t.total > t.stats.bytes_read);
	assert_int_equal(t.progress, t.total);
	repair(s, true, &t);
	expect_n(&t, 0);
	assert_true(exists(s, "index.sqlite"));
	assert_string_equal(finding_kind_name(FINDING_TORN), "torn");
	assert_string_equal(finding_kind_name(FINDING_DAMAGED), "damaged");
	assert_string_equal(finding_kind_name(FINDING_LINK), "link");
	assert_string_equal(finding_kind_name(FINDING_STRAY), "stray");
	assert_string_equal(finding_kind_name(FINDING_KEY), "key");
	assert_string_equal(finding_kind_name((enum finding_kind)99), "unknown");
}

/* Of no use is not lost: told, removed by repair, and a newer program's is left to it. */
static void test_working_set(void **state)
{
	static const char name[] = "snapshots/" A "/working-set";
	struct store_fixture *s = *state;
	struct told t;
	char layer[40], own[40];

	fill(s, layer, own);
	for (unsigned bad = 0; bad < 4; bad++) {
		put_working_set(s, "snapshots/" A);
		if (bad == 0)
			fixture_flip(s->store->root_fd, name, 70, 4);
		if (bad == 1) { /* that of another image */
			put_working_set(s, "snapshots/" B);
			assert_int_equal(renameat(s->store->root_fd, "snapshots/" B "/working-set",
						  s->store->root_fd, name),
					 0);
		}
		if (bad == 2)
			store_fixture_write(s, name, "");
		if (bad == 3)
			fixture_flip(s->store->root_fd, name, 8, 1); /* version 3 */
		check(s, false, &t);
		expect_n(&t, 1);
		expect(&t, FINDING_DAMAGED, name,
		       bad == 0	  ? "checksum mismatch"
		       : bad == 1 ? "of image"
		       : bad == 2 ? "shorter than any"
				  : "newer Dormouse");
		expect(&t, FINDING_DAMAGED, name, "the memory is whole");
		repair(s, false, &t);
		expect_n(&t, 1);
		expect_done(&t, name, bad == 3 ? "kept" : "removed", false);
		assert_int_equal(t.stats.n_lost, 0);
		assert_int_equal(exists(s, name), bad == 3);
		check(s, true, &t);
		expect_n(&t, bad == 3);
	}
}

static void test_frames(void **state)
{
	struct store_fixture *s = *state;
	struct told t;
	char layer[40], own[40];

	fill(s, layer, own);
	fixture_flip(s->store->root_fd, layer_path(SA, layer), 5 * DORM_PAGE_SIZE, 1);
	check(s, false, &t); /* the index is well */
	expect_n(&t, 0);
	check(s, true, &t);
	expect_n(&t, 3); /* for everybody who links it */
	expect(&t, FINDING_DAMAGED, layer_path(SA, layer), "frame 0 at offset 4096: checksum");
	expect(&t, FINDING_DAMAGED, layer_path(SB, layer), "checksum mismatch");
	expect(&t, FINDING_DAMAGED, layer_path(MEM, layer), "checksum mismatch");
	repair(s, true, &t); /* nobody has it whole */
	expect_n(&t, 3);
	expect_done(&t, layer_path(SA, layer), "kept", true);
	assert_int_equal(t.stats.n_lost, 3);
	assert_true(exists(s, SA "/manifest.json") && exists(s, layer_path(SB, layer)));
}

static void test_layers(void **state)
{
	struct store_fixture *s = *state;
	struct told t;
	char layer[40], own[40];
	char path[256];
	struct stat st;

	fill(s, layer, own);
	(void)snprintf(path, sizeof(path), "%s",
		       store_fixture_path("%s/%s", s->store->root, layer_path(SB, own)));
	assert_int_equal(stat(path, &st), 0);
	fixture_flip(s->store->root_fd, layer_path(SB, own), (uint64_t)st.st_size - 90, 1);
	check(s, false, &t);
	expect_n(&t, 2); /* the sandbox has it, too */
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "checksum mismatch");
	expect(&t, FINDING_DAMAGED, layer_path(MEM, own), "index");
	assert_int_equal(truncate(path, st.st_size - 1), 0);
	check(s, false, &t);
	expect_n(&t, 2);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "truncated");
	assert_int_equal(unlink(path), 0);
	check(s, false, &t);
	expect_n(&t, 2);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "missing");
	/* other things in its place; another layer under its name */
	assert_int_equal(mkfifo(path, 0600), 0);
	check(s, true, &t);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "not a regular file");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(layer, path), 0);
	check(s, true, &t);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "symbolic link");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	check(s, true, &t);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "not a regular file");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(linkat(s->store->root_fd, layer_path(SA, layer), s->store->root_fd,
				layer_path(SB, own), 0),
			 0);
	check(s, true, &t);
	expect_n(&t, 2);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "altered");
	assert_int_equal(file_remove_tree(s->store->root_fd, SB "/layers"), 0);
	assert_int_equal(symlinkat("../" A "/layers", s->store->root_fd, SB "/layers"), 0);
	check(s, true, &t);
	expect_n(&t, 3);
	expect(&t, FINDING_DAMAGED, layer_path(SB, own), "layers");
	expect(&t, FINDING_DAMAGED, layer_path(SB, layer), "layers");
}

static void test_files(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	struct told t;
	char layer[40], own[40];

	fill(s, layer, own);
	store_fixture_snapshot(s, C, A, NULL);
	fixture_flip(root, SC "/map", 20, 1);
	fixture_flip(root, SB "/device", 3, 1); /* the sandbox links it */
	check(s, false, &t);
	expect_n(&t, 3);
	expect(&t, FINDING_DAMAGED, SC "/map", "map");
	expect(&t, FINDING_DAMAGED, SB "/device", "device: checksum mismatch");
	expect(&t, FINDING_DAMAGED, MEM "/device", "device: checksum mismatch");
	fixture_flip(root, SB "/device", 3, 1);
	assert_int_equal(snapshot_delete(root, SC, NULL), 0);

	/* map and manifest each whole, but not of one snapshot */
	store_fixture_snapshot(s, C, A, NULL);
	assert_int_equal(unlinkat(root, SC "/map", 0), 0);
	clone_to(s, SA, "snapshots/" TORN, TORN);
	assert_int_equal(linkat(root, SB "/map", root, SC "/map", 0), 0);
	check(s, false, &t);
	expect_n(&t, 1);
	expect(&t, FINDING_DAMAGED, SC "/map", "missing"); /* a layer that only the map names */

	store_fixture_write(s, SC "/map", "short");
	store_fixture_write(s, SC "/disks/root", "longer than it was");
	assert_int_equal(unlinkat(root, SC "/device", 0), 0);
	assert_int_equal(mkfifoat(root, SC "/device", 0600), 0);
	check(s, false, &t);
	expect_n(&t, 3);
	expect(&t, FINDING_DAMAGED, SC "/map", "truncated");
	expect(&t, FINDING_DAMAGED, SC "/disks/root", "altered");
	expect(&t, FINDING_DAMAGED, SC "/device", "not a regular file");
	repair(s, false, &t);
	expect_n(&t, 3);
	assert_int_equal(t.stats.n_lost, 3);
	assert_true(exists(s, SC "/manifest.json"));
}

static void test_manifests(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	struct told t;
	char layer[40], own[40];

	fill(s, layer, own);
	store_fixture_write(s, SB "/manifest.json", "{\"\x1b[31m\": ");
	check(s, true, &t);
	expect_n(&t, 1);
	expect(&t, FINDING_DAMAGED, SB "/manifest.json", "manifest.json");
	repair(s, true, &t);
	expect_done(&t, SB "/manifest.json", "kept", true);
	assert_int_equal(renameat(root, SA, root, SC), 0); /* not its id any more */
	check(s, true, &t);
	expect(&t, FINDING_DAMAGED, SC "/manifest.json", "that of " A);
	expect(&t, FINDING_LINK, "templates/base", A);
	expect_n(&t, 3);
	assert_int_equal(unlinkat(root, MEM "/manifest.json", 0), 0);
	check(s, true, &t);
	expect_n(&t, 4);
	expect(&t, FINDING_DAMAGED, MEM "/manifest.json", "missing");
	repair(s, true, &t);
	expect_done(&t, MEM "/manifest.json", "kept", true);
	assert_true(exists(s, MEM "/map"));
}

/* It makes the snapshot unusable until somebody removes it, which repair does not dare. */
static void test_foreign_seal(void **state)
{
	struct store_fixture *s = *state;
	char layer[40], own[40];
	struct told t;

	fill(s, layer, own);
	store_fixture_write(s, SB "/seal", "it is not sealed");
	repair(s, false, &t);
	expect_n(&t, 2);
	expect(&t, FINDING_STRAY, SB "/seal", "");
	expect(&t, FINDING_DAMAGED, SB "/map", "seal:");
	expect_done(&t, SB "/seal", "kept", false);
	expect_done(&t, SB "/map", "kept", true);
	assert_true(exists(s, SB "/seal"));
}

static void test_names(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char layer[40], own[40], mine[64];
	struct told t;

	fill(s, layer, own);
	(void)snprintf(mine, sizeof(mine), SA "/seal.new.%d.7f", getpid());
	store_fixture_write(s, mine, "being written by this process");
	store_fixture_write(s, SA "/manifest.json.new.1.7f00deadbeef", "left over");
	store_fixture_write(s, SA "/layers/notes.new.txt", "somebody's");
	store_fixture_write(s, "snapshots/file", "");
	store_fixture_write(s, "templates/file", "");
	assert_int_equal(mkfifoat(root, "snapshots/" C, 0600), 0);
	assert_int_equal(mkdirat(root, "snapshots/bad\033\nname", 0700), 0);
	assert_int_equal(symlinkat("/etc", root, "templates/etc"), 0);
	assert_int_equal(mkdirat(root, "snapshots/" TORN, 0700), 0);
	assert_int_equal(mkdirat(root, "snapshots/" TORN "/layers", 0700), 0);
	assert_int_equal(store_template_set(s->store, "torn", TORN), 0);
	assert_int_equal(store_template_set(s->store, "gone", "snnnnnnnnnnnnnnnnnnnn"), 0);
	check(s, true, &t);
	expect_n(&t, 9);
	expect(&t, FINDING_TORN, "snapshots/" TORN, "no manifest");
	expect(&t, FINDING_LINK, "templates/gone", "snnnnnnnnnnnnnnnnnnnn");
	expect(&t, FINDING_STRAY, "snapshots/bad??name", "");
	expect(&t, FINDING_STRAY, "snapshots/" C, "not a directory");
	expect(&t, FINDING_STRAY, "templates/etc", "");
	expect(&t, FINDING_STRAY, "templates/file", "");
	repair(s, false, &t);
	expect_n(&t, 10); /* the template of what was torn, now */
	assert_int_equal(t.stats.n_lost, 0);
	expect_done(&t, "snapshots/" TORN, "removed", false);
	expect_done(&t, "templates/torn", "removed", false);
	expect_done(&t, "templates/gone", "removed", false);
	expect_done(&t, SA "/manifest.json.new.1.7f00deadbeef", "removed", false);
	expect_done(&t, SA "/layers/notes.new.txt", "kept", false);
	expect_done(&t, "snapshots/file", "kept", false);
	assert_false(exists(s, "snapshots/" TORN));
	assert_false(exists(s, "templates/gone"));
	assert_true(exists(s, "templates/base"));
	assert_true(exists(s, mine));
	assert_true(exists(s, "snapshots/bad\033\nname"));
	check(s, true, &t);
	expect_n(&t, 6); /* what was kept */
}

static void test_cancel(void **state)
{
	struct store_fixture *s = *state;
	char layer[40], own[40];
	struct told t;
	int r = -ECANCELED;
	unsigned n;

	fill(s, layer, own);
	for (n = 1; n < 50 && r == -ECANCELED; n++) {
		struct check_options options = options_for(&t, true);

		t.cancel_after = n;
		r = store_check(s->store, &options, NULL, &t.stats);
	}
	assert_int_equal(r, 0);
	assert_true(n > 5); /* three directories, two layers */
	t.cancel_after = 1;
	assert_int_equal(
		store_repair(s->store, NULL,
			     &(struct check_options){.cancelled = cancelled, .userdata = &t}, NULL,
			     &t.stats),
		-ECANCELED);
}

/* Snapshots that go away while they are looked at are no findings. */
static bool delete_next(void *userdata)
{
	struct told *t = userdata;
	static const char *const paths[] = {SC, SB, SA};

	if (t->asked < 3)
		(void)snapshot_delete(t->delete_from->root_fd, paths[t->asked], NULL);
	t->asked++;
	return false;
}

static void test_concurrent(void **state)
{
	struct store_fixture *s = *state;
	char layer[40], own[40];
	struct told t;

	for (unsigned i = 0; i < 3; i++) {
		struct check_options options = options_for(&t, true);

		store_fixture_snapshot(s, A, NULL, layer);
		store_fixture_snapshot(s, B, A, own);
		store_fixture_snapshot(s, C, B, own);
		t.delete_from = s->store;
		t.asked = i;
		options.cancelled = delete_next;
		assert_int_equal(store_check(s->store, &options, NULL, &t.stats), 0);
		expect_n(&t, 0);
		for (unsigned j = 0; j < 3; j++)
			(void)snapshot_delete(s->store->root_fd, (const char *[]){SA, SB, SC}[j],
					      NULL);
	}
}

/* Let the layer of MEM lie in the inode of "kept": what a file system does by chance. */
static void take_inode(struct store_fixture *s, const char *layer)
{
	int root = s->store->root_fd, fd;
	char *data;
	size_t len;

	assert_int_equal(file_read(root, layer_path(MEM, layer), 1 << 20, &data, &len), 0);
	assert_int_equal(fchmodat(root, "kept", 0644, 0), 0);
	fd = openat(root, "kept", O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
	free(data);
	assert_int_equal(renameat(root, "kept", root, layer_path(MEM, layer)), 0);
}

/* When the sandbox's turn comes, the snapshot that was looked at goes, and memory takes its place.
 */
static bool replace(void *userdata)
{
	struct told *t = userdata;
	int root = t->fixture->store->root_fd;
	char layer[40];

	if (++t->asked != 2)
		return false;
	assert_int_equal(snapshot_delete(root, MEM, NULL), 0);
	assert_int_equal(snapshot_delete(root, SA, NULL), 0);
	store_fixture_snapshot(t->fixture, B, NULL, layer);
	assert_int_equal(renameat(root, SB, root, MEM), 0);
	take_inode(t->fixture, layer);
	return false;
}

/* Nor are new files that have the inodes of those that went. */
static void test_reused_inode(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	struct told t;
	struct check_options options = options_for(&t, true);
	char layer[40];

	assert_int_equal(mkdirat(root, "sandboxes/" I, 0700), 0);
	store_fixture_snapshot(s, B, NULL, NULL);
	assert_int_equal(renameat(root, SB, root, MEM), 0);
	store_fixture_snapshot(s, A, NULL, layer);
	assert_int_equal(linkat(root, layer_path(SA, layer), root, "kept", 0), 0);
	t.fixture = s;
	options.cancelled = replace;
	assert_int_equal(store_check(s->store, &options, NULL, &t.stats), 0);
	assert_true(t.asked > 1);
	expect_n(&t, 0);
	assert_int_equal(t.stats.n_layers, 1);
}

/* ---- repair -----------------------------------------------------------------------------------
 */

static void test_relink(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char layer[40], own[40];
	struct told t;
	uint64_t good;

	fill(s, layer, own);
	unshare_layer(s, SA, layer); /* now A has one file, B and the sandbox another */
	good = inode(s, layer_path(SA, layer));
	assert_true(good != inode(s, layer_path(SB, layer)));
	fixture_flip(root, layer_path(SB, layer), 9 * DORM_PAGE_SIZE, 1);
	repair(s, false, &t); /* only frames tell */
	expect_n(&t, 0);
	repair(s, true, &t);
	expect_n(&t, 2);
	expect_done(&t, layer_path(SB, layer), "layer linked again from " SA, false);
	expect_done(&t, layer_path(MEM, layer), "layer linked again from " SA, false);
	assert_int_equal(t.stats.n_lost, 0);
	assert_int_equal(inode(s, layer_path(SB, layer)), good);
	check(s, true, &t);
	expect_n(&t, 0);

	/* missing; a directory in its place, with something in it; all of layers/ missing */
	assert_int_equal(unlinkat(root, layer_path(SB, layer), 0), 0);
	assert_int_equal(mkdirat(root, layer_path(SB, layer), 0700), 0);
	assert_int_equal(mkdirat(root, store_fixture_path("%s/x", layer_path(SB, layer)), 0700), 0);
	assert_int_equal(file_remove_tree(root, MEM "/layers"), 0);
	repair(s, false, &t);
	expect_n(&t, 3);
	expect_done(&t, layer_path(SB, layer), "layer linked again", false);
	expect_done(&t, layer_path(MEM, layer), "layer linked again", false);
	expect_done(&t, layer_path(MEM, own), "layer linked again from " SB, false);
	check(s, true, &t);
	expect_n(&t, 0);
}

/* A copy that is damaged itself, or another layer of the same name, mends nothing. */
static void test_bad_donor(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char layer[40], own[40];
	struct told t;

	fill(s, layer, own);
	unshare_layer(s, SA, layer);
	fixture_flip(root, layer_path(SA, layer), 9 * DORM_PAGE_SIZE, 1);
	assert_int_equal(unlinkat(root, layer_path(SB, layer), 0), 0);
	assert_int_equal(unlinkat(root, layer_path(MEM, layer), 0), 0);
	repair(s, false, &t);
	expect_n(&t, 2);
	expect_done(&t, layer_path(SB, layer), "kept", true);
	expect_done(&t, layer_path(MEM, layer), "kept", true);
	assert_false(exists(s, layer_path(SB, layer)));
}

/* Layers that an import left; after mending, the rest of the directory is looked at. */
static void test_incoming(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char layer[40], own[40];
	struct told t;

	fill(s, layer, own);
	assert_int_equal(mkdirat(root, "incoming/x", 0700), 0);
	assert_int_equal(mkdirat(root, "incoming/x/layers", 0700), 0);
	assert_int_equal(mkfifoat(root, "incoming/00000000000000000000000000000000", 0600), 0);
	store_fixture_write(s, "incoming/11111111111111111111111111111111", "half a layer");
	assert_int_equal(renameat(root, layer_path(SB, own), root, layer_path("incoming/x", own)),
			 0);
	assert_int_equal(unlinkat(root, layer_path(MEM, own), 0), 0);
	assert_int_equal(unlinkat(root, SB "/map", 0), 0);
	store_fixture_snapshot(s, C, A, NULL);
	assert_int_equal(linkat(root, SC "/map", root, SB "/map", 0), 0); /* not its own */
	check(s, false, &t);
	expect_n(&t, 2);
	repair(s, false, &t);
	expect_n(&t, 3);
	expect_done(&t, layer_path(SB, own), "linked again from incoming/x", false);
	expect_done(&t, layer_path(MEM, own), "linked again from incoming/x", false);
	expect_done(&t, SB "/map", "kept", true);
	assert_int_equal(t.stats.n_lost, 1);
	check(s, true, &t);
	expect_n(&t, 1);
}

/* The only whole copy is in a directory that is torn and goes. */
static void test_torn_donor(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char layer[40], own[40];
	struct told t;

	fill(s, layer, own);
	assert_int_equal(file_remove_tree(root, "sandboxes/" I), 0);
	clone_to(s, SB, "snapshots/" TORN, TORN);
	assert_int_equal(unlinkat(root, "snapshots/" TORN "/manifest.json", 0), 0);
	assert_int_equal(unlinkat(root, layer_path(SB, own), 0), 0);
	repair(s, false, &t);
	expect_n(&t, 2);
	expect_done(&t, layer_path(SB, own), "linked again from snapshots/" TORN, false);
	expect_done(&t, "snapshots/" TORN, "removed", false);
	check(s, true, &t);
	expect_n(&t, 0);
}

/* A left-over of a repair that a crash ended is in nobody's way, and goes. */
static void test_crashed_repair(void **state)
{
	struct store_fixture *s = *state;
	int root = s->store->root_fd;
	char layer[40], own[40], tmp[200];
	struct told t;

	fill(s, layer, own);
	(void)snprintf(tmp, sizeof(tmp), "%s.new.1.ab", layer_path(SB, layer));
	assert_int_equal(renameat(root, layer_path(SB, layer), root, tmp), 0);
	repair(s, false, &t);
	expect_n(&t, 2);
	expect_done(&t, tmp, "removed", false);
	expect_done(&t, layer_path(SB, layer), "layer linked again", false);
	check(s, true, &t);
	expect_n(&t, 0);
}

#define CHECK_TEST(_f)                                                                             \
	cmocka_unit_test_setup_teardown(_f, store_fixture_setup, store_fixture_teardown)
TEST_MAIN(CHECK_TEST(test_clean), CHECK_TEST(test_working_set), CHECK_TEST(test_frames),
	  CHECK_TEST(test_layers), CHECK_TEST(test_files), CHECK_TEST(test_manifests),
	  CHECK_TEST(test_names), CHECK_TEST(test_foreign_seal), CHECK_TEST(test_cancel),
	  CHECK_TEST(test_concurrent), CHECK_TEST(test_reused_inode), CHECK_TEST(test_torn_donor),
	  CHECK_TEST(test_relink), CHECK_TEST(test_bad_donor), CHECK_TEST(test_incoming),
	  CHECK_TEST(test_crashed_repair))
