/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame-packer.c - how pages are packed
 *
 * A slot is known as soon as its page is put, because frames are numbered in order. A frame closes
 * when it is full, or when the guest's 64 KiB block ends in which 8 or more of its pages are. So
 * dense memory is stored in frames that are aligned blocks of the guest, which is what one fault
 * loads, and scattered pages fill frames to the last place (and the map's slots have no gaps).
 *
 *     gfn 5..15, 16..31, ...   frames 5..15, 16..31, ...
 *     gfn 0, 30, 60, 90, ...   frames of 16
 *     gfn 3, 900, 1600..1615   3, 900 and 1600..1613 in one frame: 1614, 1615 begin the next
 *
 * Pages are not copied where it can be helped: as long as the pages of a frame follow each other in
 * the caller's memory, `frame` points there. Where they do not, or when the caller takes its memory
 * back (settle), they are gathered in `gathered`.
 */
#include "image/frame-packer.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/id.h"
#include "image/page-dedupe.h"

#define CLOSE_AT_BOUNDARY 8u /* pages that make a frame worth closing at 64 KiB of guest memory */

struct frame_packer {
	int layers_dirfd; /* borrowed */
	struct layer_options options;
	uint8_t key[LAYER_KEY_BYTES]; /* what options.key points to */
	uint32_t max_pages;	      /* of a frame */
	struct page_dedupe *dedupe;

	uint8_t id[LAYER_ID_BYTES];
	struct layer_writer *layer; /* NULL until the first frame is full */
	uint32_t n_frames;

	const uint8_t *frame; /* the caller's memory, or gathered */
	uint32_t n_pages;     /* in it */
	uint64_t block;	      /* 64 KiB block of the guest that the last of them is in */
	uint32_t block_pages; /* of the frame's last pages: how many are in it */
	uint8_t *gathered;    /* IMAGE_FRAME_BYTES */
};

struct frame_packer *frame_packer_free(struct frame_packer *p)
{
	if (!p)
		return NULL;
	layer_writer_free(p->layer);
	page_dedupe_free(p->dedupe);
	free(p->gathered);
	explicit_bzero(p->key, sizeof(p->key));
	free(p);
	return NULL;
}

int frame_packer_new(int layers_dirfd, const struct layer_options *options, uint32_t frame_pages,
		     struct problem *problem, struct frame_packer **ret)
{
	_cleanup_(frame_packer_freep) struct frame_packer *p = calloc(1, sizeof(*p));
	int r;

	if (frame_pages > IMAGE_FRAME_PAGES) {
		problem_set(problem, 500, "image: frames of %u pages, there can be 1 to %u",
			    frame_pages, IMAGE_FRAME_PAGES);
		return error_trace(-EINVAL);
	}
	if (!p)
		return -ENOMEM;
	p->layers_dirfd = layers_dirfd;
	p->options = *options;
	if (options->key) {
		memcpy(p->key, options->key, sizeof(p->key));
		p->options.key = p->key;
	}
	p->max_pages = frame_pages ? frame_pages : IMAGE_FRAME_PAGES;
	id_random(p->id, sizeof(p->id));
	p->gathered = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES);
	if (!p->gathered)
		return -ENOMEM;
	r = page_dedupe_new(&p->dedupe);
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(p);
	return 0;
}

static int close_frame(struct frame_packer *p, struct problem *problem)
{
	int r;

	if (!p->layer) {
		r = layer_writer_new(p->layers_dirfd, p->id, &p->options, problem, &p->layer);
		if (r < 0)
			return r;
	}
	r = layer_writer_add(p->layer, p->frame, p->n_pages, problem);
	if (r < 0)
		return r;
	p->n_frames++;
	p->n_pages = 0;
	p->block_pages = 0;
	return 0;
}

void frame_packer_settle(struct frame_packer *p)
{
	if (p->n_pages && p->frame != p->gathered) {
		memcpy(p->gathered, p->frame, p->n_pages * DORM_PAGE_SIZE);
		p->frame = p->gathered;
	}
}

/* One more page behind those in the frame. */
static void add_page(struct frame_packer *p, const uint8_t *page)
{
	if (p->n_pages == 0) {
		p->frame = page;
	} else if (p->frame == p->gathered || p->frame + p->n_pages * DORM_PAGE_SIZE != page) {
		frame_packer_settle(p);
		memcpy(p->gathered + p->n_pages * DORM_PAGE_SIZE, page, DORM_PAGE_SIZE);
	}
	p->n_pages++;
}

/* Before a page of @block is added. */
static int enter_block(struct frame_packer *p, uint64_t block, struct problem *problem)
{
	if (block == p->block)
		return 0;
	p->block = block;
	if (p->block_pages >= CLOSE_AT_BOUNDARY)
		return close_frame(p, problem);
	p->block_pages = 0;
	return 0;
}

int frame_packer_put(struct frame_packer *p, uint64_t gfn, const uint8_t *page, uint32_t *ret_slot,
		     struct problem *problem)
{
	int r = page_dedupe_find(p->dedupe, page, ret_slot);

	if (r)
		return r;
	r = enter_block(p, gfn / IMAGE_FRAME_PAGES, problem);
	if (r < 0)
		return r;
	if (p->n_frames == LAYER_MAX_FRAMES) {
		problem_set(problem, 500, "layer: more than %u frames", LAYER_MAX_FRAMES);
		return error_trace(-EFBIG);
	}
	*ret_slot = p->n_frames * IMAGE_FRAME_PAGES + p->n_pages;
	page_dedupe_add(p->dedupe, *ret_slot);
	add_page(p, page);
	p->block_pages++;
	return p->n_pages == p->max_pages ? close_frame(p, problem) : 0;
}

int frame_packer_end_frame(struct frame_packer *p, struct problem *problem)
{
	return p->n_pages ? close_frame(p, problem) : 0;
}

int frame_packer_finish(struct frame_packer *p, struct layer_name *ret_name, uint64_t *ret_bytes,
			struct problem *problem)
{
	int r = frame_packer_end_frame(p, problem);

	if (r < 0)
		return r;
	*ret_bytes = 0;
	if (!p->layer)
		return 0;
	memcpy(ret_name->id, p->id, LAYER_ID_BYTES);
	return layer_writer_commit(p->layer, ret_name->digest, ret_bytes, problem);
}

uint32_t frame_packer_frames(const struct frame_packer *p)
{
	return p->n_frames;
}
