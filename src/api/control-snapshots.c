/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/access.h"
#include "api/fields.h"
#include "api/job.h"
#include "api/page.h"
#include "base/clock.h"
#include "sandbox/reference.h"
#include "sandbox/snapshots.h"

struct listing {
	struct request *q;
	struct page page;
	const char *sandbox_id;
	const char *name;
};

static bool has_name(const struct snapshot_entry *e, const char *name)
{
	json_t *v;
	size_t i;

	json_array_foreach (e->names, i, v)
		if (!strcmp(json_string_value(v), name))
			return true;
	return false;
}

static void list_visit(void *userdata, const struct snapshot_entry *e)
{
	struct listing *l = userdata;
	char created[32];
	json_t *o;

	if (!page_wants(&l->page, e->created_ns, e->id) ||
	    (l->sandbox_id && strcmp(l->sandbox_id, e->source_id) != 0) ||
	    (l->name && !has_name(e, l->name)) ||
	    access_snapshot(l->q->access, l->q->host, &l->q->caller, e->id, NULL, NULL) < 0 ||
	    !page_has_room(&l->page, e->created_ns, e->id))
		return;
	clock_rfc3339(e->created_ns, created);
	o = json_pack("{s:s, s:o, s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:i}", "snapshotID",
		      e->id, "names", e->names ? json_deep_copy(e->names) : json_array(),
		      "createdAt", created, "memoryMB", (json_int_t)(e->memory_bytes >> 20),
		      "storedBytes", (json_int_t)e->stored_bytes, "ownBytes",
		      (json_int_t)e->stored_bytes, "sharedBytes", (json_int_t)e->shared_bytes,
		      "parentID", e->parent_id, "sandboxID", e->source_id, "sealed", e->sealed,
		      "layers", (int)e->n_layers);
	if (o && !e->created_ns) /* its manifest cannot be read */
		(void)json_object_set_new(o, "createdAt", json_null());
	if (o && e->damage)
		(void)json_object_set_new(o, "damaged", reply_text(e->damage));
	page_add(&l->page, e->created_ns, e->id, o);
}

/* Without a limit, all of them. */
int control_snapshot_list(struct request *q, struct reply *y)
{
	struct listing l = {.q = q,
			    .sandbox_id = request_query(q, "sandboxID"),
			    .name = request_query(q, "name")};
	char name[REFERENCE_NAME];
	int r = page_init(&l.page, request_query(q, "limit"), request_query(q, "order"),
			  request_query(q, "nextToken"), 0, &y->problem);

	if (r == 0 && l.name && reference_parse(l.name, NULL, name) == 0)
		l.name = name; /* otherwise it is none's */
	if (r == 0)
		r = snapshots_each(q->host, list_visit, &l);
	if (r == 0)
		r = page_reply(&l.page, y);
	page_deinit(&l.page);
	return r;
}

int control_snapshot_get(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = access_snapshot(q->access, q->host, &q->caller, q->args[0], &y->problem, NULL);

	if (r == 0)
		r = snapshots_inspect(q->host, q->args[0], &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_snapshot_tree(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = snapshots_tree(q->host, q->args[0][0] ? q->args[0] : NULL, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

/* ---- verify -----------------------------------------------------------------------------------
 */

struct counted {
	struct job *job;
	uint64_t total;
};

static void count(void *userdata, uint64_t done, uint64_t total)
{
	struct counted *c = userdata;

	c->total = total;
	job_progress(c->job, done, total);
}

static int verify_task(struct job *job, struct host *host, void *arg, struct problem *problem,
		       json_t **ret)
{
	struct counted c = {.job = job};
	uint64_t bytes = 0;
	int r = snapshots_verify(host, arg, count, &c, problem, &bytes);

	if (r < 0) {
		problem_errno(problem, r, "verifying %s", (const char *)arg);
		return r;
	}
	*ret = json_pack("{s:I, s:I}", "frames", (json_int_t)c.total, "bytes", (json_int_t)bytes);
	return *ret ? 0 : -ENOMEM;
}

int control_snapshot_verify(struct request *q, struct reply *y)
{
	int r = snapshots_exists(q->host, q->args[0], &y->problem);
	char *id;

	if (r < 0)
		return r;
	id = strdup(q->args[0]);
	return id ? job_start(q->host, verify_task, id, y) : -ENOMEM;
}

/* ---- compact ----------------------------------------------------------------------------------
 */

struct compact {
	bool force;
	char id[128];
};

static int compact_task(struct job *job, struct host *host, void *arg, struct problem *problem,
			json_t **ret)
{
	const struct compact *c = arg;
	const struct host_task task = job_host_task(job);
	struct compact_stats s = {0};
	char id[ID_LEN + 1];
	int r = snapshots_compact(host, c->id, c->force, &task, problem, id, &s);

	if (r < 0)
		return r;
	*ret = json_pack("{s:b, s:i, s:i, s:I, s:I, s:I, s:s}", "compacted", r != COMPACT_E_NOT_DUE,
			 "layersBefore", (int)s.layers_before, "layersAfter", (int)s.layers_after,
			 "bytesWritten", (json_int_t)s.bytes_written, "bytesDropped",
			 (json_int_t)s.bytes_dropped, "pagesMoved", (json_int_t)s.pages_moved,
			 "snapshotID", id);
	if (*ret && s.disk.layers_before)
		(void)json_object_set_new(
			*ret, "disk", /* short of memory: unsaid */
			json_pack("{s:i, s:i, s:I, s:I}", "layersBefore", (int)s.disk.layers_before,
				  "layersAfter", (int)s.disk.layers_after, "bytesWritten",
				  (json_int_t)s.disk.bytes_written, "bytesDropped",
				  (json_int_t)s.disk.bytes_dropped));
	return *ret ? 0 : -ENOMEM;
}

int control_snapshot_compact(struct request *q, struct reply *y)
{
	struct compact *c;
	bool force = true;
	int r = fields_bool(q->json, "force", &y->problem, &force);

	if (r == 0)
		r = snapshots_exists(q->host, q->args[0], &y->problem);
	if (r < 0)
		return r;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->force = force;
	memcpy(c->id, q->args[0], sizeof(c->id));
	return job_start(q->host, compact_task, c, y);
}
