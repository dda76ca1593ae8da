/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compaction.c - merging the layers of sleeping sandboxes, when nobody is in a hurry
 *
 * A sandbox that has fallen asleep is queued (at most once). One worker takes them in turn, so that
 * a host that puts a thousand to sleep does not write a thousand layers at once, and ends when the
 * queue is empty.
 *
 * The work is done without sandbox.op: memory-<g> is opened, read, and a copy with fewer layers
 * grows in tmp/. Waking, deleting or anything else that leaves `asleep` sets compact_cancel and
 * goes on at once; the copy is then thrown away. Only when it is complete is op taken, for two
 * renames (the copy becomes memory-<g+1>, the record names it). It is not made under that name
 * before: a sleep that follows a wake uses the same number, and a new daemon must never take a
 * compaction's leftover for a memory that somebody slept with.
 *
 *     asleep at g     memory-3                       record: 3
 *     copying         memory-3, tmp/m...             record: 3    a crash here: tmp/ is emptied
 *     op held         memory-3, memory-4             record: 3    a crash here: memory-4 is removed
 *     op held         memory-3, memory-4             record: 4    a crash here: memory-3 is removed
 *     done            memory-4                       record: 4
 *
 * Reading and writing happen on a thread of the lowest priority, which takes no lock that an
 * operation waits for: whoever runs at that priority may be kept from running for long.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_IDLE	   (3 << 13)

struct compaction {
	struct sandbox *sb;
	unsigned generation;
	int dirfd;     /* memory-<generation> */
	char copy[40]; /* tmp/..., below the root */
	char id[ID_LEN + 1];
	struct manifest manifest; /* of the copy */
	struct compact_stats stats;
	struct problem problem;
	int result;
};

/* ---- at the lowest priority, without locks ----------------------------------------------------
 */

static bool is_cancelled(void *userdata)
{
	struct compaction *c = userdata;

	return atomic_load(&c->sb->compact_cancel) || atomic_load(&c->sb->host->stopping);
}

static void lower_priority(void)
{
	const struct sched_param none = {0};

	/* Where it is not allowed the work is done all the same. */
	(void)sched_setscheduler(0, SCHED_IDLE, &none);
	(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE);
}

/* What counts is what was written: read it back before anything depends on it. */
static int read_copy(struct compaction *c)
{
	struct host *host = c->sb->host;
	_cleanup_fd_ int fd = file_open_dir(host->store->root_fd, c->copy);

	return fd < 0 ? error_trace(fd) : snapshot_open(fd, host->keys, &c->problem, &c->manifest);
}

static int copy(struct compaction *c)
{
	struct host *host = c->sb->host;
	const struct compact_options options = {
		.policy = host->compact,
		.codec = host->sleep_options.codec,
		.level = host->sleep_options.level,
		.keys = host->keys,
		.cancelled = is_cancelled,
		.userdata = c,
	};
	int r = snapshot_compact(host->store->root_fd, host->store->root, c->dirfd, c->copy, false,
				 c->id, &options, &c->problem, &c->stats);

	return r ? error_trace(r) : read_copy(c);
}

static void *copy_main(void *arg)
{
	struct compaction *c = arg;

	lower_priority();
	c->result = copy(c);
	return NULL;
}

/* ---- at the usual one -------------------------------------------------------------------------
 */

/* Return: true when it sleeps, and then anything that ends that will cancel the compaction */
static bool begin(struct compaction *c)
{
	struct sandbox *sb = c->sb;
	char memory[32];

	pthread_mutex_lock(&sb->info);
	if (sb->gone || sb->record.state != SANDBOX_ASLEEP) {
		pthread_mutex_unlock(&sb->info);
		return false;
	}
	c->generation = sb->record.generation;
	atomic_store(&sb->compact_cancel, false);
	pthread_mutex_unlock(&sb->info);
	c->dirfd = file_open_dir(sb->dirfd, sandbox_memory_name(c->generation, memory));
	id_new(SANDBOX_MEMORY_PREFIX, c->id);
	(void)snprintf(c->copy, sizeof(c->copy), "tmp/%s", c->id); /* fixed length */
	return c->dirfd >= 0;
}

