/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot.c - how snapshot directories come, are opened, and go
 *
 * The order that makes a crash harmless (invariant 3): contents, fsync of each file and directory,
 * manifest last, one rename, fsync of both parents. Before the rename there is only something below
 * tmp/, which store_open() empties; after it there is everything. Deleting is the same backwards:
 * one rename into tmp/, then removal at leisure.
 *
 * Of a sealed snapshot the device state is encrypted here, before it is described, and the manifest
 * is authenticated in the file "seal" before it is written. Whoever has keys gives it in a memfd,
 * so that it is never on the disk in the clear; a plain file "device" is replaced.
 */
#include "image/snapshot.h"

#include <assert.h>
#include <dirent.h>
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
#include "image/device-file.h"
#include "image/image-internal.h"
#include "image/manifest.h"
#include "image/outcome.h"
#include "image/qcow2.h"
#include "image/seal.h"
#include "image/snapshot-files.h"

#define ull(_v) ((unsigned long long)(_v))

static_assert(SNAPSHOT_MAX_LAYERS == PAGE_MAP_MAX_LAYERS, "one limit, two headers");
static_assert(sizeof(((struct manifest *)0)->device_digest) == DIGEST_LEN + 1, "a digest fits");

/* ---- temporary directories --------------------------------------------------------------------
 */

static int make_directories(struct snapshot_tmp *tmp, int root_fd)
{
	char path[80];

	(void)snprintf(path, sizeof(path), "tmp/%s", tmp->name); /* an identifier: fits */
	if (mkdirat(root_fd, path, 0755) < 0)
		return error_errno();
	tmp->dirfd = file_open_dir(root_fd, path);
	if (tmp->dirfd < 0)
		return error_trace(tmp->dirfd);
	if (mkdirat(tmp->dirfd, "layers", 0755) < 0 || mkdirat(tmp->dirfd, "disks", 0755) < 0)
		return error_errno();
	return 0;
}

int snapshot_begin(int root_fd, const char *root, struct problem *problem, struct snapshot_tmp *ret)
{
	struct snapshot_tmp tmp = SNAPSHOT_TMP_INIT;
	int n, r;

	id_new('s', tmp.name);
	n = snprintf(tmp.path, sizeof(tmp.path), "%s/tmp/%s", root, tmp.name);
	if (n < 0 || (size_t)n >= sizeof(tmp.path))
		return error_trace(-ENAMETOOLONG);
	r = make_directories(&tmp, root_fd);
	if (r < 0) {
		problem_errno(problem, r, "%s: cannot be created", tmp.path);
		snapshot_abort(&tmp, root_fd);
		return error_trace(r);
	}
	*ret = tmp;
	return 0;
}

void snapshot_abort(struct snapshot_tmp *tmp, int root_fd)
{
	char path[80];

	tmp->dirfd = fd_close(tmp->dirfd);
	tmp->device_fd = fd_close(tmp->device_fd);
	if (!tmp->name[0])
		return;
	(void)snprintf(path, sizeof(path), "tmp/%s", tmp->name);
	(void)file_remove_tree(root_fd, path); /* store_open() removes what stays */
	tmp->name[0] = 0;
}

/* The directory of @path, which is relative to @root_fd. */
static int open_parent(int root_fd, const char *path)
{
	const char *slash = strrchr(path, '/');
	char parent[256];
	int n;

	if (!slash)
		return file_open_dir(root_fd, ".");
	n = snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
	if (n <= 0 || (size_t)n >= sizeof(parent))
		return -ENAMETOOLONG;
	return file_open_dir(root_fd, parent);
}

int snapshot_fsync_parent(int root_fd, const char *path)
{
	_cleanup_fd_ int fd = open_parent(root_fd, path);

	return fd < 0 ? error_trace(fd) : file_fsync_dir(fd);
}

int snapshot_publish(struct snapshot_tmp *tmp, int root_fd, const char *final,
		     struct problem *problem)
{
	char path[80];
	int r;

	(void)snprintf(path, sizeof(path), "tmp/%s", tmp->name);
	if (renameat2(root_fd, path, root_fd, final, RENAME_NOREPLACE) < 0) {
		r = error_errno();
		problem_errno(problem, r, "%s: renaming %s to it", final, path);
		return r;
	}
	r = snapshot_fsync_parent(root_fd, final);
	if (r == 0)
		r = snapshot_fsync_parent(root_fd, path);
	if (r < 0) {
		problem_errno(problem, r, "%s: making the rename durable", final);
		/* taken back for good before snapshot_abort() empties it, or a power cut could
		 * bring back its name without its contents */
		if (renameat(root_fd, final, root_fd, path) == 0 &&
		    snapshot_fsync_parent(root_fd, final) == 0)
			return error_trace(r);
		/* it stays where it is: complete at @final, or for store_open() to remove */
	}
	tmp->name[0] = 0;
	return error_trace(r);
}

