/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image-base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/compact.h"
#include "image/image-internal.h"
#include "image/rewrap.h"
#include "image/store-check.h"
#include "image/test-store-fixture.h"

#define PAGES 100u

/* Ids of snapshots: 's', a letter, zeros. */
static const char *id_of(char letter)
{
	return store_fixture_path("s%c0000000000000000000", letter);
}

static const char *path_of(char letter)
{
	return store_fixture_path("snapshots/%s", id_of(letter));
}

static int open_dir(struct store_fixture *s, char letter)
{
	int fd = file_open_dir(s->store->root_fd, path_of(letter));

	assert_true(fd >= 0);
	return fd;
}

static struct keyring *new_ring(const char *key)
{
	struct problem problem = PROBLEM_INIT;
	struct keyring *ring;

	assert_int_equal(keyring_new(&ring), 0);
	assert_int_equal(setenv("TEST_KEY", key, 1), 0);
	assert_int_equal(keyring_add(ring, "env:TEST_KEY", &problem), 0);
	return ring;
}

#define KEY_A "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define KEY_B "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"

/* ---- taking snapshots -------------------------------------------------------------------------
 */

struct taking {
	char parent;	   /* 0: none */
	bool own_memory;   /* nobody else runs from the parent */
	unsigned first, n; /* pages of fresh noise */
	unsigned pages;	   /* of the guest; 0: PAGES */
	const struct keyring *keys;
};

static void write_memory(struct store_fixture *s, int dirfd, int parent_dirfd,
			 const struct taking *t, struct manifest *m)
{
	struct image_writer_options options = {.codec = IMAGE_CODEC_NONE, .keys = t->keys};
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *from = NULL;
	struct problem problem = PROBLEM_INIT;
	uint8_t page[DORM_PAGE_SIZE];
	uint64_t seed = s->created_ns;

	if (t->parent)
		assert_int_equal(image_open(parent_dirfd, t->keys, &problem, &from), 0);
	else
		assert_int_equal(image_open_zero(m->memory_bytes / DORM_PAGE_SIZE, &from), 0);
	assert_int_equal(image_writer_new(dirfd, from, parent_dirfd, &options, &problem, &w), 0);
	for (unsigned i = t->first; i < t->first + t->n; i++) {
		fixture_page(page, 2, &seed);
		assert_int_equal(image_writer_add(w, i, 1, page, &problem), 0);
	}
	assert_int_equal(image_writer_commit(w, &m->stats, m->image_id, &problem), 0);
}

/* Commit snapshots/s<letter>..., as a sandbox would that ran from the parent. */
static void take(struct store_fixture *s, char letter, struct taking t)
{
	struct manifest m = {.memory_bytes = (t.pages ? t.pages : PAGES) * DORM_PAGE_SIZE,
			     .created_ns = s->created_ns++};
	_cleanup_(manifest_deinit) struct manifest parent = {0};
	_cleanup_fd_ int parent_dirfd = t.parent ? open_dir(s, t.parent) : -1;
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;

	str_copy(m.id, sizeof(m.id), id_of(letter));
	assert_int_equal(snapshot_begin(s->store->root_fd, s->store->root, &problem, &tmp), 0);
	if (t.parent)
		assert_int_equal(snapshot_open(parent_dirfd, t.keys, &problem, &parent), 0);
	write_memory(s, tmp.dirfd, parent_dirfd, &t, &m);
	assert_int_equal(image_base_put(tmp.dirfd, parent_dirfd, &parent, !t.own_memory, &problem,
					m.base_image_id),
			 0);
	assert_int_equal(
		snapshot_commit(&tmp, s->store->root_fd, path_of(letter), &m, t.keys, &problem), 0);
	snapshot_abort(&tmp, s->store->root_fd);
}

static void delete (struct store_fixture *s, char letter)
{
	assert_int_equal(snapshot_delete(s->store->root_fd, path_of(letter), NULL), 0);
}

struct opened {
	int dirfd;
	struct image *image, *base;
	struct problem problem;
	int r; /* of image_open_base() */
	uint64_t own, own_stored, shared;
};

