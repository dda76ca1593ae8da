/* SPDX-License-Identifier: Apache-2.0 */
/*
 * build-run.c - how a template is made
 *
 * First its root file system (guest/root-build.h), below tmp/build-<id>/, which is emptied at the
 * next start if we die. Then a build boots a guest in a sandbox directory of its own (state
 * creating, so that a crash leaves nothing), over an image of zeros: to the pager and to the code
 * that saves memory a boot is just a wake from an empty snapshot. When the start command runs and
 * is ready, the guest is saved to snapshots/<id>, and the name is pointed there as the very last
 * step.
 */
#include "sandbox/build-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "guest/disk.h"
#include "guest/root-build.h"

#define SETTLE_MS 500

static void say_progress(void *userdata, const char *text)
{
	build_say(userdata, "%s", text);
}

static bool is_cancelled(void *userdata)
{
	struct build *b = userdata;

	return atomic_load(&b->host->stopping);
}

int build_stopping(struct build *b, struct problem *problem)
{
	if (!is_cancelled(b))
		return 0;
	problem_set(problem, 503, "dormd is ending");
	return -ECANCELED;
}

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
		       json_t *defaults, struct problem *problem)
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
	m.defaults = json_incref(defaults);
	sandbox_set_manifest(sb, &m);
	return 0;
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
	build_say(b, "asleep in %.0f ms: %llu pages, %s stored", (double)t.total_ns / 1e6,
		  (unsigned long long)t.pages_stored, str_format_bytes(t.bytes_stored, size));
	manifest_deinit(&m);
	r = store_template_set(b->host->store, b->name, b->template_id);
	if (r < 0) {
		problem_errno(problem, r, "naming template %s", b->name);
		(void)snapshot_delete(b->host->store->root_fd, final, NULL); /* the error counts */
	}
	pool_recheck(b->host->pool);
	return error_trace(r);
}

/* What is booted, and what runs in it then. */
struct plan {
	struct guest guest;
	json_t *defaults; /* manifest.defaults; NULL: none */
	struct workload workload;
};

static int boot_and_save(struct build *b, struct sandbox *sb, const struct plan *plan,
			 struct problem *problem)
{
	struct sandbox_timings t;
	int r;

	b->step = "boot";
	r = place_disks(b, sb, &plan->guest, plan->defaults, problem);
	if (r < 0)
		return error_trace(r);
	build_say(b, "booting Linux %s with %llu MiB under %s", plan->guest.kernel_version,
		  (unsigned long long)(b->memory_bytes >> 20), b->host->accel);
	r = sandbox_bring_up(sb, &plan->guest, b->memory_bytes, b->cpus, NULL, problem, &t);
	if (r < 0)
		return error_trace(r);
	build_say(b, "booted in %.0f ms", (double)(t.total_ns - t.repair_ns) / 1e6);
	b->step = "start";
	r = build_start_workload(b, sb, &plan->workload, problem);
	if (r < 0)
		return error_trace(r);
	clock_sleep_ms(SETTLE_MS);
	r = build_stopping(b, problem);
	b->step = "snapshot";
	return r < 0 ? r : save_template(b, sb, problem);
}

/* A template is as good without one, only slower to restore on a cold host. */
static void record_working_set(struct build *b)
{
	struct problem p = PROBLEM_INIT;
	uint64_t pages = 0, t0 = clock_now_ns();
	char size[16];
	int r = template_record_working_set(b->host, b->template_id, b->name, &p, &pages);

	if (r == 0)
		build_say(b, "working set recorded in %.0f ms: %llu pages, %s",
			  (double)(clock_now_ns() - t0) / 1e6, (unsigned long long)pages,
			  str_format_bytes(pages * DORM_PAGE_SIZE, size));
	else if (r != -EOPNOTSUPP)
		build_say(b, "warning: it has no working set: %s",
			  problem_is_set(&p) ? p.message : strerrordesc_np(-r));
}

/* ---- the recipe --------------------------------------------------------------------------------
 */

/* The image's environment, and above it the recipe's; new reference, NULL when there is neither. */
static int merge_env(json_t *below, json_t *above, json_t **ret)
{
	json_t *all;

	if (!below || !above) {
		*ret = json_incref(below ? below : above);
		return 0;
	}
	all = json_copy(below);
	if (!all || json_object_update(all, above) < 0) {
		json_decref(all);
		return -ENOMEM;
	}
	*ret = all;
	return 0;
}

/* The recipe's word counts before the image's. What sandboxes are to do by default, and what is
 * started now: an image says nothing of a user when it means root. */
/* What a boot of a sandbox starts again; NULL: nothing, or no memory */
static json_t *describe_start(const struct workload *w)
{
	return w->start ? json_pack("{s:s, s:s*, s:s*}", "command", w->start, "user", w->user,
				    "workdir", w->workdir)
			: NULL;
}

