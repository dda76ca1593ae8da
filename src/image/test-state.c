/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/snapshot.h"
#include "image/store.h"
#include "image/test-fixture.h"
#include "image/plain-file.h"
#include "image/test-operations.h"
#include "image/working-set.h"

#define MAX_BYTES (1u << 20)

/* The id that an operation chose by itself is another one each time. */
static bool is_fresh(const char *name)
{
	static const char *const known[] = {BASE, OLD, NEW, TORN};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(name, known[i]))
			return false;
	return id_is_valid(name);
}

static const char *shown(const char *name)
{
	return is_fresh(name) ? "(fresh)" : name;
}

static int in_order(const struct dirent **a, const struct dirent **b)
{
	const int fresh = is_fresh((*a)->d_name) - is_fresh((*b)->d_name);

	return fresh ? fresh : alphasort(a, b);
}

/* The names in a directory, fresh ids last; each to be freed, then the array. */
static int names_of(int dirfd, const char *path, struct dirent ***ret)
{
	int n = scandirat(dirfd, path, ret, NULL, in_order);

	if (n < 0)
		*ret = NULL;
	return n;
}

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

typedef void (*visit)(FILE *out, int dirfd, const char *path, const char *name, const void *arg);

static void each(FILE *out, int dirfd, const char *path, visit f, const void *arg)
{
	struct dirent **names;
	int n = names_of(dirfd, path, &names);

	for (int i = 0; i < n; i++) {
		if (!is_dots(names[i]->d_name))
			f(out, dirfd, path, names[i]->d_name, arg);
		free(names[i]);
	}
	free(names);
}

static void stray(FILE *out, int dirfd, const char *path, const char *name, const void *arg)
{
	(void)fprintf(out, "stray: %s/%s\n", path, name);
}

/* ---- one snapshot -----------------------------------------------------------------------------
 */

struct seen {
	const struct manifest *m;
	const struct image *image;
};

static void check_layer(FILE *out, int dirfd, const char *path, const char *name, const void *arg)
{
	const struct seen *s = arg;

	for (uint32_t i = 0; i < image_n_layers(s->image); i++)
		if (!strcmp(name, image_layer_id(s->image, i)))
			return;
	stray(out, dirfd, path, name, NULL);
}

/* Another disk than the first: what the manifest says of it must be true. */
static void check_chain_file(FILE *out, int dirfd, const char *path, const char *name,
			     const struct manifest *m)
{
	char below[512], digest[DIGEST_LEN + 1];
	_cleanup_fd_ int fd = -1;

	(void)snprintf(below, sizeof(below), "%s/%s", path, name);
	fd = openat(dirfd, below, O_RDONLY | O_CLOEXEC);
	for (uint32_t i = 1; i < m->n_disks; i++)
		if (!strcmp(m->disks[i].name, name)) {
			if (plain_file_digest(fd, digest) < 0 || strcmp(digest, m->disks[i].digest))
				(void)fprintf(out, "damaged: %s\n", below);
			return;
		}
	stray(out, dirfd, path, name, NULL);
}

static void check_disk(FILE *out, int dirfd, const char *path, const char *name, const void *arg)
{
	const struct seen *s = arg;
	_cleanup_free_ char *data = NULL;
	char below[512];
	size_t len, start = 50 * DORM_PAGE_SIZE;

	(void)snprintf(below, sizeof(below), "%s/%s", path, name);
	if (!s->m->n_disks || strcmp(s->m->disks[0].name, name)) {
		check_chain_file(out, dirfd, path, name, s->m);
		return;
	}
	if (file_read(dirfd, below, MAX_BYTES, &data, &len) < 0 || len != s->m->disks[0].size) {
		(void)fprintf(out, "damaged: %s\n", below);
		return;
	}
	for (size_t i = 0; i < len; i++)
		if (data[i] != (i >= start && i < start + DORM_PAGE_SIZE ? 'd' : 0)) {
			(void)fprintf(out, "damaged: %s at %zu\n", below, i);
			return;
		}
}

