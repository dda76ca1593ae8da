/* SPDX-License-Identifier: Apache-2.0 */
/* test-frame.c - frames for those who read them themselves: extents, decoding, not waiting */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/keyring.h"

#define N_PAGES 256u

/* Text and noise in turns, so that with a codec both kinds of frames are there, and gaps. */
struct place {
	struct fixture *f;
	struct keyring *keys;
	uint8_t *memory;
	uint8_t *stored; /* one byte more than a frame, to be unaligned */
	uint8_t *out;
	uint8_t *scratch;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	struct problem problem = PROBLEM_INIT;
	uint64_t seed = 5;
	void *fixture;

	assert_non_null(p);
	(void)fixture_setup(&fixture);
	p->f = fixture;
	p->memory = malloc(N_PAGES * DORM_PAGE_SIZE);
	p->stored = malloc(IMAGE_FRAME_BYTES + 1);
	p->out = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES);
	p->scratch = malloc(IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	assert_true(p->memory && p->stored && p->out && p->scratch);
	for (uint32_t i = 0; i < N_PAGES; i++)
		fixture_page(p->memory + i * DORM_PAGE_SIZE, i / 16 % 2 + 1, &seed);
	assert_int_equal(setenv("DORM_TEST_KEY",
				"00112233445566778899aabbccddeeff"
				"00112233445566778899aabbccddeeff",
				1),
			 0);
	assert_int_equal(keyring_new(&p->keys), 0);
	assert_int_equal(keyring_add(p->keys, "env:DORM_TEST_KEY", &problem), 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	void *fixture = p->f;

	(void)fixture_teardown(&fixture);
	keyring_free(p->keys);
	free(p->memory);
	free(p->stored);
	free(p->out);
	free(p->scratch);
	free(p);
	return 0;
}

static struct image *make(struct place *p, const char *name, enum image_codec codec, bool sealed,
			  bool for_check)
{
	struct image_writer_options options = {.codec = codec, .keys = sealed ? p->keys : NULL};
	_cleanup_(image_unrefp) struct image *zero = NULL;
	_cleanup_fd_ int dirfd = fixture_dir(p->f, name);
	struct problem problem = PROBLEM_INIT;
	struct image_writer_stats stats;
	struct image *image = NULL;
	char id[IMAGE_ID_LEN + 1];
	struct image_writer *w;

	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	assert_int_equal(image_writer_new(dirfd, zero, -1, &options, &problem, &w), 0);
	assert_int_equal(image_writer_add(w, 0, N_PAGES, p->memory, &problem), 0);
	assert_int_equal(image_writer_commit(w, &stats, id, &problem), 0);
	image_writer_free(w);
	assert_int_equal(for_check ? image_open_for_check(dirfd, &problem, &image)
				   : image_open(dirfd, options.keys, &problem, &image),
			 0);
	return image;
}

static void read_extent(struct place *p, const struct frame_extent *e)
{
	assert_true(e->stored_bytes > 0 && e->stored_bytes <= IMAGE_FRAME_BYTES);
	assert_int_equal(fd_pread_full(e->fd, p->stored + 1, e->stored_bytes, e->offset), 0);
}

static void check_pages(struct place *p, const struct image *image, uint32_t frame,
			const uint8_t *out, uint32_t n_pages)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n = image_frame_pages(image, 0, frame, pages);

	assert_true(n > 0);
	for (uint32_t i = 0; i < n; i++) {
		assert_true(pages[i].index < n_pages);
		assert_memory_equal(out + pages[i].index * DORM_PAGE_SIZE,
				    p->memory + pages[i].gfn * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
	}
}

/* What pread() gets from the extent decodes to what image_read_frame() gives. */
static void check_image(struct place *p, const struct image *image, bool plain_codec, bool sealed)
{
	uint64_t end = 64; /* of the header */
	unsigned n_plain = 0;

	assert_int_equal(image_n_layers(image), 1);
	for (uint32_t frame = 0; frame < image_layer_frames(image, 0); frame++) {
		struct problem problem = PROBLEM_INIT;
		struct frame_extent e;
		uint32_t n_pages = 0;

		image_frame_extent(image, 0, frame, &e);
		assert_true(e.offset >= end && e.offset - end < DORM_PAGE_SIZE);
		end = e.offset + e.stored_bytes;
		n_plain += e.plain;
		if (e.plain)
			assert_int_equal(e.offset % DORM_PAGE_SIZE, 0);
		read_extent(p, &e);
		memset(p->out, 0xee, IMAGE_FRAME_BYTES);
		assert_int_equal(image_decode_frame(image, 0, frame, p->stored + 1, p->out,
						    &n_pages, &problem),
				 0);
		assert_int_equal(n_pages, 16);
		check_pages(p, image, frame, p->out, n_pages);
	}
	assert_true(end <= image_layer_bytes(image, 0));
	assert_int_equal(n_plain, sealed ? 0 : plain_codec ? N_PAGES / 16 : N_PAGES / 32);
}

static void test_decode(void **state)
{
	static const enum image_codec codecs[] = {IMAGE_CODEC_NONE, IMAGE_CODEC_ZSTD,
						  IMAGE_CODEC_LZ4};

	for (unsigned i = 0; i < 6; i++) {
		enum image_codec codec = codecs[i % 3];
		struct image *image;
		char name[8];

		(void)snprintf(name, sizeof(name), "i%u", i);
		image = make(*state, name, codec, i >= 3, false);
		check_image(*state, image, codec == IMAGE_CODEC_NONE, i >= 3);
		image_unref(image);
	}
}

/* A plain frame is verified where it lies. */
static void test_in_place(void **state)
{
	struct place *p = *state;
	struct image *image = make(p, "plain", IMAGE_CODEC_NONE, false, false);
	struct problem problem = PROBLEM_INIT;
	struct frame_extent e;
	uint32_t n_pages = 0;

	image_frame_extent(image, 0, 3, &e);
	assert_true(e.plain);
	read_extent(p, &e);
	assert_int_equal(
		image_decode_frame(image, 0, 3, p->stored + 1, p->stored + 1, &n_pages, &problem),
		0);
	check_pages(p, image, 3, p->stored + 1, n_pages);
	p->stored[9] ^= 1;
	assert_int_equal(
		image_decode_frame(image, 0, 3, p->stored + 1, p->stored + 1, &n_pages, &problem),
		IMAGE_E_CORRUPT);
	for (uint32_t i = 0; i < IMAGE_FRAME_BYTES; i++)
		assert_int_equal(p->stored[1 + i], 0);
	image_unref(image);
}

/* Any flipped bit, and another frame's bytes, are found; nothing of them gets out. */
static void test_decode_refuses(void **state)
{
	struct place *p = *state;

	for (unsigned k = 0; k < 4; k++) {
		char name[8];
		struct image *image;

		(void)snprintf(name, sizeof(name), "r%u", k);
		image = make(p, name, k % 2 ? IMAGE_CODEC_ZSTD : IMAGE_CODEC_NONE, k >= 2, false);
		for (uint32_t frame = 0; frame < 2; frame++) {
			struct problem problem = PROBLEM_INIT;
			struct frame_extent e;
			uint32_t n = 77;

			image_frame_extent(image, 0, frame, &e);
			read_extent(p, &e);
			p->stored[1 + e.stored_bytes / 2] ^= 0x10;
			memset(p->out, 0xee, IMAGE_FRAME_BYTES);
			assert_int_equal(image_decode_frame(image, 0, frame, p->stored + 1, p->out,
							    &n, &problem),
					 IMAGE_E_CORRUPT);
			assert_non_null(strstr(problem.message, ": frame "));
			assert_int_equal(n, 77);
			for (uint32_t i = 0; i < IMAGE_FRAME_BYTES; i++)
				assert_int_equal(p->out[i], 0);
		}
		image_unref(image);
	}
}

static void test_without_key(void **state)
{
	struct place *p = *state;
	struct image *image = make(p, "sealed", IMAGE_CODEC_ZSTD, true, true);
	struct problem problem = PROBLEM_INIT;
	struct frame_extent e;
	uint32_t n;

	image_frame_extent(image, 0, 0, &e);
	assert_false(e.plain);
	read_extent(p, &e);
	assert_int_equal(image_decode_frame(image, 0, 0, p->stored + 1, p->out, &n, &problem),
			 IMAGE_E_KEY);
	problem = PROBLEM_INIT;
	assert_int_equal(image_read_frame_nowait(image, 0, 0, p->scratch, p->out, &n, &problem),
			 IMAGE_E_KEY);
	image_unref(image);
}

/* ---- the second descriptor --------------------------------------------------------------------
 */

struct asker {
	const struct image *image;
	int fd;
};

static void *ask(void *userdata)
{
	struct asker *a = userdata;
	struct frame_extent e;

	image_frame_extent(a->image, 0, 0, &e);
	a->fd = e.direct_fd;
	return NULL;
}

/* Opened once, whoever asks first; the file's name may be gone by then. */
static void test_direct(void **state)
{
	struct place *p = *state;
	struct image *image = make(p, "direct", IMAGE_CODEC_NONE, false, false);
	struct asker askers[8];
	pthread_t threads[8];
	struct frame_extent e;
	char path[96];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "direct/layers/%s", image_layer_id(image, 0));
	assert_int_equal(unlinkat(p->f->dirfd, path, 0), 0);
	for (unsigned i = 0; i < 8; i++) {
		askers[i] = (struct asker){image, -1};
		assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
	}
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 1; i < 8; i++)
		assert_int_equal(askers[i].fd, askers[0].fd);
	image_frame_extent(image, 0, 1, &e);
	assert_int_equal(e.direct_fd, askers[0].fd);
	assert_int_not_equal(e.direct_fd, e.fd);
	if (e.direct_fd >= 0) { /* not every file system has it */
		assert_true(fcntl(e.direct_fd, F_GETFL) & O_DIRECT);
		assert_true(fcntl(e.direct_fd, F_GETFD) & FD_CLOEXEC);
		assert_false(fcntl(e.fd, F_GETFL) & O_DIRECT);
		n = pread(e.direct_fd, p->out, IMAGE_FRAME_BYTES, (off_t)e.offset);
		assert_int_equal(n, IMAGE_FRAME_BYTES);
		check_pages(p, image, 1, p->out, 16);
	}
	n = e.direct_fd;
	image_unref(image);
	if (n >= 0)
		assert_int_equal(fcntl((int)n, F_GETFD), -1);
}

