/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-operations.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/compact.h"
#include "image/disk.h"
#include "image/qcow2-layout.h"
#include "image/image-base.h"
#include "image/layer-format.h"
#include "image/le.h"
#include "image/plain-file.h"
#include "image/raw-memory.h"
#include "image/rewrap.h"
#include "image/snapshot.h"
#include "image/store-check.h"
#include "image/test-fixture.h"
#include "image/transfer.h"
#include "image/working-set.h"

#define SNAPSHOT(_id) "snapshots/" _id

/* ---- memory and keys --------------------------------------------------------------------------
 */

const unsigned char *scene_memory(unsigned k)
{
	static uint8_t memory[SCENE_MEMORIES][SCENE_PAGES * DORM_PAGE_SIZE];
	static bool filled;
	uint64_t seed = 4;

	for (unsigned m = 0; !filled && m < SCENE_MEMORIES; m++) {
		if (m)
			memcpy(memory[m], memory[m - 1], sizeof(memory[m]));
		for (unsigned i = m; i < SCENE_PAGES; i += 1 + m)
			fixture_page(memory[m] + i * DORM_PAGE_SIZE, i % 3, &seed);
	}
	filled = true;
	return memory[k];
}

static struct keyring *rings[SCENE_RINGS];

const struct keyring *scene_ring(unsigned k)
{
	return rings[k];
}

/* Ring 1 has one key; ring 2 another one in front of it. */
static int make_rings(struct problem *problem)
{
	static const char *const keys[] = {"00112233445566778899aabbccddeeff"
					   "00112233445566778899aabbccddeeff",
					   "ffeeddccbbaa99887766554433221100"
					   "ffeeddccbbaa99887766554433221100"};
	int r = 0;

	if (rings[1])
		return 0;
	for (unsigned i = 1; r == 0 && i < SCENE_RINGS; i++) {
		r = keyring_new(&rings[i]);
		for (unsigned k = i; r == 0 && k > 0; k--) {
			(void)setenv("TEST_KEY", keys[k - 1], 1); /* fails only without memory */
			r = keyring_add(rings[i], "env:TEST_KEY", problem);
		}
	}
	return r;
}

static struct buf stream; /* an export of OLD */

void scene_end(void)
{
	for (unsigned i = 1; i < SCENE_RINGS; i++)
		rings[i] = keyring_free(rings[i]);
	buf_deinit(&stream);
}

/* ---- taking snapshots -------------------------------------------------------------------------
 */

static int write_image(struct snapshot_tmp *tmp, struct image *parent, int parent_dirfd,
		       const uint8_t *pages, const struct keyring *keys, struct manifest *m,
		       struct problem *problem)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	struct image_writer_options options = {.codec = IMAGE_CODEC_ZSTD, .keys = keys};
	int r = image_writer_new(tmp->dirfd, parent, parent_dirfd, &options, problem, &w);

	if (r == 0)
		r = image_writer_add(w, 0, SCENE_PAGES, pages, problem);
	return r ? r : image_writer_commit(w, &m->stats, m->image_id, problem);
}

/* One disk, with a hole in it. That of a child is a copy of the parent's. */
static int put_disk(struct snapshot_tmp *tmp, int parent_dirfd, struct manifest *m,
		    struct problem *problem)
{
	_cleanup_fd_ int disks = file_open_dir(tmp->dirfd, "disks"), from = -1;
	uint8_t page[DORM_PAGE_SIZE];
	int r = 0;

