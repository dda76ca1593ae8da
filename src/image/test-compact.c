/* SPDX-License-Identifier: Apache-2.0 */
#include "image/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/compact-internal.h"
#include "image/keyring.h"
#include "image/snapshot.h"
#include "image/store.h"
#include "image/test-fixture.h"
#include "image/working-set.h"

#define SANDBOX_ID "x00000000000000000000"
#define COPY_ID	   "c00000000000000000000"
#define SANDBOX	   "sandboxes/" SANDBOX_ID
#define COPY	   "snapshots/" COPY_ID

static const struct compact_policy policy = COMPACT_POLICY_DEFAULT;

/* ---- what is chosen ---------------------------------------------------------------------------
 */

/* The examples of compact-choose.c: sizes in @text, "~" before a layer that others link. */
static void check_choice(const char *text, const char *chosen, bool force)
{
	struct compact_layer layers[32] = {0};
	char result[33] = "";
	uint32_t n = 0, n_chosen;

	for (char *p = (char *)text; *p; n++) {
		p += strspn(p, " ");
		layers[n].own = *p != '~';
		layers[n].bytes = layers[n].live = strtoul(p + !layers[n].own, &p, 10);
		if (*p == '/') /* of which alive */
			layers[n].live = strtoul(p + 1, &p, 10);
		layers[n].mixed = *p == '!';
		p += layers[n].mixed;
	}
	n_chosen = compact_choose(layers, n, &policy, force);
	for (uint32_t i = 0; i < n; i++)
		result[i] = layers[i].chosen ? 'x' : '.';
	assert_string_equal(result, chosen);
	for (const char *p = chosen; *p; p++)
		n_chosen -= *p == 'x';
	assert_int_equal(n_chosen, 0);
}

static void test_choose(void **state)
{
	check_choice("100 1 1 1 1 1 1 1 1", ".xxxxxxxx", false);
	check_choice("100 8 1 1 1 1 1 1 1", ".xxxxxxxx", false);
	check_choice("100 15 1 1 1 1 1 1 1", "..xxxxxxx", false);
	check_choice("100 15 7 1 1 1 1 1 1", ".xxxxxxxx", false);
	check_choice("100 50 1 1", "..xx", false);
	check_choice("100 50 26", "xxx", false);
	/* so many that more must go than pays */
	check_choice("6561 2187 729 243 81 27 9 3 1", ".......xx", false);
	check_choice("59049 19683 6561 2187 729 243 81 27 9 3 1", ".......xxxx", false);
	/* what others link is neither moved nor in the way */
	check_choice("~9000 100 ~50 1 1 1 1 1 1 1 1", "...xxxxxxxx", false);
	check_choice("~9000 ~1", "..", false);
	/* one alone only when it is mostly dead */
	check_choice("100 1", "..", false);
	check_choice("100/40 1", "x.", false);
	check_choice("100/40 1 1", "xxx", false);
	check_choice("100/60 1", "..", false);
	check_choice("100 50/20", ".x", false);
	/* by force */
	check_choice("~10 100 1", ".xx", true);
	check_choice("~10 100", "..", true);
	check_choice("~10 100/99", ".x", true);
	check_choice("~10", ".", true);
	/* "!": the working set does not lie first */
	check_choice("~10 100!", ".x", true);
	check_choice("~10! 100", "..", true);
	check_choice("~10 100!", "..", false);
}

static void test_due(void **state)
{
	const uint64_t MiB = 1u << 20;
	struct compact_layer layers[10];

	for (unsigned i = 0; i < 10; i++)
		layers[i] = (struct compact_layer){.bytes = 4 * MiB, .live = 4 * MiB, .own = true};
	assert_false(compact_due(layers, 0, &policy));
	assert_false(compact_due(layers, 8, &policy));
	assert_true(compact_due(layers, 9, &policy));
	layers[3].own = false;
	assert_false(compact_due(layers, 9, &policy));
	layers[0].live = layers[1].live = layers[2].live = 0;
	assert_false(compact_due(layers, 6, &policy)); /* 12 of 20 MiB: too little */
	layers[4].live = 0;
	assert_true(compact_due(layers, 6, &policy));  /* 16 of 20 */
	assert_false(compact_due(layers, 9, &policy)); /* 16 of 32: not more than half */
	assert_false(
		compact_due(layers, 10, &(struct compact_policy){.off = true, .max_layers = 1}));
}

/* ---- a sandbox that sleeps --------------------------------------------------------------------
 */

