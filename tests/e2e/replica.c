/* SPDX-License-Identifier: Apache-2.0 */
#include "replica.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "net/address.h"

#define COPY_PAGES 256u
#define STEP_MS	   30000

int memory_copy(struct vmm *vmm, int memory_fd, char *out, struct problem *problem)
{
	struct ram ram;
	int r = ram_find(vmm_pid(vmm), memory_fd, MEMORY_BYTES, problem, &ram);

	if (r < 0)
		return r;
	for (uint64_t gfn = 0; r == 0 && gfn < N_PAGES; gfn += COPY_PAGES)
		r = ram_read(&ram, gfn, COPY_PAGES, out + gfn * DORM_PAGE_SIZE);
	problem_errno(r < 0 ? problem : NULL, r, "reading the guest's memory");
	return error_trace(r);
}

int memory_compare(const char *expected, struct vmm *vmm, int memory_fd, enum page_order order,
		   struct problem *problem, struct diff *diff)
{
	_cleanup_free_ uint32_t *gfns = page_order_new(order, N_PAGES);
	char page[DORM_PAGE_SIZE];
	struct ram ram;
	int r = gfns ? ram_find(vmm_pid(vmm), memory_fd, MEMORY_BYTES, problem, &ram) : -ENOMEM;

	if (r < 0)
		return r;
	for (uint32_t i = 0; r == 0 && i < N_PAGES; i++) {
		r = ram_read(&ram, gfns[i], 1, page);
		if (r == 0)
			diff_pages(diff, gfns[i], 1, expected + gfns[i] * DORM_PAGE_SIZE, page);
	}
	problem_errno(r < 0 ? problem : NULL, r, "reading the guest's memory");
	return error_trace(r);
}

static enum vmm_register registered(const struct pager_session *session)
{
	static const enum vmm_register modes[PAGER_N_REGISTERS] = {
		[PAGER_REGISTER_MISSING] = VMM_REGISTER_MISSING,
		[PAGER_REGISTER_MINOR] = VMM_REGISTER_MINOR,
		[PAGER_REGISTER_NONE] = VMM_REGISTER_NONE,
	};

	return modes[session->reg];
}

static int start_replica(struct replica *p, const char *work_dir,
			 const struct pager_session *session, struct vmm **ret)
{
	const struct sandbox *sb = p->sb;
	const struct host *host = p->sb->host;
	char memory[32], paths[VMM_MAX_DISKS][4200];
	struct vmm_config config = {.work_dir = work_dir,
				    .preload = host->preload,
				    .pager_socket = session->socket_path,
				    .memory_fd = session->memory_fd,
				    .memory_bytes = sb->manifest.memory_bytes,
				    .reg = registered(session),
				    .cpus = sb->manifest.cpus,
				    .accel = sb->manifest.accel,
				    .n_disks = sb->manifest.n_disks,
				    .mac = sb->manifest.network ? NET_GUEST_MAC : NULL};

	sandbox_memory_name(sb->record.generation, memory);
	for (uint32_t i = 0; i < config.n_disks; i++) {
		(void)snprintf(paths[i], sizeof(paths[i]), "%s/%s/disks/%s", sb->path, memory,
			       sb->manifest.disks[i].name); /* bounded by sandbox_new() */
		config.disks[i] = (struct vmm_disk){.path = paths[i],
						    .read_only = sb->manifest.disks[i].read_only};
	}
	return vmm_start(&config, deadline_after_ms(STEP_MS), &p->problem, ret);
}

static int load_replica(struct replica *p, int memory_dirfd, struct vmm *vmm)
{
	_cleanup_fd_ int device = -1;
	int r = snapshot_open_device(memory_dirfd, &p->sb->manifest, NULL, &p->problem, &device);

	if (r != 0)
		return r > 0 ? -EBADMSG : r;
	r = vmm_load(vmm, device, deadline_after_ms(STEP_MS), &p->problem);
	if (r == 0)
		r = vmm_is_running(vmm, deadline_after_ms(STEP_MS));
	if (r > 0) {
		problem_set(&p->problem, 500, "the restored VM runs by itself");
		r = -EPROTO;
	}
	return r;
}

