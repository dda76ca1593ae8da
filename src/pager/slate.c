/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/slate.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define MAGIC	"DORMSLT"
#define VERSION 1u

static_assert(sizeof(struct slate_header) == 64 + SLATE_INBOX * sizeof(struct uffd_msg),
	      "the format is as documented, and bitmaps are aligned");

static size_t bitmap_bytes(uint64_t n_pages)
{
	return (size_t)((n_pages + 63) / 64 * 8);
}

static size_t file_bytes(uint64_t n_pages)
{
	return sizeof(struct slate_header) + 2 * bitmap_bytes(n_pages);
}

/* @fd: -1 for memory of this process; it stays the caller's when this fails */
static int map(int fd, uint64_t n_pages, struct slate *ret)
{
	size_t len = file_bytes(n_pages);
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		return error_errno();
	(void)mlock(p, sizeof(struct slate_header)); /* the inbox is written by the kernel */
	*ret = (struct slate){.header = (void *)p,
			      .removed = (void *)(p + sizeof(struct slate_header)),
			      .n_pages = n_pages,
			      .map_len = len,
			      .fd = fd};
	ret->installed = ret->removed + bitmap_bytes(n_pages) / sizeof(bitmap_word);
	return 0;
}

int slate_new(int dirfd, const char *name, uint64_t n_pages, struct problem *problem,
	      struct slate *ret)
{
	_cleanup_fd_ int fd = -1;
	int r = 0;

	if (dirfd >= 0) {
		(void)unlinkat(dirfd, name, 0); /* whoever maps the old one keeps it */
		fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		/* allocated now: a full file system must not end us later, at a touch */
		if (fd < 0 || ftruncate(fd, (off_t)file_bytes(n_pages)) < 0)
			r = error_errno();
		else
			r = -posix_fallocate(fd, 0, (off_t)file_bytes(n_pages));
	} else if (dirfd == SLATE_MEMFD) {
		fd = memfd_create("dorm-slate", MFD_CLOEXEC);
		r = fd < 0 || ftruncate(fd, (off_t)file_bytes(n_pages)) < 0 ? error_errno() : 0;
	}
	if (r == 0)
		r = map(fd, n_pages, ret);
	if (r < 0) {
		problem_errno(problem, r, "cannot make the record of pages %s", name);
		if (dirfd >= 0)
			(void)unlinkat(dirfd, name, 0); /* nobody knows of it */
		return r;
	}
	(void)take_fd(fd);
	memcpy(ret->header->magic, MAGIC, sizeof(MAGIC));
	ret->header->version = VERSION;
	ret->header->n_pages = n_pages;
	return 0;
}

static int adopt(int given, const char *name, uint64_t n_pages, struct problem *problem,
		 struct slate *ret)
{
	_cleanup_fd_ int fd = given;
	struct slate_header h = {0};
	struct stat st;
	int r = fstat(fd, &st) < 0 ? error_errno() : fd_pread_full(fd, &h, sizeof(h), 0);

	if (r < 0 || (uint64_t)st.st_size != file_bytes(n_pages) || h.n_pages != n_pages ||
	    memcmp(h.magic, MAGIC, sizeof(MAGIC)) != 0 || h.version != VERSION) {
		problem_set(problem, 500, "the file %s is not a record of %llu pages", name,
			    (unsigned long long)n_pages);
		return -EBADMSG;
	}
	r = map(fd, n_pages, ret);
	if (r == 0)
		(void)take_fd(fd);
	return r;
}

int slate_open(int dirfd, const char *name, uint64_t n_pages, struct problem *problem,
	       struct slate *ret)
{
	_cleanup_fd_ int fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0) {
		int r = error_errno();

		problem_errno(problem, r, "cannot open the file %s of the run directory", name);
		return r;
	}
	return adopt(take_fd(fd), name, n_pages, problem, ret);
}

int slate_adopt(int fd, uint64_t n_pages, struct problem *problem, struct slate *ret)
{
	return adopt(fd, "that was kept", n_pages, problem, ret);
}

void slate_deinit(struct slate *s)
{
	if (s->header) {
		munmap(s->header, s->map_len);
		fd_close(s->fd);
	}
	*s = (struct slate){0};
}

void slate_remove(struct slate *s, uint64_t gfn, uint64_t n_pages)
{
	for (uint64_t i = gfn; i < gfn + n_pages; i++)
		(void)bitmap_set_atomic(s->removed, i);
	__atomic_store_n(&s->header->has_removed, 1, __ATOMIC_RELEASE);
}

void slate_install(struct slate *s, uint64_t gfn, uint64_t n_pages)
{
	for (uint64_t i = gfn; i < gfn + n_pages; i++)
		(void)bitmap_set_atomic(s->installed, i);
}