	memset(page, 'd', sizeof(page));
	m->n_disks = 1;
	m->disks[0] = (struct snapshot_disk){"d0", "raw", true, 100 * DORM_PAGE_SIZE + 1};
	if (parent_dirfd >= 0) {
		from = openat(parent_dirfd, "disks/d0", O_RDONLY | O_CLOEXEC);
		return disk_copy(from, disks, "d0", 0444, DISK_REFLINK_AUTO, problem, NULL);
	}
	from = openat(disks, "d0", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (from < 0 || ftruncate(from, (off_t)m->disks[0].size) < 0 ||
	    pwrite(from, page, sizeof(page), 50 * DORM_PAGE_SIZE) < 0)
		r = -errno;
	if (r < 0)
		problem_errno(problem, r, "disks/d0");
	return r;
}

static int make_layer(int disks, const char *name, const char *backing, const char *format,
		      bool written)
{
	_cleanup_fd_ int fd = openat(disks, name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	uint8_t page[DORM_PAGE_SIZE], l1[8] = {0x80, 0, 0, 0, 0, 4}, l2[8] = {0x80, 0, 0, 0, 0, 5};
	int r = fd < 0 ? -errno : qcow2_create(fd, QCOW2_CLUSTER, backing, format);

	memset(page, 'c', sizeof(page));
	if (r < 0 || !written)
		return r;
	if (ftruncate(fd, 6 * (off_t)QCOW2_CLUSTER) < 0)
		return -errno;
	r = qcow2_write_counts(fd, 6, 6);
	if (r == 0)
		r = qcow2_write_at(fd, l1, sizeof(l1), 3 * QCOW2_CLUSTER);
	if (r == 0)
		r = qcow2_write_at(fd, l2, sizeof(l2), 4 * QCOW2_CLUSTER);
	return r ? r : qcow2_write_at(fd, page, sizeof(page), 5 * QCOW2_CLUSTER);
}

/* A disk that is written: raw below, and two layers that a compaction makes one. */
static int put_chain(struct snapshot_tmp *tmp, struct manifest *m, struct problem *problem)
{
	_cleanup_fd_ int disks = file_open_dir(tmp->dirfd, "disks"), raw = -1;
	struct snapshot_disk *d = &m->disks[m->n_disks];
	int r;

	raw = openat(disks, "c0", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	r = raw < 0 || ftruncate(raw, QCOW2_CLUSTER) < 0 ? -errno : 0;
	if (r == 0)
		r = make_layer(disks, "c1", "c0", "raw", false);
	if (r == 0)
		r = make_layer(disks, "c2", "c1", "qcow2", true);
	if (r < 0)
		problem_errno(problem, r, "disks/c0 to c2");
	d[0] = (struct snapshot_disk){"c0", "raw", true, QCOW2_CLUSTER};
	d[1] = (struct snapshot_disk){"c1", "qcow2", true, 4 * QCOW2_CLUSTER, .backing = "c0"};
	d[2] = (struct snapshot_disk){"c2", "qcow2", false, 6 * QCOW2_CLUSTER, .backing = "c1"};
	m->n_disks += 3;
	return r;
}

/* As of a snapshot of a sandbox that was created from the parent. */
static int put_base(const struct snapshot_tmp *tmp, int parent_dirfd, const struct keyring *keys,
		    struct manifest *m, struct problem *problem)
{
	_cleanup_(manifest_deinit) struct manifest parent = {0};
	int r = parent_dirfd < 0 ? 0 : snapshot_open(parent_dirfd, keys, problem, &parent);

	return r ? r
		 : image_base_put(tmp->dirfd, parent_dirfd, &parent, true, problem,
				  m->base_image_id);
}

static int take(struct store *s, struct image *parent, int parent_dirfd, const char *id,
		unsigned memory, const struct keyring *keys, struct problem *problem)
{
	struct manifest m = {.memory_bytes = SCENE_PAGES * DORM_PAGE_SIZE};
	struct snapshot_tmp tmp;
	char final[64];
	int r;

	(void)snprintf(m.id, sizeof(m.id), "%s", id);
	(void)snprintf(final, sizeof(final), SNAPSHOT("%s"), id);
	r = snapshot_begin(s->root_fd, s->root, problem, &tmp);
	if (r)
		return r;
	r = file_write_atomic(tmp.dirfd, "device", "state", 5, 0644);
	if (r < 0)
		problem_errno(problem, r, "device");
	if (r == 0)
		r = put_disk(&tmp, parent_dirfd, &m, problem);
	if (r == 0 && !strcmp(id, OLD)) /* that one is compacted, and a few are slow enough */
		r = put_chain(&tmp, &m, problem);
	if (r == 0)
		r = write_image(&tmp, parent, parent_dirfd, scene_memory(memory), keys, &m,
				problem);
	if (r == 0)
		r = put_base(&tmp, parent_dirfd, keys, &m, problem);
	if (r == 0)
		r = snapshot_commit(&tmp, s->root_fd, final, &m, keys, problem);
	snapshot_abort(&tmp, s->root_fd);
	return r;
}

static int take_child(struct store *s, const char *parent_path, const char *id, unsigned memory,
		      const struct keyring *keys, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, parent_path);
	_cleanup_(image_unrefp) struct image *parent = NULL;
	int r = image_open(fd, keys, problem, &parent);

	return r ? r : take(s, parent, fd, id, memory, keys, problem);
}

static int take_both(struct store *s, const struct keyring *keys, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *zero = NULL;
	int r = image_open_zero(SCENE_PAGES, &zero);

	if (r == 0)
		r = take(s, zero, -1, BASE, 0, keys, problem);
	return r ? r : take_child(s, SNAPSHOT(BASE), OLD, 1, keys, problem);
}

int scene_build(const struct operation *op, const char *root, struct problem *problem)
{
	_cleanup_(store_closep) struct store *s = NULL;
	int r = store_open(root, problem, &s);

	if (r == 0)
		r = take_both(s, NULL, problem);
	if (r == 0)
		r = store_template_set(s, "t", BASE);
	return r || !op->prepare ? r : op->prepare(s, problem);
}

/* ---- the operations ---------------------------------------------------------------------------
 */

static int run_take(struct store *s, struct problem *problem)
{
	return take_child(s, SNAPSHOT(OLD), NEW, 2, NULL, problem);
}

static int run_clone(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));

