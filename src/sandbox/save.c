/* SPDX-License-Identifier: Apache-2.0 */
/*
 * save.c - from a running VM to a snapshot directory
 *
 * The VM's memory is a private mapping of its image: an anonymous page in it was written, every
 * other page still is the image's, whether it was ever loaded or not. So what has to be stored is
 * exactly what a scan of the page tables names, and the rest stays a reference to the parent's
 * layers. A sandbox can be saved while most of its memory has never been read from disk.
 *
 * Worked example: a fork of a 512 MiB template ran for five seconds. The scan names 140 ranges, 180
 * pages; 3 of them turn out equal to the parent's; the new layer holds 177 pages in 12 frames,
 * about 250 KB compressed, and the map has some 400 runs.
 *
 * Where the result can share its memory with others it has a *base*: that of the memory it ran
 * from, or the image that it ran from itself, if that is a clone, which others run from too. A
 * memory that it slept with is nobody else's, and what booted has no other to share with. The whole
 * rule is in image/image-base.c. So a sandbox keeps the template's map from sleep to sleep, also
 * when the template is deleted.
 *
 * Until the directory has been renamed into place nothing outside tmp/ has changed, and the VM is
 * only paused; whatever fails before that, it is resumed.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image-base.h"
#include "sandbox/agent-client.h"
#include "sandbox/metrics.h"

#define CHUNK_PAGES 256u

int sandbox_begin_sleep(struct sandbox *sb, struct problem *problem)
{
	int r;

	op_begin(sb, OP_SLEEP);
	r = op_step(sb, STEP_BEGIN);
	if (r < 0) {
		op_explain(sb, r, problem);
		problem_errno(problem, r, "putting sandbox %s to sleep", sb->record.id);
		return error_trace(r);
	}
	sandbox_await_pager(sb);
	sandbox_settle(sb, SANDBOX_PAUSING, false);
	return 0;
}

void sandbox_next_memory(const struct sandbox *sb, char ret[128])
{
	char memory[32];

	(void)snprintf(ret, 128, "sandboxes/%s/%s", sb->record.id,
		       sandbox_memory_name(sb->record.generation + 1, memory)); /* fits */
}

static int parent_image(struct sandbox *sb, uint64_t memory_bytes, struct problem *problem,
			int *ret_dirfd, struct image **ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_fd_ int fd = -1;
	char memory[32];
	int r;

	if (!sb->manifest.id[0] || sb->record.disk_only) /* it was booted */
		return image_open_zero(memory_bytes / DORM_PAGE_SIZE, ret);
	fd = file_open_dir(sb->dirfd, sandbox_memory_name(sb->record.generation, memory));
	if (fd < 0) {
		problem_errno(problem, fd, "memory of sandbox %s", sb->record.id);
		return fd;
	}
	r = image_open(fd, sb->host->keys, problem, &image);
	if (r != 0)
		return r > 0 ? -EBADMSG : error_trace(r);
	/* Unchanged pages will refer to it, so it must be what the guest was woken from. */
	if (sb->record.image_id[0] && strcmp(image_id(image), sb->record.image_id)) {
		problem_set(problem, 500,
			    "the memory directory of sandbox %s was replaced: it holds image %s, "
			    "but the sandbox runs on %s",
			    sb->record.id, image_id(image), sb->record.image_id);
		return -EBADMSG;
	}
	*ret = take_ptr(image);
	*ret_dirfd = take_fd(fd);
	return 0;
}

/* Generation 0 of a sandbox that was not booted is a clone: others run from that image too. */
static int put_base(struct sandbox *sb, int dirfd, int parent_fd, struct manifest *m,
		    struct problem *problem)
{
	bool others = sb->record.generation == 0 && !sb->record.disk_only;

	return image_base_put(dirfd, parent_fd, &sb->manifest, others, problem, m->base_image_id);
}

static int add_range(struct sandbox *sb, struct image_writer *w, const struct vmm_range *range,
		     char *chunk, struct problem *problem)
{
	for (uint64_t done = 0; done < range->n_pages;) {
		uint64_t n = MIN(range->n_pages - done, (uint64_t)CHUNK_PAGES);
		int r = op_step(sb, STEP_MEMORY);

		if (r < 0)
			return error_trace(r);
		r = vmm_read(sb->vmm, range->gfn + done, n, chunk);
		if (r < 0) {
			problem_errno(problem, r, "reading the memory of sandbox %s",
				      sb->record.id);
			return error_trace(r);
		}
		r = image_writer_add(w, range->gfn + done, n, chunk, problem);
		if (r != 0)
			return r > 0 ? -EBADMSG : error_trace(r);
		done += n;
	}
	return 0;
}

