/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-base.c - opening bases, and which image is whose base
 *
 * The rule. A base is worth something as long as others use the same one, because then its pages
 * are in memory once. So it is never an image that only one sandbox can have run from, and it is
 * handed down from sleep to sleep:
 *
 *     made from                              its base
 *     nothing (a guest that booted)          none: templates come from there
 *     a clone of a template, snapshot or     the parent's base, if at least half of the stored
 *     fork point, which others run from too  pages are still its; else the parent itself, if a
 *                                            quarter of them are
 *     a memory that it slept with            the parent's base, if a quarter of them are; else none
 *     (nobody else runs from that)
 *
 * A clone has the base of its source. Compaction moves pages into a new layer, where they are
 * nobody else's; it keeps the base by the last line of the table. It only moves pages of layers
 * that no other directory links, so what it ends is a sharing that nobody took part in any more.
 *
 * Why the older base is preferred up to a half: the template's memory is the one that most
 * sandboxes share, and so the one that is there anyway. A fork point that loaded much since is
 * better shared among its own forks.
 *
 * Example: a template stores 100 pages. A fork changes 10 and sleeps: 90 of 100 are shared, base is
 * the template. It wakes, runs on that, reads 300 new pages and is forked: the fork point shares 85
 * of 400, less than a quarter: no base. Its forks change 5 pages each and sleep: 395 of 400, their
 * base is the fork point.
 *
 * The file is a hard link to the base's map. What may be wrong with it is found when it is opened:
 * its digest must be the image id that the manifest names. No layers are linked for its sake; those
 * that the image has itself are the ones it can share.
 */
#include "image/image-base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/outcome.h"
#include "image/plain-file.h"
#include "image/snapshot-files.h"

#define MIN_PERCENT	   25u /* of the stored pages: less is not worth a base */
#define MIN_PERCENT_NEARER 50u /* the same where there is a nearer one */

#define ull(_v)		   ((unsigned long long)(_v))

/* A map file, without layers. */
struct loose_map {
	struct page_map map;
	struct layer_name *names;
	uint32_t n_layers;
	uint64_t bytes;
};

static void loose_map_deinit(struct loose_map *m)
{
	page_map_deinit(&m->map);
	free(m->names);
}

/* Does this say something about the file, or about this process? */
static bool is_unreadable(int r)
{
	return r == -EIO || r == -EBADMSG || r == -EUCLEAN || r == -EACCES || r == -EPERM ||
	       r == -ENOENT;
}

/*
 * @id: what its digest must be, of a base, which then is of no use if it cannot be read; NULL: any
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; negative errno
 */
static int read_map(int dirfd, const char *name, const char *id, struct problem *problem,
		    struct loose_map *ret)
{
	_cleanup_(loose_map_deinit) struct loose_map m = {0};
	_cleanup_buf_ struct buf data = {0};
	char made[IMAGE_ID_LEN + 1];
	int r = image_read_map(dirfd, name, &data, problem);

	if (r == 0)
		r = image_make_id(data.data, data.len, made);
	if (r == 0 && id && strcmp(made, id))
		r = image_corrupt(problem, "%s: the map of image %s, the manifest says %s", name,
				  made, id);
	if (r == 0)
		r = page_map_decode(data.data, data.len, problem, &m.map, &m.names, &m.n_layers);
	if (r)
		return id && is_unreadable(r) ? IMAGE_E_CORRUPT : error_trace(r);
	m.bytes = data.len;
	*ret = m;
	m = (struct loose_map){0};
	return 0;
}

static bool is_absent(int dirfd)
{
	return faccessat(dirfd, IMAGE_BASE_NAME, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* Each layer is one of @from, or missing. */
static int share_layers(struct image *base, struct image *from, struct problem *problem)
{
	const uint32_t n = base->n_layers;
	_cleanup_free_ uint32_t *match = NULL;
	int r = page_map_match(base->names, n, from->names, from->n_layers, &match);

	if (r < 0)
		return r;
	base->n_layers = 0; /* counts those that are there */
	base->layers = calloc(MAX(n, 1u), sizeof(*base->layers));
	if (!base->layers)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		const struct layer_name *name = &base->names[i];

		if (match[i] != PAGE_MAP_NO_LAYER)
			base->layers[i] = layer_ref(from->layers[match[i]]);
		else
			r = layer_new_missing(name->id, name->digest, &base->layers[i]);
		if (r < 0)
			return r;
		base->n_layers++;
		r = image_check_digest(base->layers[i], name, problem);
		if (r)
			return r;
	}
	return image_check_runs(base, problem);
}

static int open_named(int dirfd, struct image *image, const char *id, struct problem *problem,
		      struct image **ret)
{
	_cleanup_(image_unrefp) struct image *base = image_new();
	_cleanup_(loose_map_deinit) struct loose_map m = {0};
	int r;

	if (!base)
		return -ENOMEM;
	if (!*id || is_absent(dirfd))
		return IMAGE_E_ABSENT;
	r = read_map(dirfd, IMAGE_BASE_NAME, id, problem, &m);
	if (r)
		return r;
	if (m.map.n_pages != image_n_pages(image))
		return image_corrupt(problem, "base: of a guest of %llu pages, this one has %llu",
				     ull(m.map.n_pages), ull(image_n_pages(image)));
	str_copy(base->id, sizeof(base->id), id);
	base->map_bytes = m.bytes;
	base->map = m.map;
	base->names = m.names;
	base->sealed = image->sealed;
	m.map = (struct page_map){0};
	m.names = NULL;
	base->n_layers = m.n_layers;
	r = share_layers(base, image, problem);
	if (r)
		return error_trace(r);
	*ret = take_ptr(base);
	return 0;
}

int image_open_base(int dirfd, struct image *image, const struct keyring *keys,
		    struct problem *problem, struct image **ret)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	int r = snapshot_read_manifest(dirfd, keys, false, problem, &m, &files);

	if (r == -ENOENT || (r < 0 && is_unreadable(r)))
		return IMAGE_E_CORRUPT;
	if (r == 0 && strcmp(m.image_id, image_id(image)))
		return image_corrupt(problem, "manifest.json: of image %s, but this is image %s",
				     m.image_id, image_id(image));
	if (r == 0)
		r = open_named(dirfd, image, m.base_image_id, problem, ret);
	if (r < 0)
		problem_errno(problem, r, "base: cannot be opened");
	return error_trace(r);
}

