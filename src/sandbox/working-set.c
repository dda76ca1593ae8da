/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set.c - having the pager record what a restored guest touches, and keeping it
 *
 * The pager records; this writes, since the store is the daemon's. A template gets its first set
 * when it has just been built: a scratch sandbox is restored from it, with nothing loaded ahead,
 * and what it touches until it has settled is the set. From then on every sandbox made from the
 * template by its name tells more: once, when it has settled, or when it ends before that.
 *
 * A set is bound to the image: a sandbox that has slept or was forked while it ran is of another
 * image than the template, and tells nothing about it. The file is a hint, so nobody fails for want
 * of it, and nothing here is waited for. An image's file is replaced at most once in REFINE_PAUSE;
 * the snapshot is held meanwhile like for a compaction, so that it is not deleted half-way.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/manifest.h"
#include "image/working-set.h"

#define ASK_MS		2000
#define LAST_ASK_MS	250 /* of a VM that is about to be ended */
#define TRIAL_MS	20000
#define TRIAL_EVERY_MS	50
#define REFINE_FIRST_NS (1 * NSEC_PER_SEC)
#define REFINE_EVERY_NS (5 * NSEC_PER_SEC)
#define REFINE_TRIES	24 /* then it never settles, and its end is soon enough */
#define REFINE_PAUSE_NS (30 * NSEC_PER_SEC)

/* ---- writing ----------------------------------------------------------------------------------
 */

static int write_set(struct host *host, int dirfd, const struct pager_working_set *s,
		     const char *image_id, struct problem *problem)
{
	_cleanup_(working_set_deinit) struct working_set set = {0};
	int r = working_set_decode(s->data, s->len, problem, &set);

	if (r == 0 && strcmp(set.image_id, image_id) != 0) {
		problem_set(problem, 500, "the pager's working set is of image %s, not %s",
			    set.image_id, image_id);
		return -EPROTO;
	}
	if (r == 0)
		r = working_set_replace(host->store->root_fd, dirfd, &set, problem);
	return r > 0 ? -EBADMSG : error_trace(r);
}

/* ---- when a template was built ----------------------------------------------------------------
 */

static bool pager_records(struct host *host)
{
	struct pager_working_set s;

	return pager_client_working_set(host->pager, "none", deadline_after_ms(ASK_MS), NULL, &s) ==
	       -ENOENT;
}

/* Until it has settled; what there is by then will do. */
static int await_settled(struct host *host, const char *id, struct problem *problem,
			 struct pager_working_set *ret)
{
	uint64_t deadline = deadline_after_ms(TRIAL_MS);

	for (;;) {
		struct pager_working_set s = {0};
		int r = pager_client_working_set(host->pager, id, deadline_after_ms(ASK_MS),
						 problem, &s);

		if (r)
			return r > 0 ? -EIO : r;
		if (atomic_load(&host->stopping)) {
			pager_working_set_deinit(&s);
			return -ECANCELED;
		}
		if (s.settled || deadline_passed(deadline)) {
			*ret = s;
			return 0;
		}
		pager_working_set_deinit(&s);
		clock_sleep_ms(TRIAL_EVERY_MS);
	}
}

static int try_restore(struct sandbox *sb, int dirfd, struct problem *problem,
		       struct pager_working_set *ret)
{
	const struct sandbox_memory_options cold = {.no_prefetch = true};
	struct sandbox_timings t;
	int r = sandbox_clone_memory(sb, dirfd, problem);

	if (r == 0)
		r = sandbox_bring_up(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, &cold,
				     problem, &t);
	if (r == 0)
		r = await_settled(sb->host, sb->record.id, problem, ret);
	if (r == 0 && !ret->data) {
		problem_set(problem, 500, "the pager recorded nothing");
		r = -ENODATA;
	}
	return error_trace(r);
}

int template_record_working_set(struct host *host, const char *snapshot_id, const char *name,
				struct problem *problem, uint64_t *ret_pages)
{
	struct record record = {.state = SANDBOX_CREATING, .created_ns = clock_real_ns()};
	struct pager_working_set set = {0};
	_cleanup_fd_ int dirfd = -1;
	struct sandbox *sb = NULL;
	char id[ID_LEN + 1];
	int r;

	if (!pager_records(host))
		return -EOPNOTSUPP;
	dirfd = snapshot_open_dir(host, snapshot_id, problem, id);
	if (dirfd < 0)
		return dirfd;
	id_new('i', record.id);
	str_copy(record.template_id, sizeof(record.template_id), name);
	r = sandbox_new(host, &record, true, problem, &sb);
	if (r < 0)
		return r;
	pthread_mutex_lock(&sb->op);
	op_begin(sb, OP_BUILD);
	r = sandbox_insert(sb);
	if (r == 0)
		r = try_restore(sb, dirfd, problem, &set);
	if (r == 0)
		r = write_set(host, dirfd, &set, sb->manifest.image_id, problem);
	if (r == 0)
		*ret_pages = set.n_pages;
	sandbox_discard(sb);
	op_unlock(sb);
	sandbox_unref(sb);
	pager_working_set_deinit(&set);
	return error_trace(r);
}

/* ---- refining ---------------------------------------------------------------------------------
 */

/* Is it this image's turn? If so, it was its turn. */
static bool take_turn(struct host *host, const char *image_id)
{
	uint64_t now = clock_now_ns();
	struct refined *oldest = &host->refined[0];

	LOCK_SCOPE(&host->lock);
	for (unsigned i = 0; i < HOST_MAX_REFINED; i++) {
		struct refined *e = &host->refined[i];

		if (!strcmp(e->image_id, image_id)) {
			if (now - e->when_ns < REFINE_PAUSE_NS)
				return false;
			e->when_ns = now;
			return true;
		}
		if (e->when_ns < oldest->when_ns)
			oldest = e;
	}
	str_copy(oldest->image_id, sizeof(oldest->image_id), image_id);
	oldest->when_ns = now;
	return true;
}

