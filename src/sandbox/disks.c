/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disks.c - the writable disk of a sandbox, from wake to sleep
 *
 * A snapshot's disk is a chain of immutable files. A VM gets one more on top, empty, that it alone
 * writes: disks/<name> of the sandbox. When a snapshot is taken, with the VM paused at the instant
 * of its memory, QEMU is given a new one over it and flushes what was the top so far; that file
 * never changes again, is linked into the snapshot, and the VM runs on with the new one.
 *
 *     memory-3/disks   root | base a b      (| between devices)
 *     woken            root | base a b d1       d1 empty, record: below 3, d1
 *     snapshot s       root | base a b d1       in snapshots/s/disks
 *     runs on          root | base a b d1 d2    record: below 3, d1 d2
 *     asleep           root | base a b d1 d2    in memory-4/disks; disks/ is emptied
 *
 * A name is in the record before QEMU hears of it. A daemon that dies in between is followed by one
 * that asks QEMU for the file that it writes, and takes back a name that it does not know.
 *
 * Chains are bounded: above DISK_CHAIN_LIMIT layers the newest are merged as part of the snapshot,
 * and a VM that runs on gets the merged file in their place (its content is the same, so it does
 * not matter which of the two a crash leaves in the record: both are there until it is written).
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/disk-merge.h"
#include "image/plain-file.h"
#include "image/qcow2.h"

#define FOLDER	    "disks"
#define DISK_QMP_MS 20000 /* a flush of what the guest wrote last may be long */

/* ---- what there is ----------------------------------------------------------------------------
 */

/* The devices as the manifest of its memory has them. Return: how many; negative errno */
static int find_devices(const struct sandbox *sb, struct problem *problem,
			struct disk_device ret[SNAPSHOT_MAX_DISKS])
{
	int n = disk_devices(&sb->manifest, problem, ret);

	for (int i = 0; i < n; i++) {
		bool last = i == n - 1;

		if (ret[i].read_only ? ret[i].n_layers != 1 : !last) {
			problem_set(problem, 500,
				    "the disks of sandbox %s are not what a guest can have: at "
				    "most one that is written, as the last, and raw ones before it",
				    sb->record.id);
			return -EBADMSG;
		}
	}
	return n;
}

static const struct snapshot_disk *disk_of(const struct sandbox *sb, const struct disk_device *d,
					   uint32_t layer)
{
	return &sb->manifest.disks[d->layers[layer]];
}

static int open_folder(struct sandbox *sb)
{
	return file_open_dir(sb->dirfd, FOLDER);
}

static void set_record(struct sandbox *sb, const struct record_disk *disk)
{
	LOCK_SCOPE(&sb->info);
	sb->record.disk = *disk;
}

/* ---- before a VM starts -----------------------------------------------------------------------
 */

/* The file on top says how large the disk is, and a header must not name more than the manifest. */
static int measure(struct sandbox *sb, const struct disk_device *d, struct problem *problem,
		   uint64_t *ret)
{
	const struct snapshot_disk *low = disk_of(sb, d, 0), *top = disk_of(sb, d, d->n_layers - 1);
	_cleanup_fd_ int memory = -1, disks = -1, fd = -1, low_fd = -1;
	struct qcow2_info info = {0};
	char name[32];
	int r;

	memory = file_open_dir(sb->dirfd, sandbox_memory_name(sb->record.generation, name));
	r = memory < 0 ? memory : plain_dir_open(memory, "disks", problem, &disks);
	if (r == 0)
		r = plain_file_open(disks, low->name, low->name, problem, &low_fd, ret);
	if (r == 0 && !strcmp(low->format, "qcow2"))
		r = qcow2_read_info(low_fd, problem, &info);
	if (r == 0 && info.backing[0]) {
		problem_set(problem, 500, "disks/%s: needs %s, which the manifest does not say",
			    low->name, info.backing);
		r = -EBADMSG;
	}
	if (r == 0)
		r = plain_file_open(disks, top->name, top->name, problem, &fd, NULL);
	if (r == 0 && !strcmp(top->format, "qcow2")) {
		r = qcow2_read_info(fd, problem, &info);
		*ret = info.virtual_bytes;
	}
	return r > 0 ? -EBADMSG : error_trace(r);
}

