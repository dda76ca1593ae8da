/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers: forks of one snapshot draw identical bytes from getrandom() until they are
 * reseeded. RNDADDENTROPY alone changes nothing, because the kernel's generator reseeds by itself
 * only after minutes; RNDRESEEDCRNG makes it happen now. Both, in this order: random(4).
 *
 * The clock stands where the snapshot was taken; the host's time in the message is late by the time
 * the message took, some milliseconds in a guest that has just been woken under emulation.
 *
 * What a wake need not do, it does not: under emulation each line of code is translated when it
 * runs for the first time. So prepare has already looked for hooks and connections (nothing can
 * have changed since: everything was frozen), and a sandbox whose name is the same keeps its files.
 */
#include "agent/repair.h"

#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "agent/hooks.h"
#include "agent/init-request.h"
#include "agent/network.h"
#include "agent/ports.h"
#include "agent/prepare.h"
#include "agent/report.h"
#include "agent/tcp.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

#define CLOCK_TOLERANCE NSEC_PER_MSEC
#define CLOCK_MAX_OFF	(100 * NSEC_PER_MSEC)
#define CLOCK_TRIES	5
#define MAX_STEPS	9

struct repair {
	struct agent *agent;
	struct request *rq; /* NULL: none, or the host went away */
	json_t *body;	    /* what @in borrows from; NULL: nothing is going on */
	struct init_request in;
	char old_id[sizeof(((struct identity *)0)->sandbox_id)];
	bool in_place;	/* it was fit for use, and still is: only the host is a new one */
	bool announced; /* the answer's head is out */
	size_t step;
	uint64_t begin_ns;
	/* of the last one, for GET /repair */
	enum init_kind kind;
	size_t n_took; /* steps that were begun */
	uint64_t took_ns[MAX_STEPS];
	int results[MAX_STEPS];
	json_t *hooks; /* what hooks_start() reported; NULL: it was not called */
};

/* --- steps: 0; negative errno; 1 when step_over() will be called --------------------------------
 */

static int repair_identity(struct repair *rp)
{
	struct agent *a = rp->agent;
	int r = identity_apply(&a->identity, &rp->in.identity, &a->plan, a->root, a->owns_machine);

	if (r == 0)
		a->identity = rp->in.identity;
	return r;
}

static int make_env(const struct repair *rp, json_t **ret)
{
	const struct identity *id = &rp->in.identity;
	json_t *env = json_object();

	if (!env || (rp->in.env && json_object_update(env, rp->in.env) < 0) ||
	    json_object_set_new(env, "E2B_SANDBOX", json_string("true")) < 0 ||
	    json_object_set_new(env, "E2B_SANDBOX_ID", json_string(id->sandbox_id)) < 0 ||
	    (id->template_id[0] &&
	     json_object_set_new(env, "E2B_TEMPLATE_ID", json_string(id->template_id)) < 0)) {
		json_decref(env);
		return -ENOMEM;
	}
	*ret = env;
	return 0;
}

/* Return: 0, and @old is replaced by a copy of @text (NULL: by nothing); -ENOMEM */
static int replace(char **old, const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		return -ENOMEM;
	if (*old)
		explicit_bzero(*old, strlen(*old)); /* it may be another sandbox's token */
	free(*old);
	*old = copy;
	return 0;
}

static int repair_access(struct repair *rp)
{
	struct agent *a = rp->agent;
	json_t *env;
	int r = make_env(rp, &env);

	if (r < 0)
		return r;
	json_decref(a->env);
	a->env = env;
	r = replace(&a->token, rp->in.token);
	if (r == 0)
		r = replace(&a->default_user, rp->in.default_user);
	return r < 0 ? r : replace(&a->default_workdir, rp->in.default_workdir);
}

static uint64_t clock_off_ns(uint64_t want_ns)
{
	uint64_t now_ns = clock_real_ns();

	return now_ns > want_ns ? now_ns - want_ns : want_ns - now_ns;
}

static int repair_clock(struct repair *rp)
{
	uint64_t want_ns = rp->in.timestamp_ns;
	const struct timespec ts = {.tv_sec = (time_t)(want_ns / NSEC_PER_SEC),
				    .tv_nsec = (long)(want_ns % NSEC_PER_SEC)};

	if (!rp->agent->owns_machine || clock_off_ns(want_ns) <= CLOCK_TOLERANCE)
		return 0;
	/* A busy host may let a guest stand still between the two. */
	for (int i = 0; i < CLOCK_TRIES; i++) {
		if (clock_settime(CLOCK_REALTIME, &ts) < 0)
			return error_errno();
		if (clock_off_ns(want_ns) <= CLOCK_MAX_OFF)
			return 0;
	}
	return -ETIME;
}

