/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

static int index_names(struct names *n)
{
	const char *at = n->text.data;

	n->list = calloc(n->n + 1, sizeof(*n->list));
	if (!n->list)
		return error_trace(-ENOMEM);
	for (size_t i = 0; i < n->n; i++, at += strlen(at) + 1)
		n->list[i] = at;
	return 0;
}

static bool is_wanted(const struct dirent *e, bool only_dirs)
{
	if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
		return false;
	return !only_dirs || e->d_type == DT_DIR || e->d_type == DT_UNKNOWN;
}

static int read_all(DIR *d, size_t max, bool only_dirs, struct names *ret)
{
	struct dirent *e;
	int r;

	while (errno = 0, (e = readdir(d))) {
		if (!is_wanted(e, only_dirs))
			continue;
		if (ret->n == max)
			return 1;
		r = buf_append(&ret->text, e->d_name, strlen(e->d_name) + 1);
		if (r < 0)
			return r;
		ret->n++;
	}
	return errno ? error_errno() : 0;
}

int names_read(int fd, size_t max, bool only_dirs, struct names *ret)
{
	int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r, i;
	DIR *d = own < 0 ? NULL : fdopendir(own);

	if (!d) {
		r = error_errno();
		if (own >= 0)
			close(own);
		return r;
	}
	r = read_all(d, max, only_dirs, ret);
	closedir(d);
	i = r < 0 ? r : index_names(ret);
	return i < 0 ? i : r;
}

void names_deinit(struct names *n)
{
	buf_deinit(&n->text);
	free(n->list);
	*n = (struct names){0};
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void names_sort(struct names *n)
{
	qsort(n->list, n->n, sizeof(*n->list), compare);
}
