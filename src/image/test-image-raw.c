/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/image.h"

#define PAGES 39u /* two full frames and a short one */

static uint8_t frame_mem[IMAGE_FRAME_BYTES] __attribute__((aligned(4096)));
static uint8_t scratch[2 * IMAGE_FRAME_BYTES + 4096] __attribute__((aligned(4096)));

/* Page gfn is full of gfn + 1; every fifth was never written, every seventh is written zeros. */
static uint8_t value_of(uint64_t gfn)
{
	return gfn % 5 == 4 || gfn % 7 == 6 ? 0 : (uint8_t)(gfn + 1);
}

static int make_file(char path[], uint64_t n_pages)
{
	uint8_t page[DORM_PAGE_SIZE];
	int fd;

	strcpy(path, "/tmp/test-raw-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(n_pages * DORM_PAGE_SIZE)), 0);
	for (uint64_t gfn = 0; gfn < n_pages && gfn < 1000; gfn++) {
		if (gfn % 5 == 4)
			continue;
		memset(page, value_of(gfn), sizeof(page));
		assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)(gfn * sizeof(page))),
				 sizeof(page));
	}
	return fd;
}

static void check_page(const uint8_t *page, uint64_t gfn)
{
	for (size_t i = 0; i < DORM_PAGE_SIZE; i++)
		if (page[i] != value_of(gfn))
			fail_msg("page %llu has 0x%02x at %zu", (unsigned long long)gfn, page[i],
				 i);
}

static void test_pages(void **state)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	char path[32];
	_cleanup_fd_ int fd = make_file(path, PAGES);
	uint8_t page[DORM_PAGE_SIZE];
	struct page_run run;
	uint64_t pages, bytes;
	uint32_t frames;

	assert_int_equal(image_open_raw(fd, path, NULL, &image), 0);
	unlink(path);
	fd = fd_close(fd); /* it has its own */
	assert_true(image_is_raw(image));
	assert_false(image_is_sealed(image));
	assert_int_equal(image_n_pages(image), PAGES);
	assert_int_equal(image_stored_pages(image), PAGES);
	assert_int_equal(image_n_layers(image), 1);
	assert_int_equal(image_layer_frames(image, 0), 3);
	assert_int_equal(image_layer_bytes(image, 0), PAGES * DORM_PAGE_SIZE);
	assert_int_equal(strlen(image_id(image)), IMAGE_ID_LEN);
	assert_int_equal(strlen(image_layer_id(image, 0)), IMAGE_ID_LEN);
	for (uint64_t gfn = 0; gfn < PAGES; gfn++) {
		image_lookup(image, gfn, &run);
		assert_int_equal(run.layer, 0); /* a hole too: what it holds is content */
		assert_int_equal(run.slot + gfn - run.gfn, gfn);
		assert_int_equal(image_owner(image, 0, gfn), gfn);
		assert_int_equal(image_read_page(image, gfn, page, NULL), 0);
		check_page(page, gfn);
	}
	image_layer_live(image, 0, &frames, &pages, &bytes);
	assert_int_equal(frames, 3);
	assert_int_equal(pages, PAGES);
	assert_int_equal(bytes, PAGES * DORM_PAGE_SIZE);
}

static void test_frames(void **state)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct frame_page list[IMAGE_FRAME_PAGES];
	char path[32];
	_cleanup_fd_ int fd = make_file(path, PAGES);

	assert_int_equal(image_open_raw(fd, path, NULL, &image), 0);
	unlink(path);
	for (uint32_t frame = 0; frame < 3; frame++) {
		uint32_t want = frame == 2 ? PAGES % 16 : 16, n;

		assert_int_equal(image_frame_pages(image, 0, frame, list), want);
		memset(frame_mem, 0xee, sizeof(frame_mem));
		assert_int_equal(image_read_frame(image, 0, frame, scratch, frame_mem, &n, NULL),
				 0);
		assert_int_equal(n, want);
		for (uint32_t i = 0; i < n; i++) {
			assert_int_equal(list[i].gfn, frame * 16 + i);
			assert_int_equal(list[i].index, i);
			check_page(frame_mem + i * DORM_PAGE_SIZE, list[i].gfn);
		}
		assert_int_equal(image_check_frame(image, 0, frame, scratch, NULL), 0);
	}
}