static void open_both(struct store_fixture *s, char letter, const struct keyring *keys,
		      struct opened *ret)
{
	struct opened o = {.dirfd = open_dir(s, letter), .problem = PROBLEM_INIT};

	assert_int_equal(image_open(o.dirfd, keys, &o.problem, &o.image), 0);
	o.r = image_open_base(o.dirfd, o.image, keys, &o.problem, &o.base);
	if (o.r == 0)
		assert_int_equal(
			image_diff_bitmap(o.image, o.base, NULL, &o.own, &o.own_stored, &o.shared),
			0);
	*ret = o;
}

static void close_both(struct opened *o)
{
	image_unref(o->image);
	image_unref(o->base);
	close(o->dirfd);
}

static void image_id_of(struct store_fixture *s, char letter, char ret[IMAGE_ID_LEN + 1])
{
	_cleanup_fd_ int fd = open_dir(s, letter);
	struct problem problem = PROBLEM_INIT;
	struct image *image;

	assert_int_equal(image_open_for_check(fd, &problem, &image), 0);
	str_copy(ret, IMAGE_ID_LEN + 1, image_id(image));
	image_unref(image);
}

/* @base: 0 for none */
static void expect_base(struct store_fixture *s, char letter, char base, unsigned own)
{
	char id[IMAGE_ID_LEN + 1];
	struct opened o;

	open_both(s, letter, NULL, &o);
	if (!base) {
		assert_int_equal(o.r, IMAGE_E_ABSENT);
		assert_int_equal(faccessat(o.dirfd, "base", F_OK, 0), -1);
		assert_false(problem_is_set(&o.problem));
	} else {
		assert_int_equal(o.r, 0);
		image_id_of(s, base, id);
		assert_string_equal(image_id(o.base), id);
		assert_int_equal(o.own, own);
	}
	close_both(&o);
}

/* ---- the rule ---------------------------------------------------------------------------------
 */

static void test_rule(void **state)
{
	struct store_fixture *s = *state;

	take(s, 't', (struct taking){.n = PAGES});
	expect_base(s, 't', 0, 0); /* booted */
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	expect_base(s, 'a', 't', 10);
	take(s, 'b', (struct taking){.parent = 'a', .own_memory = true, .first = 10, .n = 40});
	expect_base(s, 'b', 't', 50); /* handed down */
	take(s, 'c', (struct taking){.parent = 'b', .own_memory = true, .first = 50, .n = 25});
	expect_base(s, 'c', 't', 75); /* just enough */
	take(s, 'd', (struct taking){.parent = 'c', .own_memory = true, .first = 75, .n = 1});
	expect_base(s, 'd', 0, 0); /* too little, and its parent is nobody else's */
	take(s, 'e', (struct taking){.parent = 'd', .own_memory = true, .n = 1});
	expect_base(s, 'e', 0, 0);
	take(s, 'f', (struct taking){.parent = 'd', .n = 2});
	expect_base(s, 'f', 'd', 2); /* made a fork point, it becomes one */
	take(s, 'g', (struct taking){.parent = 'b', .n = 1});
	expect_base(s, 'g', 't', 50); /* half is the template's: that one */
	take(s, 'h', (struct taking){.parent = 'b', .first = 50, .n = 1});
	expect_base(s, 'h', 'b', 1); /* less than half: the nearer one */
	take(s, 'i', (struct taking){.parent = 't', .n = 76});
	expect_base(s, 'i', 0, 0);
	take(s, 'j', (struct taking){.parent = 't'});
	expect_base(s, 'j', 't', 0);
}

static void test_nothing_stored(void **state)
{
	struct store_fixture *s = *state;

	take(s, 't', (struct taking){0});
	take(s, 'a', (struct taking){.parent = 't'});
	expect_base(s, 'a', 0, 0);
}

