/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.c - copying a file that is large and mostly holes
 *
 * Three ways, from the fastest: FICLONE shares all blocks and costs nothing; copy_file_range() lets
 * the kernel move the data (or share it, so it is not used when the caller wants a true copy); read
 * and write do everywhere. The first two are refused by many file systems, and between two of them,
 * with one of several errors (is_refusal()); then the next way goes on where the last one stopped.
 *
 * Holes: the copy gets its size first, so that all of it is a hole, and only data is written. A
 * file system that does not know SEEK_DATA says that all is data, or EINVAL. Then the blocks of
 * zeros are found by reading: what read and write copy is looked at in blocks of 64 KiB, and zeros
 * are left out.
 *
 *     source   |data 0-64K|hole 64K-1M|data 1M-1M+100|      size 1 MiB + 100
 *     SEEK_DATA(0) = 0, SEEK_HOLE(0) = 64K: copied; SEEK_DATA(64K) = 1M, SEEK_HOLE(1M) = the end:
 *     copied; SEEK_DATA(the end) = ENXIO: done. 65636 bytes were copied of 1048676.
 */
#include "image/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"

#define BLOCK_BYTES (64u << 10)
#define STEP_BYTES  (1u << 30) /* of one copy_file_range(); the kernel's own limit is near 2 GiB */

struct copy {
	int from, to;
	bool by_kernel; /* copy_file_range() has not been refused yet */
	uint8_t *block; /* BLOCK_BYTES, when it was */
	uint64_t copied;
};

int disk_reflink_parse(const char *text, enum disk_reflink *ret)
{
	static const char *const names[] = {
		[DISK_REFLINK_AUTO] = "auto",
		[DISK_REFLINK_ALWAYS] = "always",
		[DISK_REFLINK_NEVER] = "never",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(text, names[i]))
			continue;
		*ret = (enum disk_reflink)i;
		return 0;
	}
	return -EINVAL;
}

/* Does this error mean "not this way", and not that something is wrong? */
static bool is_refusal(int e)
{
	return e == EOPNOTSUPP || e == EXDEV || e == EINVAL || e == ENOSYS || e == ENOTTY ||
	       e == EPERM; /* the last from a seccomp filter that does not know the call */
}

/* ---- reflink ----------------------------------------------------------------------------------
 */

