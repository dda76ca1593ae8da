/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make-image - a snapshot directory whose pages follow from a seed (oracle.h)
 *
 *     make-image DIR PAGES CONTENT [--codec none|lz4|zstd] [--key SOURCE] [--parent DIR]
 *                [--order sequential|backward] [--frame-pages N] [--alone] [--all]
 *                [--working-set N]
 *     make-image --raw FILE PAGES CONTENT
 *
 * DIR is a path with a slash in it. With --parent, which must have been made from CONTENT without
 * its last two numbers (or with others of the same blocks: oracle.h), only the fork's own pages are
 * given to the writer (--all: every page), and the parent is its base; with --alone nobody else
 * runs from the parent, so its base is the parent's. --working-set: it has one, of the first 16
 * pages of every N * 16. Prints a JSON object. With --raw: a flat file, as Firecracker writes
 * memory, with holes where it is zero.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/image.h"
#include "image/keyring.h"
#include "image/snapshot.h"
#include "image/working-set.h"
#include "oracle.h"

#define BATCH 16u

struct job {
	const char *dir, *parent;
	uint64_t n_pages, working_set;
	struct oracle content;
	struct image_writer_options options;
	struct keyring *keys;
	bool backward, raw, alone, all;
};

static int write_pages(const struct job *j, struct image_writer *w, struct problem *problem)
{
	static _Alignas(4096) uint8_t pages[BATCH * DORM_PAGE_SIZE];
	uint64_t n_batches = (j->n_pages + BATCH - 1) / BATCH;
	int r = 0;

	for (uint64_t b = 0; b < n_batches && r == 0; b++) {
		uint64_t gfn = (j->backward ? n_batches - 1 - b : b) * BATCH;
		uint64_t n = MIN((uint64_t)BATCH, j->n_pages - gfn);

		if (j->parent && !j->all && !oracle_is_own(&j->content, gfn))
			continue; /* own pages come in blocks of as many */
		for (uint64_t i = 0; i < n; i++)
			oracle_page(&j->content, gfn + i, pages + i * DORM_PAGE_SIZE);
		r = image_writer_add(w, gfn, n, pages, problem);
	}
	return r;
}

/* Map, layers and, if it is a fork, its base; @tmp is the directory to be. */
static int write_image(const struct job *j, const struct snapshot_tmp *tmp, struct problem *problem,
		       struct manifest *m)
{
	_cleanup_(image_unrefp) struct image *parent = NULL;
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(manifest_deinit) struct manifest from = {0};
	_cleanup_fd_ int parent_fd = j->parent ? file_open_dir(AT_FDCWD, j->parent) : -1;
	int r;

	if (j->parent) {
		r = parent_fd < 0 ? parent_fd : image_open(parent_fd, j->keys, problem, &parent);
		if (r == 0)
			r = snapshot_open(parent_fd, j->keys, problem, &from);
	} else {
		r = image_open_zero(j->n_pages, &parent);
	}
	if (r == 0)
		r = image_writer_new(tmp->dirfd, parent, parent_fd, &j->options, problem, &w);
	if (r == 0)
		r = write_pages(j, w, problem);
	if (r == 0)
		r = image_writer_commit(w, &m->stats, m->image_id, problem);
	if (r == 0)
		r = image_base_put(tmp->dirfd, parent_fd, &from, !j->alone, problem,
				   m->base_image_id);
	return r;
}

static int write_working_set(const struct job *j, int dirfd, const char *image_id,
			     struct problem *problem)
{
	_cleanup_(working_set_deinit) struct working_set set = {.guest_pages = j->n_pages};
	int r = 0;

	str_copy(set.image_id, sizeof(set.image_id), image_id);
	for (uint64_t gfn = 0; gfn < j->n_pages && r == 0; gfn += j->working_set * BATCH)
		r = working_set_add(&set, gfn, MIN((uint64_t)BATCH, j->n_pages - gfn));
	return r ? r : working_set_write(dirfd, &set, problem);
}

static int describe(const struct manifest *m)
{
	(void)printf("{\"image_id\":\"%s\",\"base_image_id\":\"%s\",\"pages_stored\":%llu,"
		     "\"pages_zero\":%llu,\"bytes_stored\":%llu}\n",
		     m->image_id, m->base_image_id, (unsigned long long)m->stats.pages_stored,
		     (unsigned long long)m->stats.pages_zero,
		     (unsigned long long)m->stats.bytes_stored);
	return 0;
}