/* ---- not waiting ------------------------------------------------------------------------------
 */

/* Does this file system say what it has in the page cache? */
static bool can_tell(int fd)
{
	char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};

	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) == 1;
}

static void test_nowait(void **state)
{
	struct place *p = *state;
	struct image *image = make(p, "nowait", IMAGE_CODEC_ZSTD, false, false);
	struct problem problem = PROBLEM_INIT;
	struct frame_extent e;
	uint32_t n = 0;

	for (uint32_t frame = 0; frame < image_layer_frames(image, 0); frame++) {
		image_frame_extent(image, 0, frame, &e);
		read_extent(p, &e); /* now it is in the page cache, if anything ever is */
		if (!can_tell(e.fd)) {
			assert_int_equal(image_read_frame_nowait(image, 0, frame, p->scratch,
								 p->out, &n, &problem),
					 -EAGAIN);
			continue;
		}
		assert_int_equal(
			image_read_frame_nowait(image, 0, frame, p->scratch, p->out, &n, &problem),
			0);
		check_pages(p, image, frame, p->out, n);
	}
	/* and not once it has been dropped */
	assert_int_equal(fsync(e.fd), 0);
	assert_int_equal(posix_fadvise(e.fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	image_frame_extent(image, 0, 5, &e);
	if (!can_tell(e.fd)) {
		assert_int_equal(
			image_read_frame_nowait(image, 0, 5, p->scratch, p->out, &n, &problem),
			-EAGAIN);
		assert_false(problem_is_set(&problem));
		assert_int_equal(image_read_frame(image, 0, 5, p->scratch, p->out, &n, &problem),
				 0);
		check_pages(p, image, 5, p->out, n);
	}
	image_unref(image);
}

/* A file that became shorter is for the read that waits to report. */
static void test_nowait_short(void **state)
{
	struct place *p = *state;
	struct image *image = make(p, "short", IMAGE_CODEC_NONE, false, false);
	struct problem problem = PROBLEM_INIT;
	struct frame_extent e;
	char path[32];
	uint32_t n;
	int fd;

	image_frame_extent(image, 0, 2, &e);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", e.fd);
	assert_int_equal(chmod(path, 0600), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)e.offset + 5000), 0);
	memset(p->out, 0, IMAGE_FRAME_BYTES);
	assert_int_equal(image_read_frame_nowait(image, 0, 2, p->scratch, p->out, &n, &problem),
			 -EAGAIN);
	for (uint32_t i = 0; i < IMAGE_FRAME_BYTES; i++)
		assert_int_equal(p->out[i], 0);
	assert_int_equal(image_read_frame(image, 0, 2, p->scratch, p->out, &n, &problem),
			 IMAGE_E_CORRUPT);
	close(fd);
	image_unref(image);
}

#define FRAME_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)
TEST_MAIN(FRAME_TEST(test_decode), FRAME_TEST(test_in_place), FRAME_TEST(test_decode_refuses),
	  FRAME_TEST(test_without_key), FRAME_TEST(test_direct), FRAME_TEST(test_nowait),
	  FRAME_TEST(test_nowait_short))
