/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer-writer.c - writing layer files
 *
 * Everything goes through write-behind.h, so that the file is written in few large calls whatever
 * the size of its frames, and compression does not wait for the disk. `offset` is the position in
 * the file of the next byte that is put. Plain frames begin at a multiple of 4096, the gap before
 * them is filled with zero bytes; compressed ones follow each other without gaps.
 *
 * In a sealed layer a frame is compressed, then encrypted, then tagged: the checksum in the index
 * is of what is in the file, so that damage can be found without the key. The nonce is the number
 * of the frame, which is safe because no other layer has the same key and no frame is written
 * twice.
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
#include "image/aead.h"
#include "image/codec.h"
#include "image/le.h"
#include "image/outcome.h"
#include "image/write-behind.h"

struct layer_writer {
	int fd;
	uint8_t id[LAYER_ID_BYTES];
	char id_hex[2 * LAYER_ID_BYTES + 1];
	struct codec_encoder *encoder;
	uint64_t offset;
	uint32_t n_frames;
	uint64_t n_pages;
	struct buf index;
	struct write_behind *out;
	enum layer_seal seal;
	struct aead_key key; /* of a sealed layer */
	uint8_t encoded[IMAGE_FRAME_BYTES];
	uint8_t encrypted[IMAGE_FRAME_BYTES];
};

struct layer_writer *layer_writer_free(struct layer_writer *w)
{
	if (!w)
		return NULL;
	write_behind_free(w->out);
	fd_close(w->fd);
	codec_encoder_free(w->encoder);
	buf_deinit(&w->index);
	aead_key_wipe(&w->key);
	free(w);
	return NULL;
}

static int write_error(struct layer_writer *w, int r, struct problem *problem)
{
	problem_errno(problem, r, "layers/%s: writing at offset %llu", w->id_hex,
		      (unsigned long long)write_behind_written(w->out));
	return error_trace(r);
}

/* @data NULL stands for zeros. */
static int put(struct layer_writer *w, const void *data, size_t len, struct problem *problem)
{
	int r = write_behind_put(w->out, data, len);

	if (r < 0)
		return write_error(w, r, problem);
	w->offset += len;
	return 0;
}

static int create(struct layer_writer *w, int layers_dirfd, struct problem *problem)
{
	uint8_t header[LAYER_HEADER_BYTES];
	int r;

	w->fd = openat(layers_dirfd, w->id_hex, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (w->fd < 0) {
		r = error_errno();
		problem_errno(problem, r, "layers/%s: cannot be created", w->id_hex);
		return r;
	}
	r = write_behind_new(w->fd, &w->out);
	if (r < 0)
		return r;
	layer_header_encode(w->id, w->seal, header);
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
	if (options->key) {
		w->seal = LAYER_SEAL_AES256;
		aead_key_init(&w->key, options->key);
	}
	r = codec_encoder_new(options->codec, options->level, &w->encoder);
	if (r < 0)
		return error_trace(r);
	r = create(w, layers_dirfd, problem);
	if (r < 0)
		return r;
	*ret = take_ptr(w);
	return 0;
}

static int index_frame(struct layer_writer *w, const struct layer_frame *f,
		       const uint8_t seal[LAYER_SEAL_BYTES])
{
	uint8_t entry[LAYER_ENTRY_BYTES + LAYER_SEAL_BYTES];
	int r;

	layer_entry_encode(f, entry);
	memcpy(entry + LAYER_ENTRY_BYTES, seal, LAYER_SEAL_BYTES);
	r = buf_append(&w->index, entry, layer_entry_bytes(w->seal));
	if (r < 0)
		return error_trace(r);
	w->n_frames++;
	w->n_pages += f->n_pages;
	return 0;
}

static int encrypt(struct layer_writer *w, const struct layer_frame *f, const void *in,
		   uint8_t ret_seal[LAYER_SEAL_BYTES])
{
	uint8_t data[LAYER_ABOUT_BYTES];
	struct aead_about about = {.data = data, .len = sizeof(data)};

	layer_about(w->id, w->n_frames, f, data);
	le_put32(about.nonce, w->n_frames);
	return aead_seal(&w->key, &about, in, f->stored_len, w->encrypted, ret_seal);
}

static int check_number(const struct layer_writer *w, struct problem *problem)
{
	if (w->n_frames < LAYER_MAX_FRAMES)
		return 0;
	problem_set(problem, 500, "layers/%s: more than %u frames", w->id_hex, LAYER_MAX_FRAMES);
	return error_trace(-EFBIG);
}

/* Store @stored, which is as the codec left it, as the frame that @f describes. */
static int put_frame(struct layer_writer *w, struct layer_frame *f, const void *stored,
		     struct problem *problem)
{
	uint8_t seal[LAYER_SEAL_BYTES] = {0};
	int r = 0;

	if (f->codec == IMAGE_CODEC_NONE)
		r = put(w, NULL, (size_t)(-w->offset % DORM_PAGE_SIZE), problem);
	if (r == 0 && w->seal == LAYER_SEAL_AES256) {
		r = encrypt(w, f, stored, seal);
		stored = w->encrypted;
	}
	if (r < 0)
		return r;
	f->offset = w->offset;
	f->tag = layer_tag(w->id, w->n_frames, stored, f->stored_len);
	r = put(w, stored, f->stored_len, problem);
	return r < 0 ? r : index_frame(w, f, seal);
}

int layer_writer_add(struct layer_writer *w, const void *pages, uint32_t n_pages,
		     struct problem *problem)
{
	size_t len = n_pages * DORM_PAGE_SIZE;
	struct layer_frame f = {.n_pages = (uint8_t)n_pages};
	int codec, r;

	assert(n_pages >= 1 && n_pages <= IMAGE_FRAME_PAGES);
	r = check_number(w, problem);
	if (r < 0)
		return r;
	codec = codec_encode(w->encoder, pages, len, w->encoded, &len);
	if (codec < 0)
		return error_trace(codec);
	f.codec = (uint8_t)codec;
	f.stored_len = (uint32_t)len;
	return put_frame(w, &f, codec == IMAGE_CODEC_NONE ? pages : w->encoded, problem);
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
	r = write_behind_finish(w->out);
	if (r < 0)
		return write_error(w, r, problem);
	r = fchmod(w->fd, 0444) < 0 ? error_errno() : fd_sync(w->fd);
	if (r < 0) {
		problem_errno(problem, r, "layers/%s: fsync", w->id_hex);
		return r;
	}
	*ret_bytes = w->offset;
	return 0;
}
