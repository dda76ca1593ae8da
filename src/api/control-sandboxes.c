/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <errno.h>
#include <string.h>

#include "api/fields.h"
#include "api/http1.h"
#include "api/network.h"
#include "api/unsupported.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/sandbox.h"
#include "sandbox/trace.h"

#define ENVD_VERSION	  "0.6.13"
#define DEFAULT_TIMEOUT_S 300u
#define MAX_TIMEOUT_S	  (10u * 366 * 86400)
#define DEFAULT_LIMIT	  100u
#define FAR_FUTURE	  "9999-12-31T23:59:59.000Z"

static json_t *ms(uint64_t ns)
{
	return json_real((double)ns / 1e6);
}

static json_t *describe_timings(const struct sandbox_timings *t)
{
	return json_pack("{s:o, s:{s:o, s:o, s:o, s:o, s:o}}", "totalMs", ms(t->total_ns), "phases",
			 "image", ms(t->image_ns), "vmm", ms(t->vmm_ns), "load", ms(t->load_ns),
			 "answer", ms(t->answer_ns), "repair", ms(t->repair_ns));
}

static json_t *describe_save(const struct sandbox_save_timings *t)
{
	return json_pack("{s:o, s:I, s:I, s:{s:o, s:o, s:o}}", "totalMs", ms(t->total_ns),
			 "bytesStored", (json_int_t)t->bytes_stored, "pagesStored",
			 (json_int_t)t->pages_stored, "phases", "prepare", ms(t->prepare_ns),
			 "device", ms(t->device_ns), "memory", ms(t->memory_ns));
}

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

/* The API's Sandbox object; @token: "" without one; @timings may be NULL. */
static json_t *describe_sandbox(const char *id, const char *template_id, const char *token,
				const struct sandbox_timings *timings)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:n, s:s*}", "sandboxID", id, "templateID",
			      template_id, "clientID", "dormouse", "envdVersion", ENVD_VERSION,
			      "domain", "envdAccessToken", or_null(token));

	if (o && timings && json_object_set_new(o, "wake", describe_timings(timings)) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* Clients of this API know two states; the third is ours, for those that ask for it. */
static const char *public_state(enum sandbox_state s)
{
	if (s == SANDBOX_FAILED)
		return "failed";
	return s == SANDBOX_ASLEEP || s == SANDBOX_WAKING ? "paused" : "running";
}

static json_t *describe_info(const struct sandbox_info *info)
{
	char started[32], ends[32] = FAR_FUTURE;
	json_t *o;

	clock_rfc3339(info->started_ns, started);
	if (info->end_ns)
		clock_rfc3339(info->end_ns, ends);
	o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:s, s:s*, s:O*}",
		      "sandboxID", info->id, "templateID", info->template_id, "clientID",
		      "dormouse", "startedAt", started, "endAt", ends, "state",
		      public_state(info->state), "status", sandbox_state_name(info->state),
		      "cpuCount", (int)info->cpus, "memoryMB",
		      (json_int_t)(info->memory_bytes >> 20), "diskSizeMB",
		      (json_int_t)(info->disk_bytes >> 20), "envdVersion", ENVD_VERSION, "failure",
		      info->failure[0] ? info->failure : NULL, "metadata", info->metadata);
	if (o && info->stalled)
		(void)json_object_set_new(o, "diskFull", json_true()); /* short of memory: unsaid */
	return o;
}

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

