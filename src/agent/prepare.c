/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain of steps: step_begin() starts one, and exactly one of an event, a child's exit and the
 * step's timer ends it in step_end(), which begins the next.
 *
 * A child that overruns its limit (sync on a file system that hangs) is left behind: it holds
 * nothing, and is reaped when it is done.
 */
#include "agent/prepare.h"

#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/worker.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

struct step {
	const char *name;
	unsigned limit_ms;
	int (*begin)(struct prepare *p); /* Return: 0 it goes on; 1 done; negative errno */
};

struct prepare {
	struct agent *agent;
	struct request *rq; /* NULL when the host went away */
	json_t *report;	    /* NULL: nothing is going on */
	size_t step;
	uint64_t begin_ns;
	struct loop_timer timer;
	struct loop_source *frozen; /* cgroup.events */
	pid_t child;		    /* 0: none */
};

static void step_end(struct prepare *p, int r);

/* --- freeze -------------------------------------------------------------------------------------
 */

static void on_cgroup_event(void *userdata, uint32_t events)
{
	struct prepare *p = userdata;
	int r = cgroup_is_frozen(&p->agent->workload);

	if (r != 0)
		step_end(p, r < 0 ? r : 0);
}

static int begin_freeze(struct prepare *p)
{
	int r = cgroup_set_frozen(&p->agent->workload, true);

	if (r == 0)
		r = loop_add(p->agent->loop, p->agent->workload.events_fd, EPOLLPRI,
			     on_cgroup_event, p, &p->frozen);
	if (r == 0)
		r = cgroup_is_frozen(&p->agent->workload); /* an empty one is at once */
	return r;
}

/* --- children -----------------------------------------------------------------------------------
 */

static int run_in_child(struct prepare *p, int (*work)(void))
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(p->agent->owns_machine && work() < 0 ? 1 : 0);
	if (pid < 0)
		return error_errno();
	p->child = pid;
	return 0;
}

static int work_sync(void)
{
	sync();
	return 0;
}

/* 1: page cache only. Dentries and inodes are small and dear. */
static int work_drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, "1", 1) < 0 ? -1 : 0;
}

static int begin_sync(struct prepare *p)
{
	return run_in_child(p, work_sync);
}

static int begin_drop_caches(struct prepare *p)
{
	return run_in_child(p, work_drop_caches);
}

/* --- the chain ----------------------------------------------------------------------------------
 */

static const struct step steps[] = {
	{"freeze", 500, begin_freeze},
	{"sync", 2000, begin_sync},
	{"drop_caches", 1000, begin_drop_caches},
};

void prepare_report(json_t *report, const char *name, int r, uint64_t took_ns)
{
	json_t *o = json_pack("{s:s, s:b, s:f}", "name", name, "ok", r >= 0, "ms",
			      (double)took_ns / (double)NSEC_PER_MSEC);

	if (r < 0)
		(void)json_object_set_new(o, "error", json_string(strerrordesc_np(-r)));
	(void)json_array_append_new(report, o); /* short of memory: a shorter report */
}

static void prepare_finish(struct prepare *p)
{
	struct request *rq = p->rq;
	json_t *report = take_ptr(p->report);

	p->rq = NULL;
	if (!rq) {
		json_decref(report);
		return;
	}
	request_release(rq);
	request_reply_json(rq, 200, json_pack("{s:o}", "steps", report));
	server_seal(p->agent->server, rq->stream);
}

static void step_clear(struct prepare *p)
{
	loop_timer_clear(&p->timer);
	p->frozen = loop_remove(p->frozen);
	p->child = 0;
}

static void step_begin(struct prepare *p)
{
	int r;

	if (p->step == ARRAY_SIZE(steps)) {
		prepare_finish(p);
		return;
	}
	p->begin_ns = clock_now_ns();
	loop_timer_set(p->agent->loop, &p->timer, deadline_after_ms(steps[p->step].limit_ms));
	r = steps[p->step].begin(p);
	if (r != 0)
		step_end(p, r < 0 ? r : 0);
}

static void step_end(struct prepare *p, int r)
{
	step_clear(p);
	prepare_report(p->report, steps[p->step].name, r, clock_now_ns() - p->begin_ns);
	p->step++;
	step_begin(p);
}

static void on_limit(void *userdata)
{
	step_end(userdata, -ETIMEDOUT);
}

bool prepare_reaped(struct prepare *p, pid_t pid, int wait_status)
{
	if (!p->child || p->child != pid)
		return false;
	step_end(p, wait_status == 0 ? 0 : -EIO);
	return true;
}

void prepare_cancel(struct prepare *p)
{
	if (!p->report)
		return;
	step_clear(p);
	json_decref(p->report);
	p->report = NULL;
	if (p->rq) {
		struct request *rq = take_ptr(p->rq);

		request_release(rq);
		request_fail(rq, 409, "the prepare was overtaken by an init");
	}
}

/* The host went away: nobody will take a snapshot on our word. The gate stays shut. */
static void on_closed(struct request *rq)
{
	struct prepare *p = rq->keeper;

	p->rq = NULL;
	prepare_cancel(p);
}

static void handle_prepare(struct request *rq)
{
	struct prepare *p = rq->agent->prepare;

	if (p->report) {
		request_fail(rq, 409, "a prepare is already going on");
		return;
	}
	p->report = json_array();
	if (!p->report) {
		request_fail(rq, 503, "out of memory");
		return;
	}
	p->rq = rq;
	p->step = 0;
	request_keep(rq, p, on_closed, NULL);
	rq->agent->ready = false;
	server_refuse(rq->agent->server);
	workers_cancel(rq->agent->workers, "the sandbox is about to sleep");
	step_begin(p);
}

static const struct route routes[] = {{"POST", "/prepare", handle_prepare, 0}};

int prepare_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}

int prepare_new(struct agent *a, struct prepare **ret)
{
	struct prepare *p = calloc(1, sizeof(*p));

	if (!p)
		return error_trace(-ENOMEM);
	p->agent = a;
	p->timer = (struct loop_timer){.fire = on_limit, .userdata = p};
	*ret = p;
	return 0;
}

struct prepare *prepare_free(struct prepare *p)
{
	if (p) {
		p->rq = NULL;
		prepare_cancel(p);
		free(p);
	}
	return NULL;
}
