/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - what a sandbox asks of the pager, and how far its memory is
 *
 * The pager chooses how to serve a session unless it is told to; it says what it chose. Whatever
 * that is, the VM runs as soon as it can, and the rest of its memory may follow in the background:
 * who wants to wait for that waits here, without any lock, since the sandbox is up already and can
 * be put to sleep or deleted like any other.
 */
#include "sandbox/private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define SESSION_MS  10000
#define STATS_MS    1000
#define EAGER_MS    300000 /* all of a large memory from a slow disk */
#define WAIT_MS	    600000
#define POLL_MIN_MS 2
#define POLL_MAX_MS 50

static const char *const wait_names[] = {"ready", "working-set", "full"};

static_assert(ARRAY_SIZE(wait_names) == SANDBOX_N_WAITS, "a name for each");

static int parse_wait(const char *text, enum sandbox_wait *ret)
{
	for (int i = 0; i < SANDBOX_N_WAITS; i++)
		if (!strcmp(wait_names[i], text)) {
			*ret = (enum sandbox_wait)i;
			return 0;
		}
	return -EINVAL;
}

int sandbox_memory_options_parse(const char *mode, const char *wait, struct problem *problem,
				 struct sandbox_memory_options *ret)
{
	struct sandbox_memory_options o = {0};

	if (mode && pager_mode_parse(mode, &o.mode) < 0) {
		problem_set(problem, 400,
			    "pagerMode: '%.32s' is not auto, shared, overlay or eager", mode);
		return -EINVAL;
	}
	if (o.mode == PAGER_MODE_COPY) {
		problem_set(
			problem, 400,
			"pagerMode: copy is for VMMs that bring their own memory; the QEMU of a "
			"sandbox maps the image's");
		problem_hint(problem, "use auto, shared, overlay or eager");
		return -EINVAL;
	}
	if (wait && parse_wait(wait, &o.wait) < 0) {
		problem_set(problem, 400, "wait: '%.32s' is not ready, working-set or full", wait);
		return -EINVAL;
	}
	*ret = o;
	return 0;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static struct pager_open_options open_options(const struct sandbox *sb, bool boot,
					      const struct sandbox_memory_options *memory)
{
	static const enum pager_load loads[] = {PAGER_LOAD_AUTO, PAGER_LOAD_WORKING_SET,
						PAGER_LOAD_FULL};
	struct pager_open_options o = {0};

	if (boot)
		return o;
	o.mode = memory->mode != PAGER_MODE_AUTO ? memory->mode : sb->host->pager_mode;
	o.load = loads[memory->wait];
	o.no_prefetch = memory->no_prefetch;
	o.no_record = memory->no_record;
	/* saved by a sleep: nobody else wakes from it, and most of it is its ancestor's */
	o.is_private = sb->record.generation >= 1;
	return o;
}

static int check_mode(const struct pager_open_options *asked, const struct pager_session *s,
		      struct problem *problem)
{
	if (s->mode != PAGER_MODE_COPY && !s->adopted &&
	    (asked->mode == PAGER_MODE_AUTO || asked->mode == s->mode))
		return 0;
	problem_set(problem, 501, "the pager cannot serve it in mode %s, only in mode %s%s%s",
		    pager_mode_name(asked->mode), pager_mode_name(s->mode), s->why[0] ? ": " : "",
		    s->why);
	problem_hint(problem, "leave the choice to it: pagerMode auto");
	return -ENOTSUP;
}

/* "load" of a session, and whether it needs the pager no more. Return: 0; negative errno */
static int ask_load(struct host *host, const char *id, json_t **ret_stats, const char **ret_state,
		    bool *ret_full)
{
	json_t *stats = NULL;
	int r = pager_client_session_stats(host->pager, id, deadline_after_ms(STATS_MS), &stats);

	if (r)
		return r < 0 ? r : -EIO;
	*ret_state = json_string_value(json_object_get(json_object_get(stats, "load"), "state"));
	*ret_full = json_is_true(json_object_get(stats, "full"));
	*ret_stats = stats;
	return 0;
}

/*
 * Until the background load has come to its end, or the operation on @sb (which may be NULL) is to
 * give up. Return: 0 it is all there; -ENOTSUP the pager
 * loads nothing in the background; -ETIMEDOUT; -EIO it failed; negative errno
 */
static int await_load(struct host *host, const char *id, const struct sandbox *sb,
		      uint64_t deadline_ns)
{
	unsigned pause = POLL_MIN_MS;

	for (;;) {
		json_auto_t *stats = NULL;
		const char *state = NULL;
		bool full = false;
		int r = ask_load(host, id, &stats, &state, &full);

		if (r < 0 && r != -EPIPE && r != -ECONNREFUSED && r != -ETIMEDOUT)
			return r;
		if (r == 0 && (full || (state && !strcmp(state, "done"))))
			return 0;
		if (r == 0 && (!state || !strcmp(state, "none")))
			return -ENOTSUP;
		if (r == 0 && !strcmp(state, "failed"))
			return -EIO;
		if (atomic_load(&host->stopping) || (sb && op_is_interrupted(sb)))
			return -ECANCELED;
		if (deadline_passed(deadline_ns))
			return -ETIMEDOUT;
		clock_sleep_ms(pause);
		pause = MIN(2 * pause, (unsigned)POLL_MAX_MS);
	}
}

/* Without userfaultfd a page that is not there would read as zeros, so it must not start before. */
static int await_eager(struct sandbox *sb, struct problem *problem)
{
	int r = await_load(sb->host, sb->record.id, sb, deadline_after_ms(EAGER_MS));

	if (r < 0) {
		sandbox_ask_pager(sb, problem);
		problem_errno(problem, r, "loading all memory of sandbox %s", sb->record.id);
	}
	return error_trace(r);
}

static int open_once(struct sandbox *sb, int image_dirfd, uint64_t memory_bytes,
		     const struct pager_open_options *options, struct problem *problem,
		     struct pager_session *ret)
{
	return pager_client_open_as(sb->host->pager, sb->record.id, image_dirfd, sb->host->keys,
				    memory_bytes / DORM_PAGE_SIZE, options,
				    deadline_after_ms(SESSION_MS), problem, ret);
}

int sandbox_open_session(struct sandbox *sb, int image_dirfd, uint64_t memory_bytes,
			 const struct sandbox_memory_options *memory, struct problem *problem,
			 struct pager_session *ret)
{
	struct pager_open_options o = open_options(sb, image_dirfd < 0, memory);
	struct pager_session s = {.memory_fd = -1};
	struct problem local = PROBLEM_INIT;
	_cleanup_fd_ int memory_fd = -1;
	pid_t pid;
	int r = host_pager(sb->host, problem, &pid);