static int write_memory(struct sandbox *sb, int dirfd, const struct image_writer_options *options,
			uint64_t memory_bytes, struct problem *problem, struct manifest *m)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *parent = NULL;
	_cleanup_free_ struct vmm_range *ranges = NULL;
	_cleanup_free_ char *chunk = NULL;
	_cleanup_fd_ int parent_fd = -1;
	size_t n = 0;
	int r;

	r = parent_image(sb, memory_bytes, problem, &parent_fd, &parent);
	if (r < 0)
		return error_trace(r);
	chunk = aligned_alloc(DORM_PAGE_SIZE, CHUNK_PAGES * DORM_PAGE_SIZE);
	if (!chunk)
		return -ENOMEM;
	r = vmm_scan(sb->vmm, &ranges, &n);
	if (r < 0) {
		problem_errno(problem, r, "finding the changed pages of sandbox %s", sb->record.id);
		return error_trace(r);
	}
	r = image_writer_new(dirfd, parent, parent_fd, options, problem, &w);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = add_range(sb, w, &ranges[i], chunk, problem);
	if (r == 0)
		r = image_writer_commit(w, &m->stats, m->image_id, problem);
	if (r == 0)
		r = put_base(sb, dirfd, parent_fd, m, problem);
	return r > 0 ? -EBADMSG : error_trace(r);
}

void sandbox_describe_save(struct sandbox *sb, const char *id, const char *name, struct manifest *m)
{
	const struct manifest *parent = &sb->manifest;

	str_copy(m->id, sizeof(m->id), id);
	str_copy(m->name, sizeof(m->name), name ? name : "");
	/* The nearest ancestor that anybody can see: a sandbox's own memories come and go. */
	str_copy(m->parent_id, sizeof(m->parent_id),
		 parent->id[0] == SANDBOX_MEMORY_PREFIX ? parent->parent_id : parent->id);
	str_copy(m->template_id, sizeof(m->template_id), sb->record.template_id);
	str_copy(m->source_id, sizeof(m->source_id), sb->record.id);
	m->created_ns = clock_real_ns();
	/* Write amplification is told from what sleeps and compactions wrote since the template. */
	if (parent->id[0]) {
		m->lineage_sleeps = parent->lineage_sleeps + 1;
		m->lineage_stored = parent->lineage_stored;
		m->lineage_compacted = parent->lineage_compacted;
	}
	m->memory_bytes = parent->memory_bytes;
	m->cpus = parent->cpus;
	str_copy(m->vmm, sizeof(m->vmm), "qemu");
	str_copy(m->vmm_version, sizeof(m->vmm_version), sb->host->vmm_version);
	str_copy(m->accel, sizeof(m->accel),
		 sb->record.disk_only ? sb->host->accel : parent->accel);
	m->tsc_khz = sb->host->tsc_khz;
	m->network = parent->network;
	str_copy(m->kernel_version, sizeof(m->kernel_version), parent->kernel_version);
	m->defaults = json_incref(parent->defaults);
}

