/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/modules.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"

/* A module needs what it needs, and so on: deeper than this is a circle. Real chains are below 10.
 */
#define DEPTH_MAX 64

void module_list_deinit(struct module_list *l)
{
	for (unsigned i = 0; i < l->n; i++)
		free(l->paths[i]);
	free(l->paths);
	*l = (struct module_list){0};
}

/* Is the file name of @path (of @len bytes, directories and .ko* ignored) the module @name? */
static bool path_is_module(const char *path, size_t len, const char *name)
{
	const char *base = memrchr(path, '/', len);
	size_t i;

	base = base ? base + 1 : path;
	len -= (size_t)(base - path);
	for (i = 0; i < len && name[i]; i++) {
		char a = base[i] == '-' ? '_' : base[i];
		char b = name[i] == '-' ? '_' : name[i];

		if (a != b)
			return false;
	}
	return !name[i] && len - i >= 3 && !memcmp(base + i, ".ko", 3) &&
	       (len - i == 3 || base[i + 3] == '.');
}

/* The line of @text whose first word (up to ':' or the end) is the module @name, or NULL. */
static const char *find_line(const char *text, const char *name)
{
	while (*text) {
		size_t first = strcspn(text, ":\n");

		if (path_is_module(text, first, name))
			return text;
		text += first + strcspn(text + first, "\n");
		text += *text == '\n';
	}
	return NULL;
}

static const char *find_path(const char *text, const char *path, size_t len)
{
	while (*text) {
		if (!strncmp(text, path, len) && text[len] == ':')
			return text;
		text += strcspn(text, "\n");
		text += *text == '\n';
	}
	return NULL;
}

static bool list_has(const struct module_list *l, const char *path, size_t len)
{
	for (unsigned i = 0; i < l->n; i++)
		if (strlen(l->paths[i]) == len && !memcmp(l->paths[i], path, len))
			return true;
	return false;
}

static int list_add(struct module_list *l, const char *path, size_t len)
{
	char **p = realloc(l->paths, (l->n + 1) * sizeof(*p));

	if (!p)
		return error_trace(-ENOMEM);
	l->paths = p;
	p[l->n] = strndup(path, len);
	if (!p[l->n])
		return error_trace(-ENOMEM);
	l->n++;
	return 0;
}

/* Add the module of @line after everything that it names, the last of them first. */
static int add_line(const char *dep, const char *line, unsigned depth, struct problem *problem,
		    struct module_list *l)
{
	size_t path_len = strcspn(line, ":\n");
	const char *needs = line + path_len + 1, *end;
	int r;

	if (list_has(l, line, path_len))
		return 0;
	if (line[path_len] != ':' || depth > DEPTH_MAX) {
		problem_set(problem, 500, "modules.dep: %s \"%.*s\"",
			    depth > DEPTH_MAX ? "dependencies go in a circle at" : "no ':' after",
			    (int)path_len, line);
		return error_trace(-EINVAL);
	}
	for (end = needs + strcspn(needs, "\n"); end > needs;) {
		const char *word = end, *need;

		while (word > needs && word[-1] != ' ')
			word--;
		if (end > word) {
			need = find_path(dep, word, (size_t)(end - word));
			if (!need) {
				problem_set(problem, 500,
					    "modules.dep: %.*s needs %.*s, which it "
					    "does not list",
					    (int)path_len, line, (int)(end - word), word);
				return error_trace(-ENOENT);
			}
			r = add_line(dep, need, depth + 1, problem, l);
			if (r < 0)
				return r;
		}
		end = word > needs ? word - 1 : needs;
	}
	return list_has(l, line, path_len) ? 0 : list_add(l, line, path_len);
}

int modules_resolve(const char *dep, const char *builtin, const char *const wanted[],
		    struct problem *problem, struct module_list *ret)
{
	_cleanup_module_list_ struct module_list l = {0};
	int r;

	for (; *wanted; wanted++) {
		const char *line = find_line(dep, *wanted);

		if (!line && find_line(builtin, *wanted))
			continue;
		if (!line) {
			problem_set(problem, 500, "the guest kernel has no module \"%s\"", *wanted);
			return error_trace(-ENOENT);
		}
		r = add_line(dep, line, 0, problem, &l);
		if (r < 0)
			return r;
	}
	*ret = l;
	l = (struct module_list){0};
	return 0;
}