/* Added where a client waited for memory: how much has come. */
static json_t *with_memory(struct request *q, const char *id, json_t *sandbox)
{
	json_t *memory = sandbox ? sandbox_memory_state(q->host, id) : NULL;

	if (memory)
		(void)json_object_set_new(sandbox, "memory", memory); /* left out then */
	return sandbox;
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

/* Adds the token that requests to its ports have to show, if they have. */
static json_t *with_traffic(struct request *q, const char *id, json_t *sandbox)
{
	struct sandbox_info info;

	if (!sandbox || sandbox_info(q->host, id, NULL, &info) < 0)
		return sandbox;
	if (info.traffic_token[0])
		(void)json_object_set_new(sandbox, "trafficAccessToken",
					  json_string(info.traffic_token));
	sandbox_info_deinit(&info);
	return sandbox;
}

static int create(struct request *q, struct reply *y, bool secure)
{
	struct sandbox_options o = {
		.template_id = "base", .timeout_s = DEFAULT_TIMEOUT_S, .secure = secure};
	struct sandbox_timings t = {0};
	struct trace trace = {0};
	char id[ID_LEN + 1], token[sizeof(((struct sandbox_info *)0)->token)];
	json_t *made, *network = NULL;
	int r;

	if (!json_object_get(q->json, "templateID")) {
		problem_set(&y->problem, 400, "templateID: is required");
		problem_hint(&y->problem, "`dorm template ls` lists the templates");
		return -EINVAL;
	}
	r = fields_text(q->json, "templateID", 63, &y->problem, &o.template_id);
	if (r == 0)
		r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &o.timeout_s);
	if (r == 0)
		r = fields_bool(q->json, "autoPause", &y->problem, &o.auto_pause);
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
		r = sandbox_create(q->host, &o, &y->problem, id, token, &t);
	json_decref(network);
	if (r < 0) {
		(void)with_trace(&trace, NULL);
		return r;
	}
	made = with_traffic(q, id, describe_sandbox(id, o.template_id, token, &t));
	made = with_trace(&trace, made);
	return reply_json(y, 201, o.memory.wait ? with_memory(q, id, made) : made);
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

/* ---- list -------------------------------------------------------------------------------------
 */

struct listing {
	json_t *items;
	const char *states;
	const char *template_id;
	json_t *metadata;
	const char *after;
	bool started; /* past @after */
	bool ascending;
	uint64_t limit;
	struct reply *reply;
};

static bool state_wanted(const struct listing *l, const char *state)
{
	const char *p = l->states ? l->states : "running,paused";
	size_t n = strlen(state);

	for (; *p; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == n && !memcmp(p, state, n))
			return true;
	return false;
}

static bool metadata_matches(json_t *wanted, json_t *has)
{
	const char *key;
	json_t *v;

	json_object_foreach (wanted, key, v)
		if (!json_equal(v, json_object_get(has, key)))
			return false;
	return true;
}

static void list_visit(void *userdata, const struct sandbox_info *info)
{
	struct listing *l = userdata;
	size_t n = json_array_size(l->items);

	if (!l->started) {
		l->started = !strcmp(info->id, l->after);
		return;
	}
	if (!state_wanted(l, public_state(info->state)) ||
	    (l->template_id && strcmp(l->template_id, info->template_id)) ||
	    !metadata_matches(l->metadata, info->metadata))
		return;
	if (n == l->limit) {
		json_t *last = json_object_get(json_array_get(l->items, n - 1), "sandboxID");

		str_copy(l->reply->next_token, sizeof(l->reply->next_token),
			 json_string_value(last));
		return;
	}
	(void)json_array_append_new(l->items, describe_info(info)); /* out of memory: left out */
}

int control_sandbox_list(struct request *q, struct reply *y)
{
	struct listing l = {.items = json_array(),
			    .states = request_query(q, "state"),
			    .template_id = request_query(q, "template"),
			    .after = request_query(q, "nextToken"),
			    .limit = DEFAULT_LIMIT,
			    .reply = y};
	const char *metadata = request_query(q, "metadata");
	int r;

	l.started = !l.after;
	r = fields_query_uint(request_query(q, "limit"), "limit", 1, 1000, &y->problem, &l.limit);
	if (r == 0 && metadata)
		r = fields_metadata_filter(metadata, &y->problem, &l.metadata);
	if (r == 0)
		r = sandbox_each(q->host, list_visit, &l);
	json_decref(l.metadata);
	if (r < 0) {
		json_decref(l.items);
		return r;
	}
	return reply_json(y, 200, l.items);
}

/* ---- one sandbox ------------------------------------------------------------------------------
 */

/* What only a look at one tells, its access token above all. */
static json_t *describe_details(const struct sandbox_info *info)
{
	json_t *o = describe_info(info);
	json_t *more = json_pack("{s:{s:s, s:b}, s:n, s:s*}", "lifecycle", "onTimeout",
				 info->auto_pause ? "pause" : "kill", "autoResume", 0, "domain",
				 "envdAccessToken", or_null(info->token));

	if (o && (!more || json_object_update(o, more) < 0)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(more);
	return o;
}

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
	o = describe_details(&info);
	if (o)
		network_describe(o, info.network);
	o = with_memory(q, info.id, o);
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

	if (r == 0 && !memory) {
		problem_set(&y->problem, 400,
			    "memory: false is not supported: a pause keeps the memory");
		r = -EINVAL;
	}
	if (r == 0)
		r = sandbox_sleep(q->host, q->args[0], &y->problem, &t);
	if (r == 0 && details)
		return reply_json(y, 200, describe_save(&t));
	y->status = 204;
	return r;
}

int control_sandbox_connect(struct request *q, struct reply *y)
{
	uint64_t timeout = DEFAULT_TIMEOUT_S;
	struct sandbox_memory_options memory = {0};
	struct sandbox_timings t = {0};
	struct trace trace = {0};
	struct sandbox_info info;
	json_t *o;
	int r, woken;

	r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &timeout);
	if (r == 0)
		r = read_memory_options(q, &y->problem, &memory);
	if (r == 0)
		r = unsupported_refuse(q->json, &y->problem);
	if (r < 0)
		return r;
	begin_trace(q, &trace);
	woken = sandbox_wake(q->host, q->args[0], timeout, &memory, &y->problem, &t);
	r = woken < 0 ? woken : sandbox_info(q->host, q->args[0], &y->problem, &info);
	if (r < 0) {
		(void)with_trace(&trace, NULL);
		return r;
	}
	o = with_traffic(
		q, info.id,
		describe_sandbox(info.id, info.template_id, info.token, woken == 0 ? &t : NULL));
	o = with_trace(&trace, o);
	if (memory.wait)
		o = with_memory(q, info.id, o);
	sandbox_info_deinit(&info);
	return reply_json(y, woken == 0 ? 201 : 200, o);
}

