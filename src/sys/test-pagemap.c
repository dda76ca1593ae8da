/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "sys/pagemap.h"

#define P	 DORM_PAGE_SIZE
#define N_PAGES	 512ul
#define WP_SHMEM (1ull << 12) /* UFFD_FEATURE_WP_HUGETLBFS_SHMEM */

/*
 * A private mapping of a memfd with something of everything:
 *   0-63    untouched        64-127  read            128-191 written
 *   192-255 zero pages       256-319 read, then every second written
 *   320-383 absent, write-protect markers            384-447 untouched
 *   448-511 written, then write-protected
 */
struct fixture {
	int memfd, uffd, pagemap;
	char *p;
};

static bool setup_uffd(struct fixture *f)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | WP_SHMEM};
	struct uffdio_register reg = {.range = {(uintptr_t)f->p, N_PAGES * P},
				      .mode = UFFDIO_REGISTER_MODE_MISSING |
					      UFFDIO_REGISTER_MODE_WP};
	_cleanup_fd_ int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	f->uffd = dev < 0 ? -1 : ioctl(dev, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
	return f->uffd >= 0 && ioctl(f->uffd, UFFDIO_API, &api) == 0 &&
	       ioctl(f->uffd, UFFDIO_REGISTER, &reg) == 0;
}

static void protect(struct fixture *f, size_t page, size_t n)
{
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)f->p + page * P, n * P},
					 .mode = UFFDIO_WRITEPROTECT_MODE_WP};

	assert_int_equal(ioctl(f->uffd, UFFDIO_WRITEPROTECT, &wp), 0);
}

static int setup(void **state)
{
	static struct fixture f;
	static char page[P] = {1};
	struct uffdio_zeropage z;

	f.memfd = memfd_create("pagemap-test", MFD_CLOEXEC);
	for (size_t i = 0; i < N_PAGES; i++)
		assert_int_equal(fd_write_full(f.memfd, page, P), 0);
	f.p = mmap(NULL, N_PAGES * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, f.memfd, 0);
	f.pagemap = pagemap_open(getpid());
	if (f.p == MAP_FAILED || f.pagemap < 0 || !setup_uffd(&f)) {
		print_message("userfaultfd or pagemap is not available here\n");
		exit(77);
	}
	z.range = (struct uffdio_range){(uintptr_t)f.p + 192 * P, 64 * P};
	z.mode = 0;
	assert_int_equal(ioctl(f.uffd, UFFDIO_ZEROPAGE, &z), 0);
	for (size_t i = 64; i < 128; i++)
		(void)*(volatile char *)(f.p + i * P);
	for (size_t i = 256; i < 320; i++)
		(void)*(volatile char *)(f.p + i * P);
	for (size_t i = 256; i < 320; i += 2)
		f.p[i * P] = 2;
	memset(f.p + 128 * P, 3, 64 * P);
	memset(f.p + 448 * P, 3, 64 * P);
	protect(&f, 320, 64);
	protect(&f, 448, 64);
	*state = &f;
	return 0;
}

static void check_list(const struct fixture *f, const struct pagemap_list *l)
{
	assert_int_equal(l->n, 1 + 32 + 1);
	assert_int_equal(l->items[0].start, (uintptr_t)f->p + 128 * P);
	assert_int_equal(l->items[0].n_pages, 64);
	for (size_t i = 0; i < 32; i++) {
		assert_int_equal(l->items[1 + i].start, (uintptr_t)f->p + (256 + 2 * i) * P);
		assert_int_equal(l->items[1 + i].n_pages, 1);
	}
	assert_int_equal(l->items[33].start, (uintptr_t)f->p + 448 * P);
	assert_int_equal(l->items[33].n_pages, 64);
}

