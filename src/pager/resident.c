/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resident memory
 *
 * A memfd, a mapping of it that only this process has and never touches, and that mapping
 * registered with a userfaultfd that nobody reads. UFFDIO_COPY into the mapping is the one way to
 * make a page appear in the memfd that no other process can see half done (DESIGN.md section 4
 * lists the wrong ones): the kernel allocates a page outside of the file, copies, and then
 * publishes it.
 *
 * Invariants
 *  1. A page of the memfd that is there is exactly the image's page. So only verified frames are
 *     inserted, from a private buffer, and zero pages only where the map says zero.
 *  2. Pages of a frame are inserted by the thread that moved its state from ABSENT to LOADING, and
 *     by no other. So EEXIST on insertion can only mean that an earlier attempt at the same frame
 *     came to an end half way (out of memory), or that a VMM broke the rule that it must register
 *     its mapping before it touches it: then the page is zeros, and it is everybody's. insert()
 *     compares, and calls the memory poisoned when it differs. Aliases, pages whose slot a lower
 *     gfn owns, are inserted by every thread that is asked for one, once the owner's page is there:
 *     several may try at once, all with the same content, and EEXIST is the same question.
 *  3. allocated pages <= claimed_pages. claimed_pages grows before an insertion and shrinks after
 *     it by what did not happen. The audit reads the allocated pages first: what it read had been
 *     claimed by then and claims of pages that are there are never taken back, but by eviction. So
 *     the comparison finds a page of invariant 2 that no fault has led to yet, and when it finds
 *     one it looks again, with evictions locked out, until it is sure. That takes more than one
 *     look, because the kernel's own figure may lag behind an eviction: while another thread has
 *     put a page into the file but not yet counted it, the one that was just taken away stays
 *     counted instead (mm/shmem.c, shmem_recalc_inode()). Each look corrects that as soon as
 *     there is no such thread; a foreign page stays. Memory that VMs keep without us (n_kept) is
 *     complete but for zeros, and whatever a touch adds to it is right: then the claims follow.
 *  4. A set bit of @present means that the page is there, and pages are evicted only by bits. For
 *     owners' pages that holds because their frame is LOADING from before the first insertion (or
 *     the hole) until after the last bit. Aliases and zeros are inserted by anybody at any time;
 *     @loose_lock keeps that apart from their eviction. Without it: thread A inserts and is held
 *     up; B finds the page there and sets its bit; it is evicted; A sets the bit of a page that
 *     is gone, and a VM that graduates by it reads zeros. Besides, a hole that is being punched
 *     can swallow a page twice.
 *
 * Worked example: layer 0, frame 5 decodes to 16 pages; the image uses indexes 0-3 as gfn 80-83 and
 * 6-15 as gfn 86-95 (a later layer replaced two). Thread A faults on gfn 90: claim ABSENT ->
 * LOADING, reads the frame, copies 4 pages to base + 80 * 4096 and 10 pages to base + 86 * 4096.
 * Meanwhile thread B, for another VM, faults on gfn 81: its claim leaves the mark WAITED, and B
 * goes on to other work. A settles: RESIDENT, and was told that somebody waits, so it wakes 80-83
 * and 86-95 in all VMs of the image, not only in its own.
 *
 * If gfn 200 has the same content as gfn 90, and so the same slot, nothing of it is inserted by
 * this. A fault on it finds the frame RESIDENT, reads gfn 90 from the memfd and copies it to
 * base + 200 * 4096. Had it come first, it would have loaded the frame and taken the page from the
 * decoded frame. Had it come while A was reading, it would have left the mark ALIAS: A wakes all
 * memory of all VMs, since the aliases of a frame may be many and are not listed anywhere, and
 * whoever was woken in vain faults again.
 */
#include "pager/resident.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "sys/memfd.h"
#include "sys/uffd.h"

#define MEMORY_TRIES 5	  /* waits of 1, 4, 16, 64 and 256 ms when the host is out of memory */
#define AUDIT_TRIES  50	  /* a millisecond apart */
#define AGAIN_TRIES  1000 /* nobody changes our own mapping; a bound all the same */

