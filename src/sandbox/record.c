/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/record.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define RECORD_FILE "sandbox.json"
#define RECORD_MAX  (1u << 20)

void record_deinit(struct record *r)
{
	json_decref(r->metadata);
	json_decref(r->envs);
	*r = (struct record){0};
}

char *record_encode(const struct record *r)
{
	char *text;
	json_t *o;

	o = json_pack(
		"{s:i, s:s, s:s, s:s, s:i, s:s, s:{s:i, s:I, s:I, s:I}, s:I, s:I, s:I, s:b, s:s, "
		"s:O*, s:O*, s:s, s:s}",
		"version", 1, "id", r->id, "template", r->template_id, "state",
		sandbox_state_name(r->state), "generation", (int)r->generation, "imageID",
		r->image_id, "vm", "pid", (int)r->vm.pid, "startTime", (json_int_t)r->vm.start_time,
		"memoryDev", (json_int_t)r->vm.memory_dev, "memoryIno",
		(json_int_t)r->vm.memory_ino, "createdNs", (json_int_t)r->created_ns, "startedNs",
		(json_int_t)r->started_ns, "endNs", (json_int_t)r->end_ns, "autoPause",
		(int)r->auto_pause, "failure", r->failure, "metadata", r->metadata, "envs", r->envs,
		"trafficToken", r->traffic_token, "maskHost", r->mask_host);
	text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
	json_decref(o);
	return text;
}

int record_write(int dirfd, const char *text, bool durable)
{
	if (durable)
		return error_trace(file_write_atomic(dirfd, RECORD_FILE, text, strlen(text), 0600));
	return error_trace(file_replace(dirfd, RECORD_FILE, text, strlen(text), 0600));
}

static int parse(json_t *o, struct record *r)
{
	const char *id, *template, *state, *failure, *image_id = "", *token = "", *mask = "";
	json_int_t vm_start, vm_dev, vm_ino, created, started, end;
	int version, generation, pid, auto_pause;

	if (json_unpack(o,
			"{s:i, s:s, s:s, s:s, s:i, s:{s:i, s:I, s:I, s:I}, s:I, s:I, s:I, s:b, "
			"s:s, s?s, s?s, s?s}",
			"version", &version, "id", &id, "template", &template, "state", &state,
			"generation", &generation, "vm", "pid", &pid, "startTime", &vm_start,
			"memoryDev", &vm_dev, "memoryIno", &vm_ino, "createdNs", &created,
			"startedNs", &started, "endNs", &end, "autoPause", &auto_pause, "failure",
			&failure, "imageID", &image_id, /* which records of before do not have */
			"trafficToken", &token, "maskHost", &mask) < 0)
		return -EBADMSG;
	if (version != 1 || !id_is_valid(id) || generation < 0 || pid < 0 ||
	    strlen(image_id) >= sizeof(r->image_id) || strlen(token) >= sizeof(r->traffic_token) ||
	    strlen(mask) >= sizeof(r->mask_host) || sandbox_state_parse(state, &r->state) < 0)
		return -EBADMSG;
	str_copy(r->id, sizeof(r->id), id);
	str_copy(r->template_id, sizeof(r->template_id), template);
	str_copy(r->failure, sizeof(r->failure), failure);
	str_copy(r->traffic_token, sizeof(r->traffic_token), token);
	str_copy(r->mask_host, sizeof(r->mask_host), mask);
	r->generation = (unsigned)generation;
	str_copy(r->image_id, sizeof(r->image_id), image_id);
	r->vm = (struct vmm_identity){.pid = pid,
				      .start_time = (uint64_t)vm_start,
				      .memory_dev = (uint64_t)vm_dev,
				      .memory_ino = (uint64_t)vm_ino};
	r->created_ns = (uint64_t)created;
	r->started_ns = (uint64_t)started;
	r->end_ns = (uint64_t)end;
	r->auto_pause = auto_pause;
	r->metadata = json_incref(json_object_get(o, "metadata"));
	r->envs = json_incref(json_object_get(o, "envs"));
	return 0;
}

int record_read(int dirfd, struct problem *problem, struct record *ret)
{
	struct record r = {0};
	_cleanup_free_ char *text = NULL;
	json_error_t err;
	size_t len;
	json_t *o;
	int res;

	res = file_read(dirfd, RECORD_FILE, RECORD_MAX, &text, &len);
	if (res < 0)
		return res;
	o = json_loadb(text, len, 0, &err);
	if (!o) {
		problem_set(problem, 500, "%s: line %d: %s", RECORD_FILE, err.line, err.text);
		return -EBADMSG;
	}
	res = parse(o, &r);
	json_decref(o);
	if (res < 0) {
		problem_set(problem, 500, "%s: not a sandbox record of this version", RECORD_FILE);
		record_deinit(&r);
		return res;
	}
	*ret = r;
	return 0;
}
