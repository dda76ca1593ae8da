/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/listing.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/entry.h"
#include "agent/names.h"
#include "agent/walk.h"
#include "base/error.h"
#include "base/fd.h"

struct listing {
	struct buf *out;
	struct walk walk;
	struct owner owner;
	unsigned n;
};

static int list_directory(struct listing *l, int fd, unsigned depth);

static int list_below(struct listing *l, int fd, const char *name, unsigned depth)
{
	_cleanup_fd_ int child = walk_open(fd, name);

	if (child == -EMFILE || child == -ENFILE || child == -ENOMEM)
		return child;
	return child < 0 ? 0 : list_directory(l, child, depth);
}

static int list_one(struct listing *l, int fd, const char *name, unsigned depth)
{
	struct stat st;
	int r;

	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (l->n == LISTING_ENTRIES_MAX || l->out->len > LISTING_BYTES_MAX)
		return -EOVERFLOW;
	r = l->n++ ? buf_append(l->out, ",", 1) : 0;
	if (r == 0)
		r = entry_append(l->out, &l->owner, l->walk.path.data, &st);
	if (r == 0 && S_ISDIR(st.st_mode) && depth > 1)
		r = list_below(l, fd, name, depth - 1);
	return r;
}

static int list_directory(struct listing *l, int fd, unsigned depth)
{
	struct names names = {0};
	int r = names_read(fd, LISTING_ENTRIES_MAX - l->n, false, &names);

	if (r > 0)
		r = -EOVERFLOW;
	else if (r == 0)
		names_sort(&names);
	for (size_t i = 0; r == 0 && i < names.n; i++) {
		ssize_t mark = walk_enter(&l->walk, names.list[i]);

		if (mark < 0) {
			r = (int)mark;
			break;
		}
		r = list_one(l, fd, names.list[i], depth);
		walk_leave(&l->walk, mark);
	}
	names_deinit(&names);
	return r;
}

static void explain(int r, const char *path, struct problem *problem)
{
	if (r == -ENOENT)
		problem_set(problem, 0, "directory not found: %.300s", path);
	else if (r == -ENOTDIR)
		problem_set(problem, 0, "path is not a directory: %.300s", path);
	else if (r == -EOVERFLOW)
		problem_set(problem, 0,
			    "%.300s: the listing has more than %u entries or %u MiB; list less "
			    "deep, or with a command in the sandbox",
			    path, LISTING_ENTRIES_MAX, LISTING_BYTES_MAX >> 20);
	else if (r < 0)
		problem_set(problem, 0, "cannot list %.300s: %s", path, strerrordesc_np(-r));
}

int listing_append(struct buf *b, const char *path, unsigned depth, struct problem *problem)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct listing l = {.out = b, .owner = OWNER_INIT("/etc")};
	int r = fd < 0 ? -errno : 0;

	if (r == 0 && walk_enter(&l.walk, path) < 0)
		r = -ENOMEM;
	if (r == 0)
		r = buf_printf(b, "{\"entries\":[");
	if (r == 0)
		r = list_directory(&l, fd, depth);
	if (r == 0)
		r = buf_append(b, "]}", 2);
	walk_deinit(&l.walk);
	owner_deinit(&l.owner);
	explain(r, path, problem);
	return r;
}