int bounce_init(struct bounce *b)
{
	size_t len = 2 * IMAGE_FRAME_BYTES + 2 * DORM_PAGE_SIZE;
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		return error_errno();
	(void)mlock(p, len); /* not swapped out: faster, and no more than that */
	*b = (struct bounce){.out = p,
			     .scratch = p + IMAGE_FRAME_BYTES,
			     .check = p + 2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE,
			     .map = p,
			     .map_len = len};
	return 0;
}

void bounce_deinit(struct bounce *b)
{
	if (b->map)
		munmap(b->map, b->map_len);
	*b = (struct bounce){0};
}

static int make_tables(struct resident *r)
{
	int e = frames_init(&r->frames, r->image);

	if (e < 0)
		return e;
	r->present = bitmap_new(r->n_pages);
	r->evicted = bitmap_new(r->n_pages);
	r->zeros = bitmap_new((r->n_pages + RESIDENT_BLOCK_PAGES - 1) / RESIDENT_BLOCK_PAGES);
	r->favoured = bitmap_new(MAX(r->frames.n, (uint64_t)1));
	return r->present && r->evicted && r->zeros && r->favoured ? 0 : -ENOMEM;
}

static int make_memory(struct resident *r)
{
	uint64_t size = r->n_pages * DORM_PAGE_SIZE;
	void *p;

	if (r->memfd < 0)
		r->memfd = memfd_new("dorm-image", size);
	if (r->memfd < 0)
		return r->memfd;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, r->memfd, 0);
	if (p == MAP_FAILED)
		return error_errno();
	r->base = p;
	(void)madvise(p, size,
		      MADV_DONTDUMP); /* a dump would touch every page, also missing ones */
	r->uffd = uffd_new_for_copy();
	if (r->uffd < 0)
		return r->uffd;
	return uffd_register(r->uffd, (uintptr_t)p, size, UFFDIO_REGISTER_MODE_MISSING);
}

static int make(struct image *image, int memfd, struct problem *problem, struct resident **ret)
{
	_cleanup_(resident_freep) struct resident *r = calloc(1, sizeof(*r));
	int e;

	if (!r) {
		fd_close(memfd);
		return -ENOMEM;
	}
	r->memfd = memfd;
	r->uffd = -1;
	r->image = image_ref(image);
	r->n_pages = image_n_pages(image);
	pthread_mutex_init(&r->failure_lock, NULL);
	pthread_mutex_init(&r->evict_lock, NULL);
	pthread_rwlock_init(&r->loose_lock, NULL);
	e = make_tables(r);
	if (e == 0)
		e = make_memory(r);
	if (e < 0) {
		problem_errno(problem, e, "cannot make the resident memory of image %s, %llu pages",
			      image_id(image), (unsigned long long)r->n_pages);
		return e;
	}
	*ret = take_ptr(r);
	return 0;
}

int resident_new(struct image *image, struct problem *problem, struct resident **ret)
{
	return make(image, -1, problem, ret);
}

/* ---- taking back ------------------------------------------------------------------------------
 */

/* SEEK_DATA of a memfd names pages in memory and in swap, and nothing else. */
static int find_present(struct resident *r)
{
	off_t end = (off_t)(r->n_pages * DORM_PAGE_SIZE), from, to = 0;

	while (to < end && (from = lseek(r->memfd, to, SEEK_DATA)) >= 0) {
		to = lseek(r->memfd, from, SEEK_HOLE);
		if (to < 0)
			return error_errno();
		for (off_t i = from / (off_t)DORM_PAGE_SIZE; i < to / (off_t)DORM_PAGE_SIZE; i++)
			bitmap_set(r->present, (size_t)i); /* nobody else has it yet */
		r->present_pages += (uint64_t)(to - from) / DORM_PAGE_SIZE;
	}
	if (to < end && from < 0 && errno != ENXIO)
		return error_errno();
	r->claimed_pages = r->present_pages;
	r->loose_pages = r->present_pages; /* at most; which of them is for eviction to find out */
	return 0;
}