/* ---- committing -------------------------------------------------------------------------------
 */

static int seal_file(int dirfd, const char *name, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	int r = plain_file_open(dirfd, name, name, problem, &fd, NULL);

	if (r)
		return r > 0 ? -EBADMSG : r;
	r = fchmod(fd, 0444) < 0 ? error_errno() : fd_sync(fd);
	if (r == 0)
		return 0;
	problem_errno(problem, r, "%s: fsync", name);
	return r;
}

/* Make everything below @dirfd read-only and durable. Only files and one level of directories. */
static int seal_tree(int dirfd, int depth, struct problem *problem)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(dirfd, ".", &d);

	while (r == 0 && (e = readdir(d))) {
		_cleanup_fd_ int sub = -1;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (depth < 1 && (!strcmp(e->d_name, "layers") || !strcmp(e->d_name, "disks"))) {
			r = plain_dir_open(dirfd, e->d_name, problem, &sub);
			if (r == 0)
				r = seal_tree(sub, depth + 1, problem);
		} else {
			r = seal_file(dirfd, e->d_name, problem);
		}
	}
	if (r == 0)
		r = file_fsync_dir(dirfd);
	return r > 0 ? -EBADMSG : r;
}

static bool has_device(int dirfd)
{
	return faccessat(dirfd, "device", F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

/* Size and digest of the device state, which the caller need not know. */
static int describe_device(int dirfd, struct manifest *m, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	int r;

	m->device_bytes = 0;
	m->device_digest[0] = 0;
	if (!has_device(dirfd))
		return 0;
	r = plain_file_open(dirfd, "device", "device", problem, &fd, &m->device_bytes);
	if (r)
		return r;
	r = plain_file_digest(fd, m->device_digest);
	if (r < 0)
		problem_errno(problem, r, "device: reading it");
	return error_trace(r);
}

static int describe_disk(int disks_dirfd, struct snapshot_disk *d, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	struct qcow2_info info;
	int r = plain_file_open(disks_dirfd, d->name, d->name, problem, &fd, NULL);

	if (r == 0 && !strcmp(d->format, "qcow2")) {
		/* what is wrong with a header is told by the check of all files */
		if (qcow2_read_info(fd, NULL, &info) == 0)
			d->virtual_bytes = info.virtual_bytes;
	}
	if (r == 0)
		r = plain_file_digest(fd, d->digest);
	if (r < 0)
		problem_errno(problem, r, "disks/%s: reading it", d->name);
	return error_trace(r);
}

/* Of the disks that have no digest yet: of what the guest wrote since the last time. */
static int describe_disks(int dirfd, struct manifest *m, struct problem *problem)
{
	_cleanup_fd_ int disks = -1;
	int r = m->n_disks ? plain_dir_open(dirfd, "disks", problem, &disks) : 0;

	for (uint32_t i = 0; r == 0 && i < m->n_disks; i++)
		if (!m->disks[i].digest[0])
			r = describe_disk(disks, &m->disks[i], problem);
	return r;
}

static int describe_image(const struct image *image, struct manifest_files *ret)
{
	struct manifest_files files = {.map_bytes = image_map_bytes(image)};

	files.layers = calloc(MAX(image_n_layers(image), 1u), sizeof(*files.layers));
	if (!files.layers)
		return -ENOMEM;
	for (uint32_t i = 0; i < image_n_layers(image); i++) {
		struct manifest_layer *l = &files.layers[files.n_layers++];

		str_copy(l->id, sizeof(l->id), image_layer_id(image, i));
		str_hex(image_layer_digest(image, i), DIGEST_BYTES, l->digest);
		l->bytes = image_layer_bytes(image, i);
	}
	*ret = files;
	return 0;
}

/* What the caller says must be what the directory has. */
static int check_image(const struct image *image, const struct manifest *m, struct problem *problem)
{
	if (strcmp(image_id(image), m->image_id))
		return image_corrupt(problem, "map: its image id is %s, the manifest says %s",
				     image_id(image), m->image_id);
	if (image_n_pages(image) != m->memory_bytes / DORM_PAGE_SIZE)
		return image_corrupt(problem, "map: %llu pages, the manifest says %llu bytes",
				     ull(image_n_pages(image)), ull(m->memory_bytes));
	return 0;
}

static int encrypt_device_from(int dirfd, int fd, const struct keyring *keys,
			       struct problem *problem)
{
	_cleanup_(seal_deinit) struct seal seal = {0};
	uint8_t key[LAYER_KEY_BYTES];
	int r = seal_read(dirfd, problem, &seal);

	if (r == 0)
		r = seal_device_key(&seal, keys, problem, key);
	if (r == 0)
		r = device_file_seal(dirfd, fd, key, problem);
	explicit_bzero(key, sizeof(key));
	return error_trace(r);
}

static int encrypt_device(const struct snapshot_tmp *tmp, const struct keyring *keys,
			  struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	int r;

	if (tmp->device_fd >= 0)
		return keys ? encrypt_device_from(tmp->dirfd, tmp->device_fd, keys, problem)
			    : error_trace(-EINVAL);
	if (!keys || !has_device(tmp->dirfd))
		return 0;
	r = plain_file_open(tmp->dirfd, "device", "device", problem, &fd, NULL);
	return r ? r : encrypt_device_from(tmp->dirfd, fd, keys, problem);
}

static int describe(const struct snapshot_tmp *tmp, const struct keyring *keys, struct manifest *m,
		    struct manifest_files *ret, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	const int dirfd = tmp->dirfd;
	int r;

	r = image_open(dirfd, keys, problem, &image);
	if (r == 0)
		r = check_image(image, m, problem);
	if (r == 0)
		r = encrypt_device(tmp, keys, problem);
	if (r == 0)
		r = describe_device(dirfd, m, problem);
	if (r == 0)
		r = describe_disks(dirfd, m, problem);
	if (r == 0)
		r = describe_image(image, ret);
	return error_trace(r);
}

/* The manifest's text, which is certain to be readable again and to fit the files. */
static int make_text(int dirfd, const struct manifest *m, const struct manifest_files *files,
		     struct problem *problem, char **ret)
{
	_cleanup_(manifest_files_deinit) struct manifest_files again_files = {0};
	_cleanup_(manifest_deinit) struct manifest again = {0};
	_cleanup_free_ char *text = NULL;
	int r;

	r = manifest_encode(m, files, &text);
	if (r < 0) {
		problem_errno(problem, r, "manifest.json: cannot be made");
		return error_trace(r);
	}
	r = manifest_decode(text, strlen(text), problem, &again, &again_files);
	if (r == 0)
		r = snapshot_check_files(dirfd, &again, &again_files, problem);
	if (r)
		return error_trace(r);
	*ret = take_ptr(text);
	return 0;
}

static int authenticate(int dirfd, const struct keyring *keys, const char *text,
			struct problem *problem)
{
	_cleanup_(seal_deinit) struct seal seal = {0};
	int r;

	if (!keys)
		return 0;
	r = seal_read(dirfd, problem, &seal);
	return r ? r : seal_put_manifest(&seal, dirfd, keys, text, strlen(text), problem);
}

static int commit(struct snapshot_tmp *tmp, int root_fd, const char *final, struct manifest *m,
		  const struct keyring *keys, struct problem *problem)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_free_ char *text = NULL;
	int r;

	r = describe(tmp, keys, m, &files, problem);
	if (r == 0)
		r = make_text(tmp->dirfd, m, &files, problem, &text);
	if (r == 0)
		r = authenticate(tmp->dirfd, keys, text, problem);
	if (r == 0)
		r = seal_tree(tmp->dirfd, 0, problem);
	if (r)
		return error_trace(r);
	r = file_write_atomic(tmp->dirfd, "manifest.json", text, strlen(text), 0444);
	if (r < 0) {
		problem_errno(problem, r, "manifest.json: writing it");
		return error_trace(r);
	}
	return snapshot_publish(tmp, root_fd, final, problem);
}

int snapshot_commit(struct snapshot_tmp *tmp, int root_fd, const char *final,
		    const struct manifest *manifest, const struct keyring *keys,
		    struct problem *problem)
{
	struct manifest m = *manifest; /* its "prepare" stays the caller's */
	int r;

	str_copy(m.seal, sizeof(m.seal), keys ? SEAL_NAME_AES256 : SEAL_NAME_XXH3);
	r = commit(tmp, root_fd, final, &m, keys, problem);

	if (r < 0)
		problem_errno(problem, r, "%s: committing the snapshot", final);
	return error_trace(snapshot_error(r));
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int check_size(int dirfd, const char *name, const char *what, uint64_t bytes,
		      struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	uint64_t have;
	int r = plain_file_open(dirfd, name, what, problem, &fd, &have);

	if (r)
		return r;
	if (have != bytes)
		return image_corrupt(problem, "%s: %llu bytes, the manifest says %llu: %s", what,
				     ull(have), ull(bytes), have < bytes ? "truncated" : "altered");
	return 0;
}

static int check_layers(int dirfd, const struct manifest_files *files, struct problem *problem)
{
	_cleanup_fd_ int layers_dirfd = -1;
	int r = 0;

	if (files->n_layers)
		r = plain_dir_open(dirfd, "layers", problem, &layers_dirfd);
	for (uint32_t i = 0; r == 0 && i < files->n_layers; i++) {
		char what[IMAGE_ID_LEN + 8];

		(void)snprintf(what, sizeof(what), "layer %s", files->layers[i].id);
		r = check_size(layers_dirfd, files->layers[i].id, what, files->layers[i].bytes,
			       problem);
	}
	return r;
}

static int check_disks(int dirfd, const struct manifest *m, struct problem *problem)
{
	_cleanup_fd_ int disks_dirfd = -1;
	int r = 0;

	if (m->n_disks)
		r = plain_dir_open(dirfd, "disks", problem, &disks_dirfd);
	for (uint32_t i = 0; r == 0 && i < m->n_disks; i++) {
		char what[sizeof(m->disks[i].name) + 8];

		(void)snprintf(what, sizeof(what), "disks/%s", m->disks[i].name);
		r = check_size(disks_dirfd, m->disks[i].name, what, m->disks[i].size, problem);
	}
	/* no disk may lead QEMU to a file that is not of this snapshot */
	return r ? r : disk_check_chain(disks_dirfd, m->disks, m->n_disks, problem);
}

static int check_there(int dirfd, const char *name, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;

	return plain_file_open(dirfd, name, name, problem, &fd, NULL);
}

int snapshot_check_files(int dirfd, const struct manifest *m, const struct manifest_files *files,
			 struct problem *problem)
{
	int r = check_size(dirfd, "map", "map", files->map_bytes, problem);

	if (r == 0 && !strcmp(m->seal, SEAL_NAME_AES256))
		r = check_there(dirfd, "seal", problem);
	if (r == 0 && m->device_bytes)
		r = check_size(dirfd, "device", "device", m->device_bytes, problem);
	if (r == 0)
		r = check_layers(dirfd, files, problem);
	return r ? r : check_disks(dirfd, m, problem);
}

/* The manifest's word and the file "seal" must agree: either could have been taken away. */
static int check_seal_name(const struct manifest *m, bool sealed, struct problem *problem)
{
	bool says = !strcmp(m->seal, SEAL_NAME_AES256);

	if (says == sealed)
		return 0;
	problem_set(problem, 403,
		    says ? "manifest.json: the snapshot is sealed, but its file \"seal\" is missing"
			 : "manifest.json: says that the snapshot is not sealed, but it is");
	return IMAGE_E_KEY;
}

int snapshot_read_manifest(int dirfd, const struct keyring *keys, bool check_only,
			   struct problem *problem, struct manifest *ret,
			   struct manifest_files *ret_files)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	_cleanup_(seal_deinit) struct seal seal = {0};
	_cleanup_free_ char *text = NULL;
	bool sealed = false;
	size_t len;
	int r;

	r = manifest_read_text(dirfd, problem, &text, &len);
	if (r)
		return r;
	r = seal_open(dirfd, keys, check_only, problem, &seal);
	sealed = r == 0;
	if (r == SEAL_E_ABSENT)
		r = 0;
	if (r == 0 && keys)
		r = seal_check_manifest(&seal, keys, text, len, problem);
	if (r == 0)
		r = manifest_decode(text, len, problem, &m, &files);
	if (r == 0)
		r = check_seal_name(&m, sealed, problem);
	if (r)
		return r;
	*ret = m;
	m.prepare = NULL;
	*ret_files = files;
	files = (struct manifest_files){0};
	return 0;
}

int snapshot_open(int dirfd, const struct keyring *keys, struct problem *problem,
		  struct manifest *ret)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	int r;

	r = snapshot_read_manifest(dirfd, keys, false, problem, &m, &files);
	if (r == 0)
		r = snapshot_check_files(dirfd, &m, &files, problem);
	if (r < 0)
		problem_errno(problem, r, "snapshot: cannot be opened");
	if (r)
		return error_trace(r);
	*ret = m;
	m.prepare = NULL;
	return 0;
}

/* ---- deleting ---------------------------------------------------------------------------------
 */

int snapshot_delete(int root_fd, const char *path, struct problem *problem)
{
	char id[ID_LEN + 1], grave[40];
	int r;

	id_new('d', id);
	(void)snprintf(grave, sizeof(grave), "tmp/%s", id);
	if (renameat(root_fd, path, root_fd, grave) < 0) {
		r = -errno; /* ENOENT is no surprise */
		problem_errno(problem, r, "%s: cannot be deleted", path);
		return r;
	}
	r = snapshot_fsync_parent(root_fd, path);
	if (r == 0)
		r = file_remove_tree(root_fd, grave);
	if (r < 0)
		problem_errno(problem, r, "%s: gone, but not all of its space is free", path);
	return error_trace(r);
}
