/* SPDX-License-Identifier: Apache-2.0 */
/*
 * build.c - how a template is made
 *
 * A build boots a guest in a sandbox directory of its own (state creating, so that a crash leaves
 * nothing), over an image of zeros: to the pager and to the code that saves memory a boot is just a
 * wake from an empty snapshot. When the start command runs and the ready command succeeds, the
 * guest is saved to snapshots/<id>, and the name is pointed there as the very last step.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "guest/disk.h"
#include "sandbox/agent-client.h"

#define MAX_LOG_LINES  256
#define READY_MS       120000
#define READY_EVERY_MS 250
#define COMMAND_MS     120000
#define SETTLE_MS      500
#define MAX_CPUS       8 /* of a guest; more is slower than it helps under emulation */

enum build_status { BUILD_WAITING, BUILD_BUILDING, BUILD_READY, BUILD_ERROR };

static const char *const status_names[] = {"waiting", "building", "ready", "error"};

struct build {
	struct host *host;
	char template_id[ID_LEN + 1];
	char build_id[ID_LEN + 1];
	char name[64];
	uint64_t memory_bytes;
	uint32_t cpus;
	uint64_t disk_bytes;
	char *start_cmd, *ready_cmd;
	bool working_set;
	/* host.lock */
	enum build_status status;
	json_t *log; /* array of {timestamp, level, message} */
	struct problem problem;
};

static void build_free(struct build *b)
{
	if (!b)
		return;
	json_decref(b->log);
	free(b->start_cmd);
	free(b->ready_cmd);
	free(b);
}

void builds_free(struct host *host)
{
	for (unsigned i = 0; i < HOST_MAX_BUILDS; i++)
		build_free(host->builds[i]);
}

static void say(struct build *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct build *b, const char *fmt, ...)
{
	char text[512], when[32];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cut is fine */
	va_end(ap);
	log_info("template=%s %s", b->name, text);
	clock_rfc3339(clock_real_ns(), when);
	LOCK_SCOPE(&b->host->lock);
	if (json_array_size(b->log) < MAX_LOG_LINES)
		(void)json_array_append_new(b->log, json_pack("{s:s, s:s, s:s?}", "timestamp", when,
							      "level", "info", "message", text));
}

static void say_progress(void *userdata, const char *text)
{
	say(userdata, "%s", text);
}

/* ---- the steps --------------------------------------------------------------------------------
 */

/* The guest cache may lie on another file system, or one without links. */
static int link_or_copy(struct build *b, const char *from, int dirfd, const char *to,
			struct problem *problem)
{
	struct disk_copy_stats stats;
	_cleanup_fd_ int in = -1;
	int r;

	if (linkat(AT_FDCWD, from, dirfd, to, 0) == 0)
		return 0;
	in = open(from, O_RDONLY | O_CLOEXEC);
	r = in < 0 ? error_errno()
		   : disk_copy(in, dirfd, to, 0444, b->host->reflink, problem, &stats);
	if (r < 0)
		problem_errno(problem, r, "copying %s", from);
	return error_trace(r);
}

/* The file @from as the disk @name of memory-0. */
static int add_disk(struct build *b, struct sandbox *sb, const char *from, const char *name,
		    const char *format, struct manifest *m, struct problem *problem)
{
	struct snapshot_disk *d = &m->disks[m->n_disks];
	char path[64];
	struct stat st;
	int r;

	(void)snprintf(path, sizeof(path), "memory-0/disks/%s", name); /* short names */
	r = link_or_copy(b, from, sb->dirfd, path, problem);
	if (r < 0)
		return r;
	if (fstatat(sb->dirfd, path, &st, 0) < 0)
		return error_errno();
	str_copy(d->name, sizeof(d->name), name);
	str_copy(d->format, sizeof(d->format), format);
	d->size = (uint64_t)st.st_size;
	m->n_disks++;
	return 0;
}

static int add_writable_disk(struct build *b, struct sandbox *sb, struct manifest *m,
			     struct problem *problem)
{
	char empty[4096], name[ID_LEN + 1];
	int r;

	if (!b->disk_bytes)
		return 0;
	r = guest_disk_prepare(b->host->guest_cache, b->disk_bytes, say_progress, b, problem,
			       empty);
	id_new('d', name);
	return r < 0 ? error_trace(r) : add_disk(b, sb, empty, name, "qcow2", m, problem);
}

