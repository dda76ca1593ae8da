/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-transfer-hostile.c - streams that are broken, damaged, or made to do harm
 *
 * Whatever comes, a store has the same snapshots afterwards, nothing in tmp/, and nothing but whole
 * layers in incoming/.
 */
#include "image/test-stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/le.h"
#include "image/manifest.h"
#include "image/outcome.h"

struct hostile {
	struct stream_place *p;
	char id[ID_LEN + 1];
	struct buf data; /* a good stream */
	struct stream s; /* the same, taken apart */
	unsigned layer;	 /* number of its first layer's item */
};

static int setup(void **state)
{
	struct hostile *h = calloc(1, sizeof(*h));
	char parent[ID_LEN + 1];
	void *place;

	assert_non_null(h);
	(void)stream_setup(&place);
	h->p = place;
	stream_snapshot(h->p, &(struct stream_options){.every = 48, .kind = 1, .plain = true},
			parent);
	stream_snapshot(
		h->p,
		&(struct stream_options){.parent = parent, .every = 80, .kind = 1, .plain = true},
		h->id);
	stream_export(h->p->from, h->id, NULL, 0, &h->data);
	stream_parse(&h->data, &h->s);
	h->layer = 2;
	assert_int_equal(h->s.items[h->layer].item.kind, TRANSFER_LAYER);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct hostile *h = *state;
	void *place = h->p;

	stream_deinit(&h->s);
	buf_deinit(&h->data);
	free(h);
	return stream_teardown(&place);
}

static void assert_nothing(struct hostile *h)
{
	assert_int_equal(stream_count(h->p->to, "snapshots"), 0);
	assert_int_equal(stream_count(h->p->to, "tmp"), 0);
}

/* The changed stream must be refused in this way, with @text in what is said about it. */
static void refused_with(struct hostile *h, int result, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf data = {0};

	stream_build(&h->s, &data);
	assert_int_equal(stream_import(h->p->to, NULL, data.data, data.len, 4096, NULL, &problem),
			 result);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" does not say \"%s\"", problem.message, text);
	assert_in_range(problem.status, 400, 499);
	assert_nothing(h);
}

static void refused(struct hostile *h, const char *text)
{
	refused_with(h, TRANSFER_E_STREAM, text);
}

static void change_manifest(struct hostile *h,
			    void (*change)(struct manifest *m, struct manifest_files *f))
{
	struct stream_item *i = &h->s.items[0];
	struct problem problem = PROBLEM_INIT;
	struct manifest_files files;
	struct manifest m;
	char *text;

	assert_int_equal(manifest_decode(i->bytes.data, i->bytes.len, &problem, &m, &files), 0);
	change(&m, &files);
	assert_int_equal(manifest_encode(&m, &files, &text), 0);
	stream_set(i, text, strlen(text));
	free(text);
	manifest_deinit(&m);
	manifest_files_deinit(&files);
}

/* ---- broken and damaged -----------------------------------------------------------------------
 */

static void test_truncated(void **state)
{
	struct hostile *h = *state;
	struct import_stats stats;

	for (size_t len = 0; len < h->data.len; len++) {
		struct problem problem = PROBLEM_INIT;

		assert_int_equal(stream_import(h->p->to, NULL, h->data.data, len, 1u << 20, &stats,
					       &problem),
				 TRANSFER_E_STREAM);
		assert_non_null(strstr(problem.message, "too early"));
		assert_nothing(h);
		assert_in_range(stream_count(h->p->to, "incoming"), 0, 2);
	}
	assert_int_equal(stream_count(h->p->to, "incoming"), 2);
}

