/* SPDX-License-Identifier: Apache-2.0 */
/* test-seal.c - sealed snapshots: what is refused, and with which words */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/keyring.h"
#include "image/le.h"
#include "image/rewrap.h"
#include "image/seal.h"
#include "image/snapshot.h"
#include "image/store.h"
#include "sys/memfd.h"

#define N_PAGES	     64u
#define BYTES	     ((size_t)N_PAGES * DORM_PAGE_SIZE)
#define DEVICE_STATE "device state of a virtual machine"

struct place {
	struct fixture *f;
	struct store *store;
	uint8_t *memory, *out;
	struct keyring *a, *b, *b_then_a; /* rings of the keys A and B */
};

/* ---- making them ------------------------------------------------------------------------------
 */

static void add_key(struct keyring *k, char digit)
{
	struct problem problem = PROBLEM_INIT;
	char text[65] = "";

	memset(text, digit, 64);
	assert_int_equal(setenv("DORM_TEST_KEY", text, 1), 0);
	assert_int_equal(keyring_add(k, "env:DORM_TEST_KEY", &problem), 0);
}

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	struct problem problem = PROBLEM_INIT;
	static const unsigned kinds[] = {2, 1, 2, 0}; /* a frame of noise, text, noise, zeros */
	uint64_t seed = 7;
	void *fixture;

	assert_non_null(p);
	(void)fixture_setup(&fixture);
	p->f = fixture;
	p->memory = calloc(1, BYTES);
	p->out = calloc(1, BYTES);
	assert_true(p->memory && p->out);
	for (unsigned i = 0; i < N_PAGES; i++)
		fixture_page(p->memory + i * DORM_PAGE_SIZE, kinds[i / 16], &seed);
	assert_int_equal(store_open(p->f->path, &problem, &p->store), 0);
	assert_int_equal(keyring_new(&p->a), 0);
	assert_int_equal(keyring_new(&p->b), 0);
	assert_int_equal(keyring_new(&p->b_then_a), 0);
	add_key(p->a, 'a');
	add_key(p->b, 'b');
	add_key(p->b_then_a, 'b');
	add_key(p->b_then_a, 'a');
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	void *fixture = p->f;

	store_close(p->store);
	keyring_free(p->a);
	keyring_free(p->b);
	keyring_free(p->b_then_a);
	free(p->memory);
	free(p->out);
	free(p);
	return fixture_teardown(&fixture);
}

static void put_file(int dirfd, const char *name, const char *text)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static void write_image(struct place *p, int dirfd, struct image *parent, int parent_dirfd,
			const struct keyring *keys, struct manifest *m)
{
	struct image_writer_options options = {.codec = IMAGE_CODEC_ZSTD, .keys = keys};
	struct problem problem = PROBLEM_INIT;
	struct image_writer *w;

	assert_int_equal(image_writer_new(dirfd, parent, parent_dirfd, &options, &problem, &w), 0);
	assert_int_equal(image_writer_add(w, 0, N_PAGES, p->memory, &problem), 0);
	assert_int_equal(image_writer_commit(w, &m->stats, m->image_id, &problem), 0);
	image_writer_free(w);
}

/* A committed snapshot of the memory as it is. Return: its directory */
static int make_from(struct place *p, struct image *parent, int parent_dirfd,
		     const struct keyring *keys, char *ret_path)
{
	struct manifest m = {.memory_bytes = BYTES, .cpus = 1, .vmm = "qemu"};
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	int fd;

	id_new('s', m.id);
	(void)snprintf(ret_path, 64, "snapshots/%s", m.id);
	assert_int_equal(snapshot_begin(p->store->root_fd, p->store->root, &problem, &tmp), 0);
	write_image(p, tmp.dirfd, parent, parent_dirfd, keys, &m);
	put_file(tmp.dirfd, "device", DEVICE_STATE);
	assert_int_equal(snapshot_commit(&tmp, p->store->root_fd, ret_path, &m, keys, &problem), 0);
	snapshot_abort(&tmp, p->store->root_fd);
	fd = file_open_dir(p->store->root_fd, ret_path);
	assert_true(fd >= 0);
	return fd;
}