static int reflink_file(int from, int to)
{
	int r;

	do
		r = ioctl(to, FICLONE, from);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

static const char *file_system_name(int fd)
{
	static const struct {
		long magic;
		const char *name;
	} known[] = {
		{EXT4_SUPER_MAGIC, "ext4"},
		{TMPFS_MAGIC, "tmpfs"},
		{OVERLAYFS_SUPER_MAGIC, "overlayfs"},
		{XFS_SUPER_MAGIC, "XFS without reflink=1"},
		{BTRFS_SUPER_MAGIC, "btrfs"},
		{NFS_SUPER_MAGIC, "NFS"},
		{F2FS_SUPER_MAGIC, "F2FS"},
		{FUSE_SUPER_MAGIC, "FUSE"},
		{0x2fc12fc1, "ZFS"},
	};
	struct statfs st;

	if (fstatfs(fd, &st) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			if (st.f_type == known[i].magic)
				return known[i].name;
	return "its file system";
}

static int refuse_copy(const struct copy *c, int r, const char *name, struct problem *problem)
{
	struct stat from, to;

	if (fstat(c->from, &from) == 0 && fstat(c->to, &to) == 0 && from.st_dev != to.st_dev)
		problem_set(problem, 501,
			    "%s: cannot be a reflink: it lies on another file system (%s) than "
			    "its source (%s)",
			    name, file_system_name(c->to), file_system_name(c->from));
	else
		problem_set(problem, 501, "%s: cannot be a reflink: %s refuses (%s)", name,
			    file_system_name(c->to), strerrordesc_np(-r));
	problem_hint(problem, "put the store on btrfs, or on XFS made with reflink=1; or allow "
			      "copies with --reflink=auto");
	return -EOPNOTSUPP;
}

/* ---- copying ----------------------------------------------------------------------------------
 */

static bool is_zero(const uint8_t *p, size_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

static int write_at(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pwrite(fd, data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		done += (size_t)n;
	}
	return 0;
}

static int copy_by_hand(struct copy *c, uint64_t offset, uint64_t end)
{
	if (!c->block)
		c->block = malloc(BLOCK_BYTES);
	if (!c->block)
		return -ENOMEM;
	while (offset < end) {
		size_t len = MIN(end - offset, (uint64_t)BLOCK_BYTES);
		int r = fd_pread_full(c->from, c->block, len, offset);

		if (r == 0 && !is_zero(c->block, len)) {
			r = write_at(c->to, c->block, len, offset);
			c->copied += len;
		}
		if (r < 0)
			return r;
		offset += len;
	}
	return 0;
}

static int copy_range(struct copy *c, uint64_t offset, uint64_t end)
{
	while (c->by_kernel && offset < end) {
		loff_t in = (loff_t)offset, out = (loff_t)offset;
		ssize_t n = copy_file_range(c->from, &in, c->to, &out,
					    MIN(end - offset, (uint64_t)STEP_BYTES), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !is_refusal(errno))
			return error_errno();
		/* 0 is the end of the file, or a file system that cannot and does not say so */
		c->by_kernel = n > 0;
		if (n > 0) {
			offset += (uint64_t)n;
			c->copied += (uint64_t)n;
		}
	}
	return copy_by_hand(c, offset, end);
}

/* The next data at or after @offset. Return: 1; 0 when there is only a hole; negative errno */
static int next_data(int fd, uint64_t offset, uint64_t size, uint64_t *ret_data, uint64_t *ret_end)
{
	off_t data = lseek(fd, (off_t)offset, SEEK_DATA), hole;

	if (data < 0 && errno == ENXIO)
		return 0;
	if (data < 0 && !is_refusal(errno))
		return error_errno();
	hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
	*ret_data = data < 0 ? offset : (uint64_t)data;
	*ret_end = hole < 0 ? size : MIN((uint64_t)hole, size);
	return *ret_data < size;
}

static int set_size(int fd, uint64_t size)
{
	int r;

	do
		r = ftruncate(fd, (off_t)size);
	while (r < 0 && errno == EINTR);
	return r < 0 ? error_errno() : 0;
}

static int copy_data(struct copy *c, uint64_t size)
{
	uint64_t data = 0, end = 0;
	int r = set_size(c->to, size);

	while (r == 0 && end < size) {
		r = next_data(c->from, end, size, &data, &end);
		if (r <= 0)
			return r;
		r = copy_range(c, data, end);
	}
	return r;
}

static int fill(struct copy *c, const char *name, uint64_t size, enum disk_reflink reflink,
		struct problem *problem, bool *ret_reflinked)
{
	int r = reflink == DISK_REFLINK_NEVER ? -EOPNOTSUPP : reflink_file(c->from, c->to);

	*ret_reflinked = r == 0;
	if (r < 0 && !is_refusal(-r))
		return error_trace(r);
	if (r < 0 && reflink == DISK_REFLINK_ALWAYS)
		return refuse_copy(c, r, name, problem);
	return r == 0 ? 0 : copy_data(c, size);
}

int disk_copy(int from_fd, int to_dirfd, const char *name, unsigned mode, enum disk_reflink reflink,
	      struct problem *problem, struct disk_copy_stats *ret)
{
	struct copy c = {.from = from_fd, .by_kernel = reflink != DISK_REFLINK_NEVER};
	_cleanup_fd_ int to = openat(to_dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct disk_copy_stats stats = {0};
	struct stat st = {0};
	int r = to < 0 ? -errno : 0;

	if (r < 0) {
		problem_errno(problem, r, "%s: cannot be created", name);
		return r; /* EEXIST is documented */
	}
	c.to = to;
	r = fstat(from_fd, &st) < 0 ? error_errno() : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	if (r == 0)
		r = fill(&c, name, (uint64_t)st.st_size, reflink, problem, &stats.reflinked);
	if (r == 0 && fchmod(to, mode) < 0)
		r = error_errno();
	if (r == 0)
		r = fd_sync(to);
	free(c.block);
	if (r < 0) {
		problem_errno(problem, r, "%s: copying it", name);
		(void)unlinkat(to_dirfd, name, 0); /* the error at hand matters more */
		return error_trace(r);
	}
	stats.bytes_total = (uint64_t)st.st_size;
	stats.bytes_copied = c.copied;
	if (ret)
		*ret = stats;
	return 0;
}
