/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/proc.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define PROC_FILE_MAX (16ul << 20)

static int read_proc(pid_t pid, const char *name, char **ret)
{
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name); /* always fits */
	r = file_read(AT_FDCWD, path, PROC_FILE_MAX, ret, NULL);
	return r == -ENOENT ? -ESRCH : r;
}

int proc_start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	char *p;
	int r = read_proc(pid, "stat", &text);

	if (r < 0)
		return r;
	/* field 2 is the program's name in parentheses, and may hold anything: start behind it */
	p = strrchr(text, ')');
	for (int field = 3; p && field <= 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, "%" SCNu64, ret) != 1)
		return error_trace(-EBADMSG);
	return 0;
}

struct mapping_list {
	struct proc_mapping *items;
	size_t n;
};

static int list_add(struct mapping_list *l, const struct proc_mapping *m)
{
	struct proc_mapping *last = l->n ? &l->items[l->n - 1] : NULL, *p;

	if (last && last->end == m->start &&
	    last->offset + (last->end - last->start) == m->offset) {
		last->end = m->end;
		return 0;
	}
	p = realloc(l->items, (l->n + 1) * sizeof(*p));
	if (!p)
		return -ENOMEM;
	l->items = p;
	l->items[l->n++] = *m;
	return 0;
}

/* "7f..-7f.. rw-p 00000000 00:01 1234   /memfd:x (deleted)" */
static bool parse_mapping(const char *line, dev_t dev, ino_t ino, struct proc_mapping *ret)
{
	unsigned major, minor;
	uint64_t inode;
	char perms[5];

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &ret->start,
		   &ret->end, perms, &ret->offset, &major, &minor, &inode) != 7)
		return false;
	return makedev(major, minor) == dev && inode == ino && perms[1] == 'w' && perms[3] == 'p';
}

int proc_find_mappings(pid_t pid, dev_t dev, ino_t ino, struct proc_mapping **ret, size_t *ret_n)
{
	_cleanup_free_ char *text = NULL;
	struct mapping_list list = {0};
	char *save = NULL;
	int r = read_proc(pid, "maps", &text);

	if (r < 0)
		return r;
	for (char *line = strtok_r(text, "\n", &save); line && r == 0;
	     line = strtok_r(NULL, "\n", &save)) {
		struct proc_mapping m;

		if (parse_mapping(line, dev, ino, &m))
			r = list_add(&list, &m);
	}
	if (r == 0 && !list.n)
		r = -ENOENT;
	if (r < 0) {
		free(list.items);
		return r;
	}
	*ret = list.items;
	*ret_n = list.n;
	return 0;
}

/* "VmFlags: rd wr mr mw me um": missing, write-protect, minor. Every flag has two letters. */
static bool has_uffd_flag(const char *line)
{
	return strstr(line, " um") || strstr(line, " uw") || strstr(line, " ui");
}

int proc_has_userfaultfd(pid_t pid, dev_t dev, ino_t ino)
{
	_cleanup_free_ char *text = NULL;
	bool ours = false, any = false, has = false;
	char *save = NULL;
	int r = read_proc(pid, "smaps", &text);

	if (r < 0)
		return r;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct proc_mapping m;
		uint64_t from, to;

		/* a mapping begins with its addresses, and ends with its flags */
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
			ours = parse_mapping(line, dev, ino, &m);
			any |= ours;
		} else if (ours && !strncmp(line, "VmFlags:", 8)) {
			has |= has_uffd_flag(line);
		}
	}
	return any ? has : -ENOENT;
}

static uint64_t kilobytes(const char *text, const char *key)
{
	const char *p = strstr(text, key);
	uint64_t v = 0;

	if (p && sscanf(p + strlen(key), "%" SCNu64, &v) != 1)
		v = 0;
	return v * 1024;
}

int proc_anonymous_bytes(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	int r = read_proc(pid, "status", &text);

	if (r < 0)
		return r;
	*ret = kilobytes(text, "\nRssAnon:") + kilobytes(text, "\nVmPTE:");
	return *ret ? 0 : -ESRCH; /* it has ended, and waits to be collected */
}

int proc_memory_use(pid_t pid, struct proc_memory *ret)
{
	_cleanup_free_ char *text = NULL;
	int r = read_proc(pid, "smaps_rollup", &text);

	if (r < 0)
		return r;
	*ret = (struct proc_memory){
		.rss_bytes = kilobytes(text, "\nRss:"),
		.pss_bytes = kilobytes(text, "\nPss:"),
		.private_bytes =
			kilobytes(text, "\nPrivate_Clean:") + kilobytes(text, "\nPrivate_Dirty:"),
	};
	return 0;
}

/* "24 1 0:22 / / ro,nosuid - tmpfs SOURCE ro,mode=755": the fifth field is the mount point */
int proc_root_source(pid_t pid, char *buf, size_t size)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;
	int r = read_proc(pid, "mountinfo", &text);

	if (r < 0)
		return r;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char place[8] = "", source[256] = "", *rest = strstr(line, " - ");

		if (!rest || sscanf(line, "%*s %*s %*s %*s %7s", place) != 1 ||
		    strcmp(place, "/") != 0 || sscanf(rest, " - %*s %255s", source) != 1)
			continue;
		str_copy(buf, size, source);
		return 0;
	}
	return -ENOENT;
}