struct life {
	struct store *store;
	uint32_t n_pages;
	uint8_t *memory;
	bool *changed;
	uint64_t seed;
	enum image_codec codec;
	struct keyring *keys; /* NULL: not sealed */
	uint32_t sleeps;
	uint64_t stored;
};

static void life_begin(struct life *l, struct fixture *f, uint32_t n_pages, uint64_t seed)
{
	struct problem problem = PROBLEM_INIT;

	*l = (struct life){.n_pages = n_pages, .seed = seed};
	l->memory = calloc(n_pages, DORM_PAGE_SIZE);
	l->changed = calloc(n_pages, sizeof(*l->changed));
	assert_true(l->memory && l->changed);
	assert_int_equal(store_open(f->path, &problem, &l->store), 0);
}

static void life_end(struct life *l)
{
	assert_int_equal(unlinkat(l->store->root_fd, "tmp", AT_REMOVEDIR), 0); /* it is empty */
	store_close(l->store);
	keyring_free(l->keys);
	free(l->memory);
	free(l->changed);
}

static void touch(struct life *l, uint64_t gfn, unsigned kind)
{
	l->changed[gfn] = true;
	if (kind < 3)
		fixture_page(l->memory + gfn * DORM_PAGE_SIZE, kind, &l->seed);
	if (kind == 3) /* the same as another page */
		memcpy(l->memory + gfn * DORM_PAGE_SIZE,
		       l->memory + fixture_random(&l->seed) % l->n_pages * DORM_PAGE_SIZE,
		       DORM_PAGE_SIZE);
}

/* @n touches: runs and single pages of every kind, some with what they had before. */
static void touch_some(struct life *l, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint64_t gfn = fixture_random(&l->seed) % l->n_pages;
		uint64_t run = fixture_random(&l->seed) % 3 ? 1 : fixture_random(&l->seed) % 40 + 1;
		unsigned kind = (unsigned)fixture_random(&l->seed) % 5;

		for (; run && gfn < l->n_pages; run--, gfn++)
			touch(l, gfn, kind);
	}
}

static int open_dir(const struct life *l, const char *path)
{
	int fd = file_open_dir(l->store->root_fd, path);

	assert_true(fd >= 0);
	return fd;
}

static void write_image(struct life *l, struct snapshot_tmp *tmp, struct image *parent,
			int parent_dirfd, struct manifest *m)
{
	const struct image_writer_options options = {.codec = l->codec, .keys = l->keys};
	struct problem problem = PROBLEM_INIT;
	struct image_writer *w;

	assert_int_equal(image_writer_new(tmp->dirfd, parent, parent_dirfd, &options, &problem, &w),
			 0);
	for (uint32_t i = 0; i < l->n_pages; i++) {
		if (l->changed[i])
			assert_int_equal(
				image_writer_add(w, i, 1, l->memory + i * DORM_PAGE_SIZE, &problem),
				0);
		l->changed[i] = false;
	}
	assert_int_equal(image_writer_commit(w, &m->stats, m->image_id, &problem), 0);
	image_writer_free(w);
}

/* The sandbox's snapshot becomes the present memory. */
static void life_sleep(struct life *l)
{
	struct manifest m = {.memory_bytes = l->n_pages * DORM_PAGE_SIZE, .id = SANDBOX_ID};
	_cleanup_fd_ int parent_dirfd = -1;
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	struct image *parent;

	if (l->sleeps) {
		struct manifest old;

		parent_dirfd = open_dir(l, SANDBOX);
		assert_int_equal(image_open(parent_dirfd, l->keys, &problem, &parent), 0);
		assert_int_equal(snapshot_open(parent_dirfd, l->keys, &problem, &old), 0);
		m.lineage_compacted = old.lineage_compacted;
		manifest_deinit(&old);
	} else {
		assert_int_equal(image_open_zero(l->n_pages, &parent), 0);
	}
	assert_int_equal(snapshot_begin(l->store->root_fd, l->store->root, &problem, &tmp), 0);
	write_image(l, &tmp, parent, parent_dirfd, &m);
	assert_int_equal(file_write_atomic(tmp.dirfd, "device", "state", 5, 0644), 0);
	if (l->sleeps)
		assert_int_equal(snapshot_delete(l->store->root_fd, SANDBOX, &problem), 0);
	if (snapshot_commit(&tmp, l->store->root_fd, SANDBOX, &m, l->keys, &problem))
		fail_msg("%s", problem.message);
	snapshot_abort(&tmp, l->store->root_fd);
	image_unref(parent);
	if (l->sleeps++)
		l->stored += m.stats.bytes_stored;
}

