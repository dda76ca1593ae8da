/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/cell.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define TRIES 4096 /* directories that an earlier agent left: only in tests */

struct cell {
	struct cells *all;
	struct cell *next; /* of those left */
	uint64_t number;
	pid_t pid;
};

static void cell_path(uint64_t number, const char *file, char path[48])
{
	(void)snprintf(path, 48, "p%" PRIu64 "%s", number, file); /* fits */
}

static int make_dir(struct cells *cs, uint64_t *ret)
{
	char path[48];

	for (int i = 0; i < TRIES; i++) {
		cell_path(++cs->last, "", path);
		if (mkdirat(cs->workload->dir_fd, path, 0755) == 0) {
			*ret = cs->last;
			return 0;
		}
		if (errno != EEXIST)
			return error_errno();
	}
	return error_trace(-EEXIST);
}

static int cell_open(const struct cell *c, const char *file)
{
	char path[48];
	int fd;

	cell_path(c->number, file, path);
	fd = openat(c->all->workload->dir_fd, path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? error_errno() : fd;
}

static int cell_remove(const struct cell *c)
{
	char path[48];

	cell_path(c->number, "", path);
	return unlinkat(c->all->workload->dir_fd, path, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int cell_new(struct cells *cs, struct cell **ret, int *ret_procs_fd)
{
	struct cell *c;
	int r;

	if (cs->workload->dir_fd < 0)
		return -ENODEV;
	c = calloc(1, sizeof(*c));
	if (!c)
		return error_trace(-ENOMEM);
	c->all = cs;
	r = make_dir(cs, &c->number);
	if (r < 0) {
		free(c);
		return r;
	}
	r = cell_open(c, "/cgroup.procs");
	if (r < 0) {
		(void)cell_remove(c); /* it is empty */
		free(c);
		return r;
	}
	*ret = c;
	*ret_procs_fd = r;
	return 0;
}

void cell_set_pid(struct cell *c, pid_t pid)
{
	c->pid = pid;
}

int cell_kill(struct cell *c)
{
	_cleanup_fd_ int fd = cell_open(c, "/cgroup.kill");

	if (fd < 0)
		return fd;
	return write(fd, "1", 1) < 0 ? error_errno() : 0;
}

struct cell *cell_leave(struct cell *c)
{
	if (!c)
		return NULL;
	if (cell_remove(c) == -EBUSY) {
		c->next = c->all->left;
		c->all->left = c;
	} else {
		free(c);
	}
	return NULL;
}

int cells_kill_left(struct cells *cs, pid_t pid)
{
	cells_sweep(cs); /* an empty one is nothing to kill */
	for (struct cell *c = cs->left; c; c = c->next)
		if (c->pid == pid)
			return cell_kill(c);
	return -ESRCH;
}

void cells_sweep(struct cells *cs)
{
	struct cell **at = &cs->left;

	while (*at) {
		struct cell *c = *at;

		if (cell_remove(c) == -EBUSY) {
			at = &c->next;
		} else {
			*at = c->next;
			free(c);
		}
	}
}

void cells_deinit(struct cells *cs)
{
	cells_sweep(cs);
	while (cs->left) {
		struct cell *c = cs->left;

		cs->left = c->next;
		free(c);
	}
}