static void find_frames(struct resident *r)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t layer, frame;

	for (uint64_t i = 0; i < r->frames.n; i++) {
		uint32_t n, have = 0;

		frames_name(&r->frames, i, &layer, &frame);
		n = image_frame_pages(r->image, layer, frame, pages);
		while (have < n && resident_has(r, pages[have].gfn))
			have++;
		if (n && have == n && frames_try(&r->frames, i))
			(void)frames_settle(&r->frames, i, FRAME_RESIDENT, 1);
	}
}

int resident_take_back(struct image *image, int memfd, struct problem *problem,
		       struct resident **ret)
{
	_cleanup_(resident_freep) struct resident *r = NULL;
	struct stat st;
	int e;

	if (fstat(memfd, &st) < 0 ||
	    (uint64_t)st.st_size != image_n_pages(image) * DORM_PAGE_SIZE) {
		fd_close(memfd);
		problem_set(problem, 500, "the memory of image %s is not as large as the image",
			    image_id(image));
		return -EINVAL;
	}
	e = make(image, memfd, problem, &r);
	if (e == 0)
		e = find_present(r);
	if (e < 0)
		return e;
	find_frames(r);
	*ret = take_ptr(r);
	return 0;
}

void resident_join(struct resident *r, struct resident_budget *b)
{
	r->budget = b;
	__atomic_fetch_add(&b->pages, r->present_pages, __ATOMIC_RELAXED);
}

struct resident *resident_free(struct resident *r)
{
	if (!r)
		return NULL;
	if (r->budget)
		__atomic_fetch_sub(&r->budget->pages, r->present_pages, __ATOMIC_RELAXED);
	if (r->base)
		munmap(r->base, r->n_pages * DORM_PAGE_SIZE);
	fd_close(r->uffd);
	fd_close(r->memfd);
	frames_deinit(&r->frames);
	free(r->present);
	free(r->evicted);
	free(r->zeros);
	free(r->favoured);
	pthread_mutex_destroy(&r->failure_lock);
	pthread_mutex_destroy(&r->evict_lock);
	pthread_rwlock_destroy(&r->loose_lock);
	image_unref(r->image);
	free(r);
	return NULL;
}

/* ---- insertion --------------------------------------------------------------------------------
 */

static void wait_for_memory(unsigned attempt)
{
	struct timespec t = {.tv_nsec = 1000000l << (2 * attempt)};

	(void)nanosleep(&t, NULL); /* a signal that cuts it short does no harm */
}

/* The kernel says that this page is there already: is it what we would have put there? */
static int check_present(struct resident *r, struct bounce *b, uint64_t gfn, const void *want)
{
	int e = fd_pread_full(r->memfd, b->check, DORM_PAGE_SIZE, gfn * DORM_PAGE_SIZE);

	if (e < 0)
		return e;
	if (memcmp(b->check, want, DORM_PAGE_SIZE) == 0)
		return 0;
	__atomic_store_n(&r->poisoned, true, __ATOMIC_RELEASE);
	return RESIDENT_E_POISONED;
}

/* @n pages more: is it time for somebody to evict? One atomic addition when it is not. */
static void spend(struct resident *r, uint64_t n, uint64_t present)
{
	struct resident_budget *b = r->budget;
	uint64_t total = __atomic_add_fetch(&b->pages, n, __ATOMIC_RELAXED);
	uint64_t limit = __atomic_load_n(&b->limit, __ATOMIC_RELAXED);
	uint64_t image_limit = __atomic_load_n(&b->image_limit, __ATOMIC_RELAXED);

	if ((!limit || total <= resident_mark(limit)) &&
	    (!image_limit || present <= resident_mark(image_limit)))
		return;
	if (!__atomic_exchange_n(&b->woken, 1, __ATOMIC_ACQ_REL))
		(void)eventfd_write(b->wake_fd, 1); /* full: it has been told often enough */
}

