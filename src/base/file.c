/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

int file_open_dir(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* As a listing: the descriptor is the listing's from here on. */
static int listing_of(int fd, DIR **ret)
{
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d) {
		int r = error_errno();

		fd_close(fd);
		return r;
	}
	*ret = d;
	return 0;
}

int file_opendir(int dirfd, const char *name, DIR **ret)
{
	return listing_of(openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret);
}

int file_mkdir_p(const char *path, mode_t mode)
{
	char tmp[4096];
	size_t n = strlen(path);

	if (n == 0 || n >= sizeof(tmp))
		return -ENAMETOOLONG;
	memcpy(tmp, path, n + 1);
	for (size_t i = 1; i <= n; i++) {
		if (tmp[i] != '/' && tmp[i] != 0)
			continue;
		tmp[i] = 0;
		if (mkdir(tmp, mode) < 0 && errno != EEXIST)
			return error_errno();
		tmp[i] = path[i];
	}
	return 0;
}

int file_remove_tree(int dirfd, const char *name)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int fd, r = 0;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return error_errno();
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = listing_of(fd, &d);
	if (!d)
		return r;
	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = file_remove_tree(fd, e->d_name);
	if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return error_errno();
	return r;
}

int file_read(int dirfd, const char *name, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_fd_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *data = NULL;
	size_t len = 0, cap = 4096;

	if (fd < 0)
		return -errno; /* absence is often expected; the caller traces */
	for (;;) {
		char *p = realloc(data, cap + 1);
		ssize_t n;

		if (!p)
			return -ENOMEM;
		data = p;
		n = read(fd, data + len, cap - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max)
			return -EFBIG;
		if (len == cap)
			cap *= 2;
	}
	data[len] = 0;
	*ret = take_ptr(data);
	if (ret_len)
		*ret_len = len;
	return 0;
}

int file_fsync_dir(int dirfd)
{
	return fd_sync(dirfd);
}

static int write_new(int dirfd, const char *name, const void *data, size_t len, mode_t mode,
		     bool durable)
{
	_cleanup_fd_ int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	int r;

	if (fd < 0)
		return error_errno();
	r = fd_write_full(fd, data, len);
	if (r < 0)
		return r;
	return durable ? fd_sync(fd) : 0;
}

static int replace(int dirfd, const char *name, const void *data, size_t len, mode_t mode,
		   bool durable)
{
	char tmp[512];
	int r, n;

	n = snprintf(tmp, sizeof(tmp), "%s.new.%d.%lx", name, getpid(), (unsigned long)pthread_self());
	if (n < 0 || (size_t)n >= sizeof(tmp))
		return -ENAMETOOLONG;
	r = write_new(dirfd, tmp, data, len, mode, durable);
	if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
		r = error_errno();
	if (r < 0)
		(void)unlinkat(dirfd, tmp, 0); /* the error at hand matters more */
	return r;
}

int file_replace(int dirfd, const char *name, const void *data, size_t len, mode_t mode)
{
	return replace(dirfd, name, data, len, mode, false);
}

int file_write_atomic(int dirfd, const char *name, const void *data, size_t len, mode_t mode)
{
	_cleanup_fd_ int parent = -1;
	const char *slash = strrchr(name, '/');
	char tmp[512];
	int r, n;

	r = replace(dirfd, name, data, len, mode, true);
	if (r < 0)
		return r;
	if (slash) {
		n = snprintf(tmp, sizeof(tmp), "%.*s", (int)MAX(slash - name, 1l), name);
		parent = n > 0 ? file_open_dir(dirfd, tmp) : -EINVAL;
	} else {
		parent = file_open_dir(dirfd, ".");
	}
	if (parent < 0)
		return error_trace(parent);
	return file_fsync_dir(parent);
}

int file_allocated_bytes(int dirfd, const char *name, uint64_t *ret)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	int fd, r;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno();
	*ret += (uint64_t)st.st_blocks * 512;
	if (!S_ISDIR(st.st_mode))
		return 0;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = listing_of(fd, &d);
	if (!d)
		return r;
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		r = file_allocated_bytes(fd, e->d_name, ret);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return 0;
}
