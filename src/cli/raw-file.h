/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * raw-file.h - guest memory between a plain file and a stream of extents
 *
 * Byte n of the file is byte n of the guest. Of a full memory, pages of zeros are left out of the
 * stream; of a diff, what the file has holes for (SEEK_DATA), and nothing else. One thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"
#include "base/problem.h"
#include "cli/extents.h"

/* ---- a file to extents ---- */

struct raw_reader;

/**
 * raw_reader_new() - read memory from @fd
 * @fd:   borrowed; for a diff it must be a regular file; read from its beginning if it is one
 * @name: of the file, in problems; borrowed
 * Return: 0; -EINVAL when it cannot be a memory; -ENOMEM
 */
int raw_reader_new(int fd, const char *name, bool diff, struct problem *problem,
		   struct raw_reader **ret);
struct raw_reader *raw_reader_free(struct raw_reader *x);
DEFINE_CLEANUP(struct raw_reader *, raw_reader_free)

/** raw_reader_read() - the next bytes of the stream. Return: bytes; 0 at its end; negative errno */
ssize_t raw_reader_read(struct raw_reader *x, void *buf, size_t len, struct problem *problem);

/** raw_reader_bytes() - the size of the memory; 0 as long as it is not known (a pipe) */
uint64_t raw_reader_bytes(const struct raw_reader *x);

/** raw_reader_is_dense() - has all of a diff been data? Then it was hardly a diff */
bool raw_reader_is_dense(const struct raw_reader *x);

/* ---- extents to a file ---- */

struct raw_writer {
	struct extents_parser parser;
	int fd;		   /* borrowed */
	const char *name;  /* in problems; borrowed */
	bool sparse;	   /* a regular file, which gets holes; otherwise gaps become zeros */
	uint64_t position; /* how much of the memory has been written */
	struct problem *problem;
};

/** raw_writer_write() - the next bytes of the stream. Return: 0; negative errno, with @problem */
int raw_writer_write(struct raw_writer *w, const void *data, size_t len, struct problem *problem);

/** raw_writer_finish() - the stream has ended: give the file its size. Return: as above */
int raw_writer_finish(struct raw_writer *w, struct problem *problem);