/* These pages are there: says so, and counts those that nobody had said of. */
static void mark_present(struct resident *r, uint64_t gfn, uint64_t n_pages, bool inserted)
{
	uint64_t n = 0, again = 0;

	for (uint64_t i = gfn; i < gfn + n_pages; i++) {
		n += !bitmap_set_atomic(r->present, i);
		again += inserted && bitmap_test_atomic(r->evicted, i);
	}
	if (n) {
		uint64_t present = __atomic_add_fetch(&r->present_pages, n, __ATOMIC_RELAXED);

		if (r->budget)
			spend(r, n, present);
	}
	if (again)
		__atomic_fetch_add(&r->refaulted_pages, again, __ATOMIC_RELAXED);
}

/*
 * Copy one run of pages, or zeros when @src is NULL. Counts what it inserted, in every case.
 */
static int insert_run(struct resident *r, struct bounce *b, uint64_t gfn, uint64_t n_pages,
		      const uint8_t *src, uint64_t *inserted)
{
	unsigned memory_tries = 0, again_tries = 0;

	for (uint64_t i = 0; i < n_pages;) {
		uint64_t dst = (uintptr_t)r->base + (gfn + i) * DORM_PAGE_SIZE;
		uint64_t len = (n_pages - i) * DORM_PAGE_SIZE, done;
		int e = src ? uffd_copy(r->uffd, dst, src + i * DORM_PAGE_SIZE, len, &done)
			    : uffd_zeropage(r->uffd, dst, len, &done);

		mark_present(r, gfn + i, done / DORM_PAGE_SIZE, true);
		i += done / DORM_PAGE_SIZE;
		*inserted += done / DORM_PAGE_SIZE;
		if (e == 0 || done)
			continue;
		switch (-e) {
		case EEXIST:
			e = src ? check_present(r, b, gfn + i, src + i * DORM_PAGE_SIZE) : 0;
			if (e)
				return e;
			mark_present(r, gfn + i, 1, false);
			i++;
			break;
		case EAGAIN:
			if (++again_tries > AGAIN_TRIES)
				return e;
			sched_yield();
			break;
		case ENOMEM:
		case ENOSPC:
			if (memory_tries == MEMORY_TRIES)
				return -ENOMEM;
			wait_for_memory(memory_tries++);
			break;
		default:
			return error_trace(e);
		}
	}
	return 0;
}

static int insert(struct resident *r, struct bounce *b, uint64_t gfn, uint64_t n_pages,
		  const uint8_t *src, uint64_t *ret_inserted)
{
	uint64_t inserted = 0;
	int e;

	__atomic_fetch_add(&r->claimed_pages, n_pages, __ATOMIC_SEQ_CST);
	e = insert_run(r, b, gfn, n_pages, src, &inserted);
	__atomic_fetch_sub(&r->claimed_pages, n_pages - inserted, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&r->inserted_pages, inserted, __ATOMIC_RELAXED);
	*ret_inserted += inserted;
	return e;
}

/* Pages that belong to no frame. */
static int insert_loose(struct resident *r, struct bounce *b, uint64_t gfn, uint64_t n_pages,
			const uint8_t *src, uint64_t *ret_inserted)
{
	uint64_t inserted = 0;
	int e;

	pthread_rwlock_rdlock(&r->loose_lock);
	e = insert(r, b, gfn, n_pages, src, &inserted);
	pthread_rwlock_unlock(&r->loose_lock);
	__atomic_fetch_add(&r->loose_pages, inserted, __ATOMIC_RELAXED);
	*ret_inserted += inserted;
	return e;
}

int resident_insert_zeros(struct resident *r, uint64_t gfn, uint64_t n_pages,
			  uint64_t *ret_inserted)
{
	return insert_loose(r, NULL, gfn, n_pages, NULL, ret_inserted);
}

uint32_t resident_run(const struct frame_page *pages, uint32_t n, uint32_t i)
{
	uint32_t len = 1;

	while (i + len < n && pages[i + len].gfn == pages[i].gfn + len &&
	       pages[i + len].index == pages[i].index + len)
		len++;
	return len;
}