static int repair_random(struct repair *rp)
{
	int fd = rp->agent->random_fd;

	if (!rp->agent->owns_machine)
		return 0;
	rp->in.entropy.len = (int)rp->in.entropy_len;
	rp->in.entropy.bits = (int)rp->in.entropy_len * 8;
	if (ioctl(fd, RNDADDENTROPY, &rp->in.entropy) < 0 || ioctl(fd, RNDRESEEDCRNG, 0) < 0)
		return error_errno();
	return 0;
}

/* A sandbox that only goes on still has the other ends. One whose kernel cannot tell keeps them. */
static int repair_connections(struct repair *rp)
{
	struct agent *a = rp->agent;
	bool slept = rp->in.kind == INIT_WAKE || rp->in.kind == INIT_FORK;
	int known = a->connections, r;

	a->connections = -1;
	if (!slept || !known || a->tcp_fd < 0)
		return 0;
	r = tcp_reset(a->tcp_fd);
	return r == -ENOENT || r == -EOPNOTSUPP ? 0 : MIN(r, 0);
}

static void step_over(void *userdata, int r);

static int repair_hooks(struct repair *rp)
{
	const struct hooks_env env = {.kind = init_kind_name(rp->in.kind),
				      .sandbox_id = rp->in.identity.sandbox_id,
				      .old_sandbox_id = rp->old_id,
				      .template_id = rp->in.identity.template_id};
	struct hooks *hooks = rp->agent->hooks;
	unsigned hooks_ms = 0;
	int r;

	if (rp->in_place)
		return 0;
	r = hooks_look(hooks, HOOK_AFTER_WAKE, &hooks_ms);
	if (r == 0 && hooks_ms) {
		r = report_announce(rp->rq, hooks_ms);
		rp->announced = r == 0;
	}
	if (r < 0)
		return r;
	rp->hooks = json_array();
	r = rp->hooks ? hooks_start(hooks, HOOK_AFTER_WAKE, &env, rp->hooks, step_over, rp)
		      : -ENOMEM;
	return r < 0 ? r : !r;
}

static int repair_ports(struct repair *rp)
{
	ports_resume(rp->agent);
	return 0;
}

static int repair_network(struct repair *rp)
{
	return network_repair(rp->agent->network, rp->in.network);
}

static int repair_thaw(struct repair *rp)
{
	int r = cgroup_set_frozen(&rp->agent->workload, false);

	hooks_forget(rp->agent->hooks);
	rp->agent->plan.good = false; /* nor is anything else that was seen while it stood still */
	return r == -ENODEV && !rp->agent->owns_machine ? 0 : r;
}

static const struct {
	const char *name;
	int (*run)(struct repair *rp);
} steps[] = {
	{"identity", repair_identity},
	{"access", repair_access},
	{"clock", repair_clock},
	{"random", repair_random},
	{"connections", repair_connections},
	{"network", repair_network},
	{"ports", repair_ports},
	{"hooks", repair_hooks},
	{"thaw", repair_thaw},
};
_Static_assert(ARRAY_SIZE(steps) == MAX_STEPS, "room for each");

/* --- the chain ----------------------------------------------------------------------------------
 */

static void repair_clear(struct repair *rp)
{
	json_decref(
		rp->body); /* the token in it is freed memory of a process that root alone sees */
	rp->body = NULL;
	rp->rq = NULL;
	rp->announced = false;
	explicit_bzero(&rp->in.entropy, sizeof(rp->in.entropy));
}

/* The first hook that failed; NULL: none did. */
static json_t *failed_hook(const struct repair *rp)
{
	json_t *hook;
	size_t i;

	json_array_foreach (rp->hooks, i, hook)
		if (!json_is_true(json_object_get(hook, "ok")) && !json_object_get(hook, "skipped"))
			return hook;
	return NULL;
}

/* What a hook had to say is worth more than the number that stands for it. */
static json_t *failure(const struct repair *rp, int r)
{
	json_t *hook = failed_hook(rp);
	const char *output = json_string_value(json_object_get(hook, "output"));

	if (!hook)
		return json_sprintf("step %s failed: %s", steps[rp->step].name,
				    strerrordesc_np(-r));
	return json_sprintf("step %s failed: %s: %s%s%s", steps[rp->step].name,
			    json_string_value(json_object_get(hook, "name")),
			    json_string_value(json_object_get(hook, "error")), output ? ": " : "",
			    output ? output : "");
}