static void test_flipped(void **state)
{
	struct hostile *h = *state;
	struct import_stats stats;

	for (size_t at = 0; at < h->data.len; at++) {
		struct problem problem = PROBLEM_INIT;
		const char bit = (char)(1 << fixture_random(&h->p->seed) % 8);
		int r;

		h->data.data[at] ^= bit;
		r = stream_import(h->p->to, NULL, h->data.data, h->data.len, 1u << 20, &stats,
				  &problem);
		assert_true(r == TRANSFER_E_STREAM || r == IMAGE_E_VERSION);
		assert_true(problem_is_set(&problem));
		assert_in_range(problem.status, 400, 499);
		assert_nothing(h);
		h->data.data[at] ^= bit;
	}
}

/* Where the end's digest fits what is wrong: the chunk's own checksum finds it, and finds it there.
 */
static void test_flipped_chunk(void **state)
{
	struct hostile *h = *state;
	const size_t start =
		TRANSFER_HEADER_BYTES + TRANSFER_ITEM_BYTES + TRANSFER_CHUNK_HEAD_BYTES;
	XXH128_canonical_t digest;
	struct problem problem = PROBLEM_INIT;

	h->data.data[start] ^= 1;
	XXH128_canonicalFromHash(&digest, XXH3_128bits(h->data.data, h->data.len - DIGEST_BYTES));
	memcpy(h->data.data + h->data.len - DIGEST_BYTES, digest.digest, DIGEST_BYTES);
	assert_int_equal(
		stream_import(h->p->to, NULL, h->data.data, h->data.len, 4096, NULL, &problem),
		TRANSFER_E_STREAM);
	assert_string_equal(problem.message,
			    "stream: item 0 (manifest), chunk 0: checksum mismatch");
	assert_nothing(h);
}

static void test_end(void **state)
{
	struct hostile *h = *state;
	struct problem problem = PROBLEM_INIT;
	struct import_stats stats;

	/* bytes behind the end */
	assert_int_equal(buf_append(&h->data, "x", 1), 0);
	assert_int_equal(stream_import(h->p->to, NULL, h->data.data, h->data.len, 1u << 20, &stats,
				       &problem),
			 TRANSFER_E_STREAM);
	assert_non_null(strstr(problem.message, "goes on after its end"));
	/* a wrong digest */
	h->data.len--;
	h->data.data[h->data.len - 1] ^= 1;
	problem = PROBLEM_INIT;
	assert_int_equal(stream_import(h->p->to, NULL, h->data.data, h->data.len, 1u << 20, &stats,
				       &problem),
			 TRANSFER_E_STREAM);
	assert_non_null(strstr(problem.message, "digest"));
	assert_nothing(h);
}

static void test_length(void **state)
{
	struct hostile *h = *state;
	struct import_options options = {.max_bytes = h->data.len - 1};
	struct problem problem = PROBLEM_INIT;

	h->s.announce = 1;
	refused(h, "announced");
	h->s.announce = (uint64_t)-1;
	refused(h, "stream");
	h->s.announce = 1ull << 62;
	refused_with(h, TRANSFER_E_STREAM, "ends at offset");
	h->s.announce = 1ull << 63;
	refused(h, "a length of");
	assert_int_equal(
		stream_import(h->p->to, &options, h->data.data, h->data.len, 4096, NULL, &problem),
		TRANSFER_E_STREAM);
	assert_int_equal(problem.status, 413);
	assert_nothing(h);
}

static void test_stays_refused(void **state)
{
	struct hostile *h = *state;
	struct problem problem = PROBLEM_INIT, again = PROBLEM_INIT;
	struct import_stats stats;
	struct importer *m;

	assert_int_equal(importer_new(h->p->to, NULL, &problem, &m), 0);
	assert_int_equal(importer_write(m, "nothing of ours at all, but long enough", 39, &problem),
			 TRANSFER_E_STREAM);
	assert_non_null(strstr(problem.message, "not an exported snapshot"));
	assert_int_equal(importer_write(m, h->data.data, h->data.len, &again), TRANSFER_E_STREAM);
	assert_int_equal(importer_finish(m, &again, &stats), TRANSFER_E_STREAM);
	assert_string_equal(again.message, problem.message);
	importer_free(m);
}