int image_base_check(int dirfd, struct image *image, const char *id, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *base = NULL;
	struct problem why = PROBLEM_INIT;
	int r = open_named(dirfd, image, id, &why, &base);

	if (r == 0 || r == IMAGE_E_ABSENT)
		return 0;
	if (r < 0) {
		problem_errno(problem, r, "base: checking it");
		return error_trace(r);
	}
	problem_set(problem, 500,
		    "%s; the memory is whole, but woken sandboxes share less of it with others",
		    why.message);
	problem_hint(problem, "dorm store repair removes it");
	return r;
}

/* ---- asking -----------------------------------------------------------------------------------
 */

bool image_layer_is_missing(const struct image *image, uint32_t layer)
{
	return layer_is_missing(image->layers[layer]);
}

uint32_t image_missing_layers(const struct image *image)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < image->n_layers; i++)
		n += layer_is_missing(image->layers[i]);
	return n;
}

int image_diff_bitmap(const struct image *image, const struct image *base, bitmap_word *own,
		      uint64_t *ret_own_pages, uint64_t *ret_own_stored_pages,
		      uint64_t *ret_shared_stored_pages)
{
	_cleanup_free_ uint32_t *match = NULL;
	struct page_map_diff d;
	int r;

	if (image->map.n_pages != base->map.n_pages)
		return error_trace(-EINVAL);
	r = page_map_match(image->names, image->n_layers, base->names, base->n_layers, &match);
	if (r < 0)
		return r;
	page_map_compare(&image->map, &base->map, match, own, &d);
	*ret_own_pages = d.pages;
	*ret_own_stored_pages = d.stored;
	*ret_shared_stored_pages = d.shared;
	return 0;
}

/* ---- choosing ---------------------------------------------------------------------------------
 */

/* A map of the parent's directory that may become the base. */
struct candidate {
	const char *file, *id;
	uint64_t min_percent;
};

/* Are at least so many of the stored pages also its pages? Return: 0; 1 no; negative errno */
static int weigh(const struct loose_map *made, int parent_dirfd, const struct candidate *c)
{
	_cleanup_(loose_map_deinit) struct loose_map base = {0};
	_cleanup_free_ uint32_t *match = NULL;
	struct page_map_diff d;
	int r = read_map(parent_dirfd, c->file, c->id, NULL, &base);

	if (r)
		return r < 0 ? r : 1;
	if (base.map.n_pages != made->map.n_pages)
		return 1;
	r = page_map_match(made->names, made->n_layers, base.names, base.n_layers, &match);
	if (r < 0)
		return r;
	page_map_compare(&made->map, &base.map, match, NULL, &d);
	return d.shared && d.shared * 100 >= made->map.stored_pages * c->min_percent ? 0 : 1;
}

/* The first that is good enough, linked. */
static int choose(int dirfd, int parent_dirfd, const struct candidate *c, size_t n,
		  char ret_id[IMAGE_ID_LEN + 1], struct problem *problem)
{
	_cleanup_(loose_map_deinit) struct loose_map made = {0};
	int r = read_map(dirfd, "map", NULL, problem, &made);

	if (r)
		return r > 0 ? -EBADMSG : error_trace(r);
	for (size_t i = 0; i < n; i++) {
		r = weigh(&made, parent_dirfd, &c[i]);
		if (r == 0)
			r = plain_file_link_as(parent_dirfd, c[i].file, dirfd, IMAGE_BASE_NAME);
		if (r == 0) {
			memmove(ret_id, c[i].id, IMAGE_ID_LEN + 1);
			return 0;
		}
		if (r < 0 && r != -ENOENT) /* a repair has just removed it */
			return error_trace(r);
	}
	ret_id[0] = 0;
	return 0;
}

int image_base_put(int dirfd, int parent_dirfd, const struct manifest *parent, bool others,
		   struct problem *problem, char ret_id[IMAGE_ID_LEN + 1])
{
	const char *inherited = parent ? parent->base_image_id : "";
	struct candidate c[2];
	size_t n = 0;
	int r = 0;

	if (parent_dirfd >= 0 && *inherited && !is_absent(parent_dirfd))
		c[n++] = (struct candidate){IMAGE_BASE_NAME, inherited,
					    others ? MIN_PERCENT_NEARER : MIN_PERCENT};
	if (parent_dirfd >= 0 && others)
		c[n++] = (struct candidate){"map", parent->image_id, MIN_PERCENT};
	if (n)
		r = choose(dirfd, parent_dirfd, c, n, ret_id, problem);
	else
		ret_id[0] = 0;
	if (r < 0)
		problem_errno(problem, r, "base: linking the map of the parent's");
	return r;
}