	return snapshot_clone(s->root_fd, s->root, fd, NULL, SNAPSHOT(NEW), NEW, problem);
}

static int run_clone_as_is(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));

	return snapshot_clone(s->root_fd, s->root, fd, NULL, SNAPSHOT(NEW), NULL, problem);
}

static int run_delete(struct store *s, struct problem *problem)
{
	return snapshot_delete(s->root_fd, SNAPSHOT(OLD), problem);
}

static int explain(int r, struct problem *problem)
{
	if (r < 0)
		problem_errno(problem, r, "template");
	return r;
}

static int run_template_new(struct store *s, struct problem *problem)
{
	return explain(store_template_set(s, "n", OLD), problem);
}

static int run_template_replace(struct store *s, struct problem *problem)
{
	return explain(store_template_set(s, "t", OLD), problem);
}

static int run_template_remove(struct store *s, struct problem *problem)
{
	return explain(store_template_remove(s, "t"), problem);
}

static int delete_base(struct store *s, struct problem *problem)
{
	return snapshot_delete(s->root_fd, SNAPSHOT(BASE), problem);
}

/* With BASE gone both layers are OLD's own. */
static int compact(struct store *s, bool replace, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));
	struct compact_options options = {.policy = COMPACT_POLICY_DEFAULT, .force = true};
	struct compact_stats stats;

	return snapshot_compact(s->root_fd, s->root, fd, replace ? SNAPSHOT(OLD) : SNAPSHOT(NEW),
				replace, replace ? NULL : NEW, &options, problem, &stats);
}

static int prepare_compact(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));
	struct compact_policy policy = COMPACT_POLICY_DEFAULT;
	struct compact_report report;
	int r = compact_inspect(fd, &policy, problem, &report);

	return r ? r : delete_base(s, problem);
}

static int run_compact_copy(struct store *s, struct problem *problem)
{
	return compact(s, false, problem);
}

static int run_compact_replace(struct store *s, struct problem *problem)
{
	return compact(s, true, problem);
}

/* OLD needs pages from both layers, scattered; all others lie before and among them. */
static int put_set(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));
	_cleanup_(working_set_deinit) struct working_set set = {0};
	_cleanup_(image_unrefp) struct image *image = NULL;
	int r = image_open(fd, NULL, problem, &image);

	if (r)
		return r;
	working_set_init(&set, image);
	for (unsigned i = 19; r == 0 && i < SCENE_PAGES; i += 6)
		r = working_set_add(&set, i, 2);
	return r ? r : working_set_write(fd, &set, problem);
}

/* A recording: every third page was needed. */
static int run_record(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));
	_cleanup_(working_set_deinit) struct working_set old = {0}, set = {0};
	_cleanup_(image_unrefp) struct image *image = NULL;
	bitmap_word needed[SCENE_PAGES / 64 + 1] = {0};
	int r = image_open(fd, NULL, problem, &image);

	if (r)
		return r;
	for (unsigned i = 0; i < SCENE_PAGES; i += 3)
		bitmap_set(needed, i);
	r = working_set_read(fd, image, problem, &old);
	if (r < 0)
		return r;
	r = working_set_merge(&old, image, needed, NULL, 0, &set, NULL);
	return r ? r : working_set_replace(s->root_fd, fd, &set, problem);
}

static int prepare_set(struct store *s, struct problem *problem)
{
	int r = delete_base(s, problem);

	return r ? r : put_set(s, problem);
}

