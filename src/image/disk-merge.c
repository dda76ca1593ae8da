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

struct disk_merge_choice disk_merge_choose(const uint64_t *sizes, const bool *own, uint32_t n,
				    uint32_t max, bool force)
{
	struct disk_merge_choice merge = {.first = n ? n - 1 : 0, .last = n ? n - 1 : 0};
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
	int dirfd; /* disks/ */
	nlink_t own_links; /* a layer with as many names is nobody else's */
	struct manifest *m;
	struct disk_device device;
	struct disk_merge_choice merge;
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

static int choose(struct placement *p, uint32_t max, bool force)
{
	uint64_t sizes[SNAPSHOT_MAX_DISKS];
	bool own[SNAPSHOT_MAX_DISKS];

	for (uint32_t i = 0; i < p->device.n_layers; i++) {
		struct stat st;

		if (fstatat(p->dirfd, layer(p, i)->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return error_errno();
		sizes[i] = (uint64_t)st.st_blocks * 512;
		own[i] = st.st_nlink <= p->own_links;
	}
	p->merge = disk_merge_choose(sizes, own, p->device.n_layers, max, force);
	return 0;
}

bool disk_chain_has_own(int dirfd, const struct manifest *m)
{
	struct placement p = {.m = (struct manifest *)m, .own_links = 1};
	_cleanup_fd_ int disks = -1;

	if (find_writable(m, NULL, &p.device) != 1 || plain_dir_open(dirfd, "disks", NULL, &disks))
		return false;
	p.dirfd = disks;
	return choose(&p, DISK_CHAIN_MAX, true) == 0 && p.merge.first < p.merge.last;
}

static int open_layers(const struct placement *p, int *fds, size_t *n)
{
	for (uint32_t i = p->merge.first; i <= p->merge.last; i++) {
		int r = plain_file_open(p->dirfd, layer(p, i)->name, layer(p, i)->name, p->problem,
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
	_cleanup_fd_ int out = openat(p->dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
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
			(void)unlinkat(p->dirfd, name, 0); /* the directory goes with the failure */
		return r;
	}
	*ret_size = (uint64_t)st.st_size;
	p->stats->bytes_written += (uint64_t)st.st_blocks * 512;
	return 0;
}

/* The list of disks with the new file in the place of the merged ones, whose names go. */
static int replace(struct placement *p, const char *name, uint64_t size)
{
	struct snapshot_disk list[SNAPSHOT_MAX_DISKS], *top = layer(p, p->merge.last);
	bool gone[SNAPSHOT_MAX_DISKS] = {0};
	uint32_t n = 0;

	for (uint32_t i = p->merge.first; i <= p->merge.last; i++)
		if (unlinkat(p->dirfd, layer(p, i)->name, 0) < 0)
			return error_errno();
	*top = (struct snapshot_disk){.read_only = top->read_only, .size = size};
	str_copy(top->name, sizeof(top->name), name);
	str_copy(top->format, sizeof(top->format), "qcow2");
	if (p->merge.first)
		str_copy(top->backing, sizeof(top->backing), layer(p, p->merge.first - 1)->name);
	for (uint32_t i = p->merge.first; i < p->merge.last; i++)
		gone[p->device.layers[i]] = true;
	for (uint32_t i = 0; i < p->m->n_disks; i++)
		if (!gone[i])
			list[n++] = p->m->disks[i];
	memcpy(p->m->disks, list, n * sizeof(list[0]));
	p->m->n_disks = n;
	return 0;
}

static int merge(struct placement *p)
{
	char name[ID_LEN + 1];
	uint64_t size = 0;
	int r;

	id_new('d', name);
	r = write_merged(p, name, &size);
	if (r == 0)
		r = replace(p, name, size);
	if (r == 0) {
		p->stats->bytes_dropped += p->merge.bytes;
		p->stats->layers_after -= p->merge.last - p->merge.first;
	}
	return r == -EOPNOTSUPP ? 0 : r;
}

int disk_merge(int disks_dirfd, struct manifest *m, const struct disk_merge_options *options,
	       struct problem *problem, struct disk_merge_stats *ret)
{
	struct placement p = {.dirfd = disks_dirfd,
			      .own_links = options->own_links,
			      .m = m,
			      .cancelled = options->cancelled,
			      .userdata = options->userdata,
			      .problem = problem,
			      .stats = ret};
	int r = find_writable(m, problem, &p.device);

	*ret = (struct disk_merge_stats){0};
	if (r <= 0)
		return r;
	ret->layers_before = ret->layers_after = p.device.n_layers;
	r = choose(&p, options->max_layers, options->force);
	if (r == 0 && p.merge.first < p.merge.last)
		r = merge(&p);
	return r;
}