static void test_scan(void **state)
{
	struct fixture *f = *state;
	struct pagemap_list l = {0};
	int r = pagemap_written_scan(f->pagemap, (uintptr_t)f->p, (uintptr_t)f->p + N_PAGES * P,
				     &l);

	if (r == -ENOTTY) {
		print_message("this kernel has no PAGEMAP_SCAN\n");
		skip();
	}
	assert_int_equal(r, 0);
	check_list(f, &l);
	pagemap_list_deinit(&l);
}

static void test_read(void **state)
{
	struct fixture *f = *state;
	struct pagemap_list l = {0};

	assert_int_equal(pagemap_written_read(f->pagemap, (uintptr_t)f->p,
					      (uintptr_t)f->p + N_PAGES * P, &l),
			 0);
	check_list(f, &l);
	pagemap_list_deinit(&l);
}

static void test_either(void **state)
{
	struct fixture *f = *state;
	struct pagemap_list l = {0};

	assert_int_equal(
		pagemap_written(f->pagemap, (uintptr_t)f->p, (uintptr_t)f->p + N_PAGES * P, &l), 0);
	check_list(f, &l);
	pagemap_list_deinit(&l);
	/* a part, appended twice piecewise, merges */
	assert_int_equal(pagemap_written(f->pagemap, (uintptr_t)f->p + 130 * P,
					 (uintptr_t)f->p + 140 * P, &l),
			 0);
	assert_int_equal(pagemap_written(f->pagemap, (uintptr_t)f->p + 140 * P,
					 (uintptr_t)f->p + 200 * P, &l),
			 0);
	assert_int_equal(l.n, 1);
	assert_int_equal(l.items[0].n_pages, 62);
	pagemap_list_deinit(&l);
}

static void test_count(void **state)
{
	struct fixture *f = *state;
	struct pagemap_count c;

	assert_int_equal(
		pagemap_count(f->pagemap, (uintptr_t)f->p, (uintptr_t)f->p + N_PAGES * P, &c), 0);
	assert_int_equal(c.written, 64 + 32 + 64);
	/* at least those that were read; fault-around may map their neighbours too */
	assert_true(c.shared >= 64 + 32);
	assert_true(c.shared <= N_PAGES - c.written - 64);
}

static bool has(const struct pagemap_list *l, const struct fixture *f, size_t page)
{
	const uint64_t at = (uintptr_t)f->p + page * P;

	for (size_t i = 0; i < l->n; i++)
		if (at >= l->items[i].start && at < l->items[i].start + l->items[i].n_pages * P)
			return true;
	return false;
}

/* Fault-around maps neighbours in an aligned window of 16 pages: all read windows here are whole.
 */
static void check_touched(const struct fixture *f, const struct pagemap_list *l)
{
	for (size_t i = 0; i < N_PAGES; i++) {
		const bool must = (i >= 64 && i < 192) || (i >= 256 && i < 320) || i >= 448;
		const bool never = (i >= 192 && i < 256);

		if ((must && !has(l, f, i)) || (never && has(l, f, i)))
			fail_msg("page %zu: touched %d", i, has(l, f, i));
	}
	assert_false(has(l, f, 0) || has(l, f, 430)); /* far from everything */
	assert_false(has(l, f, 350));		      /* a marker is no page */
}

static void test_touched(void **state)
{
	struct fixture *f = *state;
	const uint64_t start = (uintptr_t)f->p, end = start + N_PAGES * P;
	struct pagemap_list a = {0}, b = {0};
	int r = pagemap_touched_scan(f->pagemap, start, end, &a);

	if (r != -ENOTTY) {
		assert_int_equal(r, 0);
		check_touched(f, &a);
	}
	assert_int_equal(pagemap_touched_read(f->pagemap, start, end, &b), 0);
	check_touched(f, &b);
	if (r == 0) {
		assert_int_equal(a.n, b.n);
		assert_memory_equal(a.items, b.items, a.n * sizeof(*a.items));
	}
	pagemap_list_deinit(&a);
	pagemap_list_deinit(&b);
}