/* A parent whose base is of no use passes on none, and no harm. */
static void test_passed_over(void **state)
{
	struct store_fixture *s = *state;

	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	store_fixture_write(s, store_fixture_path("%s/base", path_of('a')), "not a map");
	take(s, 'b', (struct taking){.parent = 'a', .own_memory = true, .n = 10});
	expect_base(s, 'b', 0, 0);
	take(s, 'c', (struct taking){.parent = 'a', .n = 10});
	expect_base(s, 'c', 'a', 10);
	assert_int_equal(
		unlinkat(s->store->root_fd, store_fixture_path("%s/base", path_of('a')), 0), 0);
	take(s, 'd', (struct taking){.parent = 'a', .own_memory = true, .n = 10});
	expect_base(s, 'd', 0, 0);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* Pages that are shared by the bitmap have the same bytes in both; @image may be gone. */
static void check_pages(struct image *image, struct image *base)
{
	uint8_t a[DORM_PAGE_SIZE], b[DORM_PAGE_SIZE];
	bitmap_word own[PAGES / 64 + 1] = {0};
	struct problem problem = PROBLEM_INIT;
	uint64_t n, n_stored, n_shared;

	assert_int_equal(image_diff_bitmap(image, base, own, &n, &n_stored, &n_shared), 0);
	assert_int_equal(bitmap_count(own, PAGES), n);
	for (unsigned i = 0; i < PAGES; i++) {
		if (bitmap_test(own, i))
			continue;
		assert_int_equal(image_read_page(image, i, a, &problem), 0);
		assert_int_equal(image_read_page(base, i, b, &problem), 0);
		assert_memory_equal(a, b, sizeof(a));
	}
}

static void test_template_deleted(void **state)
{
	struct store_fixture *s = *state;
	char id[IMAGE_ID_LEN + 1];
	uint8_t page[DORM_PAGE_SIZE];
	struct opened o;

	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .first = 20, .n = 10});
	image_id_of(s, 't', id);
	delete (s, 't');
	open_both(s, 'a', NULL, &o);
	assert_int_equal(o.r, 0);
	assert_string_equal(image_id(o.base), id);
	assert_int_equal(image_missing_layers(o.base), 0);
	assert_int_equal(image_missing_layers(o.image), 0);
	assert_int_equal(o.own, 10);
	assert_int_equal(o.own_stored, 10);
	assert_int_equal(o.shared, PAGES - 10);
	check_pages(o.image, o.base);
	delete (s, 'a'); /* the layers are shared, not opened again, and outlive the image */
	o.image = image_unref(o.image);
	assert_int_equal(image_read_page(o.base, 20, page, &o.problem), 0);
	close_both(&o);
}

/* A layer of the template of which the sandbox has overwritten every page. */
static void test_missing_layer(void **state)
{
	_cleanup_free_ uint8_t *scratch = aligned_alloc(DORM_PAGE_SIZE, 4 * IMAGE_FRAME_BYTES);
	struct frame_page pages[IMAGE_FRAME_PAGES];
	struct store_fixture *s = *state;
	uint32_t n = 7, frames;
	uint64_t live, bytes;
	struct frame_extent extent;
	struct page_run run;
	struct opened o;

	take(s, 'z', (struct taking){.n = PAGES});
	take(s, 't', (struct taking){.parent = 'z', .first = 40, .n = 5, .own_memory = true});
	take(s, 'a', (struct taking){.parent = 't', .first = 35, .n = 15});
	delete (s, 'z');
	delete (s, 't');
	open_both(s, 'a', NULL, &o);
	assert_int_equal(o.r, 0);
	assert_int_equal(image_n_layers(o.base), 2);
	assert_int_equal(image_missing_layers(o.base), 1);
	assert_false(image_layer_is_missing(o.base, 0));
	assert_true(image_layer_is_missing(o.base, 1));
	assert_int_equal(o.own, 15);
	check_pages(o.image, o.base);
	image_lookup(o.base, 42, &run);
	assert_int_equal(run.layer, 1);
	assert_int_equal(image_read_frame(o.base, 1, 0, scratch + IMAGE_FRAME_BYTES, scratch, &n,
					  &o.problem),
			 IMAGE_E_MISSING);
	assert_int_equal(n, 7);
	assert_non_null(strstr(o.problem.message, image_layer_id(o.base, 1)));
	assert_int_equal(image_read_frame(o.base, 1, 1u << 20, scratch + IMAGE_FRAME_BYTES, scratch,
					  &n, &o.problem),
			 IMAGE_E_MISSING);
	assert_int_equal(image_check_frame(o.base, 1, 0, scratch, &o.problem), IMAGE_E_MISSING);
	assert_int_equal(image_read_frame_nowait(o.base, 1, 0, scratch + IMAGE_FRAME_BYTES, scratch,
						 &n, &o.problem),
			 IMAGE_E_MISSING);
	assert_int_equal(image_decode_frame(o.base, 1, 0, scratch + IMAGE_FRAME_BYTES, scratch, &n,
					    &o.problem),
			 IMAGE_E_MISSING);
	image_frame_extent(o.base, 1, 0, &extent);
	assert_int_equal(extent.fd, -1);
	assert_int_equal(extent.stored_bytes, 0);
	assert_int_equal(image_read_page(o.base, 42, scratch, &o.problem), IMAGE_E_MISSING);
	assert_int_equal(image_frame_pages(o.base, 1, 0, pages), 5);
	assert_int_equal(image_owner(o.base, 1, run.slot), run.gfn);
	assert_int_equal(image_layer_frames(o.base, 1), 0);
	assert_int_equal(image_layer_bytes(o.base, 1), 0);
	image_layer_live(o.base, 1, &frames, &live, &bytes);
	assert_int_equal(bytes, 0);
	close_both(&o);
}