/* ---- items ------------------------------------------------------------------------------------
 */

static void swap(struct stream *s, unsigned a, unsigned b)
{
	struct stream_item i = s->items[a];

	s->items[a] = s->items[b];
	s->items[b] = i;
}

static void test_order(void **state)
{
	struct hostile *h = *state;

	for (unsigned a = 0; a < h->s.n; a++)
		for (unsigned b = a + 1; b < h->s.n; b++) {
			swap(&h->s, a, b);
			refused(h, "belongs"); /* each with the number of its new place */
			h->s.keep_numbers = true;
			refused(h, "belongs");
			h->s.keep_numbers = false;
			swap(&h->s, a, b);
		}
}

static void test_missing_items(void **state)
{
	struct hostile *h = *state;

	for (unsigned i = 0; i < h->s.n; i++) {
		struct stream_item gone = h->s.items[i];
		const size_t behind = (h->s.n - i - 1) * sizeof(gone);

		memmove(&h->s.items[i], &h->s.items[i + 1], behind);
		h->s.n--;
		refused(h, "belongs");
		memmove(&h->s.items[i + 1], &h->s.items[i], behind);
		h->s.items[i] = gone;
		h->s.n++;
	}
}

static void test_duplicates(void **state)
{
	struct hostile *h = *state;
	const unsigned n = h->s.n;

	for (unsigned i = 0; i < n; i++) {
		h->s.items[n].item = h->s.items[i].item;
		stream_set(&h->s.items[n], h->s.items[i].bytes.data, h->s.items[i].bytes.len);
		h->s.n = n + 1;
		refused(h, "belongs");
		/* and one directly behind the other */
		swap(&h->s, n, i + 1);
		refused(h, "belongs");
		swap(&h->s, n, i + 1);
	}
	/* a working set is optional, a second one is not */
	for (unsigned i = n; i < n + 2; i++) {
		h->s.items[i].item = (struct transfer_item){.kind = TRANSFER_WORKING_SET};
		stream_set(&h->s.items[i], "set", 3);
	}
	h->s.n = n + 2;
	refused(h, "belongs");
	stream_set(&h->s.items[n], "set", 3);
	h->s.n = n + 1; /* one that is none */
	refused(h, "working-set");
}

static void test_unknown_items(void **state)
{
	struct hostile *h = *state;
	_cleanup_buf_ struct buf data = {0};
	struct problem problem = PROBLEM_INIT;
	struct stream_item *last = &h->s.items[h->s.n++];

	last->item = (struct transfer_item){.kind = 99};
	stream_set(last, "later", 5);
	refused(h, "kind 99");
	last->item.flags = TRANSFER_LEFT_OUT | TRANSFER_IGNORABLE;
	refused(h, "flags");
	last->item.flags = TRANSFER_IGNORABLE | 0x80;
	refused(h, "flags");
	last->item.flags = TRANSFER_IGNORABLE;
	last->item.kind = TRANSFER_LAYER; /* a known kind in a place of its own choice */
	refused(h, "belongs");
	last->item.kind = 99;
	stream_build(&h->s, &data);
	assert_int_equal(stream_import(h->p->to, NULL, data.data, data.len, 1, NULL, &problem), 0);
	stream_check(h->p, h->p->to, h->id);
}

static void test_versions(void **state)
{
	struct hostile *h = *state;
	uint8_t *header = (uint8_t *)h->data.data;
	struct problem problem = PROBLEM_INIT;
	XXH128_canonical_t digest;

	le_put16(header + 8, 2);
	assert_int_equal(
		stream_import(h->p->to, NULL, h->data.data, h->data.len, 4096, NULL, &problem),
		IMAGE_E_VERSION);
	assert_non_null(strstr(problem.message, "newer"));
	assert_nothing(h);
	le_put16(header + 8, 0);
	problem = PROBLEM_INIT;
	assert_int_equal(
		stream_import(h->p->to, NULL, h->data.data, h->data.len, 4096, NULL, &problem),
		TRANSFER_E_STREAM);
	/* a later minor version is read */
	le_put16(header + 8, TRANSFER_MAJOR);
	le_put16(header + 10, TRANSFER_MINOR + 1);
	le_put64(header + 24, XXH3_64bits(header, 24));
	XXH128_canonicalFromHash(&digest, XXH3_128bits(header, h->data.len - DIGEST_BYTES));
	memcpy(header + h->data.len - DIGEST_BYTES, digest.digest, DIGEST_BYTES);
	assert_int_equal(
		stream_import(h->p->to, NULL, h->data.data, h->data.len, 4096, NULL, &problem), 0);
}

