/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk-merge.c - which layers of a disk become one, and where that is put
 *
 * The rule is that of memory layers (compact-choose.c): of the newest own layers as many as are not
 * much larger than what is above them together, so that a byte is rewritten O(log n) times in n
 * sleeps. With at most 8 layers and 1 MB written per sleep:
 *
 *     base 40 1 1 1 1 1 1 1      9 layers: the seven of 1 MB; 40 > 4 * 7: stop
 *     base 40 7                  and so on, six sleeps later
 *     base 40 7 1 1 1 1 1 1 1    7 <= 4 * 7: with it, 14; 40 <= 4 * 14: with it too
 *     base 54                    54 MB written for the 14 that are new since the last time
 *
 * Two at least are merged when the chain is too long, or it would stay so.
 */
#include "image/disk-merge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/str.h"
#include "image/outcome.h"
#include "image/plain-file.h"
#include "image/qcow2.h"
#include "image/snapshot-files.h"

#define GROWTH 4u

/* ---- devices ----------------------------------------------------------------------------------
 */

static int find_disk(const struct manifest *m, const char *name)
{
	for (uint32_t i = 0; i < m->n_disks; i++)
		if (!strcmp(m->disks[i].name, name))
			return (int)i;
	return -1;
}

static bool is_backing(const struct manifest *m, uint32_t disk)
{
	for (uint32_t i = 0; i < m->n_disks; i++)
		if (!strcmp(m->disks[i].backing, m->disks[disk].name))
			return true;
	return false;
}

/* From the head down, then turned round. Return: 0; -EBADMSG */
static int follow(const struct manifest *m, uint32_t head, bool *taken, struct disk_device *ret)
{
	struct disk_device d = {.read_only = m->disks[head].read_only};

	for (int i = (int)head; i >= 0; i = find_disk(m, m->disks[i].backing)) {
		if (taken[i])
			return -EBADMSG;
		taken[i] = true;
		d.layers[d.n_layers++] = (uint32_t)i;
		if (!m->disks[i].backing[0])
			break;
		if (find_disk(m, m->disks[i].backing) < 0)
			return -EBADMSG;
	}
	for (uint32_t i = 0; i < d.n_layers / 2; i++) {
		uint32_t other = d.layers[d.n_layers - 1 - i];

		d.layers[d.n_layers - 1 - i] = d.layers[i];
		d.layers[i] = other;
	}
	*ret = d;
	return 0;
}

int disk_devices(const struct manifest *m, struct problem *problem, struct disk_device *ret)
{
	bool taken[SNAPSHOT_MAX_DISKS] = {0};
	uint32_t n_layers = 0;
	int n = 0;

	for (uint32_t i = 0; i < m->n_disks; i++) {
		if (is_backing(m, i))
			continue;
		if (follow(m, i, taken, &ret[n]) < 0) {
			problem_set(problem, 500,
				    "manifest.json: the disks under %s are no chain of their own",
				    m->disks[i].name);
			return -EBADMSG;
		}
		n_layers += ret[n++].n_layers;
	}
	if (n_layers == m->n_disks)
		return n;
	problem_set(problem, 500, "manifest.json: a chain of disks has no end");
	return -EBADMSG;
}

/* ---- choosing ---------------------------------------------------------------------------------
 */

struct disk_merge disk_merge_choose(const uint64_t *sizes, const bool *own, uint32_t n,
				    uint32_t max, bool force)
{
	struct disk_merge merge = {.first = n ? n - 1 : 0, .last = n ? n - 1 : 0};
	uint32_t chosen = 0;

	if (!force && n <= max)
		return merge;
	for (uint32_t i = n; i-- > 1;) { /* never the lowest: it is the template's */
		bool too_many = !force && n - chosen + 1 > max;
		bool pays = own[i] && (force || !chosen || sizes[i] <= GROWTH * merge.bytes);

		if (!pays && !too_many)
			break;
		merge.first = i;
		merge.bytes += sizes[i];
		chosen++;
	}
	if (chosen < 2)
		merge.first = merge.last;
	return merge;
}

/* ---- placing ----------------------------------------------------------------------------------
 */

struct placement {
	int src, dst; /* the two directories disks/ */
	struct manifest *m;
	struct disk_device device;
	struct disk_merge merge;
	bool (*cancelled)(void *userdata);
	void *userdata;
	struct problem *problem;
	struct disk_merge_stats *stats;
};

static struct snapshot_disk *layer(const struct placement *p, uint32_t i)
{
	return &p->m->disks[p->device.layers[i]];
}

/* Return: 1 found; 0 the guest has no disk that it can write to; negative errno */
static int find_writable(const struct manifest *m, struct problem *problem, struct disk_device *ret)
{
	struct disk_device devices[SNAPSHOT_MAX_DISKS];
	int n = disk_devices(m, problem, devices);

	for (int i = 0; i < n; i++)
		if (!devices[i].read_only) {
			*ret = devices[i];
			return 1;
		}
	return MIN(n, 0);
}

bool disk_chain_is_long(const struct manifest *m)
{
	struct disk_device d;

	return find_writable(m, NULL, &d) == 1 && d.n_layers > DISK_CHAIN_MAX;
}