/* Every way in which the file may be of no use: no base, and nothing else is the matter. */
static void expect_unusable(struct store_fixture *s, const char *why)
{
	struct problem problem = PROBLEM_INIT;
	struct opened o;

	open_both(s, 'a', NULL, &o);
	assert_int_equal(o.r, IMAGE_E_CORRUPT);
	if (!strstr(o.problem.message, why))
		fail_msg("%s", o.problem.message);
	assert_int_equal(snapshot_verify(o.dirfd, NULL, NULL, NULL, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, why));
	assert_non_null(strstr(problem.message, "the memory is whole"));
	problem = PROBLEM_INIT;
	assert_int_equal(snapshot_clone(s->store->root_fd, s->store->root, o.dirfd, NULL,
					path_of('q'), id_of('q'), &problem),
			 0);
	delete (s, 'q');
	close_both(&o);
}

static void test_unusable(void **state)
{
	struct store_fixture *s = *state;
	const int root = s->store->root_fd;
	char *base = strdup(store_fixture_path("%s/base", path_of('a')));
	_cleanup_free_ char *map = NULL;
	size_t len;

	assert_non_null(base);
	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'u', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	assert_int_equal(file_read(root, base, 1u << 20, &map, &len), 0);
	store_fixture_write(s, base, "");
	expect_unusable(s, "the map of image");
	store_fixture_write(s, base, "garbage");
	expect_unusable(s, "the map of image");
	map[len / 2] ^= 1;
	assert_int_equal(file_write_atomic(root, base, map, len, 0444), 0);
	expect_unusable(s, "the map of image");
	map[len / 2] ^= 1;
	assert_int_equal(file_write_atomic(root, base, map, len - 1, 0444), 0);
	expect_unusable(s, "the map of image");
	assert_int_equal(unlinkat(root, base, 0), 0);
	assert_int_equal(linkat(root, store_fixture_path("%s/map", path_of('u')), root, base, 0),
			 0);
	expect_unusable(s, "the map of image"); /* a good one, of another */
	assert_int_equal(unlinkat(root, base, 0), 0);
	assert_int_equal(symlinkat("map", root, base), 0);
	expect_unusable(s, "symbolic link");
	assert_int_equal(unlinkat(root, base, 0), 0);
	assert_int_equal(mkfifoat(root, base, 0600), 0);
	expect_unusable(s, "not a regular file");
	assert_int_equal(unlinkat(root, base, 0), 0);
	assert_int_equal(mkdirat(root, base, 0700), 0);
	expect_unusable(s, "not a regular file");
	assert_int_equal(unlinkat(root, base, AT_REMOVEDIR), 0);
	expect_base(s, 'a', 0, 0);
	assert_int_equal(file_write_atomic(root, base, map, len, 0444), 0);
	expect_base(s, 'a', 't', 10); /* a copy is as good as a link */
	free(base);
}

