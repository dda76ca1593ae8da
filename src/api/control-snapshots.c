/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/snapshots.h"

#define PROGRESS_EVERY_MS 200

struct listing {
	json_t *items;
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

	if ((l->sandbox_id && strcmp(l->sandbox_id, e->manifest.source_id)) ||
	    (l->name && !has_name(e, l->name)))
		return;
	clock_rfc3339(e->manifest.created_ns, created);
	(void)json_array_append_new(
		l->items,
		json_pack("{s:s, s:o, s:s, s:I, s:I, s:I, s:s, s:s}", "snapshotID", e->manifest.id,
			  "names", e->names ? json_deep_copy(e->names) : json_array(), "createdAt",
			  created, "memoryMB", (json_int_t)(e->manifest.memory_bytes >> 20),
			  "storedBytes", (json_int_t)e->stored_bytes, "sharedBytes",
			  (json_int_t)e->shared_bytes, "parentID", e->manifest.parent_id,
			  "sandboxID", e->manifest.source_id));
}

int control_snapshot_list(struct request *q, struct reply *y)
{
	struct listing l = {.items = json_array(),
			    .sandbox_id = request_query(q, "sandboxID"),
			    .name = request_query(q, "name")};
	int r = l.items ? snapshots_each(q->host, list_visit, &l) : -ENOMEM;

	if (r < 0) {
		json_decref(l.items);
		return r;
	}
	return reply_json(y, 200, l.items);
}

int control_snapshot_get(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = snapshots_inspect(q->host, q->args[0], &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

/* ---- verify: a stream of progress lines, made by a thread while the connection's thread sends ---
 */

struct verify {
	struct host *host;
	char id[128];
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	/* lock */
	struct buf lines;
	bool done;
	uint64_t last_ns, n_done, total;
};

static void add_line(struct verify *v, json_t *o)
{
	_cleanup_free_ char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	LOCK_SCOPE(&v->lock);
	if (text)
		(void)buf_printf(&v->lines, "%s\n", text); /* a lost progress line is bearable */
	pthread_cond_signal(&v->more);
}

static void on_progress(void *userdata, uint64_t done, uint64_t total)
{
	struct verify *v = userdata;
	uint64_t now = clock_now_ns();

	v->n_done = done;
	v->total = total;
	if (now - v->last_ns < PROGRESS_EVERY_MS * NSEC_PER_MSEC)
		return;
	v->last_ns = now;
	add_line(v, json_pack("{s:I, s:I}", "done", (json_int_t)done, "total", (json_int_t)total));
}

static void *verify_main(void *arg)
{
	struct verify *v = arg;
	struct problem p = PROBLEM_INIT;
	uint64_t bytes = 0;
	int r = snapshots_verify(v->host, v->id, on_progress, v, &p, &bytes);

	if (r == 0) {
		add_line(v, json_pack("{s:b, s:I, s:I}", "ok", 1, "frames", (json_int_t)v->total,
				      "bytes", (json_int_t)bytes));
	} else {
		problem_errno(&p, r, "verifying %s", v->id);
		add_line(v, json_pack("{s:b, s:{s:i, s:s, s:s}}", "ok", 0, "error", "code",
				      p.status, "message", p.message, "hint", p.hint));
	}
	LOCK_SCOPE(&v->lock);
	v->done = true;
	pthread_cond_signal(&v->more);
	return NULL;
}

static ssize_t verify_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct verify *v = cls;
	size_t n;

	LOCK_SCOPE(&v->lock);
	while (!v->lines.len && !v->done)
		pthread_cond_wait(&v->more, &v->lock);
	n = MIN(max, v->lines.len);
	if (!n)
		return MHD_CONTENT_READER_END_OF_STREAM;
	memcpy(buf, v->lines.data, n);
	buf_consume(&v->lines, n);
	return (ssize_t)n;
}

static void verify_free(void *cls)
{
	struct verify *v = cls;

	pthread_join(v->thread, NULL);
	pthread_mutex_destroy(&v->lock);
	pthread_cond_destroy(&v->more);
	buf_deinit(&v->lines);
	free(v);
}

int control_snapshot_verify(struct request *q, struct reply *y)
{
	struct verify *v;
	int r = snapshots_exists(q->host, q->args[0], &y->problem);

	if (r < 0)
		return r;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->host = q->host;
	str_copy(v->id, sizeof(v->id), q->args[0]);
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->more, NULL);
	r = -pthread_create(&v->thread, NULL, verify_main, v);
	if (r < 0) {
		free(v);
		return r;
	}
	y->status = 200;
	y->raw = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, verify_read, v,
						   verify_free);
	if (!y->raw) {
		verify_free(v);
		return -ENOMEM;
	}
	(void)MHD_add_response_header(y->raw, "Content-Type", "application/x-ndjson");
	return 0;
}