static void test_sizes(void **state)
{
	static const uint64_t sizes[] = {1ull << 63, UINT64_MAX, INT64_MAX, 1ull << 44, 5u << 20};
	struct hostile *h = *state;

	h->s.keep_numbers = true;
	for (unsigned i = 0; i < h->s.n; i++)
		for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
			const uint64_t bytes = h->s.items[i].item.bytes;

			h->s.items[i].item.bytes = sizes[j];
			refused(h, "bytes");
			h->s.items[i].item.bytes = bytes;
		}
}

/* The manifest agrees with a size that no stream has. */
static void gigantic(struct manifest *m, struct manifest_files *f)
{
	f->layers[0].bytes = 1ull << 43;
}

static void test_gigantic_layer(void **state)
{
	struct hostile *h = *state;

	change_manifest(h, gigantic);
	h->s.items[0].item.number = 0;
	h->s.keep_numbers = true;
	h->s.items[h->layer].item.bytes = 1ull << 43;
	refused(h, "do not fit into a stream");
}

/* ---- manifests --------------------------------------------------------------------------------
 */

static char bad_name[32];

static void name_disk(struct manifest *m, struct manifest_files *f)
{
	m->n_disks = 1;
	m->disks[0] = (struct snapshot_disk){.format = "raw", .size = 4};
	str_copy(m->disks[0].name, sizeof(m->disks[0].name), bad_name);
}

static void name_layer(struct manifest *m, struct manifest_files *f)
{
	str_copy(f->layers[0].id, sizeof(f->layers[0].id), bad_name);
}

static void name_snapshot(struct manifest *m, struct manifest_files *f)
{
	str_copy(m->id, sizeof(m->id), bad_name);
}

static void test_names(void **state)
{
	static const char *const names[] = {"../x", "/etc/passwd",	"..", ".", "",
					    "a/b",  "../../../../etc/x"};
	struct hostile *h = *state;
	struct stream_item *i = &h->s.items[0];
	_cleanup_free_ char *text = strdup(i->bytes.data);

	for (size_t n = 0; n < ARRAY_SIZE(names); n++) {
		str_copy(bad_name, sizeof(bad_name), names[n]);
		change_manifest(h, name_disk);
		refused(h, "\"name\"");
		stream_set(i, text, strlen(text));
		change_manifest(h, name_layer);
		refused(h, "\"id\"");
		stream_set(i, text, strlen(text));
		change_manifest(h, name_snapshot);
		refused(h, "\"id\"");
		stream_set(i, text, strlen(text));
	}
	assert_int_equal(stream_count(h->p->to, "incoming"), 0);
}

static void own_parent(struct manifest *m, struct manifest_files *f)
{
	str_copy(m->parent_id, sizeof(m->parent_id), m->id);
}

static void test_own_parent(void **state)
{
	struct hostile *h = *state;
	struct manifest_files files;
	struct problem problem = PROBLEM_INIT;
	struct manifest m;
	struct import_options options = {.id = m.parent_id};

	assert_int_equal(manifest_decode(h->s.items[0].bytes.data, h->s.items[0].bytes.len,
					 &problem, &m, &files),
			 0);
	assert_int_equal(
		stream_import(h->p->to, &options, h->data.data, h->data.len, 4096, NULL, &problem),
		TRANSFER_E_STREAM);
	assert_nothing(h);
	manifest_files_deinit(&files);
	change_manifest(h, own_parent);
	refused(h, "its own parent");
}