struct refinement {
	char template_id[64];
	char image_id[IMAGE_ID_LEN + 1];
	struct pager_working_set set;
};

/* Is that directory still of the image that the set is about? Its name may lead elsewhere by now.
 */
static bool is_of_image(struct host *host, int dirfd, const char *image_id)
{
	_cleanup_(manifest_deinit) struct manifest m = {0};

	return snapshot_open(dirfd, host->keys, NULL, &m) == 0 && !strcmp(m.image_id, image_id);
}

static void refine_main(struct host *host, void *arg)
{
	struct refinement *f = arg;
	struct problem p = PROBLEM_INIT;
	struct busy_snapshot *busy = NULL;
	_cleanup_fd_ int dirfd = -1;
	char id[ID_LEN + 1];

	if (snapshot_resolve(host, f->template_id, NULL, id) == 0)
		busy = snapshots_hold(host, id, NULL); /* being compacted: next time */
	if (busy)
		dirfd = snapshot_open_dir(host, id, NULL, id);
	if (dirfd >= 0 && is_of_image(host, dirfd, f->image_id)) {
		if (write_set(host, dirfd, &f->set, f->image_id, &p) < 0)
			log_warn("template=%s its working set stays as it is: %s", f->template_id,
				 p.message);
		else
			log_debug("template=%s working set pages=%llu precision=%.2f recall=%.2f",
				  f->template_id, (unsigned long long)f->set.n_pages,
				  f->set.precision, f->set.recall);
	}
	if (busy)
		snapshots_let_go(host, busy);
	pager_working_set_deinit(&f->set);
	free(f);
}

/* Steals @set. Written by a worker: this may be the way to the end of a sandbox. */
static void hand_over(struct sandbox *sb, struct pager_working_set *set)
{
	struct refinement *f = calloc(1, sizeof(*f));

	if (f) {
		str_copy(f->template_id, sizeof(f->template_id), sb->record.template_id);
		str_copy(f->image_id, sizeof(f->image_id), sb->manifest.image_id);
		f->set = *set;
		*set = (struct pager_working_set){0};
	}
	if (f && host_run(sb->host, refine_main, f) < 0) {
		pager_working_set_deinit(&f->set);
		free(f);
	}
	pager_working_set_deinit(set);
}

/* Return: does it make sense to ask again? */
static bool refine(struct sandbox *sb, bool at_its_end)
{
	struct pager_working_set set = {0};
	int r = pager_client_working_set(sb->host->pager, sb->record.id,
					 deadline_after_ms(at_its_end ? LAST_ASK_MS : ASK_MS), NULL,
					 &set);

	if (r != 0)
		return r == -EPIPE || r == -ECONNREFUSED; /* between two pagers */
	if (!set.settled && !at_its_end) {
		pager_working_set_deinit(&set);
		return true;
	}
	if (set.data && take_turn(sb->host, sb->manifest.image_id))
		hand_over(sb, &set);
	pager_working_set_deinit(&set);
	return false;
}

void sandbox_refine_later(struct sandbox *sb)
{
	char id[ID_LEN + 1];

	if (!str_is_name(sb->record.template_id) || sb->record.generation ||
	    snapshot_resolve(sb->host, sb->record.template_id, NULL, id) < 0 ||
	    !strcmp(id, sb->record.template_id))
		return; /* not by a name */
	pthread_mutex_lock(&sb->info);
	sb->refine_tries = REFINE_TRIES;
	sb->refine_ns = clock_real_ns() + REFINE_FIRST_NS;
	pthread_mutex_unlock(&sb->info);
	monitor_kick(sb->host);
}

void sandbox_refine_at_end(struct sandbox *sb)
{
	bool pending;

	pthread_mutex_lock(&sb->info);
	pending = sb->refine_tries > 0;
	sb->refine_tries = 0;
	sb->refine_ns = 0;
	pthread_mutex_unlock(&sb->info);
	if (pending && sb->record.generation == 0)
		(void)refine(sb, true); /* there is no next time */
}

/* A worker of the monitor. @arg: a reference */
void sandbox_refine_now(struct host *host, void *arg)
{
	struct sandbox *sb = arg;
	bool again = false;

	if (op_try(sb)) { /* else busy: later */
		if (!sb->gone && sb->record.state == SANDBOX_RUNNING && sb->refine_tries)
			again = refine(sb, false);
		op_unlock(sb);
	} else {
		again = true;
	}
	pthread_mutex_lock(&sb->info);
	sb->refine_tries = again && sb->refine_tries ? sb->refine_tries - 1 : 0;
	sb->refine_ns = sb->refine_tries ? clock_real_ns() + REFINE_EVERY_NS : 0;
	pthread_mutex_unlock(&sb->info);
	monitor_kick(host);
	sandbox_unref(sb);
}

/* ---- looking ----------------------------------------------------------------------------------
 */

uint64_t snapshots_working_set_pages(struct host *host, const char *id)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(working_set_deinit) struct working_set set = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	_cleanup_free_ char *data = NULL;
	char found[ID_LEN + 1];
	_cleanup_fd_ int fd = snapshot_open_dir(host, id, NULL, found);
	size_t len;

	if (fd < 0 || manifest_read(fd, NULL, &m, &files) != 0 ||
	    file_read(fd, WORKING_SET_NAME, WORKING_SET_MAX_BYTES, &data, &len) < 0 ||
	    working_set_decode(data, len, NULL, &set) != 0 || strcmp(set.image_id, m.image_id) != 0)
		return 0;
	return set.n_pages;
}
