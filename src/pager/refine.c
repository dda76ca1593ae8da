/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recorder knows what was brought in and why, the page tables what was used, the old set what
 * was needed before. The merge needs of these only which pages were needed, and of which nobody can
 * say:
 *
 *                         mapped    not mapped    no scan
 *     faulted for         needed    not needed    needed
 *     prefetched          needed    not needed    unknown
 *     neither             needed    not needed    not needed
 *
 * "Neither, but mapped" is a page that another session of the image had brought in: the guest needs
 * it, and on a host where it runs alone would have to wait for it. "Faulted for, not mapped" is a
 * page that came along in somebody else's frame.
 */
#include "pager/refine.h"

#include <errno.h>

#include "base/error.h"
#include "sys/pagemap.h"

int refine(const struct image *image, const struct working_set *old,
	   const struct recorder *recorder, const bitmap_word *touched, uint64_t max_pages,
	   struct working_set *ret, struct refine_report *ret_report)
{
	const uint64_t n_pages = image_n_pages(image);
	_cleanup_free_ bitmap_word *needed = NULL, *unknown = NULL;
	struct refine_report report;
	int r;

	if (recorder_n_pages(recorder) != n_pages)
		return error_trace(-EINVAL);
	needed = bitmap_new(n_pages);
	unknown = bitmap_new(n_pages);
	if (!needed || !unknown)
		return error_trace(-ENOMEM);
	recorder_evaluate(recorder, touched, &report.recorder);
	recorder_needed(recorder, touched, needed, unknown);
	r = working_set_merge(old, image, needed, unknown, max_pages, ret, &report.set);
	if (r == 0)
		*ret_report = report;
	return error_trace(r);
}

static void mark(const struct pagemap_range *range, uint64_t hva, uint64_t gfn,
		 bitmap_word *touched, uint64_t n_bits)
{
	const uint64_t first = gfn + (range->start - hva) / DORM_PAGE_SIZE;

	for (uint64_t i = first; i < first + range->n_pages && i < n_bits; i++)
		bitmap_set(touched, i);
}

int refine_touched(int pagemap_fd, uint64_t hva, uint64_t gfn, uint64_t n_pages,
		   bitmap_word *touched, uint64_t n_bits)
{
	_cleanup_(pagemap_list_deinit) struct pagemap_list list = {0};
	int r = pagemap_touched(pagemap_fd, hva, hva + n_pages * DORM_PAGE_SIZE, &list);

	if (r < 0)
		return r == -ESRCH ? r : error_trace(r);
	for (size_t i = 0; i < list.n; i++)
		mark(&list.items[i], hva, gfn, touched, n_bits);
	return 0;
}
