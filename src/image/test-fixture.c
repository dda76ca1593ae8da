/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "image/working-set.h"

int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	(void)snprintf(f->path, sizeof(f->path), "/tmp/dorm-test-image.XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->dirfd = file_open_dir(AT_FDCWD, f->path);
	assert_true(f->dirfd >= 0);
	*state = f;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	close(f->dirfd);
	assert_int_equal(file_remove_tree(AT_FDCWD, f->path), 0);
	free(f);
	return 0;
}

int fixture_dir(struct fixture *f, const char *name)
{
	int fd;

	assert_int_equal(mkdirat(f->dirfd, name, 0755), 0);
	fd = file_open_dir(f->dirfd, name);
	assert_true(fd >= 0);
	return fd;
}

uint64_t fixture_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

void fixture_page(uint8_t *page, unsigned kind, uint64_t *seed)
{
	uint64_t stamp = fixture_random(seed);

	memset(page, 0, DORM_PAGE_SIZE);
	if (kind == 1)
		for (size_t i = 0; i + 16 <= DORM_PAGE_SIZE; i += 16)
			(void)snprintf((char *)page + i, 16, "%08x line %zu", (unsigned)stamp,
				       i / 16 % 10);
	if (kind == 2)
		for (size_t i = 0; i < DORM_PAGE_SIZE; i++)
			page[i] = (uint8_t)fixture_random(seed);
}

static void add_changed(struct image_writer *w, uint64_t n_pages, const uint8_t *memory,
			const bool *changed)
{
	struct problem problem = PROBLEM_INIT;

	for (uint64_t gfn = 0; gfn < n_pages;) {
		uint64_t n = 1;

		if (changed && !changed[gfn]) {
			gfn++;
			continue;
		}
		while (gfn + n < n_pages && n < 37 && (!changed || changed[gfn + n]))
			n++;
		assert_int_equal(
			image_writer_add(w, gfn, n, memory + gfn * DORM_PAGE_SIZE, &problem), 0);
		gfn += n;
	}
}

struct image *fixture_image(struct fixture *f, const char *name, struct image *parent,
			    const char *parent_name, enum image_codec codec, const uint8_t *memory,
			    const bool *changed, struct image_writer_stats *ret_stats)
{
	struct image_writer_options options = {.codec = codec};
	struct problem problem = PROBLEM_INIT;
	int dirfd = fixture_dir(f, name), parent_dirfd = -1;
	struct image_writer_stats stats;
	struct image_writer *w = NULL;
	struct image *image = NULL;
	char id[IMAGE_ID_LEN + 1];

	if (parent_name)
		parent_dirfd = file_open_dir(f->dirfd, parent_name);
	assert_int_equal(image_writer_new(dirfd, parent, parent_dirfd, &options, &problem, &w), 0);
	add_changed(w, image_n_pages(parent), memory, changed);
	assert_int_equal(image_writer_commit(w, ret_stats ? ret_stats : &stats, id, &problem), 0);
	image_writer_free(w);
	assert_int_equal(image_open(dirfd, NULL, &problem, &image), 0);
	assert_string_equal(image_id(image), id);
	assert_int_equal(image_n_pages(image), image_n_pages(parent));
	close(dirfd);
	if (parent_dirfd >= 0)
		close(parent_dirfd);
	return image;
}

int fixture_read_all(struct image *image, uint8_t *out, struct problem *problem)
{
	for (uint64_t gfn = 0; gfn < image_n_pages(image); gfn++) {
		int r = image_read_page(image, gfn, out + gfn * DORM_PAGE_SIZE, problem);

		if (r)
			return r;
	}
	return 0;
}

void fixture_working_set(int dirfd, uint64_t first, uint64_t n_pages, uint64_t step, uint64_t n)
{
	_cleanup_(working_set_deinit) struct working_set s;
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(image_open_for_check(dirfd, &problem, &image), 0);
	working_set_init(&s, image);
	for (uint64_t i = 0; i < n; i++)
		assert_int_equal(working_set_add(&s, first + i * step, n_pages), 0);
	assert_int_equal(working_set_write(dirfd, &s, &problem), 0);
}

void fixture_flip(int dirfd, const char *name, uint64_t offset, uint8_t mask)
{
	uint8_t byte;
	int fd;

	assert_int_equal(fchmodat(dirfd, name, 0644, 0), 0);
	fd = openat(dirfd, name, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
	byte ^= mask;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
	close(fd);
}
