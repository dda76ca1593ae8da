/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fd.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

#define MAX_FDS 8

int fd_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		(void)close(fd); /* nothing useful can be done about a failing close */
	errno = saved;
	return -1;
}

static int change_flag(int fd, int get, int set, int flag, int on)
{
	int f = fcntl(fd, get);

	if (f < 0)
		return error_errno();
	if (fcntl(fd, set, on ? f | flag : f & ~flag) < 0)
		return error_errno();
	return 0;
}

int fd_set_nonblock(int fd, int on)
{
	return change_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on);
}

int fd_set_cloexec(int fd, int on)
{
	return change_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on);
}

int fd_read_full(int fd, void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (char *)buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		if (n == 0)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

int fd_pread_full(int fd, void *buf, size_t len, uint64_t offset)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		if (n == 0)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

int fd_write_full(int fd, const void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const char *)buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		done += (size_t)n;
	}
	return 0;
}

int fd_sync(int fd)
{
	int r;

	do
		r = fsync(fd);
	while (r < 0 && errno == EINTR);
	return r < 0 ? error_errno() : 0;
}

int fd_truncate(int fd, uint64_t bytes)
{
	int r;

	do
		r = ftruncate(fd, (off_t)bytes);
	while (r < 0 && errno == EINTR);
	return r < 0 ? error_errno() : 0;
}

int fd_poll(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = events};
		int n = poll(&p, 1, deadline_poll_ms(deadline_ns));

		if (n > 0)
			return (unsigned short)p.revents;
		if (n < 0 && errno != EINTR)
			return error_errno();
		if (deadline_passed(deadline_ns))
			return 0;
	}
}

int fd_write_deadline(int fd, const void *buf, size_t len, uint64_t deadline_ns)
{
	for (size_t done = 0; done < len;) {
		ssize_t n =
			send(fd, (const char *)buf + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		int r;

		if (n < 0 && errno == ENOTSOCK)
			n = write(fd, (const char *)buf + done, len - done);
		if (n >= 0) {
			done += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return error_errno();
		r = fd_poll(fd, POLLOUT, deadline_ns);
		if (r < 0)
			return r;
		if (r == 0)
			return -ETIMEDOUT;
	}
	return 0;
}

int fd_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	ssize_t n;

	if (n_fds > MAX_FDS)
		return -EINVAL;
	if (n_fds) {
		m.msg_control = control.space;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		n = sendmsg(sock, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno();
	return (size_t)n == len ? 0 : -EIO;
}

ssize_t fd_recv(int sock, void *buf, size_t len, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.space,
			   .msg_controllen = sizeof(control.space)};
	size_t kept = 0;
	ssize_t n;

	do
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno();
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < k; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (kept < max_fds)
				ret_fds[kept++] = fd;
			else
				fd_close(fd);
		}
	}
	*ret_n_fds = kept;
	return n;
}

static int fill_address(const char *path, struct sockaddr_un *ret)
{
	size_t n = strlen(path);

	if (n >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret->sun_path, path, n);
	return 0;
}

int fd_unix_listen(const char *path, int type, unsigned mode)
{
	_cleanup_fd_ int s = -1;
	struct sockaddr_un sa;
	int r = fill_address(path, &sa);

	if (r < 0)
		return r;
	s = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (s < 0)
		return error_errno();
	(void)unlink(path); /* a dead predecessor's socket; absence is the normal case */
	if (bind(s, (struct sockaddr *)&sa, sizeof(sa)) < 0 || chmod(path, mode) < 0 ||
	    listen(s, SOMAXCONN) < 0)
		return error_errno();
	return take_fd(s);
}

/* Not getaddrinfo(): in a static program that loads shared libraries. */
static int parse_tcp(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	bool bracketed = len > 2 && text[0] == '[' && text[len - 1] == ']';
	char address[64];
	uint64_t port;

	if (!len || len >= sizeof(address) || str_to_u64(colon + 1, &port) < 0 || port > 65535)
		return -EINVAL;
	len -= 2 * (size_t)bracketed;
	memcpy(address, text + bracketed, len);
	address[len] = 0;
	*ret = (struct sockaddr_storage){0};
	if (!bracketed && inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		*ret_len = sizeof(*v4);
		return 0;
	}
	if (!bracketed || inet_pton(AF_INET6, address, &v6->sin6_addr) != 1)
		return -EINVAL;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	*ret_len = sizeof(*v6);
	return 0;
}

int fd_tcp_listen(const char *text)
{
	_cleanup_fd_ int s = -1;
	struct sockaddr_storage sa;
	socklen_t len;
	int r = parse_tcp(text, &sa, &len), one = 1;

	if (r < 0)
		return r;
	s = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(s, (struct sockaddr *)&sa, len) < 0 || listen(s, SOMAXCONN) < 0)
		return -errno; /* an address that is taken is the caller's to tell */
	return take_fd(s);
}

int fd_unix_connect(const char *path, int type)
{
	_cleanup_fd_ int s = -1;
	struct sockaddr_un sa;
	int r = fill_address(path, &sa);

	if (r < 0)
		return r;
	s = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (s < 0)
		return error_errno();
	if (connect(s, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno; /* expected while a peer starts; not worth a trace */
	return take_fd(s);
}
