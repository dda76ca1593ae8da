/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pager-stats.c - what the engine tells of sessions, images and itself
 *
 * The control thread reads counters that others go on changing: every number is right by itself,
 * and two of them need not agree.
 */
#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "pager/background.h"
#include "pager/evict.h"
#include "pager/pager.h"
#include "pager/recording.h"

/* ---- sums -------------------------------------------------------------------------------------
 */

void pager_add_totals(struct pager_totals *t, const struct session *s)
{
	const uint64_t *from = (const uint64_t *)&s->n;
	uint64_t *to = (uint64_t *)&t->n;

	static_assert(sizeof(s->n) % sizeof(*from) == 0, "counters are numbers and nothing else");
	for (size_t i = 0; i < sizeof(s->n) / sizeof(*from); i++)
		to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	histogram_merge(&t->service_ns, &s->service_ns);
	histogram_merge(&t->queue_ns, &s->queue_ns);
}

void pager_totals(struct pager *p, enum session_mode mode, struct pager_totals *ret)
{
	*ret = p->ended[mode];
	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		if (p->slots[i] && p->slots[i]->mode == mode)
			pager_add_totals(ret, p->slots[i]);
	for (const struct session *s = p->retired; s; s = s->next)
		if (s->mode == mode)
			pager_add_totals(ret, s);
}

/* ---- statistics -------------------------------------------------------------------------------
 */

/* A session that was taken back has no job: it was complete. */
static bool is_complete(const struct job *job)
{
	return job_state(job) == JOB_DONE || job_state(job) == JOB_NONE;
}

json_t *pager_stats_of(struct session *s)
{
	json_t *o = session_stats(s);
	uint64_t prefetched, used;

	if (!o)
		return NULL;
	if (s->mode == SESSION_EAGER) /* it never needs us, but its VM must not begin before this */
		(void)json_object_set_new(o, "full", json_boolean(is_complete(s->job)));
	recording_counts(s->recording, &prefetched, &used);
	(void)json_object_set_new(o, "prefetched_pages", json_integer((json_int_t)prefetched));
	(void)json_object_set_new(o, "prefetched_used_pages", json_integer((json_int_t)used));
	(void)json_object_set_new(o, "load", job_stats(s->job));
	/* in overlay mode another than its own: its base's */
	(void)json_object_set_new(o, "resident_image", json_string(image_id(s->resident->image)));
	return o;
}

json_t *pager_session_stats(struct pager *p, const char *name)
{
	struct session *s = pager_find(p, name);

	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS && !s; i++)
		if (p->slots[i] && !strcmp(p->slots[i]->name, name))
			s = p->slots[i];
	if (s)
		return pager_stats_of(s);
	for (uint64_t i = p->n_history; i > 0 && p->n_history - i < PAGER_MAX_HISTORY; i--) {
		json_t *h = p->history[(i - 1) % PAGER_MAX_HISTORY];
		const char *n = json_string_value(json_object_get(h, "session"));

		if (n && !strcmp(n, name))
			return json_incref(h);
	}
	return NULL;
}

static json_int_t get(const uint64_t *counter)
{
	return (json_int_t)__atomic_load_n(counter, __ATOMIC_RELAXED);
}

static json_t *resident_stats(const struct resident *r)
{
	return json_pack("{s:s, s:I, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:o}", "image_id",
			 image_id(r->image), "n_pages", (json_int_t)r->n_pages, "resident_pages",
			 get(&r->present_pages), "sessions", (int)r->n_sessions, "frames_loaded",
			 get(&r->frames_loaded), "bytes_read", get(&r->bytes_read),
			 "pages_inserted", get(&r->inserted_pages), "pages_evicted",
			 get(&r->evicted_pages), "pages_refaulted", get(&r->refaulted_pages),
			 "kept_by", (int)__atomic_load_n(&r->n_kept, __ATOMIC_RELAXED),
			 "favoured_frames", get(&r->favoured_frames), "load", job_stats(r->job));
}

json_t *pager_image_stats(struct pager *p, const char *id)
{
	for (struct resident *r = p->residents; r; r = r->next)
		if (!strcmp(image_id(r->image), id))
			return resident_stats(r);
	return NULL;
}

/* By mode and kind, of all sessions ever. */
static json_t *fault_stats(struct pager *p)
{
	json_t *o = json_object();

	for (int mode = SESSION_SHARED; mode < SESSION_N_MODES; mode++) {
		struct pager_totals t;

		pager_totals(p, (enum session_mode)mode, &t);
		(void)json_object_set_new(
			o, session_mode_name((enum session_mode)mode),
			json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "stored",
				  get(&t.n.faults_stored), "joined", get(&t.n.faults_joined),
				  "resident", get(&t.n.faults_resident), "zero",
				  get(&t.n.faults_zero), "copied", get(&t.n.faults_copied),
				  "continued", get(&t.n.faults_continued)));
	}
	return o;
}

json_t *pager_stats(struct pager *p)
{
	json_t *sessions = json_array(), *images = json_array();

	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		if (p->slots[i])
			(void)json_array_append_new(sessions, pager_stats_of(p->slots[i]));
	for (struct resident *r = p->residents; r; r = r->next)
		(void)json_array_append_new(images, resident_stats(r));
	return json_pack("{s:i, s:o, s:o, s:o, s:o}", "pid", (int)getpid(), "sessions", sessions,
			 "images", images, "faults", fault_stats(p), "eviction", evict_stats(p));
}
