/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * loader-io.h - how the loader's workers read: one interface, two back ends
 *
 * A back end has one struct loader_io per worker thread, which only that thread uses. It carries
 * out reads, which are steps of one struct loader_read: what a step has to read, and what follows
 * from what the kernel answered, is the same for all of them and lies in loader-io.c.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"

#define LOADER_BLOCK 4096u /* what direct reads are aligned to */

/** LOADER_ROOM() - bytes of the buffer of a read of up to @_len bytes */
#define LOADER_ROOM(_len) ((_len) + 2 * LOADER_BLOCK)

struct loader_read {
	/* what is wanted; set by the worker */
	int fd;
	int direct_fd;	 /* -1: none */
	uint8_t *buffer; /* page-aligned, LOADER_ROOM(len) bytes */
	uint64_t offset;
	uint32_t len;

	/* how far it is; loader_read_*() */
	bool direct;	  /* this read is done with direct_fd */
	uint64_t at;	  /* where in the file the buffer's first byte comes from */
	uint32_t first;	  /* where in the buffer reading begins */
	uint32_t enough;  /* where what is wanted ends in the buffer */
	uint32_t end;	  /* where reading ends: a multiple of LOADER_BLOCK when direct */
	uint32_t done;	  /* up to where there is something */
	unsigned retries; /* interrupted, in a row */

	int result; /* of a complete read: 0, negative errno */
	struct loader_read *next;
};

/** loader_read_start() - prepare the first step. Return: 0; -EINVAL and the read is complete */
int loader_read_start(struct loader_read *r);

/* The next step: pread(fd, data, len, offset). */
struct loader_step {
	int fd;
	void *data;
	uint32_t len;
	uint64_t offset;
};

/** loader_read_step() - what to read now */
struct loader_step loader_read_step(const struct loader_read *r);

/**
 * loader_read_stepped() - the kernel answered
 * @n: bytes, or negative errno
 * Return: is the read complete, with a result? Otherwise there is another step.
 */
bool loader_read_stepped(struct loader_read *r, int64_t n);

/** loader_read_data() - what was wanted, in the buffer */
static inline const uint8_t *loader_read_data(const struct loader_read *r)
{
	return r->buffer + r->offset % LOADER_BLOCK;
}

struct loader_io;

struct loader_io_ops {
	const char *name;
	unsigned depth; /* most reads that are worth beginning at the same time; callers keep to it
			 */

	/**
	 * new() - for one worker
	 * @wake_fd: what wait() shall also wait for; borrowed; -1: nothing
	 * Return: 0; negative errno
	 */
	int (*new)(int wake_fd, struct loader_io **ret);
	/** free() - nothing may be under way. Return: NULL */
	struct loader_io *(*free)(struct loader_io *io);
	/**
	 * begin() - begin a read that was started with loader_read_start()
	 * Does not wait. @r and its buffer belong to @io until wait() returns it.
	 */
	void (*begin)(struct loader_io *io, struct loader_read *r);
	/**
	 * wait() - until a read is complete
	 * @wake: return as soon as wake_fd is readable, too; without, something must be under way
	 * Return: a read that was begun and is complete; NULL: look at what wake_fd is for
	 */
	struct loader_read *(*wait)(struct loader_io *io, bool wake);
};

extern const struct loader_io_ops loader_io_uring;
extern const struct loader_io_ops loader_io_threads;

/** loader_io_uring_probe() - does the kernel let this process use it? Return: 0; negative errno */
int loader_io_uring_probe(void);
