/* SPDX-License-Identifier: Apache-2.0 */
/* Insertion when the kernel refuses (uffd_copy() is wrapped), eviction, taking back. */
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
	struct problem problem = PROBLEM_INIT;
	uint32_t n = 0, decoded = 0;
	int e = image_read_frame(s->image, 0, frame, s->bounce.scratch, s->bounce.out, &decoded,
				 &problem);

	assert_int_equal(e, 0);
	*ret_inserted = 0;
	return resident_insert(s->resident, &s->bounce, 0, frame, decoded, pages, &n, ret_inserted,
			       &problem);
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

static void test_evict(void **state)
{
	struct state *s = *state;
	struct resident *r = s->resident;
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n = image_frame_pages(s->image, 0, 3, pages);
	uint64_t index = resident_frame(r, 0, 3), inserted = 0, freed = 0;
	enum frame_wake wake;

	assert_true(frames_try(&r->frames, index));
	assert_int_equal(load(s, 3, &inserted), 0);
	assert_false(resident_evict(r, index, &freed, &wake)); /* it is being brought */
	(void)frames_settle(&r->frames, index, FRAME_RESIDENT, 0);
	check_frame(s, 3);
	assert_true(resident_has(r, pages[0].gfn));
	assert_true(frames_pin(&r->frames, index));
	assert_false(resident_evict(r, index, &freed, &wake));
	frames_unpin(&r->frames, index);
	resident_keep(r, true);
	assert_false(resident_evict(r, index, &freed, &wake));
	resident_keep(r, false);
	assert_true(resident_evict(r, index, &freed, &wake));
	assert_int_equal(freed, n);
	assert_int_equal(wake, WAKE_NOBODY);
	assert_false(resident_has(r, pages[0].gfn));
	assert_int_equal(r->present_pages, 0);
	assert_int_equal(resident_audit(r), 0);
	assert_int_equal(frames_claim(&r->frames, index, false), FRAME_ABSENT);
	assert_int_equal(load(s, 3, &inserted), 0);
	(void)frames_settle(&r->frames, index, FRAME_RESIDENT, 0);
	check_frame(s, 3);
	assert_int_equal(r->refaulted_pages, n);
	assert_int_equal(resident_audit(r), 0);
}

