/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loader-worker.c - the threads of the loader
 *
 * A demand worker has as many reads under way as its back end is good for. When one is complete it
 * first begins what waits in the queue, so that the disk is busy, and then calls done(). It leaves
 * reads to workers that have none, since what follows a read is work as well.
 *
 * A background worker waits for its turn, asks the source, reads, gives the turn on and calls
 * done(): so one reads while the others decode. It has a low priority for processor and disk;
 * demand workers, like the threads that wait for them, have the normal one.
 */
#include <errno.h>
#include <linux/ioprio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "pager/loader-internal.h"
#include "sys/pagecache.h"

#define NICE_BACKGROUND 10 /* more than the process has */

/* ---- memory -----------------------------------------------------------------------------------
 */

/* One mapping: out, check, and a buffer for each read. */
static int map_buffers(struct worker *w, size_t read_room)
{
	uint8_t *p;

	w->memory_bytes = IMAGE_FRAME_BYTES + DORM_PAGE_SIZE + w->n_reads * read_room;
	p = mmap(NULL, w->memory_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		return error_errno();
	w->memory = p;
	if (mlock(p, w->memory_bytes) < 0)
		w->loader->locked = false; /* RLIMIT_MEMLOCK: slower when memory is short */
	(void)madvise(p, w->memory_bytes, MADV_DONTDUMP); /* of no use in a dump, and secret */
	w->buffers.out = p;
	w->buffers.check = p + IMAGE_FRAME_BYTES;
	p += IMAGE_FRAME_BYTES + DORM_PAGE_SIZE;
	for (unsigned i = 0; i < w->n_reads; i++, p += read_room)
		w->reads[i].read.buffer = p;
	return 0;
}

int worker_init(struct worker *w, struct loader *l, bool background)
{
	int r;

	w->loader = l;
	w->background = background;
	w->n_reads = background ? 1 : l->ops->depth;
	w->reads = calloc(w->n_reads, sizeof(*w->reads));
	if (!w->reads)
		return -ENOMEM;
	r = map_buffers(w, LOADER_ROOM(background ? LOADER_READ_BYTES : LOADER_DEMAND_BYTES));
	if (r < 0)
		return r;
	return l->ops->new (background ? -1 : l->wake_fd, &w->io);
}

void worker_deinit(struct worker *w)
{
	if (w->io)
		w->io = w->loader->ops->free(w->io);
	if (w->memory)
		(void)munmap(w->memory, w->memory_bytes); /* fails for nothing that was mapped */
	free(take_ptr(w->reads));
	w->memory = NULL;
}

/* ---- one read ---------------------------------------------------------------------------------
 */

static void add(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Return: was it begun? If not it is complete, with a result. */
static bool begin(struct worker *w, struct work *k, struct load *l)
{
	struct loader_read *read = &k->read;

	k->load = l;
	l->started_ns = clock_now_ns();
	read->fd = l->fd;
	read->direct_fd = l->direct_fd;
	read->offset = l->offset;
	read->len = l->len;
	if (l->len > (w->background ? LOADER_READ_BYTES : LOADER_DEMAND_BYTES)) {
		read->result = -EINVAL;
		return false;
	}
	if (loader_read_start(read) < 0)
		return false;
	w->loader->ops->begin(w->io, read);
	return true;
}

static void count(struct loader *l, const struct load *load, const struct loader_read *read)
{
	struct loader_counters *c = &l->by[load->priority];
	uint64_t now = clock_now_ns();

	if (load->started_ns >= load->queued_ns)
		histogram_add(&c->queue_ns, load->started_ns - load->queued_ns);
	histogram_add(&c->read_ns, now - load->started_ns);
	if (read->result) {
		add(&c->failed, 1);
		return;
	}
	add(&c->reads, 1);
	add(&c->bytes, load->len);
	if (read->direct)
		add(&c->direct, 1);
}

static void finish(struct worker *w, struct work *k)
{
	struct load *l = take_ptr(k->load);

	w->buffers.read = k->read.buffer;
	l->done(l, &w->buffers, k->read.result ? NULL : loader_read_data(&k->read), k->read.result);
}

/* ---- demand -----------------------------------------------------------------------------------
 */

static struct work *free_work(struct worker *w)
{
	for (unsigned i = 0; i < w->n_reads; i++)
		if (!w->reads[i].load)
			return &w->reads[i];
	return NULL;
}

static void finish_demand(struct worker *w, struct work *k)
{
	finish(w, k);
	if (--w->n_busy == 0)
		loader_idle(w->loader);
}

/* Begin what there is to begin. Return: what there was at last; TAKE_ONE: there is no place */
static enum take fill(struct worker *w)
{
	enum take t = TAKE_ONE;
	struct work *k;
	struct load *l;

	while ((k = free_work(w))) {
		t = loader_take(w->loader, w->n_busy, &l);
		if (t != TAKE_ONE)
			return t;
		w->n_busy++;
		if (!begin(w, k, l)) {
			count(w->loader, l, &k->read);
			finish_demand(w, k);
		}
	}
	return TAKE_ONE;
}

static void *demand_main(void *userdata)
{
	struct worker *w = userdata;

	for (;;) {
		enum take t = fill(w);
		struct loader_read *read;
		struct work *k;

		if (t == TAKE_STOP && w->n_busy == 0)
			return NULL;
		read = w->loader->ops->wait(w->io, t == TAKE_NONE);
		if (!read)
			continue;
		k = container_of(read, struct work, read);
		count(w->loader, k->load, read);
		(void)fill(w); /* the disk is busy while done() runs */
		finish_demand(w, k);
	}
}

/* ---- background -------------------------------------------------------------------------------
 */

/* The source's read, or none. A priority that it has no business with counts as the lowest. */
static bool pull(struct worker *w)
{
	const struct loader_options *o = &w->loader->options;
	struct load *l = &w->pulled;

	*l = (struct load){.fd = -1, .direct_fd = -1, .priority = LOAD_GRADUATION};
	if (!o->next || !o->next(o->ctx, l))
		return false;
	if (l->priority != LOAD_WORKING_SET)
		l->priority = LOAD_GRADUATION;
	if (!l->queued_ns)
		l->queued_ns = clock_now_ns();
	return true;
}

/*
 * What the page cache has is copied, and what it does not have goes past it. With both descriptors
 * at hand: looking costs a microsecond, and a read from the disk some hundreds.
 */
static void choose_path(struct load *l)
{
	if (l->direct_fd >= 0 && pagecache_has(l->fd, l->offset, l->len))
		l->direct_fd = -1;
}

static void read_pulled(struct worker *w, struct work *k)
{
	if (w->pulled.len == 0) { /* work without a read */
		k->load = &w->pulled;
		k->read.result = 0;
		w->pulled.started_ns = clock_now_ns();
		return;
	}
	choose_path(&w->pulled);
	if (begin(w, k, &w->pulled))
		(void)w->loader->ops->wait(w->io, false); /* there is only this one */
	count(w->loader, &w->pulled, &k->read);
}

static void *background_main(void *userdata)
{
	struct worker *w = userdata;
	struct work *k = &w->reads[0];
	uint64_t kicks;
	int nice_now;

	/* Both are courtesy: without, the work is done all the same. -1 may be a priority. */
	errno = 0;
	nice_now = getpriority(PRIO_PROCESS, 0);
	if (nice_now != -1 || errno == 0)
		(void)setpriority(PRIO_PROCESS, (id_t)gettid(), nice_now + NICE_BACKGROUND);
	(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
		      IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, IOPRIO_NR_LEVELS - 1));
	while (loader_turn_take(w->loader, &kicks)) {
		bool more = pull(w);

		if (more)
			read_pulled(w, k);
		loader_turn_give(w->loader, more, kicks);
		if (more)
			finish(w, k);
	}
	return NULL;
}

/* ---- life -------------------------------------------------------------------------------------
 */

/* Signals are for the thread that handles them. */
int worker_start(struct worker *w)
{
	sigset_t all, before;
	int r;

	(void)sigfillset(&all); /* cannot fail */
	r = pthread_sigmask(SIG_BLOCK, &all, &before);
	if (r)
		return error_trace(-r);
	r = pthread_create(&w->thread, NULL, w->background ? background_main : demand_main, w);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL); /* as it was: cannot fail */
	if (r)
		return error_trace(-r);
	(void)pthread_setname_np(w->thread, w->background ? "dorm-load" : "dorm-demand");
	w->started = true;
	return 0;
}

void worker_join(struct worker *w)
{
	if (w->started)
		(void)pthread_join(w->thread, NULL); /* nobody else does */
	w->started = false;
}
