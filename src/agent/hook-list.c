/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/hook-list.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

static const char *const names[] = {"before-sleep", "after-wake"};
_Static_assert(ARRAY_SIZE(names) == HOOK_N_EVENTS, "every event has a name");

const char *hook_event_name(enum hook_event event)
{
	return names[event];
}

/* Why nobody may trust it; NULL: it is root's alone. Root is whom we run as, also in tests. */
static const char *distrust(const struct stat *st)
{
	if (st->st_uid != geteuid())
		return "it does not belong to root";
	return st->st_mode & 022 ? "others than root may write it" : NULL;
}

static const char *why_not(const struct stat *dir, const struct stat *st)
{
	if (distrust(dir))
		return "its directory does not belong to root alone";
	if (!S_ISREG(st->st_mode))
		return "it is not a regular file";
	if (distrust(st))
		return distrust(st);
	return st->st_mode & 0100 ? NULL : "it is not executable";
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct hook *)a)->name, ((const struct hook *)b)->name);
}

static int add(struct hook_list *l, const char *base, enum hook_event event, int dirfd,
	       const struct stat *dir, const char *name)
{
	struct hook *h = &l->hooks[l->n];
	struct stat st;

	if (name[0] == '.')
		return 0;
	if (fstatat(dirfd, name, &st, 0) < 0)
		return errno == ENOENT ? 0 : error_errno(); /* a link to nothing */
	if (l->n == HOOKS_MAX) {
		l->too_many = true;
		return 0;
	}
	h->path = str_printf("%s/%s.d/%s", base, names[event], name);
	if (!h->path)
		return -ENOMEM;
	h->name = h->path + strlen(base) + 1;
	h->skip = why_not(dir, &st);
	l->n++;
	return 0;
}

/* What the file says, in milliseconds; without a good one, the default. */
static unsigned read_timeout(const char *base)
{
	_cleanup_free_ char *path = str_printf("%s/timeout", base);
	_cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	char line[32];
	struct stat st;
	uint64_t s;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || distrust(&st))
		return HOOK_EACH_MS;
	n = read(fd, line, sizeof(line) - 1);
	line[MAX(n, 0)] = 0;
	line[strcspn(line, "\r\n ")] = 0;
	if (str_to_u64(line, &s) < 0 || s < 1)
		return HOOK_EACH_MS;
	return (unsigned)MIN(s, (uint64_t)HOOK_EACH_MAX_S) * 1000;
}

static int read_dir(const char *base, enum hook_event event, struct hook_list *l)
{
	_cleanup_free_ char *path = str_printf("%s/%s.d", base, names[event]);
	_cleanup_dir_ DIR *dir = NULL;
	struct dirent *e;
	struct stat st;
	int r = path ? file_opendir(AT_FDCWD, path, &dir) : -ENOMEM;

	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r == 0 && fstat(dirfd(dir), &st) < 0)
		r = error_errno();
	while (r == 0 && (e = readdir(dir)))
		r = add(l, base, event, dirfd(dir), &st, e->d_name);
	return r;
}

int hook_list_read(const char *base, enum hook_event event, struct hook_list *ret)
{
	struct hook_list l = {0};
	bool any = false;
	int r = read_dir(base, event, &l);

	if (r < 0) {
		hook_list_deinit(&l);
		return r;
	}
	qsort(l.hooks, l.n, sizeof(l.hooks[0]), compare);
	for (size_t i = 0; i < l.n; i++)
		any |= !l.hooks[i].skip;
	if (any) {
		l.each_ms = read_timeout(base);
		l.total_ms = HOOK_TOTAL * l.each_ms;
	}
	*ret = l;
	return 0;
}

void hook_list_deinit(struct hook_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->hooks[i].path);
	*l = (struct hook_list){0};
}