static void check_memory(const struct life *l, const char *path)
{
	_cleanup_free_ uint8_t *out = malloc((size_t)l->n_pages * DORM_PAGE_SIZE);
	_cleanup_fd_ int fd = open_dir(l, path);
	struct problem problem = PROBLEM_INIT;
	struct image *image;

	assert_non_null(out);
	if (snapshot_verify(fd, l->keys, NULL, NULL, &problem))
		fail_msg("%s", problem.message);
	assert_int_equal(image_open(fd, l->keys, &problem, &image), 0);
	assert_int_equal(fixture_read_all(image, out, &problem), 0);
	assert_memory_equal(out, l->memory, (size_t)l->n_pages * DORM_PAGE_SIZE);
	image_unref(image);
}

static int compact(const struct life *l, bool force, const char *to, struct compact_stats *stats,
		   struct problem *problem)
{
	struct compact_options options = {
		.policy = policy, .force = force, .codec = l->codec, .keys = l->keys};
	_cleanup_fd_ int fd = open_dir(l, SANDBOX);

	return snapshot_compact(l->store->root_fd, l->store->root, fd, to, !strcmp(to, SANDBOX),
				NULL, &options, problem, stats);
}

static struct compact_report inspect(const struct life *l, const char *path)
{
	_cleanup_fd_ int fd = open_dir(l, path);
	struct problem problem = PROBLEM_INIT;
	struct compact_report report;

	assert_int_equal(compact_inspect(fd, &policy, &problem, &report), 0);
	return report;
}

/* ---- the content ------------------------------------------------------------------------------
 */

static void test_random_histories(void **state)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct problem problem = PROBLEM_INIT;
		struct compact_stats stats;
		struct life l;

		life_begin(&l, *state, 700, seed);
		l.codec = seed % 3;
		for (unsigned g = 0; g < 14; g++) {
			touch_some(&l, g ? 10 : 60);
			life_sleep(&l);
			if (fixture_random(&l.seed) % 3)
				continue;
			if (g) {
				assert_int_equal(compact(&l, true, COPY, &stats, &problem), 0);
				check_memory(&l, COPY);
				assert_int_equal(inspect(&l, COPY).n_layers, stats.layers_after);
				assert_int_equal(snapshot_delete(l.store->root_fd, COPY, &problem),
						 0);
			}
			if (fixture_random(&l.seed) % 2)
				continue;
			assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem),
					 inspect(&l, SANDBOX).n_layers > 1 ? 0 : COMPACT_E_NOT_DUE);
			check_memory(&l, SANDBOX);
		}
		check_memory(&l, SANDBOX);
		assert_int_equal(snapshot_delete(l.store->root_fd, SANDBOX, &problem), 0);
		life_end(&l);
	}
}

/* What the manifest says of a snapshot stays, but for the image; what is beside the memory too. */
static void test_manifest(void **state)
{
	struct manifest before, after;
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct stat old_device, device;
	struct compact_options options = {.force = true};
	struct life l;
	int fd;

	life_begin(&l, *state, 300, 9); /* the last pages change each time */
	for (unsigned g = 0; g < 4; g++) {
		for (uint32_t i = 60 * g; i < l.n_pages; i++)
			touch(&l, i, 2);
		touch_some(&l, 5);
		life_sleep(&l);
	}
	fd = open_dir(&l, SANDBOX);
	assert_int_equal(snapshot_open(fd, NULL, &problem, &before), 0);
	assert_int_equal(fstatat(fd, "device", &old_device, 0), 0);
	assert_int_equal(snapshot_compact(l.store->root_fd, l.store->root, fd, COPY, false, COPY_ID,
					  &options, &problem, &stats),
			 0);
	close(fd);
	fd = open_dir(&l, COPY);
	assert_int_equal(snapshot_open(fd, NULL, &problem, &after), 0);
	assert_int_equal(fstatat(fd, "device", &device, 0), 0);
	close(fd);
	assert_int_equal(device.st_ino, old_device.st_ino);
	assert_string_equal(after.id, COPY_ID);
	assert_string_not_equal(after.image_id, before.image_id);
	assert_int_equal(after.lineage_compacted, before.lineage_compacted + stats.bytes_written);
	assert_memory_equal(&after.stats, &before.stats, sizeof(before.stats));
	assert_int_equal(stats.layers_before, 4);
	assert_int_equal(stats.layers_merged, 4);
	assert_int_equal(stats.layers_after, 1);
	assert_true(stats.bytes_written > 0 && stats.bytes_written < stats.bytes_dropped);
	assert_true(stats.pages_moved > 0 &&
		    stats.bytes_read >= stats.pages_moved * DORM_PAGE_SIZE);
	manifest_deinit(&before);
	manifest_deinit(&after);
	check_memory(&l, COPY);
	check_memory(&l, SANDBOX);
	life_end(&l);
}

