/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/recording.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "pager/refine.h"
#include "pager/settle.h"
#include "sys/memfd.h"
#include "sys/pagemap.h"

struct recording {
	struct session *s;
	struct recorder *recorder;
	struct working_set old;
	struct settle settle;
	bool started;	  /* the VM is there, and @settle runs */
	uint64_t next_ns; /* when to look again */
	uint64_t n_noted; /* first touches that @settle knows of */
	bool settled, bound;
	struct refine_report report;
	struct buf file;  /* the new set; empty: nothing to store */
	uint64_t n_pages; /* in it */
};

int recording_new(struct session *s, struct recording **ret)
{
	struct recording *r = calloc(1, sizeof(*r));

	if (!r || recorder_new(image_n_pages(s->image), &r->recorder) < 0) {
		free(r);
		return -ENOMEM;
	}
	r->s = s;
	*ret = r;
	return 0;
}

void recording_begin_with(struct recording *r, struct working_set *set)
{
	r->old = *set;
	*set = (struct working_set){0};
}

struct recording *recording_free(struct recording *r)
{
	if (!r)
		return NULL;
	recorder_free(r->recorder);
	working_set_deinit(&r->old);
	buf_deinit(&r->file);
	free(r);
	return NULL;
}

void recording_need(struct recording *r, uint64_t gfn, uint64_t n_pages)
{
	if (r)
		(void)recorder_need(r->recorder, gfn, n_pages);
}

void recording_prefetched(struct recording *r, uint64_t gfn, uint64_t n_pages)
{
	if (r)
		(void)recorder_prefetched(r->recorder, gfn, n_pages);
}

/* ---- what the VM maps -------------------------------------------------------------------------
 */

/* Pages that are copied, or mapped around a fault, are all mapped, whoever asked for them: then
 * only faults speak. */
static bool has_touched(const struct recording *r)
{
	return r->s->mode == SESSION_SHARED;
}

static int scan_touched(const struct recording *r, bitmap_word *touched)
{
	const struct handshake *map = &r->s->map;
	_cleanup_fd_ int fd = pagemap_open(r->s->pid);
	int e = fd < 0 ? fd : 0;

	for (uint32_t i = 0; i < map->n_regions && e == 0; i++)
		e = refine_touched(fd, map->regions[i].hva, map->regions[i].gfn,
				   map->regions[i].n_pages, touched, image_n_pages(r->s->image));
	return e;
}

/* Zeros are mapped without a page, and in long stretches: what VMs asked for is what counts. */
static void mark_zeros(const struct recording *r, bitmap_word *touched)
{
	struct page_run run;

	for (uint64_t gfn = 0; resident_next_zeros(r->s->resident, gfn, &run);
	     gfn = run.gfn + run.n_pages)
		for (uint64_t i = run.gfn; i < run.gfn + run.n_pages; i++)
			bitmap_set(touched, i);
}

/* Return: pages known to be touched; with @ret the bitmap, which the caller frees, or NULL */
static uint64_t touched_pages(const struct recording *r, bitmap_word **ret)
{
	const uint64_t n = image_n_pages(r->s->image);
	_cleanup_free_ bitmap_word *touched = has_touched(r) ? bitmap_new(n) : NULL;
	struct recorder_counts counts;
	uint64_t found;

	if (ret)
		*ret = NULL;
	recorder_counts(r->recorder, &counts);
	if (!touched || scan_touched(r, touched) < 0)
		return counts.missed; /* without the right to look: faults alone */
	found = bitmap_count(touched, n);
	mark_zeros(r, touched);
	if (ret)
		*ret = take_ptr(touched);
	return found;
}

/* ---- settling ---------------------------------------------------------------------------------
 */

static void conclude(struct recording *r)
{
	_cleanup_(working_set_deinit) struct working_set set = {0};
	_cleanup_free_ bitmap_word *touched = NULL;

	(void)touched_pages(r, &touched);
	r->settled = true;
	if (refine(r->s->image, &r->old, r->recorder, touched, 0, &set, &r->report) < 0)
		return; /* no memory: then there is nothing to store */
	r->n_pages = set.n_pages;
	if (set.n_runs && working_set_encode(&set, &r->file) < 0)
		buf_deinit(&r->file);
}

uint64_t recording_watch(struct recording *r, uint64_t now_ns)
{
	uint64_t n;
	enum settle_state state;

	if (r->settled || session_state(r->s) > SESSION_SERVING)
		return UINT64_MAX;
	if (session_state(r->s) != SESSION_SERVING)
		return now_ns + NSEC_PER_SEC;
	if (!r->started) {
		settle_init(&r->settle, NULL, now_ns);
		r->started = true;
		r->next_ns = now_ns;
	}
	if (now_ns < r->next_ns)
		return r->next_ns;
	n = touched_pages(r, NULL);
	settle_note(&r->settle, now_ns, n > r->n_noted ? n - r->n_noted : 0);
	r->n_noted = MAX(n, r->n_noted);
	state = settle_check(&r->settle, now_ns);
	if (state != SETTLE_NOT_YET) {
		r->bound = state == SETTLE_BOUND;
		conclude(r);
		return UINT64_MAX;
	}
	r->next_ns = settle_next_check(&r->settle, now_ns);
	return r->next_ns;
}

/* ---- answers ----------------------------------------------------------------------------------
 */

int recording_answer(struct recording *r, json_t **ret, int *ret_fd)
{
	const struct recorder_report *report = &r->report.recorder;
	struct recorder_counts counts;
	json_t *o;

	recorder_counts(r->recorder, &counts);
	o = json_pack("{s:b, s:b, s:b, s:I, s:f, s:f, s:f, s:I, s:I, s:I}", "ok", 1, "settled",
		      (int)r->settled, "bound", (int)r->bound, "pages",
		      (json_int_t)(r->settled ? r->n_pages : counts.missed), "precision",
		      report->precision, "window_precision", report->window_precision, "recall",
		      report->recall, "wasted_bytes", (json_int_t)report->wasted_bytes,
		      "missed_pages", (json_int_t)counts.missed, "prefetched_pages",
		      (json_int_t)counts.prefetched);
	if (!o)
		return -ENOMEM;
	if (r->settled && r->file.len) {
		int fd = memfd_from_bytes("dorm-working-set", r->file.data, r->file.len);

		if (fd < 0) {
			json_decref(o);
			return fd;
		}
		*ret_fd = fd;
	}
	*ret = o;
	return 0;
}

void recording_counts(const struct recording *r, uint64_t *ret_prefetched, uint64_t *ret_used)
{
	struct recorder_counts counts = {0};

	if (r)
		recorder_counts(r->recorder, &counts);
	*ret_prefetched = counts.prefetched;
	*ret_used = r ? r->report.recorder.used_pages : 0;
}