	if (r < 0)
		return r;
	atomic_store(&sb->pager_pid, pid);
	r = open_once(sb, image_dirfd, memory_bytes, &o, &local, &s);
	if (r == -EEXIST) {
		/* of a VM whose end it has not noticed, or of an answer that died with a pager */
		(void)pager_client_close_session(sb->host->pager, sb->record.id,
						 deadline_after_ms(SESSION_MS));
		local = PROBLEM_INIT;
		r = open_once(sb, image_dirfd, memory_bytes, &o, &local, &s);
	}
	if (r)
		problem_pass(problem, &local);
	memory_fd = r == 0 ? s.memory_fd : -1;
	if (r > 0) { /* the image is damaged or too new: the problem says where */
		problem_set(problem, 500, "the snapshot cannot be read");
		return -EBADMSG;
	}
	if (r == 0)
		r = check_mode(&o, &s, problem);
	if (r == 0 && s.reg == PAGER_REGISTER_NONE)
		r = await_eager(sb, problem);
	if (r < 0) {
		problem_errno(problem, r, "asking the pager to serve sandbox %s", sb->record.id);
		return error_trace(r);
	}
	if (s.why[0])
		log_info("sandbox=%s pager mode=%s: %s", sb->record.id, pager_mode_name(s.mode),
			 s.why);
	s.memory_fd = take_fd(memory_fd);
	*ret = s;
	return 0;
}

void sandbox_await_pager(struct sandbox *sb)
{
	pid_t pid;

	if (atomic_load(&sb->pager_pid) && host_pager(sb->host, NULL, &pid) < 0)
		log_warn("sandbox=%s its pager does not answer: it may not either", sb->record.id);
}

/* ---- waiting, looking -------------------------------------------------------------------------
 */

void sandbox_await_memory(struct host *host, const char *id, enum sandbox_wait wait)
{
	struct problem p = PROBLEM_INIT;
	int r;

	if (wait == SANDBOX_WAIT_READY)
		return;
	/* It may have been running already, or its session loads less than this caller wants. */
	r = pager_client_load(host->pager, id,
			      wait == SANDBOX_WAIT_FULL ? PAGER_LOAD_FULL : PAGER_LOAD_WORKING_SET,
			      deadline_after_ms(SESSION_MS), &p);
	if (r == 0)
		r = await_load(host, id, NULL, deadline_after_ms(WAIT_MS));
	if (r != 0 && r != -ENOTSUP)
		log_warn("sandbox=%s its memory is not all there: %s", id,
			 problem_is_set(&p) ? p.message : strerrordesc_np(r < 0 ? -r : EIO));
}

static json_t *or_null(json_t *borrowed)
{
	return borrowed ? json_incref(borrowed) : json_null();
}

/* The pager's words in the API's form. */
static json_t *describe_load(const json_t *load)
{
	if (!load)
		return json_null();
	return json_pack("{s:o, s:o, s:o, s:o}", "what", or_null(json_object_get(load, "what")),
			 "state", or_null(json_object_get(load, "state")), "pagesDone",
			 or_null(json_object_get(load, "pages_done")), "pagesTotal",
			 or_null(json_object_get(load, "pages_total")));
}

json_t *sandbox_memory_state(struct host *host, const char *id)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, NULL);
	json_auto_t *stats = NULL;
	const char *mode, *why;

	if (!sb || !atomic_load(&sb->pager_pid))
		return NULL;
	if (pager_client_session_stats(host->pager, id, deadline_after_ms(STATS_MS), &stats) != 0)
		return NULL;
	mode = json_string_value(json_object_get(stats, "mode"));
	why = json_string_value(json_object_get(stats, "why"));
	return json_pack("{s:s, s:s, s:o, s:b}", "mode",
			 mode ? mode : pager_mode_name(PAGER_MODE_SHARED), "why", why ? why : "",
			 "load", describe_load(json_object_get(stats, "load")), "full",
			 (int)json_is_true(json_object_get(stats, "full")));
}
