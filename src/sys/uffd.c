/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x08
#endif

/* Set once by uffd_keep_device(), before there are threads; never closed. */
static int kept_device = -1;

static int open_device(void)
{
	return open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
}

void uffd_keep_device(void)
{
	if (kept_device < 0)
		kept_device = open_device();
}

static int open_raw(void)
{
	_cleanup_fd_ int opened = kept_device < 0 ? open_device() : -1;
	int dev = kept_device < 0 ? opened : kept_device, fd;

	if (dev >= 0)
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? error_errno() : fd;
}

static int agree(int fd_consume, uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	_cleanup_fd_ int fd = fd_consume;

	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return error_errno();
	return take_fd(fd);
}

int uffd_new(uint64_t features)
{
	return agree(open_raw(), features);
}

int uffd_new_for_copy(void)
{
	int fd = open_raw();

	if (fd == -EPERM || fd == -EACCES) {
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
		if (fd < 0)
			return error_errno();
	}
	return agree(fd, 0);
}

bool uffd_is(int fd)
{
	char path[64], target[64];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = 0;
	return !strcmp(target, "anon_inode:[userfaultfd]");
}

int uffd_register(int fd, uint64_t addr, uint64_t len, uint64_t mode)
{
	struct uffdio_register reg = {.range = {.start = addr, .len = len}, .mode = mode};

	return ioctl(fd, UFFDIO_REGISTER, &reg) < 0 ? error_errno() : 0;
}

int uffd_read(int fd, struct uffd_msg *msgs, size_t max)
{
	struct iovec iov = {.iov_base = msgs, .iov_len = max * sizeof(*msgs)};
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

	if (n < 0 && errno == EOPNOTSUPP)
		n = read(fd, msgs, max * sizeof(*msgs));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : error_errno();
	return (int)((size_t)n / sizeof(*msgs));
}

/*
 * COPY and ZEROPAGE answer alike: the ioctl fails unless everything was done, and the last field
 * holds the bytes done before that, or, when there were none, the negative errno.
 */
static int finish(int r, int64_t result, uint64_t *ret_done)
{
	int e = errno;

	if (r == 0) {
		*ret_done = (uint64_t)result;
		return 0;
	}
	*ret_done = result > 0 ? (uint64_t)result : 0;
	return e > 0 ? -e : -EIO; /* expected answers among them: not worth a trace */
}

int uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *ret_done)
{
	struct uffdio_copy c = {.dst = dst, .src = (uintptr_t)src, .len = len};
	int r = ioctl(fd, UFFDIO_COPY, &c);

	return finish(r, c.copy, ret_done);
}

int uffd_zeropage(int fd, uint64_t dst, uint64_t len, uint64_t *ret_done)
{
	struct uffdio_zeropage z = {.range = {.start = dst, .len = len},
				    .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};
	int r = ioctl(fd, UFFDIO_ZEROPAGE, &z);

	return finish(r, z.zeropage, ret_done);
}

int uffd_continue(int fd, uint64_t dst, uint64_t len, uint64_t *ret_done)
{
	struct uffdio_continue c = {.range = {.start = dst, .len = len}};
	int r = ioctl(fd, UFFDIO_CONTINUE, &c);

	return finish(r, c.mapped, ret_done);
}

int uffd_unregister(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = {.start = addr, .len = len};

	return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? error_errno() : 0;
}

/* The line is "API:\t<api>:<features>:<all ioctls and features>", in hexadecimal. */
uint64_t uffd_features(int fd)
{
	char path[64], text[512];
	unsigned long long api, features;
	const char *line;
	FILE *f;
	size_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	if (!f)
		return 0;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	line = strstr(text, "API:");
	if (!line || sscanf(line, "API: %llx:%llx", &api, &features) != 2)
		return 0;
	return features;
}

int uffd_wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = {.start = addr, .len = len};

	return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? error_errno() : 0;
}

/*
 * Two questions that change nothing. A copy from where nothing can be read: it fails with EFAULT
 * where there is a registered page, whosever, and with ENOENT where there is none. Then a
 * registration: it is refused (EBUSY) when the page is another userfaultfd's, and finds nothing to
 * do when the page is registered with this one for that already, maybe among other things.
 */
int uffd_owns(int fd, uint64_t addr)
{
	void *nothing = mmap(NULL, DORM_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t done;
	int r;

	if (nothing == MAP_FAILED)
		return error_errno();
	r = uffd_copy(fd, addr, nothing, DORM_PAGE_SIZE, &done);
	munmap(nothing, DORM_PAGE_SIZE);
	/* EAGAIN: its mappings are being changed, which only a userfaultfd with events can say */
	if (r != -EFAULT && r != -EEXIST && r != -EAGAIN)
		return 0;
	return uffd_register(fd, addr, DORM_PAGE_SIZE, UFFDIO_REGISTER_MODE_MISSING) == 0;
}
