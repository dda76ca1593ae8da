/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/pidfd.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

int pidfd_from_pid(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);

	if (fd >= 0)
		return (int)fd;
	return errno == ESRCH ? -ESRCH : error_errno();
}

int pidfd_from_peer(int conn, int *ret_pid, int *ret_pidfd, bool *ret_certain)
{
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);
	bool certain = true;
	int fd = -1;

	if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return error_errno();
	if (cred.pid <= 0 || cred.pid == getpid())
		return -ESRCH;
	len = sizeof(fd);
	if (getsockopt(conn, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) < 0) {
		fd = pidfd_from_pid(cred.pid);
		certain = false;
	}
	if (fd < 0)
		return fd;
	*ret_pid = cred.pid;
	*ret_pidfd = fd;
	if (ret_certain)
		*ret_certain = certain;
	return 0;
}

int pidfd_signal(int pidfd, int sig)
{
	if (syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) == 0)
		return 0;
	return errno == ESRCH ? -ESRCH : error_errno();
}

int pidfd_is_gone(int pidfd)
{
	int r = fd_poll(pidfd, POLLIN, 0);

	return r < 0 ? r : r > 0;
}

int pidfd_wait(int pidfd, uint64_t deadline_ns)
{
	int r = fd_poll(pidfd, POLLIN, deadline_ns);

	if (r < 0)
		return r;
	return r == 0 ? -ETIMEDOUT : 0;
}

int pidfd_reap(int pidfd, struct pidfd_end *ret)
{
	siginfo_t info = {0};
	int r;

	do
		r = waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == ECHILD ? -ECHILD : error_errno();
	if (info.si_pid == 0)
		return -EAGAIN;
	if (info.si_code == CLD_EXITED)
		*ret = (struct pidfd_end){.status = info.si_status};
	else
		*ret = (struct pidfd_end){.status = -1, .signal = info.si_status};
	return 0;
}

void pidfd_describe_end(const struct pidfd_end *end, char *buf, size_t size)
{
	const char *name = end->signal ? sigdescr_np(end->signal) : NULL;

	if (!end->signal)
		(void)snprintf(buf, size, "exited with status %d", end->status);
	else
		(void)snprintf(buf, size, "killed by signal %d (%s)", end->signal,
			       name ? name : "unknown");
}
