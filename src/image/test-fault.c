/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-fault.c - the wrapped calls
 *
 * With 64-bit file offsets (_FILE_OFFSET_BITS, which Meson always sets) the C library's functions
 * are called by the names openat64, pread64 and so on, so those are the ones that are wrapped.
 */
#include "image/test-fault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/mem.h"

static const struct fault *fault; /* NULL: disarmed */
static unsigned at;
static atomic_uint seen, struck;
static const char *where = "no call";
static void (*observer)(unsigned group, int fd);

void fault_arm(const struct fault *f, unsigned n)
{
	at = n;
	seen = struck = 0;
	where = "no call";
	fault = f;
}

bool fault_disarm(void)
{
	fault = NULL;
	return struck > 0;
}

bool fault_has_struck(void)
{
	return struck > 0;
}

const char *fault_call(void)
{
	return where;
}

void fault_observe(void (*f)(unsigned group, int fd))
{
	observer = f;
}

static void die(void)
{
	(void)kill(getpid(), SIGKILL);
}

enum verdict { PASS, FAIL, PART, PART_AND_DIE, DIE };

/* @len: bytes that the call is to transfer; 1 for one that does something or nothing */
static enum verdict strike(unsigned groups, const char *name, size_t len)
{
	const struct fault *f = fault;
	bool short_one = f && f->kind == FAULT_SHORT;

	if (!f || !(f->calls & groups) || (short_one && len < 2))
		return PASS;
	if (atomic_fetch_add(&seen, 1) < at || struck >= f->times)
		return PASS;
	struck++;
	where = name;
	switch (f->kind) {
	case FAULT_ERROR:
		errno = f->error;
		return FAIL;
	case FAULT_SHORT:
		return PART;
	case FAULT_KILL_AFTER:
		return DIE;
	case FAULT_KILL_PART:
		if (len > 1)
			return PART_AND_DIE;
		break;
	case FAULT_KILL_BEFORE:
		break;
	}
	die();
	return FAIL;
}

static void done(enum verdict v, unsigned group, int fd, bool ok)
{
	void (*f)(unsigned, int) = observer;
	const struct fault *armed = fault;
	int saved = errno;

	if (v == DIE || v == PART_AND_DIE)
		die();
	if (!f || !ok)
		return;
	observer = NULL; /* its own calls neither count nor are seen */
	fault = NULL;
	f(group, fd);
	fault = armed;
	observer = f;
	errno = saved;
}

static size_t part(enum verdict v, size_t len)
{
	return v == PART || v == PART_AND_DIE ? len / 2 : len;
}