static int make(struct place *p, const struct keyring *keys)
{
	struct image *zero;
	char path[64];
	int fd;

	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	fd = make_from(p, zero, -1, keys, path);
	image_unref(zero);
	return fd;
}

/* ---- looking at them --------------------------------------------------------------------------
 */

static int read_device(int dirfd, const struct manifest *m, const struct keyring *keys,
		       struct problem *problem)
{
	char text[sizeof(DEVICE_STATE)] = "";
	int fd = -1, r = snapshot_open_device(dirfd, m, keys, problem, &fd);

	if (r)
		return r;
	assert_int_equal(read(fd, text, sizeof(text)), sizeof(text) - 1);
	assert_string_equal(text, DEVICE_STATE);
	close(fd);
	return 0;
}

/* Everything that a wake reads. Return: the first outcome; what is read is right, always */
static int use(struct place *p, int dirfd, const struct keyring *keys, struct problem *problem)
{
	_cleanup_(manifest_deinit) struct manifest m = {0};
	_cleanup_(image_unrefp) struct image *image = NULL;
	int r = snapshot_open(dirfd, keys, problem, &m);

	if (r == 0)
		r = image_open(dirfd, keys, problem, &image);
	if (r == 0)
		r = fixture_read_all(image, p->out, problem);
	if (r == 0)
		assert_memory_equal(p->out, p->memory, BYTES);
	if (r == 0)
		r = read_device(dirfd, &m, keys, problem);
	assert_true((r == 0) == !problem_is_set(problem));
	return r;
}

