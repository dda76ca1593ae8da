/* SPDX-License-Identifier: Apache-2.0 */
/*
 *     worker_peek --> [gunzip] --> [multipart] --> upload_write
 *
 * Each step hands on what it has where it lies. The files are finished one by one as their parts
 * end, and committed in that order when the body has ended well.
 */
#include "agent/receive.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "agent/caller.h"
#include "agent/file-problem.h"
#include "agent/gzip.h"
#include "agent/metadata.h"
#include "agent/multipart.h"
#include "agent/upload.h"
#include "base/error.h"
#include "base/str.h"
#include "base/utf8.h"

struct receive {
	struct user user;
	char *path;	  /* NULL: the parts say */
	json_t *metadata; /* NULL: none */
	int mode;	  /* -1: as usual */
	bool is_gzip, is_multipart;
	struct gunzip gunzip;
	struct multipart multipart;
	struct upload *files;
	size_t n, cap;
	bool in_part; /* a part that is a file: the last of `files` */
	struct problem problem;
};

static int refuse(struct problem *p, const char *text)
{
	problem_set(p, 400, "%s", text);
	return -EINVAL;
}

/* --- the body -----------------------------------------------------------------------------------
 */

static int file_begin(struct receive *v, const char *path)
{
	if (v->n == RECEIVE_MAX_FILES) {
		problem_set(&v->problem, 400, "more than %u files in one request",
			    RECEIVE_MAX_FILES);
		return -E2BIG;
	}
	if (mem_grow(&v->files, &v->cap, v->n, sizeof(*v->files)) < 0)
		return -ENOMEM;
	v->files[v->n] = UPLOAD_INIT;
	return upload_open(&v->files[v->n++], path, &v->user, &v->problem);
}

static int file_data(struct receive *v, const void *data, size_t len)
{
	return upload_write(&v->files[v->n - 1], data, len, &v->problem);
}

static int file_end(struct receive *v)
{
	struct upload *last = &v->files[v->n - 1];
	_cleanup_free_ char *shown = NULL;

	for (size_t i = 0; i + 1 < v->n; i++) {
		if (strcmp(v->files[i].target, last->target) != 0)
			continue;
		shown = utf8_from(last->path);
		problem_set(&v->problem, 400, "path '%.300s' is there twice in one request",
			    shown ? shown : "?");
		return -EEXIST;
	}
	return upload_finish(last, v->metadata, v->mode, &v->problem);
}

static int part_begin(void *userdata, const char *name, const char *filename)
{
	struct receive *v = userdata;
	_cleanup_free_ char *path = NULL;

	v->in_part = name && !strcmp(name, "file");
	if (!v->in_part)
		return 0;
	if (v->path)
		return file_begin(v, v->path);
	if (!filename || !filename[0])
		return refuse(&v->problem, "a part named 'file' has no filename, and there is no "
					   "query parameter 'path'");
	path = caller_path(NULL, &v->user, filename);
	return path ? file_begin(v, path) : -ENOMEM;
}

static int part_data(void *userdata, const void *data, size_t len)
{
	struct receive *v = userdata;

	return v->in_part ? file_data(v, data, len) : 0;
}

static int part_end(void *userdata)
{
	struct receive *v = userdata;

	return v->in_part ? file_end(v) : 0;
}

static const struct multipart_ops part_ops = {part_begin, part_data, part_end};

static int multipart_problem(struct receive *v, int r)
{
	if (r == -EBADMSG)
		problem_set(&v->problem, 400, "the body is not multipart/form-data: %s",
			    v->multipart.error);
	return r;
}

/* What has no encoding any more. */
static int take(void *userdata, const char *data, size_t len)
{
	struct receive *v = userdata;

	if (!v->is_multipart)
		return file_data(v, data, len);
	return multipart_problem(v, multipart_feed(&v->multipart, data, len));
}

static int gzip_problem(struct receive *v, int r)
{
	if (r == -EBADMSG && !problem_is_set(&v->problem))
		problem_set(&v->problem, 400, "the body is not gzip, or is damaged or cut");
	return r;
}

static int take_all(struct receive *v, struct worker *w)
{
	const char *data;
	ssize_t n;
	int r = 0;

	while (r == 0 && (n = worker_peek(w, &data)) != 0) {
		if (n < 0)
			return (int)n;
		if (v->is_gzip)
			r = gzip_problem(v, gunzip_feed(&v->gunzip, data, (size_t)n, take, v));
		else
			r = take(v, data, (size_t)n);
		worker_consume(w, (size_t)n);
	}
	if (r == 0 && v->is_gzip)
		r = gzip_problem(v, gunzip_finish(&v->gunzip));
	if (r == 0 && v->is_multipart)
		r = multipart_problem(v, multipart_finish(&v->multipart));
	return r;
}

/* --- the whole ----------------------------------------------------------------------------------
 */