static int count_written(struct replica *p, struct vmm *vmm)
{
	_cleanup_free_ struct vmm_range *ranges = NULL;
	size_t n = 0;
	int r = vmm_scan(vmm, &ranges, &n);

	for (size_t i = 0; r == 0 && i < n; i++)
		p->written_by_vmm += ranges[i].n_pages;
	return r;
}

static int count_faults(struct replica *p)
{
	json_t *stats;
	int r = pager_client_session_stats(p->sb->host->pager, p->name, deadline_after_ms(STEP_MS),
					   &stats);

	if (r < 0)
		return r;
	p->faults = (uint64_t)json_integer_value(json_object_get(stats, "faults"));
	p->stored = (uint64_t)json_integer_value(json_object_get(stats, "faults_stored"));
	p->joined = (uint64_t)json_integer_value(json_object_get(stats, "faults_joined"));
	p->resident = (uint64_t)json_integer_value(json_object_get(stats, "faults_resident"));
	p->zero = (uint64_t)json_integer_value(json_object_get(stats, "faults_zero"));
	p->continued = (uint64_t)json_integer_value(json_object_get(stats, "pages_continued"));
	p->copied = (uint64_t)json_integer_value(json_object_get(stats, "pages_copied"));
	p->written_by_vmm -= MIN(p->written_by_vmm, p->copied); /* what was copied looks written */
	json_decref(stats);
	return 0;
}

static int restore_and_compare(struct replica *p, const char *work_dir, int memory_dirfd,
			       const struct pager_session *session)
{
	_cleanup_(vmm_freep) struct vmm *vmm = NULL;
	int r = start_replica(p, work_dir, session, &vmm);

	if (r == 0)
		r = load_replica(p, memory_dirfd, vmm);
	if (p->together)
		pthread_barrier_wait(p->together); /* those that failed too: nobody waits in vain */
	if (r == 0)
		r = memory_compare(p->expected, vmm, session->memory_fd, p->order, &p->problem,
				   &p->diff);
	if (r == 0)
		r = count_written(p, vmm);
	if (r == 0)
		r = count_faults(p);
	if (vmm && vmm_kill(vmm, deadline_after_ms(STEP_MS)) < 0)
		problem_set(&p->problem, 500, "the VM of %s does not die", p->name);
	return r;
}

static int check_replica(struct replica *p)
{
	const struct sandbox *sb = p->sb;
	struct pager_client *pager = p->sb->host->pager;
	struct pager_session session = {.memory_fd = -1};
	const bool overlay = p->mode == PAGER_MODE_OVERLAY;
	const struct pager_open_options options = {.mode = p->mode, .is_private = overlay};
	_cleanup_free_ char *work_dir = NULL;
	_cleanup_fd_ int dirfd = -1;
	char memory[32];
	int r;

	work_dir = str_printf("%s/%s", p->sb->host->run_dir, p->name);
	dirfd = file_open_dir(sb->dirfd, sandbox_memory_name(sb->record.generation, memory));
	r = !work_dir ? -ENOMEM : dirfd < 0 ? dirfd : file_mkdir_p(work_dir, 0700);
	if (r == 0)
		r = pager_client_open_as(pager, p->name, dirfd, NULL, N_PAGES, &options,
					 deadline_after_ms(STEP_MS), &p->problem, &session);
	if (r != 0 && p->together)
		pthread_barrier_wait(p->together);
	if (r != 0)
		return r > 0 ? -EBADMSG : r;
	r = restore_and_compare(p, work_dir, dirfd, &session);
	(void)pager_client_close_session(pager, p->name, deadline_after_ms(STEP_MS)); /* as below */
	fd_close(session.memory_fd);
	(void)file_remove_tree(AT_FDCWD, work_dir); /* the whole run directory goes in the end */
	return r;
}

void *replica_main(void *arg)
{
	struct replica *p = arg;

	p->r = check_replica(p);
	if (p->r < 0)
		problem_errno(&p->problem, p->r, "restoring %s", p->name);
	return NULL;
}