static void repair_end(struct repair *rp, int r)
{
	struct request *rq = rp->rq;
	bool announced = rp->announced;
	json_t *answer;

	rp->agent->ready = r == 0;
	answer = r == 0 ? json_pack("{s:b}", "ok", 1)
			: json_pack("{s:i, s:b, s:o}", "code", 500, "ok", 0, "message",
				    failure(rp, r) ?: json_string("a step failed"));
	repair_clear(rp);
	request_release(rq);
	report_reply(rq, announced, r == 0 ? 200 : 500, answer);
}

/* From rp->step on, as far as it goes without waiting. */
static void repair_go(struct repair *rp)
{
	while (rp->step < ARRAY_SIZE(steps)) {
		int r;

		rp->begin_ns = clock_now_ns();
		rp->n_took = rp->step + 1;
		r = steps[rp->step].run(rp);
		if (r > 0)
			return; /* step_over() goes on, or has done so */
		rp->results[rp->step] = r;
		rp->took_ns[rp->step] = clock_now_ns() - rp->begin_ns;
		if (r < 0) {
			repair_end(rp, r);
			return;
		}
		rp->step++;
	}
	repair_end(rp, 0);
}

static void step_over(void *userdata, int r)
{
	struct repair *rp = userdata;

	rp->results[rp->step] = r;
	rp->took_ns[rp->step] = clock_now_ns() - rp->begin_ns;
	if (r < 0) {
		repair_end(rp, r);
		return;
	}
	rp->step++;
	repair_go(rp);
}

/* --- the requests -------------------------------------------------------------------------------
 */

/* The host went away, or begins again: the gate stays shut. */
static void repair_stop(struct repair *rp)
{
	if (!rp->body)
		return;
	hooks_cancel(rp->agent->hooks);
	repair_clear(rp);
}

static void on_closed(struct request *rq)
{
	repair_stop(rq->keeper);
}

static void repair_overtake(struct repair *rp)
{
	struct request *rq = rp->rq;

	if (!rp->body)
		return;
	repair_stop(rp);
	request_release(rq);
	server_stream_reset(rq->stream);
}

static void handle_init(struct request *rq)
{
	struct agent *a = rq->agent;
	struct repair *rp = a->repair;
	struct problem problem = PROBLEM_INIT;
	struct init_request in = {0};
	json_t *o = json_loadb(rq->body.data ?: "", rq->body.len, 0, NULL);

	if (init_request_parse(o, &problem, &in) < 0) {
		request_fail(rq, problem.status, "%s", problem.message);
		json_decref(o);
		return;
	}
	prepare_cancel(a->prepare); /* or it would freeze what we thaw */
	prepare_thaw_disk(a->prepare); /* before anything is written */
	repair_overtake(rp);
	json_decref(rp->hooks);
	rp->hooks = NULL;
	rp->rq = rq;
	rp->body = o;
	rp->in = in;
	rp->kind = in.kind;
	rp->step = 0;
	rp->in_place = a->ready && in.kind == INIT_RESUME;
	a->ready = rp->in_place;
	memcpy(rp->old_id, a->identity.sandbox_id, sizeof(rp->old_id));
	request_keep(rq, rp, on_closed, NULL);
	repair_go(rp);
}

static json_t *describe_steps(const struct repair *rp)
{
	json_t *report = json_array(), *hook;
	size_t k;

	for (size_t i = 0; report && i < rp->n_took; i++) {
		(void)report_add(report, steps[i].name, rp->results[i], rp->took_ns[i]);
		if (steps[i].run != repair_hooks)
			continue;
		json_array_foreach (rp->hooks, k, hook)
			(void)json_array_append(report, hook); /* short of memory: shorter */
	}
	return report;
}

static void handle_last(struct request *rq)
{
	const struct repair *rp = rq->agent->repair;

	request_reply_json(rq, 200,
			   json_pack("{s:s, s:o}", "kind", init_kind_name(rp->kind), "steps",
				     describe_steps(rp)));
}

static const struct route routes[] = {
	{"POST", "/init", handle_init, 0},
	{"GET", "/repair", handle_last, 0},
};

int repair_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}

bool repair_is_busy(const struct repair *rp)
{
	return rp->body != NULL;
}

int repair_new(struct agent *a, struct repair **ret)
{
	struct repair *rp = calloc(1, sizeof(*rp));

	if (!rp)
		return error_trace(-ENOMEM);
	rp->agent = a;
	*ret = rp;
	return 0;
}

struct repair *repair_free(struct repair *rp)
{
	if (!rp)
		return NULL;
	if (rp->rq)
		request_release(rp->rq);
	json_decref(rp->body);
	json_decref(rp->hooks);
	free(rp);
	return NULL;
}
