/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/metadata.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"
#include "channel/header.h"

#define HEADER_PREFIX "x-metadata-"
#define XATTR_PREFIX  "user.e2b."
#define LIST_MAX      65536u /* XATTR_LIST_MAX */

static bool is_printable(const char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s > '~')
			return false;
	return true;
}

static int check(const char *key, const char *value, size_t total, struct problem *problem)
{
	if (!key[0] || strlen(key) > METADATA_KEY_MAX)
		problem_set(problem, 400,
			    "a metadata key has 1 to %u bytes, but X-Metadata-%.40s has %zu",
			    METADATA_KEY_MAX, key, strlen(key));
	else if (!is_printable(key) || !is_printable(value))
		problem_set(problem, 400, "X-Metadata-%.100s is not printable ASCII", key);
	else if (total > METADATA_TOTAL_MAX)
		problem_set(problem, 400, "the metadata is larger than %u bytes altogether",
			    METADATA_TOTAL_MAX);
	else
		return 0;
	return -EINVAL;
}

int metadata_from_headers(const struct header_list *headers, struct problem *problem, json_t **ret)
{
	json_t *set = NULL;
	size_t total = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < headers->n; i++) {
		const char *key = str_has_prefix(headers->entries[i].name, HEADER_PREFIX);
		const char *value = headers->entries[i].value;

		if (!key)
			continue;
		total += strlen(key) + strlen(value);
		r = check(key, value, total, problem);
		if (r == 0 && !set && !(set = json_object()))
			r = -ENOMEM;
		if (r == 0 && json_object_set_new(set, key, json_string(value)) < 0)
			r = -ENOMEM;
	}
	if (r < 0)
		json_decref(set);
	else
		*ret = set;
	return r;
}

/* Return: bytes of the list in @ret (free()); 0 without any; negative errno */
static ssize_t list_names(const char *path, char **ret)
{
	_cleanup_free_ char *list = malloc(LIST_MAX);
	ssize_t n;

	if (!list)
		return -ENOMEM;
	n = listxattr(path, list, LIST_MAX);
	if (n < 0)
		return errno == ENOTSUP ? 0 : -errno;
	*ret = take_ptr(list);
	return n;
}

/* One that is gone by now, or that a client could not have set, is left out. */
static int read_one(const char *path, const char *name, const char *key, size_t *total, json_t *set)
{
	char value[METADATA_TOTAL_MAX + 1];
	ssize_t n = getxattr(path, name, value, METADATA_TOTAL_MAX);

	if (n < 0)
		return 0;
	value[n] = 0;
	*total += strlen(key) + (size_t)n;
	if (memchr(value, 0, (size_t)n) || check(key, value, *total, NULL) < 0)
		return 0;
	return json_object_set_new(set, key, json_string(value)) < 0 ? -ENOMEM : 0;
}

int metadata_read(const char *path, json_t **ret)
{
	_cleanup_free_ char *list = NULL;
	ssize_t n = list_names(path, &list);
	json_t *set = n > 0 ? json_object() : NULL;
	size_t total = 0;
	int r = n > 0 && !set ? -ENOMEM : n < 0 ? (int)n : 0;

	for (const char *name = list; r == 0 && set && name < list + n; name += strlen(name) + 1) {
		const char *key = str_has_prefix(name, XATTR_PREFIX);

		if (key)
			r = read_one(path, name, key, &total, set);
	}
	if (set && (r < 0 || json_object_size(set) == 0)) {
		json_decref(set);
		set = NULL;
	}
	if (r == 0)
		*ret = set;
	return r;
}

static int remove_all(int fd)
{
	_cleanup_free_ char *list = NULL;
	char path[40];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* always fits */
	n = list_names(path, &list);
	for (const char *name = list; n > 0 && name < list + n; name += strlen(name) + 1)
		if (str_has_prefix(name, XATTR_PREFIX) && fremovexattr(fd, name) < 0 &&
		    errno != ENODATA)
			return -errno;
	return n < 0 ? (int)n : 0;
}

int metadata_write(int fd, const json_t *set)
{
	const char *key;
	json_t *value;
	int r = remove_all(fd);

	json_object_foreach ((json_t *)set, key, value) {
		_cleanup_free_ char *name = str_printf(XATTR_PREFIX "%s", key);

		if (r == 0 && !name)
			r = -ENOMEM;
		if (r == 0 &&
		    fsetxattr(fd, name, json_string_value(value), json_string_length(value), 0) < 0)
			r = -errno;
	}
	return error_trace(r);
}
