/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <errno.h>
#include <string.h>

#include "api/access.h"
#include "api/describe.h"
#include "api/fields.h"
#include "api/http1.h"
#include "api/network.h"
#include "api/once.h"
#include "api/unsupported.h"
#include "base/clock.h"
#include "base/mem.h"
#include "sandbox/reference.h"
#include "sandbox/sandbox.h"
#include "sandbox/snapshots.h"
#include "sandbox/trace.h"

#define DEFAULT_TIMEOUT_S 300u
#define MAX_TIMEOUT_S	  (10u * 366 * 86400)

/* ?trace=1: what this thread does is traced from here on. */
static void begin_trace(struct request *q, struct trace *t)
{
	if (request_query(q, "trace"))
		trace_begin(t);
}

/* ... to here. Adds the trace to an object, if there is one. */
static json_t *with_trace(struct trace *t, json_t *o)
{
	json_t *trace = o && trace_now() ? trace_describe(t) : NULL;

	trace_end();
	trace_deinit(t);
	if (trace)
		(void)json_object_set_new(o, "trace", trace); /* left out then */
	return o;
}

/* The members that say how its memory gets there: of create, connect and fork. */
static int read_memory_options(struct request *q, struct problem *problem,
			       struct sandbox_memory_options *ret)
{
	const char *mode = NULL, *wait = NULL;
	int r = fields_text(q->json, "pagerMode", 32, problem, &mode);

	if (r == 0)
		r = fields_text(q->json, "wait", 32, problem, &wait);
	return r < 0 ? r : sandbox_memory_options_parse(mode, wait, problem, ret);
}

/* network: allowPublicTraffic, maskRequestHost; what else is in it is others' business. */
static int read_traffic(struct request *q, struct problem *problem, struct sandbox_options *o)
{
	json_t *network = json_object_get(q->json, "network");
	bool is_public = true;
	int r;

	if (!network || json_is_null(network))
		return 0;
	if (!json_is_object(network)) {
		problem_set(problem, 400, "network: must be an object");
		return -EINVAL;
	}
	r = fields_bool(network, "allowPublicTraffic", problem, &is_public);
	if (r == 0)
		r = fields_text(network, "maskRequestHost", TRAFFIC_HOST_MAX, problem,
				&o->mask_host);
	if (r == 0 && o->mask_host && !http1_is_value(o->mask_host)) {
		problem_set(problem, 400,
			    "network.maskRequestHost: must not have control characters");
		r = -EINVAL;
	}
	o->private_traffic = !is_public;
	return r;
}

/*
 * A client repeats a create whose answer an earlier dormd was about to give. Return: 0: no; 1: it
 * is in @y; -EINVAL with a 422
 */
static int create_again(struct request *q, struct reply *y)
{
	struct sandbox_info info;
	int r = 1;

	if (!q->once[0] || sandbox_made_by(q->host, q->once, &info) < 0)
		return 0;
	if (clock_real_ns() - info.created_ns > ONCE_KEEP_NS) {
		r = 0;
	} else if (strcmp(info.request, q->once) != 0) {
		problem_set(&y->problem, 422,
			    "Idempotency-Key: it came with another request before");
		problem_hint(&y->problem, "a new request needs a new key");
		r = -EINVAL;
	} else {
		y->replayed = true;
		r = reply_json(y, 201,
			       describe_with_traffic(q, info.id,
						     describe_sandbox(info.id, info.template_id,
								      info.token, NULL)));
		r = r < 0 ? r : 1;
	}
	sandbox_info_deinit(&info);
	return r;
}

/* What happens when its time is up, and when somebody asks for it after that. */
static int read_lifecycle(struct request *q, struct problem *problem, struct sandbox_options *o)
{
	json_t *resume = json_object_get(q->json, "autoResume");
	bool memory = true;
	int r = fields_bool(q->json, "autoPause", problem, &o->auto_pause);

	if (r == 0)
		r = fields_bool(q->json, "autoPauseMemory", problem, &memory);
	o->auto_pause_disk = o->auto_pause && !memory;
	if (r < 0 || !resume || json_is_null(resume))
		return r;
	if (!json_is_object(resume)) {
		problem_set(problem, 400, "autoResume: must be an object: {\"enabled\": true}");
		return -EINVAL;
	}
	r = fields_bool(resume, "enabled", problem, &o->auto_resume);
	if (r == 0 && o->auto_resume && o->auto_pause_disk) {
		problem_set(problem, 400,
			    "autoResume: cannot be had with autoPauseMemory: false: requests wake "
			    "only what slept with its memory");
		return -EINVAL;
	}
	return r;
}

