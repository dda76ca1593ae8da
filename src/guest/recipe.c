/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/recipe.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

#define PATH_BYTES   4096
#define SOURCE_BYTES 4096
#define MAX_ENV	     200
#define MAX_READY_S  3600

static const char *const base_names[] = {
	[RECIPE_BUSYBOX] = "busybox", [RECIPE_DEBIAN] = "debian", [RECIPE_DIR] = "dir",
	[RECIPE_TAR] = "tar",	      [RECIPE_OCI] = "oci",	  [RECIPE_IMAGE] = "image"};

const char *recipe_base_name(enum recipe_base base)
{
	return base_names[base];
}

/* ---- what is allowed --------------------------------------------------------------------------
 */

/* "name: what is wrong with it", as a 400. */
static int refuse(struct problem *p, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int refuse(struct problem *p, const char *name, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cut is fine */
	va_end(ap);
	problem_set(p, 400, "recipe: %s: %s", name, text);
	problem_hint(p, "docs/templates.md lists what a recipe may say");
	return -EINVAL;
}

static int get_text(json_t *v, const char *name, size_t max, struct problem *p, const char **ret)
{
	if (!json_is_string(v))
		return refuse(p, name, "must be a text");
	if (!json_string_length(v) || json_string_length(v) > max)
		return refuse(p, name, "must have 1 to %zu bytes, not %zu", max,
			      json_string_length(v));
	*ret = json_string_value(v);
	return 0;
}

static bool leads_upwards(const char *path)
{
	for (const char *s = path; s; s = strchr(s, '/')) {
		s += *s == '/';
		if (s[0] == '.' && s[1] == '.' && (!s[2] || s[2] == '/'))
			return true;
	}
	return false;
}

static int get_path(json_t *v, const char *name, bool absolute, struct problem *p, const char **ret)
{
	const char *path = NULL;
	int r = get_text(v, name, PATH_BYTES - 1, p, &path);

	if (r < 0)
		return r;
	if ((path[0] == '/') != absolute)
		return refuse(p, name, "\"%.100s\" is not %s path", path,
			      absolute ? "an absolute" : "a relative");
	if (leads_upwards(path))
		return refuse(p, name, "\"%.100s\" leads upwards (\"..\")", path);
	*ret = path;
	return 0;
}

static const char user_chars[] =
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";

static bool is_user(const char *s, size_t len)
{
	return len > 0 && len < 64 && s[0] != '-' && strspn(s, user_chars) >= len;
}

static int get_user(json_t *v, const char *name, struct problem *p, const char **ret)
{
	const char *s = NULL;
	int r = get_text(v, name, 63, p, &s);

	if (r == 0 && !is_user(s, strlen(s)))
		return refuse(p, name, "\"%s\" is not a user's name or number", s);
	if (r == 0)
		*ret = s;
	return r;
}

/* "user" or "user:group"; of a group only numbers, a name is looked up nowhere. */
static int get_owner(json_t *v, const char *name, struct problem *p, const char **ret)
{
	const char *s = NULL, *colon;
	uint64_t group;
	int r = get_text(v, name, 80, p, &s);

	if (r < 0)
		return r;
	colon = strchr(s, ':');
	if (!is_user(s, colon ? (size_t)(colon - s) : strlen(s)) ||
	    (colon && (str_to_u64(colon + 1, &group) < 0 || group >= UINT32_MAX)))
		return refuse(p, name, "\"%s\" is not USER or USER:GID", s);
	*ret = s;
	return 0;
}

static int get_number(json_t *v, const char *name, uint64_t min, uint64_t max, struct problem *p,
		      uint64_t *ret)
{
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < 0 || (uint64_t)n < min || (uint64_t)n > max)
		return refuse(p, name, "must be a whole number from %llu to %llu",
			      (unsigned long long)min, (unsigned long long)max);
	*ret = (uint64_t)n;
	return 0;
}

