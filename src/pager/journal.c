/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "pager/pager.h"

#define FORMAT	  "dormouse-pager-session"
#define RECORD	  ".session"
#define SLATE	  ".pages"
#define FILE_NAME (SESSION_NAME_MAX + sizeof(RECORD))

static const char *const load_words[] = {"none", "working-set", "full"};

/* ---- files ------------------------------------------------------------------------------------
 */

int journal_open(const char *run_dir, const char *name, struct problem *problem)
{
	_cleanup_free_ char *path = str_printf("%s/%s", run_dir, name);
	int r;

	if (!path)
		return -ENOMEM;
	r = file_mkdir_p(path, 0700);
	if (r == 0)
		r = file_open_dir(AT_FDCWD, path);
	if (r < 0)
		problem_errno(problem, r, "cannot make the directory %s", path);
	return r;
}

int journal_lock(int dirfd, struct problem *problem)
{
	if (flock(dirfd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	problem_set(problem, 409, "another dorm-pager has its sessions in this run directory");
	problem_hint(problem, "stop it, or choose another --run-dir");
	return -EADDRINUSE;
}

static void file_name(const char *name, const char *suffix, char out[FILE_NAME])
{
	(void)snprintf(out, FILE_NAME, "%.*s%s", (int)SESSION_NAME_MAX, name, suffix);
}

int journal_write(int dirfd, const struct journal_entry *e)
{
	_cleanup_free_ char *text = journal_encode(e);
	char file[FILE_NAME];

	if (!text)
		return -ENOMEM;
	file_name(e->name, RECORD, file);
	return file_replace(dirfd, file, text, strlen(text), 0600);
}

void journal_remove(int dirfd, const char *name)
{
	char file[FILE_NAME];

	/* the record first: a slate alone means nothing. What cannot be removed is looked at, and
	 * found to be over, by the next pager */
	file_name(name, RECORD, file);
	(void)unlinkat(dirfd, file, 0);
	file_name(name, SLATE, file);
	(void)unlinkat(dirfd, file, 0);
}

int journal_read(int dirfd, const char *name, struct problem *problem, struct journal_entry *ret)
{
	_cleanup_free_ char *text = NULL;
	char file[FILE_NAME];
	size_t len;
	int r;

	file_name(name, RECORD, file);
	r = file_read(dirfd, file, JOURNAL_MAX_BYTES, &text, &len);
	if (r < 0) {
		problem_errno(problem, r, "cannot read the journal's %s", file);
		return r == -EFBIG ? JOURNAL_E_DAMAGED : r;
	}
	r = journal_decode(text, len, problem, ret);
	if (r == 0 && strcmp(ret->name, name) != 0) {
		problem_set(problem, 500, "the journal's %s is the record of session %s", file,
			    ret->name);
		r = JOURNAL_E_DAMAGED;
	}
	return r;
}

/* The session's name in a file's name. Return: is it one? */
static bool name_of(const char *file, const char *suffix, char out[SESSION_NAME_MAX + 1])
{
	size_t len = strlen(file);

	if (!str_has_suffix(file, suffix) || len - strlen(suffix) > SESSION_NAME_MAX)
		return false;
	memcpy(out, file, len - strlen(suffix));
	out[len - strlen(suffix)] = 0;
	return str_is_name(out);
}

static void remove_leftover(int dirfd, const char *file)
{
	char name[SESSION_NAME_MAX + 1], record[FILE_NAME];

	if (!name_of(file, SLATE, name))
		return;
	file_name(name, RECORD, record);
	if (faccessat(dirfd, record, F_OK, 0) < 0 && errno == ENOENT)
		(void)unlinkat(dirfd, file, 0);
}

int journal_names(int dirfd, char (**ret)[SESSION_NAME_MAX + 1], size_t *ret_n)
{
	_cleanup_free_ char(*names)[SESSION_NAME_MAX + 1] =
		calloc(PAGER_MAX_SESSIONS, SESSION_NAME_MAX + 1);
	_cleanup_dir_ DIR *d = NULL;
	const struct dirent *e;
	size_t n = 0;
	int r;

	if (!names)
		return -ENOMEM;
	r = file_opendir(dirfd, ".", &d);
	if (r < 0)
		return r;
	while ((e = readdir(d))) {
		remove_leftover(dirfd, e->d_name);
		if (n < PAGER_MAX_SESSIONS && name_of(e->d_name, RECORD, names[n]))
			n++;
	}
	*ret = take_ptr(names);
	*ret_n = n;
	return 0;
}

/* ---- encoding ---------------------------------------------------------------------------------
 */

static json_t *encode_regions(const struct handshake *map)
{
	json_t *regions = json_array();

	for (uint32_t i = 0; i < map->n_regions; i++) {
		const struct handshake_region *g = &map->regions[i];
		uint64_t size = g->n_pages * DORM_PAGE_SIZE, offset = g->gfn * DORM_PAGE_SIZE;
		json_t *o = json_pack("{s:I, s:I, s:I}", "base_host_virt_addr", (json_int_t)g->hva,
				      "size", (json_int_t)size, "offset", (json_int_t)offset);

		if (json_array_append_new(regions, o) < 0) {
			json_decref(regions);
			return NULL;
		}
	}
	return regions;
}

/* Numbers with all of their 64 bits do not go into a JSON integer. */
static json_t *encode_u64(uint64_t v)
{
	return json_sprintf("%llu", (unsigned long long)v);
}

char *journal_encode(const struct journal_entry *e)
{
	json_auto_t *o = json_pack(
		"{s:s, s:i, s:s, s:I, s:s, s:s, s:s, s:s, s:o, s:o, s:s, s:b, s:b, s:b, s:s, s:i, "
		"s:o, s:o, s:o}",
		"format", FORMAT, "version", JOURNAL_VERSION, "session", e->name, "n_pages",
		(json_int_t)e->n_pages, "mode", session_mode_name(e->mode), "why", e->why,
		"image_id", e->image_id, "memory_id", e->memory_id, "memory_dev",
		encode_u64(e->memory_dev), "memory_ino", encode_u64(e->memory_ino), "directory",
		e->directory, "zero", (int)e->zero, "sealed", (int)e->sealed, "full", (int)e->full,
		"load", load_words[e->load], "pid", e->pid, "start_time", encode_u64(e->start_time),
		"features", encode_u64(e->features), "regions", encode_regions(&e->map));

	return o ? json_dumps(o, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

static int __attribute__((format(printf, 2, 3)))
damaged(struct problem *problem, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cut is better than nothing */
	va_end(ap);
	problem_set(problem, 500, "the journal's record is damaged: %s", text);
	return JOURNAL_E_DAMAGED;
}

static int get_text(const json_t *o, const char *member, char *out, size_t size,
		    struct problem *problem)
{
	const json_t *v = json_object_get(o, member);

	/* a zero byte inside would make it another text */
	if (!json_is_string(v) || json_string_length(v) >= size ||
	    strlen(json_string_value(v)) != json_string_length(v))
		return damaged(problem, "\"%s\" is not a text of less than %zu bytes", member,
			       size);
	str_copy(out, size, json_string_value(v));
	return 0;
}

static int get_u64(const json_t *o, const char *member, uint64_t *ret, struct problem *problem)
{
	const char *text = json_string_value(json_object_get(o, member));

	if (!text || str_to_u64(text, ret) < 0)
		return damaged(problem, "\"%s\" is not a number in a text", member);
	return 0;
}

static int get_int(const json_t *o, const char *member, json_int_t min, json_int_t max,
		   json_int_t *ret, struct problem *problem)
{
	const json_t *v = json_object_get(o, member);

	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
		return damaged(problem, "\"%s\" is not a whole number from %lld to %lld", member,
			       (long long)min, (long long)max);
	*ret = json_integer_value(v);
	return 0;
}

static int get_bool(const json_t *o, const char *member, bool *ret, struct problem *problem)
{
	const json_t *v = json_object_get(o, member);

	if (!json_is_boolean(v))
		return damaged(problem, "\"%s\" is not true or false", member);
	*ret = json_is_true(v);
	return 0;
}

static int get_id(const json_t *o, const char *member, char out[IMAGE_ID_LEN + 1],
		  struct problem *problem)
{
	int r = get_text(o, member, out, IMAGE_ID_LEN + 1, problem);

	if (r == 0 &&
	    (strlen(out) != IMAGE_ID_LEN || strspn(out, "0123456789abcdef") != IMAGE_ID_LEN))
		r = damaged(problem, "\"%s\" is not an image id", member);
	return r;
}

static int get_words(const json_t *o, struct journal_entry *e, struct problem *problem)
{
	char mode[16], load[16];
	int r;

	if ((r = get_text(o, "mode", mode, sizeof(mode), problem)) ||
	    (r = get_text(o, "load", load, sizeof(load), problem)))
		return r;
	if (session_mode_parse(mode, &e->mode) < 0 || e->mode == SESSION_AUTO)
		return damaged(problem, "there is no mode \"%s\"", mode);
	for (size_t i = 0; i < ARRAY_SIZE(load_words); i++) {
		if (strcmp(load, load_words[i]) != 0)
			continue;
		e->load = (enum job_what)i;
		return 0;
	}
	return damaged(problem, "there is nothing to load that is called \"%s\"", load);
}

static int get_process(const json_t *o, struct journal_entry *e, struct problem *problem)
{
	const json_t *regions = json_object_get(o, "regions");
	_cleanup_free_ char *text = NULL;
	struct problem why = PROBLEM_INIT;
	json_int_t pid = 0;
	int r;

	if ((r = get_int(o, "pid", 0, INT_MAX, &pid, problem)) ||
	    (r = get_u64(o, "start_time", &e->start_time, problem)) ||
	    (r = get_u64(o, "features", &e->features, problem)))
		return r;
	e->pid = (int)pid;
	if (!json_is_array(regions) || (pid > 0) != (json_array_size(regions) > 0) || pid == 1)
		return damaged(problem, "a process has regions, and nobody else has");
	if (pid == 0)
		return 0;
	text = json_dumps(regions, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	/* the same rules as when the VM said it */
	r = handshake_parse(text, strlen(text), e->n_pages, &e->map, &why);
	if (r > 0)
		return damaged(problem, "%.200s", why.message);
	return r;
}

static int decode(const json_t *o, struct journal_entry *e, struct problem *problem)
{
	json_int_t n_pages = 0, version = 0;
	char format[sizeof(FORMAT)];
	int r;

	if ((r = get_text(o, "format", format, sizeof(format), problem)) ||
	    (r = get_int(o, "version", 1, INT_MAX, &version, problem)))
		return r;
	if (strcmp(format, FORMAT) != 0 || version != JOURNAL_VERSION)
		return damaged(problem, "its format is not version %d of " FORMAT, JOURNAL_VERSION);
	if ((r = get_text(o, "session", e->name, sizeof(e->name), problem)) ||
	    (r = get_int(o, "n_pages", 1, (json_int_t)IMAGE_MAX_PAGES, &n_pages, problem)) ||
	    (r = get_text(o, "why", e->why, sizeof(e->why), problem)) ||
	    (r = get_id(o, "image_id", e->image_id, problem)) ||
	    (r = get_id(o, "memory_id", e->memory_id, problem)) ||
	    (r = get_u64(o, "memory_dev", &e->memory_dev, problem)) ||
	    (r = get_u64(o, "memory_ino", &e->memory_ino, problem)) ||
	    (r = get_text(o, "directory", e->directory, sizeof(e->directory), problem)) ||
	    (r = get_bool(o, "zero", &e->zero, problem)) ||
	    (r = get_bool(o, "sealed", &e->sealed, problem)) ||
	    (r = get_bool(o, "full", &e->full, problem)) || (r = get_words(o, e, problem)))
		return r;
	e->n_pages = (uint64_t)n_pages;
	if (!str_is_name(e->name))
		return damaged(problem, "the session has no name");
	if (e->directory[0] && e->directory[0] != '/')
		return damaged(problem, "\"directory\" is not an absolute path");
	return get_process(o, e, problem);
}

int journal_decode(const char *data, size_t len, struct problem *problem, struct journal_entry *ret)
{
	struct journal_entry e = {0};
	json_auto_t *o = NULL;
	json_error_t error;
	int r;

	if (len > JOURNAL_MAX_BYTES)
		return damaged(problem, "it is longer than %u bytes", JOURNAL_MAX_BYTES);
	o = json_loadb(data, len, JSON_REJECT_DUPLICATES, &error);
	if (!o && json_error_code(&error) == json_error_out_of_memory)
		return -ENOMEM;
	if (!json_is_object(o))
		return damaged(problem, "it is not one JSON object");
	r = decode(o, &e, problem);
	if (r == 0)
		*ret = e;
	return r;
}
