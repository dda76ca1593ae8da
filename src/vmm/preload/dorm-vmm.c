/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm-vmm.c - libdorm-vmm.so, preloaded into a stock QEMU: gives its guest memory to the pager
 *
 * QEMU is told to take its memory from the file DORM_MEMORY_PATH, which does not exist. This
 * library stands between it and libc at two places:
 *
 *  open of that path   gives a duplicate of descriptor DORM_VMM_MEMORY_FD, inherited and read-only:
 *                      QEMU asks for read-write and must not get it, for the file is the resident
 *                      memory that all VMs of an image share.
 *  mmap of that file   must be private. The range is registered with a new userfaultfd, in the
 *                      modes that DORM_VMM_UFFD names, and handed to the pager at
 *                      DORM_VMM_PAGER_SOCKET in Firecracker's form: a JSON array of regions, with
 *                      the descriptor as SCM_RIGHTS.
 *
 * With DORM_VMM_UFFD=none there is no userfaultfd: the file is complete before this process starts,
 * every touch is an ordinary page fault, and the array goes without a descriptor, so that the pager
 * knows whose process uses the memory.
 *
 * Invariants: the userfaultfd and the socket stay open for the life of the process, so that the
 * death of the pager can never turn a missing page into zeros (missing pages of a userfaultfd whose
 * last descriptor is closed read as zeros). The memory is mapped once. Whatever fails ends the
 * process with status 70 and a line on standard error: a VM without its pager must never run.
 *
 * Only system calls and functions that allocate nothing, and no sanitizer: this runs inside another
 * program, before and beside its own code. The calls that are replaced go to the kernel directly.
 * Source: userfaultfd(2); Firecracker docs/snapshotting/handling-page-faults-on-snapshot-resume.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/preload/dorm-vmm.h"

/* What later registrations may need and the kernel may have; missing from headers before 6.2. */
#define FEATURE_WP_SHMEM    (1ull << 12) /* UFFD_FEATURE_WP_HUGETLBFS_SHMEM */
#define FEATURE_MINOR_SHMEM (1ull << 10)
#define FEATURES_WANTED	    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_SHMEM | FEATURE_MINOR_SHMEM)
#define DEV_USERFAULTFD_NEW _IO(0xAA, 0x00)

static bool mapped;

static void __attribute__((noreturn)) die(const char *what, int e)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "libdorm-vmm: %s%s%s\n", what, e ? ": " : "",
			 e ? strerrordesc_np(e) : "");

	(void)!write(STDERR_FILENO, line, (size_t)n); /* nobody left to tell */
	_exit(DORM_VMM_EXIT_STATUS);
}

/* The number of an inherited descriptor; -1: none is named */
static int inherited(const char *variable)
{
	const char *s = getenv(variable);

	return s && *s ? atoi(s) : -1;
}

/* The inherited descriptor, or -1 when there is none: then this is not one of our VMs. */
static int memory_fd(void)
{
	return inherited(DORM_VMM_MEMORY_FD);
}

static bool is_memory_path(const char *path)
{
	return path && strcmp(path, DORM_MEMORY_PATH) == 0;
}

static int open_memory(void)
{
	int fd = memory_fd(), flags = fd < 0 ? -1 : fcntl(fd, F_GETFL), copy;

	if (flags < 0)
		die("no descriptor of the guest's memory in " DORM_VMM_MEMORY_FD, 0);
	if ((flags & O_ACCMODE) != O_RDONLY)
		die("the descriptor of the guest's memory is writable", 0);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		die("cannot duplicate the descriptor of the guest's memory", errno);
	return copy;
}