/* An object's members must all be in @known. */
static int check_members(json_t *o, const char *name, const char *const *known, struct problem *p)
{
	const char *key;
	json_t *v;

	if (!json_is_object(o))
		return refuse(p, name, "must be an object");
	json_object_foreach (o, key, v) {
		size_t i = 0;

		while (known[i] && strcmp(known[i], key))
			i++;
		if (!known[i])
			return refuse(p, name, "has no member \"%.60s\"", key);
	}
	return 0;
}

/* An array of at most @max; its elements as calloc()ed @size bytes each. */
static int get_array(json_t *v, const char *name, size_t max, size_t size, struct problem *p,
		     void *ret)
{
	void *all;

	if (!json_is_array(v))
		return refuse(p, name, "must be an array");
	if (json_array_size(v) > max)
		return refuse(p, name, "has %zu entries; at most %zu are allowed",
			      json_array_size(v), max);
	all = calloc(json_array_size(v) + 1, size);
	if (!all)
		return -ENOMEM;
	memcpy(ret, &all, sizeof(all));
	return 0;
}

/* ---- members ----------------------------------------------------------------------------------
 */

static int parse_base(struct recipe *r, json_t *v, struct problem *p)
{
	const char *key;
	json_t *source;

	if (json_is_string(v)) {
		for (int i = RECIPE_BUSYBOX; i <= RECIPE_DEBIAN; i++)
			if (!strcmp(json_string_value(v), base_names[i])) {
				r->base = (enum recipe_base)i;
				return 0;
			}
		return refuse(p, "base", "\"%.60s\" is neither \"debian\" nor \"busybox\"",
			      json_string_value(v));
	}
	if (!json_is_object(v) || json_object_size(v) != 1)
		return refuse(p, "base",
			      "must be \"debian\", \"busybox\", or an object with one of dir, tar, "
			      "oci, image");
	json_object_foreach (v, key, source) {
		for (int i = RECIPE_DIR; i <= RECIPE_IMAGE; i++) {
			char name[32];

			if (strcmp(key, base_names[i]))
				continue;
			r->base = (enum recipe_base)i;
			(void)snprintf(name, sizeof(name), "base.%s", key);
			return get_text(source, name, SOURCE_BYTES - 1, p, &r->source);
		}
		return refuse(p, "base", "has no member \"%.60s\"", key);
	}
	return 0;
}

/* As Debian's policy has it, with an optional "=version": it becomes an argument of apt-get. */
static bool is_package(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789+.-:");

	if (n < 2 || !strchr("abcdefghijklmnopqrstuvwxyz0123456789", s[0]))
		return false;
	if (s[n] != '=')
		return !s[n];
	s += n + 1;
	return *s && !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				  "+.-:~")];
}

static int parse_packages(struct recipe *r, json_t *v, struct problem *p)
{
	char name[32];
	json_t *e;
	size_t i;
	int e_r = get_array(v, "packages", RECIPE_MAX_PACKAGES, sizeof(*r->packages), p,
			    &r->packages);

	if (e_r < 0)
		return e_r;
	json_array_foreach (v, i, e) {
		(void)snprintf(name, sizeof(name), "packages[%zu]", i);
		e_r = get_text(e, name, 200, p, &r->packages[i]);
		if (e_r < 0)
			return e_r;
		if (!is_package(r->packages[i]))
			return refuse(p, name, "\"%s\" is not a package's name", r->packages[i]);
		r->n_packages++;
	}
	return 0;
}

static int parse_mode(json_t *v, const char *name, struct problem *p, mode_t *ret)
{
	const char *s = json_string_value(v);

	if (!s || strlen(s) < 3 || strlen(s) > 4 || s[strspn(s, "01234567")])
		return refuse(p, name, "must be a text of 3 or 4 octal digits, like \"0644\"");
	*ret = (mode_t)strtoul(s, NULL, 8);
	return 0;
}