/* Commit snapshots/sx... with this map as its base. */
static void take_with_base(struct store_fixture *s, struct taking t, const void *map, size_t len)
{
	struct manifest m = {.memory_bytes = PAGES * DORM_PAGE_SIZE};
	_cleanup_fd_ int parent_dirfd = t.parent ? open_dir(s, t.parent) : -1;
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;

	str_copy(m.id, sizeof(m.id), id_of('x'));
	assert_int_equal(image_make_id(map, len, m.base_image_id), 0);
	assert_int_equal(snapshot_begin(s->store->root_fd, s->store->root, &problem, &tmp), 0);
	write_memory(s, tmp.dirfd, parent_dirfd, &t, &m);
	assert_int_equal(file_write_atomic(tmp.dirfd, "base", map, len, 0444), 0);
	assert_int_equal(snapshot_commit(&tmp, s->store->root_fd, path_of('x'), &m, NULL, &problem),
			 0);
	snapshot_abort(&tmp, s->store->root_fd);
}

static void take_with_map_of(struct store_fixture *s, char other)
{
	_cleanup_fd_ int from = open_dir(s, other);
	_cleanup_free_ char *map = NULL;
	size_t len;

	assert_int_equal(file_read(from, "map", 1u << 20, &map, &len), 0);
	take_with_base(s, (struct taking){.n = 3}, map, len);
}

/* A map with a good digest, of a layer that is there but is another one, or has not so many slots.
 */
static void test_impossible(void **state)
{
	struct store_fixture *s = *state;
	struct layer_name name = {0};
	struct opened o;

	take(s, 't', (struct taking){.n = PAGES});
	open_both(s, 't', NULL, &o);
	name = o.image->names[0];
	close_both(&o);
	for (unsigned i = 0; i < 3; i++) {
		_cleanup_(page_map_deinit) struct page_map map = {0};
		_cleanup_buf_ struct buf bytes = {0};

		assert_int_equal(page_map_append(&map, PAGES, 0, i == 1 ? 1000 : 0), 0);
		assert_int_equal(page_map_seal(&map, NULL), 0);
		name.digest[0] ^= i == 2;
		assert_int_equal(page_map_encode(&map, &name, 1, &bytes), 0);
		take_with_base(s, (struct taking){.parent = 't', .n = 10}, bytes.data, bytes.len);
		open_both(s, 'x', NULL, &o);
		assert_int_equal(o.r, i ? IMAGE_E_CORRUPT : 0);
		if (i)
			assert_non_null(strstr(o.problem.message,
					       i == 1 ? "map: gfn 0 is in frame 62"
						      : "not the one that the map means"));
		close_both(&o);
		delete (s, 'x');
	}
}

static void test_other_guest(void **state)
{
	struct store_fixture *s = *state;
	struct opened o;

	take(s, 'u', (struct taking){.n = 50, .pages = 50});
	take_with_map_of(s, 'u');
	open_both(s, 'x', NULL, &o);
	assert_int_equal(o.r, IMAGE_E_CORRUPT);
	assert_non_null(strstr(o.problem.message, "50 pages, this one has 100"));
	close_both(&o);
	delete (s, 'x');
	take(s, 'v', (struct taking){.n = 50}); /* as large, and nothing in common */
	take_with_map_of(s, 'v');
	open_both(s, 'x', NULL, &o);
	assert_int_equal(o.r, 0);
	assert_int_equal(image_missing_layers(o.base), 1);
	assert_int_equal(o.shared, 0);
	assert_int_equal(o.own, 50); /* zero in both is the same */
	close_both(&o);
}

/* The manifest beside it must be the image's. */
static void test_other_directory(void **state)
{
	struct store_fixture *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct image *base = NULL;
	struct opened o;
	int fd;

	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	take(s, 'b', (struct taking){.parent = 't', .n = 10});
	open_both(s, 'a', NULL, &o);
	fd = open_dir(s, 'b');
	assert_int_equal(image_open_base(fd, o.image, NULL, &problem, &base), IMAGE_E_CORRUPT);
	assert_null(base);
	close(fd);
	close_both(&o);
}

