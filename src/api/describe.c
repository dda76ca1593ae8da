/* SPDX-License-Identifier: Apache-2.0 */
#include "api/describe.h"

#include "api/network.h"
#include "base/clock.h"

#define FAR_FUTURE "9999-12-31T23:59:59.000Z"

static json_t *ms(uint64_t ns)
{
	return json_real((double)ns / 1e6);
}

static json_t *describe_timings(const struct sandbox_timings *t)
{
	return json_pack("{s:o, s:o, s:b, s:{s:o, s:o, s:o, s:o, s:o}}", "totalMs", ms(t->total_ns),
			 "queueMs", ms(t->queue_ns), "warm", (int)t->warm, "phases", "image",
			 ms(t->image_ns), "vmm", ms(t->vmm_ns), "load", ms(t->load_ns), "answer",
			 ms(t->answer_ns), "repair", ms(t->repair_ns));
}

json_t *describe_save(const struct sandbox_save_timings *t)
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

/* A template by its name; what was made from a snapshot has none. */
static const char *alias_of(const char *template_id)
{
	return id_is_valid(template_id) ? NULL : template_id;
}

json_t *describe_sandbox(const char *id, const char *template_id, const char *token,
			 const struct sandbox_timings *timings)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:n, s:s*, s:s*}", "sandboxID", id,
			      "templateID", template_id, "clientID", DESCRIBE_CLIENT_ID,
			      "envdVersion", DESCRIBE_ENVD_VERSION, "domain", "alias",
			      alias_of(template_id), "envdAccessToken", or_null(token));

	if (o && timings && json_object_set_new(o, "wake", describe_timings(timings)) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* Clients of this API know two states; the third is ours, for those that ask for it. */
const char *describe_state(enum sandbox_state s)
{
	if (s == SANDBOX_FAILED)
		return "failed";
	return s == SANDBOX_ASLEEP || s == SANDBOX_WAKING ? "paused" : "running";
}

/* Only there while it is busy. */
static json_t *describe_operation(const struct sandbox_info *info)
{
	char since[32];

	return json_pack("{s:s, s:s, s:s}", "name", info->operation, "step", info->step, "since",
			 clock_rfc3339(info->operation_ns, since));
}

json_t *describe_info(const struct sandbox_info *info)
{
	char started[32], ends[32] = FAR_FUTURE;
	json_t *o;

	clock_rfc3339(info->started_ns, started);
	if (info->end_ns)
		clock_rfc3339(info->end_ns, ends);
	o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:s, s:s*, s:O*}",
		      "sandboxID", info->id, "templateID", info->template_id, "clientID",
		      DESCRIBE_CLIENT_ID, "startedAt", started, "endAt", ends, "state",
		      describe_state(info->state), "status", sandbox_state_name(info->state),
		      "cpuCount", (int)info->cpus, "memoryMB",
		      (json_int_t)(info->memory_bytes >> 20), "diskSizeMB",
		      (json_int_t)(info->disk_bytes >> 20), "envdVersion", DESCRIBE_ENVD_VERSION,
		      "alias", alias_of(info->template_id), "metadata", info->metadata);
	if (o && info->failure[0])
		(void)json_object_set_new(o, "failure", reply_text(info->failure)); /* as below */
	if (o && info->owner[0])
		(void)json_object_set_new(o, "owner", json_string(info->owner));
	if (o && info->operation)
		(void)json_object_set_new(o, "operation", describe_operation(info));
	if (o && info->disk_only && info->state == SANDBOX_ASLEEP)
		(void)json_object_set_new(o, "diskOnly", json_true());
	if (o && info->stalled)
		(void)json_object_set_new(o, "diskFull", json_true()); /* short of memory: unsaid */
	return o;
}

/* What it was created with, of what concerns traffic to its ports. */
static void add_traffic(json_t *o, const struct sandbox_info *info)
{
	json_t *network = json_object_get(o, "network");

	if (!info->traffic_token[0] && !info->mask_host[0])
		return;
	if (!network) {
		network = json_object();
		if (json_object_set_new(o, "network", network) < 0)
			return; /* left out then */
	}
	if (info->traffic_token[0])
		(void)json_object_set_new(network, "allowPublicTraffic", json_false());
	if (info->mask_host[0])
		(void)json_object_set_new(network, "maskRequestHost", json_string(info->mask_host));
}

json_t *describe_details(const struct caller *caller, const struct sandbox_info *info)
{
	/* with its tokens one could do more than look */
	const bool looks = caller->scope <= SCOPE_READ;
	json_t *o = describe_info(info);
	json_t *more =
		json_pack("{s:{s:s, s:b}, s:n, s:s*, s:s*}", "lifecycle", "onTimeout",
			  info->auto_pause ? "pause" : "kill", "autoResume", (int)info->auto_resume,
			  "domain", "envdAccessToken", looks ? NULL : or_null(info->token),
			  "trafficAccessToken", looks ? NULL : or_null(info->traffic_token));

	if (o && (!more || json_object_update(o, more) < 0)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(more);
	if (o) {
		network_describe(o, info->network);
		add_traffic(o, info);
	}
	return o;
}

json_t *describe_with_memory(struct request *q, const char *id, json_t *sandbox)
{
	json_t *memory = sandbox ? sandbox_memory_state(q->host, id) : NULL;

	if (memory)
		(void)json_object_set_new(sandbox, "memory", memory);
	return sandbox;
}

json_t *describe_with_traffic(struct request *q, const char *id, json_t *sandbox)
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
