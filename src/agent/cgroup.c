/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/cgroup.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

static int open_at(int dir, const char *name, int flags)
{
	int fd = openat(dir, name, flags | O_CLOEXEC);

	return fd < 0 ? error_errno() : fd;
}

int cgroup_open(struct cgroup *c, const char *path)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return error_errno();
	c->dir_fd = open_at(AT_FDCWD, path, O_DIRECTORY | O_RDONLY);
	if (c->dir_fd < 0)
		return c->dir_fd;
	c->procs_fd = open_at(c->dir_fd, "cgroup.procs", O_WRONLY);
	c->freeze_fd = open_at(c->dir_fd, "cgroup.freeze", O_WRONLY);
	c->events_fd = open_at(c->dir_fd, "cgroup.events", O_RDONLY);
	if (c->procs_fd < 0 || c->freeze_fd < 0 || c->events_fd < 0) {
		cgroup_close(c);
		return error_trace(-ENODEV);
	}
	return 0;
}

void cgroup_close(struct cgroup *c)
{
	fd_close(c->dir_fd);
	fd_close(c->procs_fd);
	fd_close(c->freeze_fd);
	fd_close(c->events_fd);
	*c = CGROUP_INIT;
}

int cgroup_set_frozen(struct cgroup *c, bool frozen)
{
	if (c->freeze_fd < 0)
		return -ENODEV;
	return pwrite(c->freeze_fd, frozen ? "1" : "0", 1, 0) < 0 ? error_errno() : 0;
}

int cgroup_is_frozen(struct cgroup *c)
{
	char text[256];
	ssize_t n;

	if (c->events_fd < 0)
		return -ENODEV;
	n = pread(c->events_fd, text, sizeof(text) - 1, 0);
	if (n < 0)
		return error_errno();
	text[n] = 0;
	return strstr(text, "frozen 1") != NULL;
}