/* What an earlier pager left in the memfd is found again, frame by frame. */
static void test_take_back(void **state)
{
	struct state *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct resident *again;
	uint64_t inserted = 0, more = 0;
	int fd;

	assert_int_equal(load(s, 2, &inserted), 0);
	assert_int_equal(load(s, 5, &more), 0);
	fd = fcntl(s->resident->memfd, F_DUPFD_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(resident_take_back(s->image, fd, &problem, &again), 0);
	assert_int_equal(again->present_pages, inserted + more);
	for (uint32_t i = 0; i < image_layer_frames(s->image, 0); i++)
		assert_int_equal(frames_state(&again->frames, i),
				 i == 2 || i == 5 ? FRAME_RESIDENT : FRAME_ABSENT);
	assert_int_equal(resident_audit(again), 0);
	resident_free(again);
	fd = memfd_new("other", 4096);
	assert_int_equal(resident_take_back(s->image, fd, &problem, &again), -EINVAL);
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

static void check_page(struct state *s, uint64_t gfn)
{
	uint8_t page[DORM_PAGE_SIZE];

	assert_int_equal(
		fd_pread_full(s->resident->memfd, page, sizeof(page), gfn * DORM_PAGE_SIZE), 0);
	assert_memory_equal(page, test_model + gfn * DORM_PAGE_SIZE, sizeof(page));
}

/* Another image than setup() made: eight pages after their owners, in one frame of it. */
static void share(struct state *s, struct shared *shared, struct page_run *ret_part)
{
	struct problem problem = PROBLEM_INIT;
	int dirfd;

	shared->of = rig_find_run(false, 64, 0) + 16;
	shared->gfn = rig_find_run(true, 60, shared->of + 60) + 3;
	shared->n = 1;
	image_lookup(s->image, shared->of, ret_part);
	ret_part->slot += shared->of - ret_part->gfn;
	shared->of += IMAGE_FRAME_PAGES - ret_part->slot % IMAGE_FRAME_PAGES; /* next frame... */
	ret_part->slot += IMAGE_FRAME_PAGES - ret_part->slot % IMAGE_FRAME_PAGES;
	shared->of += 2; /* ...its third page */
	shared->n = 8;
	dirfd = rig_shared_image(&s->rig, "b", IMAGE_CODEC_NONE, shared, 1);
	s->resident = resident_free(s->resident);
	image_unref(s->image);
	assert_int_equal(image_open(dirfd, NULL, &problem, &s->image), 0);
	close(dirfd);
	assert_int_equal(resident_new(s->image, &problem, &s->resident), 0);
	image_lookup(s->image, shared->gfn, ret_part);
	assert_int_equal(ret_part->n_pages, 8);
	assert_int_equal(ret_part->slot % IMAGE_FRAME_PAGES, 2);
	assert_int_equal(image_owner(s->image, ret_part->layer, ret_part->slot), shared->of);
}

static void test_aliases(void **state)
{
	struct state *s = *state;
	struct shared shared;
	struct page_run part, half;
	uint64_t inserted, copied = 0;
	uint32_t frame;

	share(s, &shared, &part);
	frame = (uint32_t)(part.slot / IMAGE_FRAME_PAGES);
	assert_int_equal(load(s, frame, &inserted), 0);
	check_frame(s, frame);
	/* half of them from the decoded frame, all from the memfd, where half are there already */
	half = part;
	half.n_pages = 4;
	assert_int_equal(resident_copy_aliases(s->resident, &s->bounce, &half, true, &copied), 0);
	assert_int_equal(copied, 4);
	memset(s->bounce.out, 0xee, IMAGE_FRAME_BYTES);
	assert_int_equal(resident_copy_aliases(s->resident, &s->bounce, &part, false, &copied), 0);
	assert_int_equal(copied, 8);
	for (uint64_t i = 0; i < 8; i++)
		check_page(s, shared.gfn + i);
	assert_int_equal(s->resident->inserted_pages, inserted + 8);
	assert_int_equal(s->resident->claimed_pages, inserted + 8);
	assert_int_equal(resident_audit(s->resident), 0);
	rig_unshare(&shared, 1);
}

static void test_aliases_in_trouble(void **state)
{
	struct state *s = *state;
	struct shared shared;
	struct page_run part;
	uint64_t inserted, copied = 0;
	uint8_t *p;

	share(s, &shared, &part);
	assert_int_equal(load(s, (uint32_t)(part.slot / IMAGE_FRAME_PAGES), &inserted), 0);
	refuse_with = -ENOMEM;
	refuse_times = 1000;
	assert_int_equal(resident_copy_aliases(s->resident, &s->bounce, &part, false, &copied),
			 -ENOMEM);
	assert_int_equal(copied, 0);
	assert_int_equal(s->resident->claimed_pages, inserted);
	refuse_times = 0;
	/* a page of zeros where an alias belongs */
	p = mmap(NULL, TEST_PAGES * DORM_PAGE_SIZE, PROT_READ, MAP_PRIVATE, s->resident->memfd, 0);
	assert_int_equal(*(volatile uint8_t *)(p + (shared.gfn + 5) * DORM_PAGE_SIZE), 0);
	assert_int_equal(resident_copy_aliases(s->resident, &s->bounce, &part, false, &copied),
			 RESIDENT_E_POISONED);
	assert_int_equal(copied, 5);
	munmap(p, TEST_PAGES * DORM_PAGE_SIZE);
	rig_unshare(&shared, 1);
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
	const struct CMUnitTest tests[] = {READY(test_evict),
					   READY(test_take_back),
					   READY(test_load),
					   READY(test_out_of_memory),
					   READY(test_present_pages),
					   READY(test_audit),
					   READY(test_zeros),
					   READY(test_aliases),
					   READY(test_aliases_in_trouble)};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
