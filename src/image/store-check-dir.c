/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-check-dir.c - the structure of one directory
 *
 * For one directory, in this order: the manifest; each layer it names (there, a file, of that size,
 * its header, footer and index in order, the index the one that the manifest means); map, device
 * state and disks; then, if all layers are well, the whole image, which compares the map with the
 * indexes, the working set, which must be of this image, and the base, which must be the one that
 * the manifest names; at last, names that nobody mentions.
 */
#include "image/store-check-walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/image-internal.h"
#include "image/outcome.h"
#include "image/snapshot-files.h"
#include "image/working-set.h"

#define TRIES	 3 /* a directory that is exchanged by a compaction while it is looked at */
#define MAX_PATH 400

#define ull(_v)	 ((unsigned long long)(_v))

/* One directory while it is looked at. */
struct visit {
	struct check *c;
	uint32_t dir;
	int dirfd;
	struct manifest m;
	struct manifest_files files;
};

static void visit_deinit(struct visit *v)
{
	manifest_deinit(&v->m);
	manifest_files_deinit(&v->files);
	fd_close(v->dirfd);
}

/* ---- findings of a directory ------------------------------------------------------------------
 */

static int add(const struct visit *v, enum finding_kind kind, const char *name, const char *why)
{
	char path[MAX_PATH];

	(void)snprintf(path, sizeof(path), "%s%s%s", v->c->dirs[v->dir].path, name[0] ? "/" : "",
		       name);
	return check_add(v->c, kind, v->dir, path, why) ? 0 : -ENOMEM;
}

/*
 * The result of looking at @name: nothing, a finding, or what ends the walk. @describe is what
 * @problem says when nobody else has said anything.
 */
static int judge(const struct visit *v, int r, const char *name, struct problem *problem)
{
	if (r == 0)
		return 0;
	if (!check_is_damage(r)) {
		problem_errno(v->c->problem, r, "%s: %s cannot be checked", v->c->dirs[v->dir].path,
			      name[0] ? name : "it");
		return error_trace(r);
	}
	if (r < 0)
		problem_errno(problem, r, "%s: cannot be read", name);
	if (add(v, r == IMAGE_E_KEY ? FINDING_KEY : FINDING_DAMAGED, name, problem->message) < 0)
		return -ENOMEM;
	v->c->items[v->c->n_items - 1].newer = r == IMAGE_E_VERSION;
	return 0;
}

/* ---- layers -----------------------------------------------------------------------------------
 */

static int add_use(const struct visit *v, uint32_t layer)
{
	struct check *c = v->c;

	if (mem_grow(&c->uses, &c->cap_uses, c->n_uses, sizeof(*c->uses)) < 0)
		return -ENOMEM;
	c->uses[c->n_uses] = (struct check_use){.dir = v->dir, .next = c->layers[layer].first_use};
	c->layers[layer].first_use = (uint32_t)c->n_uses++;
	return 0;
}

/* Is the file the layer that the manifest means? Return: 0; an image outcome */
static int compare_layer(const struct check_layer *l, const struct manifest_layer *want,
			 struct problem *problem)
{
	if (l->bytes != want->bytes)
		return image_corrupt(problem, "layer %s: %llu bytes, the manifest says %llu: %s",
				     want->id, ull(l->bytes), ull(want->bytes),
				     l->bytes < want->bytes ? "truncated" : "altered");
	if (strcmp(l->id, want->id))
		return image_corrupt(problem, "layer %s: the same file as layer %s", want->id,
				     l->id);
	if (l->why)
		return image_corrupt(problem, "%s", l->why);
	if (strcmp(l->digest, want->digest))
		return image_corrupt(problem,
				     "layer %s: not the one that the manifest means (index digest "
				     "0x%s, the manifest says 0x%s)",
				     want->id, l->digest, want->digest);
	return 0;
}