static int create(struct request *q, struct reply *y, bool secure)
{
	struct sandbox_options o = {.timeout_s = DEFAULT_TIMEOUT_S,
				    .secure = secure,
				    .owner = q->caller.key_id,
				    .abandoned = request_is_abandoned,
				    .userdata = q};
	struct sandbox_timings t = {0};
	struct trace trace = {0};
	char id[ID_LEN + 1], token[sizeof(((struct sandbox_info *)0)->token)];
	char template[REFERENCE_NAME];
	json_t *made, *network = NULL;
	int r = create_again(q, y);

	if (r != 0)
		return MIN(r, 0);
	o.request = q->once;

	r = fields_text(q->json, "templateID", REFERENCE_MAX, &y->problem, &o.template_id);
	if (r == 0 && !o.template_id) {
		problem_set(&y->problem, 400, "templateID: is required");
		problem_hint(&y->problem, "`dorm template ls` lists the templates");
		return -EINVAL;
	}
	if (r == 0 && reference_parse(o.template_id, NULL, template) == 0)
		o.template_id = template; /* otherwise it is nobody's */
	if (r == 0)
		r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &o.timeout_s);
	if (r == 0)
		r = read_lifecycle(q, &y->problem, &o);
	if (r == 0)
		r = fields_text_map(q->json, "metadata", &y->problem, &o.metadata);
	if (r == 0)
		r = fields_text_map(q->json, "envVars", &y->problem, &o.envs);
	if (r == 0)
		r = read_memory_options(q, &y->problem, &o.memory);
	if (r == 0)
		r = read_traffic(q, &y->problem, &o);
	if (r == 0)
		r = unsupported_refuse(q->json, &y->problem);
	if (r == 0)
		r = network_from_body(q->json, host_offers_network(q->host), &y->problem, &network);
	if (!json_is_null(network))
		o.network = network;
	begin_trace(q, &trace);
	if (r == 0)
		r = access_snapshot(q->access, q->host, &q->caller, o.template_id, &y->problem,
				    NULL);
	if (r == 0)
		r = sandbox_create(q->host, &o, &y->problem, id, token, &t);
	json_decref(network);
	if (r < 0) {
		(void)with_trace(&trace, NULL);
		return r;
	}
	made = describe_with_traffic(q, id, describe_sandbox(id, o.template_id, token, &t));
	made = with_trace(&trace, made);
	return reply_json(y, 201, o.memory.wait ? describe_with_memory(q, id, made) : made);
}

int control_sandbox_create(struct request *q, struct reply *y)
{
	return create(q, y, true);
}

/* Clients of then ask for a token, or do without. */
int control_sandbox_create_1(struct request *q, struct reply *y)
{
	bool secure = false;
	int r = fields_bool(q->json, "secure", &y->problem, &secure);

	return r < 0 ? r : create(q, y, secure);
}

/* ---- one sandbox ------------------------------------------------------------------------------
 */

/* On request, since it asks the guest: what its last repair did. */
static json_t *with_repair(struct request *q, const char *id, json_t *sandbox)
{
	json_t *steps = sandbox ? sandbox_last_repair(q->host, id) : NULL;

	if (steps)
		(void)json_object_set_new(sandbox, "repair", steps); /* left out then */
	return sandbox;
}

int control_sandbox_get(struct request *q, struct reply *y)
{
	struct sandbox_info info;
	json_t *o;
	int r = sandbox_info(q->host, q->args[0], &y->problem, &info);

	if (r < 0)
		return r;
	o = describe_details(&q->caller, &info);
	o = describe_with_memory(q, info.id, o);
	if (request_query(q, "repair"))
		o = with_repair(q, info.id, o);
	sandbox_info_deinit(&info);
	return reply_json(y, 200, o);
}