static void sealed(struct manifest *m, struct manifest_files *f)
{
	str_copy(m->seal, sizeof(m->seal), "aes-256-gcm");
}

static void test_seal(void **state)
{
	struct hostile *h = *state;
	struct import_options options = {.id = "sother00000000000000x"};
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf data = {0};

	/* says it is sealed, brings no seal */
	change_manifest(h, sealed);
	refused(h, "where seal belongs");
	/* brings something */
	for (unsigned i = h->s.n; i > 2; i--)
		h->s.items[i] = h->s.items[i - 1];
	h->s.items[2] = (struct stream_item){.item.kind = TRANSFER_SEAL};
	stream_set(&h->s.items[2], "{}", 2);
	h->s.n++;
	refused(h, "seal");
	/* without a key its id stays */
	stream_build(&h->s, &data);
	assert_int_equal(
		stream_import(h->p->to, &options, data.data, data.len, 4096, NULL, &problem),
		TRANSFER_E_EXISTS);
	assert_non_null(strstr(problem.message, "key"));
	assert_nothing(h);
}

/* Lists longer than any struct manifest: edited as text, with the digest made anew. */
static void lengthen(struct hostile *h, const char *list, unsigned n)
{
	struct stream_item *i = &h->s.items[0];
	json_t *root = json_loadb(i->bytes.data, i->bytes.len, 0, NULL), *array;
	char *text, *fitting;

	assert_non_null(root);
	array = json_array();
	assert_int_equal(json_object_set_new(root, list, array), 0);
	for (unsigned k = 0; k < n; k++) {
		char name[64];

		(void)snprintf(name, sizeof(name), "%0*x", IMAGE_ID_LEN - (*list == 'd'), k);
		assert_int_equal(json_array_append_new(
					 array, json_pack("{s:s,s:s,s:s,s:s,s:b,s:i}", "id", name,
							  "name", name, "digest", name, "format",
							  "raw", "read_only", 0, "bytes", 4)),
				 0);
	}
	text = json_dumps(root, 0);
	assert_int_equal(manifest_replace_id(text, strlen(text), h->id, &fitting), 0);
	stream_set(i, fitting, strlen(fitting));
	json_decref(root);
	free(text);
	free(fitting);
}

static void test_many(void **state)
{
	struct hostile *h = *state;
	struct stream_item *i = &h->s.items[0];
	_cleanup_free_ char *text = strdup(i->bytes.data), *large = calloc(1, 5u << 20);

	lengthen(h, "disks", 17);
	refused(h, "17 of them");
	stream_set(i, text, strlen(text));
	lengthen(h, "layers", 5000);
	refused(h, "5000 of them");
	stream_set(i, text, strlen(text));
	lengthen(h, "layers", 40);
	refused(h, "layers"); /* not those of the map */
	memset(large, ' ', 5u << 20);
	memcpy(large, text, strlen(text));
	stream_set(i, large, 5u << 20);
	refused(h, "it must have 0 to 4194304");
	stream_set(i, "", 0);
	refused(h, "manifest.json");
}

static void swap_layers(struct manifest *m, struct manifest_files *f)
{
	struct manifest_layer l = f->layers[0];

	f->layers[0] = f->layers[1];
	f->layers[1] = l;
}

static void same_layer_twice(struct manifest *m, struct manifest_files *f)
{
	f->layers[1] = f->layers[0];
}

static void other_image(struct manifest *m, struct manifest_files *f)
{
	m->image_id[0] = m->image_id[0] == '0' ? '1' : '0';
}

static void other_memory(struct manifest *m, struct manifest_files *f)
{
	m->memory_bytes += DORM_PAGE_SIZE;
}

