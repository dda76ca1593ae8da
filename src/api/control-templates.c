/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <errno.h>
#include <string.h>

#include "api/access.h"
#include "api/fields.h"
#include "api/job.h"
#include "api/unsupported.h"
#include "base/clock.h"
#include "sandbox/build.h"
#include "sandbox/snapshots.h"

#define DEFAULT_MEMORY_MB 512u
#define MAX_COMMAND	  65536u
#define MAX_REFERENCE	  4096u

struct listing {
	struct request *q;
	struct host *host;
	json_t *items;
	const char *id; /* only this one; NULL: all */
};

static void list_visit(void *userdata, const struct snapshot_entry *e)
{
	struct listing *l = userdata;
	char created[32], kernel[64];
	uint64_t set_bytes;

	if (!e->names || e->damage || (l->id && strcmp(l->id, e->id) != 0) ||
	    access_snapshot(l->q->access, l->host, &l->q->caller, e->id, NULL, NULL) < 0)
		return;
	set_bytes = snapshots_working_set_pages(l->host, e->id) * DORM_PAGE_SIZE;
	clock_rfc3339(e->created_ns, created);
	snapshots_kernel_version(l->host, e->id, kernel);
	(void)json_array_append_new(/* out of memory: left out */
				    l->items,
				    json_pack("{s:s, s:s, s:O, s:O, s:I, s:i, s:s, s:I, s:I, s:I, "
					      "s:s}",
					      "templateID", e->id, "snapshotID", e->id, "names",
					      e->names, "aliases", e->names, "memoryMB",
					      (json_int_t)(e->memory_bytes >> 20), "cpuCount",
					      (int)e->cpus, "createdAt", created, "storedBytes",
					      (json_int_t)e->stored_bytes, "sharedBytes",
					      (json_int_t)e->shared_bytes, "workingSetBytes",
					      (json_int_t)set_bytes, "kernelVersion", kernel));
}

int control_template_list(struct request *q, struct reply *y)
{
	struct listing l = {.q = q, .host = q->host, .items = json_array()};
	int r = l.items ? snapshots_each(q->host, list_visit, &l) : -ENOMEM;

	if (r < 0) {
		json_decref(l.items);
		return r;
	}
	return reply_json(y, 200, l.items);
}

int control_template_get(struct request *q, struct reply *y)
{
	char id[ID_LEN + 1];
	struct listing l = {.q = q, .host = q->host, .id = id};
	int r = snapshots_id(q->host, q->args[0], &y->problem, id);

	if (r < 0)
		return r;
	l.items = json_array();
	r = l.items ? snapshots_each(q->host, list_visit, &l) : -ENOMEM;
	if (r == 0 && !json_array_size(l.items)) {
		problem_set(&y->problem, 404, "no template leads to %s, or it is damaged", id);
		problem_hint(&y->problem, "GET /snapshots/%s says what is known of it", id);
		r = -ENOENT;
	}
	if (r == 0)
		r = reply_json(y, 200, json_incref(json_array_get(l.items, 0)));
	json_decref(l.items);
	return r;
}

int control_template_new(struct request *q, struct reply *y)
{
	struct template_options o = {.cpus = 1};
	uint64_t memory_mb = DEFAULT_MEMORY_MB, cpus = 1, disk_mb = 0;
	char template_id[ID_LEN + 1], build_id[ID_LEN + 1];
	int r;

	r = fields_text(q->json, "alias", 63, &y->problem, &o.name); /* of older clients */
	if (r == 0)
		r = fields_text(q->json, "name", 63, &y->problem, &o.name);
	if (r == 0 && !o.name) {
		problem_set(&y->problem, 400, "name (or alias): is required");
		r = -EINVAL;
	}
	if (r == 0)
		r = fields_uint(q->json, "memoryMB", 0, 1u << 22, &y->problem, &memory_mb);
	if (r == 0)
		r = fields_uint(q->json, "cpuCount", 0, 1024, &y->problem, &cpus);
	if (r == 0)
		r = fields_uint(q->json, "diskSizeMB", 0, 1u << 24, &y->problem, &disk_mb);
	if (r < 0)
		return r;
	o.disk_bytes = disk_mb << 20;
	o.memory_bytes = memory_mb << 20;
	o.cpus = (uint32_t)cpus;
	r = template_build_new(q->host, &o, &y->problem, template_id, build_id);
	if (r < 0)
		return r;
	return reply_json(y, 202,
			  json_pack("{s:s, s:s, s:[s], s:[s], s:b}", "templateID", template_id,
				    "buildID", build_id, "names", o.name, "aliases", o.name,
				    "public", 0));
}