static void expect(struct place *p, int dirfd, const struct keyring *keys, int outcome,
		   const char *text)
{
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(use(p, dirfd, keys, &problem), outcome);
	if (text && !strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

static void expect_image(int dirfd, const struct keyring *keys, int outcome, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	struct image *image = NULL;

	assert_int_equal(image_open(dirfd, keys, &problem, &image), outcome);
	assert_null(image);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

/* "layers/<id>" of layer @i */
static void layer_path(int dirfd, uint32_t i, char ret[80])
{
	struct image *image;

	assert_int_equal(image_open_for_check(dirfd, NULL, &image), 0);
	(void)snprintf(ret, 80, "layers/%s", image_layer_id(image, i));
	image_unref(image);
}

static void replace(int dirfd, const char *name, const void *data, size_t len)
{
	assert_int_equal(file_write_atomic(dirfd, name, data, len, 0444), 0);
}

static void copy(int from, int to, const char *name)
{
	_cleanup_free_ char *data = NULL;
	size_t len;

	assert_int_equal(file_read(from, name, 1u << 24, &data, &len), 0);
	replace(to, name, data, len);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void test_round_trip(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *data = NULL;
	struct problem problem = PROBLEM_INIT;
	struct manifest m;
	char layer[80];
	struct stat st;
	size_t len;
	int fd = make(p, p->a);

	expect(p, fd, p->a, 0, NULL);
	expect(p, fd, p->b_then_a, 0, NULL); /* any key of the ring opens */
	assert_int_equal(snapshot_open(fd, p->a, &problem, &m), 0);
	assert_string_equal(m.seal, "aes-256-gcm");
	manifest_deinit(&m);
	assert_int_equal(snapshot_verify(fd, p->a, NULL, NULL, &problem), 0);
	assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, &problem), 0); /* checksums */
	assert_int_equal(fstatat(fd, "seal", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	/* nothing of the plain text is there */
	assert_int_equal(file_read(fd, "device", 1u << 20, &data, &len), 0);
	assert_null(memmem(data, len, "device state", 12));
	free(take_ptr(data));
	layer_path(fd, 0, layer);
	assert_int_equal(file_read(fd, layer, 1u << 24, &data, &len), 0);
	assert_null(memmem(data, len, p->memory + 40 * DORM_PAGE_SIZE, 32)); /* a page of noise */
	close(fd);
}

/* What happened to the name "device" since the watch began. */
static void watched(int inotify, unsigned *ret_created, unsigned *ret_renamed)
{
	_Alignas(struct inotify_event) char buf[8192];
	ssize_t n = read(inotify, buf, sizeof(buf));

	*ret_created = *ret_renamed = 0;
	for (ssize_t at = 0; at < n;) {
		const struct inotify_event *e = (const void *)(buf + at);

		if (e->len && !strcmp(e->name, "device")) {
			*ret_created += !!(e->mask & IN_CREATE);
			*ret_renamed += !!(e->mask & IN_MOVED_TO);
		}
		at += (ssize_t)(sizeof(*e) + e->len);
	}
}

/* Commit a snapshot, its device state in memory or in a file. Return: as snapshot_commit() */
static int commit_watched(struct place *p, const struct keyring *keys, bool in_memory,
			  unsigned *ret_created, unsigned *ret_renamed, char *ret_path)
{
	_cleanup_fd_ int inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	struct manifest m = {.memory_bytes = BYTES, .cpus = 1, .vmm = "qemu"};
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	struct image *zero;
	int r;

	id_new('s', m.id);
	(void)snprintf(ret_path, 64, "snapshots/%s", m.id);
	assert_int_equal(snapshot_begin(p->store->root_fd, p->store->root, &problem, &tmp), 0);
	assert_true(inotify_add_watch(inotify, tmp.path, IN_CREATE | IN_MOVED_TO) >= 0);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	write_image(p, tmp.dirfd, zero, -1, keys, &m);
	image_unref(zero);
	if (in_memory)
		tmp.device_fd = memfd_from_bytes("device", DEVICE_STATE, strlen(DEVICE_STATE));
	else
		put_file(tmp.dirfd, "device", DEVICE_STATE);
	r = snapshot_commit(&tmp, p->store->root_fd, ret_path, &m, keys, &problem);
	snapshot_abort(&tmp, p->store->root_fd);
	watched(inotify, ret_created, ret_renamed);
	return r;
}

static void test_device_in_memory(void **state)
{
	struct place *p = *state;
	unsigned created, renamed;
	char path[64];
	int fd;

	assert_int_equal(commit_watched(p, p->a, true, &created, &renamed, path), 0);
	assert_int_equal(created, 0); /* the only file of that name was complete: encrypted */
	assert_int_equal(renamed, 1);
	fd = file_open_dir(p->store->root_fd, path);
	expect(p, fd, p->a, 0, NULL);
	close(fd);
	assert_int_equal(commit_watched(p, p->a, false, &created, &renamed, path), 0);
	assert_int_equal(created, 1);
	assert_int_equal(renamed, 1);
	/* it would have to be written in the clear */
	assert_int_equal(commit_watched(p, NULL, true, &created, &renamed, path), -EINVAL);
	assert_int_equal(created + renamed, 0);
	assert_int_equal(file_open_dir(p->store->root_fd, path), -ENOENT);
}

static void test_wrong_key(void **state)
{
	struct place *p = *state;
	struct problem problem = PROBLEM_INIT;
	int fd = make(p, p->a), plain = make(p, NULL);
	struct manifest m;

	expect(p, fd, p->b, IMAGE_E_KEY, keyring_id(p->a, 0));
	expect(p, fd, p->b, IMAGE_E_KEY, keyring_id(p->b, 0));
	expect_image(fd, p->b, IMAGE_E_KEY, keyring_id(p->a, 0));
	expect_image(fd, p->b, IMAGE_E_KEY, keyring_id(p->b, 0));
	expect(p, fd, NULL, IMAGE_E_KEY, "but no key was given");
	expect_image(fd, NULL, IMAGE_E_KEY, "but no key was given");
	assert_int_equal(snapshot_verify(fd, p->b, NULL, NULL, NULL), IMAGE_E_KEY);
	assert_int_equal(snapshot_open(fd, p->a, NULL, &m), 0);
	assert_int_equal(read_device(fd, &m, p->b, &problem), IMAGE_E_KEY);
	assert_int_equal(read_device(fd, &m, NULL, &problem), IMAGE_E_KEY);
	/* not sealed, with a key */
	expect(p, plain, NULL, 0, NULL);
	expect(p, plain, p->a, IMAGE_E_KEY, "not sealed, but a key was given");
	expect_image(plain, p->a, IMAGE_E_KEY, "not sealed, but a key was given");
	assert_int_equal(snapshot_verify(plain, p->a, NULL, NULL, NULL), IMAGE_E_KEY);
	close(fd);
	close(plain);
}

/* Open for checking: no page comes out of it. */
static void test_for_check(void **state)
{
	struct place *p = *state;
	uint8_t *scratch = aligned_alloc(4096, 3 * IMAGE_FRAME_BYTES + 4096);
	struct problem problem = PROBLEM_INIT;
	int fd = make(p, p->a);
	struct image *image;
	uint32_t n;

	assert_non_null(scratch);
	assert_int_equal(image_open_for_check(fd, &problem, &image), 0);
	assert_true(image_is_sealed(image));
	for (uint32_t i = 0; i < image_layer_frames(image, 0); i++) {
		assert_int_equal(image_check_frame(image, 0, i, scratch, &problem), 0);
		problem = PROBLEM_INIT;
		assert_int_equal(image_read_frame(image, 0, i, scratch + IMAGE_FRAME_BYTES, scratch,
						  &n, &problem),
				 IMAGE_E_KEY);
		assert_non_null(strstr(problem.message, "no key was given"));
		problem = PROBLEM_INIT;
	}
	image_unref(image);
	free(scratch);
	close(fd);
}

static void test_stripped(void **state)
{
	struct place *p = *state;
	int fd = make(p, p->a), plain = make(p, NULL);
	char layer[80], plain_layer[80];
	struct image *image = NULL;

	/* the seal is taken away */
	assert_int_equal(renameat(fd, "seal", fd, "saved"), 0);
	expect(p, fd, p->a, IMAGE_E_KEY, "not sealed, but a key was given");
	expect_image(fd, p->a, IMAGE_E_KEY, "not sealed, but a key was given");
	expect(p, fd, NULL, IMAGE_E_KEY, "its file \"seal\" is missing");
	expect_image(fd, NULL, IMAGE_E_KEY, "file \"seal\" is missing");
	assert_int_equal(image_open_for_check(fd, NULL, &image), IMAGE_E_CORRUPT);
	/* everything is replaced by what is not sealed: manifest, map, layers, device */
	layer_path(plain, 0, plain_layer);
	copy(plain, fd, plain_layer);
	copy(plain, fd, "map");
	copy(plain, fd, "manifest.json");
	copy(plain, fd, "device");
	expect(p, fd, NULL, 0, NULL); /* perfect, but for whoever has the key */
	expect(p, fd, p->a, IMAGE_E_KEY, "not sealed, but a key was given");
	assert_int_equal(renameat(fd, "saved", fd, "seal"), 0);
	expect(p, fd, p->a, IMAGE_E_CORRUPT, "manifest.json: not the one that key");
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "map or seal is not what key");
	expect(p, fd, NULL, IMAGE_E_KEY, "but no key was given");
	close(fd);
	/* one layer is replaced by one that is not sealed, under the same name */
	fd = make(p, p->a);
	layer_path(fd, 0, layer);
	assert_int_equal(unlinkat(fd, layer, 0), 0);
	assert_int_equal(linkat(plain, plain_layer, fd, layer, 0), 0);
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "says that this is layer");
	close(fd);
	close(plain);
}

/* Make checksums of a layer and of the map that names it fit again, as whoever can write could. */
static void refit_layer(uint8_t *file, size_t len, uint32_t entry_bytes)
{
	uint8_t *footer = file + len - LAYER_FOOTER_BYTES;
	uint32_t n = le_get32(footer + 12);
	XXH128_canonical_t digest;

	le_put64(file + 56, XXH3_64bits(file, 56));
	XXH128_canonicalFromHash(
		&digest, XXH3_128bits(footer - (size_t)n * entry_bytes, (size_t)n * entry_bytes));
	memcpy(footer + 48, digest.digest, DIGEST_BYTES);
	le_put64(footer + 72, XXH3_64bits(footer, 72));
}

static void refit_map(int dirfd, const uint8_t *id, const uint8_t *layer_file, size_t layer_len)
{
	_cleanup_free_ char *map = NULL;
	XXH128_canonical_t sum;
	size_t len;

	assert_int_equal(file_read(dirfd, "map", 1u << 20, &map, &len), 0);
	memcpy(map + 40, id, LAYER_ID_BYTES);
	memcpy(map + 56, layer_file + layer_len - LAYER_FOOTER_BYTES + 48, DIGEST_BYTES);
	XXH128_canonicalFromHash(&sum, XXH3_128bits(map, len - DIGEST_BYTES));
	memcpy(map + len - DIGEST_BYTES, sum.digest, DIGEST_BYTES);
	replace(dirfd, "map", map, len);
}

/* The header says "not sealed", the index has entries without seals, all checksums fit. */
static void test_stripped_header(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *data = NULL;
	uint8_t *file, *footer, *index;
	int fd = make(p, p->a);
	char layer[80];
	uint32_t n;
	size_t len;

	layer_path(fd, 0, layer);
	assert_int_equal(file_read(fd, layer, 1u << 24, &data, &len), 0);
	file = (uint8_t *)data;
	footer = file + len - LAYER_FOOTER_BYTES;
	n = le_get32(footer + 12);
	index = footer - (size_t)n * 40;
	file[32] = 0;
	for (uint32_t i = 0; i < n; i++)
		memmove(index + i * 24, index + i * 40, 24);
	memmove(index + n * 24, footer, LAYER_FOOTER_BYTES);
	len -= (size_t)n * 16;
	le_put64(file + len - LAYER_FOOTER_BYTES + 40, n * 24);
	refit_layer(file, len, 24);
	replace(fd, layer, file, len);
	expect_image(fd, p->a, IMAGE_E_KEY, "not sealed although the snapshot is");
	refit_map(fd, file + 16, file, len);
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "map or seal is not what key");
	close(fd);
}

/* A layer of the same tenant's other snapshot takes the place of this one's. */
static void test_foreign_layer(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *data = NULL;
	int fd = make(p, p->a), other;
	size_t len;
	uint8_t id[LAYER_ID_BYTES];
	char layer[80];

	memset(p->memory + 20 * DORM_PAGE_SIZE, 0, DORM_PAGE_SIZE); /* so that the maps differ */
	other = make(p, p->a);
	layer_path(other, 0, layer);
	assert_int_equal(file_read(other, layer, 1u << 24, &data, &len), 0);
	replace(fd, layer, data, len);
	assert_int_equal(str_unhex(layer + 7, id, sizeof(id)), 0);
	refit_map(fd, id, (uint8_t *)data, len);
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "map or seal is not what key");
	/* with the other's seal as well */
	copy(other, fd, "seal");
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "map or seal is not what key");
	/* with its map as well: it is the other memory then, but not under this manifest */
	copy(other, fd, "map");
	expect(p, fd, p->a, IMAGE_E_CORRUPT, "manifest.json: not the one that key");
	close(fd);
	close(other);
}

