/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which mode
 *
 * Memory that others run from is shared with them: nothing is cheaper. A sandbox that slept has an
 * image that nobody else will ever have. Running it in SHARED mode would load its ancestor's pages
 * again, into memory of its own; in OVERLAY mode it has them from its ancestor's memory, at the
 * cost of an event for each 2 MiB or so that it looks at (minor faults switch the kernel's
 * fault-around off), and of its own pages being private. That is worth it when a good part of the
 * image is the base's: a quarter, as with the store's rule for keeping a base at all.
 *
 * Measured (two cores, a fork of 128 MiB of which 96 MiB are stored with zstd, every page touched
 * once in random order by one thread; own pages in blocks of 16; milliseconds, events, MiB decoded,
 * and MiB of guest memory on the host, the template's own 96 MiB among them where it is warm):
 *
 *     own pages     the template is in memory               nothing is in memory
 *                   overlay             shared              overlay             shared
 *          2 %      70  1316   1   96   385  3484  92  193  369  3493  92   95  332  3484  92   99
 *         10 %      99  1510  11  104   374  3464  92  193  423  3479  94   95  355  3464  92   99
 *         30 %     239  1940  34  122   417  3452  91  192  386  3471 100   94  364  3452  91   98
 *         50 %     179  2370  59  138   385  3469  92  192  378  3500 109   95  378  3469  92   97
 *         70 %     230  2791  85  155   352  3444  91  190  342  3472 117   94  327  3444  91   96
 *
 * And of a real guest of 256 MiB with 30 MB of its own, on a cold disk: milliseconds of a wake up
 * to its first answer, of reading its own 30 MB, and of the next sleep, which compares what was
 * copied:
 *
 *                   the template is in memory      nothing is in memory
 *     overlay       84  610   93                   112  623  104
 *     shared       113  675   94                   115  638   94
 *
 * So where the base is in memory, overlay is better as long as a quarter is the base's. Where it is
 * not, the first one that wakes pays up to a fifth more time, and all that follow are faster; who
 * will follow, nobody knows. Hence one rule, which does not ask what is in memory.
 */
#include "pager/mode.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "image/image-base.h"

#define WORTH_SHARING 4 /* a quarter of the stored pages */

#define ull(_v)	      ((unsigned long long)(_v))

static int choose(struct mode_choice *c, enum session_mode mode, const char *why)
{
	c->mode = mode;
	(void)snprintf(c->why, sizeof(c->why), "%s", why);
	return 0;
}

/* Return: 0, chosen or not (c->mode is AUTO then, and @c->why says why) */
static int try_overlay(const struct pager_request *q, struct mode_choice *c)
{
	bool forced = q->mode == SESSION_OVERLAY;
	_cleanup_free_ bitmap_word *own = bitmap_new(image_n_pages(q->image));
	uint64_t n_own = 0, stored = 0, shared = 0;
	int r;

	if (!own)
		return -ENOMEM;
	r = image_diff_bitmap(q->image, q->base, own, &n_own, &stored, &shared);
	if (r < 0 && r != -EINVAL)
		return r;
	if (r < 0 || !shared || (!forced && shared < (shared + stored) / WORTH_SHARING)) {
		(void)snprintf(c->why, sizeof(c->why),
			       "only %llu of its %llu stored pages are its base's", ull(shared),
			       ull(shared + stored));
		return 0;
	}
	(void)snprintf(
		c->why, sizeof(c->why), "%s%llu of its %llu stored pages are those of image %s",
		forced ? "asked for; " : "", ull(shared), ull(shared + stored), image_id(q->base));
	c->mode = SESSION_OVERLAY;
	c->memory = q->base;
	c->own = take_ptr(own);
	return 0;
}

static int choose_overlay(const struct pager_request *q, struct problem *problem,
			  struct mode_choice *c)
{
	int r = q->base ? try_overlay(q, c) : 0;

	if (r < 0 || c->mode == SESSION_OVERLAY)
		return r;
	problem_set(problem, 409, "session %s cannot run in overlay mode: %s", q->name,
		    q->base ? c->why : "the snapshot names no base image");
	problem_hint(problem, "leave the choice to the pager, or ask for \"shared\"");
	return -EINVAL;
}

static int choose_auto(const struct pager *p, const struct pager_request *q, bool present,
		       struct mode_choice *c)
{
	int r;

	if (p->options.no_userfaultfd)
		return choose(c, SESSION_EAGER, "userfaultfd is turned off");
	if (present)
		return choose(c, SESSION_SHARED, "the image's memory is here already");
	if (!q->base)
		return choose(c, SESSION_SHARED,
			      q->exclusive ? "the snapshot names no base image"
					   : "others may run from the image");
	if (!q->exclusive)
		return choose(c, SESSION_SHARED, "others may run from the image");
	r = try_overlay(q, c);
	if (r == 0 && c->mode == SESSION_AUTO)
		c->mode = SESSION_SHARED; /* try_overlay() said why */
	return r;
}

int mode_choose(const struct pager *p, const struct pager_request *q, bool present,
		struct problem *problem, struct mode_choice *ret)
{
	*ret = (struct mode_choice){.mode = SESSION_AUTO, .memory = q->image};
	if (q->mode == SESSION_AUTO)
		return choose_auto(p, q, present, ret);
	if (q->mode == SESSION_OVERLAY)
		return choose_overlay(q, problem, ret);
	if (q->mode == SESSION_COPY)
		return choose(ret, SESSION_COPY, "the VM brings its own memory");
	return choose(ret, q->mode, "asked for");
}
