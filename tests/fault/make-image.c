/* SPDX-License-Identifier: Apache-2.0 */
/*
 * make-image - a snapshot directory whose pages follow from a seed (oracle.h)
 *
 *     make-image DIR PAGES CONTENT [--codec none|lz4|zstd] [--key SOURCE] [--parent DIR]
 *                [--order sequential|backward] [--frame-pages N]
 *     make-image --raw FILE PAGES CONTENT
 *
 * With --parent, which must have been made from the same CONTENT without its last two numbers, only
 * the fork's own pages are given to the writer. Prints a JSON object. With --raw: a flat file, as
 * Firecracker writes memory, with holes where it is zero.
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
#include "base/str.h"
#include "image/image.h"
#include "image/keyring.h"
#include "oracle.h"

#define BATCH 16u

struct job {
	const char *dir, *parent;
	uint64_t n_pages;
	struct oracle content;
	struct image_writer_options options;
	struct keyring *keys;
	bool backward, raw;
};

static int write_pages(const struct job *j, struct image_writer *w, struct problem *problem)
{
	static _Alignas(4096) uint8_t pages[BATCH * DORM_PAGE_SIZE];
	uint64_t n_batches = (j->n_pages + BATCH - 1) / BATCH;
	int r = 0;

	for (uint64_t b = 0; b < n_batches && r == 0; b++) {
		uint64_t gfn = (j->backward ? n_batches - 1 - b : b) * BATCH;
		uint64_t n = MIN((uint64_t)BATCH, j->n_pages - gfn);

		if (j->parent && !oracle_is_own(&j->content, gfn))
			continue; /* own pages come in blocks of as many */
		for (uint64_t i = 0; i < n; i++)
			oracle_page(&j->content, gfn + i, pages + i * DORM_PAGE_SIZE);
		r = image_writer_add(w, gfn, n, pages, problem);
	}
	return r;
}

static int make(const struct job *j, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *parent = NULL;
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_fd_ int fd = -1, parent_fd = -1;
	struct image_writer_stats stats;
	char id[IMAGE_ID_LEN + 1];
	int r;

	if (mkdir(j->dir, 0700) < 0)
		return -errno;
	fd = file_open_dir(AT_FDCWD, j->dir);
	if (fd < 0)
		return fd;
	if (j->parent) {
		parent_fd = file_open_dir(AT_FDCWD, j->parent);
		r = parent_fd < 0 ? parent_fd : image_open(parent_fd, j->keys, problem, &parent);
	} else {
		r = image_open_zero(j->n_pages, &parent);
	}
	if (r == 0)
		r = image_writer_new(fd, parent, parent_fd, &j->options, problem, &w);
	if (r == 0)
		r = write_pages(j, w, problem);
	if (r == 0)
		r = image_writer_commit(w, &stats, id, problem);
	if (r == 0)
		(void)printf("{\"image_id\":\"%s\",\"pages_stored\":%llu,\"pages_zero\":%llu,"
			     "\"bytes_stored\":%llu}\n",
			     id, (unsigned long long)stats.pages_stored,
			     (unsigned long long)stats.pages_zero,
			     (unsigned long long)stats.bytes_stored);
	return r;
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