static int prepare_sealed(struct store *s, struct problem *problem)
{
	int r = make_rings(problem);

	if (r == 0)
		r = snapshot_delete(s->root_fd, SNAPSHOT(OLD), problem);
	if (r == 0)
		r = delete_base(s, problem);
	return r ? r : take_both(s, rings[1], problem);
}

static int run_take_sealed(struct store *s, struct problem *problem)
{
	return take_child(s, SNAPSHOT(OLD), NEW, 2, rings[1], problem);
}

static int run_clone_sealed(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));

	return snapshot_clone(s->root_fd, s->root, fd, rings[1], SNAPSHOT(NEW), NEW, problem);
}

static int run_rewrap(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));

	return snapshot_rewrap(s->root_fd, fd, rings[2], problem);
}

static int export_old(struct store *s, struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));
	_cleanup_(exporter_freep) struct exporter *x = NULL;
	struct export_options options = {0};
	char block[4096];
	ssize_t n = exporter_new(fd, &options, problem, &x);

	stream.len = 0;
	if (n)
		return (int)n;
	while ((n = exporter_read(x, block, sizeof(block), problem)) > 0)
		if (buf_append(&stream, block, (size_t)n) < 0)
			return -ENOMEM;
	return (int)n;
}

static int prepare_import(struct store *s, struct problem *problem)
{
	int r = export_old(s, problem);

	return r ? r : run_delete(s, problem);
}

static int run_import(struct store *s, struct problem *problem)
{
	_cleanup_(importer_freep) struct importer *m = NULL;
	struct import_options options = {0};
	struct import_stats stats;
	int r = importer_new(s, &options, problem, &m);

	for (size_t i = 0, n; r == 0 && i < stream.len; i += n) {
		n = MIN(stream.len - i, (size_t)10000);
		r = importer_write(m, stream.data + i, n, problem);
	}
	return r ? r : importer_finish(m, problem, &stats);
}

static int repair(struct store *s, struct problem *problem)
{
	_cleanup_(store_index_closep) struct store_index *index = NULL;
	struct check_options options = {0};
	struct check_stats stats;
	int r = store_index_open(s, problem, &index);

	return r ? r : store_repair(s, index, &options, problem, &stats);
}

static int prepare_torn(struct store *s, struct problem *problem)
{
	int r = repair(s, problem); /* is it there? */

	if (r == 0 && (mkdirat(s->root_fd, SNAPSHOT(TORN), 0755) < 0 ||
		       mkdirat(s->root_fd, SNAPSHOT(TORN) "/layers", 0755) < 0))
		r = -errno;
	return r ? r : file_write_atomic(s->root_fd, SNAPSHOT(TORN) "/map", "x", 1, 0444);
}

static int prepare_bad_set(struct store *s, struct problem *problem)
{
	int r = repair(s, problem); /* is it there? */

	return r ? r : file_write_atomic(s->root_fd, SNAPSHOT(OLD) "/working-set", "x", 1, 0444);
}

static int prepare_bad_base(struct store *s, struct problem *problem)
{
	int r = repair(s, problem); /* is it there? */

	return r ? r : file_write_atomic(s->root_fd, SNAPSHOT(OLD) "/base", "x", 1, 0444);
}

static int prepare_dangling(struct store *s, struct problem *problem)
{
	int r = repair(s, problem);

	return r ? r : store_template_set(s, "gone", NEW);
}

/* NEW becomes OLD again with a damaged copy of its own of one layer. */
static int damage_layer(struct store *s, const char *layer)
{
	_cleanup_fd_ int from = file_open_dir(s->root_fd, SNAPSHOT(OLD) "/layers");
	_cleanup_fd_ int to = file_open_dir(s->root_fd, SNAPSHOT(NEW) "/layers");
	_cleanup_fd_ int fd = openat(from, layer, O_RDONLY | O_CLOEXEC);
	int r = unlinkat(to, layer, 0) < 0 ? -errno : plain_file_copy(fd, to, layer);

	if (r == 0)
		fixture_flip(to, layer, LAYER_HEADER_BYTES + 100, 1);
	return r;
}

static int prepare_damaged(struct store *s, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_fd_ int fd = file_open_dir(s->root_fd, SNAPSHOT(OLD));
	int r = run_clone(s, problem);

	if (r == 0)
		r = image_open(fd, NULL, problem, &image);
	return r ? r : damage_layer(s, image_layer_id(image, 0));
}

