/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/snapshot-transfer.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "image/raw-memory.h"
#include "image/transfer.h"
#include "sandbox/private.h"

/* ---- out --------------------------------------------------------------------------------------
 */

struct outgoing {
	struct exporter *exporter; /* one of these two */
	struct raw_exporter *raw;
};

struct outgoing *outgoing_free(struct outgoing *o)
{
	if (!o)
		return NULL;
	exporter_free(o->exporter);
	raw_exporter_free(o->raw);
	free(o);
	return NULL;
}

static bool is_layer_id(const char *s)
{
	return strlen(s) == IMAGE_ID_LEN && strspn(s, "0123456789abcdef") == IMAGE_ID_LEN;
}

/* Split "ID,ID" in place. */
static int parse_skip(char *text, const char **ids, size_t *ret_n, struct problem *problem)
{
	char *save = NULL;
	size_t n = 0;

	for (char *id = strtok_r(text, ",", &save); id; id = strtok_r(NULL, ",", &save)) {
		if (n == TRANSFER_MAX_SKIP) {
			problem_set(problem, 400, "skip: more than %d layers", TRANSFER_MAX_SKIP);
			return -E2BIG;
		}
		if (!is_layer_id(id)) {
			problem_set(problem, 400, "skip: '%.64s' is not the id of a layer", id);
			problem_hint(problem, "`dorm snapshot layers` on the receiving host");
			return -EINVAL;
		}
		ids[n++] = id;
	}
	*ret_n = n;
	return 0;
}

/* Outcomes of the image library that are an error to everybody here. */
static int as_errno(int r, struct problem *problem)
{
	if (r <= 0)
		return r;
	if (r == IMAGE_E_KEY)
		problem_set(problem, 403, "no key that this host has fits");
	return r == IMAGE_E_KEY ? -EACCES : -EBADMSG;
}

static int open_end(struct host *host, int dirfd, bool raw, const struct export_options *options,
		    struct problem *problem, struct outgoing *o)
{
	int r = raw ? raw_exporter_new(dirfd, host->keys, problem, &o->raw)
		    : exporter_new(dirfd, options, problem, &o->exporter);

	return as_errno(r, problem);
}

static int open_outgoing(struct host *host, const char *id_or_name, bool raw,
			 const struct export_options *options, struct problem *problem,
			 struct outgoing *o)
{
	char id[ID_LEN + 1];

	for (int i = 1;; i++) {
		_cleanup_fd_ int fd = snapshot_open_dir(host, id_or_name, problem, id);
		struct problem p = PROBLEM_INIT;
		int r;

		if (fd < 0)
			return fd;
		r = open_end(host, fd, raw, options, &p, o);
		if (r < 0 && i < SNAPSHOT_TRIES && snapshot_was_replaced(host, id, fd))
			continue;
		if (r < 0) {
			problem_errno(&p, r, "exporting snapshot %s", id);
			problem_pass(problem, &p);
		}
		return error_trace(r);
	}
}

int outgoing_new(struct host *host, const char *id_or_name, bool raw, const char *skip,
		 struct problem *problem, struct outgoing **ret)
{
	_cleanup_(outgoing_freep) struct outgoing *o = calloc(1, sizeof(*o));
	_cleanup_free_ const char **ids = calloc(TRANSFER_MAX_SKIP, sizeof(*ids));
	_cleanup_free_ char *text = strdup(skip ? skip : "");
	struct export_options options = {.skip = ids};
	int r;

	if (!o || !ids || !text)
		return -ENOMEM;
	if (raw && skip) {
		problem_set(problem, 400, "skip: a raw memory has no layers to leave out");
		return -EINVAL;
	}
	r = parse_skip(text, ids, &options.n_skip, problem);
	if (r == 0)
		r = open_outgoing(host, id_or_name, raw, &options, problem, o);
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(o);
	return 0;
}

bool outgoing_bytes(const struct outgoing *o, uint64_t *ret)
{
	if (!o->exporter)
		return false;
	*ret = exporter_bytes(o->exporter);
	return true;
}

ssize_t outgoing_read(struct outgoing *o, void *buf, size_t len, struct problem *problem)
{
	if (o->exporter)
		return exporter_read(o->exporter, buf, len, problem);
	return raw_exporter_read(o->raw, buf, len, problem);
}

/* ---- in ---------------------------------------------------------------------------------------
 */

struct incoming {
	struct host *host;
	struct importer *importer; /* one of these two */
	struct raw_importer *raw;
	char name[64];
};

struct incoming *incoming_free(struct incoming *i)
{
	if (!i)
		return NULL;
	importer_free(i->importer);
	raw_importer_free(i->raw);
	free(i);
	return NULL;
}

