/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/pty.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"

/* devpts' own multiplexer: /dev/ptmx may be a device node of another instance */
#define PTMX "/dev/pts/ptmx"

int pty_resize(int master, const struct pty_size *size)
{
	const struct winsize w = {.ws_col = size->cols, .ws_row = size->rows};

	return ioctl(master, TIOCSWINSZ, &w) < 0 ? error_errno() : 0;
}

static int open_master(void)
{
	int fd = open(PTMX, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? error_errno() : fd;
}

/* The pair's owner is who opened it, us; the group is what devpts was mounted with. */
static int open_slave(int master, uid_t owner)
{
	int unlock = 0, fd;

	if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
		return error_errno();
	fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return error_errno();
	if (owner != geteuid() && fchown(fd, owner, (gid_t)-1) < 0) {
		int r = error_errno();

		fd_close(fd);
		return r;
	}
	return fd;
}

int pty_open(const struct pty_size *size, uid_t owner, int *ret_master, int *ret_slave)
{
	_cleanup_fd_ int master = open_master();
	_cleanup_fd_ int slave = -1;
	int r;

	if (master < 0)
		return master;
	slave = open_slave(master, owner);
	if (slave < 0)
		return slave;
	r = pty_resize(master, size);
	if (r < 0)
		return r;
	*ret_master = take_fd(master);
	*ret_slave = take_fd(slave);
	return 0;
}
