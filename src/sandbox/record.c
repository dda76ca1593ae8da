/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/record.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "image/snapshot.h"

#define RECORD_FILE "sandbox.json"
#define RECORD_MAX  (1u << 20)

bool record_is_host_restarted(const struct record *r)
{
	return r->state == SANDBOX_FAILED && !strcmp(r->failure, RECORD_HOST_RESTARTED);
}

void record_deinit(struct record *r)
{
	json_decref(r->metadata);
	json_decref(r->envs);
	explicit_bzero(r->token, sizeof(r->token));
	json_decref(r->network);
	*r = (struct record){0};
}

void record_new_token(struct record *r)
{
	unsigned char bytes[RECORD_TOKEN_BYTES];

	id_random(bytes, sizeof(bytes));
	str_hex(bytes, sizeof(bytes), r->token);
	explicit_bzero(bytes, sizeof(bytes));
}

static json_t *encode_disk(const struct record_disk *d)
{
	json_t *names = json_array();

	for (unsigned i = 0; i < d->n; i++)
		(void)json_array_append_new(names, json_string(d->names[i])); /* see below */
	if (json_array_size(names) == d->n)
		return json_pack("{s:i, s:o}", "below", (int)d->below, "layers", names);
	json_decref(names);
	return NULL;
}

static int parse_disk(const json_t *o, struct record_disk *d)
{
	json_t *names = json_object_get(o, "layers"), *name;
	json_int_t below = json_integer_value(json_object_get(o, "below"));
	size_t i;

	if (!o) /* which sandboxes without one do not have */
		return 0;
	if (below < 0 || below > SNAPSHOT_MAX_DISKS || !json_is_array(names) ||
	    json_array_size(names) > RECORD_MAX_LAYERS)
		return -EBADMSG;
	d->below = (unsigned)below;
	json_array_foreach (names, i, name) {
		const char *text = json_string_value(name);

		if (!text || !id_is_valid(text))
			return -EBADMSG;
		memcpy(d->names[d->n++], text, ID_LEN + 1);
	}
	return 0;
}

char *record_encode(const struct record *r)
{
	char *text;
	json_t *o;

	o = json_pack(
		"{s:i, s:s, s:s, s:s, s:i, s:s, s:{s:i, s:I, s:I, s:I}, s:I, s:I, s:I, s:b, s:s, "
		"s:O*, s:O*, s:s*, s:s, s:s, s:O*, s:b, s:b, s:b, s:I, s:s, s:s, s:I}",
		"version", 1, "id", r->id, "template", r->template_id, "state",
		sandbox_state_name(r->state), "generation", (int)r->generation, "imageID",
		r->image_id, "vm", "pid", (int)r->vm.pid, "startTime", (json_int_t)r->vm.start_time,
		"memoryDev", (json_int_t)r->vm.memory_dev, "memoryIno",
		(json_int_t)r->vm.memory_ino, "createdNs", (json_int_t)r->created_ns, "startedNs",
		(json_int_t)r->started_ns, "endNs", (json_int_t)r->end_ns, "autoPause",
		(int)r->auto_pause, "failure", r->failure, "metadata", r->metadata, "envs", r->envs,
		"token", r->token[0] ? r->token : NULL, "trafficToken", r->traffic_token,
		"maskHost", r->mask_host, "network", r->network, "autoPauseDisk",
		(int)r->auto_pause_disk, "autoResume", (int)r->auto_resume, "diskOnly",
		(int)r->disk_only, "uid", (json_int_t)r->uid, "owner", r->owner, "bootID",
		r->boot_id, "timeoutS", (json_int_t)r->timeout_s);
	if (o && r->disk.n && json_object_set_new(o, "disk", encode_disk(&r->disk)) < 0) {
		json_decref(o);
		return NULL;
	}
	if (o && r->request[0] &&
	    json_object_set_new(o, "request", json_string(r->request)) < 0) {
		json_decref(o);
		return NULL;
	}
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

static bool token_is_valid(const char *token)
{
	unsigned char bytes[RECORD_TOKEN_BYTES];

	return !token[0] || str_unhex(token, bytes, sizeof(bytes)) == 0;
}

/* What records of before do not have. */
static int parse_later(json_t *o, struct record *r)
{
	int auto_pause_disk = 0, auto_resume = 0, disk_only = 0;
	const char *owner = "", *boot_id = "", *request = "";
	json_int_t uid = 0, timeout = 0;

	if (json_unpack(o, "{s?b, s?b, s?b, s?I, s?s, s?s, s?I, s?s}", "autoPauseDisk",
			&auto_pause_disk, "autoResume", &auto_resume, "diskOnly", &disk_only, "uid",
			&uid, "owner", &owner, "bootID", &boot_id, "timeoutS", &timeout, "request",
			&request) < 0 ||
	    timeout < 0 || uid < 0 || uid > UINT32_MAX || strlen(owner) >= sizeof(r->owner) ||
	    strlen(boot_id) >= sizeof(r->boot_id) || strlen(request) >= sizeof(r->request))
		return -EBADMSG;
	r->auto_pause_disk = auto_pause_disk;
	r->auto_resume = auto_resume;
	r->disk_only = disk_only;
	r->uid = (uint32_t)uid;
	r->timeout_s = (uint64_t)timeout;
	str_copy(r->owner, sizeof(r->owner), owner);
	str_copy(r->boot_id, sizeof(r->boot_id), boot_id);
	str_copy(r->request, sizeof(r->request), request);
	return 0;
}

static int parse(json_t *o, struct record *r)
{
	const char *id, *template, *state, *failure, *image_id = "", *token = "", *traffic = "",
						     *mask = "";
	json_int_t vm_start, vm_dev, vm_ino, created, started, end;
	int version, generation, pid, auto_pause;

	if (json_unpack(o,
			"{s:i, s:s, s:s, s:s, s:i, s:{s:i, s:I, s:I, s:I}, s:I, s:I, s:I, s:b, "
			"s:s, s?s, s?s, s?s, s?s}",
			"version", &version, "id", &id, "template", &template, "state", &state,
			"generation", &generation, "vm", "pid", &pid, "startTime", &vm_start,
			"memoryDev", &vm_dev, "memoryIno", &vm_ino, "createdNs", &created,
			"startedNs", &started, "endNs", &end, "autoPause", &auto_pause, "failure",
			&failure, "imageID", &image_id, /* which records of before do not have */
			"token", &token, "trafficToken", &traffic, "maskHost", &mask) < 0)
		return -EBADMSG;
	if (version != 1 || !id_is_valid(id) || generation < 0 || pid < 0 ||
	    strlen(image_id) >= sizeof(r->image_id) || !token_is_valid(token) ||
	    strlen(traffic) >= sizeof(r->traffic_token) || strlen(mask) >= sizeof(r->mask_host) ||
	    sandbox_state_parse(state, &r->state) < 0)
		return -EBADMSG;
	if (parse_disk(json_object_get(o, "disk"), &r->disk) < 0 || parse_later(o, r) < 0)
		return -EBADMSG;
	str_copy(r->id, sizeof(r->id), id);
	str_copy(r->template_id, sizeof(r->template_id), template);
	str_copy(r->failure, sizeof(r->failure), failure);
	str_copy(r->token, sizeof(r->token), token);
	str_copy(r->traffic_token, sizeof(r->traffic_token), traffic);
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
	r->network = json_incref(json_object_get(o, "network"));
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
