/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/str.h"

#ifndef STATX_ATTR_MOUNT_ROOT /* Linux 5.8 */
#define STATX_ATTR_MOUNT_ROOT 0x2000
#endif

void walk_deinit(struct walk *w)
{
	buf_deinit(&w->path);
}

ssize_t walk_enter(struct walk *w, const char *name)
{
	size_t mark = w->path.len;
	bool slash = mark > 0 && w->path.data[mark - 1] != '/';
	int r = slash ? buf_append(&w->path, "/", 1) : 0;

	if (r == 0)
		r = buf_append(&w->path, name, strlen(name));
	return r < 0 ? walk_fail(w, r) : (ssize_t)mark;
}

void walk_leave(struct walk *w, ssize_t mark)
{
	w->path.len = (size_t)mark;
	w->path.data[mark] = 0;
}

int walk_fail(struct walk *w, int r)
{
	size_t cut = w->path.len < sizeof(w->where) ? 0 : w->path.len - sizeof(w->where) + 1;

	if (!w->error) {
		w->error = r;
		str_copy(w->where, sizeof(w->where), w->path.data ? w->path.data + cut : "");
	}
	return r;
}

bool walk_is_mount(int dirfd, const char *name)
{
	struct statx st;

	return statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &st) == 0 &&
	       st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

int walk_open(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}