int resident_insert(struct resident *r, struct bounce *b, uint32_t layer, uint32_t frame,
		    uint32_t n_decoded, struct frame_page pages[IMAGE_FRAME_PAGES],
		    uint32_t *ret_n_pages, uint64_t *ret_inserted, struct problem *problem)
{
	uint32_t n = image_frame_pages(r->image, layer, frame, pages);
	int e = 0;

	*ret_n_pages = n;
	__atomic_fetch_add(&r->bytes_read, n_decoded * DORM_PAGE_SIZE, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->frames_loaded, 1, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < n && e == 0;) {
		uint32_t len = resident_run(pages, n, i);

		if (pages[i].index + len > n_decoded) {
			problem_set(problem, 500, "the map uses page %u of a frame of %u pages",
				    pages[i].index + len - 1, n_decoded);
			return RESIDENT_E_CORRUPT;
		}
		e = insert(r, b, pages[i].gfn, len,
			   (uint8_t *)b->out + pages[i].index * DORM_PAGE_SIZE, ret_inserted);
		i += len;
	}
	return e;
}

/* The owners' pages of some slots of a RESIDENT frame, to where decoding would have put them. */
static int read_owners(struct resident *r, struct bounce *b, const struct page_run *part)
{
	const uint32_t frame = (uint32_t)(part->slot / IMAGE_FRAME_PAGES);
	const uint32_t first = part->slot % IMAGE_FRAME_PAGES;
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n = image_frame_pages(r->image, part->layer, frame, pages);

	for (uint32_t i = 0; i < n; i++) {
		int e;

		if (pages[i].index < first || pages[i].index >= first + part->n_pages)
			continue;
		e = fd_pread_full(r->memfd, (uint8_t *)b->out + pages[i].index * DORM_PAGE_SIZE,
				  DORM_PAGE_SIZE, pages[i].gfn * DORM_PAGE_SIZE);
		if (e < 0)
			return error_trace(e);
	}
	return 0;
}

int resident_copy_aliases(struct resident *r, struct bounce *b, const struct page_run *part,
			  bool decoded, uint64_t *ret_inserted)
{
	const uint8_t *src = (uint8_t *)b->out + part->slot % IMAGE_FRAME_PAGES * DORM_PAGE_SIZE;
	int e = decoded ? 0 : read_owners(r, b, part);

	return e < 0 ? e : insert_loose(r, b, part->gfn, part->n_pages, src, ret_inserted);
}

/* ---- eviction ---------------------------------------------------------------------------------
 */

static void account(struct resident *r, uint64_t freed)
{
	__atomic_fetch_sub(&r->claimed_pages, freed, __ATOMIC_SEQ_CST);
	__atomic_fetch_sub(&r->present_pages, freed, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->evicted_pages, freed, __ATOMIC_RELAXED);
	__atomic_fetch_add(&r->evictions, 1, __ATOMIC_RELAXED);
	if (r->budget)
		__atomic_fetch_sub(&r->budget->pages, freed, __ATOMIC_RELAXED);
}

static bool punch_hole(struct resident *r, uint64_t gfn, uint64_t n_pages)
{
	return fallocate(r->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(gfn * DORM_PAGE_SIZE), (off_t)(n_pages * DORM_PAGE_SIZE)) == 0;
}

/* Nobody inserts these meanwhile, and whoever did has set the bits. So the bits are exact here. */
static uint64_t punch(struct resident *r, uint64_t gfn, uint64_t n_pages)
{
	uint64_t freed = 0;

	if (!punch_hole(r, gfn, n_pages))
		n_pages = 0; /* they stay, and are right */
	for (uint64_t i = gfn; i < gfn + n_pages; i++) {
		if (!bitmap_clear_atomic(r->present, i))
			continue;
		(void)bitmap_set_atomic(r->evicted, i);
		freed++;
	}
	account(r, freed);
	return freed;
}

bool resident_evict(struct resident *r, uint64_t index, uint64_t *ret_freed,
		    enum frame_wake *ret_wake)
{
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t layer, frame, n;

	LOCK_SCOPE(&r->evict_lock);

