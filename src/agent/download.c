/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/download.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zlib.h>

#include "agent/condition.h"
#include "agent/file-problem.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define BEGINNING   65536u
#define READ_MAX    ((size_t)128 * 1024)
#define GZIP_MIN    1024u
#define GZIP_MAX    (4u << 20)
#define GZIP_LEVEL  1
#define GZIP_WINDOW (13 + 16) /* 8 KiB, with gzip's header */
#define GZIP_MEMORY 6

/* A file that is being sent. */
struct source {
	int fd;
	const char *path;
	char *beginning; /* its first bytes, of files up to BEGINNING; owned */
	size_t n_beginning;
	bool whole;  /* ... which are all of it */
	bool sized;  /* `size` is its length */
	bool honest; /* and stat(2) knew it: it can be asked for in parts */
	uint64_t size, at;
	struct validators v;
};

struct head {
	struct header list[WORKER_MAX_HEADERS];
	size_t n;
	char length[24], range[64], date[32];
};

/* --- the file -----------------------------------------------------------------------------------
 */

/* Return: bytes; 0: the end, or nothing there now (/proc/kmsg); negative errno */
static ssize_t source_read(struct source *s, char *buf, size_t len)
{
	ssize_t n;

	if (s->at < s->n_beginning) {
		len = MIN(len, s->n_beginning - s->at);
		memcpy(buf, s->beginning + s->at, len);
		s->at += len;
		return (ssize_t)len;
	}
	do
		n = s->honest ? pread(s->fd, buf, len, (off_t)s->at) : read(s->fd, buf, len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	s->at += (uint64_t)n;
	return n;
}

/* Small files, and those that stat(2) does not know, are looked at before anything is promised. */
static int read_beginning(struct source *s, uint64_t told)
{
	char *buf = malloc(BEGINNING);
	size_t len = 0;
	ssize_t n = 1;

	if (!buf)
		return -ENOMEM;
	while (len < BEGINNING && n > 0) {
		n = source_read(s, buf + len, BEGINNING - len);
		len += n > 0 ? (size_t)n : 0;
	}
	s->beginning = buf;
	s->n_beginning = len;
	s->at = 0;
	s->whole = n == 0;
	s->honest = len == told && (s->whole || len == BEGINNING);
	s->sized = s->whole || s->honest;
	s->size = len;
	return n < 0 ? (int)n : 0;
}

static int source_open(struct source *s, const char *path, struct problem *problem)
{
	struct stat st;
	int r = 0;

	*s = (struct source){.path = path};
	s->fd = file_open_regular(path, problem, &st);
	if (s->fd < 0)
		return s->fd;
	if (st.st_size > BEGINNING) {
		s->honest = s->sized = true;
		s->size = (uint64_t)st.st_size;
	} else {
		r = read_beginning(s, (uint64_t)st.st_size);
	}
	if (r < 0)
		return file_problem(problem, r, path);
	if (s->honest) {
		s->v.mtime = st.st_mtim.tv_sec;
		(void)snprintf(s->v.etag, sizeof(s->v.etag),
			       "\"%" PRIx64 "-%" PRIx64 "-%" PRIx64 ".%lx\"", /* always fits */
			       (uint64_t)st.st_ino, s->size, (uint64_t)st.st_mtim.tv_sec,
			       (unsigned long)st.st_mtim.tv_nsec);
	}
	return 0;
}

static void source_close(struct source *s)
{
	fd_close(s->fd);
	free(s->beginning);
}

/* --- the head -----------------------------------------------------------------------------------
 */

static void add(struct head *h, const char *name, const char *value)
{
	h->list[h->n++] = (struct header){name, value};
}

static void add_length(struct head *h, uint64_t n)
{
	(void)snprintf(h->length, sizeof(h->length), "%" PRIu64, n); /* always fits */
	add(h, "content-length", h->length);
}

/* What every answer about the file has, also 304. */
static void head_begin(struct head *h, const struct source *s)
{
	h->n = 0;
	add(h, "vary", "Accept-Encoding");
	if (s->honest) {
		add(h, "accept-ranges", "bytes");
		add(h, "etag", s->v.etag);
		add(h, "last-modified", condition_date(s->v.mtime, h->date));
	}
}

static void head_content(struct head *h)
{
	add(h, "content-type", "application/octet-stream");
	add(h, "content-disposition", "inline");
}

/* --- the body -----------------------------------------------------------------------------------
 */

/* Return: 0; -ECANCELED; negative errno; -ENODATA when it ended before @len */
static int send_bytes(struct worker *w, struct source *s, uint64_t len)
{
	while (len) {
		char *room;
		ssize_t n = worker_space(w, &room);

		if (n < 0)
			return (int)n;
		n = source_read(s, room, MIN(MIN((size_t)n, READ_MAX), len));
		if (n < 0)
			return (int)n;
		if (n == 0)
			return len == UINT64_MAX ? 0 : -ENODATA;
		worker_produce(w, (size_t)n);
		if (len != UINT64_MAX)
			len -= (uint64_t)n;
	}
	return 0;
}

/* Deflate what @z has as input into the ring. Return: 0; 1 at the stream's end; -ECANCELED */
static int send_deflated(struct worker *w, z_stream *z, int flush)
{
	int r = Z_OK;

	do {
		char *room;
		ssize_t n = worker_space(w, &room);

		if (n < 0)
			return (int)n;
		z->next_out = (Bytef *)room;
		z->avail_out = (uInt)n;
		r = deflate(z, flush);
		worker_produce(w, (size_t)n - z->avail_out);
	} while (r != Z_STREAM_END && z->avail_out == 0);
	return r == Z_STREAM_END;
}

static int send_gzip(struct worker *w, struct source *s)
{
	_cleanup_free_ char *buf = malloc(BEGINNING);
	z_stream z = {0};
	ssize_t n = 1;
	int r = 0;

	if (!buf || deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY,
				 Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	while (r == 0) {
		n = source_read(s, buf, BEGINNING);
		if (n < 0) {
			r = (int)n;
			break;
		}
		z.next_in = (Bytef *)buf;
		z.avail_in = (uInt)n;
		r = send_deflated(w, &z, n ? Z_NO_FLUSH : Z_FINISH);
	}
	(void)deflateEnd(&z); /* says only that it had not ended */
	return r > 0 ? 0 : r;
}

/* Does the beginning shrink by a quarter? */
static bool shrinks(const struct source *s, const char *data, size_t len)
{
	z_stream z = {0};
	char out[4096];
	size_t sum = 0;
	int r;

	if (deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return false;
	z.next_in = (Bytef *)data;
	z.avail_in = (uInt)len;
	do {
		z.next_out = (Bytef *)out;
		z.avail_out = sizeof(out);
		r = deflate(&z, Z_FINISH);
		sum += sizeof(out) - z.avail_out;
	} while (r == Z_OK);
	(void)deflateEnd(&z);
	return sum < len - len / 4;
}

static bool is_worth_gzip(const struct source *s)
{
	char sample[16384];
	const char *data = s->beginning ? s->beginning : sample;
	ssize_t n;

	if (!s->sized || s->size < GZIP_MIN || s->size > GZIP_MAX)
		return false;
	n = s->beginning ? (ssize_t)MIN(s->n_beginning, sizeof(sample))
			 : pread(s->fd, sample, sizeof(sample), 0);
	return n > 0 && shrinks(s, data, (size_t)n);
}

/* --- the answer ---------------------------------------------------------------------------------
 */

static int respond_gzip(struct worker *w, struct source *s, struct head *h)
{
	char etag[sizeof(s->v.etag) + 2];
	int r;

	for (size_t i = 0; i < h->n; i++) {
		if (!strcmp(h->list[i].name, "etag")) { /* not the same bytes each time */
			(void)snprintf(etag, sizeof(etag), "W/%s", s->v.etag); /* always fits */
			h->list[i].value = etag;
		}
	}
	add(h, "content-encoding", "gzip");
	r = worker_respond(w, 200, h->list, h->n);
	return r < 0 ? r : send_gzip(w, s);
}

static int respond_range(struct worker *w, struct source *s, const struct range *part,
			 struct head *h)
{
	int r;

	(void)snprintf(h->range, sizeof(h->range), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64,
		       part->first, part->first + part->len - 1, s->size); /* always fits */
	add(h, "content-range", h->range);
	add_length(h, part->len);
	r = worker_respond(w, 206, h->list, h->n);
	s->at = part->first;
	return r < 0 ? r : send_bytes(w, s, part->len);
}

static int respond_whole(struct worker *w, struct source *s, struct head *h)
{
	int r;

	if (s->sized)
		add_length(h, s->size);
	r = worker_respond(w, 200, h->list, h->n);
	return r < 0 ? r : send_bytes(w, s, s->sized ? s->size : UINT64_MAX);
}

static int respond_outside(struct worker *w, const struct source *s, struct head *h)
{
	(void)snprintf(h->range, sizeof(h->range), "bytes */%" PRIu64, s->size); /* always fits */
	add(h, "content-range", h->range);
	add_length(h, 0);
	return worker_respond(w, 416, h->list, h->n);
}

/* Return: 0: all of the answer is in the ring; negative errno, with or without @problem */
static int download(struct worker *w, const struct download *d, struct source *s,
		    struct problem *problem)
{
	struct encodings e = condition_encodings(d->accept_encoding);
	enum range_kind kind = RANGE_WHOLE;
	struct range part = {0};
	struct head h;

	head_begin(&h, s);
	if (!e.identity && !e.gzip) {
		problem_set(problem, 406, "Accept-Encoding allows neither identity nor gzip");
		return -EINVAL;
	}
	if (condition_not_modified(&s->v, d->if_none_match, d->if_modified_since))
		return worker_respond(w, 304, h.list, h.n);
	if (s->honest && condition_range_holds(&s->v, d->if_range))
		kind = condition_range(d->range, s->size, &part);
	if (kind == RANGE_OUTSIDE)
		return respond_outside(w, s, &h);
	head_content(&h);
	if (kind == RANGE_PART)
		return respond_range(w, s, &part, &h);
	if (!e.identity || (e.gzip && !d->range && is_worth_gzip(s)))
		return respond_gzip(w, s, &h);
	return respond_whole(w, s, &h);
}

void download_run(struct worker *w, void *arg)
{
	const struct download *d = arg;
	struct problem problem = PROBLEM_INIT;
	struct source s;
	int r = source_open(&s, d->path, &problem);

	if (r == 0)
		r = download(w, d, &s, &problem);
	source_close(&s);
	if (r == 0) {
		worker_end(w);
	} else {
		(void)file_problem(&problem, r, d->path); /* unless it was described */
		worker_fail(w, &problem);
	}
}

/* Return: true when it was absent, or copied */
static bool copy(const struct request *rq, const char *name, char **ret)
{
	const char *value = request_header(rq, name);

	*ret = value ? strdup(value) : NULL;
	return !value || *ret;
}

struct download *download_new(const struct request *rq, char *path)
{
	struct download *d = calloc(1, sizeof(*d));

	if (!d) {
		free(path);
		return NULL;
	}
	d->path = path;
	if (!copy(rq, "range", &d->range) || !copy(rq, "if-range", &d->if_range) ||
	    !copy(rq, "if-none-match", &d->if_none_match) ||
	    !copy(rq, "if-modified-since", &d->if_modified_since) ||
	    !copy(rq, "accept-encoding", &d->accept_encoding)) {
		download_free(d);
		return NULL;
	}
	return d;
}

void download_free(void *download)
{
	struct download *d = download;

	free(d->path);
	free(d->range);
	free(d->if_range);
	free(d->if_none_match);
	free(d->if_modified_since);
	free(d->accept_encoding);
	free(d);
}
