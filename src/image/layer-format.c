/* SPDX-License-Identifier: Apache-2.0 */
#include "image/layer-format.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "image/le.h"
#include "image/outcome.h"
#include "image/wide-xxhash.h"

/* Codec numbers in the file; equal to enum image_codec by accident, mapped on purpose. */
#define FILE_CODEC_NONE	 0
#define FILE_CODEC_ZSTD	 1
#define FILE_CODEC_LZ4	 2

#define FILE_SEAL_XXH3	 0
#define FILE_SEAL_AES256 1

static const char header_magic[] = "DORMLAY";  /* eight bytes with its zero */
static const char footer_magic[] = "DORMLEND"; /* eight bytes without its zero */

#define ull(_v) ((unsigned long long)(_v))

static uint8_t file_codec(uint8_t codec)
{
	switch ((enum image_codec)codec) {
	case IMAGE_CODEC_ZSTD:
		return FILE_CODEC_ZSTD;
	case IMAGE_CODEC_LZ4:
		return FILE_CODEC_LZ4;
	case IMAGE_CODEC_NONE:
		break;
	}
	return FILE_CODEC_NONE;
}

/* Let the library look at the processor before there are threads: its first call is not made for
 * them. */
__attribute__((constructor)) static void choose_vectors(void)
{
	static const uint8_t zeros[1024];

	(void)XXH3_64bits_withSeed(zeros, sizeof(zeros), 0); /* short input would not ask */
}

uint64_t layer_tag(const uint8_t id[LAYER_ID_BYTES], uint32_t frame, const void *stored, size_t len)
{
	/* with the seed, a frame of another place or another layer does not pass for this one */
	return XXH3_64bits_withSeed(stored, len, le_get64(id) + frame);
}

void layer_about(const uint8_t id[LAYER_ID_BYTES], uint32_t frame, const struct layer_frame *f,
		 uint8_t ret[LAYER_ABOUT_BYTES])
{
	memcpy(ret, id, LAYER_ID_BYTES);
	le_put32(ret + 16, frame);
	le_put32(ret + 20, f->stored_len);
	ret[24] = file_codec(f->codec);
	ret[25] = f->n_pages;
}

/*
 * header   0 magic 8 | 8 major 2 | 10 minor 2 | 12 zero 4 | 16 id 16 | 32 seal 1 | 33 zero 23 |
 *          56 XXH3-64 8
 */
void layer_header_encode(const uint8_t id[LAYER_ID_BYTES], enum layer_seal seal,
			 uint8_t out[LAYER_HEADER_BYTES])
{
	memset(out, 0, LAYER_HEADER_BYTES);
	memcpy(out, header_magic, 8);
	le_put16(out + 8, FORMAT_MAJOR);
	le_put16(out + 10, FORMAT_MINOR);
	memcpy(out + 16, id, LAYER_ID_BYTES);
	out[32] = seal == LAYER_SEAL_AES256 ? FILE_SEAL_AES256 : FILE_SEAL_XXH3;
	le_put64(out + 56, XXH3_64bits(out, 56));
}

int layer_header_decode(const uint8_t in[LAYER_HEADER_BYTES], const char *what,
			uint8_t ret_id[LAYER_ID_BYTES], enum layer_seal *ret_seal,
			struct problem *problem)
{
	bool sealed = le_get16(in + 8) >= 2 && in[32] != FILE_SEAL_XXH3; /* 1.x: reserved */
	uint64_t sum = XXH3_64bits(in, 56);
	int r;

	if (memcmp(in, header_magic, 8))
		return image_corrupt(problem,
				     "%s: header at offset 0: not a layer file of Dormouse", what);
	r = image_check_version(what, le_get16(in + 8), le_get16(in + 10), problem);
	if (r)
		return r;
	if (le_get64(in + 56) != sum)
		return image_corrupt(problem,
				     "%s: header at offset 0: checksum mismatch (stored 0x%016llx, "
				     "read 0x%016llx)",
				     what, ull(le_get64(in + 56)), ull(sum));
	if (sealed && in[32] != FILE_SEAL_AES256)
		return image_corrupt(problem, "%s: header at offset 0: unknown seal %u", what,
				     in[32]);
	memcpy(ret_id, in + 16, LAYER_ID_BYTES);
	*ret_seal = sealed ? LAYER_SEAL_AES256 : LAYER_SEAL_XXH3;
	return 0;
}

/*
 * entry    0 offset 8 | 8 stored length 4 | 12 codec 1 | 13 pages 1 | 14 zero 2 | 16 tag 8
 *          sealed: | 24 tag of AES-256-GCM 16
 */
void layer_entry_encode(const struct layer_frame *f, uint8_t out[LAYER_ENTRY_BYTES])
{
	le_put64(out, f->offset);
	le_put32(out + 8, f->stored_len);
	out[12] = file_codec(f->codec);
	out[13] = f->n_pages;
	le_put16(out + 14, 0);
	le_put64(out + 16, f->tag);
}