/* memory-0 holds only the disks until the guest is saved; the manifest describes what is booted. */
static int place_disks(struct build *b, struct sandbox *sb, const struct guest *guest,
		       struct problem *problem)
{
	struct manifest m = {.memory_bytes = b->memory_bytes,
			     .cpus = b->cpus,
			     .network = true}; /* it costs a sandbox without a network nothing */
	int r;

	if (mkdirat(sb->dirfd, "memory-0", 0700) < 0 ||
	    mkdirat(sb->dirfd, "memory-0/disks", 0700) < 0)
		return error_errno();
	r = add_disk(b, sb, guest->rootfs, "root", "raw", &m, problem);
	m.disks[0].read_only = true;
	if (r == 0)
		r = add_writable_disk(b, sb, &m, problem);
	if (r < 0)
		return r;
	str_copy(m.accel, sizeof(m.accel), b->host->accel);
	str_copy(m.kernel_version, sizeof(m.kernel_version), guest->kernel_version);
	sandbox_set_manifest(sb, &m);
	return 0;
}

static int run_command(struct build *b, struct sandbox *sb, const char *command,
		       uint64_t deadline_ns, struct problem *problem, int *ret_exit)
{
	_cleanup_buf_ struct buf output = {0};
	char *save = NULL, *line;
	int r;

	r = agent_run(sb->channel, command, deadline_ns, &output, ret_exit, problem);
	for (line = strtok_r(output.data ? output.data : (char[]){""}, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		say(b, "  %s", line);
	return error_trace(r);
}

/* A start command is left running in the background; a ready command is repeated until it succeeds.
 */
static int start_workload(struct build *b, struct sandbox *sb, struct problem *problem)
{
	uint64_t deadline = deadline_after_ms(READY_MS);
	int r, code = 0;

	if (b->start_cmd) {
		_cleanup_free_ char *background = str_printf(
			"{ %s\n} >/tmp/start-command.log 2>&1 </dev/null &", b->start_cmd);

		if (!background)
			return -ENOMEM;
		say(b, "start command: %s", b->start_cmd);
		r = run_command(b, sb, background, deadline_after_ms(COMMAND_MS), problem, &code);
		if (r < 0)
			return r;
	}
	if (!b->ready_cmd)
		return 0;
	say(b, "waiting for the ready command: %s", b->ready_cmd);
	for (;;) {
		r = run_command(b, sb, b->ready_cmd, deadline, problem, &code);
		if (r < 0 || code == 0)
			return error_trace(r);
		if (deadline_passed(deadline)) {
			problem_set(problem, 504,
				    "the ready command still fails (exit code %d) after %d s", code,
				    READY_MS / 1000);
			return -ETIMEDOUT;
		}
		clock_sleep_ms(READY_EVERY_MS);
	}
}

static int save_template(struct build *b, struct sandbox *sb, struct problem *problem)
{
	struct sandbox_save_timings t;
	struct manifest m;
	char final[64], size[16];
	int r;

	(void)snprintf(final, sizeof(final), "snapshots/%s", b->template_id); /* fixed length */
	r = sandbox_save(sb, final, b->template_id, b->name, &b->host->template_options, problem,
			 &t, &m);
	if (r < 0)
		return error_trace(r);
	say(b, "asleep in %.0f ms: %llu pages, %s stored", (double)t.total_ns / 1e6,
	    (unsigned long long)t.pages_stored, str_format_bytes(t.bytes_stored, size));
	manifest_deinit(&m);
	r = store_template_set(b->host->store, b->name, b->template_id);
	if (r < 0) {
		problem_errno(problem, r, "naming template %s", b->name);
		(void)snapshot_delete(b->host->store->root_fd, final, NULL); /* the error counts */
	}
	return error_trace(r);
}

static int boot_and_save(struct build *b, struct sandbox *sb, const struct guest *guest,
			 struct problem *problem)
{
	struct sandbox_timings t;
	int r;

	r = place_disks(b, sb, guest, problem);
	if (r < 0)
		return error_trace(r);
	say(b, "booting Linux %s with %llu MiB under %s", guest->kernel_version,
	    (unsigned long long)(b->memory_bytes >> 20), b->host->accel);
	r = sandbox_bring_up(sb, guest, b->memory_bytes, b->cpus, NULL, problem, &t);
	if (r < 0)
		return error_trace(r);
	say(b, "booted in %.0f ms", (double)(t.total_ns - t.repair_ns) / 1e6);
	r = start_workload(b, sb, problem);
	if (r < 0)
		return error_trace(r);
	clock_sleep_ms(SETTLE_MS);
	if (atomic_load(&b->host->stopping)) {
		problem_set(problem, 503, "dormd is ending");
		return -ECANCELED;
	}
	return save_template(b, sb, problem);
}

/* A template is as good without one, only slower to restore on a cold host. */
static void record_working_set(struct build *b)
{
	struct problem p = PROBLEM_INIT;
	uint64_t pages = 0, t0 = clock_now_ns();
	char size[16];
	int r = template_record_working_set(b->host, b->template_id, b->name, &p, &pages);

	if (r == 0)
		say(b, "working set recorded in %.0f ms: %llu pages, %s",
		    (double)(clock_now_ns() - t0) / 1e6, (unsigned long long)pages,
		    str_format_bytes(pages * DORM_PAGE_SIZE, size));
	else if (r != -EOPNOTSUPP)
		say(b, "warning: it has no working set: %s",
		    problem_is_set(&p) ? p.message : strerrordesc_np(-r));
}

static int build_template(struct build *b, struct problem *problem)
{
	struct record record = {.state = SANDBOX_CREATING, .created_ns = clock_real_ns()};
	struct sandbox *sb = NULL;
	struct guest guest;
	int r;

	r = guest_prepare(b->host->guest_cache, b->host->agent_program, say_progress, b, problem,
			  &guest);
	if (r < 0)
		return error_trace(r);
	id_new('i', record.id);
	str_copy(record.template_id, sizeof(record.template_id), b->name);
	r = sandbox_new(b->host, &record, true, problem, &sb);
	if (r < 0)
		return error_trace(r);
	pthread_mutex_lock(&sb->op);
	r = sandbox_insert(sb);
	if (r == 0)
		r = boot_and_save(b, sb, &guest, problem);
	sandbox_discard(sb);
	pthread_mutex_unlock(&sb->op);
	sandbox_unref(sb);
	if (r == 0 && b->working_set)
		record_working_set(b);
	return error_trace(r);
}

static void build_main(struct host *host, void *arg)
{
	struct build *b = arg;
	struct problem p = PROBLEM_INIT;
	int r = build_template(b, &p);

	if (r < 0) {
		problem_errno(&p, r, "building template %s", b->name);
		say(b, "failed: %s", p.message);
	} else {
		say(b, "template %s is ready", b->name);
	}
	LOCK_SCOPE(&host->lock);
	b->problem = p;
	b->status = r < 0 ? BUILD_ERROR : BUILD_READY;
}

/* ---- the API's side ---------------------------------------------------------------------------
 */

static int check_options(const struct template_options *o, struct problem *problem)
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
	int r = check_options(options, problem);

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

int template_build_start(struct host *host, const char *template_id, const char *build_id,
			 const char *start_cmd, const char *ready_cmd, bool working_set,
			 struct problem *problem)
{
	struct build *b;
	int r;

	LOCK_SCOPE(&host->lock);
	b = find_build(host, template_id, build_id, problem);
	if (!b)
		return -ENOENT;
	if (b->status != BUILD_WAITING) {
		problem_set(problem, 409, "build %s was started already", build_id);
		return -EBUSY;
	}
	b->start_cmd = start_cmd && *start_cmd ? strdup(start_cmd) : NULL;
	b->ready_cmd = ready_cmd && *ready_cmd ? strdup(ready_cmd) : NULL;
	b->working_set = working_set;
	b->status = BUILD_BUILDING;
	r = host_run(host, build_main, b);
	if (r < 0)
		b->status = BUILD_WAITING;
	return error_trace(r);
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
					  json_pack("{s:s, s:s}", "message", b->problem.message,
						    "hint", b->problem.hint));
	*ret = o;
	return o ? 0 : -ENOMEM;
}
