/* SPDX-License-Identifier: Apache-2.0 */
/* takeover-images.c - the images that a journal names, each opened once */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image-base.h"
#include "pager/takeover-internal.h"

struct takeover_images *takeover_images_free(struct takeover_images *images)
{
	while (images && images->first) {
		struct opened *o = images->first;

		images->first = o->next;
		image_unref(o->base);
		image_unref(o->image);
		fd_close(o->dirfd);
		free(o);
	}
	free(images);
	return NULL;
}

static int open_image(const struct journal_entry *e, struct problem *problem, int *ret_dirfd,
		      struct image **ret)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	_cleanup_fd_ int dirfd = -1;
	int r;

	if (e->sealed) {
		problem_set(problem, 403, "its image is sealed, and keys are never kept");
		return -ENOKEY;
	}
	if (!e->zero) {
		dirfd = e->directory[0] ? file_open_dir(AT_FDCWD, e->directory) : -ENOENT;
		if (dirfd < 0) {
			problem_errno(problem, dirfd, "its snapshot directory %s", e->directory);
			return dirfd;
		}
	}
	r = e->zero ? image_open_zero(e->n_pages, &image)
		    : image_open(dirfd, NULL, problem, &image);
	if (r) {
		problem_errno(problem, r, "its image");
		return r > 0 ? -EBADMSG : r;
	}
	if (strcmp(image_id(image), e->image_id) != 0 || image_n_pages(image) != e->n_pages) {
		problem_set(problem, 409, "its snapshot directory %s has another image now: %s",
			    e->directory, image_id(image));
		return -ESTALE;
	}
	*ret_dirfd = take_fd(dirfd);
	*ret = take_ptr(image);
	return 0;
}

/* What its memory is shared with; it has to be the one that the journal names. */
static void open_base(struct opened *o, const struct journal_entry *e)
{
	struct problem problem = PROBLEM_INIT;
	int r;

	if (e->mode != SESSION_OVERLAY || !o->image || o->base || o->dirfd < 0)
		return;
	r = image_open_base(o->dirfd, o->image, NULL, &problem, &o->base);
	if (r)
		log_warn("session=%s its base is of no use: %s", e->name, problem.message);
	if (r)
		o->base = NULL;
}

static struct opened *find_opened(const struct takeover_images *images,
				  const struct journal_entry *e)
{
	struct opened *o = images->first;

	while (o && (strcmp(o->id, e->image_id) != 0 || o->n_pages != e->n_pages))
		o = o->next;
	return o;
}

const struct opened *takeover_image(struct takeover_images *images, const struct journal_entry *e)
{
	struct opened *o = find_opened(images, e);

	if (o) {
		open_base(o, e);
		return o;
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->problem = PROBLEM_INIT;
	str_copy(o->id, sizeof(o->id), e->image_id);
	o->n_pages = e->n_pages;
	o->dirfd = -1;
	if (open_image(e, &o->problem, &o->dirfd, &o->image) < 0)
		o->image = NULL;
	open_base(o, e);
	o->next = images->first;
	images->first = o;
	return o;
}

int takeover_images_add(struct takeover_images *images, struct image *image)
{
	struct opened *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->problem = PROBLEM_INIT;
	str_copy(o->id, sizeof(o->id), image_id(image));
	o->n_pages = image_n_pages(image);
	o->dirfd = -1;
	o->image = image_ref(image);
	o->next = images->first;
	images->first = o;
	return 0;
}

int takeover_prepare(int journal, struct takeover_images **ret)
{
	_cleanup_free_ char(*names)[SESSION_NAME_MAX + 1] = NULL;
	_cleanup_free_ struct journal_entry *e = calloc(1, sizeof(*e));
	struct takeover_images *images = calloc(1, sizeof(*images));
	size_t n = 0;

	if (!e || !images || journal_names(journal, &names, &n) < 0) {
		free(images);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++)
		if (journal_read(journal, names[i], NULL, e) == 0)
			(void)takeover_image(images, e); /* without memory: later, or never */
	*ret = images;
	return 0;
}
