/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/reclaim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "sys/pidfd.h"
#include "sys/proc.h"
#include "sys/uffd.h"

#define MAPS_MAX (16ul << 20)

int reclaim_process(int pid, uint64_t start_time, struct problem *problem)
{
	_cleanup_fd_ int pidfd = pidfd_from_pid(pid);
	uint64_t started;
	int r = pidfd < 0 ? pidfd : proc_start_time(pid, &started);

	if (r == -ESRCH) {
		problem_set(problem, 410, "its process (pid %d) has ended", pid);
		return r;
	}
	if (r < 0) {
		problem_errno(problem, r, "looking at its process (pid %d)", pid);
		return r;
	}
	/* the descriptor came first: if it were of a process before or after ours with the same
	 * number, that process would have another start, or be gone by now */
	if (started != start_time) {
		problem_set(problem, 410, "its process (pid %d) has ended, another has its number",
			    pid);
		return -ESRCH;
	}
	return take_fd(pidfd);
}

/* ---- the userfaultfd --------------------------------------------------------------------------
 */

static bool is_uffd(int dirfd, const char *name)
{
	char target[64];
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = 0;
	return !strcmp(target, "anon_inode:[userfaultfd]");
}

static bool owns(int uffd, const struct handshake *map, bool any)
{
	for (uint32_t i = 0; i < map->n_regions; i++)
		if ((uffd_owns(uffd, map->regions[i].hva) == 1) == any)
			return any;
	return !any;
}

/* Its descriptor @name, if that is what we look for. Return: descriptor; -ENOENT; negative errno */
static int try_uffd(int pidfd, const char *name, const struct handshake *map, bool any)
{
	_cleanup_fd_ int fd = -1;
	uint64_t number;

	if (str_to_u64(name, &number) < 0 || number > INT32_MAX)
		return -ENOENT;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)number, 0); /* CLOEXEC by itself */
	if (fd < 0)
		return errno == EBADF ? -ENOENT : -errno; /* EBADF: it closed it just now */
	return uffd_is(fd) && owns(fd, map, any) ? take_fd(fd) : -ENOENT;
}

static int find_uffd(int pid, int pidfd, const struct handshake *map, bool any, unsigned *ret_seen)
{
	_cleanup_dir_ DIR *d = NULL;
	const struct dirent *e;
	char path[64];
	int r;

	*ret_seen = 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	r = file_opendir(AT_FDCWD, path, &d);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	while ((e = readdir(d))) {
		if (!is_uffd(dirfd(d), e->d_name))
			continue;
		(*ret_seen)++;
		r = try_uffd(pidfd, e->d_name, map, any);
		if (r != -ENOENT)
			return r;
	}
	return -ENOENT;
}

int reclaim_uffd(int pid, int pidfd, const struct handshake *map, bool any, struct problem *problem)
{
	unsigned seen = 0;
	int r = find_uffd(pid, pidfd, map, any, &seen);

	if (r >= 0)
		return r;
	if (pidfd_is_gone(pidfd) == 1) {
		problem_set(problem, 410, "its process (pid %d) has ended", pid);
		return -ESRCH;
	}
	if (r == -ENOENT)
		problem_set(problem, 500,
			    seen ? "none of the %u userfaultfds of its process (pid %d) is "
				   "registered at its regions"
				 : "%u userfaultfds are open in its process (pid %d)",
			    seen, pid);
	else
		problem_errno(problem, r, "taking the userfaultfd of its process (pid %d)", pid);
	if (r == -EPERM || r == -EACCES)
		problem_hint(problem, "the pager needs CAP_SYS_PTRACE for that");
	return r;
}

/* ---- the memory -------------------------------------------------------------------------------
 */

/* The first mapping of the file, in the words of its entry in map_files. Return: was there one? */
static bool find_mapping(char *maps, uint64_t dev, uint64_t ino, char out[64])
{
	char *save = NULL;

	for (char *line = strtok_r(maps, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long long start, end, inode;
		unsigned major, minor;

		if (sscanf(line, "%llx-%llx %*s %*s %x:%x %llu", &start, &end, &major, &minor,
			   &inode) != 5 ||
		    inode != ino || makedev(major, minor) != dev)
			continue;
		(void)snprintf(out, 64, "%llx-%llx", start, end);
		return true;
	}
	return false;
}

static bool is_file(int fd, uint64_t dev, uint64_t ino)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

/* By its entry in map_files: needs CAP_CHECKPOINT_RESTORE. Return: read-only descriptor; -ENOENT */
static int open_mapping(int pid, uint64_t dev, uint64_t ino)
{
	_cleanup_free_ char *maps = NULL;
	_cleanup_fd_ int fd = -1;
	char path[128], name[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	r = file_read(AT_FDCWD, path, MAPS_MAX, &maps, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	if (!find_mapping(maps, dev, ino, name))
		return -ENOENT;
	(void)snprintf(path, sizeof(path), "/proc/%d/map_files/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* it may have mapped something else there meanwhile */
	return is_file(fd, dev, ino) ? take_fd(fd) : -ENOENT;
}

/* By a descriptor that it has open, if it has. Return: read-only descriptor; -ENOENT */
static int open_descriptor(int pid, uint64_t dev, uint64_t ino)
{
	_cleanup_dir_ DIR *d = NULL;
	const struct dirent *e;
	struct stat st;
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	r = file_opendir(AT_FDCWD, path, &d);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	while ((e = readdir(d))) {
		_cleanup_fd_ int fd = -1;

		if (fstatat(dirfd(d), e->d_name, &st, 0) < 0 || st.st_dev != dev ||
		    st.st_ino != ino)
			continue;
		fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && is_file(fd, dev, ino))
			return take_fd(fd);
	}
	return -ENOENT;
}

/* Its mode is 0444, which its owner may change. Nobody else can use the moment in between who could
 * not have done that himself. */
static int open_for_writing(int ro)
{
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == EACCES && fchmod(ro, 0600) == 0) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			fd = -errno;
		if (fchmod(ro, 0444) < 0 && fd >= 0)
			fd = fd_close(fd);
	}
	return fd < 0 ? -EACCES : fd;
}

int reclaim_memory(int pid, uint64_t dev, uint64_t ino, struct problem *problem)
{
	_cleanup_fd_ int ro = open_mapping(pid, dev, ino);
	int r;

	if (ro == -EPERM || ro == -EACCES) {
		int other = open_descriptor(pid, dev, ino);

		ro = other >= 0 ? other : ro;
	}
	r = ro < 0 ? ro : open_for_writing(ro);
	if (r >= 0)
		return r;
	if (r == -ENOENT)
		problem_set(problem, 500, "its process (pid %d) does not map the image's memory",
			    pid);
	else
		problem_errno(problem, r,
			      "opening the memory that its process (pid %d) maps for writing", pid);
	if (r == -EPERM || r == -EACCES)
		problem_hint(problem, "the pager needs CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE "
				      "for that, and to be the user that the last one was");
	return r;
}