	if (r->n_kept || !frames_take(&r->frames, index))
		return false;
	frames_name(&r->frames, index, &layer, &frame);
	n = image_frame_pages(r->image, layer, frame, pages);
	for (uint32_t i = 0; i < n;) {
		uint32_t len = resident_run(pages, n, i);

		*ret_freed += punch(r, pages[i].gfn, len);
		i += len;
	}
	*ret_wake = frames_settle(&r->frames, index, FRAME_ABSENT, 0);
	return true;
}

/* Whoever inserts such pages has the lock for reading: if it is not free, they are in use. */
static uint64_t punch_loose(struct resident *r, uint64_t gfn)
{
	uint64_t freed;

	if (pthread_rwlock_trywrlock(&r->loose_lock) != 0)
		return 0;
	freed = punch(r, gfn, 1);
	pthread_rwlock_unlock(&r->loose_lock);
	__atomic_fetch_sub(&r->loose_pages, freed, __ATOMIC_RELAXED);
	return freed;
}

uint64_t resident_evict_loose(struct resident *r, uint64_t gfn, uint64_t n_pages)
{
	uint64_t freed = 0, end = gfn + n_pages;
	struct page_run run = {0};
	LOCK_SCOPE(&r->evict_lock);

	for (; gfn < end && !r->n_kept; gfn++) {
		if (!resident_has(r, gfn))
			continue;
		if (gfn >= run.gfn + run.n_pages)
			image_lookup(r->image, gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO ||
		    image_owner(r->image, run.layer, run.slot + (gfn - run.gfn)) != gfn)
			freed += punch_loose(r, gfn);
	}
	return freed;
}

void resident_favour(struct resident *r, uint64_t index)
{
	if (!bitmap_set_atomic(r->favoured, index))
		__atomic_fetch_add(&r->favoured_frames, 1, __ATOMIC_RELAXED);
}

/* ---- zero pages -------------------------------------------------------------------------------
 */

void resident_remember_zeros(struct resident *r, uint64_t gfn, uint64_t n_pages)
{
	uint64_t last = (gfn + n_pages - 1) / RESIDENT_BLOCK_PAGES;

	for (uint64_t i = gfn / RESIDENT_BLOCK_PAGES; i <= last; i++) {
		if (bitmap_test_atomic(r->zeros, i))
			continue;
		/* two threads may both count one block, or pass the bound by one each: no harm */
		if (__atomic_load_n(&r->n_zeros, __ATOMIC_RELAXED) >= RESIDENT_ZERO_BLOCKS)
			return;
		if (!bitmap_set_atomic(r->zeros, i))
			__atomic_fetch_add(&r->n_zeros, 1, __ATOMIC_RELAXED);
	}
}

/* The stretch of remembered blocks that begins at or after @gfn, in pages. */
static bool next_remembered(const struct resident *r, uint64_t gfn, uint64_t *ret_begin,
			    uint64_t *ret_end)
{
	uint64_t n_blocks = (r->n_pages + RESIDENT_BLOCK_PAGES - 1) / RESIDENT_BLOCK_PAGES;
	uint64_t i = gfn / RESIDENT_BLOCK_PAGES, end;

	while (i < n_blocks && !bitmap_test_atomic(r->zeros, i)) {
		uint64_t word = i / 64;

		/* whole empty words at once: most of the map is */
		if (i % 64 == 0 && !__atomic_load_n(&r->zeros[word], __ATOMIC_ACQUIRE))
			i += 64;
		else
			i++;
	}
	if (i >= n_blocks)
		return false;
	for (end = i + 1; end < n_blocks && bitmap_test_atomic(r->zeros, end);)
		end++;
	*ret_begin = MAX(gfn, i * RESIDENT_BLOCK_PAGES);
	*ret_end = MIN(end * RESIDENT_BLOCK_PAGES, r->n_pages);
	return true;
}

