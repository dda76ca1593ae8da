/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot-clone.c - a second name for everything in a snapshot
 *
 * The manifest, not the directory listing, says what to link: if the source is being deleted at the
 * same time, a file that is already gone is an error here, never a clone that lacks it.
 *
 * What has to be on the disk, and when. The files that are linked are: they were fsynced when they
 * were committed, and a link changes none of their bytes. Before the rename that makes the clone
 * visible: the manifest's bytes, the names in layers/ and disks/, the names in the directory. They
 * are fsynced together at the end, the manifest first: on a file system with a journal that writes
 * all of them in one transaction, and what follows finds nothing left to do. The manifest gets its
 * name at once, without the rename of file_write_atomic(): in a directory below tmp/ nobody can
 * meet half of it. After the rename one more transaction, in snapshot_publish(). So a clone costs
 * two, whatever its size is.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/image-base.h"
#include "image/outcome.h"
#include "image/seal.h"
#include "image/snapshot-files.h"

struct clone {
	int src_dirfd;
	int dst_dirfd;
	const struct keyring *keys;
	struct problem *problem;
};

static int link_at(const struct clone *c, int src_dirfd, int dst_dirfd, const char *folder,
		   const char *name)
{
	int r = plain_file_link(src_dirfd, dst_dirfd, name);

	if (r < 0)
		problem_errno(c->problem, r, "%s%s: cannot be linked", folder, name);
	return r;
}

static int link_optional(const struct clone *c, const char *name)
{
	int r = plain_file_link(c->src_dirfd, c->dst_dirfd, name);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		problem_errno(c->problem, r, "%s: cannot be linked", name);
	return error_trace(r);
}