static int receive(struct receive *v, struct worker *w)
{
	int r = v->is_multipart ? 0 : file_begin(v, v->path);

	if (r == 0)
		r = take_all(v, w);
	if (r == 0 && !v->is_multipart)
		r = file_end(v);
	if (r == 0 && v->n == 0)
		r = refuse(&v->problem, "the body has no part named 'file'");
	for (size_t i = 0; r == 0 && i < v->n; i++)
		r = upload_commit(&v->files[i], &v->problem);
	return r;
}

json_t *receive_entry(const char *path, json_t *metadata)
{
	json_t *o = json_pack("{s:o, s:o, s:s}", "path", request_text(path), "name",
			      request_text(strrchr(path, '/') + 1), "type", "file");

	if (o && metadata && json_object_set(o, "metadata", metadata) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static void reply(const struct receive *v, struct worker *w)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < v->n; i++) {
		if (json_array_append_new(list, receive_entry(v->files[i].path, v->metadata)) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	if (list)
		worker_reply_json(w, 200, list);
}

void receive_run(struct worker *w, void *arg)
{
	struct receive *v = arg;
	int r = receive(v, w);

	if (r == 0) {
		reply(v, w);
		return;
	}
	/* first take back, then tell: who hears of it finds nothing left */
	while (v->n)
		upload_deinit(&v->files[--v->n]);
	(void)file_problem(&v->problem, r, v->path ? v->path : ""); /* unless it was described */
	worker_fail(w, &v->problem);
}

/* --- the head -----------------------------------------------------------------------------------
 */

static bool is_type(const char *content_type, const char *type)
{
	size_t n = strlen(type);

	return content_type && !strncasecmp(content_type, type, n) &&
	       (!content_type[n] || strchr("; \t", content_type[n]));
}

static int read_encoding(struct receive *v, const char *encoding, struct problem *problem)
{
	if (!encoding || !strcasecmp(encoding, "identity") || !encoding[0])
		return 0;
	if (strcasecmp(encoding, "gzip") != 0 && strcasecmp(encoding, "x-gzip") != 0) {
		problem_set(problem, 400,
			    "Content-Encoding is '%.40s', but must be gzip or identity", encoding);
		return -EINVAL;
	}
	v->is_gzip = true;
	return gunzip_init(&v->gunzip);
}

static int read_type(struct receive *v, const char *type, struct problem *problem)
{
	int r = 0;

	if (is_type(type, "multipart/form-data")) {
		v->is_multipart = true;
		r = multipart_init(&v->multipart, type, &part_ops, v);
		if (r < 0)
			problem_set(problem, 400, "the body is not multipart/form-data: %s",
				    r == -EBADMSG ? v->multipart.error : "out of memory");
		return r;
	}
	if (!is_type(type, "application/octet-stream")) {
		problem_set(problem, 400,
			    "Content-Type is '%.60s', but must be multipart/form-data or "
			    "application/octet-stream",
			    type ? type : "");
		return -EINVAL;
	}
	return v->path ? 0
		       : refuse(problem, "an application/octet-stream needs the query parameter "
					 "'path'");
}

/* Not of the SDK: `mode=0755`, for those who copy files. */
static int read_mode(struct receive *v, const struct request *rq, struct problem *problem)
{
	_cleanup_free_ char *text = request_query(rq, "mode");
	char *end;
	unsigned long mode;

	v->mode = -1;
	if (!text)
		return 0;
	mode = strtoul(text, &end, 8);
	if (text[0] < '0' || text[0] > '7' || *end || mode > 0777)
		return refuse(problem, "the query parameter 'mode' must be permissions in octal, "
				       "at most 0777");
	v->mode = (int)mode;
	return 0;
}

int receive_new(const struct request *rq, char *path, const struct user *user,
		struct problem *problem, struct receive **ret)
{
	struct receive *v = calloc(1, sizeof(*v));
	int r;

	if (!v) {
		free(path);
		return -ENOMEM;
	}
	v->path = path;
	v->user = *user;
	r = read_type(v, request_header(rq, "content-type"), problem);
	if (r == 0)
		r = read_encoding(v, request_header(rq, "content-encoding"), problem);
	if (r == 0)
		r = metadata_from_headers(server_stream_headers(rq->stream), problem, &v->metadata);
	if (r == 0)
		r = read_mode(v, rq, problem);
	if (r < 0) {
		receive_free(v);
		return error_trace(r);
	}
	*ret = v;
	return 0;
}

void receive_free(void *receive)
{
	struct receive *v = receive;

	while (v->n)
		upload_deinit(&v->files[--v->n]);
	free(v->files);
	if (v->is_gzip)
		gunzip_deinit(&v->gunzip);
	multipart_deinit(&v->multipart);
	json_decref(v->metadata);
	free(v->path);
	free(v);
}