static int run_repair_data(struct store *s, struct problem *problem)
{
	struct check_options options = {.data = true};
	struct check_stats stats;

	return store_repair(s, NULL, &options, problem, &stats);
}

/* Its size comes at the end, so the pages wait in a temporary file first. */
static int run_import_raw(struct store *s, struct problem *problem)
{
	const uint64_t bytes = SCENE_PAGES * DORM_PAGE_SIZE;
	_cleanup_(raw_importer_freep) struct raw_importer *m = NULL;
	const struct raw_import_options options = {.codec = IMAGE_CODEC_ZSTD};
	uint8_t head[RAW_EXTENT_HEAD_BYTES] = {0}, end[RAW_EXTENT_HEAD_BYTES] = {0};
	char id[ID_LEN + 1];
	int r = raw_importer_new(s, &options, problem, &m);

	le_put64(head + 8, bytes);
	le_put64(end, bytes);
	if (r == 0)
		r = raw_importer_write(m, head, sizeof(head), problem);
	if (r == 0)
		r = raw_importer_write(m, scene_memory(2), bytes, problem);
	if (r == 0)
		r = raw_importer_write(m, end, sizeof(end), problem);
	return r ? r : raw_importer_finish(m, problem, id, NULL);
}

const struct operation operations[] = {
	{"take", NULL, run_take, "snapshots/" NEW ": id " NEW " ring 0 memory 2 layers 3"},
	{"clone", NULL, run_clone, "snapshots/" NEW ": id " NEW " ring 0 memory 1 layers 2"},
	{"clone as it is", NULL, run_clone_as_is, "snapshots/" NEW ": id " OLD " ring 0 memory 1"},
	{"delete", NULL, run_delete, "-snapshots/" OLD, .late = true, .leaves_tmp = true},
	{"template, new", NULL, run_template_new, "templates/n -> " OLD, .late = true},
	{"template, replaced", NULL, run_template_replace, "templates/t -> " OLD, .late = true},
	{"template, removed", NULL, run_template_remove, "-templates/t", .late = true},
	{"compact, copy", prepare_compact, run_compact_copy,
	 "snapshots/" NEW ": id " NEW " ring 0 memory 1 layers 1"},
	{"compact, replace", prepare_compact, run_compact_replace,
	 "snapshots/" OLD ": id " OLD " ring 0 memory 1 layers 1", .leaves_tmp = true},
	{"compact, working set", prepare_set, run_compact_replace,
	 "snapshots/" OLD ": id " OLD " ring 0 memory 1 layers 1 set of 8 first",
	 .leaves_tmp = true},
	{"working set, first", NULL, run_record,
	 "snapshots/" OLD ": id " OLD " ring 0 memory 1 layers 2 set of 14 first", .late = true},
	{"working set, refined", put_set, run_record,
	 "snapshots/" OLD ": id " OLD " ring 0 memory 1 layers 2 set of 14 first", .late = true},
	{"take, sealed", prepare_sealed, run_take_sealed,
	 "snapshots/" NEW ": id " NEW " ring 1 memory 2"},
	{"clone, sealed", prepare_sealed, run_clone_sealed,
	 "snapshots/" NEW ": id " NEW " ring 1 memory 1"},
	{"rewrap", prepare_sealed, run_rewrap, "snapshots/" OLD ": id " OLD " ring 2 memory 1",
	 .late = true},
	{"import", prepare_import, run_import, "snapshots/" OLD ": id " OLD " ring 0 memory 1"},
	{"import, raw", NULL, run_import_raw,
	 "snapshots/(fresh): id (fresh) ring 0 memory 2 layers 1"},
	{"repair, torn", prepare_torn, repair, "-snapshots/" TORN, .late = true, .goes_on = true,
	 .leaves_tmp = true},
	{"repair, working set", prepare_bad_set, repair,
	 "snapshots/" OLD ": id " OLD " ring 0 memory 1 layers 2", .late = true, .goes_on = true},
	{"repair, base", prepare_bad_base, repair,
	 "snapshots/" OLD ": id " OLD " ring 0 memory 1 layers 2", .late = true, .goes_on = true},
	{"repair, link", prepare_dangling, repair, "-templates/gone", .late = true,
	 .goes_on = true},
	{"repair, layer", prepare_damaged, run_repair_data,
	 "snapshots/" NEW ": id " NEW " ring 0 memory 1 layers 2", .late = true, .goes_on = true},
};

const size_t n_operations = ARRAY_SIZE(operations);