static int parse_file(struct recipe_file *f, json_t *o, const char *at, struct problem *p)
{
	static const char *const known[] = {"path", "text", "from", "mode", "owner", NULL};
	json_t *text = json_object_get(o, "text"), *from = json_object_get(o, "from"),
	       *mode = json_object_get(o, "mode"), *owner = json_object_get(o, "owner");
	char name[64];
	int r = check_members(o, at, known, p);

	*f = (struct recipe_file){.mode = (mode_t)-1, .owner = "root"};
#define NAME(_m) ((void)snprintf(name, sizeof(name), "%s.%s", at, _m), name)
	if (r == 0)
		r = get_path(json_object_get(o, "path"), NAME("path"), true, p, &f->path);
	if (r == 0 && !text == !from)
		return refuse(p, at, "must have either \"text\" or \"from\"");
	if (r == 0 && text) {
		if (!json_is_string(text))
			return refuse(p, NAME("text"), "must be a text");
		f->text = json_string_value(text);
		f->text_len = json_string_length(text);
	}
	if (r == 0 && from)
		r = get_path(from, NAME("from"), false, p, &f->from);
	if (r == 0 && mode)
		r = parse_mode(mode, NAME("mode"), p, &f->mode);
	if (r == 0 && owner)
		r = get_owner(owner, NAME("owner"), p, &f->owner);
	return r;
}

static int parse_files(struct recipe *r, json_t *v, struct problem *p)
{
	char at[32];
	json_t *e;
	size_t i;
	int e_r = get_array(v, "files", RECIPE_MAX_FILES, sizeof(*r->files), p, &r->files);

	if (e_r < 0)
		return e_r;
	json_array_foreach (v, i, e) {
		(void)snprintf(at, sizeof(at), "files[%zu]", i);
		e_r = parse_file(&r->files[i], e, at, p);
		if (e_r < 0)
			return e_r;
		r->n_files++;
	}
	return 0;
}

/* "command" or {"run": "command", "user": "name"}; also of "start". */
static int parse_command(json_t *v, const char *at, struct problem *p, const char **ret_run,
			 const char **ret_user)
{
	static const char *const known[] = {"run", "user", NULL};
	char name[64];
	int r;

	if (json_is_string(v))
		return get_text(v, at, RECIPE_MAX_COMMAND, p, ret_run);
	if (!json_is_object(v))
		return refuse(p, at, "must be a text or an object");
	r = check_members(v, at, known, p);
	if (r == 0)
		r = get_text(json_object_get(v, "run"), NAME("run"), RECIPE_MAX_COMMAND, p,
			     ret_run);
	if (r == 0 && json_object_get(v, "user"))
		r = get_user(json_object_get(v, "user"), NAME("user"), p, ret_user);
	return r;
}

static int parse_commands(struct recipe *r, json_t *v, struct problem *p)
{
	char at[32];
	json_t *e;
	size_t i;
	int e_r = get_array(v, "commands", RECIPE_MAX_COMMANDS, sizeof(*r->commands), p,
			    &r->commands);

	if (e_r < 0)
		return e_r;
	json_array_foreach (v, i, e) {
		(void)snprintf(at, sizeof(at), "commands[%zu]", i);
		r->commands[i].user = "root";
		e_r = parse_command(e, at, p, &r->commands[i].run, &r->commands[i].user);
		if (e_r < 0)
			return e_r;
		r->n_commands++;
	}
	return 0;
}

static int parse_env(struct recipe *r, json_t *v, struct problem *p)
{
	char name[64];
	const char *key;
	json_t *e;

	if (!json_is_object(v))
		return refuse(p, "env", "must be an object");
	if (json_object_size(v) > MAX_ENV)
		return refuse(p, "env", "has %zu entries; at most %d are allowed",
			      json_object_size(v), MAX_ENV);
	json_object_foreach (v, key, e) {
		(void)snprintf(name, sizeof(name), "env.%.40s", key);
		if (!*key || strchr(key, '=') || strlen(key) > 256)
			return refuse(p, name, "is not the name of a variable");
		if (!json_is_string(e))
			return refuse(p, name, "must be a text");
	}
	r->env = v;
	return 0;
}

static int parse_workdir(struct recipe *r, json_t *v, struct problem *p)
{
	return get_path(v, "workdir", true, p, &r->workdir);
}

static int parse_user(struct recipe *r, json_t *v, struct problem *p)
{
	return get_user(v, "user", p, &r->user);
}

