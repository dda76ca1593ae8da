/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading goes a chunk at a time: a run of the file that is data, cut at CHUNK bytes; out of it,
 * the next extent. Neighbouring extents are not joined, the receiver does not care. So the length
 * of an extent is known before its bytes are sent, also when the file is a pipe.
 *
 * With a block size below the page size a region of data may begin or end inside a page. Regions
 * are rounded outwards: the rest of such a page is then taken from the file, where it reads as
 * zeros.
 */
#include "cli/raw-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define CHUNK (256u << 10)

struct raw_reader {
	int fd;
	const char *name;
	bool diff, regular, ended;
	uint64_t size;	 /* of a regular file */
	uint64_t offset; /* of what is read next */
	uint64_t end;	 /* of the region of data that it is in */
	uint64_t data_bytes;

	uint64_t chunk_at; /* where the chunk belongs */
	size_t chunk_len, chunk_pos;
	unsigned char head[EXTENTS_HEAD];
	size_t head_left; /* bytes of the head to hand out */
	size_t body_left; /* and then of the chunk, from chunk_pos */
	unsigned char chunk[CHUNK];
};

struct raw_reader *raw_reader_free(struct raw_reader *x)
{
	free(x);
	return NULL;
}

static int bad_size(const char *name, uint64_t size, struct problem *problem)
{
	if (!size)
		problem_set(problem, 400, "%s is empty: no memory is", name);
	else if (size > EXTENTS_MAX)
		problem_set(problem, 400, "%s has more than 4 TiB: no memory has", name);
	else
		problem_set(problem, 400,
			    "%s has %" PRIu64
			    " bytes, which is not a multiple of %lu: no memory of a "
			    "guest, or not all of it",
			    name, size, DORM_PAGE_SIZE);
	return error_trace(-EINVAL);
}

static bool is_size(uint64_t size)
{
	return size && size <= EXTENTS_MAX && size % DORM_PAGE_SIZE == 0;
}

int raw_reader_new(int fd, const char *name, bool diff, struct problem *problem,
		   struct raw_reader **ret)
{
	struct raw_reader *x;
	struct stat st;

	if (fstat(fd, &st) < 0) {
		problem_errno(problem, -errno, "%s", name);
		return error_errno();
	}
	if (diff && !S_ISREG(st.st_mode)) {
		problem_set(problem, 400, "%s is no regular file, and only that has holes", name);
		problem_hint(problem,
			     "copy the diff to a file in a way that keeps its holes: cp does, "
			     "cat and pipes do not");
		return error_trace(-EINVAL);
	}
	if (S_ISDIR(st.st_mode)) {
		problem_set(problem, 400, "%s is a directory", name);
		return error_trace(-EINVAL);
	}
	if (S_ISREG(st.st_mode) && !is_size((uint64_t)st.st_size))
		return bad_size(name, (uint64_t)st.st_size, problem);
	x = malloc(sizeof(*x));
	if (!x) {
		problem_set(problem, 500, "out of memory");
		return error_trace(-ENOMEM);
	}
	memset(x, 0, offsetof(struct raw_reader, chunk));
	x->fd = fd;
	x->name = name;
	x->diff = diff;
	x->regular = S_ISREG(st.st_mode);
	x->size = x->regular ? (uint64_t)st.st_size : 0;
	*ret = x;
	return 0;
}

uint64_t raw_reader_bytes(const struct raw_reader *x)
{
	return x->regular ? x->size : 0;
}

bool raw_reader_is_dense(const struct raw_reader *x)
{
	return x->data_bytes == x->size;
}

/* ---- chunks ------------------------------------------------------------------------------------
 */

/* Finds the next region of data. Return: 0, with x->end = x->offset at the end of the file */
static int next_region(struct raw_reader *x)
{
	off_t from = lseek(x->fd, (off_t)x->offset, SEEK_DATA), to;

	if (from < 0 && errno == ENXIO)
		from = (off_t)x->size;
	if (from < 0)
		return error_errno();
	to = (uint64_t)from < x->size ? lseek(x->fd, from, SEEK_HOLE) : from;
	if (to < 0)
		return error_errno();
	/* the file may be growing: its size was settled at the beginning */
	from = (off_t)MIN((uint64_t)from, x->size);
	to = (off_t)MIN((uint64_t)to, x->size);
	x->offset = (uint64_t)from & ~(DORM_PAGE_SIZE - 1);
	x->end = ((uint64_t)to + DORM_PAGE_SIZE - 1) & ~(DORM_PAGE_SIZE - 1);
	x->data_bytes += x->end - x->offset;
	return 0;
}

static int fill_from_file(struct raw_reader *x, struct problem *problem)
{
	int r = x->offset == x->end ? next_region(x) : 0;

	x->chunk_len = (size_t)MIN(x->end - x->offset, (uint64_t)CHUNK);
	if (!r && x->chunk_len)
		r = fd_pread_full(x->fd, x->chunk, x->chunk_len, x->offset);
	if (r == -ENODATA)
		problem_set(problem, 409, "%s became shorter while it was read", x->name);
	if (r < 0)
		problem_errno(problem, r, "cannot read %s", x->name);
	return error_trace(r);
}

