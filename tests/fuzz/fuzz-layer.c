/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-layer.c - any bytes as a layer file
 *
 * Header, index and footer get fitting checksums, and every frame a fitting tag, so that what the
 * fuzzer changes gets as far as the checks behind them and into the decompressors. A sealed layer
 * is read once with a key, which fits nothing, and once without, for checking.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fd.h"
#include "image/image.h"
#include "image/layer.h"
#include "image/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void fit_tags(uint8_t *file, uint8_t *index, uint64_t index_len, uint64_t index_offset)
{
	bool sealed = le_get16(file + 8) >= 2 && file[32];
	uint32_t entry_bytes = layer_entry_bytes(sealed ? LAYER_SEAL_AES256 : LAYER_SEAL_XXH3);

	for (uint64_t i = 0; i < index_len / entry_bytes; i++) {
		uint8_t *entry = index + i * entry_bytes;
		uint64_t offset = le_get64(entry), stored = le_get32(entry + 8);

		if (offset <= index_offset && stored <= index_offset - offset)
			le_put64(entry + 16,
				 layer_tag(file + 16, (uint32_t)i, file + offset, stored));
	}
}

static void fit(uint8_t *file, size_t len)
{
	uint8_t *footer = file + len - LAYER_FOOTER_BYTES;
	uint64_t offset = le_get64(footer + 32), index_len = le_get64(footer + 40);
	XXH128_canonical_t digest;

	memcpy(footer + 16, file + 16, LAYER_ID_BYTES);
	if (offset <= len && index_len <= len - offset) {
		fit_tags(file, file + offset, index_len, offset);
		XXH128_canonicalFromHash(&digest, XXH3_128bits(file + offset, index_len));
		memcpy(footer + 48, digest.digest, DIGEST_BYTES);
	}
	le_put64(file + 56, XXH3_64bits(file, 56));
	le_put64(footer + 72, XXH3_64bits(footer, 72));
}

/* The same bytes, read by somebody else to an odd address, have the same outcome and pages. */
static void decode_frame(const struct layer *l, uint32_t frame, int expected, const uint8_t *pages)
{
	static uint8_t stored[IMAGE_FRAME_BYTES + 1], out[IMAGE_FRAME_BYTES];
	uint32_t len = layer_frame_bytes(l, frame), n_pages = 0;
	struct problem problem = PROBLEM_INIT;

	require(len <= IMAGE_FRAME_BYTES);
	require(fd_pread_full(layer_fd(l), stored + 1, len, layer_frame_offset(l, frame)) == 0);
	require(layer_decode_frame(l, frame, stored + 1, out, &n_pages, &problem) == expected);
	if (expected == 0)
		require(!memcmp(out, pages, n_pages * DORM_PAGE_SIZE));
	else
		require(problem_is_set(&problem));
}

static void read_frames(const struct layer *l)
{
	static uint8_t scratch[2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE], out[IMAGE_FRAME_BYTES];

	for (uint32_t i = 0; i < layer_n_frames(l); i++) {
		struct problem problem = PROBLEM_INIT;
		uint32_t n_pages;
		int r = layer_read_frame(l, i, scratch, out, &n_pages, &problem);

		require(r == 0 ? n_pages == layer_frame_pages(l, i) : problem_is_set(&problem));
		require(r != 0 || !layer_is_sealed(l));
		decode_frame(l, i, r, out);
		problem = PROBLEM_INIT;
		r = layer_check_frame(l, i, scratch, &problem);
		require(r == 0 || problem_is_set(&problem));
	}
}

static void open_with(int fd, size_t len, const uint8_t *id, const uint8_t *key)
{
	_cleanup_(layer_closep) struct layer *l = NULL;
	struct problem problem = PROBLEM_INIT;

	if (layer_open_fd_consume(dup(fd), len, id, key, &problem, &l) == 0)
		read_frames(l);
	else
		require(problem_is_set(&problem));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint8_t key[LAYER_KEY_BYTES];
	uint8_t id[LAYER_ID_BYTES] = {0}, *file = malloc(len + 1);
	int fd = memfd_create("layer", MFD_CLOEXEC);

	require(file && fd >= 0);
	if (len)
		memcpy(file, data, len);
	if (len >= LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES) {
		fit(file, len);
		memcpy(id, file + 16, sizeof(id));
	}
	require(fd_write_full(fd, file, len) == 0);
	free(file);
	open_with(fd, len, id, NULL);
	open_with(fd, len, id, key);
	close(fd);
	return 0;
}