int control_sandbox_delete(struct request *q, struct reply *y)
{
	y->status = 204;
	return sandbox_delete(q->host, q->args[0], &y->problem);
}

int control_sandbox_pause(struct request *q, struct reply *y)
{
	struct sandbox_save_timings t = {0};
	bool memory = true, details = request_query(q, "details") != NULL;
	int r = fields_bool(q->json, "memory", &y->problem, &memory);

	if (r == 0)
		r = (memory ? sandbox_sleep : sandbox_sleep_disk)(q->host, q->args[0], &y->problem,
								  &t);
	if (r == 0 && details)
		return reply_json(y, 200, describe_save(&t));
	y->status = 204;
	return r;
}

int control_sandbox_connect(struct request *q, struct reply *y)
{
	uint64_t timeout = DEFAULT_TIMEOUT_S;
	struct sandbox_memory_options memory = {0};
	bool keep_memory = true;
	struct sandbox_timings t = {0};
	struct trace trace = {0};
	struct sandbox_info info;
	json_t *o;
	int r, woken;

	r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &timeout);
	if (r == 0)
		r = read_memory_options(q, &y->problem, &memory);
	if (r == 0)
		r = fields_bool(q->json, "memory", &y->problem, &keep_memory);
	if (r == 0)
		r = unsupported_refuse(q->json, &y->problem);
	if (r < 0)
		return r;
	memory.reboot = !keep_memory;
	begin_trace(q, &trace);
	woken = sandbox_wake(q->host, q->args[0], timeout, &memory, &y->problem, &t);
	r = woken < 0 ? woken : sandbox_info(q->host, q->args[0], &y->problem, &info);
	if (r < 0) {
		(void)with_trace(&trace, NULL);
		return r;
	}
	o = describe_with_traffic(
		q, info.id,
		describe_sandbox(info.id, info.template_id, info.token, woken == 0 ? &t : NULL));
	o = with_trace(&trace, o);
	if (memory.wait)
		o = describe_with_memory(q, info.id, o);
	sandbox_info_deinit(&info);
	return reply_json(y, woken == 0 ? 201 : 200, o);
}

int control_sandbox_timeout(struct request *q, struct reply *y)
{
	json_t *v = json_object_get(q->json, "timeout");
	uint64_t timeout = 0;
	int r = 0;

	if (!v || json_is_null(v)) {
		problem_set(&y->problem, 400, "timeout: is required");
		return -EINVAL;
	}
	/* zero and less mean now */
	if (!json_is_integer(v) || json_integer_value(v) > 0)
		r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &timeout);
	y->status = 204;
	return r < 0 ? r : sandbox_set_timeout(q->host, q->args[0], timeout, &y->problem);
}

/* E2B's: it lives so much longer from now, and never shorter than it would have. */
int control_sandbox_refresh(struct request *q, struct reply *y)
{
	uint64_t duration = DEFAULT_TIMEOUT_S;
	int r = fields_uint(q->json, "duration", 0, MAX_TIMEOUT_S, &y->problem, &duration);

	y->status = 204;
	return r < 0 ? r : sandbox_extend(q->host, q->args[0], duration, &y->problem);
}

static json_t *describe_fork(struct request *q, struct sandbox_fork *f, const char *template_id)
{
	if (f->result == 0)
		return json_pack("{s:o}", "sandbox",
				 describe_with_traffic(q, f->id,
						       describe_sandbox(f->id, template_id,
									f->token, &f->timings)));
	return json_pack("{s:o}", "error", reply_problem(&f->problem, f->result));
}