/* Reads until the chunk is full or the pipe has ended. */
static int fill_from_pipe(struct raw_reader *x, struct problem *problem)
{
	for (x->chunk_len = 0; x->chunk_len < CHUNK;) {
		ssize_t n = read(x->fd, x->chunk + x->chunk_len, CHUNK - x->chunk_len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			problem_errno(problem, -errno, "cannot read %s", x->name);
			return error_errno();
		}
		if (n == 0)
			break;
		x->chunk_len += (size_t)n;
	}
	x->size = x->offset + x->chunk_len;
	if (x->chunk_len < CHUNK && !is_size(x->size))
		return bad_size(x->name, x->size, problem);
	return x->size > EXTENTS_MAX ? bad_size(x->name, x->size, problem) : 0;
}

static int fill(struct raw_reader *x, struct problem *problem)
{
	int r = x->regular ? fill_from_file(x, problem) : fill_from_pipe(x, problem);

	x->chunk_at = x->offset;
	x->chunk_pos = 0;
	x->offset += x->chunk_len;
	return r;
}

/* ---- extents -----------------------------------------------------------------------------------
 */

static bool is_zero_page(const unsigned char *page)
{
	return !*page && !memcmp(page, page + 1, DORM_PAGE_SIZE - 1);
}

/* The next run in the chunk that is sent: [chunk_pos, chunk_pos + result) */
static size_t next_run(struct raw_reader *x)
{
	size_t end;

	if (x->diff)
		return x->chunk_len - x->chunk_pos;
	while (x->chunk_pos < x->chunk_len && is_zero_page(x->chunk + x->chunk_pos))
		x->chunk_pos += DORM_PAGE_SIZE;
	for (end = x->chunk_pos; end < x->chunk_len && !is_zero_page(x->chunk + end);)
		end += DORM_PAGE_SIZE;
	return end - x->chunk_pos;
}

/* A file that was cut while we read it looks as if the rest were a hole. */
static int check_whole(const struct raw_reader *x, struct problem *problem)
{
	struct stat st;

	if (!x->regular || (!fstat(x->fd, &st) && (uint64_t)st.st_size >= x->size))
		return 0;
	problem_set(problem, 409, "%s became shorter while it was read", x->name);
	return error_trace(-ENODATA);
}

static int next_extent(struct raw_reader *x, struct problem *problem)
{
	int r;

	while (!(x->body_left = next_run(x))) {
		r = fill(x, problem);
		if (r < 0)
			return r;
		if (!x->chunk_len) {
			extents_head(x->size, 0, x->head);
			x->head_left = EXTENTS_HEAD;
			x->ended = true;
			return check_whole(x, problem);
		}
	}
	extents_head(x->chunk_at + x->chunk_pos, x->body_left, x->head);
	x->head_left = EXTENTS_HEAD;
	return 0;
}

ssize_t raw_reader_read(struct raw_reader *x, void *buf, size_t len, struct problem *problem)
{
	size_t n;
	int r;

	if (!x->head_left && !x->body_left) {
		if (x->ended)
			return 0;
		r = next_extent(x, problem);
		if (r < 0)
			return error_trace(r);
	}
	if (x->head_left) {
		n = MIN(x->head_left, len);
		memcpy(buf, x->head + EXTENTS_HEAD - x->head_left, n);
		x->head_left -= n;
	} else {
		n = MIN(x->body_left, len);
		memcpy(buf, x->chunk + x->chunk_pos, n);
		x->chunk_pos += n;
		x->body_left -= n;
	}
	return (ssize_t)n;
}

/* ---- extents to a file -------------------------------------------------------------------------
 */

static int put_zeros(struct raw_writer *w, uint64_t until)
{
	static const unsigned char zeros[64 << 10];
	int r = 0;

	while (!r && w->position < until) {
		size_t n = (size_t)MIN(until - w->position, (uint64_t)sizeof(zeros));

		r = fd_write_full(w->fd, zeros, n);
		w->position += n;
	}
	return r;
}

static int put_at(int fd, const void *data, size_t len, uint64_t offset)
{
	for (size_t done = 0; done < len;) {
		ssize_t n =
			pwrite(fd, (const char *)data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno != EINTR)
			return error_errno();
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int on_extent(void *userdata, uint64_t offset, const void *data, size_t len)
{
	struct raw_writer *w = userdata;
	int r = w->sparse ? put_at(w->fd, data, len, offset) : put_zeros(w, offset);

	if (!r && !w->sparse)
		r = fd_write_full(w->fd, data, len);
	w->position = offset + len;
	if (r < 0)
		problem_errno(w->problem, r, "cannot write %s", w->name);
	return error_trace(r);
}

int raw_writer_write(struct raw_writer *w, const void *data, size_t len, struct problem *problem)
{
	w->problem = problem;
	return extents_parse(&w->parser, data, len, on_extent, w, problem);
}

int raw_writer_finish(struct raw_writer *w, struct problem *problem)
{
	int r = extents_finish(&w->parser, problem);

	if (r < 0)
		return error_trace(r);
	if (!w->sparse)
		r = put_zeros(w, w->parser.size);
	else if (ftruncate(w->fd, (off_t)w->parser.size) < 0)
		r = error_errno();
	if (r < 0)
		problem_errno(problem, r, "cannot write %s", w->name);
	return error_trace(r);
}