static void test_sealed(void **state)
{
	struct store_fixture *s = *state;
	struct keyring *a = new_ring(KEY_A), *both = new_ring(KEY_B), *b = new_ring(KEY_B);
	struct problem problem = PROBLEM_INIT;
	struct image *base = NULL;
	struct opened o;

	assert_int_equal(setenv("TEST_KEY", KEY_A, 1), 0);
	assert_int_equal(keyring_add(both, "env:TEST_KEY", &problem), 0);
	take(s, 't', (struct taking){.n = PAGES, .keys = a});
	take(s, 'a', (struct taking){.parent = 't', .n = 10, .keys = a});
	delete (s, 't');
	open_both(s, 'a', a, &o);
	assert_int_equal(o.r, 0);
	assert_true(image_is_sealed(o.base));
	assert_int_equal(o.shared, PAGES - 10);
	check_pages(o.image, o.base);
	assert_int_equal(image_open_base(o.dirfd, o.image, NULL, &problem, &base), IMAGE_E_KEY);
	assert_int_equal(image_open_base(o.dirfd, o.image, b, &problem, &base), IMAGE_E_KEY);
	assert_int_equal(snapshot_verify(o.dirfd, NULL, NULL, NULL, &problem), 0);
	assert_int_equal(snapshot_rewrap(s->store->root_fd, o.dirfd, both, &problem), 0);
	close_both(&o);
	open_both(s, 'a', b, &o);
	assert_int_equal(o.r, 0);
	close_both(&o);
	/* another image's map, with the manifest left as it is */
	store_fixture_write(s, store_fixture_path("%s/base", path_of('a')), "x");
	open_both(s, 'a', b, &o);
	assert_int_equal(o.r, IMAGE_E_CORRUPT);
	close_both(&o);
	keyring_free(a);
	keyring_free(both);
	keyring_free(b);
}

/* ---- differences ------------------------------------------------------------------------------
 */

#define RANDOM_PAGES  700u
#define RANDOM_LAYERS 5u

static void random_map(uint64_t *seed, const struct page_map *like, const uint32_t *match,
		       struct page_map *ret)
{
	*ret = (struct page_map){0};
	while (ret->n_pages < RANDOM_PAGES) {
		uint64_t n = MIN(fixture_random(seed) % 90 + 1, RANDOM_PAGES - ret->n_pages);
		uint32_t layer = (uint32_t)(fixture_random(seed) % (RANDOM_LAYERS + 1));
		uint64_t slot =
			fixture_random(seed) % 3 ? ret->n_pages : fixture_random(seed) % 2000;

		if (layer == RANDOM_LAYERS)
			layer = IMAGE_LAYER_ZERO;
		if (like && fixture_random(seed) % 2) { /* as the other one has it there */
			const struct page_run *run = &like->runs[page_map_find(like, ret->n_pages)];

			n = MIN(n, run->gfn + run->n_pages - ret->n_pages);
			layer = run->layer;
			slot = run->slot + (ret->n_pages - run->gfn);
			for (uint32_t i = 0; run->layer != IMAGE_LAYER_ZERO && i < RANDOM_LAYERS;
			     i++)
				if (match[i] == run->layer)
					layer = i;
		}
		assert_int_equal(page_map_append(ret, n, layer, slot), 0);
	}
	assert_int_equal(page_map_seal(ret, NULL), 0);
}

static bool same_source(const struct page_map *a, const struct layer_name *a_names,
			const struct page_map *b, const struct layer_name *b_names, uint64_t gfn)
{
	const struct page_run *in_a = &a->runs[page_map_find(a, gfn)],
			      *in_b = &b->runs[page_map_find(b, gfn)];

	if (in_a->layer == IMAGE_LAYER_ZERO || in_b->layer == IMAGE_LAYER_ZERO)
		return in_a->layer == in_b->layer;
	return !memcmp(a_names[in_a->layer].id, b_names[in_b->layer].id, LAYER_ID_BYTES) &&
	       in_a->slot + gfn - in_a->gfn == in_b->slot + gfn - in_b->gfn;
}

