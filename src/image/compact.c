/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compact.c - a snapshot with some of its layers merged, in the place of the old one
 *
 * What is merged: compact-choose.c, where the policy is described. How: compact-move.c. Here: the
 * snapshot around it.
 *
 * Whether a layer is the snapshot's own is read off its link count, which is the truth: one link is
 * ours. Somebody may link it the next moment; then what was rewritten frees nothing, and that is
 * all.
 *
 * The new snapshot is written below tmp/ like any other. To replace the old one, it is committed to
 * a name in tmp/ first, and then both change names in one step (RENAME_EXCHANGE). So the path
 * always leads to a complete snapshot, old or new with the same content, and what is left over lies
 * in tmp/, which store_open() empties:
 *
 *     tmp/s1 is written     path: old
 *     tmp/s1 -> tmp/c1      path: old   tmp/c1: new, complete
 *     exchange              path: new   tmp/c1: old
 *     fsync of both parents            (only now may the old one be taken apart)
 *     tmp/c1 is removed     path: new
 *
 * The layers of its writable disk are merged along with it (image/disk-merge.c), and on their own
 * when only their chain is too long.
 *
 * The base of the snapshot (image/image-base.h) goes along while enough is left to share. Layers of
 * the base are linked by whoever else has it, so they are no own ones and not merged; where they
 * are own, nobody is left to share with.
 *
 * Open images hold descriptors of the old files and never notice.
 */
#include "image/compact.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/compact-internal.h"
#include "image/disk-merge.h"
#include "image/image-base.h"
#include "image/outcome.h"
#include "image/snapshot-files.h"

#define GRAVE_LEN (ID_LEN + 8)

/* ---- looking ----------------------------------------------------------------------------------
 */

/* Stored bytes of a layer's frames, and how many of them are alive. */
static void weigh(const struct image *image, uint32_t layer, struct compact_layer *l)
{
	uint32_t frames;
	uint64_t pages;

	for (uint32_t i = 0; i < image_layer_frames(image, layer); i++)
		l->bytes += layer_frame_bytes(image->layers[layer], i);
	image_layer_live(image, layer, &frames, &pages, &l->live);
}

static int survey(int dirfd, const struct image *image, struct problem *problem,
		  struct compact_layer **ret)
{
	_cleanup_free_ struct compact_layer *layers =
		calloc(MAX(image_n_layers(image), 1u), sizeof(*layers));
	_cleanup_fd_ int layers_dirfd = -1;
	int r;

	if (!layers)
		return -ENOMEM;
	r = image_n_layers(image) ? plain_dir_open(dirfd, "layers", problem, &layers_dirfd) : 0;
	if (r)
		return r;
	for (uint32_t i = 0; i < image_n_layers(image); i++) {
		struct stat st;

		if (fstatat(layers_dirfd, image_layer_id(image, i), &st, AT_SYMLINK_NOFOLLOW) < 0) {
			r = error_errno();
			problem_errno(problem, r, "layer %s", image_layer_id(image, i));
			return r;
		}
		layers[i].own = st.st_nlink == 1;
		weigh(image, i, &layers[i]);
	}
	*ret = take_ptr(layers);
	return 0;
}

