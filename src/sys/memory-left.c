/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/memory-left.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define GROUPS	 "/sys/fs/cgroup"
#define TEXT_MAX 65536

static int read_text(const char *dir, const char *name, char **ret)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	return file_read(AT_FDCWD, path, TEXT_MAX, ret, NULL);
}

/* The number after @key at the beginning of a line. Return: 0; -ENOENT */
static int find_number(const char *text, const char *key, uint64_t *ret)
{
	size_t len = strlen(key);

	for (const char *p = text; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, key, len) && sscanf(p + len, "%" SCNu64, ret) == 1)
			return 0;
	}
	return -ENOENT;
}

static int of_host(uint64_t *ret_available, uint64_t *ret_total)
{
	_cleanup_free_ char *text = NULL;
	uint64_t available, total;
	int r = read_text("/proc", "meminfo", &text);

	if (r == 0)
		r = find_number(text, "MemAvailable:", &available);
	if (r == 0)
		r = find_number(text, "MemTotal:", &total);
	if (r < 0)
		return error_trace(r);
	*ret_available = available << 10;
	*ret_total = total << 10;
	return 0;
}

int memory_left_of_group(const char *path, uint64_t *ret_available, uint64_t *ret_limit)
{
	_cleanup_free_ char *max = NULL, *current = NULL, *stat = NULL;
	uint64_t limit, used, cache = 0;
	int r = read_text(path, "memory.max", &max);

	if (r < 0 || sscanf(max, "%" SCNu64, &limit) != 1) /* "max" */
		return r < 0 ? r : -ENOENT;
	r = read_text(path, "memory.current", &current);
	if (r < 0)
		return r;
	if (sscanf(current, "%" SCNu64, &used) != 1)
		return -EBADMSG;
	if (read_text(path, "memory.stat", &stat) == 0)
		(void)find_number(stat, "inactive_file ", &cache); /* none then */
	used -= MIN(used, cache);
	*ret_available = limit - MIN(limit, used);
	*ret_limit = limit;
	return 0;
}

int memory_left(uint64_t *ret_available, uint64_t *ret_total)
{
	_cleanup_free_ char *text = NULL;
	uint64_t available, total;
	char path[PATH_MAX], *line, *slash;
	int r = of_host(&available, &total);

	if (r < 0)
		return r;
	*ret_available = available;
	*ret_total = total;
	if (read_text("/proc/self", "cgroup", &text) < 0)
		return 0;
	line = strstr(text, "0::/"); /* of version 2; others set no limit that we know */
	if (!line)
		return 0;
	line[strcspn(line, "\n")] = 0;
	if (snprintf(path, sizeof(path), GROUPS "%s", line + 3) >= (int)sizeof(path))
		return 0;
	/* from our own up to the root, which has no such file */
	while (strlen(path) >= strlen(GROUPS)) {
		if (memory_left_of_group(path, &available, &total) == 0) {
			*ret_available = MIN(*ret_available, available);
			*ret_total = MIN(*ret_total, total);
		}
		slash = strrchr(path, '/');
		*slash = 0;
	}
	return 0;
}