static struct keyring *new_ring(const char *key)
{
	struct problem problem = PROBLEM_INIT;
	struct keyring *ring;

	assert_int_equal(keyring_new(&ring), 0);
	assert_int_equal(setenv("DORM_TEST_KEY", key, 1), 0);
	assert_int_equal(keyring_add(ring, "env:DORM_TEST_KEY", &problem), 0);
	return ring;
}

static void test_sealed(void **state)
{
	struct compact_options options = {.force = true};
	struct problem problem = PROBLEM_INIT;
	struct keyring *wrong;
	struct compact_stats stats;
	struct manifest m;
	char text[8] = "";
	struct life l;
	int fd, device;

	life_begin(&l, *state, 300, 11);
	l.keys = new_ring("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
	wrong = new_ring("10112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
	for (unsigned g = 0; g < 4; g++) {
		touch_some(&l, 20);
		life_sleep(&l);
	}
	fd = open_dir(&l, SANDBOX);
	for (unsigned i = 0; i < 2; i++) {
		options.keys = i ? wrong : NULL;
		problem = PROBLEM_INIT;
		assert_int_equal(snapshot_compact(l.store->root_fd, l.store->root, fd, SANDBOX,
						  true, NULL, &options, &problem, &stats),
				 IMAGE_E_KEY);
		assert_true(problem_is_set(&problem));
	}
	close(fd);
	assert_true(inspect(&l, SANDBOX).n_own > 1); /* which needs no key */
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
	check_memory(&l, SANDBOX);
	fd = open_dir(&l, SANDBOX);
	assert_int_equal(snapshot_open(fd, l.keys, &problem, &m), 0);
	assert_int_equal(snapshot_open_device(fd, &m, l.keys, &problem, &device), 0);
	assert_int_equal(read(device, text, sizeof(text)), 5);
	assert_string_equal(text, "state");
	assert_int_equal(snapshot_verify(fd, wrong, NULL, NULL, &problem), IMAGE_E_KEY);
	manifest_deinit(&m);
	close(device);
	close(fd);
	keyring_free(wrong);
	life_end(&l);
}

/* ---- the working set --------------------------------------------------------------------------
 */

static void put_set(const struct life *l, uint64_t first, uint64_t n_pages, uint64_t step,
		    uint64_t n)
{
	_cleanup_fd_ int fd = open_dir(l, SANDBOX);

	fixture_working_set(fd, first, n_pages, step, n);
}

static struct image *open_image(const struct life *l, const char *path)
{
	_cleanup_fd_ int fd = open_dir(l, path);
	struct problem problem = PROBLEM_INIT;
	struct image *image;

	assert_int_equal(image_open(fd, l->keys, &problem, &image), 0);
	return image;
}

/* Return: what reading it said */
static int read_set(const struct life *l, const char *path, struct working_set *ret)
{
	_cleanup_(image_unrefp) struct image *image = open_image(l, path);
	_cleanup_fd_ int fd = open_dir(l, path);
	struct problem problem = PROBLEM_INIT;

	return working_set_read(fd, image, &problem, ret);
}

static bool in_set(const struct working_set *s, uint64_t gfn)
{
	for (size_t i = 0; i < s->n_runs; i++)
		if (gfn >= s->runs[i].gfn && gfn - s->runs[i].gfn < s->runs[i].n_pages)
			return true;
	return false;
}

/* In the last layer: the set has the first @n_frames, ascending, and nobody else has a page there.
 */
static void check_first_frames(const struct life *l, const char *path, uint32_t n_frames)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};
	_cleanup_(image_unrefp) struct image *image = open_image(l, path);
	const uint32_t layer = image_n_layers(image) - 1;
	bool contiguous = false;
	uint64_t next = 0;

	assert_int_equal(read_set(l, path, &s), 0);
	for (uint64_t gfn = 0; gfn < l->n_pages; gfn++) {
		struct page_run run;
		uint64_t slot;

		image_lookup(image, gfn, &run);
		slot = run.slot + gfn - run.gfn;
		if (run.layer != layer || image_owner(image, layer, slot) != gfn)
			continue; /* not there, or the same as a page of a lower gfn */
		if (in_set(&s, gfn)) {
			assert_true(slot >= next && slot / IMAGE_FRAME_PAGES < n_frames);
			next = slot + 1;
		} else if (slot / IMAGE_FRAME_PAGES < n_frames) {
			/* the owner of a slot that it shares with a page of the set */
			bool shared = false;

			for (uint64_t other = gfn + 1; other < l->n_pages && !shared; other++) {
				image_lookup(image, other, &run);
				shared = in_set(&s, other) && run.layer == layer &&
					 run.slot + other - run.gfn == slot;
			}
			assert_true(shared);
		}
	}
	assert_int_equal((next + IMAGE_FRAME_PAGES - 1) / IMAGE_FRAME_PAGES, n_frames);
	assert_int_equal(working_set_is_contiguous(&s, image, &contiguous), 0);
	assert_true(contiguous);
}