bool resident_next_zeros(const struct resident *r, uint64_t gfn, struct page_run *ret)
{
	uint64_t begin, end;

	while (gfn < r->n_pages && next_remembered(r, gfn, &begin, &end)) {
		struct page_run run;
		uint64_t run_end;

		image_lookup(r->image, begin, &run);
		run_end = MIN(run.gfn + run.n_pages, end);
		if (run.layer == IMAGE_LAYER_ZERO) {
			*ret = (struct page_run){.gfn = begin,
						 .n_pages = run_end - begin,
						 .layer = IMAGE_LAYER_ZERO};
			return true;
		}
		gfn = run_end;
	}
	return false;
}

/* ---- what went wrong --------------------------------------------------------------------------
 */

void resident_note_failure(struct resident *r, uint32_t layer, uint32_t frame, const char *text)
{
	struct frame_failure *f;
	LOCK_SCOPE(&r->failure_lock);

	if (r->n_failures == RESIDENT_MAX_FAILURES)
		return;
	f = &r->failures[r->n_failures++];
	f->layer = layer;
	f->frame = frame;
	str_copy(f->text, sizeof(f->text), text);
}

void resident_failure(struct resident *r, uint32_t layer, uint32_t frame, char out[512])
{
	LOCK_SCOPE(&r->failure_lock);

	for (uint32_t i = 0; i < r->n_failures; i++) {
		if (r->failures[i].layer != layer || r->failures[i].frame != frame)
			continue;
		str_copy(out, 512, r->failures[i].text);
		return;
	}
	(void)snprintf(out, 512, "image %s layer %s frame %u is corrupt", image_id(r->image),
		       image_layer_id(r->image, layer), frame);
}

bool resident_has_failures(struct resident *r)
{
	LOCK_SCOPE(&r->failure_lock);

	return r->n_failures > 0;
}

/* Return: pages that the memfd has and nobody claimed; negative errno */
static int64_t excess(const struct resident *r)
{
	uint64_t allocated, claimed;
	int e = memfd_allocated_pages(r->memfd, &allocated);

	if (e < 0)
		return e;
	claimed = __atomic_load_n(&r->claimed_pages, __ATOMIC_SEQ_CST);
	return allocated > claimed ? (int64_t)(allocated - claimed) : 0;
}

void resident_keep(struct resident *r, bool keep)
{
	LOCK_SCOPE(&r->evict_lock);
	int64_t n = keep ? 0 : excess(r);

	/* what VMs without us added until now was right, and is counted while that is known */
	if (n > 0)
		__atomic_fetch_add(&r->claimed_pages, (uint64_t)n, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&r->n_kept, keep ? 1 : -1, __ATOMIC_SEQ_CST);
}

/* It looked as if. Nothing is evicted from here on, and what is wrong will stay so. */
static int audit_again(struct resident *r)
{
	LOCK_SCOPE(&r->evict_lock);
	int64_t n = excess(r);

	for (unsigned i = 0; i < AUDIT_TRIES && n > 0 && !r->n_kept; i++) {
		clock_sleep_ms(1);
		n = excess(r);
	}
	if (n > 0 && r->n_kept)
		__atomic_fetch_add(&r->claimed_pages, (uint64_t)n, __ATOMIC_SEQ_CST);
	else if (n > 0)
		__atomic_store_n(&r->poisoned, true, __ATOMIC_RELEASE);
	return n < 0 ? (int)n : 0;
}

int resident_audit(struct resident *r)
{
	int64_t n = excess(r);
	int e = 0;

	if (__atomic_load_n(&r->poisoned, __ATOMIC_ACQUIRE))
		return RESIDENT_E_POISONED;
	if (n > 0)
		e = audit_again(r);
	if (n < 0 || e < 0)
		return n < 0 ? (int)n : e;
	return __atomic_load_n(&r->poisoned, __ATOMIC_ACQUIRE) ? RESIDENT_E_POISONED : 0;
}

void resident_poison_text(const struct resident *r, char out[512])
{
	(void)snprintf(
		out, 512,
		"the resident memory of image %s holds a page that the pager did not put there: "
		"a process touched its mapping of it without a registered userfaultfd",
		image_id(r->image));
}
