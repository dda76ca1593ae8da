/* SPDX-License-Identifier: Apache-2.0 */
#include "image/plain-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/disk.h"
#include "image/outcome.h"

#define COPY_BYTES (1u << 20)

static int explain_open(int r, const char *what, struct problem *problem)
{
	switch (r) {
	case -ENOENT:
		return image_corrupt(problem, "%s: missing", what);
	case -ELOOP:
		return image_corrupt(problem, "%s: is a symbolic link, not a file of ours", what);
	case -ENOTDIR:
		return image_corrupt(problem, "%s: not a directory", what);
	case -ENXIO: /* a socket, or a device without a driver */
		return image_corrupt(problem, "%s: not a regular file", what);
	default:
		problem_errno(problem, r, "%s: cannot be opened", what);
		return error_trace(r);
	}
}

int plain_file_open(int dirfd, const char *name, const char *what, struct problem *problem,
		    int *ret_fd, uint64_t *ret_bytes)
{
	/* O_NONBLOCK: a FIFO in the place of a file must not hold us up; no effect on files */
	_cleanup_fd_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return explain_open(-errno, what, problem);
	if (fstat(fd, &st) < 0)
		return explain_open(error_errno(), what, problem);
	if (!S_ISREG(st.st_mode))
		return image_corrupt(problem, "%s: not a regular file", what);
	*ret_fd = take_fd(fd);
	if (ret_bytes)
		*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

int plain_dir_open(int dirfd, const char *name, struct problem *problem, int *ret_fd)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return explain_open(-errno, name, problem);
	*ret_fd = fd;
	return 0;
}

static ssize_t read_some(int fd, void *buf, size_t len, uint64_t offset)
{
	ssize_t n;

	do
		n = pread(fd, buf, len, (off_t)offset);
	while (n < 0 && errno == EINTR);
	return n < 0 ? error_errno() : n;
}

static void xxh3_freep(XXH3_state_t **state)
{
	XXH3_freeState(*state);
}

int plain_file_digest(int fd, char ret_hex[DIGEST_LEN + 1])
{
	_cleanup_(xxh3_freep) XXH3_state_t *state = XXH3_createState();
	_cleanup_free_ char *buf = malloc(COPY_BYTES);
	XXH128_canonical_t canonical;
	ssize_t n;

	if (!state || !buf)
		return -ENOMEM;
	(void)XXH3_128bits_reset(state); /* fails only for NULL */
	for (uint64_t offset = 0;; offset += (uint64_t)n) {
		n = read_some(fd, buf, COPY_BYTES, offset);
		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		(void)XXH3_128bits_update(state, buf, (size_t)n); /* fails only for NULL */
	}
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
	str_hex(canonical.digest, DIGEST_BYTES, ret_hex);
	return 0;
}

int plain_file_copy(int from_fd, int dirfd, const char *name)
{
	return disk_copy(from_fd, dirfd, name, 0444, DISK_REFLINK_AUTO, NULL, NULL);
}

int plain_file_link(int from_dirfd, int to_dirfd, const char *name)
{
	return plain_file_link_as(from_dirfd, name, to_dirfd, name);
}

int plain_file_link_as(int from_dirfd, const char *from, int to_dirfd, const char *to)
{
	_cleanup_fd_ int fd = -1;

	if (linkat(from_dirfd, from, to_dirfd, to, 0) == 0)
		return 0;
	if (errno != EMLINK)
		return -errno; /* ENOENT and EEXIST are documented */
	fd = openat(from_dirfd, from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_errno();
	return plain_file_copy(fd, to_dirfd, to);
}