int control_sandbox_timeout(struct request *q, struct reply *y)
{
	json_t *v = json_object_get(q->json, "timeout");
	uint64_t timeout = 0;
	int r = 0;

	if (!v) {
		problem_set(&y->problem, 400, "timeout: is required");
		return -EINVAL;
	}
	/* zero and less mean now */
	if (!json_is_integer(v) || json_integer_value(v) > 0)
		r = fields_uint(q->json, "timeout", 0, MAX_TIMEOUT_S, &y->problem, &timeout);
	y->status = 204;
	return r < 0 ? r : sandbox_set_timeout(q->host, q->args[0], timeout, &y->problem);
}

static json_t *describe_fork(struct request *q, const struct sandbox_fork *f,
			     const char *template_id)
{
	json_t *e;

	if (f->result == 0)
		return json_pack(
			"{s:o}", "sandbox",
			with_traffic(q, f->id,
				     describe_sandbox(f->id, template_id, f->token, &f->timings)));
	e = json_pack("{s:{s:i, s:s}}", "error", "code", f->problem.status, "message",
		      f->problem.message);
	return e;
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
				 &y->problem, forks)
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
	const char *name = NULL;
	char id[ID_LEN + 1];
	int r;

	r = fields_text(q->json, "name", 63, &y->problem, &name);
	if (r == 0)
		r = sandbox_snapshot(q->host, q->args[0], name, &y->problem, id, &t);
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
