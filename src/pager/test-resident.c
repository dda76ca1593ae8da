/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine of frames, and insertion when the kernel refuses (uffd_copy() is wrapped). */
#include "pager/test-vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "pager/resident.h"
#include "sys/memfd.h"
#include "sys/uffd.h"

static int refuse_with;	 /* what uffd_copy() answers... */
static int refuse_times; /* ...so often */
static int calls;
static uint64_t at_most = UINT64_MAX; /* bytes that one call does */

int __real_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *ret_done);
int __wrap_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *ret_done);

int __wrap_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *ret_done)
{
	calls++;
	if (refuse_times) {
		refuse_times--;
		*ret_done = 0;
		return refuse_with;
	}
	if (len > at_most) {
		int r = __real_uffd_copy(fd, dst, src, at_most, ret_done);

		return r ? r : -EAGAIN;
	}
	return __real_uffd_copy(fd, dst, src, len, ret_done);
}

struct state {
	struct rig rig; /* its pager is never started */
	struct image *image;
	struct resident *resident;
	struct bounce bounce;
};

static int setup(void **state)
{
	static struct state s;
	struct problem problem = PROBLEM_INIT;
	int dirfd;

	alarm(60);
	s = (struct state){.rig.dir = "/tmp/test-resident-XXXXXX"};
	assert_non_null(mkdtemp(s.rig.dir));
	rig_make_model();
	dirfd = rig_image(&s.rig, "a", IMAGE_CODEC_ZSTD);
	assert_int_equal(image_open(dirfd, NULL, &problem, &s.image), 0);
	close(dirfd);
	assert_int_equal(resident_new(s.image, &problem, &s.resident), 0);
	assert_int_equal(bounce_init(&s.bounce), 0);
	refuse_times = calls = 0;
	at_most = UINT64_MAX;
	*state = &s;
	return 0;
}

static int teardown(void **state)
{
	struct state *s = *state;

	bounce_deinit(&s->bounce);
	s->resident = resident_free(s->resident);
	image_unref(s->image);
	return file_remove_tree(AT_FDCWD, s->rig.dir);
}

static int load(struct state *s, uint32_t frame, uint64_t *ret_inserted)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint64_t bytes = 0;
	uint32_t n = 0;

	*ret_inserted = 0;
	return resident_load(s->resident, &s->bounce, 0, frame, pages, &n, ret_inserted, &bytes,
			     NULL);
}

/* Is every page of the frame in the memfd, and right? */
static void check_frame(struct state *s, uint32_t frame)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n = image_frame_pages(s->image, 0, frame, pages);
	uint8_t page[DORM_PAGE_SIZE];

	assert_true(n > 0);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(fd_pread_full(s->resident->memfd, page, sizeof(page),
					       pages[i].gfn * DORM_PAGE_SIZE),
				 0);
		assert_memory_equal(page, test_model + pages[i].gfn * DORM_PAGE_SIZE, sizeof(page));
	}
}

static void test_states(void **state)
{
	struct resident *r = ((struct state *)*state)->resident;

	assert_int_equal(resident_claim(r, 0, 3), FRAME_ABSENT);
	assert_int_equal(resident_claim(r, 0, 2), FRAME_ABSENT);
	assert_false(resident_settle(r, 0, 2, FRAME_RESIDENT));
	assert_int_equal(resident_claim(r, 0, 2), FRAME_RESIDENT);
	assert_int_equal(resident_claim(r, 0, 3), FRAME_LOADING);
	assert_int_equal(resident_claim(r, 0, 3), FRAME_LOADING_WAITED);
	assert_true(resident_settle(r, 0, 3, FRAME_ABSENT));
	assert_int_equal(resident_claim(r, 0, 3), FRAME_ABSENT);
	assert_false(resident_settle(r, 0, 3, FRAME_FAILED));
	assert_int_equal(resident_claim(r, 0, 3), FRAME_FAILED);
}

static void test_load(void **state)
{
	struct state *s = *state;
	uint64_t inserted;

	assert_int_equal(load(s, 5, &inserted), 0);
	assert_in_range(inserted, 1, 16);
	check_frame(s, 5);
	assert_int_equal(s->resident->inserted_pages, inserted);
	assert_int_equal(s->resident->claimed_pages, inserted);
	/* a page at a time: the kernel may stop anywhere */
	at_most = DORM_PAGE_SIZE;
	assert_int_equal(load(s, 6, &inserted), 0);
	check_frame(s, 6);
	assert_int_equal(resident_audit(s->resident), 0);
}

