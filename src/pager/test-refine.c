/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/image-internal.h"
#include "pager/refine.h"
#include "sys/pagemap.h"

#define GUEST 2000u

static struct image image;
static bitmap_word touched[GUEST / 64 + 1];

static int setup(void **state)
{
	(void)state;
	memset(&image, 0, sizeof(image));
	memset(touched, 0, sizeof(touched));
	memset(image.id, 'a', IMAGE_ID_LEN);
	assert_int_equal(page_map_append(&image.map, GUEST, 0, 0), 0);
	return page_map_seal(&image.map, NULL);
}

static int teardown(void **state)
{
	(void)state;
	page_map_deinit(&image.map);
	return 0;
}

static void touch(uint64_t gfn, uint64_t n)
{
	for (uint64_t i = gfn; i < gfn + n; i++)
		bitmap_set(touched, i);
}

static unsigned score(const struct working_set *s, uint64_t gfn)
{
	for (size_t i = 0; i < s->n_weights; i++)
		if (gfn >= s->weights[i].gfn && gfn - s->weights[i].gfn < s->weights[i].n_pages)
			return s->weights[i].score;
	return 0;
}

/* A first recording of pages 0-159, all by faults. */
static void record_first(struct working_set *ret)
{
	_cleanup_(recorder_freep) struct recorder *r = NULL;
	struct refine_report report;

	assert_int_equal(recorder_new(GUEST, &r), 0);
	recorder_need(r, 0, 160);
	assert_int_equal(refine(&image, NULL, r, NULL, 0, ret, &report), 0);
	assert_int_equal(ret->n_pages, 160);
	assert_int_equal(report.recorder.missed_pages, 160);
	assert_int_equal(report.set.set_pages, 0);
}

/* Each line of the table at the head of refine.c. */
static void test_with_a_scan(void **state)
{
	_cleanup_(working_set_deinit) struct working_set old = {0}, set = {0};
	_cleanup_(recorder_freep) struct recorder *r = NULL;
	struct refine_report report;

	(void)state;
	record_first(&old);
	assert_int_equal(recorder_new(GUEST, &r), 0);
	recorder_prefetched(r, 0, 160);
	recorder_need(r, 320, 16);
	touch(0, 140);
	touch(320, 2);
	touch(500, 1);
	assert_int_equal(refine(&image, &old, r, touched, 0, &set, &report), 0);
	assert_int_equal(score(&set, 320), WORKING_SET_FIRST);
	assert_int_equal(score(&set, 322), 0);
	assert_int_equal(score(&set, 0), 136);
	assert_int_equal(score(&set, 150), 72);
	assert_int_equal(score(&set, 500), WORKING_SET_FIRST);
	assert_int_equal(score(&set, 501), 0);
	assert_int_equal(set.recordings, 2);
	assert_int_equal(report.recorder.used_pages, 140);
	assert_int_equal(report.recorder.missed_pages, 2);
	assert_int_equal(report.recorder.wasted_bytes, 20 * DORM_PAGE_SIZE);
	assert_int_equal(report.set.set_pages, 160);
	assert_int_equal(report.set.hit_pages, 140);
}

static void test_without_a_scan(void **state)
{
	_cleanup_(working_set_deinit) struct working_set old = {0}, set = {0};
	_cleanup_(recorder_freep) struct recorder *r = NULL;
	struct refine_report report;

	(void)state;
	record_first(&old);
	assert_int_equal(recorder_new(GUEST, &r), 0);
	recorder_prefetched(r, 0, 100);
	recorder_need(r, 320, 16);
	assert_int_equal(refine(&image, &old, r, NULL, 0, &set, &report), 0);
	assert_int_equal(score(&set, 320), WORKING_SET_FIRST);
	assert_int_equal(score(&set, 335), WORKING_SET_FIRST);
	assert_int_equal(score(&set, 0), WORKING_SET_FIRST); /* as it was */
	assert_int_equal(report.set.unknown_pages, 100);
	assert_int_equal(report.set.hit_pages, 0);
}

static void test_refused(void **state)
{
	_cleanup_(working_set_deinit) struct working_set old = {0};
	_cleanup_(recorder_freep) struct recorder *r = NULL, *other = NULL;
	struct refine_report report;
	struct working_set set;

	(void)state;
	record_first(&old);
	assert_int_equal(recorder_new(GUEST, &r), 0);
	assert_int_equal(recorder_new(GUEST + 1, &other), 0);
	assert_int_equal(refine(&image, &old, other, NULL, 0, &set, &report), -EINVAL);
	old.image_id[3] = 'b';
	assert_int_equal(refine(&image, &old, r, NULL, 0, &set, &report), -EINVAL);
}

static void test_touched_region(void **state)
{
	_cleanup_fd_ int fd = memfd_create("refine-test", MFD_CLOEXEC), pagemap = -1;
	const uint64_t n = 256;
	char *p;

	(void)state;
	assert_true(fd >= 0 && ftruncate(fd, (off_t)(n * DORM_PAGE_SIZE)) == 0);
	p = mmap(NULL, n * DORM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	pagemap = pagemap_open(getpid());
	assert_true(p != MAP_FAILED && pagemap >= 0);
	p[20 * DORM_PAGE_SIZE] = 1;
	p[200 * DORM_PAGE_SIZE] = 1;
	assert_int_equal(refine_touched(pagemap, (uintptr_t)p, 1000, n, touched, 1100), 0);
	assert_true(bitmap_test(touched, 1020));
	assert_int_equal(bitmap_count(touched, GUEST), 1); /* the other is beyond the bits */
	assert_int_equal(refine_touched(pagemap, (uintptr_t)p, 1000, n, touched, GUEST), 0);
	assert_int_equal(bitmap_count(touched, GUEST), 2);
	assert_true(bitmap_test(touched, 1200));
	munmap(p, n * DORM_PAGE_SIZE);
}

#define REFINE_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)
TEST_MAIN(REFINE_TEST(test_with_a_scan), REFINE_TEST(test_without_a_scan),
	  REFINE_TEST(test_refused), REFINE_TEST(test_touched_region))