/* Something else in its place is no reason to refuse a clone. */
static int link_base(const struct clone *c, const struct manifest *m)
{
	struct stat st;

	if (!m->base_image_id[0] ||
	    fstatat(c->src_dirfd, IMAGE_BASE_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISREG(st.st_mode))
		return 0;
	return link_optional(c, IMAGE_BASE_NAME);
}

static int open_folders(const struct clone *c, const char *name, int *ret_src, int *ret_dst)
{
	int r = plain_dir_open(c->src_dirfd, name, c->problem, ret_src);

	return r ? r : plain_dir_open(c->dst_dirfd, name, c->problem, ret_dst);
}

static int link_layers(const struct clone *c, const struct manifest_files *files)
{
	_cleanup_fd_ int src = -1, dst = -1;
	int r;

	if (!files->n_layers)
		return 0;
	r = open_folders(c, "layers", &src, &dst);
	for (uint32_t i = 0; r == 0 && i < files->n_layers; i++)
		r = link_at(c, src, dst, "layers/", files->layers[i].id);
	return r;
}

static int link_disks(const struct clone *c, const struct manifest *m)
{
	_cleanup_fd_ int src = -1, dst = -1;
	int r;

	if (!m->n_disks)
		return 0;
	r = open_folders(c, "disks", &src, &dst);
	for (uint32_t i = 0; r == 0 && i < m->n_disks; i++)
		r = link_at(c, src, dst, "disks/", m->disks[i].name);
	return r;
}

/* A new file, durable but for its name. */
static int write_manifest(const struct clone *c, const char *text)
{
	_cleanup_fd_ int fd = openat(c->dst_dirfd, "manifest.json",
				     O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	int r;

	if (fd < 0)
		return error_errno();
	r = fd_write_full(fd, text, strlen(text));
	if (r == 0 && fchmod(fd, 0444) < 0) /* whatever the umask is */
		r = error_errno();
	return r < 0 ? error_trace(r) : fd_sync(fd);
}

static int link_device(const struct clone *c, const struct manifest *m)
{
	return m->device_bytes ? link_at(c, c->src_dirfd, c->dst_dirfd, "", "device") : 0;
}

int snapshot_link_device(int src_dirfd, int dst_dirfd, const struct manifest *m,
			 struct problem *problem)
{
	const struct clone c = {.src_dirfd = src_dirfd, .dst_dirfd = dst_dirfd, .problem = problem};

	return link_device(&c, m);
}

int snapshot_link_disks(int src_dirfd, int dst_dirfd, const struct manifest *m,
			struct problem *problem)
{
	const struct clone c = {.src_dirfd = src_dirfd, .dst_dirfd = dst_dirfd, .problem = problem};

	return link_disks(&c, m);
}

/* The clone's own manifest, authenticated with the source's keys; the source's must be genuine. */
static int put_seal(const struct clone *c, const char *text, size_t len, const char *changed)
{
	_cleanup_(seal_deinit) struct seal seal = {0};
	int r = seal_open(c->src_dirfd, c->keys, false, c->problem, &seal);

	if (r)
		return r == SEAL_E_ABSENT ? 0 : r;
	r = seal_check_manifest(&seal, c->keys, text, len, c->problem);
	if (r)
		return r;
	return seal_put_manifest(&seal, c->dst_dirfd, c->keys, changed, strlen(changed),
				 c->problem);
}

static int put_manifest(const struct clone *c, const char *text, size_t len, const char *id)
{
	_cleanup_free_ char *changed = NULL;
	int r;

	if (!id)
		return link_at(c, c->src_dirfd, c->dst_dirfd, "", "manifest.json");
	r = manifest_replace_id(text, len, id, &changed);
	if (r == 0)
		r = put_seal(c, text, len, changed);
	if (r == 0)
		r = write_manifest(c, changed);
	if (r < 0)
		problem_errno(c->problem, r, "manifest.json: writing the clone's");
	return error_trace(r);
}

static int sync_names(const struct clone *c, const struct manifest *m,
		      const struct manifest_files *files)
{
	_cleanup_fd_ int layers = -1, disks = -1;
	int r = 0;

	if (files->n_layers)
		r = plain_dir_open(c->dst_dirfd, "layers", c->problem, &layers);
	if (r == 0 && layers >= 0)
		r = file_fsync_dir(layers);
	if (r == 0 && m->n_disks)
		r = plain_dir_open(c->dst_dirfd, "disks", c->problem, &disks);
	if (r == 0 && disks >= 0)
		r = file_fsync_dir(disks);
	return r ? r : file_fsync_dir(c->dst_dirfd);
}

static int link_all(const struct clone *c, const char *id)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	r = manifest_read_text(c->src_dirfd, c->problem, &text, &len);
	if (r == 0)
		r = manifest_decode(text, len, c->problem, &m, &files);
	if (r == 0)
		r = link_at(c, c->src_dirfd, c->dst_dirfd, "", "map");
	if (r == 0)
		r = link_device(c, &m);
	if (r == 0 && !id)
		r = link_optional(c, "seal");
	if (r == 0)
		r = link_optional(c, "working-set");
	if (r == 0)
		r = link_base(c, &m);
	if (r == 0)
		r = link_layers(c, &files);
	if (r == 0)
		r = link_disks(c, &m);
	if (r == 0)
		r = put_manifest(c, text, len, id);
	if (r == 0)
		r = snapshot_check_files(c->dst_dirfd, &m, &files, c->problem);
	return r ? r : sync_names(c, &m, &files);
}

int snapshot_clone(int root_fd, const char *root, int src_dirfd, const struct keyring *keys,
		   const char *final, const char *id, struct problem *problem)
{
	struct snapshot_tmp tmp;
	struct clone c = {.src_dirfd = src_dirfd, .keys = keys, .problem = problem};
	int r;

	if (id && !id_is_valid(id)) {
		problem_set(problem, 400, "\"%.40s\" is not an identifier", id);
		return -EINVAL;
	}
	r = snapshot_begin(root_fd, root, problem, &tmp);
	if (r < 0)
		return r;
	c.dst_dirfd = tmp.dirfd;
	r = link_all(&c, id);
	if (r == 0)
		r = snapshot_publish(&tmp, root_fd, final, problem);
	if (r < 0)
		problem_errno(problem, r, "%s: cloning a snapshot to it", final);
	snapshot_abort(&tmp, root_fd);
	return error_trace(snapshot_error(r));
}
