/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import-layers.c - layers on their way into a store
 *
 * A layer is received as incoming/<id>.<random>.part, a name that no other import has. When all of
 * it is there it is read back and verified down to every frame, fsynced, linked into the temporary
 * snapshot directory and renamed to incoming/<id>. From the link on the snapshot does not depend on
 * the entry in incoming/ any more, so two imports may bring, replace and remove the same one.
 *
 * A layer that the store has is linked in the same way and opened afterwards, through the link:
 * what is verified is what is kept, whatever happens to the name it was found under. It is the same
 * layer if it has the id, the size and the digest of the manifest; its frames are not read again.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image.h"
#include "image/import-internal.h"
#include "image/layer.h"
#include "image/outcome.h"

/* ---- what the store has -----------------------------------------------------------------------
 */

struct search {
	struct importer *m;
	uint32_t *sorted; /* numbers of the layers, by id */
};

static int compare_ids(const void *a, const void *b, void *userdata)
{
	const struct manifest_layer *layers = userdata;

	return strcmp(layers[*(const uint32_t *)a].id, layers[*(const uint32_t *)b].id);
}

static const uint32_t *find(const struct search *s, const char *id)
{
	const struct manifest_files *f = &s->m->files;
	uint32_t low = 0, high = f->n_layers;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int c = strcmp(id, f->layers[s->sorted[middle]].id);

		if (c == 0)
			return &s->sorted[middle];
		if (c < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

/* Has the open layer the size and digest that the manifest says? */
static int check_layer(const struct layer *l, const struct manifest_layer *want,
		       struct problem *problem)
{
	char digest[DIGEST_LEN + 1];

	str_hex(layer_digest(l), DIGEST_BYTES, digest);
	if (layer_bytes(l) != want->bytes || strcmp(digest, want->digest))
		return image_corrupt(problem,
				     "layer %s: not the one that the manifest means (index digest "
				     "0x%s, manifest says 0x%s)",
				     want->id, digest, want->digest);
	return 0;
}

static int open_linked(struct importer *m, const struct manifest_layer *want)
{
	_cleanup_(layer_closep) struct layer *l = NULL;
	struct problem ignored = PROBLEM_INIT;
	uint8_t id[LAYER_ID_BYTES];
	int r = str_unhex(want->id, id, sizeof(id));

	if (r == 0)
		r = layer_open(m->layers_dirfd, id, NULL, &ignored, &l);
	return r ? r : check_layer(l, want, &ignored);
}

/* Another layer of that id, or a damaged one, is as good as none: this one is received then. */
static int try_link(void *userdata, int dirfd, const char *layer_id)
{
	struct search *s = userdata;
	struct importer *m = s->m;
	const uint32_t *number = find(s, layer_id);
	int r;

	if (!number || m->present[*number])
		return 0;
	r = plain_file_link(dirfd, m->layers_dirfd, layer_id);
	if (r == -ENOENT)
		return 0; /* deleted meanwhile */
	if (r < 0) {
		problem_errno(&m->problem, r, "layer %s: linking the one that is here", layer_id);
		return error_trace(r);
	}
	r = open_linked(m, &m->files.layers[*number]);
	if (r == 0) {
		m->present[*number] = true;
		m->stats.layers_present++;
		return 0;
	}
	if (unlinkat(m->layers_dirfd, layer_id, 0) < 0)
		return error_errno();
	return r > 0 ? 0 : r;
}

int import_find_layers(struct importer *m)
{
	const uint32_t n = m->files.n_layers;
	_cleanup_free_ uint32_t *sorted = calloc(MAX(n, 1u), sizeof(*sorted));
	struct search s = {.m = m, .sorted = sorted};
	int r;

	if (!sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		sorted[i] = i;
	qsort_r(sorted, n, sizeof(*sorted), compare_ids, m->files.layers);
	r = store_each_layer_file(m->store, try_link, &s);
	if (r < 0)
		problem_errno(&m->problem, r, "looking for layers that are here");
	return error_trace(r);
}

/* ---- receiving --------------------------------------------------------------------------------
 */

int import_begin_layer(struct importer *m)
{
	const uint32_t number = import_layer_number(m);
	const struct manifest_layer *l = &m->files.layers[number];
	char random[ID_LEN + 1];

	if (m->present[number])
		return 0; /* what comes is compared with its checksums and dropped */
	if (m->item.flags & TRANSFER_LEFT_OUT) {
		problem_set(&m->problem, 409,
			    "layer %s: left out of the stream, and this store has not got it",
			    l->id);
		problem_hint(&m->problem, "export the snapshot again with all layers");
		return TRANSFER_E_MISSING;
	}
	id_new('p', random);
	(void)snprintf(m->part, sizeof(m->part), "%s.%s.part", l->id, random); /* fits */
	m->fd = openat(m->incoming_dirfd, m->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (m->fd < 0) {
		int r = error_errno();

		problem_errno(&m->problem, r, "incoming/%s: cannot be made", m->part);
		m->part[0] = 0;
		return r;
	}
	return 0;
}

static int check_frames(const struct layer *l, struct problem *problem)
{
	_cleanup_free_ uint8_t *scratch =
		aligned_alloc(DORM_PAGE_SIZE, 2 * IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	int r = 0;

	if (!scratch)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < layer_n_frames(l); i++)
		r = layer_check_frame(l, i, scratch, problem);
	return r;
}

static int verify_part(struct importer *m, const struct manifest_layer *want)
{
	_cleanup_(layer_closep) struct layer *l = NULL;
	int fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3), r;

	if (fd < 0)
		return error_errno();
	r = layer_open_fd_consume(fd, m->item.bytes, m->item.layer, NULL, &m->problem, &l);
	if (r == 0)
		r = check_layer(l, want, &m->problem);
	if (r == 0)
		r = check_frames(l, &m->problem);
	return import_blame_stream(m, r);
}

/* Durable under its own name, and in the snapshot. */
static int keep_part(struct importer *m, const char *id)
{
	int r = fchmod(m->fd, 0444) < 0 ? error_errno() : fd_sync(m->fd);

	if (r < 0)
		return r;
	if (linkat(m->incoming_dirfd, m->part, m->layers_dirfd, id, 0) < 0 ||
	    renameat(m->incoming_dirfd, m->part, m->incoming_dirfd, id) < 0)
		return error_errno();
	m->part[0] = 0;
	return file_fsync_dir(m->incoming_dirfd);
}

int import_end_layer(struct importer *m)
{
	const uint32_t number = import_layer_number(m);
	const struct manifest_layer *l = &m->files.layers[number];
	int r;

	if (m->present[number])
		return 0;
	r = verify_part(m, l);
	if (r)
		return r;
	r = keep_part(m, l->id);
	if (r < 0) {
		problem_errno(&m->problem, r, "layer %s: keeping what was received", l->id);
		return error_trace(r);
	}
	m->fd = fd_close(m->fd);
	m->present[number] = true;
	m->stats.layers_received++;
	return 0;
}

void import_drop_part(struct importer *m)
{
	m->fd = fd_close(m->fd);
	if (!m->part[0])
		return;
	(void)unlinkat(m->incoming_dirfd, m->part, 0); /* store_open() removes what stays */
	m->part[0] = 0;
}

/* Only what is the file of our snapshot: another import may have put its own there. */
void import_forget_layers(struct importer *m)
{
	for (uint32_t i = 0; i < m->files.n_layers; i++) {
		const char *id = m->files.layers[i].id;
		struct stat ours, theirs;

		if (fstatat(m->layers_dirfd, id, &ours, AT_SYMLINK_NOFOLLOW) == 0 &&
		    fstatat(m->incoming_dirfd, id, &theirs, AT_SYMLINK_NOFOLLOW) == 0 &&
		    ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)
			(void)unlinkat(m->incoming_dirfd, id, 0); /* after a week it goes anyway */
	}
}
