/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain of steps: step_begin() starts one, and exactly one of an event, a child's exit and the
 * step's timer ends it in step_end(), which begins the next.
 *
 * A child that overruns its limit (sync on a file system that hangs) is killed and left behind: it
 * holds nothing, and is reaped when the kernel lets go of it.
 */
#include "agent/prepare.h"

#include <errno.h>
#include <linux/fs.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/boot.h"
#include "agent/hooks.h"
#include "agent/page-cache.h"
#include "agent/ports.h"
#include "agent/repair.h"
#include "agent/report.h"
#include "agent/tcp.h"
#include "agent/trim.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define DISKS_LIMIT_MS 20000 /* of a step that the disks depend on, when only they are kept */

enum step_use { ALWAYS, WITH_MEMORY, DISKS_ONLY };

struct step {
	const char *name;
	unsigned limit_ms; /* 0: it has its own */
	enum step_use use;
	int (*begin)(struct prepare *p); /* Return: 0 it goes on; 1 done; negative errno */
};

struct prepare {
	struct agent *agent;
	struct request *rq; /* NULL when the host went away */
	json_t *report;	    /* NULL: nothing is going on */
	bool announced;	    /* the answer's head is out */
	bool frozen;	    /* the workload stands still */
	bool disks_only;    /* the disks are all that will be kept */
	bool disk_frozen;   /* or may be: thawed by the next repair */
	pid_t freezer;	    /* the child that freezes it; 0: none */
	bool thaw_due;	    /* when that one has ended */
	size_t step;
	uint64_t begin_ns;
	struct loop_timer timer;
	struct loop_source *events; /* cgroup.events */
	pid_t child;		    /* 0: none */
};

static void step_end(struct prepare *p, int r);

/* --- hooks --------------------------------------------------------------------------------------
 */

static void on_hooks_done(void *userdata, int r)
{
	step_end(userdata, r);
}

/* The answer's head has to say how long they may take before they begin. */
static int begin_hooks(struct prepare *p)
{
	const struct hooks_env env = {.sandbox_id = p->agent->identity.sandbox_id,
				      .template_id = p->agent->identity.template_id};
	unsigned hooks_ms = 0;
	int r = hooks_look(p->agent->hooks, HOOK_BEFORE_SLEEP, &hooks_ms);

	if (r == 0 && hooks_ms) {
		r = report_announce(p->rq, hooks_ms);
		p->announced = r == 0;
	}
	return r < 0 ? r
		     : hooks_start(p->agent->hooks, HOOK_BEFORE_SLEEP, &env, p->report,
				   on_hooks_done, p);
}

/* --- freeze -------------------------------------------------------------------------------------
 */

static int freeze_over(struct prepare *p, int r)
{
	p->frozen = r > 0;
	return r;
}

static void on_cgroup_event(void *userdata, uint32_t events)
{
	struct prepare *p = userdata;
	int r = freeze_over(p, cgroup_is_frozen(&p->agent->workload));

	if (r != 0)
		step_end(p, MIN(r, 0));
}

static int begin_freeze(struct prepare *p)
{
	int r = cgroup_set_frozen(&p->agent->workload, true);

	if (r == 0)
		r = loop_add(p->agent->loop, p->agent->workload.events_fd, EPOLLPRI,
			     on_cgroup_event, p, &p->events);
	if (r == 0)
		r = cgroup_is_frozen(&p->agent->workload); /* an empty one is at once */
	return freeze_over(p, r);
}

/* --- looking ahead ------------------------------------------------------------------------------
 */

/*
 * What the repair would have to look for, while nothing can change it any more: hooks, and
 * connections to the outside. Those are ended then, not now: if the snapshot fails, or is of a
 * sandbox that goes on running, they are as good as before.
 */