static int check_layer(const struct visit *v, int layers_dirfd, const struct manifest_layer *want)
{
	struct problem problem = PROBLEM_INIT;
	char name[IMAGE_ID_LEN + 8];
	uint32_t layer = 0;
	size_t before = v->c->n_items;
	int fd = -1, r;

	(void)snprintf(name, sizeof(name), "layers/%s", want->id);
	r = plain_file_open(layers_dirfd, want->id, name, &problem, &fd, NULL);
	if (r == 0) {
		r = check_layer_file(v->c, fd, want->id, &layer);
		if (r < 0)
			return judge(v, r, name, &problem);
		r = compare_layer(&v->c->layers[layer], want, &problem);
	}
	if (r == 0)
		return add_use(v, layer);
	r = judge(v, r, name, &problem);
	if (r == 0 && v->c->n_items > before) {
		v->c->items[before].is_layer = true;
		v->c->items[before].layer = *want;
	}
	return r;
}

/* A directory layers/ that cannot be used lacks each of them. */
static int check_layers(const struct visit *v)
{
	_cleanup_fd_ int fd = -1;
	struct problem problem = PROBLEM_INIT;
	int r = 0;

	if (!v->files.n_layers)
		return 0;
	r = plain_dir_open(v->dirfd, "layers", &problem, &fd);
	if (r && !check_is_damage(r))
		return judge(v, r, "layers", &problem);
	r = 0;
	for (uint32_t i = 0; r == 0 && i < v->files.n_layers; i++) {
		const struct manifest_layer *want = &v->files.layers[i];
		char name[IMAGE_ID_LEN + 8];

		if (fd >= 0) {
			r = check_layer(v, fd, want);
			continue;
		}
		(void)snprintf(name, sizeof(name), "layers/%s", want->id);
		r = judge(v, IMAGE_E_CORRUPT, name, &problem);
		if (r == 0) {
			v->c->items[v->c->n_items - 1].is_layer = true;
			v->c->items[v->c->n_items - 1].layer = *want;
		}
	}
	return r;
}

/* ---- the other files --------------------------------------------------------------------------
 */

/* @digest: or NULL */
static int check_file(const struct visit *v, const char *name, uint64_t bytes, const char *digest)
{
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int fd = -1;
	char made[DIGEST_LEN + 1];
	uint64_t have;
	int r = plain_file_open(v->dirfd, name, name, &problem, &fd, &have);

	if (r == 0 && have != bytes)
		r = image_corrupt(&problem, "%s: %llu bytes, the manifest says %llu: %s", name,
				  ull(have), ull(bytes), have < bytes ? "truncated" : "altered");
	if (r == 0 && digest)
		r = plain_file_digest(fd, made);
	if (r == 0 && digest && strcmp(made, digest))
		r = image_corrupt(&problem, "%s: checksum mismatch (stored 0x%s, read 0x%s)", name,
				  digest, made);
	return judge(v, r, name, &problem);
}

/* disks/ itself may be a link, which must not be followed. */
static int check_disks(const struct visit *v)
{
	_cleanup_fd_ int fd = -1;
	struct problem problem = PROBLEM_INIT;
	int r;

	if (!v->m.n_disks)
		return 0;
	r = plain_dir_open(v->dirfd, "disks", &problem, &fd);
	if (r)
		return judge(v, r, "disks", &problem);
	for (uint32_t i = 0; r == 0 && i < v->m.n_disks; i++) {
		char name[sizeof(v->m.disks[i].name) + 8];

		(void)snprintf(name, sizeof(name), "disks/%s", v->m.disks[i].name);
		r = check_file(v, name, v->m.disks[i].size,
			       v->c->options->data && v->m.disks[i].digest[0] ? v->m.disks[i].digest
									      : NULL);
	}
	return r;
}

static int compare_image(const struct visit *v, const struct image *image, struct problem *problem)
{
	if (strcmp(image_id(image), v->m.image_id))
		return image_corrupt(problem, "map: its image id is %s, the manifest says %s",
				     image_id(image), v->m.image_id);
	if (image_n_pages(image) != v->m.memory_bytes / DORM_PAGE_SIZE)
		return image_corrupt(problem, "map: %llu pages, the manifest says %llu bytes",
				     ull(image_n_pages(image)), ull(v->m.memory_bytes));
	if (image_n_layers(image) != v->files.n_layers)
		return image_corrupt(problem, "map: %u layers, the manifest has %u",
				     image_n_layers(image), v->files.n_layers);
	for (uint32_t i = 0; i < v->files.n_layers; i++)
		if (strcmp(image_layer_id(image, i), v->files.layers[i].id))
			return image_corrupt(problem, "map: names layer %s, the manifest %s",
					     image_layer_id(image, i), v->files.layers[i].id);
	return 0;
}