int compact_inspect(int dirfd, const struct compact_policy *policy, struct problem *problem,
		    struct compact_report *ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_free_ struct compact_layer *layers = NULL;
	struct compact_report report = {0};
	int r;

	r = image_open_for_check(dirfd, problem, &image);
	if (r == 0)
		r = survey(dirfd, image, problem, &layers);
	if (r)
		return error_trace(r);
	report.n_layers = image_n_layers(image);
	for (uint32_t i = 0; i < report.n_layers; i++)
		if (layers[i].own) {
			report.n_own++;
			report.own_bytes += image_layer_bytes(image, i);
			report.own_dead += layers[i].bytes - layers[i].live;
		}
	report.due = compact_due(layers, report.n_layers, policy);
	*ret = report;
	return 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

struct compaction {
	int root_fd;
	const char *root;
	int src_dirfd;
	const struct compact_options *options;
	struct image *image;
	struct compact_layer *layers;
	struct working_set set;	  /* empty when there is none */
	struct manifest manifest; /* the source's, then the new one's */
	struct compact_stats stats;
};

static void compaction_deinit(struct compaction *c)
{
	image_unref(c->image);
	free(c->layers);
	working_set_deinit(&c->set);
	manifest_deinit(&c->manifest);
}

/* One that is of another image or damaged is of no use to anybody, and stays behind. */
static int open_set(struct compaction *c, struct problem *problem)
{
	const uint32_t n = image_n_layers(c->image);
	_cleanup_free_ bool *mixed = calloc(MAX(n, 1u), sizeof(*mixed));
	int r = mixed ? working_set_read(c->src_dirfd, c->image, NULL, &c->set) : -ENOMEM;

	if (r > 0)
		return 0;
	if (r == 0)
		r = working_set_layout(&c->set, c->image, mixed);
	for (uint32_t i = 0; r == 0 && i < n; i++)
		c->layers[i].mixed = mixed[i];
	if (r < 0)
		problem_errno(problem, r, "working-set: cannot be taken along");
	return error_trace(r);
}

static int open_source(struct compaction *c, struct problem *problem)
{
	int r = snapshot_open(c->src_dirfd, c->options->keys, problem, &c->manifest);

	if (r == 0)
		r = image_open(c->src_dirfd, c->options->keys, problem, &c->image);
	if (r == 0 && strcmp(image_id(c->image), c->manifest.image_id))
		r = image_corrupt(problem, "map: its image id is %s, the manifest says %s",
				  image_id(c->image), c->manifest.image_id);
	if (r == 0)
		r = survey(c->src_dirfd, c->image, problem, &c->layers);
	return r ? r : open_set(c, problem);
}

static bool disks_are_due(const struct compaction *c)
{
	if (c->options->policy.off && !c->options->force)
		return false;
	return c->options->force ? disk_chain_has_own(c->src_dirfd, &c->manifest)
				 : disk_chain_is_long(&c->manifest);
}

static int choose(struct compaction *c)
{
	const struct compact_options *o = c->options;
	const uint32_t n = image_n_layers(c->image);

	uint32_t n_chosen = 0;

	if (o->force || compact_due(c->layers, n, &o->policy))
		n_chosen = compact_choose(c->layers, n, &o->policy, o->force);
	if (n_chosen)
		return 0;
	/* the disks alone: the same map is written again */
	return disks_are_due(c) ? 0 : COMPACT_E_NOT_DUE;
}

/* The device state of a sealed snapshot is encrypted anew by snapshot_commit(). */
static int copy_device(const struct compaction *c, int dirfd, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	int r;

	if (!c->options->keys || !c->manifest.device_bytes)
		return snapshot_link_device(c->src_dirfd, dirfd, &c->manifest, problem);
	r = snapshot_open_device(c->src_dirfd, &c->manifest, c->options->keys, problem, &fd);
	if (r)
		return r;
	r = plain_file_copy(fd, dirfd, "device");
	if (r < 0)
		problem_errno(problem, r, "device: copying it");
	return error_trace(r);
}

/* All are linked in @dirfd: what the source alone has, has two names now. */
static int merge_disks(struct compaction *c, int dirfd, struct problem *problem)
{
	const struct disk_merge_options o = {.max_layers = DISK_CHAIN_MAX,
					     .own_links = 2,
					     .force = c->options->force,
					     .cancelled = c->options->cancelled,
					     .userdata = c->options->userdata};
	_cleanup_fd_ int disks = -1;
	int r = c->manifest.n_disks ? plain_dir_open(dirfd, "disks", problem, &disks) : 0;

	return r || disks < 0 ? r : disk_merge(disks, &c->manifest, &o, problem, &c->stats.disk);
}

static int fill(struct compaction *c, int dirfd, struct problem *problem)
{
	struct manifest *m = &c->manifest;
	int r = compact_move(dirfd, c->src_dirfd, c->image, c->layers, &c->set, c->options, problem,
			     &c->stats, m->image_id);

	if (r == 0)
		r = copy_device(c, dirfd, problem);
	if (r == 0)
		r = snapshot_link_disks(c->src_dirfd, dirfd, m, problem);
	if (r == 0)
		r = merge_disks(c, dirfd, problem);
	if (r == 0)
		r = image_base_put(dirfd, c->src_dirfd, m, false, problem, m->base_image_id);
	m->lineage_compacted += c->stats.bytes_written + c->stats.disk.bytes_written;
	return r;
}

/* Write the new snapshot and commit it to @final. */
static int write_to(struct compaction *c, const char *final, struct problem *problem)
{
	struct snapshot_tmp tmp;
	int r = snapshot_begin(c->root_fd, c->root, problem, &tmp);

	if (r < 0)
		return r;
	r = fill(c, tmp.dirfd, problem);
	if (r == 0)
		r = snapshot_commit(&tmp, c->root_fd, final, &c->manifest, c->options->keys,
				    problem);
	snapshot_abort(&tmp, c->root_fd);
	return r;
}

/* ---- replacing --------------------------------------------------------------------------------
 */

static int is_source(const struct compaction *c, const char *path, struct problem *problem)
{
	struct stat at, source;
	int r = 0;

	if (fstatat(c->root_fd, path, &at, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fstat(c->src_dirfd, &source) < 0)
		r = -errno; /* deleted meanwhile: no surprise */
	else if (at.st_dev != source.st_dev || at.st_ino != source.st_ino)
		r = -ESTALE;
	if (r < 0)
		problem_errno(problem, r, "%s: not the snapshot that is to be compacted", path);
	return r;
}

static int exchange(const struct compaction *c, const char *path, const char *grave,
		    struct problem *problem)
{
	int r;

	if (renameat2(c->root_fd, grave, c->root_fd, path, RENAME_EXCHANGE) == 0)
		return 0;
	r = -errno;
	problem_errno(problem, r, "%s: exchanging it with %s", path, grave);
	if (r == -EINVAL)
		problem_hint(problem, "the file system cannot exchange two directories in one step "
				      "(renameat2); keep the store on ext4, XFS or Btrfs");
	return error_trace(r);
}

/* Until both names are durable the old snapshot must stay whole: a crash may bring it back. */
static int make_durable(const struct compaction *c, const char *path, const char *grave,
			struct problem *problem)
{
	int r = snapshot_fsync_parent(c->root_fd, path);

	if (r == 0)
		r = snapshot_fsync_parent(c->root_fd, grave);
	if (r < 0)
		problem_errno(problem, r, "%s: making the exchange durable", path);
	return error_trace(r);
}

static int replace(struct compaction *c, const char *path, struct problem *problem)
{
	char id[ID_LEN + 1], grave[GRAVE_LEN];
	int r;

	id_new('c', id);
	(void)snprintf(grave, sizeof(grave), "tmp/%s", id);
	r = write_to(c, grave, problem);
	if (r)
		return r;
	r = is_source(c, path, problem);
	if (r == 0)
		r = exchange(c, path, grave, problem);
	if (r == 0) {
		r = make_durable(c, path, grave, problem);
		/* taken back for good before the other one is emptied, or a power cut could bring
		 * its name back without its contents; else both stay for store_open() */
		if (r < 0 &&
		    (exchange(c, path, grave, NULL) < 0 || make_durable(c, path, grave, NULL) < 0))
			return r;
	}
	/* The new one when it failed, else the old one. What cannot be removed, store_open() will.
	 */
	(void)file_remove_tree(c->root_fd, grave);
	return r;
}

int snapshot_compact(int root_fd, const char *root, int src_dirfd, const char *final,
		     bool replacing, const char *id, const struct compact_options *options,
		     struct problem *problem, struct compact_stats *ret)
{
	struct compaction c = {
		.root_fd = root_fd, .root = root, .src_dirfd = src_dirfd, .options = options};
	int r;

	if (id && !id_is_valid(id)) {
		problem_set(problem, 400, "\"%.40s\" is not an identifier", id);
		return error_trace(-EINVAL);
	}
	r = open_source(&c, problem);
	if (r == 0)
		r = choose(&c);
	if (r == 0 && id)
		str_copy(c.manifest.id, sizeof(c.manifest.id), id);
	if (r == 0)
		r = replacing ? replace(&c, final, problem) : write_to(&c, final, problem);
	if (r == 0)
		*ret = c.stats;
	if (r < 0 && r != -ECANCELED)
		problem_errno(problem, r, "%s: compacting a snapshot", final);
	compaction_deinit(&c);
	return r;
}
