/* SPDX-License-Identifier: Apache-2.0 */
/* pager-control.c - the pager as operators see it: status, warming, upgrade */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define ASK_MS	     5000
#define WARM_OPEN_MS 10000
#define WARM_POLL_MS 20

int host_pager_status(struct host *host, struct problem *problem, json_t **ret)
{
	json_auto_t *stats = NULL, *config = NULL;
	json_t *o;
	pid_t pid;
	int r = host_pager(host, problem, &pid);

	if (r == 0)
		r = pager_client_stats(host->pager, deadline_after_ms(ASK_MS), &stats);
	if (r) {
		problem_errno(problem, r < 0 ? r : -EIO, "asking the pager for its figures");
		return r < 0 ? r : -EIO;
	}
	(void)pager_client_config(host->pager, NULL, deadline_after_ms(ASK_MS), NULL,
				  &config); /* null then: it has none */
	o = json_pack("{s:i, s:s, s:s, s:b, s:i, s:O, s:o}", "pid", (int)pid, "program",
		      host->pager_program, "mode", pager_mode_name(host->pager_mode), "takesBack",
		      (int)host_pager_takes_back(host), "deaths",
		      (int)atomic_load(&host->pager_deaths), "stats", stats, "config",
		      config ? json_incref(config) : json_null());
	if (!o)
		return -ENOMEM;
	*ret = o;
	return 0;
}

int host_pager_upgrade(struct host *host, struct problem *problem, json_t **ret)
{
	uint64_t t0 = clock_now_ns();
	pid_t before, after;
	int r = host_lock_pager(host, problem);

	if (r < 0)
		return r;
	before = host->pager_process.pid;
	r = pager_process_upgrade(&host->pager_process, host->pager, &host->pager_options, problem);
	after = host->pager_process.pid;
	if (r == 0 && after != before)
		r = monitor_watch_pager(host);
	pthread_mutex_unlock(&host->pager_lock);
	if (r < 0) {
		problem_errno(problem, r, "upgrading the pager");
		return error_trace(r);
	}
	log_info("pager pid=%d took over from pid=%d in %.1f ms", (int)after, (int)before,
		 (double)(clock_now_ns() - t0) / 1e6);
	events_add(host->events, "pager.upgraded", NULL,
		   json_pack("{s:i, s:i}", "pid", (int)after, "previousPid", (int)before));
	*ret = json_pack("{s:i, s:i, s:f}", "pid", (int)after, "previousPid", (int)before,
			 "totalMs", (double)(clock_now_ns() - t0) / 1e6);
	return *ret ? 0 : -ENOMEM;
}

/* ---- warming ----------------------------------------------------------------------------------
 */

/* Return: 0 loaded; 1 not yet; negative errno */
static int look_at_image(struct host *host, const char *image_id, const struct host_task *task,
			 struct problem *problem)
{
	json_auto_t *image = NULL;
	const char *state;
	json_t *load;
	int r = pager_client_image(host->pager, image_id, deadline_after_ms(ASK_MS), &image);

	if (r) {
		problem_errno(problem, r < 0 ? r : -EIO, "asking the pager how far it is");
		return r < 0 ? r : -EIO;
	}
	load = json_object_get(image, "load");
	state = json_string_value(json_object_get(load, "state"));
	if (task->progress)
		task->progress(task->userdata,
			       (uint64_t)json_integer_value(json_object_get(load, "pages_done")),
			       (uint64_t)json_integer_value(json_object_get(load, "pages_total")));
	if (state && !strcmp(state, "failed")) {
		problem_set(problem, 500, "the pager could not load it");
		problem_hint(problem, "`dorm snapshot verify` names every damaged file");
		return -EIO;
	}
	return state && !strcmp(state, "loading");
}

static int await_warm(struct host *host, const char *image_id, const struct host_task *task,
		      struct problem *problem)
{
	int r;

	while ((r = look_at_image(host, image_id, task, problem)) == 1) {
		if (atomic_load(&host->stopping) ||
		    (task->cancelled && task->cancelled(task->userdata)))
			return -ECANCELED; /* what is under way goes on: it is the pager's */
		clock_sleep_ms(WARM_POLL_MS);
	}
	return r;
}

int host_warm(struct host *host, const char *id_or_name, bool full, const struct host_task *task,
	      struct problem *problem, char ret_image_id[33])
{
	_cleanup_(manifest_deinit) struct manifest m = {0};
	char id[ID_LEN + 1];
	_cleanup_fd_ int fd = snapshot_open_dir(host, id_or_name, problem, id);
	pid_t pid;
	int r;

	if (fd < 0)
		return fd;
	r = snapshot_open(fd, host->keys, problem, &m);
	if (r == 0)
		r = host_pager(host, problem, &pid);
	if (r == 0)
		r = pager_client_warm(host->pager, fd, host->keys, m.memory_bytes / DORM_PAGE_SIZE,
				      full ? PAGER_LOAD_FULL : PAGER_LOAD_WORKING_SET,
				      deadline_after_ms(WARM_OPEN_MS), problem, ret_image_id);
	if (r == -EOPNOTSUPP) {
		*problem = PROBLEM_INIT;
		problem_set(problem, 501, "this pager cannot load an image ahead");
		problem_hint(problem, "`dorm pager upgrade` starts the one that is installed");
		return r;
	}
	if (r == 0)
		r = await_warm(host, ret_image_id, task, problem);
	problem_errno(r ? problem : NULL, r > 0 ? -EBADMSG : r, "warming %s", id_or_name);
	return r > 0 ? -EBADMSG : error_trace(r);
}