/* Of a stream everything is an error; which one decides what the sender is told. */
static int stream_errno(int r, struct problem *problem)
{
	switch (r) {
	case TRANSFER_E_STREAM:
		problem_set(problem, 400, "the stream is damaged or ends too early");
		return -EPROTO;
	case TRANSFER_E_MISSING:
		problem_set(problem, 409,
			    "the stream leaves out layers that this host has not got");
		problem_hint(problem, "export it again, skipping only what `dorm snapshot layers` "
				      "prints on this host");
		return -ENODATA;
	case TRANSFER_E_EXISTS:
		problem_set(problem, 409, "the snapshot is here already");
		return -EEXIST;
	case IMAGE_E_CORRUPT:
	case IMAGE_E_VERSION:
		problem_set(problem, 400, "the stream does not hold a snapshot that can be read");
		return -EPROTO;
	default:
		return as_errno(r, problem);
	}
}

/* Whatever status was set close to the cause, a bad stream is the sender's affair. */
static int judge(int r, struct problem *problem)
{
	int e = stream_errno(r, problem);

	if (e == -EPROTO && problem)
		problem->status = 400;
	else if ((e == -EEXIST || e == -ENODATA) && r > 0 && problem)
		problem->status = 409;
	return error_trace(e);
}

static int begin_raw(struct host *host, const struct incoming_options *options,
		     struct problem *problem, struct incoming *i)
{
	char parent[ID_LEN + 1];
	struct raw_import_options o = {.codec = host->sleep_options.codec,
				       .level = host->sleep_options.level,
				       .keys = host->keys,
				       .name = i->name[0] ? i->name : NULL,
				       .memory_bytes = options->memory_bytes};
	int r = 0;

	if (options->parent) {
		r = snapshot_resolve(host, options->parent, problem, parent);
		o.parent_id = parent;
	}
	if (r == 0)
		r = as_errno(raw_importer_new(host->store, &o, problem, &i->raw), problem);
	return error_trace(r);
}

int incoming_new(struct host *host, const struct incoming_options *options, struct problem *problem,
		 struct incoming **ret)
{
	_cleanup_(incoming_freep) struct incoming *i = calloc(1, sizeof(*i));
	const struct import_options o = {.keys = host->keys};
	int r;

	if (!i)
		return -ENOMEM;
	i->host = host;
	if (options->name && !str_is_name(options->name)) {
		problem_set(problem, 400, "name: '%.64s' is not a name", options->name);
		problem_hint(problem, "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
		return -EINVAL;
	}
	str_copy(i->name, sizeof(i->name), options->name ? options->name : "");
	if (options->parent && !options->raw) {
		problem_set(problem, 400, "parent: only a raw memory is a difference to another");
		return -EINVAL;
	}
	if (options->memory_bytes && !options->raw) {
		problem_set(problem, 400, "bytes: only a raw memory is announced by its size");
		return -EINVAL;
	}
	r = options->raw ? begin_raw(host, options, problem, i)
			 : as_errno(importer_new(host->store, &o, problem, &i->importer), problem);
	if (r < 0) {
		problem_errno(problem, r, "beginning an import");
		return error_trace(r);
	}
	*ret = take_ptr(i);
	return 0;
}

int incoming_write(struct incoming *i, const void *data, size_t len, struct problem *problem)
{
	int r = i->importer ? importer_write(i->importer, data, len, problem)
			    : raw_importer_write(i->raw, data, len, problem);

	return judge(r, problem);
}

static int finish(struct incoming *i, struct problem *problem, char ret_id[ID_LEN + 1],
		  json_t **ret)
{
	struct image_writer_stats raw = {0};
	struct import_stats s = {0};
	int r;

	if (i->raw) {
		r = raw_importer_finish(i->raw, problem, ret_id, &raw);
		if (r == 0)
			*ret = json_pack("{s:s, s:I, s:I}", "snapshotID", ret_id, "pagesStored",
					 (json_int_t)raw.pages_stored, "bytesStored",
					 (json_int_t)raw.bytes_stored);
		return judge(r, problem);
	}
	r = importer_finish(i->importer, problem, &s);
	if (r == 0) {
		memcpy(ret_id, s.id, sizeof(s.id));
		*ret = json_pack("{s:s, s:i, s:i, s:I}", "snapshotID", s.id, "layersReceived",
				 (int)s.layers_received, "layersPresent", (int)s.layers_present,
				 "bytesReceived", (json_int_t)s.bytes_received);
	}
	return judge(r, problem);
}

int incoming_finish(struct incoming *i, struct problem *problem, json_t **ret)
{
	char id[ID_LEN + 1];
	json_t *o = NULL;
	int r = finish(i, problem, id, &o);

	if (r == 0 && i->name[0]) {
		r = store_template_set(i->host->store, i->name, id);
		if (r < 0) /* it stays: it may have taken hours to come here */
			problem_errno(problem, r, "snapshot %s was imported, but naming it '%s'",
				      id, i->name);
		pool_recheck(i->host->pool);
	}
	if (r == 0 && !o)
		r = -ENOMEM;
	if (r < 0) {
		json_decref(o);
		problem_errno(problem, r, "importing a snapshot");
		return error_trace(r);
	}
	*ret = o;
	return 0;
}
