/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Version 2 is used where it has the memory controller; else the hierarchies of version 1 that are
 * mounted, one for each controller. Both are asked for by the same paths below their mount points.
 *
 * In version 2 a controller is there for a group when all of its parents pass it on
 * (cgroup.subtree_control), which they can as long as no process is in them directly; the root may
 * have some.
 */
#include "sys/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define CPU_PERIOD_US 100000
#define PATH_LEN      512

static const char *const v1_names[CGROUP_N] = {"memory", "cpu", "pids", "blkio"};
static const char *const v2_names[CGROUP_N] = {"memory", "cpu", "pids", "io"};

/* ---- looking ----------------------------------------------------------------------------------
 */

static bool has_word(const char *list, const char *word, const char *separators)
{
	size_t len = strlen(word);

	for (const char *p = list; *p; p += strspn(p, separators)) {
		size_t n = strcspn(p, separators);

		if (n == len && !strncmp(p, word, n))
			return true;
		p += n;
	}
	return false;
}

static void take_v2(struct cgroups *c, const char *place)
{
	_cleanup_free_ char *path = str_printf("%s/cgroup.controllers", place), *text = NULL;

	if (!path || file_read(AT_FDCWD, path, 4096, &text, NULL) < 0 ||
	    !has_word(text, "memory", " \n"))
		return;
	*c = (struct cgroups){.version = 2};
	for (int i = 0; i < CGROUP_N; i++)
		if (has_word(text, v2_names[i], " \n"))
			str_copy(c->places[i], CGROUP_PLACE_MAX, place);
}

static void take_v1(struct cgroups *c, const char *place, const char *options)
{
	if (c->version == 2)
		return;
	for (int i = 0; i < CGROUP_N; i++)
		if (has_word(options, v1_names[i], ",")) {
			str_copy(c->places[i], CGROUP_PLACE_MAX, place);
			c->version = 1;
		}
}

/* A place that cannot be written is of no use. */
static void drop_read_only(struct cgroups *c)
{
	bool any = false;

	for (int i = 0; i < CGROUP_N; i++) {
		if (c->places[i][0] && access(c->places[i], W_OK) < 0)
			c->places[i][0] = 0;
		any |= c->places[i][0];
	}
	if (!any)
		c->version = 0;
}

void cgroups_find(struct cgroups *ret)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;

	*ret = (struct cgroups){0};
	if (file_read(AT_FDCWD, "/proc/self/mounts", 4u << 20, &text, NULL) < 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char place[CGROUP_PLACE_MAX], type[16], options[256];

		if (sscanf(line, "%*s %127s %15s %255s", place, type, options) != 3)
			continue;
		if (!strcmp(type, "cgroup2"))
			take_v2(ret, place);
		else if (!strcmp(type, "cgroup"))
			take_v1(ret, place, options);
	}
	drop_read_only(ret);
}

void cgroups_describe(const struct cgroups *c, char *buf, size_t size)
{
	size_t len;

	if (!c->version) {
		str_copy(buf, size, "none that can be written");
		return;
	}
	(void)snprintf(buf, size, "version %d:", c->version); /* cut is better than nothing */
	for (int i = 0; i < CGROUP_N; i++)
		if (c->places[i][0]) {
			len = strlen(buf);
			(void)snprintf(buf + len, size - len, " %s", v2_names[i]);
		}
}

/* ---- files ------------------------------------------------------------------------------------
 */

/* Is it the first controller with this place? Then what concerns the group is done for it. */
static bool is_first(const struct cgroups *c, int i)
{
	if (!c->places[i][0])
		return false;
	for (int k = 0; k < i; k++)
		if (!strcmp(c->places[k], c->places[i]))
			return false;
	return true;
}

static int put(const char *dir, const char *group, const char *file, const char *value)
{
	_cleanup_free_ char *path = str_printf("%s/%s/%s", dir, group, file);
	_cleanup_fd_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;

	if (!path)
		return -ENOMEM;
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		return -errno;
	return 0;
}

static int put_number(const char *dir, const char *group, const char *file, uint64_t value)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)value); /* fits */
	return put(dir, group, file, text);
}

/* ---- making -----------------------------------------------------------------------------------
 */

/* Have @group's children get the controllers. Each by itself: one that cannot takes no other along.
 */
static void pass_on(const struct cgroups *c, const char *dir, const char *group)
{
	for (int i = 0; i < CGROUP_N; i++) {
		char word[16];

		(void)snprintf(word, sizeof(word), "+%s", v2_names[i]); /* fits */
		if (c->places[i][0])
			(void)put(dir, group, "cgroup.subtree_control", word); /* then no limit */
	}
}