static int parse_start(struct recipe *r, json_t *v, struct problem *p)
{
	return parse_command(v, "start", p, &r->start, &r->start_user);
}

static int parse_ready(struct recipe *r, json_t *v, struct problem *p)
{
	static const char *const known[] = {"command", "port", "delay", NULL};
	uint64_t number = 0;
	json_t *e;
	int e_r = check_members(v, "ready", known, p);

	if (e_r < 0)
		return e_r;
	if (json_object_size(v) != 1)
		return refuse(p, "ready", "must have one of command, port, delay");
	if ((e = json_object_get(v, "command"))) {
		r->ready = RECIPE_READY_COMMAND;
		return get_text(e, "ready.command", RECIPE_MAX_COMMAND, p, &r->ready_command);
	}
	if ((e = json_object_get(v, "port"))) {
		r->ready = RECIPE_READY_PORT;
		e_r = get_number(e, "ready.port", 1, 65535, p, &number);
		r->ready_port = (uint32_t)number;
		return e_r;
	}
	r->ready = RECIPE_READY_DELAY;
	e_r = get_number(json_object_get(v, "delay"), "ready.delay", 0, MAX_READY_S, p, &number);
	r->ready_delay_s = (uint32_t)number;
	return e_r;
}

static int parse_ready_timeout(struct recipe *r, json_t *v, struct problem *p)
{
	uint64_t number = 0;
	int e_r = get_number(v, "readyTimeout", 1, MAX_READY_S, p, &number);

	if (e_r == 0)
		r->ready_timeout_s = (uint32_t)number;
	return e_r;
}

static int parse_memory(struct recipe *r, json_t *v, struct problem *p)
{
	return get_number(v, "memoryMB", 1, 1u << 22, p, &r->memory_mb);
}

static int parse_cpus(struct recipe *r, json_t *v, struct problem *p)
{
	return get_number(v, "cpuCount", 1, 1024, p, &r->cpus);
}

static int parse_disk(struct recipe *r, json_t *v, struct problem *p)
{
	r->has_disk = true;
	return get_number(v, "diskSizeMB", 0, 1u << 24, p, &r->disk_mb);
}

static const struct member {
	const char *name;
	int (*parse)(struct recipe *r, json_t *v, struct problem *p);
} members[] = {
	{"base", parse_base},	    {"packages", parse_packages},
	{"files", parse_files},	    {"commands", parse_commands},
	{"env", parse_env},	    {"workdir", parse_workdir},
	{"user", parse_user},	    {"start", parse_start},
	{"ready", parse_ready},	    {"readyTimeout", parse_ready_timeout},
	{"memoryMB", parse_memory}, {"cpuCount", parse_cpus},
	{"diskSizeMB", parse_disk},
};

static const struct member *find_member(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (!strcmp(members[i].name, name))
			return &members[i];
	return NULL;
}

static int parse_all(struct recipe *r, struct problem *p)
{
	const char *key;
	json_t *v;
	int e_r;

	json_object_foreach (r->json, key, v) {
		const struct member *m = find_member(key);

		if (!m)
			return refuse(p, "it", "has no member \"%.60s\"", key);
		if (json_is_null(v))
			continue;
		e_r = m->parse(r, v, p);
		if (e_r < 0)
			return e_r;
	}
	if (r->n_packages && r->base == RECIPE_BUSYBOX)
		return refuse(p, "packages", "the busybox base has no package manager");
	return 0;
}

int recipe_parse(json_t *json, enum recipe_base otherwise, struct problem *problem,
		 struct recipe *ret)
{
	_cleanup_recipe_ struct recipe r = {.base = otherwise,
					    .ready_timeout_s = RECIPE_READY_SECONDS};
	int e_r;

	if (!json_is_object(json))
		return refuse(problem, "it", "must be an object");
	r.json = json_incref(json);
	e_r = parse_all(&r, problem);
	if (e_r < 0)
		return e_r;
	*ret = r;
	r = RECIPE_INIT;
	return 0;
}

void recipe_deinit(struct recipe *r)
{
	free(r->packages);
	free(r->files);
	free(r->commands);
	json_decref(r->json);
	*r = RECIPE_INIT;
}
