/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/template-recipe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

bool template_sources_any(const struct template_sources *s)
{
	return s->file || s->base || s->dir || s->tar || s->oci || s->image || s->ready_port;
}

static int absolute(const char *path, struct problem *problem, char **ret)
{
	*ret = realpath(path, NULL);
	if (*ret)
		return 0;
	problem_errno(problem, -errno, "%s", path);
	return -EINVAL;
}

/* LAYOUT:TAG, unless the whole of it is there. */
static int absolute_layout(const char *text, struct problem *problem, char **ret)
{
	_cleanup_free_ char *dir = strdup(text), *path = NULL;
	char *colon = dir ? strrchr(dir, ':') : NULL;
	int r;

	if (!dir)
		return -ENOMEM;
	if (!colon || strchr(colon, '/') || access(text, F_OK) == 0)
		return absolute(text, problem, ret);
	*colon = 0;
	r = absolute(dir, problem, &path);
	if (r < 0)
		return r;
	*ret = str_printf("%s:%s", path, colon + 1);
	return *ret ? 0 : -ENOMEM;
}

static int read_file(const char *name, struct problem *problem, json_t **ret, char **ret_context)
{
	_cleanup_free_ char *path = NULL;
	json_error_t e;
	int r = absolute(name, problem, &path);

	if (r < 0)
		return r;
	*ret = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
	if (!*ret) {
		problem_set(problem, 400, "%s: line %d, column %d: %s", name, e.line, e.column,
			    e.text);
		return -EINVAL;
	}
	if (!json_is_object(*ret)) {
		problem_set(problem, 400, "%s: a recipe is a JSON object", name);
		return -EINVAL;
	}
	*strrchr(path, '/') = 0;
	*ret_context = strdup(*path ? path : "/");
	return *ret_context ? 0 : -ENOMEM;
}

/* Takes @value. Return: 0; -EINVAL when a text is not UTF-8 */
static int put(json_t *recipe, const char *name, json_t *value, struct problem *problem)
{
	if (json_object_set_new(recipe, name, value) == 0)
		return 0;
	problem_set(problem, 400, "%s: not valid UTF-8", name);
	return -EINVAL;
}

static int put_base(json_t *recipe, const struct template_sources *s, struct problem *problem)
{
	_cleanup_free_ char *path = NULL;
	const char *kind = NULL;
	int r = 0;

	if (s->base)
		return put(recipe, "base", json_string(s->base), problem);
	if (s->image)
		return put(recipe, "base", json_pack("{s:s}", "image", s->image), problem);
	if (s->oci) {
		kind = "oci";
		r = absolute_layout(s->oci, problem, &path);
	} else if (s->dir || s->tar) {
		kind = s->dir ? "dir" : "tar";
		r = absolute(s->dir ? s->dir : s->tar, problem, &path);
	}
	if (!kind || r < 0)
		return r;
	return put(recipe, "base", json_pack("{s:s}", kind, path), problem);
}

static int put_options(json_t *recipe, const struct template_sources *s, struct problem *problem)
{
	int r = put_base(recipe, s, problem);

	if (r == 0 && s->start_cmd)
		r = put(recipe, "start", json_string(s->start_cmd), problem);
	if (r == 0 && s->ready_cmd)
		r = put(recipe, "ready", json_pack("{s:s}", "command", s->ready_cmd), problem);
	if (r == 0 && s->ready_port)
		r = put(recipe, "ready", json_pack("{s:I}", "port", (json_int_t)s->ready_port),
			problem);
	if (r == 0 && s->memory_mb)
		r = put(recipe, "memoryMB", json_integer((json_int_t)s->memory_mb), problem);
	if (r == 0 && s->cpus)
		r = put(recipe, "cpuCount", json_integer((json_int_t)s->cpus), problem);
	if (r == 0 && s->disk_mb)
		r = put(recipe, "diskSizeMB", json_integer((json_int_t)s->disk_mb), problem);
	return r;
}

int template_recipe_make(const struct template_sources *s, struct problem *problem,
			 json_t **ret_recipe, char **ret_context)
{
	_cleanup_free_ char *context = NULL;
	json_auto_t *recipe = NULL;
	int r = 0;

	if (s->file)
		r = read_file(s->file, problem, &recipe, &context);
	else
		recipe = json_object();
	if (r < 0 || !recipe)
		return r < 0 ? r : -ENOMEM;
	/* without a word on it a recipe means Debian; so options alone do not */
	if (!s->file)
		r = put(recipe, "base", json_string("busybox"), problem);
	if (r == 0)
		r = put_options(recipe, s, problem);
	if (r < 0)
		return r;
	*ret_recipe = take_ptr(recipe);
	*ret_context = take_ptr(context);
	return 0;
}
