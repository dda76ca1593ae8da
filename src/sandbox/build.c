/* SPDX-License-Identifier: Apache-2.0 */
/* build.c - the builds of a host: made, started, asked about; build-run.c does the work */
#include "sandbox/build-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/str.h"
#include "guest/disk.h"

#define DISK_DEFAULT_BYTES (4ull << 30)
#define MAX_LOG_LINES 4000
#define MAX_CPUS      8 /* of a guest; more is slower than it helps under emulation */

static const char *const status_names[] = {"waiting", "building", "ready", "error"};

static void build_free(struct build *b)
{
	if (!b)
		return;
	json_decref(b->log);
	recipe_deinit(&b->recipe);
	free(b->context);
	free(b);
}

void builds_free(struct host *host)
{
	for (unsigned i = 0; i < HOST_MAX_BUILDS; i++)
		build_free(host->builds[i]);
}

static void append(struct build *b, const char *level, const char *message)
{
	char when[32];

	clock_rfc3339(clock_real_ns(), when);
	/* a line that is not UTF-8, or lost for want of memory, is bearable */
	(void)json_array_append_new(b->log,
				    json_pack("{s:s, s:s, s:o?}", "timestamp", when, "level", level,
					      "message", json_string(message)));
}

void build_make_printable(char *text)
{
	json_t *probe;

	for (char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = ' ';
	probe = json_string(text);
	if (probe) {
		json_decref(probe);
		return;
	}
	for (char *c = text; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
}

void build_say(struct build *b, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cut is fine */
	va_end(ap);
	build_make_printable(text);
	log_info("template=%s %s", b->name, text);
	LOCK_SCOPE(&b->host->lock);
	if (json_array_size(b->log) < MAX_LOG_LINES)
		append(b, "info", text);
	else if (!b->log_is_full)
		append(b, "warn", "more is in dormd's log only");
	b->log_is_full = json_array_size(b->log) > MAX_LOG_LINES;
}

/* ---- the API's side ---------------------------------------------------------------------------
 */

int build_check_options(const struct template_options *o, struct problem *problem)
{
	struct sysinfo si;
	unsigned long long total;

	(void)sysinfo(&si); /* cannot fail with a valid pointer */
	total = (unsigned long long)si.totalram * si.mem_unit;
	if (!str_is_name(o->name)) {
		problem_set(problem, 400, "name: '%.64s' is not a name", o->name);
		problem_hint(problem, "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
		return -EINVAL;
	}
	if (o->memory_bytes < TEMPLATE_MIN_MEMORY || o->memory_bytes > total ||
	    o->memory_bytes % (1u << 20)) {
		problem_set(problem, 400,
			    "memoryMB: %llu is not between %llu and %llu, what this host has",
			    (unsigned long long)(o->memory_bytes >> 20), TEMPLATE_MIN_MEMORY >> 20,
			    total >> 20);
		return -EINVAL;
	}
	if (o->cpus < 1 || o->cpus > MAX_CPUS) {
		problem_set(problem, 400, "cpuCount: %u is not between 1 and %d", o->cpus,
			    MAX_CPUS);
		return -EINVAL;
	}
	if (o->disk_bytes && (o->disk_bytes < GUEST_DISK_MIN_BYTES ||
			      o->disk_bytes > GUEST_DISK_MAX_BYTES || o->disk_bytes % (1u << 20))) {
		problem_set(problem, 400, "diskSizeMB: %llu is neither 0 nor between %llu and %llu",
			    (unsigned long long)(o->disk_bytes >> 20), GUEST_DISK_MIN_BYTES >> 20,
			    GUEST_DISK_MAX_BYTES >> 20);
		problem_hint(problem, "0 is a guest without a disk, which writes to its memory");
		return -EINVAL;
	}
	return 0;
}

/* A place in the ring: an empty one, or the oldest that is not under way. */
static int take_place(struct host *host)
{
	for (unsigned i = 0; i < HOST_MAX_BUILDS; i++) {
		unsigned k = (host->next_build + i) % HOST_MAX_BUILDS;
		struct build *b = host->builds[k];

		if (b && b->status == BUILD_BUILDING)
			continue;
		host->builds[k] = NULL;
		build_free(b);
		host->next_build = (k + 1) % HOST_MAX_BUILDS;
		return (int)k;
	}
	return -EBUSY;
}

int template_build_new(struct host *host, const struct template_options *options,
		       struct problem *problem, char ret_template_id[ID_LEN + 1],
		       char ret_build_id[ID_LEN + 1])
{
	struct build *b;
	int r = build_check_options(options, problem);

	if (r < 0)
		return r;
	b = calloc(1, sizeof(*b));
	if (b)
		b->log = json_array();
	if (!b || !b->log) {
		build_free(b);
		return -ENOMEM;
	}
	b->host = host;
	id_new('s', b->template_id);
	id_new('b', b->build_id);
	str_copy(b->name, sizeof(b->name), options->name);
	b->memory_bytes = options->memory_bytes;
	b->cpus = options->cpus;
	b->disk_bytes = options->disk_bytes;
	memcpy(ret_template_id, b->template_id, sizeof(b->template_id));
	memcpy(ret_build_id, b->build_id, sizeof(b->build_id));
	LOCK_SCOPE(&host->lock);
	r = take_place(host);
	if (r < 0) {
		problem_set(problem, 503, "%d builds are under way already", HOST_MAX_BUILDS);
		build_free(b);
		return r;
	}
	host->builds[r] = b;
	return 0;
}

/* host.lock held */
static struct build *find_build(struct host *host, const char *template_id, const char *build_id,
				struct problem *problem)
{
	for (unsigned i = 0; i < HOST_MAX_BUILDS; i++) {
		struct build *b = host->builds[i];

		if (b && !strcmp(b->template_id, template_id) && !strcmp(b->build_id, build_id))
			return b;
	}
	problem_set(problem, 404, "there is no build %.64s of template %.64s", build_id,
		    template_id);
	return NULL;
}

/* What is more than the small base has programs that write more than should lie in memory. */
static uint64_t disk_bytes(const struct build *b, const struct recipe *r)
{
	if (r->has_disk)
		return r->disk_mb << 20;
	return b->disk_bytes || r->base == RECIPE_BUSYBOX ? b->disk_bytes : DISK_DEFAULT_BYTES;
}

/* The recipe's own sizes, if it has some, are checked as those of the request were. */
static int take_sizes(struct build *b, const struct recipe *r, struct problem *problem)
{
	struct template_options o = {.name = b->name,
				     .memory_bytes =
					     r->memory_mb ? r->memory_mb << 20 : b->memory_bytes,
				     .cpus = r->cpus ? (uint32_t)r->cpus : b->cpus,
				     .disk_bytes = disk_bytes(b, r)};
	int e = build_check_options(&o, problem);

	if (e < 0)
		return e;
	b->memory_bytes = o.memory_bytes;
	b->cpus = o.cpus;
	b->disk_bytes = o.disk_bytes;
	return 0;
}

/* A recipe may name files of this host, which dormd reads as root. */
static bool names_files(const struct recipe *r)
{
	for (size_t i = 0; i < r->n_files; i++)
		if (r->files[i].from)
			return true;
	return r->base == RECIPE_DIR || r->base == RECIPE_TAR || r->base == RECIPE_OCI;
}

static int check_source(const struct template_source *s, const struct recipe *r,
			struct problem *problem)
{
	if (!s->local && names_files(r)) {
		problem_set(
			problem, 403,
			"recipe: it names files of dormd's host, which only its unix socket may");
		problem_hint(problem,
			     "over TCP: texts in \"files\", packages, commands, or an image");
		return -EACCES;
	}
	if (s->context && (s->context[0] != '/' || strlen(s->context) >= 3000)) {
		problem_set(problem, 400, "contextDir: \"%.100s\" is not an absolute path",
			    s->context);
		return -EINVAL;
	}
	return 0;
}

/* host.lock held */
static int start(struct build *b, const struct template_source *source, struct recipe *recipe_take,
		 struct problem *problem)
{
	int r;

	if (b->status != BUILD_WAITING) {
		problem_set(problem, 409, "build %s was started already", b->build_id);
		return -EBUSY;
	}
	r = take_sizes(b, recipe_take, problem);
	if (r < 0)
		return r;
	b->context = source->context ? strdup(source->context) : NULL;
	if (source->context && !b->context)
		return -ENOMEM;
	b->recipe = *recipe_take;
	*recipe_take = RECIPE_INIT;
	b->working_set = source->working_set;
	b->status = BUILD_BUILDING;
	r = host_run(b->host, build_main, b);
	if (r < 0) {
		b->status = BUILD_WAITING;
		recipe_deinit(&b->recipe);
		free(b->context);
		b->context = NULL;
	}
	return error_trace(r);
}

int template_build_start(struct host *host, const char *template_id, const char *build_id,
			 const struct template_source *source, struct problem *problem)
{
	_cleanup_recipe_ struct recipe recipe = RECIPE_INIT;
	json_auto_t *empty = json_object();
	struct build *b;
	int r;

	r = recipe_parse(source->recipe ? source->recipe : empty,
			 source->bare ? RECIPE_BUSYBOX : RECIPE_DEBIAN, problem, &recipe);
	if (r == 0)
		r = check_source(source, &recipe, problem);
	if (r < 0)
		return r;
	if (!work_begin(host, problem))
		return -EAGAIN;
	LOCK_SCOPE(&host->lock);
	b = find_build(host, template_id, build_id, problem);
	r = b ? start(b, source, &recipe, problem) : -ENOENT;
	if (r < 0)
		work_end(host); /* otherwise build_main() says when it is over */
	return r;
}

int template_build_status(struct host *host, const char *template_id, const char *build_id,
			  size_t logs_offset, struct problem *problem, json_t **ret)
{
	json_t *o, *entries, *lines;
	struct build *b;

	LOCK_SCOPE(&host->lock);
	b = find_build(host, template_id, build_id, problem);
	if (!b)
		return -ENOENT;
	entries = json_array();
	lines = json_array();
	for (size_t i = logs_offset; i < json_array_size(b->log); i++) {
		json_t *e = json_array_get(b->log, i);

		(void)json_array_append_new(entries,
					    json_deep_copy(e)); /* a lost line is bearable */
		(void)json_array_append_new(lines, json_copy(json_object_get(e, "message")));
	}
	o = json_pack("{s:s, s:s, s:s, s:o, s:o}", "templateID", template_id, "buildID", build_id,
		      "status", status_names[b->status], "logEntries", entries, "logs", lines);
	if (o && b->status == BUILD_ERROR)
		(void)json_object_set_new(o, "reason",
					  json_pack("{s:s, s:s, s:s*}", "message",
						    b->problem.message, "hint", b->problem.hint,
						    "step", b->step));
	*ret = o;
	return o ? 0 : -ENOMEM;
}
