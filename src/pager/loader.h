/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * loader.h - the reads that wait for the disk: a queue, threads, and an order of who comes first
 *
 *     loader_new() -> loader_get(), loader_submit() ... done() ... loader_put() -> loader_free()
 *                  -> loader_kick() ... next() ... done()
 *
 * Two kinds of work, with threads of their own, so that one never queues behind the other:
 *
 * - demand: somebody waits for it. It is pushed, in slots of which there is a fixed number, and
 *   begun in the order in which it came.
 * - background: the working set, graduation. It is pulled: when a read may begin, the source is
 *   asked what the most useful one is. Its threads have a low priority, and of all of them at most
 *   one reads at any time, while the others work on what they have read. So a demand read finds at
 *   most one background read before it at the disk, of at most LOADER_READ_BYTES.
 *
 * The loader reads; what the bytes mean is for done(), which runs on the thread that read them.
 *
 * Threads: everything but loader_new(), loader_quiesce() and loader_free() may be called from any
 * thread. The functions of the fault path (get, submit, put, kick) allocate nothing, do no I/O but
 * to wake a thread, and hold a lock for some instructions.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "image/image.h"
#include "pager/histogram.h"

#define LOADER_READ_BYTES   (1u << 20)	      /* most bytes of one background read */
#define LOADER_DEMAND_BYTES IMAGE_FRAME_BYTES /* most bytes of one demand read */
#define LOADER_SLOTS	    256u	      /* demand reads that are queued or under way */

enum load_priority { LOAD_DEMAND, LOAD_WORKING_SET, LOAD_GRADUATION, LOAD_N_PRIORITIES };

struct loader;

/* Memory of one worker, page-aligned, kept in memory where the limits allow it, never dumped. */
struct load_buffers {
	uint8_t *out;	/* IMAGE_FRAME_BYTES, for what is decoded */
	uint8_t *check; /* a page */
	uint8_t *read;	/* what was read: @data of done() lies in it, and may be changed there */
};

/*
 * One read, and what to do with it. The first part is the caller's (demand: from loader_get() to
 * loader_submit(); background: in next()); the rest is the loader's.
 */
struct load {
	int fd;
	int direct_fd; /* the same file with O_DIRECT; -1: read through the page cache */
	uint64_t offset;
	uint32_t len;		     /* 1 .. LOADER_DEMAND_BYTES or LOADER_READ_BYTES. Background
					also 0: work without a read, @data is of no use */
	enum load_priority priority; /* of a demand slot always LOAD_DEMAND */

	/**
	 * done() - it has been read, or could not be
	 * @b:      the worker's buffers, until this returns; NULL for -ECANCELED
	 * @data:   @len bytes, as far from the begin of a page as @offset is; when @result is 0
	 * @result: 0; -EIO, also when the file ends before that many bytes; -EINVAL when @len or
	 *          @offset is out of bounds; -ECANCELED when it was submitted to a loader that has
	 *          stopped; another negative errno
	 *
	 * Called exactly once, on a worker thread (-ECANCELED: by the submitting one), without any
	 * lock of the loader. May submit, put and kick. @l may be given back in it, and then must
	 * not be touched again.
	 */
	void (*done)(struct load *l, struct load_buffers *b, const uint8_t *data, int result);
	void *owner;	 /* for done() */
	uint64_t arg[4]; /* for done() */

	uint64_t queued_ns;  /* when it was submitted. Background: the source may say since when it
				waits, 0: since it was pulled */
	uint64_t started_ns; /* when its read was begun */
	struct load *next;
};

enum loader_backend { LOADER_AUTO, LOADER_IO_URING, LOADER_THREADS };

struct loader_options {
	unsigned n_demand;     /* threads; 0: 2 */
	unsigned n_background; /* threads; 0: as many as there are processors, within 2 .. 16 */
	enum loader_backend backend; /* AUTO: io_uring where the kernel allows it */

	/**
	 * next() - fill in the next background read: fd, direct_fd, offset, len, priority, done,
	 * owner, arg, and queued_ns if it is known; everything is 0 before
	 *
	 * Called by one thread at a time, without any lock of the loader. Must not block for long:
	 * no other background read begins meanwhile. Not called before the first loader_kick(), nor
	 * after it has said that there is none until the next one.
	 * Return: is there one?
	 */
	bool (*next)(void *ctx, struct load *l); /* NULL: there never is */
	void *ctx;
};

/**
 * loader_new() - start the threads
 * Return: 0; -EOPNOTSUPP, -EPERM... when io_uring is asked for and cannot be had; negative errno
 */
int loader_new(const struct loader_options *options, struct loader **ret);

/**
 * loader_quiesce() - begin no more background reads, finish the demand reads, end the threads
 * Afterwards no done() runs and none will but those of -ECANCELED, and loader_get() has no slot.
 * One thread; not from done(). May be called again.
 */
void loader_quiesce(struct loader *loader);

/** loader_free() - quiesce first. Every slot must have been given back. Return: NULL */
struct loader *loader_free(struct loader *loader);
DEFINE_CLEANUP(struct loader *, loader_free)

/**
 * loader_get() - a slot for a demand read, all 0 but for priority and direct_fd (-1)
 * Return: NULL when there is none: let the guest fault again later
 */
struct load *loader_get(struct loader *loader);

/** loader_submit() - a demand read is to begin; @l belongs to the loader until its done() */
void loader_submit(struct loader *loader, struct load *l);

/**
 * loader_put() - give back a slot, in its done() or later, or instead of submitting it
 * Does nothing with a background load, so that one done() may serve both.
 */
void loader_put(struct loader *loader, struct load *l);

/** loader_kick() - the source may have work */
void loader_kick(struct loader *loader);

struct loader_stats {
	const char *backend; /* "io_uring" or "threads" */
	unsigned n_demand, n_background;
	bool locked; /* could the buffers be locked in memory? */
	unsigned slots_used;
	unsigned slots_most;	/* used at the same time, ever */
	uint64_t slots_refused; /* loader_get() that had none */
	struct {
		uint64_t reads; /* that succeeded */
		uint64_t bytes; /* that were asked for by these */
		uint64_t failed;
		uint64_t direct;	   /* of @reads: past the page cache */
		struct histogram queue_ns; /* from queued to started */
		struct histogram read_ns;  /* from started until the bytes were there */
	} by[LOAD_N_PRIORITIES];
};

/** loader_stats() - some recent state of each counter */
void loader_stats(struct loader *loader, struct loader_stats *ret);
