/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-raw-memory.c - any bytes as the extents of a raw memory
 *
 * The first byte chooses how they arrive, and whether the size is known. What is accepted must be
 * what a few lines make of the same bytes, here and after an export.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "image/le.h"
#include "image/raw-memory.h"
#include "fuzz-store.h"

#define MAX_BYTES (64 * DORM_PAGE_SIZE)

/* Return: size of the memory that @data describes; 0 when it is none */
static uint64_t expected(const uint8_t *data, size_t size, uint8_t *memory)
{
	uint64_t next = 0;

	memset(memory, 0, MAX_BYTES);
	while (size >= RAW_EXTENT_HEAD_BYTES) {
		uint64_t offset = le_get64(data), len = le_get64(data + 8);

		data += RAW_EXTENT_HEAD_BYTES;
		size -= RAW_EXTENT_HEAD_BYTES;
		if (offset % DORM_PAGE_SIZE || len % DORM_PAGE_SIZE || offset < next ||
		    offset > MAX_BYTES || len > MAX_BYTES - offset)
			return 0;
		if (len == 0)
			return size ? 0 : offset;
		if (len > size)
			return 0;
		memcpy(memory + offset, data, len);
		data += len;
		size -= len;
		next = offset + len;
	}
	return 0;
}

static void export(int dirfd, uint8_t *out, size_t *ret_len)
{
	struct problem problem = PROBLEM_INIT;
	struct raw_exporter *x = NULL;
	ssize_t n;

	*ret_len = 0;
	require(raw_exporter_new(dirfd, NULL, &problem, &x) == 0);
	while ((n = raw_exporter_read(x, out + *ret_len, 777, &problem)) > 0)
		*ret_len += (size_t)n;
	require(n == 0);
	raw_exporter_free(x);
}

static void check(const char *id, const uint8_t *want, uint64_t size)
{
	/* as many heads as pages at most, and one read more than there is */
	static uint8_t extents[MAX_BYTES + 65 * RAW_EXTENT_HEAD_BYTES + 777], memory[MAX_BYTES];
	char path[64];
	size_t len;
	int fd;

	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	fd = file_open_dir(store->root_fd, path);
	require(fd >= 0);
	export(fd, extents, &len);
	close(fd);
	require(expected(extents, len, memory) == size);
	require(!memcmp(memory, want, MAX_BYTES));
	require(file_remove_tree(store->root_fd, path) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t want[MAX_BYTES];
	struct raw_import_options options = {.max_bytes = MAX_BYTES};
	struct problem problem = PROBLEM_INIT;
	struct raw_importer *m;
	char id[ID_LEN + 1];
	uint64_t bytes;
	size_t slice;
	int r;

	if (size < 1)
		return 0;
	open_store();
	bytes = expected(data + 1, size - 1, want);
	options.memory_bytes = data[0] & 1 ? bytes : 0;
	slice = (data[0] >> 1) * 33u + 1;
	require(raw_importer_new(store, &options, &problem, &m) == 0);
	r = 0;
	for (size_t at = 1; r == 0 && at < size; at += slice)
		r = raw_importer_write(m, data + at, MIN(slice, size - at), &problem);
	if (r == 0)
		r = raw_importer_finish(m, &problem, id, NULL);
	raw_importer_free(m);
	require((r == 0) == (bytes > 0));
	if (r == 0)
		check(id, want, bytes);
	else
		require(r > 0 && problem_is_set(&problem));
	return 0;
}
