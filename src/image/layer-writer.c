/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer-writer.c - writing layer files
 *
 * Everything goes through one buffer of 1 MiB, so that the file is written in few large calls
 * whatever the size of its frames. `offset` is the position in the file of the next byte that is
 * put. Plain frames begin at a multiple of 4096, the gap before them is filled with zero bytes;
 * compressed ones follow each other without gaps.
 */
#include "image/layer-writer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/codec.h"
#include "image/le.h"
#include "image/outcome.h"

#define BUFFER_BYTES (1u << 20)

struct layer_writer {
	int fd;
	uint8_t id[LAYER_ID_BYTES];
	char id_hex[2 * LAYER_ID_BYTES + 1];
	struct codec_encoder *encoder;
	uint64_t offset;
	uint32_t n_frames;
	uint64_t n_pages;
	struct buf index;
	size_t buffered;
	uint8_t *buffer; /* BUFFER_BYTES */
	uint8_t encoded[IMAGE_FRAME_BYTES];
};

struct layer_writer *layer_writer_free(struct layer_writer *w)
{
	if (!w)
		return NULL;
	fd_close(w->fd);
	codec_encoder_free(w->encoder);
	buf_deinit(&w->index);
	free(w->buffer);
	free(w);
	return NULL;
}

static int flush(struct layer_writer *w, struct problem *problem)
{
	int r = fd_write_full(w->fd, w->buffer, w->buffered);

	if (r < 0) {
		problem_errno(problem, r, "layers/%s: writing %zu bytes at offset %llu", w->id_hex,
			      w->buffered, (unsigned long long)(w->offset - w->buffered));
		return error_trace(r);
	}
	w->buffered = 0;
	return 0;
}

/* @data NULL stands for zeros. */
static int put(struct layer_writer *w, const void *data, size_t len, struct problem *problem)
{
	for (size_t done = 0; done < len;) {
		size_t n = MIN(len - done, (size_t)BUFFER_BYTES - w->buffered);
		int r;

		if (data)
			memcpy(w->buffer + w->buffered, (const uint8_t *)data + done, n);
		else
			memset(w->buffer + w->buffered, 0, n);
		w->buffered += n;
		w->offset += n;
		done += n;
		if (w->buffered == BUFFER_BYTES && (r = flush(w, problem)) < 0)
			return r;
	}
	return 0;
}

static int create(struct layer_writer *w, int layers_dirfd, struct problem *problem)
{
	uint8_t header[LAYER_HEADER_BYTES];

	w->fd = openat(layers_dirfd, w->id_hex, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (w->fd < 0) {
		int r = error_errno();

		problem_errno(problem, r, "layers/%s: cannot be created", w->id_hex);
		return r;
	}
	layer_header_encode(w->id, header);
	return put(w, header, sizeof(header), problem);
}

int layer_writer_new(int layers_dirfd, const uint8_t id[LAYER_ID_BYTES],
		     const struct layer_options *options, struct problem *problem,
		     struct layer_writer **ret)
{
	_cleanup_(layer_writer_freep) struct layer_writer *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->fd = -1;
	memcpy(w->id, id, LAYER_ID_BYTES);
	str_hex(id, LAYER_ID_BYTES, w->id_hex);
	w->buffer = malloc(BUFFER_BYTES);
	if (!w->buffer)
		return -ENOMEM;
	r = codec_encoder_new(options->codec, options->level, &w->encoder);
	if (r < 0)
		return error_trace(r);
	r = create(w, layers_dirfd, problem);
	if (r < 0)
		return r;
	*ret = take_ptr(w);
	return 0;
}

static int index_frame(struct layer_writer *w, const struct layer_frame *f)
{
	uint8_t entry[LAYER_ENTRY_BYTES];
	int r;

	layer_entry_encode(f, entry);
	r = buf_append(&w->index, entry, sizeof(entry));
	if (r < 0)
		return error_trace(r);
	w->n_frames++;
	w->n_pages += f->n_pages;
	return 0;
}

int layer_writer_add(struct layer_writer *w, const void *pages, uint32_t n_pages,
		     struct problem *problem)
{
	const size_t plain = n_pages * DORM_PAGE_SIZE;
	size_t len = plain;
	struct layer_frame f;
	int codec, r;

	assert(n_pages >= 1 && n_pages <= IMAGE_FRAME_PAGES);
	if (w->n_frames == LAYER_MAX_FRAMES) {
		problem_set(problem, 500, "layers/%s: more than %u frames", w->id_hex,
			    LAYER_MAX_FRAMES);
		return error_trace(-EFBIG);
	}
	codec = codec_encode(w->encoder, pages, plain, w->encoded, &len);
	if (codec < 0)
		return error_trace(codec);
	if (codec == IMAGE_CODEC_NONE) {
		r = put(w, NULL, (size_t)(-w->offset % DORM_PAGE_SIZE), problem);
		if (r < 0)
			return r;
	} else {
		pages = w->encoded;
	}
	f = (struct layer_frame){
		.offset = w->offset,
		.stored_len = (uint32_t)len,
		.codec = (uint8_t)codec,
		.n_pages = (uint8_t)n_pages,
		.tag = layer_tag(w->id, w->n_frames, pages, len),
	};
	r = put(w, pages, len, problem);
	return r < 0 ? r : index_frame(w, &f);
}

static int put_end(struct layer_writer *w, uint8_t *ret_digest, struct problem *problem)
{
	struct layer_footer footer = {
		.n_frames = w->n_frames,
		.n_pages = w->n_pages,
		.index_offset = w->offset,
		.index_len = w->index.len,
	};
	uint8_t raw[LAYER_FOOTER_BYTES];
	XXH128_canonical_t digest;
	int r;

	XXH128_canonicalFromHash(&digest, XXH3_128bits(w->index.data, w->index.len));
	memcpy(footer.id, w->id, LAYER_ID_BYTES);
	memcpy(footer.digest, digest.digest, DIGEST_BYTES);
	layer_footer_encode(&footer, raw);
	r = put(w, w->index.data, w->index.len, problem);
	if (r < 0)
		return r;
	r = put(w, raw, sizeof(raw), problem);
	if (r < 0)
		return r;
	memcpy(ret_digest, footer.digest, DIGEST_BYTES);
	return 0;
}

int layer_writer_commit(struct layer_writer *w, uint8_t *ret_digest, uint64_t *ret_bytes,
			struct problem *problem)
{
	int r;

	assert(w->n_frames > 0);
	r = put_end(w, ret_digest, problem);
	if (r < 0)
		return r;
	r = flush(w, problem);
	if (r < 0)
		return r;
	r = fchmod(w->fd, 0444) < 0 ? error_errno() : fd_sync(w->fd);
	if (r < 0) {
		problem_errno(problem, r, "layers/%s: fsync", w->id_hex);
		return r;
	}
	*ret_bytes = w->offset;
	return 0;
}