static void compare_brutally(const struct page_map *a, const struct layer_name *a_names,
			     const struct page_map *b, const struct layer_name *b_names,
			     const uint32_t *match)
{
	bitmap_word differ[RANDOM_PAGES / 64 + 1] = {0};
	struct page_map_diff d, want = {0}, again;

	page_map_compare(a, b, match, differ, &d);
	page_map_compare(a, b, match, NULL, &again);
	for (uint64_t gfn = 0; gfn < RANDOM_PAGES; gfn++) {
		bool same = same_source(a, a_names, b, b_names, gfn);
		bool stored = a->runs[page_map_find(a, gfn)].layer != IMAGE_LAYER_ZERO;

		assert_int_equal(bitmap_test(differ, gfn), !same);
		want.pages += !same;
		want.stored += !same && stored;
		want.shared += same && stored;
	}
	assert_memory_equal(&d, &want, sizeof(d));
	assert_memory_equal(&again, &want, sizeof(d));
	assert_int_equal(differ[RANDOM_PAGES / 64] >> RANDOM_PAGES % 64, 0);
}

static void test_random_maps(void **state)
{
	struct layer_name a_names[RANDOM_LAYERS] = {0}, b_names[RANDOM_LAYERS] = {0};
	uint64_t seed = 11, shared = 0;

	for (unsigned round = 0; round < 300; round++) {
		_cleanup_free_ uint32_t *match = NULL;
		struct page_map a, b;
		struct page_map_diff d;

		for (unsigned i = 0; i < RANDOM_LAYERS; i++) { /* some layers are only in one */
			a_names[i].id[3] = (uint8_t)(i + round % 3);
			b_names[i].id[3] = (uint8_t)((i + round) % RANDOM_LAYERS);
		}
		assert_int_equal(
			page_map_match(a_names, RANDOM_LAYERS, b_names, RANDOM_LAYERS, &match), 0);
		random_map(&seed, NULL, NULL, &b);
		random_map(&seed, &b, match, &a);
		compare_brutally(&a, a_names, &b, b_names, match);
		page_map_compare(&a, &b, match, NULL, &d);
		shared += d.shared;
		page_map_deinit(&a);
		page_map_deinit(&b);
	}
	assert_true(shared > 300 * RANDOM_PAGES / 10); /* and not only what differs */
}

static void test_sizes_differ(void **state)
{
	struct image *a, *b;
	uint64_t n;

	assert_int_equal(image_open_zero(5, &a), 0);
	assert_int_equal(image_open_zero(6, &b), 0);
	assert_int_equal(image_diff_bitmap(a, b, NULL, &n, &n, &n), -EINVAL);
	assert_int_equal(image_diff_bitmap(a, a, NULL, &n, &n, &n), 0);
	image_unref(a);
	image_unref(b);
}

/* ---- the rest of the store --------------------------------------------------------------------
 */

static void test_clone(void **state)
{
	struct store_fixture *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct stat from, to;
	int fd;

	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	fd = open_dir(s, 'a');
	assert_int_equal(fstatat(fd, "base", &from, 0), 0);
	for (int i = 0; i < 2; i++) {
		char letter = (char)('b' + i);
		_cleanup_fd_ int clone = -1;

		assert_int_equal(snapshot_clone(s->store->root_fd, s->store->root, fd, NULL,
						path_of(letter), i ? id_of(letter) : NULL,
						&problem),
				 0);
		expect_base(s, letter, 't', 10);
		clone = open_dir(s, letter);
		assert_int_equal(fstatat(clone, "base", &to, 0), 0);
		assert_int_equal(from.st_ino, to.st_ino);
		assert_int_equal(to.st_mode & 0777, 0444);
	}
	close(fd);
}

static void compact(struct store_fixture *s, char letter)
{
	struct compact_options options = {.policy = COMPACT_POLICY_DEFAULT, .force = true};
	_cleanup_fd_ int fd = open_dir(s, letter);
	struct problem problem = PROBLEM_INIT;
	struct compact_stats stats;

	if (snapshot_compact(s->store->root_fd, s->store->root, fd, path_of(letter), true, NULL,
			     &options, &problem, &stats))
		fail_msg("%s", problem.message);
}

