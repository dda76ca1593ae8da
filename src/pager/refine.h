/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * refine.h - from a finished recording to a better working set
 *
 * When a session's recording has settled (pager/settle.h), what it needed is merged into the set
 * that was prefetched for it, and the two are compared. Reads and writes no file: the set that
 * comes out goes to the owner of the store. Any thread; allocates two bits per page of the guest.
 */
#include "image/working-set.h"
#include "pager/recorder.h"

struct refine_report {
	struct recorder_report recorder; /* what was brought in, and whether it was used */
	struct working_set_verdict set;	 /* how the old set did, brought in by us or not */
};

/**
 * refine() - a new set
 * @image:     the session's
 * @old:       the set that the session began with; NULL or empty: none
 * @recorder:  of the session; its guest has as many pages as the image
 * @touched:   a bit for each page of the guest that the VM maps (refine_touched()); NULL: not known
 * @max_pages: as in working_set_merge()
 * @ret:       the new set; may be empty, then there is nothing to store (and an old file is best
 *             removed). working_set_deinit()
 *
 * Without @touched the scores of pages that were prefetched stay what they were.
 * Return: 0; -EINVAL when recorder, image and @old do not belong together; -ENOMEM
 */
int refine(const struct image *image, const struct working_set *old,
	   const struct recorder *recorder, const bitmap_word *touched, uint64_t max_pages,
	   struct working_set *ret, struct refine_report *ret_report);

/**
 * refine_touched() - mark what a VM maps of one region of its memory
 * @pagemap_fd: from pagemap_open() of the VM
 * @hva, @gfn, @n_pages: the region: its address there, its first page, its length
 * @n_bits:     of @touched: pages beyond are ignored
 *
 * Not in copy mode: there everything that was brought in is mapped.
 * Return: 0; -ESRCH when the VM is gone; negative errno
 */
int refine_touched(int pagemap_fd, uint64_t hva, uint64_t gfn, uint64_t n_pages,
		   bitmap_word *touched, uint64_t n_bits);
