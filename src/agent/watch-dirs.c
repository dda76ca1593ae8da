/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/watch-dirs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

void watch_dirs_deinit(struct watch_dirs *d)
{
	for (size_t i = 0; i < d->n; i++)
		free(d->list[i].path);
	free(d->list);
	*d = (struct watch_dirs){0};
}

/* The place of @wd, or where it would have to be. */
static size_t place_of(const struct watch_dirs *d, int wd)
{
	size_t low = 0, high = d->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (d->list[middle].wd < wd)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_at(const struct watch_dirs *d, size_t at, int wd)
{
	return at < d->n && d->list[at].wd == wd;
}

const char *watch_dirs_find(const struct watch_dirs *d, int wd)
{
	size_t at = place_of(d, wd);

	return is_at(d, at, wd) ? d->list[at].path : NULL;
}

/* What follows @above in @path: "" for the same, "/x" below it; NULL: neither */
static const char *below(const char *path, const char *above)
{
	const char *rest = str_has_prefix(path, above);

	return rest && (!rest[0] || rest[0] == '/') ? rest : NULL;
}

static int rename_all(struct watch_dirs *d, const char *from, const char *to)
{
	for (size_t i = 0; i < d->n; i++) {
		const char *rest = below(d->list[i].path, from);
		char *path = rest ? str_printf("%s%s", to, rest) : NULL;

		if (rest && !path)
			return -ENOMEM;
		if (rest) {
			free(d->list[i].path);
			d->list[i].path = path;
		}
	}
	return 0;
}

int watch_dirs_put(struct watch_dirs *d, int wd, const char *path)
{
	size_t at = place_of(d, wd);
	_cleanup_free_ char *copy = NULL;

	if (is_at(d, at, wd)) {
		if (!strcmp(d->list[at].path, path))
			return 0;
		copy = strdup(d->list[at].path);
		return copy ? rename_all(d, copy, path) : -ENOMEM;
	}
	if (d->n >= WATCH_DIRS_MAX)
		return -ENOSPC;
	copy = strdup(path);
	if (!copy || mem_grow(&d->list, &d->cap, d->n, sizeof(*d->list)) < 0)
		return -ENOMEM;
	memmove(d->list + at + 1, d->list + at, (d->n - at) * sizeof(*d->list));
	d->list[at] = (struct watch_dir){wd, take_ptr(copy)};
	d->n++;
	return 1;
}

void watch_dirs_remove(struct watch_dirs *d, int wd)
{
	size_t at = place_of(d, wd);

	if (!is_at(d, at, wd))
		return;
	free(d->list[at].path);
	d->n--;
	memmove(d->list + at, d->list + at + 1, (d->n - at) * sizeof(*d->list));
}

void watch_dirs_drop(struct watch_dirs *d, const char *path,
		     void (*dropped)(void *userdata, int wd), void *userdata)
{
	size_t kept = 0;

	for (size_t i = 0; i < d->n; i++) {
		if (below(d->list[i].path, path)) {
			dropped(userdata, d->list[i].wd);
			free(d->list[i].path);
		} else {
			d->list[kept++] = d->list[i];
		}
	}
	d->n = kept;
}