static void expect_refused(int fd, int want, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	struct image *image = NULL;

	assert_int_equal(image_open_raw(fd, "the-file", &problem, &image), want);
	assert_null(image);
	if (!strstr(problem.message, text) || !strstr(problem.message, "the-file"))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

static void test_refused(void **state)
{
	_cleanup_fd_ int fd = memfd_create("raw", MFD_CLOEXEC), dir = open("/tmp", O_RDONLY);
	_cleanup_fd_ int null = open("/dev/null", O_RDONLY);

	expect_refused(fd, -EINVAL, "0 bytes");
	assert_int_equal(ftruncate(fd, 4097), 0);
	expect_refused(fd, -EINVAL, "4097 bytes");
	assert_int_equal(ftruncate(fd, (1ll << 42) + 4096), 0);
	expect_refused(fd, -EFBIG, "4 TiB");
	expect_refused(dir, -EINVAL, "not a regular file");
	expect_refused(null, -EINVAL, "not a regular file");
	expect_refused(-1, -EBADF, "");
}

/* Another time of modification is another image; the same file twice is the same. */
static void test_identity(void **state)
{
	_cleanup_(image_unrefp) struct image *a = NULL, *b = NULL, *c = NULL;
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000, .tv_nsec = 5}};
	struct problem problem = PROBLEM_INIT;
	char path[32];
	_cleanup_fd_ int fd = make_file(path, PAGES), other = open(path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(image_open_raw(fd, path, NULL, &a), 0);
	assert_int_equal(image_open_raw(other, "else", NULL, &b), 0);
	assert_string_equal(image_id(a), image_id(b));
	assert_string_equal(image_layer_id(a, 0), image_layer_id(b, 0));
	assert_string_not_equal(image_id(a), image_layer_id(a, 0));
	assert_int_equal(image_check_unchanged(a, &problem), 0);
	assert_false(problem_is_set(&problem));
	assert_int_equal(futimens(fd, times), 0);
	assert_int_equal(image_check_unchanged(a, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "was changed"));
	assert_non_null(strstr(problem.message, path));
	assert_int_equal(image_open_raw(fd, path, NULL, &c), 0);
	assert_string_not_equal(image_id(a), image_id(c));
	assert_int_equal(image_check_unchanged(c, NULL), 0);
	unlink(path);
}

/* A file that was cut is an error where it ends, not zeros. */
static void test_cut(void **state)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct problem problem = PROBLEM_INIT;
	char path[32];
	_cleanup_fd_ int fd = make_file(path, PAGES);
	uint32_t n;

	assert_int_equal(image_open_raw(fd, path, NULL, &image), 0);
	unlink(path);
	assert_int_equal(ftruncate(fd, 20 * DORM_PAGE_SIZE), 0);
	assert_int_equal(image_check_unchanged(image, NULL), IMAGE_E_CORRUPT);
	assert_int_equal(image_read_frame(image, 0, 0, scratch, frame_mem, &n, &problem), 0);
	memset(frame_mem, 0xee, sizeof(frame_mem));
	assert_int_equal(image_read_frame(image, 0, 1, scratch, frame_mem, &n, &problem),
			 IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "file ends"));
	assert_int_equal(frame_mem[0], 0); /* nothing of it stays */
}

static void test_others(void **state)
{
	_cleanup_(image_unrefp) struct image *zero = NULL;

	assert_int_equal(image_open_zero(16, &zero), 0);
	assert_false(image_is_raw(zero));
	assert_int_equal(image_check_unchanged(zero, NULL), 0);
}

TEST_MAIN(cmocka_unit_test(test_pages), cmocka_unit_test(test_frames),
	  cmocka_unit_test(test_refused), cmocka_unit_test(test_identity),
	  cmocka_unit_test(test_cut), cmocka_unit_test(test_others))
