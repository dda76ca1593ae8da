/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-transfer.c - any bytes as the stream of a snapshot, imported into a real store
 *
 * Checksums, the numbers of items and the announced length are made to fit first, or the fuzzer
 * would never get past them. What is accepted must be a snapshot that verifies; whatever is not
 * must leave nothing but whole layers.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "image/le.h"
#include "image/transfer-format.h"
#include "image/transfer.h"
#include "fuzz-store.h"

/* Remove what is in a directory of the store. Return: how many entries there were */
static unsigned clear(const char *name)
{
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	require(file_opendir(store->root_fd, name, &d) == 0);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		require(file_remove_tree(dirfd(d), e->d_name) == 0);
		n++;
	}
	closedir(d);
	return n;
}

/* ---- checksums --------------------------------------------------------------------------------
 */

static uint8_t *fit_chunks(uint8_t *at, const uint8_t *end, uint32_t number, uint64_t bytes)
{
	for (uint64_t c = 0; c < transfer_n_chunks(bytes); c++) {
		uint32_t len;

		if ((size_t)(end - at) < TRANSFER_CHUNK_HEAD_BYTES)
			return NULL;
		len = le_get32(at + 4) & TRANSFER_ZERO ? 0 : transfer_chunk_bytes(bytes, c);
		if (len > (size_t)(end - at) - TRANSFER_CHUNK_HEAD_BYTES)
			return NULL;
		le_put32(at, transfer_chunk_bytes(bytes, c));
		le_put64(at + 8, transfer_tag(number, c, at + TRANSFER_CHUNK_HEAD_BYTES, len));
		at += TRANSFER_CHUNK_HEAD_BYTES + len;
	}
	return at;
}

static void fit(uint8_t *data, size_t len)
{
	uint8_t *at = data + TRANSFER_HEADER_BYTES, *end = data + len;
	XXH128_canonical_t digest;

	if (len < TRANSFER_HEADER_BYTES)
		return;
	le_put64(data + 16, len);
	le_put64(data + 24, XXH3_64bits(data, 24));
	for (uint32_t number = 0; at && (size_t)(end - at) >= TRANSFER_ITEM_BYTES; number++) {
		le_put32(at + 4, number);
		le_put64(at + 40, XXH3_64bits(at, 40));
		if (le_get32(at) == TRANSFER_END)
			break;
		if (le_get32(at + 8) & TRANSFER_LEFT_OUT)
			at += TRANSFER_ITEM_BYTES;
		else
			at = fit_chunks(at + TRANSFER_ITEM_BYTES, end, number, le_get64(at + 16));
	}
	if (len < TRANSFER_HEADER_BYTES + TRANSFER_END_BYTES)
		return;
	XXH128_canonicalFromHash(&digest, XXH3_128bits(data, len - DIGEST_BYTES));
	memcpy(end - DIGEST_BYTES, digest.digest, DIGEST_BYTES);
}

/* ---- importing --------------------------------------------------------------------------------
 */

static void check(const struct import_stats *stats)
{
	struct problem problem = PROBLEM_INIT;
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "snapshots/%s", stats->id);
	fd = file_open_dir(store->root_fd, path);
	require(fd >= 0);
	require(snapshot_verify(fd, NULL, NULL, NULL, &problem) == 0);
	close(fd);
	require(clear("snapshots") == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t slice = size ? data[size / 2] * 16 + 1 : 1;
	uint8_t *copy = malloc(size + 1);
	struct problem problem = PROBLEM_INIT;
	struct import_stats stats;
	struct importer *m;
	int r;

	require(copy);
	if (size)
		memcpy(copy, data, size);
	fit(copy, size);
	open_store();
	r = importer_new(store, NULL, &problem, &m);
	require(r == 0);
	for (size_t at = 0; r == 0 && at < size; at += slice)
		r = importer_write(m, copy + at, MIN(slice, size - at), &problem);
	if (r == 0)
		r = importer_finish(m, &problem, &stats);
	importer_free(m);
	free(copy);
	require(r >= 0 || r == -ENOSPC || r == -EFBIG);
	if (r == 0)
		check(&stats);
	else
		require(problem_is_set(&problem));
	require(clear("tmp") == 0);
	require(clear("snapshots") == 0);
	(void)clear("incoming"); /* whole layers */
	return 0;
}