/* A call that does something or nothing. @_fd: the descriptor it is about, -1 without */
#define WRAP(_name, _group, _fd, _params, _args)                                                   \
	int __real_##_name _params;                                                                \
	int __wrap_##_name _params;                                                                \
	int __wrap_##_name _params                                                                 \
	{                                                                                          \
		enum verdict v = strike(_group, #_name, 1);                                        \
		int r;                                                                             \
                                                                                                   \
		if (v == FAIL)                                                                     \
			return -1;                                                                 \
		r = __real_##_name _args;                                                          \
		done(v, _group, _fd, r >= 0);                                                      \
		return r;                                                                          \
	}

/* A call that transfers @len bytes. */
#define WRAP_IO(_name, _group, _fd, _params, _args)                                                \
	ssize_t __real_##_name _params;                                                            \
	ssize_t __wrap_##_name _params;                                                            \
	ssize_t __wrap_##_name _params                                                             \
	{                                                                                          \
		enum verdict v = strike(_group, #_name, len);                                      \
		ssize_t r;                                                                         \
                                                                                                   \
		if (v == FAIL)                                                                     \
			return -1;                                                                 \
		len = part(v, len);                                                                \
		r = __real_##_name _args;                                                          \
		done(v, _group, _fd, r >= 0);                                                      \
		return r;                                                                          \
	}

/* The same with several pieces; a part is half of the first. */
#define WRAP_VECTOR(_name, _params, _args)                                                         \
	ssize_t __real_##_name _params;                                                            \
	ssize_t __wrap_##_name _params;                                                            \
	ssize_t __wrap_##_name _params                                                             \
	{                                                                                          \
		enum verdict v = strike(CALL_WRITE, #_name, n > 0 ? iov[0].iov_len : 0);           \
		struct iovec half;                                                                 \
		ssize_t r;                                                                         \
                                                                                                   \
		if (v == FAIL)                                                                     \
			return -1;                                                                 \
		if (v == PART || v == PART_AND_DIE) {                                              \
			half = (struct iovec){iov[0].iov_base, iov[0].iov_len / 2};                \
			iov = &half;                                                               \
			n = 1;                                                                     \
		}                                                                                  \
		r = __real_##_name _args;                                                          \
		done(v, CALL_WRITE, fd, r >= 0);                                                   \
		return r;                                                                          \
	}

WRAP(fsync, CALL_SYNC, fd, (int fd), (fd))
WRAP(fdatasync, CALL_SYNC, fd, (int fd), (fd))
WRAP(syncfs, CALL_SYNC, -1, (int fd), (fd))
WRAP(sync_file_range, CALL_WRITE, -1, (int fd, off_t offset, off_t n, unsigned flags),
     (fd, offset, n, flags))
WRAP(fchmod, CALL_MODE, fd, (int fd, mode_t mode), (fd, mode))
WRAP(ftruncate64, CALL_SIZE, fd, (int fd, off_t size), (fd, size))
WRAP(fallocate64, CALL_SIZE, fd, (int fd, int mode, off_t offset, off_t len),
     (fd, mode, offset, len))
WRAP(mkdir, CALL_CREATE, -1, (const char *path, mode_t mode), (path, mode))
WRAP(mkdirat, CALL_CREATE, -1, (int dirfd, const char *path, mode_t mode), (dirfd, path, mode))
WRAP(linkat, CALL_CREATE, -1, (int a, const char *from, int b, const char *to, int flags),
     (a, from, b, to, flags))
WRAP(symlinkat, CALL_CREATE, -1, (const char *text, int dirfd, const char *path),
     (text, dirfd, path))
WRAP(rename, CALL_RENAME, -1, (const char *from, const char *to), (from, to))
WRAP(renameat, CALL_RENAME, -1, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(renameat2, CALL_RENAME, -1, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags))
WRAP(unlink, CALL_REMOVE, -1, (const char *path), (path))
WRAP(unlinkat, CALL_REMOVE, -1, (int dirfd, const char *path, int flags), (dirfd, path, flags))
WRAP_IO(write, CALL_WRITE, fd, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP_IO(pwrite64, CALL_WRITE, fd, (int fd, const void *buf, size_t len, off_t offset),
	(fd, buf, len, offset))
WRAP_IO(copy_file_range, CALL_WRITE | CALL_KERNEL_COPY, to,
	(int from, off_t *in, int to, off_t *out, size_t len, unsigned flags),
	(from, in, to, out, len, flags))
WRAP_IO(read, CALL_READ, -1, (int fd, void *buf, size_t len), (fd, buf, len))
WRAP_IO(pread64, CALL_READ, -1, (int fd, void *buf, size_t len, off_t offset),
	(fd, buf, len, offset))
WRAP_VECTOR(writev, (int fd, const struct iovec *iov, int n), (fd, iov, n))
WRAP_VECTOR(pwritev64, (int fd, const struct iovec *iov, int n, off_t offset), (fd, iov, n, offset))

/* ---- those with a variable number of arguments, or that count only sometimes -------------------
 */

int __real_openat64(int dirfd, const char *path, int flags, ...);
int __wrap_openat64(int dirfd, const char *path, int flags, ...);

int __wrap_openat64(int dirfd, const char *path, int flags, ...)
{
	enum verdict v = PASS;
	unsigned mode = 0;
	va_list ap;
	int r;

	if (flags & O_CREAT) {
		va_start(ap, flags);
		mode = va_arg(ap, unsigned);
		va_end(ap);
		v = strike(CALL_CREATE, "openat", 1);
	}
	if (v == FAIL)
		return -1;
	r = __real_openat64(dirfd, path, flags, mode);
	if (flags & O_CREAT)
		done(v, CALL_CREATE, r, r >= 0);
	return r;
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	enum verdict v = request == FICLONE ? strike(CALL_CLONE, "ioctl(FICLONE)", 1) : PASS;
	unsigned long arg;
	va_list ap;
	int r;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (v == FAIL)
		return -1;
	r = __real_ioctl(fd, request, arg);
	done(v, CALL_CLONE, fd, r >= 0 && request == FICLONE);
	return r;
}

off_t __real_lseek64(int fd, off_t offset, int whence);
off_t __wrap_lseek64(int fd, off_t offset, int whence);

off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
	if ((whence == SEEK_DATA || whence == SEEK_HOLE) && strike(CALL_SEEK, "lseek", 1) == FAIL)
		return -1;
	return __real_lseek64(fd, offset, whence);
}