static int make_path(const struct cgroups *c, const char *dir, const char *group)
{
	char path[PATH_LEN];

	for (const char *p = group; p; p = strchr(p, '/')) {
		p += p != group; /* over the slash */
		if (c->version == 2)
			pass_on(c, dir, p == group ? "." : path + strlen(dir) + 1);
		if ((size_t)snprintf(path, sizeof(path), "%s/%.*s", dir,
				     (int)(strchrnul(p, '/') - group), group) >= sizeof(path))
			return -ENAMETOOLONG;
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}

/* "8:1" to "8:0": limits are of disks. */
static dev_t whole_disk(dev_t device)
{
	_cleanup_free_ char *part = str_printf("/sys/dev/block/%u:%u/partition", major(device),
					       minor(device)),
			    *disk = str_printf("/sys/dev/block/%u:%u/../dev", major(device),
					       minor(device)),
			    *text = NULL;
	unsigned major, minor;

	if (!part || !disk || access(part, F_OK) < 0 ||
	    file_read(AT_FDCWD, disk, 64, &text, NULL) < 0 ||
	    sscanf(text, "%u:%u", &major, &minor) != 2)
		return device;
	return makedev(major, minor);
}

static int limit_io(const struct cgroups *c, const char *group, const struct cgroup_limits *l)
{
	const char *dir = c->places[CGROUP_IO];
	unsigned long long n = l->io_bytes;
	dev_t disk = whole_disk(l->device);
	char text[96];
	int r;

	if (c->version == 2) {
		(void)snprintf(text, sizeof(text), "%u:%u rbps=%llu wbps=%llu", major(disk),
			       minor(disk), n, n); /* fits */
		return put(dir, group, "io.max", text);
	}
	(void)snprintf(text, sizeof(text), "%u:%u %llu", major(disk), minor(disk), n); /* fits */
	r = put(dir, group, "blkio.throttle.read_bps_device", text);
	return r < 0 ? r : put(dir, group, "blkio.throttle.write_bps_device", text);
}

static int limit_cpu(const struct cgroups *c, const char *group, unsigned pct)
{
	const char *dir = c->places[CGROUP_CPU];
	uint64_t quota = (uint64_t)pct * CPU_PERIOD_US / 100;
	char text[48];

	if (c->version == 1)
		return put_number(dir, group, "cpu.cfs_quota_us", quota);
	(void)snprintf(text, sizeof(text), "%llu %d", (unsigned long long)quota,
		       CPU_PERIOD_US); /* fits */
	return put(dir, group, "cpu.max", text);
}

static int set_limits(const struct cgroups *c, const char *group, const struct cgroup_limits *l)
{
	int r = 0;

	if (l->memory_bytes && c->places[CGROUP_MEMORY][0])
		r = put_number(c->places[CGROUP_MEMORY], group,
			       c->version == 1 ? "memory.limit_in_bytes" : "memory.max",
			       l->memory_bytes);
	if (r == 0 && l->cpu_pct && c->places[CGROUP_CPU][0])
		r = limit_cpu(c, group, l->cpu_pct);
	if (r == 0 && l->pids && c->places[CGROUP_PIDS][0])
		r = put_number(c->places[CGROUP_PIDS], group, "pids.max", l->pids);
	if (r == 0 && l->io_bytes && c->places[CGROUP_IO][0])
		r = limit_io(c, group, l);
	return r;
}

int cgroup_make(const struct cgroups *c, const char *group, const struct cgroup_limits *limits)
{
	int r = 0;

	for (int i = 0; i < CGROUP_N && r == 0; i++)
		if (is_first(c, i))
			r = make_path(c, c->places[i], group);
	return error_trace(r ? r : set_limits(c, group, limits));
}

int cgroup_add(const struct cgroups *c, const char *group, pid_t pid)
{
	int r = 0;

	for (int i = 0; i < CGROUP_N && r == 0; i++)
		if (is_first(c, i))
			r = put_number(c->places[i], group, "cgroup.procs", (uint64_t)pid);
	return error_trace(r);
}

int cgroup_remove(const struct cgroups *c, const char *group)
{
	char path[PATH_LEN];
	int r = 0;

	for (int i = 0; i < CGROUP_N; i++) {
		if (!is_first(c, i))
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s", c->places[i], group); /* was made so */
		if (rmdir(path) < 0 && errno != ENOENT)
			r = -errno;
	}
	return r;
}

/* ---- what is in it ----------------------------------------------------------------------------
 */

static int each_child_in(const char *dir, const char *group,
			 int (*visit)(void *userdata, const char *name), void *userdata)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, group);
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = path ? file_opendir(AT_FDCWD, path, &d) : -ENOMEM;

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	while (r == 0 && (e = readdir(d)))
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			r = visit(userdata, e->d_name);
	return r;
}

int cgroup_each_child(const struct cgroups *c, const char *group,
		      int (*visit)(void *userdata, const char *name), void *userdata)
{
	int r = 0;

	for (int i = 0; i < CGROUP_N && r == 0; i++)
		if (is_first(c, i))
			r = each_child_in(c->places[i], group, visit, userdata);
	return r;
}

static int each_process_in(const char *dir, const char *group,
			   int (*visit)(void *userdata, pid_t pid), void *userdata)
{
	_cleanup_free_ char *path = str_printf("%s/%s/cgroup.procs", dir, group), *text = NULL;
	char *save = NULL;
	int r = path ? file_read(AT_FDCWD, path, 1u << 20, &text, NULL) : -ENOMEM;

	if (r < 0)
		return r == -ENOENT || r == -ENODEV ? 0 : r;
	for (char *p = strtok_r(text, "\n", &save); p && r == 0; p = strtok_r(NULL, "\n", &save))
		if (atoi(p) > 0) /* 0: of a pid namespace that we do not see */
			r = visit(userdata, (pid_t)atoi(p));
	return r;
}

int cgroup_each_process(const struct cgroups *c, const char *group,
			int (*visit)(void *userdata, pid_t pid), void *userdata)
{
	int r = 0;

	for (int i = 0; i < CGROUP_N && r == 0; i++)
		if (is_first(c, i))
			r = each_process_in(c->places[i], group, visit, userdata);
	return r;
}