/* Frames 0 and 2 change places, bytes and index entries, and every checksum is made to fit. */
static void swap_frames(uint8_t *file, size_t len)
{
	uint32_t n = le_get32(file + len - LAYER_FOOTER_BYTES + 12);
	uint8_t *index = file + len - LAYER_FOOTER_BYTES - (size_t)n * 40, *entry = index + 2 * 40;
	uint8_t saved[16], frame[IMAGE_FRAME_BYTES];

	assert_int_equal(n, 3);
	assert_true(index[12] == 0 && entry[12] == 0); /* noise is stored plain */
	memcpy(frame, file + le_get64(index), sizeof(frame));
	memcpy(file + le_get64(index), file + le_get64(entry), sizeof(frame));
	memcpy(file + le_get64(entry), frame, sizeof(frame));
	memcpy(saved, index + 24, 16);
	memcpy(index + 24, entry + 24, 16);
	memcpy(entry + 24, saved, 16);
	for (uint32_t i = 0; i < n; i++)
		le_put64(index + i * 40 + 16,
			 layer_tag(file + 16, i, file + le_get64(index + i * 40),
				   le_get32(index + i * 40 + 8)));
	refit_layer(file, len, 40);
}

/* Were there no map above the layer: the frames by themselves, with the right key. */
static void expect_frame_refused(int dirfd, const uint8_t *id, const uint8_t *key)
{
	uint8_t *scratch = aligned_alloc(4096, 4 * IMAGE_FRAME_BYTES);
	_cleanup_fd_ int layers = file_open_dir(dirfd, "layers");
	struct problem problem = PROBLEM_INIT;
	struct layer *l;
	uint32_t n;

	assert_non_null(scratch);
	assert_int_equal(layer_open(layers, id, key, &problem, &l), 0);
	for (uint32_t i = 0; i < 3; i++) {
		int r;

		assert_int_equal(layer_check_frame(l, i, scratch, &problem), 0);
		r = layer_read_frame(l, i, scratch + IMAGE_FRAME_BYTES, scratch, &n, &problem);
		assert_int_equal(r, i == 1 ? 0 : IMAGE_E_CORRUPT);
		if (r)
			assert_non_null(strstr(problem.message, "its seal does not hold"));
		problem = PROBLEM_INIT;
	}
	layer_close(l);
	free(scratch);
}