static void check_entry(FILE *out, int dirfd, const char *path, const char *name, const void *arg)
{
	static const char *const known[] = {"manifest.json", "map",	    "device",
					    "seal",	     "working-set", "base"};
	char below[512];
	struct stat st;

	(void)snprintf(below, sizeof(below), "%s/%s", path, name);
	if (!strcmp(name, "layers")) {
		each(out, dirfd, below, check_layer, arg);
		return;
	}
	if (!strcmp(name, "disks")) {
		each(out, dirfd, below, check_disk, arg);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(name, known[i])) {
			if (fstatat(dirfd, below, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			    (st.st_mode & 0222))
				(void)fprintf(out, "writable: %s\n", below);
			return;
		}
	stray(out, dirfd, path, name, NULL);
}

static int memory_of(struct image *image, struct problem *problem)
{
	static uint8_t out[SCENE_PAGES * DORM_PAGE_SIZE];

	if (image_n_pages(image) != SCENE_PAGES || fixture_read_all(image, out, problem))
		return -1;
	for (unsigned i = 0; i < SCENE_MEMORIES; i++)
		if (!memcmp(out, scene_memory(i), sizeof(out)))
			return (int)i;
	return -1;
}

static void describe_set(FILE *out, int dirfd, const struct image *image)
{
	_cleanup_(working_set_deinit) struct working_set set = {0};
	bool first;
	int r = working_set_read(dirfd, image, NULL, &set);

	if (r == 0)
		r = working_set_is_contiguous(&set, image, &first);
	if (r == 0)
		(void)fprintf(out, " set of %llu %s\n", (unsigned long long)set.n_pages,
			      first ? "first" : "anywhere");
	else
		(void)fputs(r == WORKING_SET_E_ABSENT ? "\n" : " set unusable\n", out);
}

/* Whether there is one is nobody's loss, but half of one would be. */
static void describe_base(FILE *out, int dirfd, struct image *image, unsigned ring)
{
	_cleanup_(image_unrefp) struct image *base = NULL;
	int r = image_open_base(dirfd, image, scene_ring(ring), NULL, &base);

	if (r && r != IMAGE_E_ABSENT)
		(void)fputs(" base unusable", out);
}

static void describe_opened(FILE *out, int dirfd, const char *path, const char *name,
			    const struct manifest *m, unsigned ring, struct problem *problem)
{
	char below[512];
	struct image *image;
	struct seen seen = {.m = m};

	(void)snprintf(below, sizeof(below), "%s/%s", path, shown(name));
	if (image_open(dirfd, scene_ring(ring), problem, &image)) {
		(void)fprintf(out, "%s: damaged: %s\n", below, problem->message);
		return;
	}
	(void)fprintf(out, "%s: id %s ring %u memory %d layers %u", below, shown(m->id), ring,
		      memory_of(image, problem), image_n_layers(image));
	describe_base(out, dirfd, image, ring);
	describe_set(out, dirfd, image);
	seen.image = image;
	each(out, dirfd, ".", check_entry, &seen);
	image_unref(image);
}

static void describe_snapshot(FILE *out, int kind_dirfd, const char *path, const char *name,
			      const void *arg)
{
	_cleanup_fd_ int fd = -1;
	struct problem problem = PROBLEM_INIT;
	struct manifest m;
	char below[512];
	int r = IMAGE_E_KEY;

	(void)snprintf(below, sizeof(below), "%s/%s", path, name);
	fd = file_open_dir(kind_dirfd, below);
	(void)snprintf(below, sizeof(below), "%s/%s", path, shown(name));
	for (unsigned ring = 0; r == IMAGE_E_KEY && ring < SCENE_RINGS; ring++) {
		if (ring && !scene_ring(ring))
			break;
		problem = PROBLEM_INIT;
		r = snapshot_open(fd, scene_ring(ring), &problem, &m);
		if (r)
			continue;
		r = snapshot_verify(fd, scene_ring(ring), NULL, NULL, &problem);
		if (r == 0)
			describe_opened(out, fd, path, name, &m, ring, &problem);
		manifest_deinit(&m);
	}
	if (r == -ENOENT)
		(void)fprintf(out, "%s: no manifest\n", below);
	else if (r)
		(void)fprintf(out, "%s: damaged: %d, %s\n", below, r, problem.message);
}

/* ---- the store --------------------------------------------------------------------------------
 */

static void describe_template(FILE *out, int dirfd, const char *path, const char *name,
			      const void *arg)
{
	char below[512], text[128];
	const char *id;
	ssize_t n;

	(void)snprintf(below, sizeof(below), "%s/%s", path, name);
	n = readlinkat(dirfd, below, text, sizeof(text) - 1);
	text[n < 0 ? 0 : n] = 0;
	id = str_has_prefix(text, "../snapshots/");
	(void)fprintf(out, "%s%s -> %s\n", id ? "" : "damaged: ", below, id ? id : text);
}

/* Layers of an import that was cut off are kept for the next one. */
static void describe_incoming(FILE *out, int dirfd, const char *path, const char *name,
			      const void *arg)
{
	if (strlen(name) != IMAGE_ID_LEN || strspn(name, "0123456789abcdef") != IMAGE_ID_LEN)
		stray(out, dirfd, path, name, NULL);
}

static void describe_top(FILE *out, int dirfd, const char *path, const char *name, const void *arg)
{
	if (!strcmp(name, "snapshots"))
		each(out, dirfd, name, describe_snapshot, NULL);
	else if (!strcmp(name, "templates"))
		each(out, dirfd, name, describe_template, NULL);
	else if (!strcmp(name, "incoming"))
		each(out, dirfd, name, describe_incoming, NULL);
	else if (!strcmp(name, "tmp") || !strcmp(name, "sandboxes"))
		each(out, dirfd, name, stray, NULL);
	else if (strcmp(name, "lock") && !str_has_prefix(name, "index.sqlite"))
		stray(out, dirfd, path, name, NULL);
}

char *state_describe(const char *root)
{
	_cleanup_(store_closep) struct store *s = NULL;
	struct problem problem = PROBLEM_INIT;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		abort();
	if (store_open(root, &problem, &s))
		(void)fprintf(out, "damaged: %s\n", problem.message);
	else
		each(out, s->root_fd, ".", describe_top, NULL);
	(void)fclose(out); /* cannot fail in memory */
	return text;
}

bool state_has_line(const char *state, const char *start)
{
	bool absent = *start == '-';
	size_t n = strlen(start += absent);

	for (const char *p = state; p && *p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, start, n))
			return !absent;
	}
	return absent;
}