static int do_open(int dirfd, const char *path, int flags, mode_t mode)
{
	if (is_memory_path(path))
		return open_memory();
	return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

/* Ours or the one that we were given; the caller closes it in either case. */
static int open_device(void)
{
	int given = inherited(DORM_VMM_UFFD_FD);

	if (given >= 0)
		return fcntl(given, F_DUPFD_CLOEXEC, 3);
	return (int)syscall(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC, 0);
}

static int new_userfaultfd(void)
{
	int dev = open_device(), fd;

	if (dev >= 0) {
		fd = ioctl(dev, DEV_USERFAULTFD_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		die("cannot make a userfaultfd", errno);
	return fd;
}

/* Features that the kernel lacks make UFFDIO_API fail: ask on a throw-away descriptor first. */
static uint64_t offered_features(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = new_userfaultfd();

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		die("UFFDIO_API", errno);
	close(fd);
	return api.features;
}

/* The modes to register with; 0: do without a userfaultfd. */
static uint64_t wanted_mode(void)
{
	const char *s = getenv(DORM_VMM_UFFD);

	if (!s || !*s || strcmp(s, DORM_VMM_UFFD_MISSING) == 0)
		return UFFDIO_REGISTER_MODE_MISSING;
	if (strcmp(s, DORM_VMM_UFFD_MINOR) == 0)
		return UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
	if (strcmp(s, DORM_VMM_UFFD_NONE) == 0)
		return 0;
	die("unknown word in " DORM_VMM_UFFD, 0);
}

static int register_range(void *p, size_t len, uint64_t mode)
{
	struct uffdio_api api = {.api = UFFD_API, .features = offered_features() & FEATURES_WANTED};
	struct uffdio_register reg = {.range = {(uintptr_t)p, len}, .mode = mode};
	int fd = new_userfaultfd();

	if ((mode & UFFDIO_REGISTER_MODE_MINOR) && !(api.features & FEATURE_MINOR_SHMEM))
		die("this kernel has no minor faults of shared memory (Linux 5.14)", 0);
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		die("UFFDIO_API", errno);
	if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		die("cannot register the guest's memory with userfaultfd", errno);
	return fd;
}

static int connect_pager(void)
{
	const char *path = getenv(DORM_VMM_PAGER_SOCKET);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int s = inherited(DORM_VMM_PAGER_FD);

	if (s >= 0) {
		(void)fcntl(s, F_SETFD, FD_CLOEXEC); /* cannot fail: it is open */
		return s;
	}
	if (!path || !*path || strlen(path) >= sizeof(sa.sun_path))
		die("no usable path of the pager's socket in " DORM_VMM_PAGER_SOCKET, 0);
	memcpy(sa.sun_path, path, strlen(path));
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		die("cannot connect to the pager", errno);
	return s;
}

/* @uffd: -1: the region alone */
static void send_region(int sock, int uffd, void *p, size_t len, off_t offset)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	char json[192];
	int n = snprintf(json, sizeof(json),
			 "[{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,"
			 "\"page_size\":4096}]",
			 (unsigned long long)(uintptr_t)p, (unsigned long long)len,
			 (unsigned long long)offset);
	struct iovec iov = {json, (size_t)n};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = uffd < 0 ? NULL : control.space,
			   .msg_controllen = uffd < 0 ? 0 : sizeof(control.space)};
	struct cmsghdr *c = &control.align;

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &uffd, sizeof(int));
	if (sendmsg(sock, &m, MSG_NOSIGNAL) != n)
		die("cannot hand the guest's memory to the pager", errno);
}

/* Is @fd the guest's memory? By identity of the file: QEMU duplicates descriptors freely. */
static bool is_memory(int fd)
{
	int mine = memory_fd();
	struct stat a, b;

	return mine >= 0 && fd >= 0 && fstat(fd, &a) == 0 && fstat(mine, &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The descriptors stay open on purpose: see the invariants above. */
static void adopt_mapping(void *p, size_t len, int flags, off_t offset)
{
	uint64_t mode = wanted_mode();
	int saved = errno, uffd;

	if (!(flags & MAP_PRIVATE))
		die("the guest's memory must be mapped privately", 0);
	if (__atomic_exchange_n(&mapped, true, __ATOMIC_SEQ_CST))
		die("the guest's memory was mapped a second time", 0);
	uffd = mode ? register_range(p, len, mode) : -1;
	if (inherited(DORM_VMM_UFFD_FD) >= 0)
		close(inherited(DORM_VMM_UFFD_FD)); /* one was enough */
	send_region(connect_pager(), uffd, p, len, offset);
	errno = saved;
}

static void *do_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	void *p = (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);

	/* without access it only reserves addresses, as QEMU does before it maps the file over them
	 */
	if (p != MAP_FAILED && !(flags & MAP_ANONYMOUS) && prot != PROT_NONE && is_memory(fd))
		adopt_mapping(p, len, flags, offset);
	return p;
}

#define MODE_ARGUMENT(_flags)                                                                      \
	({                                                                                         \
		mode_t _mode = 0;                                                                  \
		if (_flags & (O_CREAT | __O_TMPFILE)) {                                            \
			va_list _ap;                                                               \
			va_start(_ap, flags);                                                      \
			_mode = va_arg(_ap, mode_t);                                               \
			va_end(_ap);                                                               \
		}                                                                                  \
		_mode;                                                                             \
	})

#define EXPORT __attribute__((visibility("default")))

EXPORT int open(const char *path, int flags, ...)
{
	return do_open(AT_FDCWD, path, flags, MODE_ARGUMENT(flags));
}

EXPORT int open64(const char *path, int flags, ...)
{
	return do_open(AT_FDCWD, path, flags, MODE_ARGUMENT(flags));
}

EXPORT int openat(int dirfd, const char *path, int flags, ...)
{
	return do_open(dirfd, path, flags, MODE_ARGUMENT(flags));
}

EXPORT int openat64(int dirfd, const char *path, int flags, ...)
{
	return do_open(dirfd, path, flags, MODE_ARGUMENT(flags));
}

/* What a fortified program calls instead; libc declares them for its own macros only. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}

EXPORT int __openat_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags, 0);
}

EXPORT int __openat64_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags, 0);
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	return do_mmap(addr, len, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	return do_mmap(addr, len, prot, flags, fd, offset);
}