/* The directory that it will be in plays the store: snapshots are made in its tmp/. */
static int make(const struct job *j, struct problem *problem)
{
	struct manifest m = {.memory_bytes = j->n_pages * DORM_PAGE_SIZE};
	struct snapshot_tmp tmp = SNAPSHOT_TMP_INIT;
	const char *slash = strrchr(j->dir, '/');
	_cleanup_free_ char *root = slash ? strndup(j->dir, (size_t)(slash - j->dir)) : NULL;
	_cleanup_fd_ int root_fd = root ? file_open_dir(AT_FDCWD, root) : -1;
	int r = 0;

	if (root_fd < 0)
		return root ? root_fd : -EINVAL;
	if (mkdirat(root_fd, "tmp", 0700) < 0 && errno != EEXIST)
		return -errno;
	id_new('s', m.id);
	r = snapshot_begin(root_fd, root, problem, &tmp);
	if (r == 0)
		r = write_image(j, &tmp, problem, &m);
	if (r == 0 && j->working_set)
		r = write_working_set(j, tmp.dirfd, m.image_id, problem);
	if (r == 0)
		r = snapshot_commit(&tmp, root_fd, slash + 1, &m, j->keys, problem);
	snapshot_abort(&tmp, root_fd);
	return r ? r : describe(&m);
}

static int make_raw(const struct job *j)
{
	static _Alignas(8) uint8_t page[DORM_PAGE_SIZE];
	_cleanup_fd_ int fd = open(j->dir, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)(j->n_pages * DORM_PAGE_SIZE)) < 0)
		return -errno;
	for (uint64_t gfn = 0; gfn < j->n_pages; gfn++) {
		if (oracle_is_zero(&j->content, gfn))
			continue;
		oracle_page(&j->content, gfn, page);
		if (pwrite(fd, page, sizeof(page), (off_t)(gfn * DORM_PAGE_SIZE)) !=
		    (ssize_t)sizeof(page))
			return -EIO;
	}
	(void)printf("{}\n");
	return 0;
}

static int add_key(struct job *j, struct problem *problem)
{
	int r = j->keys ? 0 : keyring_new(&j->keys);

	j->options.keys = j->keys;
	return r ? r : keyring_add(j->keys, optarg, problem);
}

static int parse(int argc, char **argv, struct job *j, struct problem *problem)
{
	static const struct option options[] = {{"codec", required_argument, NULL, 'c'},
						{"key", required_argument, NULL, 'k'},
						{"parent", required_argument, NULL, 'p'},
						{"order", required_argument, NULL, 'o'},
						{"frame-pages", required_argument, NULL, 'f'},
						{"raw", no_argument, NULL, 'r'},
						{"alone", no_argument, NULL, 'a'},
						{"all", no_argument, NULL, 'A'},
						{"working-set", required_argument, NULL, 'w'},
						{0}};
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'c')
			r = image_codec_parse(optarg, &j->options.codec, &j->options.level);
		else if (option == 'k')
			r = add_key(j, problem);
		else if (option == 'p')
			j->parent = optarg;
		else if (option == 'o')
			j->backward = !strcmp(optarg, "backward");
		else if (option == 'f')
			j->options.frame_pages = (uint32_t)atoi(optarg);
		else if (option == 'r')
			j->raw = true;
		else if (option == 'a')
			j->alone = true;
		else if (option == 'A')
			j->all = true;
		else if (option == 'w')
			r = str_to_u64(optarg, &j->working_set);
		else
			r = -EINVAL;
	}
	if (r == 0 && argc - optind != 3)
		r = -EINVAL;
	if (r)
		return r;
	j->dir = argv[optind];
	r = str_to_u64(argv[optind + 1], &j->n_pages);
	return r ? r : oracle_parse(argv[optind + 2], &j->content);
}

int main(int argc, char **argv)
{
	struct problem problem = PROBLEM_INIT;
	struct job j = {.options = {.codec = IMAGE_CODEC_NONE}};
	int r = parse(argc, argv, &j, &problem);

	if (r == 0)
		r = j.raw ? make_raw(&j) : make(&j, &problem);
	if (r)
		(void)fprintf(stderr, "make-image: %s\n",
			      problem_is_set(&problem) ? problem.message : strerror(-r));
	keyring_free(j.keys);
	return r ? 1 : 0;
}