/* Of a sealed sandbox it reaches the disk only encrypted, which the commit does. */
static int keep_device(struct snapshot_tmp *tmp, int from, bool sealed)
{
	_cleanup_fd_ int fd = -1;
	off_t size, at = 0;

	if (sealed) {
		tmp->device_fd = fcntl(from, F_DUPFD_CLOEXEC, 3);
		return tmp->device_fd < 0 ? error_errno() : 0;
	}
	size = lseek(from, 0, SEEK_END);
	fd = openat(tmp->dirfd, "device", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (size < 0 || fd < 0)
		return error_errno();
	while (at < size) {
		ssize_t n = sendfile(fd, from, &at, (size_t)(size - at));

		if (n <= 0)
			return n < 0 ? error_errno() : error_trace(-EIO);
	}
	return 0;
}

/* The VMM writes into memory, never into the store: what goes wrong there is ours to tell. */
static int save_device(struct sandbox *sb, struct snapshot_tmp *tmp, struct problem *problem)
{
	_cleanup_fd_ int fd = memfd_create("dorm-device", MFD_CLOEXEC);
	int r = fd < 0 ? error_errno()
		       : vmm_save_device(sb->vmm, fd, deadline_after_ms(sb->host->limits.pause_ms),
					 problem);

	if (r == 0)
		r = keep_device(tmp, fd, sb->host->keys != NULL);
	if (r < 0)
		problem_errno(problem, r, "saving the device state of sandbox %s", sb->record.id);
	return error_trace(r);
}

static int write_paused(struct sandbox *sb, struct snapshot_tmp *tmp, const char *final,
			const struct image_writer_options *options, struct manifest *m,
			struct problem *problem, struct sandbox_save_timings *t)
{
	uint64_t t0 = clock_now_ns(), t1;
	int r;

	r = op_step(sb, STEP_PAUSE);
	if (r == 0)
		r = vmm_pause(sb->vmm, deadline_after_ms(sb->host->limits.pause_ms), problem);
	if (r < 0) {
		problem_errno(problem, r, "pausing sandbox %s", sb->record.id);
		return error_trace(r);
	}
	r = op_step(sb, STEP_DEVICE);
	if (r == 0)
		r = save_device(sb, tmp, problem);
	t1 = clock_now_ns();
	t->device_ns = t1 - t0;
	if (r == 0)
		r = op_step(sb, STEP_DISKS);
	if (r == 0)
		r = sandbox_save_disks(sb, tmp->dirfd, m, problem);
	if (r == 0)
		r = write_memory(sb, tmp->dirfd, options, m->memory_bytes, problem, m);
	if (m->lineage_sleeps)
		m->lineage_stored += m->stats.bytes_stored;
	if (r == 0)
		r = op_step(sb, STEP_COMMIT);
	if (r == 0)
		r = snapshot_commit(tmp, sb->host->store->root_fd, final, m, sb->host->keys,
				    problem);
	t->memory_ns = clock_now_ns() - t1;
	return error_trace(r);
}

/*
 * Best effort: a guest that does not answer is saved as it is, and its manifest says so.
 * Return: the channel, out of everybody's reach, but connected until the device state is saved: a
 * guest that saw its port closed would have to be told so again after every wake.
 */
static struct channel *prepare(struct sandbox *sb, struct manifest *m,
			       struct sandbox_save_timings *t)
{
	uint64_t t0 = clock_now_ns();
	int r;

	r = sb->channel ? agent_prepare(sb->channel, sb->host->limits.prepare_ms, &m->prepare)
			: -ENOTCONN;
	t->prepare_ns = clock_now_ns() - t0;
	m->prepared = r == 0;
	if (r < 0) {
		log_warn("sandbox=%s the guest did not prepare for its snapshot: %s", sb->record.id,
			 strerrordesc_np(-r));
		m->prepare = json_pack("[{s:s, s:b, s:f, s:s}]", "name", "answer", "ok", 0, "ms",
				       (double)t->prepare_ns / NSEC_PER_MSEC, "error",
				       strerrordesc_np(-r)); /* NULL without memory: left out */
	}
	return sandbox_withdraw(sb);
}

int sandbox_run_on(struct sandbox *sb, struct problem *problem)
{
	struct problem local = PROBLEM_INIT;
	struct sandbox_timings t = {0};
	int r;

	r = vmm_resume(sb->vmm, deadline_after_ms(sb->host->limits.pause_ms), &local);
	if (r == 0)
		r = sandbox_connect(sb, -1, sb->host->limits.answer_ms, &local, &t);
	if (r < 0 && sandbox_is_stalled(sb)) /* it runs, but for want of space; see disk-full.c */
		return 0;
	if (r < 0) {
		problem_errno(&local, r, "resuming sandbox %s", sb->record.id);
		sandbox_fail(sb, "it could not go on after being saved: %s", local.message);
		if (problem && !problem_is_set(problem))
			*problem = local;
	}
	return error_trace(r);
}

/* What was written is what counts: the commit has added sizes and digests to the manifest. */
int sandbox_read_saved(struct sandbox *sb, const char *final, struct manifest *m,
		       struct problem *problem)
{
	_cleanup_fd_ int fd = file_open_dir(sb->host->store->root_fd, final);
	int r;

	if (fd < 0)
		return error_trace(fd);
	manifest_deinit(m);
	*m = (struct manifest){0};
	r = snapshot_open(fd, sb->host->keys, problem, m);
	return r > 0 ? -EBADMSG : error_trace(r);
}

int sandbox_save(struct sandbox *sb, const char *final, const char *id, const char *name,
		 const struct image_writer_options *options, struct problem *problem,
		 struct sandbox_save_timings *timings, struct manifest *ret_manifest)
{
	struct sandbox_save_timings t = {0};
	struct snapshot_tmp tmp;
	struct manifest m = {0};
	uint64_t t0 = clock_now_ns();
	struct channel *ch;
	int r;

	r = sandbox_refuse_stalled(sb, "saved", problem);
	if (r == 0)
		r = op_step(sb, STEP_PREPARE);
	if (r == 0)
		r = snapshot_begin(sb->host->store->root_fd, sb->host->store->root, problem, &tmp);
	if (r < 0) {
		problem_errno(problem, r, "saving sandbox %s", sb->record.id);
		return error_trace(r); /* the guest has not noticed anything */
	}
	ch = prepare(sb, &m, &t);
	sandbox_describe_save(sb, id, name, &m);
	r = write_paused(sb, &tmp, final, options, &m, problem, &t);
	snapshot_abort(&tmp, sb->host->store->root_fd);
	channel_close(ch);
	if (r == 0)
		r = sandbox_read_saved(sb, final, &m, problem);
	if (r < 0) {
		problem_errno(problem, r, "saving sandbox %s", sb->record.id);
		manifest_deinit(&m);
		(void)snapshot_delete(sb->host->store->root_fd, final, NULL); /* seldom there */
		(void)sandbox_run_on(sb, NULL); /* logs and records it when that fails too */
		return error_trace(r);
	}
	sandbox_remember_disks(sb, &m);
	t.total_ns = clock_now_ns() - t0;
	t.bytes_stored = m.stats.bytes_stored;
	t.pages_stored = m.stats.pages_stored;
	metrics_save(&t);
	*timings = t;
	*ret_manifest = m;
	return 0;
}