static int begin_look_ahead(struct prepare *p)
{
	struct agent *a = p->agent;
	unsigned hooks_ms;
	int r;

	a->connections = -1;
	identity_plan_clear(&a->plan);
	if (!p->frozen)
		return a->owns_machine ? -EBUSY : 1;
	identity_plan(&a->plan, &a->identity, a->root);
	(void)hooks_look(a->hooks, HOOK_AFTER_WAKE, &hooks_ms); /* the repair tries again */
	r = a->tcp_fd < 0 ? -ENOENT : tcp_count(a->tcp_fd);
	a->connections = r == -ENOENT ? -1 : r;
	return r == -ENOENT ? 1 : r < 0 ? r : 1;
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

static int begin_sync(struct prepare *p)
{
	return run_in_child(p, work_sync);
}

static int begin_trim(struct prepare *p)
{
	return trim_is_due() ? run_in_child(p, trim_all) : 1;
}

/* Not for a disk whose mount this program did not make: it would not know how to thaw it. */
static int work_freeze_disk(void)
{
	return boot_disk_fd() < 0 ? -1 : ioctl(boot_disk_fd(), FIFREEZE, 0);
}

static int begin_freeze_disk(struct prepare *p)
{
	int r = run_in_child(p, work_freeze_disk);

	p->disk_frozen = r == 0;
	p->freezer = p->child;
	return r;
}

static int begin_drop_caches(struct prepare *p)
{
	return run_in_child(p, page_cache_drop);
}

/* --- the chain ----------------------------------------------------------------------------------
 */

/*
 * All together less than the host waits, but for the hooks, whose time is announced. The cache is
 * dropped after what fills it, once, and last: nothing else of ours must be under way then.
 */
static int begin_ports(struct prepare *p)
{
	(void)ports_quiesce(p->agent); /* how many were idle is nobody's business */
	return 1;
}

static const struct step steps[] = {
	{"ports", 0, ALWAYS, begin_ports},
	{"hooks", 0, ALWAYS, begin_hooks},
	{"freeze", 500, ALWAYS, begin_freeze},
	{"connections", 0, ALWAYS, begin_look_ahead},
	{"sync", 1000, ALWAYS, begin_sync},
	{"trim", 1000, ALWAYS, begin_trim},
	{"freeze_disk", 1000, DISKS_ONLY, begin_freeze_disk},
	{"drop_caches", 1500, WITH_MEMORY, begin_drop_caches},
};

static bool is_wanted(const struct prepare *p, const struct step *s)
{
	return s->use == ALWAYS || (s->use == DISKS_ONLY) == p->disks_only;
}

/* Files that are not written are lost then, so that takes as long as it takes. */
static unsigned limit_of(const struct prepare *p, const struct step *s)
{
	bool writes = s->begin == begin_sync || s->begin == begin_freeze_disk;

	return p->disks_only && writes ? DISKS_LIMIT_MS : s->limit_ms;
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
	report_reply(rq, p->announced, 200, json_pack("{s:o}", "steps", report));
	server_seal(p->agent->server, rq->stream);
}

/* A child that overran its limit is not to go on while the snapshot is taken, nor after it. */
static void step_clear(struct prepare *p)
{
	loop_timer_clear(&p->timer);
	p->events = loop_remove(p->events);
	if (p->child)
		(void)kill(p->child, SIGKILL); /* it may be beyond that, in the kernel */
	p->child = 0;
}

static void step_begin(struct prepare *p)
{
	unsigned limit_ms;
	int r;

	while (p->step < ARRAY_SIZE(steps) && !is_wanted(p, &steps[p->step]))
		p->step++;
	if (p->step == ARRAY_SIZE(steps)) {
		prepare_finish(p);
		return;
	}
	p->begin_ns = clock_now_ns();
	limit_ms = limit_of(p, &steps[p->step]);
	if (limit_ms)
		loop_timer_set(p->agent->loop, &p->timer, deadline_after_ms(limit_ms));
	r = steps[p->step].begin(p);
	if (r != 0)
		step_end(p, r < 0 ? r : 0);
}

static void step_end(struct prepare *p, int r)
{
	step_clear(p);
	(void)report_add(p->report, steps[p->step].name, r, clock_now_ns() - p->begin_ns);
	p->step++;
	step_begin(p);
}

static void on_limit(void *userdata)
{
	step_end(userdata, -ETIMEDOUT);
}

static void thaw_disk(struct prepare *p)
{
	if (p->agent->owns_machine && ioctl(boot_disk_fd(), FITHAW, 0) < 0 && errno != EINVAL)
		log_error("the disk's file system stays frozen: %s", strerrordesc_np(errno));
}

/* A freezer that was killed may still be at it, in the kernel: then once more when it has ended. */
void prepare_thaw_disk(struct prepare *p)
{
	if (p->disk_frozen)
		thaw_disk(p);
	p->disk_frozen = false;
	p->thaw_due = p->freezer != 0;
}

static void freezer_ended(struct prepare *p)
{
	p->freezer = 0;
	if (p->thaw_due)
		thaw_disk(p);
	p->thaw_due = false;
}

bool prepare_reaped(struct prepare *p, pid_t pid, int wait_status)
{
	if (p->freezer && p->freezer == pid)
		freezer_ended(p);
	if (!p->child || p->child != pid)
		return false;
	p->child = 0;
	step_end(p, wait_status == 0 ? 0 : -EIO);
	return true;
}

void prepare_cancel(struct prepare *p)
{
	if (!p->report)
		return;
	hooks_cancel(p->agent->hooks);
	step_clear(p);
	json_decref(p->report);
	p->report = NULL;
	if (p->rq) {
		struct request *rq = take_ptr(p->rq);

		request_release(rq);
		if (p->announced)
			server_stream_reset(rq->stream);
		else
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

static bool wants_disks_only(const struct request *rq)
{
	json_t *o = json_loadb(rq->body.data ?: "", rq->body.len, 0, NULL);
	bool yes = json_is_true(json_object_get(o, "disks"));

	json_decref(o);
	return yes;
}

static void handle_prepare(struct request *rq)
{
	struct prepare *p = rq->agent->prepare;

	if (p->report) {
		request_fail(rq, 409, "a prepare is already going on");
		return;
	}
	if (repair_is_busy(rq->agent->repair)) {
		request_fail(rq, 409, "an init is still going on");
		return;
	}
	p->report = json_array();
	if (!p->report) {
		request_fail(rq, 503, "out of memory");
		return;
	}
	p->rq = rq;
	p->step = 0;
	p->announced = p->frozen = false;
	p->disks_only = wants_disks_only(rq);
	hooks_forget(rq->agent->hooks);
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
		if (p->rq)
			request_release(take_ptr(p->rq));
		prepare_cancel(p);
		free(p);
	}
	return NULL;
}
