/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-store-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/snapshot.h"

int store_fixture_setup(void **state)
{
	struct store_fixture *s = calloc(1, sizeof(*s));
	void *f;

	assert_non_null(s);
	assert_int_equal(fixture_setup(&f), 0);
	s->f = f;
	s->created_ns = 1000;
	assert_int_equal(store_open(s->f->path, NULL, &s->store), 0);
	*state = s;
	return 0;
}

int store_fixture_teardown(void **state)
{
	struct store_fixture *s = *state;
	void *f = s->f;

	store_close(s->store);
	free(s);
	return fixture_teardown(&f);
}

static void write_image(struct snapshot_tmp *tmp, struct image *parent, int parent_dirfd,
			struct manifest *m, uint64_t seed)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	struct image_writer_options options = {.codec = IMAGE_CODEC_NONE};
	struct problem problem = PROBLEM_INIT;
	uint8_t page[DORM_PAGE_SIZE];
	unsigned n = parent_dirfd < 0 ? STORE_PAGES : 4;

	assert_int_equal(image_writer_new(tmp->dirfd, parent, parent_dirfd, &options, &problem, &w),
			 0);
	for (unsigned i = 0; i < n; i++) {
		fixture_page(page, 2, &seed);
		assert_int_equal(image_writer_add(w, i * (STORE_PAGES / n), 1, page, &problem), 0);
	}
	assert_int_equal(image_writer_commit(w, &m->stats, m->image_id, &problem), 0);
}

/* As of a snapshot of a sandbox that was created from the parent. */
static void put_base(struct snapshot_tmp *tmp, int parent_dirfd, struct manifest *m)
{
	_cleanup_(manifest_deinit) struct manifest parent = {0};
	struct problem problem = PROBLEM_INIT;

	if (parent_dirfd < 0)
		return;
	assert_int_equal(snapshot_open(parent_dirfd, NULL, &problem, &parent), 0);
	assert_int_equal(
		image_base_put(tmp->dirfd, parent_dirfd, &parent, true, &problem, m->base_image_id),
		0);
	assert_int_equal(strlen(m->base_image_id), IMAGE_ID_LEN);
}

static void fill_manifest(struct store_fixture *s, const char *id, const char *parent,
			  struct manifest *m)
{
	*m = (struct manifest){
		.created_ns = s->created_ns++,
		.memory_bytes = STORE_PAGES * DORM_PAGE_SIZE,
		.cpus = 2,
		.vmm = "qemu",
		.vmm_version = "7.2",
		.accel = "tcg",
		.template_id = "base",
		.n_disks = 1,
		.disks = {{.name = "root", .format = "raw", .read_only = true, .size = 9}},
	};
	str_copy(m->id, sizeof(m->id), id);
	str_copy(m->parent_id, sizeof(m->parent_id), parent ? parent : "");
	(void)snprintf(m->name, sizeof(m->name), "name of %.10s", id);
}

void store_fixture_snapshot(struct store_fixture *s, const char *id, const char *parent,
			    char *ret_layer)
{
	_cleanup_(image_unrefp) struct image *from = NULL, *made = NULL;
	_cleanup_fd_ int parent_dirfd = -1;
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	struct manifest m;

	fill_manifest(s, id, parent, &m);
	assert_int_equal(snapshot_begin(s->store->root_fd, s->store->root, &problem, &tmp), 0);
	if (parent) {
		parent_dirfd = file_open_dir(s->store->root_fd,
					     store_fixture_path("snapshots/%s", parent));
		assert_int_equal(image_open(parent_dirfd, NULL, &problem, &from), 0);
	} else {
		assert_int_equal(image_open_zero(STORE_PAGES, &from), 0);
	}
	write_image(&tmp, from, parent_dirfd, &m, s->created_ns);
	put_base(&tmp, parent_dirfd, &m);
	assert_int_equal(file_write_atomic(tmp.dirfd, "device", "device state", 12, 0600), 0);
	assert_int_equal(file_write_atomic(tmp.dirfd, "disks/root", "disk data", 9, 0600), 0);
	assert_int_equal(image_open(tmp.dirfd, NULL, &problem, &made), 0);
	if (ret_layer)
		str_copy(ret_layer, IMAGE_ID_LEN + 1,
			 image_layer_id(made, image_n_layers(made) - 1));
	assert_int_equal(snapshot_commit(&tmp, s->store->root_fd,
					 store_fixture_path("snapshots/%s", id), &m, NULL,
					 &problem),
			 0);
	snapshot_abort(&tmp, s->store->root_fd);
}

const char *store_fixture_path(const char *fmt, ...)
{
	static char paths[8][256];
	static unsigned n;
	char *path = paths[n++ % 8];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(path, sizeof(paths[0]), fmt, ap);
	va_end(ap);
	return path;
}

void store_fixture_write(struct store_fixture *s, const char *path, const char *text)
{
	assert_int_equal(file_write_atomic(s->store->root_fd, path, text, strlen(text), 0644), 0);
}