static void test_swapped_frames(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *data = NULL;
	int fd = make(p, p->a);
	struct image *image;
	char layer[80];
	size_t len;

	assert_int_equal(image_open(fd, p->a, NULL, &image), 0);
	layer_path(fd, 0, layer);
	assert_int_equal(file_read(fd, layer, 1u << 24, &data, &len), 0);
	swap_frames((uint8_t *)data, len);
	replace(fd, layer, data, len);
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "not the one that the map means");
	expect_frame_refused(fd, (uint8_t *)data + 16, image->keys[0]);
	refit_map(fd, (uint8_t *)data + 16, (uint8_t *)data, len);
	expect_image(fd, p->a, IMAGE_E_CORRUPT, "map or seal is not what key");
	image_unref(image);
	close(fd);
}

static void test_older_manifest(void **state)
{
	struct place *p = *state;
	struct problem problem = PROBLEM_INIT;
	int fd = make(p, p->a), clone;
	char id[ID_LEN + 1], path[64];

	id_new('s', id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	assert_int_equal(
		snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, path, id, &problem),
		-ENOKEY);
	assert_non_null(strstr(problem.message, "but no key was given"));
	assert_int_equal(
		snapshot_clone(p->store->root_fd, p->store->root, fd, p->b, path, id, NULL),
		-ENOKEY);
	assert_int_equal(
		snapshot_clone(p->store->root_fd, p->store->root, fd, p->a, path, id, NULL), 0);
	clone = file_open_dir(p->store->root_fd, path);
	expect(p, clone, p->a, 0, NULL);
	expect(p, fd, p->a, 0, NULL);
	/* the manifest it was made from, genuine in its time, comes back */
	copy(fd, clone, "manifest.json");
	expect(p, clone, p->a, IMAGE_E_CORRUPT, "an older one was put in its place");
	close(clone);
	/* the same id: one more link, which needs no key */
	assert_int_equal(snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, "sandboxes/x",
					NULL, NULL),
			 0);
	clone = file_open_dir(p->store->root_fd, "sandboxes/x");
	expect(p, clone, p->a, 0, NULL);
	close(clone);
	close(fd);
}

