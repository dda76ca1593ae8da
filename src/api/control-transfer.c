/* SPDX-License-Identifier: Apache-2.0 */
/* control-transfer.c - snapshots as streams: export, import, the layers a host has */
#include "api/routes.h"

#include <errno.h>
#include <string.h>

#include "api/fields.h"
#include "base/log.h"
#include "base/mem.h"
#include "sandbox/snapshot-transfer.h"
#include "sandbox/store-task.h"

#define SNAPSHOT_TYPE "application/x-dormouse-snapshot"
#define EXTENTS_TYPE  "application/x-dormouse-extents"

int control_layers(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_layers(q->host, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

/* "format" of the query: absent, or "raw" */
static int parse_format(struct request *q, struct problem *problem, bool *ret_raw)
{
	const char *format = request_query(q, "format");

	if (format && strcmp(format, "raw") != 0) {
		problem_set(problem, 400, "format: '%.64s' is not raw", format);
		problem_hint(problem, "without it, the snapshot is sent with all it needs");
		return -EINVAL;
	}
	*ret_raw = format != NULL;
	return 0;
}

/* ---- export -----------------------------------------------------------------------------------
 */

struct export
{
	struct outgoing *outgoing;
	char id[128];
};

static ssize_t export_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct export *e = cls;
	struct problem p = PROBLEM_INIT;
	ssize_t n = outgoing_read(e->outgoing, buf, max, &p);

	if (n > 0)
		return n;
	if (n == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	/* the client sees its stream break off: only here somebody learns why */
	problem_errno(&p, (int)n, "reading it");
	log_error("snapshot=%.127s its export broke off: %s", e->id, p.message);
	return MHD_CONTENT_READER_END_WITH_ERROR;
}

static void export_free(void *cls)
{
	struct export *e = cls;

	outgoing_free(e->outgoing);
	free(e);
}

int control_snapshot_export(struct request *q, struct reply *y)
{
	struct export *e;
	uint64_t bytes;
	bool raw;
	int r = parse_format(q, &y->problem, &raw);

	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	memcpy(e->id, q->args[0], sizeof(e->id));
	r = outgoing_new(q->host, e->id, raw, request_query(q, "skip"), &y->problem, &e->outgoing);
	if (r < 0) {
		free(e);
		return r;
	}
	if (!outgoing_bytes(e->outgoing, &bytes))
		bytes = MHD_SIZE_UNKNOWN;
	return reply_stream(y, raw ? EXTENTS_TYPE : SNAPSHOT_TYPE, bytes, export_read, e,
			    export_free);
}

/* ---- import -----------------------------------------------------------------------------------
 */

static int import_body(void *state, const void *data, size_t len, struct problem *problem)
{
	return incoming_write(state, data, len, problem);
}

static int import_finish(void *state, struct reply *y)
{
	json_t *o = NULL;
	int r = incoming_finish(state, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 201, o);
}

static void import_free(void *state)
{
	incoming_free(state);
}

static int check_type(struct request *q, bool raw, struct problem *problem)
{
	const char *want = raw ? EXTENTS_TYPE : SNAPSHOT_TYPE;
	const char *type =
		MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND, "Content-Type");

	if (type && strcmp(type, want) != 0 && strcmp(type, "application/octet-stream") != 0) {
		problem_set(problem, 400, "Content-Type: it is %.64s, not %s", type, want);
		return -EINVAL;
	}
	return 0;
}

int control_snapshot_import(struct request *q, struct problem *problem, struct upload *ret)
{
	struct incoming_options o = {.name = request_query(q, "name"),
				     .parent = request_query(q, "parent")};
	struct incoming *i;
	int r = parse_format(q, problem, &o.raw);

	if (r == 0)
		r = check_type(q, o.raw, problem);
	if (r == 0)
		r = fields_query_memory(request_query(q, "bytes"), "bytes", problem,
					&o.memory_bytes);
	if (r == 0)
		r = incoming_new(q->host, &o, problem, &i);
	if (r < 0)
		return r;
	*ret = (struct upload){
		.state = i, .body = import_body, .finish = import_finish, .free = import_free};
	return 0;
}