/* By the file itself: the manifest of a template that boots does not know it yet. */
uint64_t sandbox_disk_bytes(struct sandbox *sb)
{
	_cleanup_fd_ int folder = sb->record.disk.n ? open_folder(sb) : -1, fd = -1;
	struct qcow2_info info;

	if (folder >= 0)
		fd = openat(folder, sb->record.disk.names[0], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && qcow2_read_info(fd, NULL, &info) == 0 ? info.virtual_bytes : 0;
}

/* What a jailed VMM opens must be its user's. */
static int give_to_vm(const struct sandbox *sb, int fd)
{
	uid_t uid = sb->record.uid;

	return uid && fchown(fd, uid, uid) < 0 ? error_errno() : 0;
}

int sandbox_own_disks(struct sandbox *sb, struct problem *problem)
{
	_cleanup_fd_ int folder = -1, fd = -1;
	int r = 0;

	if (!sb->record.disk.n || !sb->record.uid)
		return 0;
	folder = open_folder(sb);
	/* its user may go through the folder, and do nothing else with it */
	if (folder < 0 || fchmod(folder, 0711) < 0)
		r = folder < 0 ? folder : error_errno();
	if (r == 0) {
		fd = openat(folder, sb->record.disk.names[0], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		r = fd < 0 ? error_errno() : give_to_vm(sb, fd);
	}
	problem_errno(r < 0 ? problem : NULL, r, "giving the disk of sandbox %s to its VM",
		      sb->record.id);
	return error_trace(r);
}

/* An empty file @name over @below. */
static int make_overlay(struct sandbox *sb, const char *name, uint64_t bytes, const char *below,
			const char *format, struct problem *problem)
{
	_cleanup_fd_ int folder = open_folder(sb), fd = -1;
	int r = folder < 0 ? folder : 0;

	if (r == 0) {
		fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		r = fd < 0 ? error_errno() : qcow2_create(fd, bytes, below, format);
	}
	if (r == 0)
		r = give_to_vm(sb, fd);
	if (r == 0)
		return 0;
	problem_errno(problem, r, "making a disk for sandbox %s", sb->record.id);
	if (fd >= 0)
		(void)unlinkat(folder, name, 0); /* the error counts */
	return error_trace(r);
}

void sandbox_forget_disks(struct sandbox *sb)
{
	const struct record_disk none = {0};

	if (file_remove_tree(sb->dirfd, FOLDER) < 0)
		log_warn("sandbox=%s what its VM wrote last could not be removed", sb->record.id);
	set_record(sb, &none);
}

int sandbox_make_disk(struct sandbox *sb, struct problem *problem)
{
	struct disk_device devices[SNAPSHOT_MAX_DISKS], *d;
	struct record_disk disk = {.n = 1};
	const struct snapshot_disk *top;
	uint64_t bytes = 0;
	int n = find_devices(sb, problem, devices), r;

	sandbox_forget_disks(sb);
	if (n <= 0 || devices[n - 1].read_only)
		return MIN(n, 0);
	d = &devices[n - 1];
	top = disk_of(sb, d, d->n_layers - 1);
	r = measure(sb, d, problem, &bytes);
	if (r == 0 && mkdirat(sb->dirfd, FOLDER, 0700) < 0)
		r = error_errno();
	id_new('d', disk.names[0]);
	disk.below = d->n_layers;
	if (r == 0)
		r = make_overlay(sb, disk.names[0], bytes, top->name, top->format, problem);
	if (r < 0) {
		problem_errno(problem, r, "the disk of sandbox %s", sb->record.id);
		return error_trace(r);
	}
	set_record(sb, &disk);
	return 0;
}

/* ---- telling the VMM --------------------------------------------------------------------------
 */

static const char *keep(struct sandbox_disk_paths *p, char *path)
{
	if (path)
		p->text[p->n++] = path;
	return path;
}

static const char *memory_path(struct sandbox *sb, struct sandbox_disk_paths *p,
			       const struct disk_device *d, uint32_t layer)
{
	char memory[32];

	return keep(p, str_printf("%s/%s/disks/%s", sb->path,
				  sandbox_memory_name(sb->record.generation, memory),
				  disk_of(sb, d, layer)->name));
}

static const char *own_path(struct sandbox *sb, struct sandbox_disk_paths *p, unsigned i)
{
	return keep(p, str_printf("%s/" FOLDER "/%s", sb->path, sb->record.disk.names[i]));
}

void sandbox_disk_paths_deinit(struct sandbox_disk_paths *p)
{
	while (p->n)
		free(p->text[--p->n]);
}

int sandbox_fill_disks(struct sandbox *sb, struct sandbox_disk_paths *p, struct vmm_config *config,
		       struct problem *problem)
{
	struct disk_device devices[SNAPSHOT_MAX_DISKS];
	int n = find_devices(sb, problem, devices);

	if (n < 0 || n > VMM_MAX_DISKS)
		return n < 0 ? n : error_trace(-EBADMSG);
	for (int i = 0; i < n; i++) {
		const struct disk_device *d = &devices[i];
		struct vmm_disk *disk = &config->disks[config->n_disks++];

		disk->read_only = d->read_only;
		for (uint32_t k = 0; !d->read_only && k < d->n_layers; k++)
			p->layers[disk->n_layers++] = (struct vmm_layer){
				.path = memory_path(sb, p, d, k),
				.raw = !strcmp(disk_of(sb, d, k)->format, "raw")};
		disk->layers = d->read_only ? NULL : p->layers;
		disk->path = d->read_only ? memory_path(sb, p, d, 0) : own_path(sb, p, 0);
	}
	return 0;
}

/* ---- while it runs ----------------------------------------------------------------------------
 */

/* One more name in the record, one more file under the VM. */
static int push(struct sandbox *sb, uint64_t bytes, struct problem *problem)
{
	const struct record_disk before = sb->record.disk;
	struct record_disk disk = before;
	char *top = disk.names[disk.n - 1], *fresh = disk.names[disk.n];
	_cleanup_free_ char *path = NULL;
	_cleanup_fd_ int folder = open_folder(sb);
	int r;

	if (disk.n == RECORD_MAX_LAYERS) {
		problem_set(problem, 409,
			    "the disk of sandbox %s has %u layers, which cannot be "
			    "merged",
			    sb->record.id, disk.below + disk.n);
		return -E2BIG;
	}
	id_new('d', fresh);
	disk.n++;
	path = str_printf("%s/" FOLDER "/%s", sb->path, fresh);
	r = path ? make_overlay(sb, fresh, bytes, top, "qcow2", problem) : -ENOMEM;
	if (r < 0)
		return error_trace(r);
	set_record(sb, &disk);
	r = sandbox_write_record(sb, false);
	if (r == 0)
		r = vmm_disk_push(sb->vmm, path, deadline_after_ms(DISK_QMP_MS), problem);
	if (r < 0) {
		problem_errno(problem, r, "writing the disk of sandbox %s", sb->record.id);
		problem_hint(problem, "is the host's disk full?");
		if (r == -ETIMEDOUT) /* QEMU may still do it: sandbox_adopt_disk() finds out */
			return r;
		set_record(sb, &before);
		(void)sandbox_write_record(sb, false); /* a name too many is found out later */
		(void)unlinkat(folder, fresh, 0);
	}
	return error_trace(r);
}

static void add_memory_disks(struct sandbox *sb, const struct disk_device *devices, int n,
			     struct manifest *m)
{
	for (int i = 0; i < n; i++) {
		const struct disk_device *d = &devices[i];
		uint32_t n_layers = d->read_only ? d->n_layers : sb->record.disk.below;

		for (uint32_t k = 0; k < n_layers && k < d->n_layers; k++) {
			m->disks[m->n_disks] = *disk_of(sb, d, k);
			m->disks[m->n_disks++].read_only = true;
		}
	}
}

/* What is known of a file that was in a snapshot already: its digest need not be made again. */
static const struct snapshot_disk *remembered(const struct sandbox *sb, const char *name)
{
	for (unsigned i = 0; i < sb->n_known_disks; i++)
		if (!strcmp(sb->known_disks[i].name, name))
			return &sb->known_disks[i];
	return NULL;
}

void sandbox_remember_disks(struct sandbox *sb, const struct manifest *m)
{
	memcpy(sb->known_disks, m->disks, sizeof(sb->known_disks));
	sb->n_known_disks = m->n_disks;
}

/* Nothing was written into it, not even a table: the file has the size that it was made with. */
static bool is_bare(const struct stat *st, const struct qcow2_info *info)
{
	return (uint64_t)st->st_size <= qcow2_empty_bytes(info->virtual_bytes);
}

/* Only a file that is in no snapshot yet, and that no VM writes any more, may be changed. */
static int correct_backing(int folder, const char *name, const struct stat *st, const char *backing,
			   struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	int r;

	if (st->st_nlink != 1) {
		problem_set(problem, 500,
			    "disks/%s: it is in a snapshot, over another file than %s", name,
			    backing);
		return -EBADMSG;
	}
	fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_errno();
	r = qcow2_set_backing(fd, backing, problem);
	return r > 0 ? -EBADMSG : error_trace(r);
}

/* A layer of its own becomes a disk of the snapshot. There is one below it already. */
static int add_own(struct sandbox *sb, int folder, int to, const char *name, struct manifest *m,
		   struct problem *problem)
{
	const struct snapshot_disk *known = remembered(sb, name);
	struct snapshot_disk *d = &m->disks[m->n_disks], *below = d - 1;
	_cleanup_fd_ int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct qcow2_info info;
	struct stat st;
	int r = fd < 0 ? error_errno() : qcow2_read_info(fd, problem, &info);

	if (r == 0 && fstat(fd, &st) < 0)
		r = error_errno();
	if (r || is_bare(&st, &info))
		return r > 0 ? -EBADMSG : r;
	/* from here on it is the store's, and nobody writes it. Its VM reads it on: see below */
	if (fchown(fd, geteuid(), getegid()) < 0 || fchmod(fd, 0444) < 0)
		return error_errno();
	*d = known ? *known : (struct snapshot_disk){0};
	d->read_only = true;
	str_copy(d->name, sizeof(d->name), name);
	str_copy(d->format, sizeof(d->format), "qcow2");
	str_copy(d->backing, sizeof(d->backing), below->name);
	/* what lay below it may have been merged since it was made, or left out */
	if (strcmp(info.backing, below->name))
		r = correct_backing(folder, name, &st, below->name, problem);
	if (r < 0)
		return r;
	d->size = (uint64_t)st.st_size;
	m->n_disks++;
	return error_trace(plain_file_link(folder, to, name));
}

static int link_disks(struct sandbox *sb, const struct disk_device *devices, int n, int to,
		      struct manifest *m, struct problem *problem)
{
	const struct record_disk *disk = &sb->record.disk;
	_cleanup_fd_ int memory = -1, from = -1, folder = -1;
	char name[32];
	int r;

	add_memory_disks(sb, devices, n, m);
	memory = file_open_dir(sb->dirfd, sandbox_memory_name(sb->record.generation, name));
	r = memory < 0 ? memory : plain_dir_open(memory, "disks", problem, &from);
	for (uint32_t i = 0; r == 0 && i < m->n_disks; i++) {
		r = plain_file_link(from, to, m->disks[i].name);
		if (r < 0)
			problem_errno(problem, r, "linking disk %s of sandbox %s", m->disks[i].name,
				      sb->record.id);
	}
	if (r || !disk->n)
		return r > 0 ? -EBADMSG : error_trace(r);
	folder = open_folder(sb);
	r = folder < 0 ? folder : 0;
	for (unsigned i = 0; r == 0 && i + 1 < disk->n; i++) {
		if (m->n_disks == SNAPSHOT_MAX_DISKS) {
			problem_set(problem, 409, "the disk of sandbox %s has more than %d layers",
				    sb->record.id, SNAPSHOT_MAX_DISKS);
			return -E2BIG;
		}
		r = add_own(sb, folder, to, disk->names[i], m, problem);
		if (r < 0)
			problem_errno(problem, r, "disk %s of sandbox %s", disk->names[i],
				      sb->record.id);
	}
	m->disks[m->n_disks - 1].read_only = false;
	return r;
}

/* ---- merging under a VM that runs -------------------------------------------------------------
 */

/* What the record will be when the VM has the chain of @m under the file that it writes. */
static int merged_record(struct sandbox *sb, const struct manifest *m, struct record_disk *ret,
			 const char **ret_below)
{
	const struct record_disk *old = &sb->record.disk;
	struct disk_device devices[SNAPSHOT_MAX_DISKS], *d;
	int n = disk_devices(m, NULL, devices);

	if (n <= 0)
		return -EBADMSG;
	d = &devices[n - 1];
	*ret = (struct record_disk){.below = MIN(old->below, d->n_layers - 1)};
	for (uint32_t i = ret->below; i < d->n_layers; i++)
		memcpy(ret->names[ret->n++], m->disks[d->layers[i]].name, ID_LEN + 1);
	memcpy(ret->names[ret->n++], old->names[old->n - 1], ID_LEN + 1);
	*ret_below = d->n_layers > 1 ? m->disks[d->layers[d->n_layers - 2]].name : NULL;
	return 0;
}

static bool has_name(const struct record_disk *d, const char *name)
{
	for (unsigned i = 0; i < d->n; i++)
		if (!strcmp(d->names[i], name))
			return true;
	return false;
}

/* Nodes that are not needed any more, from the highest: those of before that the new one has not.
 */
static size_t find_gone(struct sandbox *sb, const struct record_disk *now,
			const struct disk_device *device, const char *gone[])
{
	const struct record_disk *old = &sb->record.disk;
	size_t n = 0;

	for (unsigned i = old->n; i-- > 0;)
		if (!has_name(now, old->names[i]))
			gone[n++] = old->names[i];
	for (unsigned i = old->below; i-- > now->below;)
		gone[n++] = disk_of(sb, device, i)->name;
	return n;
}

/* Failing is no harm: the VM goes on with the longer chain. */
static void rebase(struct sandbox *sb, const struct disk_device *device, int merged_dirfd,
		   const struct manifest *m)
{
	const struct record_disk old = sb->record.disk;
	const char *gone[RECORD_MAX_LAYERS + SNAPSHOT_MAX_DISKS], *below, *merged, *top;
	_cleanup_free_ char *top_path = NULL, *merged_path = NULL;
	_cleanup_fd_ int folder = open_folder(sb);
	struct problem p = PROBLEM_INIT;
	struct record_disk now;
	size_t n_gone;
	int r = folder < 0 ? folder : merged_record(sb, m, &now, &below);

	if (r < 0)
		return;
	merged = now.names[now.n - 2];
	top = now.names[now.n - 1];
	top_path = str_printf("%s/" FOLDER "/%s", sb->path, top);
	merged_path = str_printf("%s/" FOLDER "/%s", sb->path, merged);
	n_gone = find_gone(sb, &now, device, gone);
	r = top_path && merged_path ? plain_file_link(merged_dirfd, folder, merged) : -ENOMEM;
	if (r == 0 && fchmodat(folder, merged, 0444, 0) < 0) /* a jailed VM must read it */
		r = error_errno();
	if (r == 0)
		r = vmm_disk_rebase(sb->vmm, top_path, merged_path, below, gone, n_gone,
				    deadline_after_ms(DISK_QMP_MS), &p);
	if (r < 0) {
		log_warn("sandbox=%s its disk keeps %u layers: %s", sb->record.id,
			 old.below + old.n, problem_is_set(&p) ? p.message : strerrordesc_np(-r));
		return; /* the file stays until the VM ends: QEMU may have opened it */
	}
	set_record(sb, &now);
	if (sandbox_write_record(sb, false) < 0)
		return; /* the old files belong to the old record */
	for (unsigned i = 0; i < old.n; i++)
		if (!has_name(&now, old.names[i]))
			(void)unlinkat(folder, old.names[i],
				       0); /* gone with the VM at the latest */
}

static int shorten(struct sandbox *sb, const struct disk_device *device, int to, struct manifest *m,
		   struct problem *problem)
{
	/* names here: one in the snapshot that is being made, one in the sandbox */
	const struct disk_merge_options o = {.max_layers = DISK_CHAIN_LIMIT, .own_links = 2};
	struct disk_merge_stats stats;
	int r = disk_merge(to, m, &o, problem, &stats);

	if (r || stats.layers_after == stats.layers_before)
		return r > 0 ? -EBADMSG : error_trace(r);
	log_info("sandbox=%s disk layers=%u->%u written=%llu", sb->record.id, stats.layers_before,
		 stats.layers_after, (unsigned long long)stats.bytes_written);
	rebase(sb, device, to, m);
	return 0;
}

int sandbox_save_disks(struct sandbox *sb, int dirfd, struct manifest *m, struct problem *problem)
{
	struct disk_device devices[SNAPSHOT_MAX_DISKS];
	_cleanup_fd_ int to = file_open_dir(dirfd, "disks");
	uint64_t bytes = 0;
	int n = find_devices(sb, problem, devices), r = 0;

	m->n_disks = 0;
	if (n <= 0)
		return n;
	if (to < 0)
		return to;
	if (sb->record.disk.n) {
		r = measure(sb, &devices[n - 1], problem, &bytes);
		if (r == 0)
			r = push(sb, bytes, problem);
	}
	if (r == 0)
		r = link_disks(sb, devices, n, to, m, problem);
	if (r == 0 && sb->record.disk.n)
		r = shorten(sb, &devices[n - 1], to, m, problem);
	return r;
}

/* ---- after a restart --------------------------------------------------------------------------
 */

int sandbox_adopt_disk(struct sandbox *sb, struct problem *problem)
{
	struct record_disk disk = sb->record.disk;
	_cleanup_fd_ int folder = -1;
	char top[64];
	int r;

	if (!disk.n)
		return 0;
	r = vmm_disk_top(sb->vmm, deadline_after_ms(DISK_QMP_MS), problem, top);
	if (r < 0)
		return error_trace(r);
	if (!strcmp(top, disk.names[disk.n - 1]))
		return 0;
	if (disk.n < 2 || strcmp(top, disk.names[disk.n - 2])) {
		problem_set(problem, 500, "its VM writes to the disk %s, which nobody knows", top);
		return -EBADMSG;
	}
	folder = open_folder(sb);
	(void)unlinkat(folder, disk.names[--disk.n], 0); /* gone with the VM at the latest */
	set_record(sb, &disk);
	return 0;
}

/* ---- looking ----------------------------------------------------------------------------------
 */

struct sums {
	json_int_t own, shared, layers;
};

static void weigh(int dirfd, const char *name, struct sums *sums)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return; /* just merged, or removed */
	*(st.st_nlink == 1 ? &sums->own : &sums->shared) += (json_int_t)st.st_blocks * 512;
	sums->layers++;
}

json_t *sandbox_describe_disk(struct sandbox *sb)
{
	struct disk_device devices[SNAPSHOT_MAX_DISKS];
	_cleanup_fd_ int memory = -1, disks = -1, folder = -1;
	struct sums sums = {0};
	char name[32];
	int n = find_devices(sb, NULL, devices);
	const struct disk_device *d = n > 0 ? &devices[n - 1] : NULL;

	if (!d || d->read_only)
		return json_null();
	memory = file_open_dir(sb->dirfd, sandbox_memory_name(sb->record.generation, name));
	if (memory < 0 || plain_dir_open(memory, "disks", NULL, &disks) != 0)
		return json_null();
	for (uint32_t i = 0; i < d->n_layers; i++)
		weigh(disks, disk_of(sb, d, i)->name, &sums);
	folder = open_folder(sb);
	for (unsigned i = 0; folder >= 0 && i < sb->record.disk.n; i++)
		weigh(folder, sb->record.disk.names[i], &sums);
	return json_pack("{s:I, s:I, s:I, s:I}", "sizeBytes",
			 (json_int_t)disk_of(sb, d, d->n_layers - 1)->virtual_bytes, "ownBytes",
			 sums.own, "sharedBytes", sums.shared, "layers", sums.layers);
}
