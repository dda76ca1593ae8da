/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set-file.c - the file in a snapshot directory
 *
 * It comes and goes while the snapshot is in use. So a new one is made elsewhere and takes the name
 * by rename: whoever opens the name finds the old one or the new one, whole, also after a crash.
 */
#include "image/working-set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "image/outcome.h"
#include "image/plain-file.h"

#define ull(_v) ((unsigned long long)(_v))

static int read_file(int dirfd, struct buf *ret, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	uint64_t bytes;
	int r;

	if (faccessat(dirfd, WORKING_SET_NAME, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return WORKING_SET_E_ABSENT;
	r = plain_file_open(dirfd, WORKING_SET_NAME, WORKING_SET_NAME, problem, &fd, &bytes);
	if (r)
		return r;
	if (bytes > WORKING_SET_MAX_BYTES)
		return image_corrupt(problem, "working-set: %llu bytes, limit %u", ull(bytes),
				     WORKING_SET_MAX_BYTES);
	r = buf_reserve(ret, (size_t)bytes + 1);
	if (r == 0)
		r = fd_pread_full(fd, ret->data, (size_t)bytes, 0);
	if (r < 0) {
		problem_errno(problem, r, "working-set: reading %llu bytes", ull(bytes));
		return error_trace(r);
	}
	ret->len = (size_t)bytes;
	return 0;
}

int working_set_read(int dirfd, const struct image *image, struct problem *problem,
		     struct working_set *ret)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};
	_cleanup_buf_ struct buf file = {0};
	int r = read_file(dirfd, &file, problem);

	if (r == 0)
		r = working_set_decode(file.data, file.len, problem, &s);
	if (r)
		return r;
	if (strcmp(s.image_id, image_id(image)) || s.guest_pages != image_n_pages(image)) {
		problem_set(problem, 500,
			    "working-set: of image %s (%llu pages), but this is image %s (%llu "
			    "pages)",
			    s.image_id, ull(s.guest_pages), image_id(image),
			    ull(image_n_pages(image)));
		return WORKING_SET_E_STALE;
	}
	*ret = s;
	s = (struct working_set){0};
	return 0;
}

int working_set_check(int dirfd, const struct image *image, struct problem *problem)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};
	struct problem why = PROBLEM_INIT;
	int r = working_set_read(dirfd, image, &why, &s);

	if (r == 0 || r == WORKING_SET_E_ABSENT)
		return 0;
	if (r < 0) {
		problem_errno(problem, r, "working-set: reading it");
		return error_trace(r);
	}
	problem_set(problem, 500, "%s; the memory is whole, but a wake reads it in no good order",
		    why.message);
	problem_hint(problem, "dorm store repair removes it");
	return r == IMAGE_E_VERSION ? r : IMAGE_E_CORRUPT;
}

int working_set_write(int dirfd, const struct working_set *s, struct problem *problem)
{
	_cleanup_buf_ struct buf file = {0};
	int r = working_set_encode(s, &file);

	if (r == 0)
		r = file_write_atomic(dirfd, WORKING_SET_NAME, file.data, file.len, 0444);
	if (r < 0)
		problem_errno(problem, r, "working-set: writing it");
	return error_trace(r);
}

static int write_new(int root_fd, const char *path, const struct buf *file)
{
	_cleanup_fd_ int fd =
		openat(root_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	int r;

	if (fd < 0)
		return error_errno();
	r = fd_write_full(fd, file->data, file->len);
	if (r == 0 && fchmod(fd, 0444) < 0) /* whatever the umask is */
		r = error_errno();
	return r < 0 ? error_trace(r) : fd_sync(fd);
}

int working_set_replace(int root_fd, int dirfd, const struct working_set *s,
			struct problem *problem)
{
	_cleanup_buf_ struct buf file = {0};
	char id[ID_LEN + 1], path[ID_LEN + 8];
	int r = working_set_encode(s, &file);

	if (r == 0) {
		id_new('w', id);
		(void)snprintf(path, sizeof(path), "tmp/%s", id);
		r = write_new(root_fd, path, &file);
		if (r == 0 && renameat(root_fd, path, dirfd, WORKING_SET_NAME) < 0)
			r = error_errno();
		if (r < 0)
			(void)unlinkat(root_fd, path, 0); /* store_open() removes what stays */
	}
	if (r == 0)
		r = file_fsync_dir(dirfd);
	if (r < 0)
		problem_errno(problem, r, "working-set: replacing it");
	return error_trace(r);
}