static void test_working_set_first(void **state)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct problem problem = PROBLEM_INIT;
		struct compact_stats stats;
		struct working_set before = {0}, after = {0};
		struct life l;

		life_begin(&l, *state, 700, 100 + seed);
		l.codec = seed % 3;
		if (seed > 3)
			l.keys = new_ring(
				"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff");
		for (unsigned g = 0; g < 3; g++) {
			touch_some(&l, 40);
			for (uint32_t i = 0; seed % 2 && i < 8; i++) /* of each kind, and shared */
				touch(&l, 50 + 13 * i, i % 2 ? 3 : 2);
			life_sleep(&l);
		}
		touch(&l, 50, 2); /* so that something of the set is stored */
		life_sleep(&l);
		put_set(&l, 50, seed, 13, 45);
		assert_int_equal(read_set(&l, SANDBOX, &before), 0);
		assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
		assert_true(stats.set_frames > 0);
		check_first_frames(&l, SANDBOX, stats.set_frames);
		check_memory(&l, SANDBOX);
		/* the same set, of another image */
		assert_int_equal(read_set(&l, SANDBOX, &after), 0);
		assert_string_not_equal(before.image_id, after.image_id);
		assert_int_equal(before.n_runs, after.n_runs);
		assert_memory_equal(before.runs, after.runs, before.n_runs * sizeof(*before.runs));
		/* and then there is nothing more to do */
		assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
		working_set_deinit(&before);
		working_set_deinit(&after);
		assert_int_equal(snapshot_delete(l.store->root_fd, SANDBOX, &problem), 0);
		life_end(&l);
	}
}