static int make_plan(const struct recipe *recipe, const struct root_built *built, struct plan *plan)
{
	const struct oci_config *c = &built->config;
	bool from_image = !recipe->start && c->command;
	const char *user = recipe->user ? recipe->user : c->user;
	const char *workdir = recipe->workdir ? recipe->workdir : c->workdir;
	json_t *env = NULL;
	int r = merge_env(c->env, recipe->env, &env);

	if (r < 0)
		return r;
	plan->workload.start = recipe->start ? recipe->start : c->command;
	plan->workload.workdir = workdir;
	plan->workload.user = recipe->start_user ? recipe->start_user
			      : user		 ? user
			      : from_image	 ? "root"
						 : "user";
	if (!env && !user && !workdir && !plan->workload.start)
		return 0;
	plan->defaults = json_pack("{s:o*, s:s*, s:s*, s:o*}", "env", env, "user", user, "workdir",
				   workdir, "start", describe_start(&plan->workload));
	return plan->defaults ? 0 : -ENOMEM;
}

static int make_root(struct build *b, const char *work, struct problem *problem,
		     struct root_built *ret)
{
	const struct runner runner = {.progress = say_progress,
				      .cancelled = is_cancelled,
				      .userdata = b,
				      .watch_dir = work,
				      .problem = problem};
	const struct root_build rb = {.recipe = &b->recipe,
				      .context = b->context,
				      .cache_dir = b->host->guest_cache,
				      .work = work,
				      .runner = &runner};
	uint64_t t0 = clock_now_ns();
	int r = root_build(&rb, ret);

	if (r == 0)
		build_say(b, "root file system ready in %.1f s",
			  (double)(clock_now_ns() - t0) / 1e9);
	return error_trace(r);
}

static int run_guest(struct build *b, const struct plan *plan, struct problem *problem)
{
	struct record record = {.state = SANDBOX_CREATING, .created_ns = clock_real_ns()};
	struct sandbox *sb = NULL;
	int r;

	id_new('i', record.id);
	str_copy(record.template_id, sizeof(record.template_id), b->name);
	r = sandbox_new(b->host, &record, true, problem, &sb);
	if (r < 0)
		return error_trace(r);
	pthread_mutex_lock(&sb->op);
	op_begin(sb, OP_BUILD);
	r = sandbox_insert(sb);
	if (r == 0)
		r = boot_and_save(b, sb, plan, problem);
	sandbox_discard(sb);
	op_unlock(sb);
	sandbox_unref(sb);
	return error_trace(r);
}

static int build_in(struct build *b, const char *work, struct problem *problem)
{
	struct plan plan = {.defaults = NULL};
	struct root_built built = {0};
	int r;

	b->step = "guest";
	r = guest_prepare(b->host->guest_cache, b->host->agent_program, say_progress, b, problem,
			  &plan.guest);
	if (r < 0)
		return error_trace(r);
	b->step = "root file system";
	r = make_root(b, work, problem, &built);
	if (r < 0)
		return error_trace(r);
	str_copy(plan.guest.rootfs, sizeof(plan.guest.rootfs), built.image);
	r = make_plan(&b->recipe, &built, &plan);
	if (r == 0)
		r = run_guest(b, &plan, problem);
	json_decref(plan.defaults);
	root_built_deinit(&built);
	return error_trace(r);
}

/* The directory below tmp/, for as long as it takes. */
static int build_template(struct build *b, struct problem *problem)
{
	_cleanup_free_ char *work = NULL;
	char name[64];
	int r;

	(void)snprintf(name, sizeof(name), "tmp/build-%s", b->build_id); /* fixed length */
	work = str_printf("%s/%s", b->host->root, name);
	if (!work)
		return -ENOMEM;
	/* set-user-id programs of somebody else's choice lie in there: nobody else may enter */
	r = mkdirat(b->host->store->root_fd, name, 0700) < 0 ? error_errno() : 0;
	if (r == 0)
		r = build_in(b, work, problem);
	if (file_remove_tree(b->host->store->root_fd, name) < 0)
		build_say(b, "warning: %s could not be removed; it goes at the next start", work);
	if (r == 0 && b->working_set)
		record_working_set(b);
	return error_trace(r);
}

void build_main(struct host *host, void *arg)
{
	struct build *b = arg;
	struct problem p = PROBLEM_INIT;
	int r = build_template(b, &p);

	if (r < 0) {
		problem_errno(&p, r, "building template %s", b->name);
		build_make_printable(p.message);
		build_make_printable(p.hint);
		build_say(b, "failed: %s", p.message);
		events_add(host->events, "template.failed", NULL,
			   json_pack("{s:s, s:s, s:s}", "templateID", b->template_id, "name",
				     b->name, "reason", p.message));
	} else {
		build_say(b, "template %s is ready", b->name);
		events_add(host->events, "template.ready", NULL,
			   json_pack("{s:s, s:s}", "templateID", b->template_id, "name", b->name));
	}
	LOCK_SCOPE(&host->lock);
	b->problem = p;
	b->status = r < 0 ? BUILD_ERROR : BUILD_READY;
	work_end(host);
}