int layer_entry_decode(const uint8_t in[LAYER_ENTRY_BYTES], struct layer_frame *ret,
		       const char **ret_why)
{
	struct layer_frame f = {
		.offset = le_get64(in),
		.stored_len = le_get32(in + 8),
		.n_pages = in[13],
		.tag = le_get64(in + 16),
	};
	uint32_t plain = (uint32_t)(f.n_pages * DORM_PAGE_SIZE);

	if (f.n_pages < 1 || f.n_pages > IMAGE_FRAME_PAGES) {
		*ret_why = "number of pages is not 1 to 16";
		return -EBADMSG;
	}
	switch (in[12]) {
	case FILE_CODEC_NONE:
		f.codec = IMAGE_CODEC_NONE;
		*ret_why = "a plain frame that is not aligned or has another length than its pages";
		if (f.stored_len != plain || f.offset % DORM_PAGE_SIZE)
			return -EBADMSG;
		break;
	case FILE_CODEC_ZSTD:
	case FILE_CODEC_LZ4:
		f.codec = in[12] == FILE_CODEC_ZSTD ? IMAGE_CODEC_ZSTD : IMAGE_CODEC_LZ4;
		*ret_why = "a compressed frame that is empty or not shorter than its pages";
		if (f.stored_len == 0 || f.stored_len >= plain)
			return -EBADMSG;
		break;
	default:
		*ret_why = "unknown codec";
		return -EBADMSG;
	}
	*ret = f;
	return 0;
}

/*
 * footer   0 magic 8 | 8 major 2 | 10 minor 2 | 12 frames 4 | 16 id 16 | 32 index offset 8
 *          40 index length 8 | 48 index XXH3-128 16 | 64 pages 8 | 72 XXH3-64 8
 */
void layer_footer_encode(const struct layer_footer *f, uint8_t out[LAYER_FOOTER_BYTES])
{
	memcpy(out, footer_magic, 8);
	le_put16(out + 8, FORMAT_MAJOR);
	le_put16(out + 10, FORMAT_MINOR);
	le_put32(out + 12, f->n_frames);
	memcpy(out + 16, f->id, LAYER_ID_BYTES);
	le_put64(out + 32, f->index_offset);
	le_put64(out + 40, f->index_len);
	memcpy(out + 48, f->digest, DIGEST_BYTES);
	le_put64(out + 64, f->n_pages);
	le_put64(out + 72, XXH3_64bits(out, 72));
}

static int check_extent(const struct layer_footer *f, uint64_t file_bytes, enum layer_seal seal,
			const char *what, struct problem *problem)
{
	uint64_t offset = file_bytes - LAYER_FOOTER_BYTES;

	if (f->n_frames == 0 || f->n_frames > LAYER_MAX_FRAMES)
		return image_corrupt(problem,
				     "%s: footer at offset %llu: %u frames, limits 1 to %u", what,
				     ull(offset), f->n_frames, LAYER_MAX_FRAMES);
	if (f->index_len != (uint64_t)f->n_frames * layer_entry_bytes(seal) ||
	    f->index_len > offset || f->index_offset != offset - f->index_len ||
	    f->index_offset < LAYER_HEADER_BYTES)
		return image_corrupt(problem,
				     "%s: footer at offset %llu: an index of %llu bytes at offset "
				     "%llu does not fit",
				     what, ull(offset), ull(f->index_len), ull(f->index_offset));
	return 0;
}

int layer_footer_decode(const uint8_t in[LAYER_FOOTER_BYTES], uint64_t file_bytes, const char *what,
			enum layer_seal seal, struct layer_footer *ret, struct problem *problem)
{
	struct layer_footer f = {
		.n_frames = le_get32(in + 12),
		.n_pages = le_get64(in + 64),
		.index_offset = le_get64(in + 32),
		.index_len = le_get64(in + 40),
	};
	uint64_t offset = file_bytes - LAYER_FOOTER_BYTES, sum = XXH3_64bits(in, 72);
	int r;

	if (memcmp(in, footer_magic, 8))
		return image_corrupt(problem,
				     "%s: no footer at offset %llu: truncated or altered (file has "
				     "%llu bytes)",
				     what, ull(offset), ull(file_bytes));
	r = image_check_version(what, le_get16(in + 8), le_get16(in + 10), problem);
	if (r)
		return r;
	if (le_get64(in + 72) != sum)
		return image_corrupt(problem,
				     "%s: footer at offset %llu: checksum mismatch (stored "
				     "0x%016llx, read 0x%016llx)",
				     what, ull(offset), ull(le_get64(in + 72)), ull(sum));
	r = check_extent(&f, file_bytes, seal, what, problem);
	if (r)
		return r;
	memcpy(f.id, in + 16, LAYER_ID_BYTES);
	memcpy(f.digest, in + 48, DIGEST_BYTES);
	*ret = f;
	return 0;
}