bool state_tmp_is_empty(const char *root)
{
	char path[128];
	struct dirent **names;
	int n;

	(void)snprintf(path, sizeof(path), "%s/tmp", root);
	n = names_of(AT_FDCWD, path, &names);
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return n == 2;
}

/* ---- copies -----------------------------------------------------------------------------------
 */

/* What has been copied already, for further links to it. */
static struct {
	ino_t ino;
	char path[200];
} copied[256];
static unsigned n_copied;

static bool link_again(const struct stat *st, const char *to)
{
	for (unsigned i = 0; i < n_copied; i++)
		if (copied[i].ino == st->st_ino)
			return link(copied[i].path, to) == 0;
	assert_true(n_copied < ARRAY_SIZE(copied));
	copied[n_copied].ino = st->st_ino;
	(void)snprintf(copied[n_copied++].path, sizeof(copied[0].path), "%s", to);
	return false;
}

static void copy_file(const char *from, const char *to, const struct stat *st)
{
	_cleanup_free_ char *data = NULL;
	size_t len;
	int fd;

	if (st->st_nlink > 1 && link_again(st, to))
		return;
	assert_int_equal(file_read(AT_FDCWD, from, MAX_BYTES, &data, &len), 0);
	fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st->st_mode & 0777);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, data, len), 0);
	close(fd);
}

static void copy_tree(const char *from, const char *to);

static void copy_entry(const char *from, const char *to)
{
	char text[128] = "";
	struct stat st;

	assert_int_equal(lstat(from, &st), 0);
	if (S_ISDIR(st.st_mode)) {
		copy_tree(from, to);
	} else if (S_ISLNK(st.st_mode)) {
		assert_true(readlink(from, text, sizeof(text) - 1) > 0);
		assert_int_equal(symlink(text, to), 0);
	} else {
		copy_file(from, to, &st);
	}
}

static void copy_tree(const char *from, const char *to)
{
	struct dirent **names;
	int n = names_of(AT_FDCWD, from, &names);

	assert_true(n >= 0);
	assert_int_equal(mkdir(to, 0755), 0);
	for (int i = 0; i < n; i++) {
		char a[200], b[200];

		assert_true((size_t)snprintf(a, sizeof(a), "%s/%s", from, names[i]->d_name) <
			    sizeof(a));
		assert_true((size_t)snprintf(b, sizeof(b), "%s/%s", to, names[i]->d_name) <
			    sizeof(b));
		if (!is_dots(names[i]->d_name))
			copy_entry(a, b);
		free(names[i]);
	}
	free(names);
}

void state_copy(const char *from, const char *to)
{
	n_copied = 0;
	assert_int_equal(file_remove_tree(AT_FDCWD, to), 0);
	copy_tree(from, to);
}

void state_make_directory(char ret[64])
{
	static const char memory[] = "/dev/shm/dorm-test-store.XXXXXX";
	static const char disk[] = "/tmp/dorm-test-store.XXXXXX";

	memcpy(ret, memory, sizeof(memory));
	if (mkdtemp(ret))
		return;
	memcpy(ret, disk, sizeof(disk));
	assert_non_null(mkdtemp(ret));
}

int state_n_fds(void)
{
	struct dirent **names;
	int n = names_of(AT_FDCWD, "/proc/self/fd", &names);

	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return n;
}
