/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-stream.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"

#define SPARSE_BYTES (5u << 20)

static struct store *open_store(struct fixture *f, const char *name)
{
	struct problem problem = PROBLEM_INIT;
	struct store *store = NULL;
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", f->path, name);
	assert_int_equal(store_open(path, &problem, &store), 0);
	return store;
}

int stream_setup(void **state)
{
	struct stream_place *p = calloc(1, sizeof(*p));
	void *fixture;

	assert_non_null(p);
	(void)fixture_setup(&fixture);
	p->f = fixture;
	p->seed = 11;
	p->from = open_store(p->f, "from");
	p->to = open_store(p->f, "to");
	p->memory = calloc(STREAM_PAGES, DORM_PAGE_SIZE);
	assert_non_null(p->memory);
	*state = p;
	return 0;
}

int stream_teardown(void **state)
{
	struct stream_place *p = *state;
	void *fixture = p->f;

	store_close(p->from);
	store_close(p->to);
	free(p->memory);
	free(p);
	return fixture_teardown(&fixture);
}

int stream_open(struct store *store, const char *id)
{
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	fd = file_open_dir(store->root_fd, path);
	assert_true(fd >= 0);
	return fd;
}

static void put_file(int dirfd, const char *name, const char *text, uint64_t bytes)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	if (bytes) { /* a hole, and the text once more */
		assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
		assert_int_equal(pwrite(fd, text, strlen(text), (off_t)(bytes - strlen(text))),
				 strlen(text));
	}
	close(fd);
}

static void add_extras(struct snapshot_tmp *tmp, struct manifest *m)
{
	put_file(tmp->dirfd, "device", "device state", 0);
	fixture_working_set(tmp->dirfd, 3, 2, 10, 5);
	put_file(tmp->dirfd, "disks/scratch.img", "disk data", 0);
	put_file(tmp->dirfd, "disks/sparse.img", "sparse", SPARSE_BYTES);
	m->n_disks = 2;
	m->disks[0] = (struct snapshot_disk){.name = "scratch.img", .format = "raw", .size = 9};
	m->disks[1] =
		(struct snapshot_disk){.name = "sparse.img", .format = "raw", .size = SPARSE_BYTES};
}

static void write_image(struct stream_place *p, const struct stream_options *o,
			struct snapshot_tmp *tmp, struct manifest *m)
{
	struct problem problem = PROBLEM_INIT;
	int parent_dirfd = o->parent ? stream_open(p->from, o->parent) : -1;
	struct image_writer *w;
	struct image *base;

	if (o->parent)
		assert_int_equal(image_open(parent_dirfd, NULL, &problem, &base), 0);
	else
		assert_int_equal(image_open_zero(STREAM_PAGES, &base), 0);
	assert_int_equal(image_writer_new(tmp->dirfd, base, parent_dirfd, NULL, &problem, &w), 0);
	for (unsigned i = 0; o->every && i < STREAM_PAGES; i += o->every)
		fixture_page(p->memory + i * DORM_PAGE_SIZE, o->kind, &p->seed);
	assert_int_equal(image_writer_add(w, 0, STREAM_PAGES, p->memory, &problem), 0);
	assert_int_equal(image_writer_commit(w, &m->stats, m->image_id, &problem), 0);
	image_writer_free(w);
	image_unref(base);
	fd_close(parent_dirfd);
}

void stream_snapshot(struct stream_place *p, const struct stream_options *o, char id[ID_LEN + 1])
{
	struct manifest m = {.created_ns = 1700000000123456789,
			     .memory_bytes = STREAM_PAGES * DORM_PAGE_SIZE,
			     .cpus = 1,
			     .vmm = "qemu",
			     .accel = "tcg",
			     .name = "travelling"};
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	char final[64];

	id_new('s', id);
	str_copy(m.id, sizeof(m.id), id);
	if (o->parent)
		str_copy(m.parent_id, sizeof(m.parent_id), o->parent);
	assert_int_equal(snapshot_begin(p->from->root_fd, p->from->root, &problem, &tmp), 0);
	write_image(p, o, &tmp, &m);
	if (!o->plain)
		add_extras(&tmp, &m);
	(void)snprintf(final, sizeof(final), "snapshots/%s", id);
	assert_int_equal(snapshot_commit(&tmp, p->from->root_fd, final, &m, NULL, &problem), 0);
	snapshot_abort(&tmp, p->from->root_fd);
}

void stream_export(struct store *store, const char *id, const char *const *skip, size_t n_skip,
		   struct buf *ret)
{
	const struct export_options options = {.skip = skip, .n_skip = n_skip};
	struct problem problem = PROBLEM_INIT;
	int fd = stream_open(store, id);
	struct exporter *x = NULL;
	ssize_t n;

	assert_int_equal(exporter_new(fd, &options, &problem, &x), 0);
	close(fd);
	do {
		assert_int_equal(buf_reserve(ret, 10007), 0);
		n = exporter_read(x, ret->data + ret->len, 10007, &problem);
		assert_true(n >= 0);
		ret->len += (size_t)n;
	} while (n);
	assert_int_equal(ret->len, exporter_bytes(x));
	exporter_free(x);
}

int stream_import(struct store *store, const struct import_options *options, const void *data,
		  size_t len, size_t slice, struct import_stats *ret, struct problem *problem)
{
	struct import_stats stats;
	struct importer *m = NULL;
	int r = importer_new(store, options, problem, &m);

	for (size_t at = 0; r == 0 && at < len; at += slice)
		r = importer_write(m, (const char *)data + at, MIN(slice, len - at), problem);
	if (r == 0)
		r = importer_finish(m, problem, ret ? ret : &stats);
	importer_free(m);
	return r;
}