/* op held, it sleeps: the copy becomes its memory. */
static int switch_over(struct compaction *c)
{
	struct sandbox *sb = c->sb;
	char memory[32];
	int r;

	sandbox_memory_name(c->generation + 1, memory);
	if (renameat2(sb->host->store->root_fd, c->copy, sb->dirfd, memory, RENAME_NOREPLACE) < 0)
		return error_errno();
	sandbox_set_generation(sb, c->generation + 1, c->manifest.image_id);
	r = sandbox_write_record(sb, true); /* and with it the rename: one directory */
	if (r < 0) {
		/* It may be on disk for all we know: only when it is not any more, the copy may go.
		 */
		sandbox_set_generation(sb, c->generation, sb->manifest.image_id);
		if (sandbox_write_record(sb, true) == 0)
			sandbox_forget_generation(sb, c->generation + 1);
		return error_trace(r);
	}
	sandbox_set_manifest(sb, &c->manifest);
	return 0;
}

/* Return: 0; 1 it is not what was copied any more; negative errno */
static int finish(struct compaction *c)
{
	_cleanup_op_ struct sandbox *sb = sandbox_op_lock(sandbox_ref(c->sb), NULL);

	if (!sb || sb->record.state != SANDBOX_ASLEEP || sb->record.generation != c->generation)
		return 1;
	return switch_over(c);
}

static void report(struct compaction *c, int r)
{
	const struct compact_stats *s = &c->stats;

	if (r == 0) {
		log_info("sandbox=%s compacted layers=%u->%u written=%llu dropped=%llu",
			 c->sb->record.id, s->layers_before, s->layers_after,
			 (unsigned long long)s->bytes_written,
			 (unsigned long long)s->bytes_dropped);
		if (s->disk.layers_after < s->disk.layers_before)
			log_info("sandbox=%s disk layers=%u->%u written=%llu dropped=%llu",
				 c->sb->record.id, s->disk.layers_before, s->disk.layers_after,
				 (unsigned long long)s->disk.bytes_written,
				 (unsigned long long)s->disk.bytes_dropped);
	} else if (r < 0 && !is_cancelled(c)) {
		problem_errno(&c->problem, r, "compacting it");
		log_warn("sandbox=%s its layers could not be merged: %s", c->sb->record.id,
			 c->problem.message);
	}
}

static void compact_one(struct sandbox *sb)
{
	struct compaction c = {.sb = sb, .dirfd = -1};
	pthread_t thread;
	int r;

	if (!begin(&c))
		return;
	r = -pthread_create(&thread, NULL, copy_main, &c);
	if (r == 0) {
		pthread_join(thread, NULL);
		r = c.result;
	}
	if (r == 0)
		r = finish(&c);
	report(&c, r == COMPACT_E_NOT_DUE || r == 1 ? 1 : r > 0 ? -EBADMSG : r);
	if (r == 0)
		sandbox_forget_generation(sb, c.generation);
	else
		(void)snapshot_delete(sb->host->store->root_fd, c.copy, NULL); /* seldom there */
	manifest_deinit(&c.manifest);
	fd_close(c.dirfd);
}

/* ---- the queue --------------------------------------------------------------------------------
 */

static struct sandbox *take_next(struct host *host)
{
	struct sandbox *sb;

	LOCK_SCOPE(&host->lock);
	sb = host->compact_first;
	if (!sb) {
		host->compacting = false;
		return NULL;
	}
	host->compact_first = sb->compact_next;
	if (!host->compact_first)
		host->compact_last = NULL;
	sb->compact_next = NULL;
	sb->compact_queued = false;
	return sb;
}

static void worker(struct host *host, void *arg)
{
	struct sandbox *sb;

	while ((sb = take_next(host))) {
		if (!atomic_load(&host->stopping))
			compact_one(sb);
		sandbox_unref(sb);
	}
}

static void enqueue(struct host *host, struct sandbox *sb)
{
	if (host->compact_last)
		host->compact_last->compact_next = sb;
	else
		host->compact_first = sb;
	host->compact_last = sb;
	sb->compact_queued = true;
}

void compactions_free(struct host *host)
{
	struct sandbox *sb;

	while ((sb = take_next(host)))
		sandbox_unref(sb);
}

void sandbox_compact_later(struct sandbox *sb)
{
	struct host *host = sb->host;

	if (host->compact.off)
		return;
	LOCK_SCOPE(&host->lock);
	if (sb->compact_queued || atomic_load(&host->stopping))
		return;
	enqueue(host, sandbox_ref(sb));
	if (!host->compacting) /* without a thread it waits for the next sleep */
		host->compacting = host_run(host, worker, NULL) == 0;
}