static int choose(struct placement *p, bool force)
{
	uint64_t sizes[SNAPSHOT_MAX_DISKS];
	bool own[SNAPSHOT_MAX_DISKS];

	for (uint32_t i = 0; i < p->device.n_layers; i++) {
		struct stat st;

		if (fstatat(p->src, layer(p, i)->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return error_errno();
		sizes[i] = (uint64_t)st.st_blocks * 512;
		own[i] = st.st_nlink == 1;
	}
	p->merge = disk_merge_choose(sizes, own, p->device.n_layers, DISK_CHAIN_MAX, force);
	return 0;
}

bool disk_chain_has_own(int dirfd, const struct manifest *m)
{
	struct placement p = {.m = (struct manifest *)m};
	_cleanup_fd_ int src = -1;

	if (find_writable(m, NULL, &p.device) != 1 || plain_dir_open(dirfd, "disks", NULL, &src))
		return false;
	p.src = src;
	return choose(&p, true) == 0 && p.merge.first < p.merge.last;
}

static int open_layers(const struct placement *p, int *fds, size_t *n)
{
	for (uint32_t i = p->merge.first; i <= p->merge.last; i++) {
		int r = plain_file_open(p->src, layer(p, i)->name, layer(p, i)->name, p->problem,
					&fds[*n], NULL);

		if (r)
			return r;
		(*n)++;
	}
	return 0;
}

static int write_merged(const struct placement *p, const char *name, uint64_t *ret_size)
{
	const struct snapshot_disk *below = p->merge.first ? layer(p, p->merge.first - 1) : NULL;
	_cleanup_fd_ int out = openat(p->dst, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int fds[SNAPSHOT_MAX_DISKS];
	struct stat st;
	size_t n = 0;
	int r = out < 0 ? error_errno() : open_layers(p, fds, &n);

	if (r == 0)
		r = disk_merge_write(fds, n, below ? below->name : NULL,
				     below ? below->format : NULL, out, p->cancelled, p->userdata,
				     p->problem);
	while (n)
		fd_close(fds[--n]);
	if (r == 0 && fstat(out, &st) < 0)
		r = error_errno();
	if (r) {
		if (out >= 0)
			(void)unlinkat(p->dst, name, 0); /* the directory goes with the failure */
		return r;
	}
	*ret_size = (uint64_t)st.st_size;
	p->stats->bytes_written += (uint64_t)st.st_blocks * 512;
	return 0;
}

/* The list of disks with the new file in the place of the merged ones. */
static void replace(struct placement *p, const char *name, uint64_t size)
{
	struct snapshot_disk list[SNAPSHOT_MAX_DISKS], *top = layer(p, p->merge.last);
	bool gone[SNAPSHOT_MAX_DISKS] = {0};
	uint32_t n = 0;

	str_copy(top->name, sizeof(top->name), name);
	str_copy(top->backing, sizeof(top->backing),
		 p->merge.first ? layer(p, p->merge.first - 1)->name : "");
	top->digest[0] = 0;
	top->size = size;
	for (uint32_t i = p->merge.first; i < p->merge.last; i++)
		gone[p->device.layers[i]] = true;
	for (uint32_t i = 0; i < p->m->n_disks; i++)
		if (!gone[i])
			list[n++] = p->m->disks[i];
	memcpy(p->m->disks, list, n * sizeof(list[0]));
	p->m->n_disks = n;
}

static int merge(struct placement *p)
{
	char name[ID_LEN + 1];
	uint64_t size = 0;
	int r;

	id_new('d', name);
	r = write_merged(p, name, &size);
	if (r == 0) {
		p->stats->bytes_dropped += p->merge.bytes;
		p->stats->layers_after -= p->merge.last - p->merge.first;
		replace(p, name, size);
	}
	return r == -EOPNOTSUPP ? 0 : r;
}

static int link_all(const struct placement *p)
{
	for (uint32_t i = 0; i < p->m->n_disks; i++) {
		const char *name = p->m->disks[i].name;
		int r;

		if (faccessat(p->dst, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			continue; /* the new one */
		r = plain_file_link(p->src, p->dst, name);
		if (r < 0) {
			problem_errno(p->problem, r, "disks/%s: cannot be linked", name);
			return error_trace(r);
		}
	}
	return 0;
}

int disk_merge_place(int src_dirfd, int dst_dirfd, struct manifest *m, bool force,
		     bool (*cancelled)(void *userdata), void *userdata, struct problem *problem,
		     struct disk_merge_stats *ret)
{
	_cleanup_fd_ int src = -1, dst = -1;
	struct placement p = {.m = m,
			      .cancelled = cancelled,
			      .userdata = userdata,
			      .problem = problem,
			      .stats = ret};
	int r, writable;

	*ret = (struct disk_merge_stats){0};
	if (!m->n_disks)
		return 0;
	r = plain_dir_open(src_dirfd, "disks", problem, &src);
	if (r == 0)
		r = plain_dir_open(dst_dirfd, "disks", problem, &dst);
	if (r)
		return r;
	p.src = src;
	p.dst = dst;
	r = writable = find_writable(m, problem, &p.device);
	if (writable == 1) {
		ret->layers_before = ret->layers_after = p.device.n_layers;
		r = choose(&p, force);
	}
	if (r == 0 && p.merge.first < p.merge.last)
		r = merge(&p);
	return r ? r : link_all(&p);
}