/* A template: one layer without a dead page is laid out anew, once. */
static void test_template_is_laid_out(void **state)
{
	struct working_set s = {0};
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct life l;
	int fd;

	life_begin(&l, *state, 600, 81);
	for (uint32_t i = 0; i < l.n_pages; i++)
		touch(&l, i, 2);
	life_sleep(&l);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	put_set(&l, 0, 40, 40, 1); /* it lies first, but shares a frame */
	assert_int_equal(compact(&l, false, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
	assert_int_equal(stats.set_frames, 3);
	check_first_frames(&l, SANDBOX, 3);
	put_set(&l, 7, 1, 15, 39);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
	assert_int_equal(stats.set_frames, 3); /* 39 pages */
	assert_int_equal(stats.pages_moved, l.n_pages);
	check_first_frames(&l, SANDBOX, 3);
	check_memory(&l, SANDBOX);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	/* a clone has it too, and makes the layer somebody else's: no longer moved */
	put_set(&l, 7, 1, 16, 37);
	fd = open_dir(&l, SANDBOX);
	assert_int_equal(
		snapshot_clone(l.store->root_fd, l.store->root, fd, NULL, COPY, COPY_ID, &problem),
		0);
	close(fd);
	assert_int_equal(read_set(&l, COPY, &s), 0);
	assert_int_equal(s.n_pages, 37);
	working_set_deinit(&s);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	check_memory(&l, COPY);
	/* another content has another one, or none */
	touch(&l, 7, 2);
	life_sleep(&l);
	assert_int_equal(read_set(&l, SANDBOX, &s), WORKING_SET_E_ABSENT);
	life_end(&l);
}

/* One that is damaged or of another image is not in the way, and is not taken along. */
static void test_bad_working_set(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct working_set s = {0};
	struct life l;

	life_begin(&l, *state, 300, 91);
	for (unsigned bad = 0; bad < 3; bad++) {
		_cleanup_free_ char *data = NULL;
		size_t len;
		int fd;

		for (uint32_t i = 0; i < l.n_pages; i++)
			touch(&l, i, 2);
		life_sleep(&l);
		put_set(&l, 100, 3, 9, 20);
		fd = open_dir(&l, SANDBOX);
		assert_int_equal(file_read(fd, "working-set", 1u << 20, &data, &len), 0);
		close(fd);
		touch(&l, 200, 2);
		life_sleep(&l);
		put_set(&l, 100, 3, 9, 20);
		fd = open_dir(&l, SANDBOX);
		if (bad == 0)
			assert_int_equal(file_write_atomic(fd, "working-set", data, len, 0444), 0);
		if (bad == 1)
			fixture_flip(fd, "working-set", 70, 1);
		if (bad == 2)
			assert_int_equal(unlinkat(fd, "working-set", 0) ||
						 symlinkat("device", fd, "working-set"),
					 0);
		close(fd);
		assert_int_equal(read_set(&l, SANDBOX, &s),
				 bad ? IMAGE_E_CORRUPT : WORKING_SET_E_STALE);
		assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
		assert_int_equal(stats.set_frames, 0);
		assert_int_equal(read_set(&l, SANDBOX, &s), WORKING_SET_E_ABSENT);
		check_memory(&l, SANDBOX);
	}
	life_end(&l);
}

/* ---- the policy over a life -------------------------------------------------------------------
 */

static void live_long(struct fixture *f, bool base_is_shared)
{
	struct problem problem = PROBLEM_INIT;
	uint32_t most_layers = 0;
	uint64_t compacted = 0;
	double amplification;
	struct life l;

	life_begin(&l, f, 3000, 21);
	for (uint32_t i = 0; i < l.n_pages; i++)
		touch(&l, i, 2);
	life_sleep(&l);
	if (base_is_shared) {
		_cleanup_fd_ int fd = open_dir(&l, SANDBOX);

		assert_int_equal(snapshot_clone(l.store->root_fd, l.store->root, fd, NULL, COPY,
						NULL, &problem),
				 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		struct compact_stats stats;

		for (unsigned j = 0; j < l.n_pages / 100; j++)
			touch(&l, fixture_random(&l.seed) % l.n_pages, 2);
		life_sleep(&l);
		if (compact(&l, false, SANDBOX, &stats, &problem) == 0)
			compacted += stats.bytes_written;
		most_layers = MAX(most_layers, inspect(&l, SANDBOX).n_layers);
	}
	check_memory(&l, SANDBOX);
	amplification = (double)compacted / (double)l.stored;
	print_message("200 sleeps of 1 %%, base %s: at most %u layers; compactions wrote %.2f "
		      "bytes per byte that sleeps stored\n",
		      base_is_shared ? "shared" : "own", most_layers, amplification);
	assert_in_range(most_layers, 2, policy.max_layers + base_is_shared);
	assert_true(amplification > 0 && amplification <= 4);
	assert_int_equal(snapshot_delete(l.store->root_fd, SANDBOX, &problem), 0);
	if (base_is_shared)
		assert_int_equal(snapshot_delete(l.store->root_fd, COPY, &problem), 0);
	life_end(&l);
}

static void test_200_sleeps(void **state)
{
	live_long(*state, false);
}

static void test_200_sleeps_of_a_fork(void **state)
{
	live_long(*state, true);
}

/* ---- what is not touched ----------------------------------------------------------------------
 */

struct listing {
	uint32_t n;
	struct stat st[16];
	char id[16][IMAGE_ID_LEN + 1];
};

static void list_layers(const struct life *l, const char *path, struct listing *ret)
{
	_cleanup_fd_ int fd = open_dir(l, path);
	struct problem problem = PROBLEM_INIT;
	struct image *image;

	assert_int_equal(image_open(fd, NULL, &problem, &image), 0);
	ret->n = image_n_layers(image);
	assert_true(ret->n <= 16);
	for (uint32_t i = 0; i < ret->n; i++) {
		char name[IMAGE_ID_LEN + 8];

		(void)snprintf(name, sizeof(name), "layers/%s", image_layer_id(image, i));
		assert_int_equal(fstatat(fd, name, &ret->st[i], 0), 0);
		memcpy(ret->id[i], name + 7, IMAGE_ID_LEN + 1);
	}
	image_unref(image);
}

static void test_linked_layers_stay(void **state)
{
	struct listing before, after, sandbox;
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct life l;
	int fd;

	life_begin(&l, *state, 600, 31);
	for (unsigned g = 0; g < 3; g++) {
		touch_some(&l, 40);
		life_sleep(&l);
	}
	fd = open_dir(&l, SANDBOX);
	assert_int_equal(
		snapshot_clone(l.store->root_fd, l.store->root, fd, NULL, COPY, NULL, &problem), 0);
	close(fd);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	list_layers(&l, COPY, &before);
	for (unsigned g = 0; g < 3; g++) {
		touch_some(&l, 4);
		life_sleep(&l);
	}
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
	assert_int_equal(stats.layers_merged, 3);
	check_memory(&l, SANDBOX);
	list_layers(&l, COPY, &after);
	list_layers(&l, SANDBOX, &sandbox);
	assert_int_equal(before.n, 3);
	assert_int_equal(sandbox.n, 4);
	for (unsigned i = 0; i < 3; i++) {
		assert_string_equal(before.id[i], sandbox.id[i]);
		assert_int_equal(before.st[i].st_ino, after.st[i].st_ino);
		assert_int_equal(before.st[i].st_nlink, 2);
		assert_int_equal(after.st[i].st_nlink, 2);
		assert_int_equal(before.st[i].st_mtim.tv_nsec, after.st[i].st_mtim.tv_nsec);
	}
	assert_int_equal(sandbox.st[3].st_nlink, 1);
	life_end(&l);
}

static void test_open_images_read_on(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct image *image;
	uint8_t *out;
	struct life l;
	int fd;

	life_begin(&l, *state, 600, 41);
	for (unsigned g = 0; g < 4; g++) {
		touch_some(&l, 20);
		life_sleep(&l);
	}
	fd = open_dir(&l, SANDBOX);
	assert_int_equal(image_open(fd, NULL, &problem, &image), 0);
	close(fd);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), 0);
	assert_int_equal(snapshot_delete(l.store->root_fd, SANDBOX, &problem), 0);
	out = malloc((size_t)l.n_pages * DORM_PAGE_SIZE);
	assert_non_null(out);
	assert_int_equal(fixture_read_all(image, out, &problem), 0);
	assert_memory_equal(out, l.memory, (size_t)l.n_pages * DORM_PAGE_SIZE);
	free(out);
	image_unref(image);
	life_end(&l);
}

/* ---- what goes wrong --------------------------------------------------------------------------
 */

struct patience {
	unsigned asked, limit;
	uint64_t done, total;
};

static bool lose_patience(void *userdata)
{
	struct patience *p = userdata;

	return p->asked++ == p->limit;
}

static void note_progress(void *userdata, uint64_t done, uint64_t total)
{
	struct patience *p = userdata;

	assert_true(done > p->done && done <= total);
	p->done = done;
	p->total = total;
}

static void test_cancel(void **state)
{
	struct patience p = {0};
	struct compact_options options = {.force = true,
					  .cancelled = lose_patience,
					  .progress = note_progress,
					  .userdata = &p};
	struct listing before, after;
	struct compact_stats stats;
	struct life l;
	int fd, r = -ECANCELED;

	life_begin(&l, *state, 1000, 51);
	for (unsigned g = 0; g < 3; g++) {
		touch_some(&l, g ? 30 : 300);
		life_sleep(&l);
	}
	fd = open_dir(&l, SANDBOX);
	list_layers(&l, SANDBOX, &before);
	for (unsigned i = 0; r; i++) {
		struct problem problem = PROBLEM_INIT;

		p = (struct patience){.limit = i};
		r = snapshot_compact(l.store->root_fd, l.store->root, fd, SANDBOX, true, NULL,
				     &options, &problem, &stats);
		assert_true(r == 0 || r == -ECANCELED);
		if (r == 0) {
			assert_true(i >= stats.pages_moved / IMAGE_FRAME_PAGES / 16);
			break;
		}
		assert_non_null(strstr(problem.message, "cancelled"));
		assert_int_equal(unlinkat(l.store->root_fd, "tmp", AT_REMOVEDIR), 0);
		assert_int_equal(mkdirat(l.store->root_fd, "tmp", 0755), 0);
		list_layers(&l, SANDBOX, &after);
		assert_int_equal(before.n, after.n);
		assert_memory_equal(before.id, after.id, sizeof(before.id[0]) * before.n);
	}
	assert_int_equal(p.done, p.total);
	close(fd);
	check_memory(&l, SANDBOX);
	life_end(&l);
}

static void test_damaged_source(void **state)
{
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct listing layers;
	struct stat old, new;
	char name[IMAGE_ID_LEN + 8];
	struct life l;
	int fd;

	life_begin(&l, *state, 400, 61);
	for (unsigned g = 0; g < 3; g++) {
		for (uint32_t i = g; i < l.n_pages; i += g + 1)
			touch(&l, i, 2);
		life_sleep(&l);
	}
	list_layers(&l, SANDBOX, &layers);
	fd = open_dir(&l, SANDBOX);
	(void)snprintf(name, sizeof(name), "layers/%s", layers.id[1]);
	fixture_flip(fd, name, DORM_PAGE_SIZE + 100, 1); /* in its first frame */
	assert_int_equal(fstat(fd, &old), 0);
	close(fd);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, layers.id[1]));
	assert_non_null(strstr(problem.message, "checksum mismatch"));
	assert_int_equal(compact(&l, true, COPY, &stats, &problem), IMAGE_E_CORRUPT);
	assert_int_equal(fstatat(l.store->root_fd, SANDBOX, &new, 0), 0);
	assert_int_equal(old.st_ino, new.st_ino);
	assert_int_equal(fstatat(l.store->root_fd, COPY, &new, 0), -1);
	life_end(&l);
}