static void test_manifest_and_map_disagree(void **state)
{
	static const struct {
		void (*change)(struct manifest *m, struct manifest_files *f);
		const char *text;
	} cases[] = {{swap_layers, "another one there"},
		     {same_layer_twice, "another one there"},
		     {other_image, "image id"},
		     {other_memory, "pages"}};
	struct hostile *h = *state;
	struct stream_item *i = &h->s.items[0];
	_cleanup_free_ char *text = strdup(i->bytes.data);

	for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
		change_manifest(h, cases[n].change);
		refused(h, cases[n].text);
		stream_set(i, text, strlen(text));
	}
}

/* ---- layers -----------------------------------------------------------------------------------
 */

static void test_missing(void **state)
{
	struct hostile *h = *state;
	const char *skip[1];
	char id[IMAGE_ID_LEN + 1];
	struct problem problem = PROBLEM_INIT;

	str_hex(h->s.items[h->layer].item.layer, LAYER_ID_BYTES, id);
	skip[0] = id;
	buf_deinit(&h->data);
	h->data = (struct buf){0};
	stream_export(h->p->from, h->id, skip, 1, &h->data);
	assert_int_equal(
		stream_import(h->p->to, NULL, h->data.data, h->data.len, 4096, NULL, &problem),
		TRANSFER_E_MISSING);
	assert_non_null(strstr(problem.message, id));
	assert_true(problem.hint[0]);
	assert_nothing(h);
}

static uint8_t digest_of_layer[DIGEST_BYTES];
static uint64_t bytes_of_layer;
static char image_id_of_map[IMAGE_ID_LEN + 1];
static uint64_t bytes_of_map;

static void one_layer(struct manifest *m, struct manifest_files *f)
{
	f->n_layers = 1;
	f->layers[0].bytes = bytes_of_layer;
	str_hex(digest_of_layer, DIGEST_BYTES, f->layers[0].digest);
	f->map_bytes = bytes_of_map;
	str_copy(m->image_id, sizeof(m->image_id), image_id_of_map);
	m->memory_bytes = 16 * DORM_PAGE_SIZE;
}

/* @header: of the layer in whose place it comes */
static void make_layer(const uint8_t header[LAYER_HEADER_BYTES], const void *frame, uint32_t len,
		       uint8_t n_pages, uint64_t wrong_tag, struct buf *ret)
{
	const uint8_t *id = header + 16;
	struct layer_frame f = {.offset = LAYER_HEADER_BYTES,
				.stored_len = len,
				.codec = IMAGE_CODEC_ZSTD,
				.n_pages = n_pages,
				.tag = layer_tag(id, 0, frame, len) ^ wrong_tag};
	struct layer_footer footer = {.n_frames = 1,
				      .n_pages = n_pages,
				      .index_offset = LAYER_HEADER_BYTES + len,
				      .index_len = LAYER_ENTRY_BYTES};
	uint8_t entry[LAYER_ENTRY_BYTES], end[LAYER_FOOTER_BYTES];
	XXH128_canonical_t digest;

	layer_entry_encode(&f, entry);
	XXH128_canonicalFromHash(&digest, XXH3_128bits(entry, sizeof(entry)));
	memcpy(footer.digest, digest.digest, DIGEST_BYTES);
	memcpy(digest_of_layer, digest.digest, DIGEST_BYTES);
	memcpy(footer.id, id, LAYER_ID_BYTES);
	layer_footer_encode(&footer, end);
	assert_int_equal(buf_append(ret, header, LAYER_HEADER_BYTES), 0);
	assert_int_equal(buf_append(ret, frame, len), 0);
	assert_int_equal(buf_append(ret, entry, sizeof(entry)), 0);
	assert_int_equal(buf_append(ret, end, sizeof(end)), 0);
	bytes_of_layer = ret->len;
}