/* What only a key can tell: is it sealed, by one of ours, and does everything belong together? */
static int check_keys(const struct visit *v, const struct image *image)
{
	bool sealed = image_is_sealed(image) || !strcmp(v->m.seal, "aes-256-gcm");
	_cleanup_(manifest_deinit) struct manifest m = {0};
	_cleanup_(image_unrefp) struct image *again = NULL;
	struct problem problem = PROBLEM_INIT;
	int r;

	if (!sealed && !v->c->options->keys)
		return 0;
	r = snapshot_open(v->dirfd, v->c->options->keys, &problem, &m);
	if (r == 0)
		r = image_open(v->dirfd, v->c->options->keys, &problem, &again);
	return judge(v, r, "", &problem);
}

static int check_working_set(const struct visit *v, const struct image *image)
{
	struct problem problem = PROBLEM_INIT;
	const size_t before = v->c->n_items;
	int r = judge(v, working_set_check(v->dirfd, image, &problem), WORKING_SET_NAME, &problem);

	if (v->c->n_items > before)
		v->c->items[before].hint = WORKING_SET_NAME;
	return r;
}

static int check_base(const struct visit *v, struct image *image)
{
	struct problem problem = PROBLEM_INIT;
	const size_t before = v->c->n_items;
	int r = image_base_check(v->dirfd, image, v->m.base_image_id, &problem);

	r = judge(v, r, IMAGE_BASE_NAME, &problem);
	if (v->c->n_items > before)
		v->c->items[before].hint = IMAGE_BASE_NAME;
	return r;
}

static int check_image(const struct visit *v)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct problem problem = PROBLEM_INIT;
	int r = image_open_for_check(v->dirfd, &problem, &image);

	if (r == 0)
		r = compare_image(v, image, &problem);
	if (r)
		return judge(v, r, "map", &problem);
	r = check_working_set(v, image);
	if (r == 0)
		r = check_base(v, image);
	return r < 0 ? r : check_keys(v, image);
}

/* ---- what nobody mentions ---------------------------------------------------------------------
 */

bool check_is_leftover(const char *name, uint64_t *ret_pid)
{
	const char *at = strstr(name, ".new.");
	const char *pid = at ? at + 5 : "", *dot = strchr(pid, '.');
	char digits[24];

	if (!dot || dot == pid || (size_t)(dot - pid) >= sizeof(digits) || !dot[1] ||
	    dot[1 + strspn(dot + 1, "0123456789abcdef")])
		return false;
	(void)snprintf(digits, sizeof(digits), "%.*s", (int)(dot - pid), pid);
	return str_to_u64(digits, ret_pid) == 0;
}

typedef bool (*is_known)(const struct visit *v, const char *name);

static bool is_known_file(const struct visit *v, const char *name)
{
	static const char *const always[] = {"manifest.json", "map", "layers", "disks",
					     WORKING_SET_NAME};

	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		if (!strcmp(name, always[i]))
			return true;
	return (v->m.device_bytes && !strcmp(name, "device")) ||
	       (v->m.base_image_id[0] && !strcmp(name, IMAGE_BASE_NAME)) ||
	       (!strcmp(v->m.seal, "aes-256-gcm") && !strcmp(name, "seal"));
}

static bool is_known_layer(const struct visit *v, const char *name)
{
	for (uint32_t i = 0; i < v->files.n_layers; i++)
		if (!strcmp(name, v->files.layers[i].id))
			return true;
	return false;
}

static bool is_known_disk(const struct visit *v, const char *name)
{
	for (uint32_t i = 0; i < v->m.n_disks; i++)
		if (!strcmp(name, v->m.disks[i].name))
			return true;
	return false;
}

/* Find strays in @folder ("" is the directory itself); one that is no directory was told already.
 */
static int check_names(const struct visit *v, const char *folder, is_known known)
{
	_cleanup_fd_ int fd = -1;
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = 0;

	if (plain_dir_open(v->dirfd, folder[0] ? folder : ".", NULL, &fd) != 0)
		return 0;
	r = file_opendir(fd, ".", &d);
	while (r == 0 && (e = readdir(d))) {
		char name[MAX_PATH];
		uint64_t pid;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || known(v, e->d_name))
			continue;
		if (check_is_leftover(e->d_name, &pid) && pid == (uint64_t)getpid())
			continue; /* somebody in this process is writing it */
		(void)snprintf(name, sizeof(name), "%s%s%s", folder, folder[0] ? "/" : "",
			       e->d_name);
		r = add(v, FINDING_STRAY, name, "nothing here mentions it");
	}
	return error_trace(r);
}