static void test_refused(void **state)
{
	struct compact_options options = {.policy = policy};
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;
	struct stat old, new;
	struct life l;
	int fd, other;

	life_begin(&l, *state, 100, 71);
	touch_some(&l, 40);
	life_sleep(&l);
	assert_int_equal(compact(&l, false, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	assert_int_equal(compact(&l, true, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	touch_some(&l, 20);
	life_sleep(&l);
	assert_int_equal(compact(&l, false, SANDBOX, &stats, &problem), COMPACT_E_NOT_DUE);
	fd = open_dir(&l, SANDBOX);
	options.force = true;
	assert_int_equal(snapshot_compact(l.store->root_fd, l.store->root, fd, COPY, false, "no id",
					  &options, &problem, &stats),
			 -EINVAL);
	/* in the place of something else */
	assert_int_equal(
		snapshot_clone(l.store->root_fd, l.store->root, fd, NULL, COPY, NULL, &problem), 0);
	touch_some(&l, 5);
	life_sleep(&l);
	touch_some(&l, 5);
	life_sleep(&l);
	other = open_dir(&l, SANDBOX);
	assert_int_equal(fstatat(l.store->root_fd, COPY, &old, 0), 0);
	problem = PROBLEM_INIT;
	assert_int_equal(snapshot_compact(l.store->root_fd, l.store->root, other, COPY, true, NULL,
					  &options, &problem, &stats),
			 -ESTALE);
	assert_true(problem_is_set(&problem));
	problem = PROBLEM_INIT;
	assert_int_equal(snapshot_compact(l.store->root_fd, l.store->root, other, COPY, false, NULL,
					  &options, &problem, &stats),
			 -EEXIST);
	assert_int_equal(fstatat(l.store->root_fd, COPY, &new, 0), 0);
	assert_int_equal(old.st_ino, new.st_ino);
	close(other);
	close(fd);
	check_memory(&l, SANDBOX);
	life_end(&l);
}

#define COMPACT_TEST(_f) cmocka_unit_test_setup_teardown(_f, fixture_setup, fixture_teardown)
TEST_MAIN(cmocka_unit_test(test_choose), cmocka_unit_test(test_due),
	  COMPACT_TEST(test_random_histories), COMPACT_TEST(test_manifest),
	  COMPACT_TEST(test_sealed), COMPACT_TEST(test_working_set_first),
	  COMPACT_TEST(test_template_is_laid_out), COMPACT_TEST(test_bad_working_set),
	  COMPACT_TEST(test_200_sleeps), COMPACT_TEST(test_200_sleeps_of_a_fork),
	  COMPACT_TEST(test_linked_layers_stay), COMPACT_TEST(test_open_images_read_on),
	  COMPACT_TEST(test_cancel), COMPACT_TEST(test_damaged_source), COMPACT_TEST(test_refused))