static void make_map(const uint8_t *id, uint8_t n_pages, struct buf *ret)
{
	struct page_map map = {0};
	struct page_run shared;
	struct layer_name name;

	memcpy(name.id, id, LAYER_ID_BYTES);
	memcpy(name.digest, digest_of_layer, DIGEST_BYTES);
	assert_int_equal(page_map_append(&map, n_pages, 0, 0), 0);
	if (n_pages < 16)
		assert_int_equal(page_map_append(&map, 16 - n_pages, IMAGE_LAYER_ZERO, 0), 0);
	assert_int_equal(page_map_seal(&map, &shared), 0);
	assert_int_equal(page_map_encode(&map, &name, 1, ret), 0);
	assert_int_equal(image_make_id(ret->data, ret->len, image_id_of_map), 0);
	bytes_of_map = ret->len;
	page_map_deinit(&map);
}

/* A whole snapshot around one frame, in which every checksum fits. */
static void put_frame(struct hostile *h, const void *frame, size_t len, uint8_t n_pages,
		      uint64_t wrong_tag)
{
	const uint8_t *id = h->s.items[h->layer].item.layer;
	_cleanup_buf_ struct buf layer = {0}, map = {0};

	make_layer((const uint8_t *)h->s.items[h->layer].bytes.data, frame, (uint32_t)len, n_pages,
		   wrong_tag, &layer);
	make_map(id, n_pages, &map);
	change_manifest(h, one_layer);
	stream_set(&h->s.items[1], map.data, map.len);
	stream_set(&h->s.items[h->layer], layer.data, layer.len);
	h->s.n = 3;
}