/* ---- a directory ------------------------------------------------------------------------------
 */

static bool is_snapshot(const struct visit *v)
{
	return str_has_prefix(v->c->dirs[v->dir].path, "snapshots/") != NULL;
}

static bool exists(const struct visit *v, const char *name)
{
	return faccessat(v->dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The memory of a sandbox that boots has disks and nothing else until the guest is saved. */
static int no_manifest(const struct visit *v)
{
	if (is_snapshot(v))
		return add(v, FINDING_TORN, "", "it has no manifest: it was never complete");
	if (!exists(v, "map"))
		return 0;
	return add(v, FINDING_DAMAGED, "manifest.json", "manifest.json: missing");
}

/* Return: 0; 1 when there is nothing more to look at */
static int check_manifest(struct visit *v)
{
	const char *name = strrchr(v->c->dirs[v->dir].path, '/') + 1;
	struct problem problem = PROBLEM_INIT;
	int r = manifest_read(v->dirfd, &problem, &v->m, &v->files);

	if (r == -ENOENT) {
		r = no_manifest(v);
		return r < 0 ? r : 1;
	}
	if (r) {
		r = judge(v, r, "manifest.json", &problem);
		return r < 0 ? r : 1;
	}
	if (is_snapshot(v) && strcmp(v->m.id, name)) {
		(void)image_corrupt(&problem, "manifest.json: it is that of %s", v->m.id);
		return judge(v, IMAGE_E_CORRUPT, "manifest.json", &problem);
	}
	return 0;
}

static int check_contents(struct visit *v)
{
	size_t before = v->c->n_items, bad;
	int r = check_manifest(v);

	if (r)
		return MIN(r, 0);
	r = check_layers(v);
	if (r == 0)
		r = check_file(v, "map", v->files.map_bytes, NULL);
	if (r == 0 && v->m.device_bytes)
		r = check_file(v, "device", v->m.device_bytes, v->m.device_digest);
	if (r == 0)
		r = check_disks(v);
	bad = v->c->n_items - before;
	if (r == 0 && !bad)
		r = check_image(v);
	if (r == 0 && is_snapshot(v))
		r = check_names(v, "", is_known_file);
	if (r == 0 && is_snapshot(v))
		r = check_names(v, "layers", is_known_layer);
	if (r == 0 && is_snapshot(v))
		r = check_names(v, "disks", is_known_disk);
	return r;
}

static void drop_items(struct check *c, size_t from)
{
	while (c->n_items > from) {
		c->n_items--;
		free(c->items[c->n_items].path);
		free(c->items[c->n_items].why);
	}
}

/* Is the directory still what has the name? */
static bool is_same(const struct visit *v)
{
	const struct check_dir *dir = &v->c->dirs[v->dir];
	struct stat st;

	return fstatat(v->c->store->root_fd, dir->path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       (uint64_t)st.st_dev == dir->dev && (uint64_t)st.st_ino == dir->ino;
}

/* Return: 0; 1 when it has changed under our hands */
static int try_directory(struct check *c, uint32_t dir)
{
	_cleanup_(visit_deinit) struct visit v = {.c = c, .dir = dir};
	size_t before = c->n_items;
	struct stat st;
	int r;

	v.dirfd = openat(c->store->root_fd, c->dirs[dir].path,
			 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (v.dirfd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
		return 0; /* deleted meanwhile */
	if (v.dirfd < 0 || fstat(v.dirfd, &st) < 0)
		return error_errno();
	c->dirs[dir].dev = (uint64_t)st.st_dev;
	c->dirs[dir].ino = (uint64_t)st.st_ino;
	r = check_contents(&v);
	if (r < 0 || c->n_items == before || is_same(&v))
		return r;
	drop_items(c, before);
	return 1;
}

int check_directory(struct check *c, uint32_t dir)
{
	int r = 1;

	for (int i = 0; r == 1 && i < TRIES; i++)
		r = try_directory(c, dir);
	return MIN(r, 0);
}