static void test_compaction(void **state)
{
	struct store_fixture *s = *state;
	struct manifest m;
	struct problem problem = PROBLEM_INIT;
	int fd;

	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	take(s, 'b', (struct taking){.parent = 'a', .own_memory = true, .first = 10, .n = 10});
	delete (s, 'a');
	compact(s, 'b'); /* its own two layers become one; the template's is linked there */
	expect_base(s, 'b', 't', 20);
	delete (s, 't');
	compact(s, 'b'); /* nobody else has any of it: all becomes one, and the base goes */
	expect_base(s, 'b', 0, 0);
	fd = open_dir(s, 'b');
	assert_int_equal(snapshot_open(fd, NULL, &problem, &m), 0);
	assert_string_equal(m.base_image_id, "");
	manifest_deinit(&m);
	close(fd);
}

struct told {
	unsigned n;
	struct finding last;
	char path[128], why[512], done[128];
};

static void found(void *userdata, const struct finding *f)
{
	struct told *t = userdata;

	t->n++;
	t->last = *f;
	str_copy(t->path, sizeof(t->path), f->path);
	str_copy(t->why, sizeof(t->why), f->why);
	str_copy(t->done, sizeof(t->done), f->done ? f->done : "");
}

static struct told check(struct store_fixture *s, bool repair)
{
	struct told t = {0};
	struct check_options options = {.found = found, .userdata = &t};
	struct problem problem = PROBLEM_INIT;
	struct check_stats stats;

	assert_int_equal(repair ? store_repair(s->store, NULL, &options, &problem, &stats)
				: store_check(s->store, &options, &problem, &stats),
			 0);
	assert_int_equal(stats.n_lost, 0);
	return t;
}

static void test_check_and_repair(void **state)
{
	struct store_fixture *s = *state;
	struct told t;

	take(s, 't', (struct taking){.n = PAGES});
	take(s, 'a', (struct taking){.parent = 't', .n = 10});
	t = check(s, false);
	assert_int_equal(t.n, 0);
	store_fixture_write(s, store_fixture_path("%s/base", path_of('a')), "x");
	t = check(s, false);
	assert_int_equal(t.n, 1);
	assert_int_equal(t.last.kind, FINDING_DAMAGED);
	assert_string_equal(t.path, store_fixture_path("%s/base", path_of('a')));
	assert_non_null(strstr(t.why, "share less of it with others"));
	t = check(s, true);
	assert_int_equal(t.n, 1);
	assert_string_equal(t.done, "removed");
	t = check(s, false); /* that the manifest still names one is no damage */
	assert_int_equal(t.n, 0);
	expect_base(s, 'a', 0, 0);
	/* what cannot be removed like a file is kept, and still nothing is lost with it */
	assert_int_equal(
		mkdirat(s->store->root_fd, store_fixture_path("%s/base", path_of('a')), 0755), 0);
	t = check(s, true);
	assert_int_equal(t.n, 1);
	assert_non_null(strstr(t.done, "kept"));
	assert_int_equal(unlinkat(s->store->root_fd, store_fixture_path("%s/base", path_of('a')),
				  AT_REMOVEDIR),
			 0);
	/* one that no manifest names is nobody's */
	store_fixture_write(s, store_fixture_path("%s/base", path_of('t')), "x");
	t = check(s, false);
	assert_int_equal(t.n, 1);
	assert_int_equal(t.last.kind, FINDING_STRAY);
}

#define BASE_TEST(_f)                                                                              \
	cmocka_unit_test_setup_teardown(_f, store_fixture_setup, store_fixture_teardown)
TEST_MAIN(BASE_TEST(test_rule), BASE_TEST(test_nothing_stored), BASE_TEST(test_passed_over),
	  BASE_TEST(test_template_deleted), BASE_TEST(test_missing_layer), BASE_TEST(test_unusable),
	  BASE_TEST(test_other_guest), BASE_TEST(test_impossible), BASE_TEST(test_other_directory),
	  BASE_TEST(test_sealed), cmocka_unit_test(test_random_maps),
	  cmocka_unit_test(test_sizes_differ), BASE_TEST(test_clone), BASE_TEST(test_compaction),
	  BASE_TEST(test_check_and_repair))