void stream_check(struct stream_place *p, struct store *store, const char *id)
{
	uint8_t *out = malloc((size_t)STREAM_PAGES * DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;
	int fd = stream_open(store, id);
	struct image *image;
	struct manifest m;

	assert_non_null(out);
	assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, &problem), 0);
	assert_int_equal(snapshot_open(fd, NULL, &problem, &m), 0);
	assert_string_equal(m.id, id);
	manifest_deinit(&m);
	assert_int_equal(image_open(fd, NULL, &problem, &image), 0);
	assert_int_equal(fixture_read_all(image, out, &problem), 0);
	assert_memory_equal(out, p->memory, (size_t)STREAM_PAGES * DORM_PAGE_SIZE);
	image_unref(image);
	free(out);
	close(fd);
}

unsigned stream_count(struct store *store, const char *dir)
{
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	assert_int_equal(file_opendir(store->root_fd, dir, &d), 0);
	while ((e = readdir(d)))
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return n;
}

/* ---- apart and together -----------------------------------------------------------------------
 */

static size_t parse_item(const struct buf *data, size_t at, struct stream_item *ret)
{
	const uint8_t *bytes = (const uint8_t *)data->data;
	struct problem problem = PROBLEM_INIT;
	struct transfer_chunk chunk;
	static uint8_t zero[TRANSFER_CHUNK_BYTES];

	at += TRANSFER_ITEM_BYTES;
	if (ret->item.flags & TRANSFER_LEFT_OUT)
		return at;
	for (uint64_t c = 0; c < transfer_n_chunks(ret->item.bytes); c++) {
		assert_int_equal(transfer_chunk_decode(bytes + at, &ret->item, c, &problem, &chunk),
				 0);
		at += TRANSFER_CHUNK_HEAD_BYTES;
		if (chunk.flags & TRANSFER_ZERO) {
			assert_int_equal(buf_append(&ret->bytes, zero, chunk.bytes), 0);
			continue;
		}
		assert_int_equal(buf_append(&ret->bytes, bytes + at, chunk.bytes), 0);
		at += chunk.bytes;
	}
	return at;
}

void stream_parse(const struct buf *data, struct stream *ret)
{
	struct problem problem = PROBLEM_INIT;
	size_t at = TRANSFER_HEADER_BYTES;

	*ret = (struct stream){0};
	for (;;) {
		struct stream_item *i = &ret->items[ret->n];

		assert_in_range(ret->n, 0, STREAM_MAX_ITEMS - 1);
		assert_int_equal(transfer_item_decode((const uint8_t *)data->data + at, ret->n,
						      &problem, &i->item),
				 0);
		if (i->item.kind == TRANSFER_END)
			return;
		at = parse_item(data, at, i);
		ret->n++;
	}
}

static void build_item(const struct stream *s, unsigned number, struct buf *ret)
{
	struct transfer_item item = s->items[number].item;
	const struct buf *bytes = &s->items[number].bytes;
	uint8_t head[TRANSFER_ITEM_BYTES];

	if (!s->keep_numbers) {
		item.number = number;
		if (!(item.flags & TRANSFER_LEFT_OUT))
			item.bytes = bytes->len;
	}
	transfer_item_encode(&item, head);
	assert_int_equal(buf_append(ret, head, sizeof(head)), 0);
	for (uint64_t c = 0; c < transfer_n_chunks(bytes->len); c++) {
		const char *data = bytes->data + c * TRANSFER_CHUNK_BYTES;
		struct transfer_chunk chunk = {.bytes = transfer_chunk_bytes(bytes->len, c)};

		chunk.tag = transfer_tag(item.number, c, data, chunk.bytes);
		transfer_chunk_encode(&chunk, head);
		assert_int_equal(buf_append(ret, head, TRANSFER_CHUNK_HEAD_BYTES), 0);
		assert_int_equal(buf_append(ret, data, chunk.bytes), 0);
	}
}

void stream_build(const struct stream *s, struct buf *ret)
{
	uint8_t head[TRANSFER_ITEM_BYTES] = {0};
	const struct transfer_item end = {
		.kind = TRANSFER_END, .number = s->n, .bytes = DIGEST_BYTES};
	XXH128_canonical_t digest;

	buf_deinit(ret);
	*ret = (struct buf){0};
	assert_int_equal(buf_append(ret, head, TRANSFER_HEADER_BYTES), 0);
	for (unsigned i = 0; i < s->n; i++)
		build_item(s, i, ret);
	transfer_item_encode(&end, head);
	assert_int_equal(buf_append(ret, head, sizeof(head)), 0);
	transfer_header_encode(ret->len + DIGEST_BYTES + s->announce, (uint8_t *)ret->data);
	XXH128_canonicalFromHash(&digest, XXH3_128bits(ret->data, ret->len));
	assert_int_equal(buf_append(ret, digest.digest, DIGEST_BYTES), 0);
}

void stream_deinit(struct stream *s)
{
	for (unsigned i = 0; i < STREAM_MAX_ITEMS; i++)
		buf_deinit(&s->items[i].bytes);
}

void stream_set(struct stream_item *item, const void *data, size_t len)
{
	buf_deinit(&item->bytes);
	item->bytes = (struct buf){0};
	assert_int_equal(buf_append(&item->bytes, data, len), 0);
	item->item.bytes = len;
}