int control_sandbox_fork(struct request *q, struct reply *y)
{
	_cleanup_free_ struct sandbox_fork *forks = NULL;
	uint64_t timeout = DEFAULT_TIMEOUT_S, count = 1;
	struct sandbox_memory_options memory = {0};
	struct sandbox_info info;
	struct trace trace = {0};
	json_t *all, *network = NULL;
	int r;

	r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &timeout);
	if (r == 0)
		r = fields_uint(q->json, "count", 1, 1000, &y->problem, &count);
	if (r == 0)
		r = read_memory_options(q, &y->problem, &memory);
	if (r == 0)
		r = unsupported_refuse(q->json, &y->problem);
	if (r == 0)
		r = network_from_body(q->json, host_offers_network(q->host), &y->problem, &network);
	if (r == 0)
		r = sandbox_info(q->host, q->args[0], &y->problem, &info);
	if (r < 0) {
		json_decref(network);
		return r;
	}
	begin_trace(q, &trace);
	forks = calloc(count, sizeof(*forks));
	r = forks ? sandbox_fork(q->host, q->args[0], (unsigned)count, timeout, &memory, network,
				 q->caller.key_id, &y->problem, forks)
		  : -ENOMEM;
	json_decref(network);
	all = r == 0 ? json_array() : NULL;
	for (uint64_t i = 0; all && i < count; i++)
		(void)json_array_append_new(all, describe_fork(q, &forks[i], info.template_id));
	sandbox_info_deinit(&info);
	/* the answer is an array: the trace of all of them is with the first */
	(void)with_trace(&trace, json_array_get(all, 0));
	return r < 0 ? r : reply_json(y, 201, all);
}

int control_sandbox_snapshot(struct request *q, struct reply *y)
{
	struct sandbox_save_timings t = {0};
	const char *given = NULL, *name = NULL;
	char id[ID_LEN + 1], parsed[REFERENCE_NAME];
	int r;

	r = fields_text(q->json, "name", REFERENCE_MAX, &y->problem, &given);
	if (r == 0 && given) {
		r = reference_parse(given, &y->problem, parsed);
		name = parsed;
	}
	if (r == 0 && name)
		r = access_name(q->access, q->host, &q->caller, name, &y->problem);
	if (r == 0)
		r = sandbox_snapshot(q->host, q->args[0], name, &y->problem, id, &t);
	if (r == 0 && q->caller.scope == SCOPE_USE) {
		r = owners_set(access_owners(q->access), id, q->caller.key_id, &y->problem);
		if (r < 0) /* nobody's would be everybody's */
			(void)snapshots_delete(q->host, id, NULL);
	}
	if (r < 0)
		return r;
	return reply_json(y, 201,
			  json_pack("{s:s, s:o, s:o}", "snapshotID", id, "names",
				    name ? json_pack("[s]", name) : json_array(), "save",
				    describe_save(&t)));
}

int control_sandbox_memory(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = sandbox_memory(q->host, q->args[0], &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_sandbox_network(struct request *q, struct reply *y)
{
	json_t *policy = NULL;
	int r = network_from_change(q->json, &y->problem, &policy);

	if (r == 0)
		r = sandbox_set_network(q->host, q->args[0], policy, &y->problem);
	json_decref(policy);
	y->status = 204;
	return r;
}

/* Ours: what E2B shows as a part of the sandbox, and what has passed so far. */
int control_sandbox_network_get(struct request *q, struct reply *y)
{
	struct sandbox_info info;
	json_t *o, *counters;
	int r = sandbox_info(q->host, q->args[0], &y->problem, &info);

	if (r < 0)
		return r;
	o = json_object();
	counters = sandbox_network_counters(q->host, q->args[0]);
	if (o)
		network_describe(o, info.network);
	if (o && counters)
		(void)json_object_set(o, "counters", counters); /* left out then */
	json_decref(counters);
	sandbox_info_deinit(&info);
	return reply_json(y, 200, o);
}

int control_sandbox_metrics(struct request *q, struct reply *y)
{
	uint64_t start_s = 0, end_s = SANDBOX_METRICS_TIME_MAX;
	json_t *o = NULL;
	int r = fields_query_uint(request_query(q, "start"), "start", 0, SANDBOX_METRICS_TIME_MAX,
				  &y->problem, &start_s);

	if (r == 0)
		r = fields_query_uint(request_query(q, "end"), "end", 0, SANDBOX_METRICS_TIME_MAX,
				      &y->problem, &end_s);
	if (r == 0 && start_s > end_s) {
		problem_set(&y->problem, 400, "start: %llu is after end, %llu",
			    (unsigned long long)start_s, (unsigned long long)end_s);
		r = -EINVAL;
	}
	if (r == 0)
		r = sandbox_metrics(q->host, q->args[0], start_s, end_s, &y->problem, &o);
	return r < 0 ? r : reply_json(y, 200, o);
}