/* A layer of the same id is here, but it is damaged, or another one. */
static void put_layer(struct hostile *h, const void *data, size_t len)
{
	char path[64] = "incoming/", *id = path + strlen(path);
	int fd;

	str_hex(h->s.items[h->layer].item.layer, LAYER_ID_BYTES, id);
	fd = openat(h->p->to->root_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static void test_impostor(void **state)
{
	struct hostile *h = *state;
	_cleanup_free_ char *page = calloc(1, DORM_PAGE_SIZE), *packed = malloc(DORM_PAGE_SIZE);
	_cleanup_buf_ struct buf data = {0}, other = {0};
	struct problem problem = PROBLEM_INIT;
	struct import_stats stats;
	size_t len;

	put_layer(h, h->s.items[h->layer].bytes.data, h->s.items[h->layer].bytes.len - 1);
	assert_int_equal(
		stream_import(h->p->to, NULL, h->data.data, h->data.len, 4096, &stats, &problem),
		0);
	assert_int_equal(stats.layers_present, 0);
	assert_int_equal(stats.layers_received, 2);
	stream_check(h->p, h->p->to, h->id);
	/* of the same size, and good for itself */
	memset(page, 'b', DORM_PAGE_SIZE);
	len = ZSTD_compress(packed, DORM_PAGE_SIZE, page, DORM_PAGE_SIZE, 1);
	make_layer((const uint8_t *)h->s.items[h->layer].bytes.data, packed, (uint32_t)len, 1, 0,
		   &other);
	memset(page, 'a', DORM_PAGE_SIZE);
	assert_int_equal(ZSTD_compress(packed, DORM_PAGE_SIZE, page, DORM_PAGE_SIZE, 1), len);
	put_frame(h, packed, len, 1, 0);
	assert_int_equal(other.len, h->s.items[h->layer].bytes.len);
	put_layer(h, other.data, other.len);
	stream_build(&h->s, &data);
	assert_int_equal(stream_import(h->p->to, NULL, data.data, data.len, 4096, &stats, &problem),
			 0);
	assert_int_equal(stats.layers_present, 0);
	assert_int_equal(stats.layers_received, 1);
}

static void test_frames(void **state)
{
	struct hostile *h = *state;
	_cleanup_free_ char *zeros = calloc(1, 1u << 20), *packed = malloc(1u << 20);
	struct problem problem = PROBLEM_INIT;
	_cleanup_buf_ struct buf data = {0};
	size_t len;

	/* nothing that zstd ever wrote */
	memset(packed, 'x', 3000);
	put_frame(h, packed, 3000, 1, 0);
	refused(h, "does not decode");
	/* decodes to a megabyte, where 16 pages are announced; and to less than that */
	len = ZSTD_compress(packed, 1u << 20, zeros, 1u << 20, 1);
	put_frame(h, packed, len, 16, 0);
	refused(h, "does not decode");
	len = ZSTD_compress(packed, 1u << 20, zeros, DORM_PAGE_SIZE, 1);
	put_frame(h, packed, len, 16, 0);
	refused(h, "does not decode");
	put_frame(h, packed, len, 1, 1);
	refused(h, "checksum mismatch");
	assert_int_equal(stream_count(h->p->to, "incoming"), 0);
	/* the way in which these streams are made is not what is wrong with them */
	put_frame(h, packed, len, 1, 0);
	stream_build(&h->s, &data);
	assert_int_equal(stream_import(h->p->to, NULL, data.data, data.len, 4096, NULL, &problem),
			 0);
}

/* ---- disks ------------------------------------------------------------------------------------
 */

static void qcow2_disk(struct manifest *m, struct manifest_files *f)
{
	m->n_disks = 1;
	m->disks[0] = (struct snapshot_disk){.name = "root", .format = "qcow2", .size = 65536};
}

static void strange_disk(struct manifest *m, struct manifest_files *f)
{
	m->n_disks = 1;
	m->disks[0] = (struct snapshot_disk){.name = "root", .format = "vmdk", .size = 65536};
}

static void put_be32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

/* Source: QEMU's docs/interop/qcow2.txt */
static void test_qcow2(void **state)
{
	static const char backing[] = "/etc/shadow";
	struct hostile *h = *state;
	uint8_t *disk = calloc(1, 65536);

	assert_non_null(disk);
	memcpy(disk, "QFI\xfb", 4);
	put_be32(disk + 4, 3);
	put_be32(disk + 12, 256); /* offset of the backing file's name */
	put_be32(disk + 16, sizeof(backing) - 1);
	put_be32(disk + 20, 16);    /* bits of a cluster */
	put_be32(disk + 28, 65536); /* size */
	put_be32(disk + 96, 4);	    /* refcount order */
	put_be32(disk + 100, 104);  /* length of the header */
	memcpy(disk + 256, backing, sizeof(backing) - 1);
	h->s.items[h->s.n].item.kind = TRANSFER_DISK;
	stream_set(&h->s.items[h->s.n++], disk, 65536);
	change_manifest(h, qcow2_disk);
	refused(h, "");
	change_manifest(h, strange_disk);
	refused(h, "vmdk");
	free(disk);
}

static void device(struct manifest *m, struct manifest_files *f)
{
	m->device_bytes = 5;
	memset(m->device_digest, 'a', sizeof(m->device_digest) - 1);
}

static void test_device(void **state)
{
	struct hostile *h = *state;

	change_manifest(h, device);
	for (unsigned i = h->s.n++; i > 2; i--)
		h->s.items[i] = h->s.items[i - 1];
	h->s.items[2] = (struct stream_item){.item.kind = TRANSFER_DEVICE};
	stream_set(&h->s.items[2], "other", 5);
	refused(h, "device: checksum mismatch");
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_truncated),	   TEST(test_flipped),
		TEST(test_flipped_chunk),  TEST(test_end),
		TEST(test_length),	   TEST(test_stays_refused),
		TEST(test_order),	   TEST(test_missing_items),
		TEST(test_duplicates),	   TEST(test_unknown_items),
		TEST(test_versions),	   TEST(test_sizes),
		TEST(test_gigantic_layer), TEST(test_names),
		TEST(test_own_parent),	   TEST(test_seal),
		TEST(test_many),	   TEST(test_manifest_and_map_disagree),
		TEST(test_missing),	   TEST(test_impostor),
		TEST(test_frames),	   TEST(test_qcow2),
		TEST(test_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