static void test_rotation(void **state)
{
	struct place *p = *state;
	_cleanup_free_ char *old = NULL;
	struct problem problem = PROBLEM_INIT;
	int fd = make(p, p->a), plain = make(p, NULL), clone;
	struct stat before, after, st;
	char layer[80];
	size_t len;

	layer_path(fd, 0, layer);
	assert_int_equal(fstatat(fd, layer, &before, 0), 0);
	assert_int_equal(file_read(fd, "seal", 1u << 20, &old, &len), 0);
	assert_int_equal(snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, "sandboxes/x",
					NULL, NULL),
			 0);
	assert_int_equal(snapshot_rewrap(p->store->root_fd, fd, p->a, &problem), REWRAP_E_CURRENT);
	assert_int_equal(snapshot_rewrap(p->store->root_fd, plain, p->a, &problem),
			 REWRAP_E_CURRENT);
	assert_int_equal(snapshot_rewrap(p->store->root_fd, fd, p->b, &problem), IMAGE_E_KEY);
	assert_non_null(strstr(problem.message, keyring_id(p->a, 0)));
	problem = PROBLEM_INIT;
	assert_int_equal(snapshot_rewrap(p->store->root_fd, fd, p->b_then_a, &problem), 0);
	assert_int_equal(snapshot_rewrap(p->store->root_fd, fd, p->b_then_a, &problem),
			 REWRAP_E_CURRENT);
	expect(p, fd, p->b, 0, NULL); /* the old key may go */
	expect(p, fd, p->a, IMAGE_E_KEY, keyring_id(p->b, 0));
	assert_int_equal(snapshot_verify(fd, p->b, NULL, NULL, &problem), 0);
	assert_int_equal(fstatat(fd, "seal", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_int_equal(fstatat(fd, layer, &after, 0), 0);
	assert_int_equal(after.st_ino, before.st_ino);
	assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
	/* what shared the old file keeps it */
	clone = file_open_dir(p->store->root_fd, "sandboxes/x");
	expect(p, clone, p->a, 0, NULL);
	assert_int_equal(snapshot_rewrap(p->store->root_fd, clone, p->b_then_a, &problem), 0);
	expect(p, clone, p->b, 0, NULL);
	/* the old one is played back when its key is gone */
	replace(fd, "seal", old, len);
	expect(p, fd, p->b, IMAGE_E_KEY, keyring_id(p->a, 0));
	/* an altered snapshot is not sealed anew */
	fixture_flip(fd, "manifest.json", 30, 1);
	assert_int_equal(snapshot_rewrap(p->store->root_fd, fd, p->b_then_a, &problem),
			 IMAGE_E_CORRUPT);
	close(clone);
	close(plain);
	close(fd);
}

static void expect_refused_parent(struct image *parent, int parent_dirfd, int dirfd,
				  const struct keyring *keys, const char *text)
{
	struct image_writer_options options = {.codec = IMAGE_CODEC_ZSTD, .keys = keys};
	struct problem problem = PROBLEM_INIT;
	struct image_writer *w = NULL;

	assert_int_equal(image_writer_new(dirfd, parent, parent_dirfd, &options, &problem, &w),
			 -EINVAL);
	assert_null(w);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

static void test_children(void **state)
{
	struct place *p = *state;
	int fd = make(p, p->a), plain = make(p, NULL), child, dirfd = fixture_dir(p->f, "child");
	struct image *image, *plain_image, *checked;
	uint64_t seed = 99;
	char path[64];

	assert_int_equal(image_open(fd, p->a, NULL, &image), 0);
	assert_int_equal(image_open(plain, NULL, NULL, &plain_image), 0);
	assert_int_equal(image_open_for_check(fd, NULL, &checked), 0);
	expect_refused_parent(image, fd, dirfd, NULL, "the parent is sealed");
	expect_refused_parent(plain_image, plain, dirfd, p->a, "the parent is not sealed");
	expect_refused_parent(checked, fd, dirfd, p->a, "open for checking only");
	fixture_page(p->memory + 3 * DORM_PAGE_SIZE, 2, &seed);
	child = make_from(p, image, fd, p->b,
			  path); /* another key: both layers are wrapped by it */
	expect(p, child, p->b, 0, NULL);
	expect(p, child, p->a, IMAGE_E_KEY, keyring_id(p->b, 0));
	image_unref(checked);
	image_unref(plain_image);
	image_unref(image);
	close(child);
	close(dirfd);
	close(plain);
	close(fd);
}

/* The text with @from replaced by @to: refused, with the field's name. */
static void expect_text_refused(const char *text, const char *from, const char *to, int outcome,
				const char *want)
{
	const char *at = strstr(text, from);
	_cleanup_free_ char *changed = NULL;
	struct problem problem = PROBLEM_INIT;
	struct seal s = {0};

	assert_non_null(at);
	changed = str_printf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	assert_non_null(changed);
	assert_int_equal(seal_decode(changed, strlen(changed), &problem, &s), outcome);
	assert_null(s.layers);
	if (!strstr(problem.message, want))
		fail_msg("\"%s\" is not in \"%s\"", want, problem.message);
}

static void test_text(void **state)
{
	struct seal_layer layers[2] = {{.id = {1}}, {.id = {2}}};
	struct seal s = {.key_id = "0123456789abcdef", .n_layers = 2, .layers = layers}, again;
	struct layer_name names[2] = {{.id = {1}}, {.id = {2}}};
	_cleanup_free_ char *text = NULL;
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(seal_encode(&s, &text), 0);
	assert_int_equal(seal_decode(text, strlen(text), &problem, &again), 0);
	assert_int_equal(seal_match(&again, names, 2, &problem), 0);
	assert_int_equal(seal_match(&again, names, 1, &problem), IMAGE_E_CORRUPT);
	problem = PROBLEM_INIT;
	names[1].id[0] = 1; /* one twice, one not at all */
	assert_int_equal(seal_match(&again, names, 2, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "layer 1 is not the one that the map has there"));
	seal_deinit(&again);
#define REFUSED(_from, _to, _want) expect_text_refused(text, _from, _to, IMAGE_E_CORRUPT, _want)
	expect_text_refused(text, "\"major\": 2", "\"major\": 3", IMAGE_E_VERSION, "newer");
	REFUSED("\"major\": 2", "\"major\": -1", "version");
	REFUSED("dormouse-seal", "dormouse-snapshot", "\"format\"");
	REFUSED("aes-256-gcm", "rot13", "\"cipher\"");
	REFUSED("0123456789abcdef", "0123456789ABCDEF", "\"key_id\"");
	REFUSED("0123456789abcdef", "0123456789abcde", "\"key_id\": 15 characters");
	REFUSED("\"salt\": \"AAAA", "\"salt\": \"AAA", "\"salt\": 43 characters");
	REFUSED("\"salt\": \"AAAA", "\"salt\": \"AA*A", "\"salt\": not base64");
	REFUSED("AAA=\",\n  \"layers\"", "AAB=\",\n  \"layers\"", "not the canonical base64");
	REFUSED("\"device\"", "\"engine\"", "\"device\": missing");
	REFUSED("\"map_mac\": \"", "\"map_mac\": 7, \"x\": \"", "\"map_mac\": not a text");
	REFUSED("\"manifest_mac\": null", "\"manifest_mac\": true", "\"manifest_mac\"");
	REFUSED("\"layers\": [", "\"layers\": [7,", "\"id\": missing");
	REFUSED("\"layers\"", "\"layer\"", "\"layers\": missing");
	REFUSED("{", "[", "seal: offset");
#undef REFUSED
}

/* One bit anywhere: refused, or nothing is different. */
static void flip_everything(struct place *p, int dirfd, const char *name, bool strict)
{
	unsigned found = 0, harmless = 0;
	struct stat st;

	assert_int_equal(fstatat(dirfd, name, &st, 0), 0);
	for (off_t i = 0; i < st.st_size; i += i < 200 || i > st.st_size - 300 ? 1 : 4093) {
		struct problem problem = PROBLEM_INIT;
		int r;

		fixture_flip(dirfd, name, (uint64_t)i, (uint8_t)(1u << i % 8));
		r = use(p, dirfd, p->a, &problem); /* compares what it can read */
		fixture_flip(dirfd, name, (uint64_t)i, (uint8_t)(1u << i % 8));
		assert_true(r >= 0);
		found += r > 0;
		harmless += r == 0;
	}
	assert_true(found > 0);
	if (strict)
		assert_int_equal(harmless, 0);
}

static void test_every_file(void **state)
{
	struct place *p = *state;
	int fd = make(p, p->a);
	char layer[80];

	layer_path(fd, 0, layer);
	flip_everything(p, fd, "map", true);
	flip_everything(p, fd, "manifest.json", true);
	flip_everything(p, fd, "device", true);
	flip_everything(p, fd, "seal", false); /* white space, the minor version */
	flip_everything(p, fd, layer, false);  /* the gap before a plain frame */
	expect(p, fd, p->a, 0, NULL);
	close(fd);
}

#define SEAL_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)
TEST_MAIN(SEAL_TEST(test_round_trip), SEAL_TEST(test_device_in_memory), SEAL_TEST(test_wrong_key),
	  SEAL_TEST(test_for_check), SEAL_TEST(test_stripped), SEAL_TEST(test_stripped_header),
	  SEAL_TEST(test_foreign_layer), SEAL_TEST(test_swapped_frames),
	  SEAL_TEST(test_older_manifest), SEAL_TEST(test_rotation), SEAL_TEST(test_children),
	  cmocka_unit_test(test_text), SEAL_TEST(test_every_file))
