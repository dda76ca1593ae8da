/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-raw.c - somebody else's memory file as an image
 *
 * A raw image is an image like any other from the outside: a page map of one run over one layer,
 * and only that layer (layer_open_raw_fd()) knows that its index was made up. A file of 160 KiB is
 *
 *     page map   gfn 0 .. 39 <- layer 0, slot 0 .. 39
 *     frames     0: 16 pages at 0    1: 16 pages at 65536    2: 8 pages at 131072
 *
 * What it does not have is a digest. Two processes that open the same file at the same time get the
 * same id, and the id differs from those of snapshots, because they hash other things: that is all
 * that an id is used for in the pager. It does not stand for the content, and the file may change
 * under us. So what was seen of the inode is kept, and asked for again before each use.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/le.h"
#include "image/outcome.h"

#define NAME_MAX_SHOWN 95u

/* What the inode looked like when it was opened. */
struct image_raw {
	char name[NAME_MAX_SHOWN + 1];
	uint64_t dev;
	uint64_t ino;
	uint64_t bytes;
	int64_t mtime_s;
	uint64_t mtime_ns;
};

static struct image_raw *raw_new(const char *name, const struct stat *st)
{
	struct image_raw *raw = calloc(1, sizeof(*raw));

	if (!raw)
		return NULL;
	str_copy(raw->name, sizeof(raw->name), name);
	raw->dev = st->st_dev;
	raw->ino = st->st_ino;
	raw->bytes = (uint64_t)st->st_size;
	raw->mtime_s = st->st_mtim.tv_sec;
	raw->mtime_ns = (uint64_t)st->st_mtim.tv_nsec;
	return raw;
}

/* SHA-256 of a magic and five numbers: the first half is the image's id, the second the layer's. */
static int make_ids(const struct image_raw *raw, char image_id[IMAGE_ID_LEN + 1],
		    uint8_t layer_id[LAYER_ID_BYTES])
{
	uint8_t about[8 + 5 * 8] = "DORMRAW", digest[EVP_MAX_MD_SIZE];

	le_put64(about + 8, raw->dev);
	le_put64(about + 16, raw->ino);
	le_put64(about + 24, raw->bytes);
	le_put64(about + 32, (uint64_t)raw->mtime_s);
	le_put64(about + 40, raw->mtime_ns);
	if (!EVP_Digest(about, sizeof(about), digest, NULL, EVP_sha256(), NULL))
		return -ENOMEM; /* the only way in which hashing memory fails */
	str_hex(digest, IMAGE_ID_LEN / 2, image_id);
	memcpy(layer_id, digest + IMAGE_ID_LEN / 2, LAYER_ID_BYTES);
	return 0;
}

static int check_file(const struct stat *st, const char *name, struct problem *problem)
{
	if (!S_ISREG(st->st_mode)) {
		problem_set(problem, 400, "raw memory %s: not a regular file", name);
		return -EINVAL;
	}
	if (st->st_size == 0 || (uint64_t)st->st_size % DORM_PAGE_SIZE) {
		problem_set(problem, 400,
			    "raw memory %s: %lld bytes are not a whole number of pages of %lu",
			    name, (long long)st->st_size, DORM_PAGE_SIZE);
		problem_hint(problem, "give the guest's memory file alone, complete, without a "
				      "header");
		return -EINVAL;
	}
	if ((uint64_t)st->st_size / DORM_PAGE_SIZE > IMAGE_MAX_PAGES) {
		problem_set(problem, 400, "raw memory %s: %lld bytes; at most 4 TiB are served",
			    name, (long long)st->st_size);
		return -EFBIG;
	}
	return 0;
}

static int add_layer(struct image *image, int fd)
{
	char what[NAME_MAX_SHOWN + 16];
	uint8_t id[LAYER_ID_BYTES];
	struct page_run shared;
	int r = make_ids(image->raw, image->id, id);

	if (r < 0)
		return r;
	(void)snprintf(what, sizeof(what), "raw memory %s", image->raw->name); /* always fits */
	image->layers = calloc(1, sizeof(*image->layers));
	if (!image->layers)
		return -ENOMEM;
	r = layer_open_raw_fd(fd, image->raw->bytes, id, what, &image->layers[0]);
	if (r < 0)
		return r;
	image->n_layers = 1;
	r = page_map_append(&image->map, image->raw->bytes / DORM_PAGE_SIZE, 0, 0);
	return r < 0 ? r : page_map_seal(&image->map, &shared);
}

int image_open_raw(int fd, const char *name, struct problem *problem, struct image **ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0) {
		r = error_errno();
		problem_errno(problem, r, "raw memory %s", name);
		return r;
	}
	r = check_file(&st, name, problem);
	if (r < 0)
		return r;
	image = image_new();
	if (image)
		image->raw = raw_new(name, &st);
	r = !image || !image->raw ? -ENOMEM : add_layer(image, fd);
	if (r < 0) {
		problem_errno(problem, r, "raw memory %s: cannot be opened", name);
		return error_trace(r);
	}
	*ret = take_ptr(image);
	return 0;
}

bool image_is_raw(const struct image *image)
{
	return image->raw != NULL;
}

int image_check_unchanged(const struct image *image, struct problem *problem)
{
	const struct image_raw *raw = image->raw;
	struct stat st;

	if (!raw)
		return 0;
	if (fstat(layer_fd(image->layers[0]), &st) < 0) {
		int r = error_errno();

		problem_errno(problem, r, "raw memory %s", raw->name);
		return r;
	}
	if ((uint64_t)st.st_size == raw->bytes && st.st_mtim.tv_sec == raw->mtime_s &&
	    (uint64_t)st.st_mtim.tv_nsec == raw->mtime_ns)
		return 0;
	problem_hint(problem, "leave the file alone while it is served: write a new one, and serve "
			      "that from a new dorm-pager");
	return image_corrupt(problem,
			     "raw memory %s: was changed while it is served (%llu bytes and "
			     "modified at %lld.%09llu, now %lld bytes and %lld.%09ld)",
			     raw->name, (unsigned long long)raw->bytes, (long long)raw->mtime_s,
			     (unsigned long long)raw->mtime_ns, (long long)st.st_size,
			     (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}