int control_template_alias(struct request *q, struct reply *y)
{
	char id[ID_LEN + 1];
	int r = snapshots_id(q->host, q->args[0], &y->problem, id);

	if (r == 0)
		r = access_snapshot(q->access, q->host, &q->caller, id, &y->problem, NULL);
	return r < 0 ? r
		     : reply_json(y, 200, json_pack("{s:s, s:b}", "templateID", id, "public", 0));
}

/* Clients would upload what their template is made of; here a recipe holds or names it. */
int control_template_files(struct request *q, struct reply *y)
{
	problem_set(&y->problem, 501, "files of a template build are not uploaded");
	problem_hint(&y->problem, "a recipe holds them, or names them: docs/templates.md");
	return -EOPNOTSUPP;
}

/* A recipe out of the members that E2B's clients send; new reference. */
static int plain_recipe(struct request *q, struct problem *problem, json_t **ret)
{
	const char *start = NULL, *ready = NULL, *image = NULL;
	int r;

	r = fields_text(q->json, "startCmd", MAX_COMMAND, problem, &start);
	if (r == 0)
		r = fields_text(q->json, "readyCmd", MAX_COMMAND, problem, &ready);
	if (r == 0)
		r = fields_text(q->json, "fromImage", MAX_REFERENCE, problem, &image);
	if (r < 0)
		return r;
	*ret = json_object();
	if (!*ret ||
	    (start && *start && json_object_set_new(*ret, "start", json_string(start)) < 0) ||
	    (ready && *ready &&
	     json_object_set_new(*ret, "ready", json_pack("{s:s}", "command", ready)) < 0) ||
	    (image && *image &&
	     json_object_set_new(*ret, "base", json_pack("{s:s}", "image", image)) < 0))
		r = -ENOMEM;
	return r;
}

int control_template_build(struct request *q, struct reply *y)
{
	struct template_source source = {.working_set = true, .local = request_is_local(q)};
	json_auto_t *plain = NULL;
	int r;

	source.recipe = json_object_get(q->json, "recipe");
	r = unsupported_refuse(q->json, &y->problem);
	if (r == 0)
		r = fields_bool(q->json, "workingSet", &y->problem, &source.working_set);
	if (r == 0)
		r = fields_text(q->json, "contextDir", MAX_REFERENCE, &y->problem, &source.context);
	if (r == 0 && !source.recipe) {
		r = plain_recipe(q, &y->problem, &plain);
		source.recipe = plain;
		source.bare = true;
	}
	if (r == 0)
		r = template_build_start(q->host, q->args[0], q->args[1], &source, &y->problem);
	return r < 0 ? r : reply_json(y, 202, json_object());
}

int control_template_status(struct request *q, struct reply *y)
{
	uint64_t offset = 0;
	json_t *o = NULL;
	int r;

	r = fields_query_uint(request_query(q, "logsOffset"), "logsOffset", 0, 1u << 20,
			      &y->problem, &offset);
	if (r == 0)
		r = template_build_status(q->host, q->args[0], q->args[1], offset, &y->problem, &o);
	return r < 0 ? r : reply_json(y, 200, o);
}

struct warm {
	char name[128];
	bool full;
};

static int warm_task(struct job *job, struct host *host, void *arg, struct problem *problem,
		     json_t **ret)
{
	const struct host_task task = job_host_task(job);
	const struct warm *w = arg;
	char image_id[33];
	int r = host_warm(host, w->name, w->full, &task, problem, image_id);

	if (r < 0)
		return r;
	*ret = json_pack("{s:s, s:s}", "imageID", image_id, "loaded",
			 w->full ? "full" : "working-set");
	return *ret ? 0 : -ENOMEM;
}

int control_template_warm(struct request *q, struct reply *y)
{
	struct warm *w;
	uint64_t vms = 0;
	bool full = false;
	int r = fields_bool(q->json, "full", &y->problem, &full);

	if (r == 0 && json_object_get(q->json, "vms")) {
		r = fields_uint(q->json, "vms", 0, 64, &y->problem, &vms);
		if (r == 0)
			r = host_keep_warm(q->host, q->args[0], (unsigned)vms, &y->problem);
		return r < 0 ? r : reply_json(y, 200, json_pack("{s:I}", "vms", (json_int_t)vms));
	}
	if (r == 0)
		r = snapshots_exists(q->host, q->args[0], &y->problem);
	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->full = full;
	memcpy(w->name, q->args[0], sizeof(w->name));
	return job_start(q->host, warm_task, w, y);
}

int control_template_delete(struct request *q, struct reply *y)
{
	y->status = 204;
	return access_delete_snapshot(q->access, q->host, &q->caller, q->args[0], &y->problem);
}