/* Of another process: it reads two pages far apart, and writes one. */
static void test_touched_elsewhere(void **state)
{
	struct fixture *f = *state;
	char *p = mmap(NULL, N_PAGES * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, f->memfd, 0);
	const uint64_t start = (uintptr_t)p;
	struct pagemap_list l = {0};
	uint64_t n = 0;
	int ready[2], fd;
	pid_t pid;
	char c;

	assert_true(p != MAP_FAILED && pipe(ready) == 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)*(volatile char *)(p + 5 * P);
		(void)*(volatile char *)(p + 300 * P);
		p[400 * P] = 1;
		(void)!write(ready[1], "r", 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	fd = pagemap_open(pid);
	assert_true(fd >= 0);
	assert_int_equal(pagemap_touched(fd, start, start + N_PAGES * P, &l), 0);
	for (size_t i = 0; i < l.n; i++) {
		const uint64_t first = (l.items[i].start - start) / P;

		n += l.items[i].n_pages;
		/* the window is aligned in the address space, wherever the mapping begins */
		assert_true(first + l.items[i].n_pages <= 5 + 16 ||
			    (first > 300 - 16 && first + l.items[i].n_pages <= 300 + 16) ||
			    (first == 400 && l.items[i].n_pages == 1));
	}
	assert_true(n >= 3 && n <= 16 + 16 + 1);
	pagemap_list_deinit(&l);
	assert_int_equal(pagemap_touched(f->pagemap, start, start + N_PAGES * P, &l), 0);
	assert_int_equal(l.n, 0); /* we ourselves touched nothing of it */
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	fd_close(fd);
	fd_close(ready[0]);
	fd_close(ready[1]);
	munmap(p, N_PAGES * P);
}

/* More regions than one ioctl returns: every second page of a large mapping. */
static void test_many(void **state)
{
	struct fixture *f = *state;
	size_t n = 20000;
	char *p = mmap(NULL, n * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, f->memfd, 0);
	struct pagemap_list a = {0}, b = {0};

	assert_int_equal(ftruncate(f->memfd, (off_t)(n * P)), 0);
	for (size_t i = 1; i < n; i += 2)
		p[i * P] = 1;
	assert_int_equal(pagemap_written(f->pagemap, (uintptr_t)p, (uintptr_t)p + n * P, &a), 0);
	assert_int_equal(pagemap_written_read(f->pagemap, (uintptr_t)p, (uintptr_t)p + n * P, &b),
			 0);
	assert_int_equal(a.n, n / 2);
	assert_int_equal(b.n, n / 2);
	assert_memory_equal(a.items, b.items, a.n * sizeof(*a.items));
	pagemap_list_deinit(&a);
	pagemap_list_deinit(&b);
	munmap(p, n * P);
}

static void test_gone(void **state)
{
	struct fixture *f = *state;
	struct pagemap_list l = {0};
	pid_t pid = fork();
	int fd, r;

	assert_true(pid >= 0);
	if (pid == 0) {
		pause();
		_exit(0);
	}
	fd = pagemap_open(pid);
	assert_true(fd >= 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(pagemap_open(pid), -ESRCH);
	assert_int_equal(pagemap_written_read(fd, (uintptr_t)f->p, (uintptr_t)f->p + P, &l),
			 -ESRCH);
	r = pagemap_written(fd, (uintptr_t)f->p, (uintptr_t)f->p + P, &l);
	assert_int_equal(r, -ESRCH);
	assert_int_equal(l.n, 0);
	fd_close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scan),	cmocka_unit_test(test_read),
		cmocka_unit_test(test_either),	cmocka_unit_test(test_count),
		cmocka_unit_test(test_touched), cmocka_unit_test(test_touched_elsewhere),
		cmocka_unit_test(test_many),	cmocka_unit_test(test_gone)};

	return cmocka_run_group_tests(tests, setup, NULL);
}