static void test_out_of_memory(void **state)
{
	struct state *s = *state;
	uint64_t inserted;

	refuse_with = -ENOMEM;
	refuse_times = 3; /* memory comes back */
	assert_int_equal(load(s, 1, &inserted), 0);
	check_frame(s, 1);
	refuse_times = 1000; /* it does not */
	calls = 0;
	assert_int_equal(load(s, 3, &inserted), -ENOMEM);
	assert_int_equal(inserted, 0);
	assert_in_range(calls, 2, 10);
	assert_int_equal(s->resident->claimed_pages, s->resident->inserted_pages);
	assert_int_equal(resident_audit(s->resident), 0);
	/* nothing is wrong for the next one */
	refuse_times = 0;
	assert_int_equal(load(s, 3, &inserted), 0);
	check_frame(s, 3);
	refuse_with = -EAGAIN;
	refuse_times = 100;
	assert_int_equal(load(s, 4, &inserted), 0);
	check_frame(s, 4);
}

static void test_present_pages(void **state)
{
	struct state *s = *state;
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint64_t inserted;
	uint32_t n = image_frame_pages(s->image, 0, 7, pages);
	uint8_t *p;

	/* the right content is somebody else's success */
	assert_int_equal(load(s, 7, &inserted), 0);
	assert_int_equal(inserted, n);
	assert_int_equal(load(s, 7, &inserted), 0);
	assert_int_equal(inserted, 0);
	assert_int_equal(resident_audit(s->resident), 0);
	/* any other is not: a mapping without userfaultfd makes pages of zeros */
	n = image_frame_pages(s->image, 0, 8, pages);
	p = mmap(NULL, TEST_PAGES * DORM_PAGE_SIZE, PROT_READ, MAP_PRIVATE, s->resident->memfd, 0);
	assert_int_equal(*(volatile uint8_t *)(p + pages[n - 1].gfn * DORM_PAGE_SIZE), 0);
	assert_int_equal(load(s, 8, &inserted), RESIDENT_E_POISONED);
	assert_int_equal(resident_audit(s->resident), RESIDENT_E_POISONED);
	munmap(p, TEST_PAGES * DORM_PAGE_SIZE);
}

/* The audit alone finds it too, without being told where. */
static void test_audit(void **state)
{
	struct state *s = *state;
	uint64_t inserted = 0;
	uint8_t *p;

	assert_int_equal(resident_insert_zeros(s->resident, 3, 2, &inserted), 0);
	assert_int_equal(inserted, 2);
	assert_int_equal(resident_insert_zeros(s->resident, 2, 4, &inserted), 0);
	assert_int_equal(inserted, 4);
	assert_int_equal(resident_audit(s->resident), 0);
	p = mmap(NULL, DORM_PAGE_SIZE * 8, PROT_READ, MAP_PRIVATE, s->resident->memfd, 0);
	assert_int_equal(*(volatile uint8_t *)(p + 7 * DORM_PAGE_SIZE), 0);
	assert_int_equal(resident_audit(s->resident), RESIDENT_E_POISONED);
	munmap(p, DORM_PAGE_SIZE * 8);
}

static void test_zeros(void **state)
{
	struct state *s = *state;
	struct page_run run;
	uint64_t gfn = 0, pages = 0, zero_pages = 0;

	assert_false(resident_next_zeros(s->resident, 0, &run));
	for (uint64_t i = 0; i < TEST_PAGES; i += 48)
		resident_remember_zeros(s->resident, i, 16);
	while (resident_next_zeros(s->resident, gfn, &run)) {
		assert_true(run.gfn >= gfn && run.n_pages > 0);
		for (gfn = run.gfn; gfn < run.gfn + run.n_pages; gfn++, pages++)
			assert_true(gfn % 48 < 16 && !test_model[gfn * DORM_PAGE_SIZE]);
	}
	for (gfn = 0; gfn < TEST_PAGES; gfn++)
		zero_pages += gfn % 48 < 16 && !*(uint64_t *)(test_model + gfn * DORM_PAGE_SIZE);
	assert_int_equal(pages, zero_pages);
	/* blocks that a run only begins or ends in count; the number is bounded elsewhere */
	resident_remember_zeros(s->resident, 47, 2);
	assert_true(bitmap_test(s->resident->zeros, 2));
	assert_true(bitmap_test(s->resident->zeros, 3));
}

#define READY(_test) cmocka_unit_test_setup_teardown(_test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {READY(test_states),	      READY(test_load),
					   READY(test_out_of_memory), READY(test_present_pages),
					   READY(test_audit),	      READY(test_zeros)};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
