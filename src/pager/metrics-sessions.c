/* SPDX-License-Identifier: Apache-2.0 */
/* metrics-sessions.c - the sessions that there are, and all that there ever were */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "pager/metrics-internal.h"
#include "pager/recording.h"
#include "pager/watch.h"

/* ---- sessions ---------------------------------------------------------------------------------
 */

/* What is said of one session, or of all of an image and a mode. */
struct row {
	const char *session; /* "": of several */
	const char *image;
	enum session_mode mode;
	char *labels;
	struct session_counters n;
	struct histogram service_ns;
	uint64_t prefetched, prefetched_used;
	uint64_t sessions, full, stuck, oldest_ns;
};

struct rows {
	struct row *v;
	size_t n;
};

static void rows_deinit(struct rows *r)
{
	for (size_t i = 0; i < r->n; i++)
		free(r->v[i].labels);
	free(r->v);
}

static int label(struct row *row)
{
	_cleanup_buf_ struct buf b = {0};
	int e = buf_printf(&b, "session=\"");

	if (e == 0)
		e = metrics_escape(&b, row->session);
	if (e == 0)
		e = buf_printf(&b, "\",image=\"");
	if (e == 0)
		e = metrics_escape(&b, row->image);
	if (e == 0)
		e = buf_printf(&b, "\",mode=\"%s\"", session_mode_name(row->mode));
	if (e == 0)
		row->labels = take_ptr(b.data);
	return e;
}

static struct row *find_row(struct rows *rows, const char *session, const struct session *s)
{
	const char *image = image_id(s->image);

	for (size_t i = 0; i < rows->n && !*session; i++)
		if (rows->v[i].mode == s->mode && !strcmp(rows->v[i].image, image))
			return &rows->v[i];
	rows->v[rows->n] = (struct row){.session = session, .image = image, .mode = s->mode};
	return &rows->v[rows->n++];
}

static void add_session(struct row *row, const struct session *s, uint64_t now_ns)
{
	struct watch_report w;
	uint64_t *to = (uint64_t *)&row->n, prefetched = 0, used = 0;

	for (size_t i = 0; i < sizeof(row->n) / sizeof(*to); i++)
		to[i] += metrics_load(&s->n, i * sizeof(*to));
	histogram_merge(&row->service_ns, &s->service_ns);
	watch_look(s, now_ns, WATCH_STUCK_NS, &w);
	recording_counts(s->recording, &prefetched, &used);
	row->prefetched += prefetched;
	row->prefetched_used += used;
	row->sessions++;
	row->full += __atomic_load_n(&s->full, __ATOMIC_ACQUIRE);
	row->stuck += w.n_stuck;
	row->oldest_ns = MAX(row->oldest_ns, w.oldest_ns);
}

static int make_rows(struct pager *p, struct rows *ret)
{
	uint64_t now_ns = clock_now_ns();
	size_t n = 0;
	int e = 0;

	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		n += p->slots[i] != NULL;
	ret->v = calloc(n + 1, sizeof(*ret->v));
	if (!ret->v)
		return -ENOMEM;
	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++) {
		struct session *s = p->slots[i];

		if (s)
			add_session(find_row(ret, n > METRICS_MAX_SESSIONS ? "" : s->name, s), s,
				    now_ns);
	}
	for (size_t i = 0; i < ret->n && e == 0; i++)
		e = label(&ret->v[i]);
	return e;
}

struct kind {
	const char *name;
	size_t offset; /* in struct session_counters */
};

#define AT(_field) offsetof(struct session_counters, _field)

static const struct kind fault_kinds[] = {
	{"stored", AT(faults_stored)},
	{"joined", AT(faults_joined)},
	{"resident", AT(faults_resident)},
	{"zero", AT(faults_zero)},
};

/* How those were answered that were not answered by a page in the shared memory. */
static const struct kind answer_kinds[] = {
	{"copied", AT(faults_copied)},
	{"continued", AT(faults_continued)},
};

static const struct kind page_kinds[] = {
	{"inserted", AT(pages_inserted)},
	{"copied", AT(pages_copied)},
	{"continued", AT(pages_continued)},
	{"zero_preinstalled", AT(zero_preinstalled)},
};

#define HELP_FAULTS  "Page faults answered, by what was found."
#define HELP_ANSWERS "Of these: answered by a copy, or by a mapping of the base's page."
#define HELP_PAGES   "Pages put into memory: into the image's (inserted) or into the VM's own."
#define HELP_SERVICE "From reading a fault's event to waking the VM."

static void kinds_of(struct out *o, const char *name, const struct rows *rows,
		     const struct kind *kinds, size_t n_kinds)
{
	for (size_t i = 0; i < rows->n; i++)
		for (size_t k = 0; k < n_kinds; k++)
			print(o, NAME "%s{%s,kind=\"%s\"} %llu\n", name, rows->v[i].labels,
			      kinds[k].name, ull(metrics_load(&rows->v[i].n, kinds[k].offset)));
}

/* Numbers of a row, each a family. */
static const struct {
	const char *name, *type, *help;
	size_t offset; /* in struct row */
	double scale;
} row_numbers[] = {
	{"session_frames_loaded_total", "counter", "Frames read for the session.",
	 offsetof(struct row, n.frames_loaded), 1},
	{"session_read_bytes_total", "counter", "Bytes of these, decoded.",
	 offsetof(struct row, n.bytes_read), 1},
	{"session_prefetched_pages_total", "counter", "Pages loaded ahead for the session.",
	 offsetof(struct row, prefetched), 1},
	{"session_prefetched_used_pages_total", "counter", "Of these: touched since.",
	 offsetof(struct row, prefetched_used), 1},
	{"session_count", "gauge", "Sessions behind this row: more than 1 when they are not named.",
	 offsetof(struct row, sessions), 1},
	{"session_full", "gauge", "Of these: need the pager no more.", offsetof(struct row, full),
	 1},
	{"session_stuck_faults", "gauge", "Faults that wait for a read for more than 10 s.",
	 offsetof(struct row, stuck), 1},
	{"session_oldest_fault_seconds", "gauge", "Age of the oldest fault that waits for a read.",
	 offsetof(struct row, oldest_ns), 1e-9},
};

void metrics_sessions(struct out *o, struct pager *p)
{
	_cleanup_(rows_deinit) struct rows rows = {0};

	o->e = o->e ? o->e : make_rows(p, &rows);
	metrics_family(o, "session_faults_total", "counter", HELP_FAULTS);
	kinds_of(o, "session_faults_total", &rows, fault_kinds, ARRAY_SIZE(fault_kinds));
	metrics_family(o, "session_answers_total", "counter", HELP_ANSWERS);
	kinds_of(o, "session_answers_total", &rows, answer_kinds, ARRAY_SIZE(answer_kinds));
	metrics_family(o, "session_pages_total", "counter", HELP_PAGES);
	kinds_of(o, "session_pages_total", &rows, page_kinds, ARRAY_SIZE(page_kinds));
	for (size_t k = 0; k < ARRAY_SIZE(row_numbers); k++) {
		metrics_family(o, row_numbers[k].name, row_numbers[k].type, row_numbers[k].help);
		for (size_t i = 0; i < rows.n; i++)
			metrics_sample(o, row_numbers[k].name, rows.v[i].labels,
				       (double)metrics_load(&rows.v[i], row_numbers[k].offset) *
					       row_numbers[k].scale);
	}
	metrics_family(o, "session_fault_seconds", "histogram", HELP_SERVICE);
	for (size_t i = 0; i < rows.n; i++)
		metrics_histogram(o, "session_fault_seconds", rows.v[i].labels,
				  &rows.v[i].service_ns);
}

/* ---- all sessions ever ------------------------------------------------------------------------
 */

static void total_kinds(struct out *o, const char *name, const struct pager_totals *t,
			const struct kind *kinds, size_t n_kinds)
{
	for (int mode = SESSION_SHARED; mode < SESSION_N_MODES; mode++)
		for (size_t k = 0; k < n_kinds; k++)
			print(o, NAME "%s{mode=\"%s\",kind=\"%s\"} %llu\n", name,
			      session_mode_name((enum session_mode)mode), kinds[k].name,
			      ull(metrics_load(&t[mode].n, kinds[k].offset)));
}

static void total_times(struct out *o, const char *name, const char *help,
			const struct pager_totals *t, size_t offset)
{
	char labels[32];

	metrics_family(o, name, "histogram", help);
	for (int mode = SESSION_SHARED; mode < SESSION_N_MODES; mode++) {
		(void)snprintf(labels, sizeof(labels), "mode=\"%s\"",
			       session_mode_name((enum session_mode)mode));
		metrics_histogram(o, name, labels,
				  (const struct histogram *)((const char *)&t[mode] + offset));
	}
}

void metrics_totals(struct out *o, struct pager *p)
{
	_cleanup_free_ struct pager_totals *t = calloc(SESSION_N_MODES, sizeof(*t));

	if (!t) {
		o->e = -ENOMEM;
		return;
	}
	for (int mode = SESSION_SHARED; mode < SESSION_N_MODES; mode++)
		pager_totals(p, (enum session_mode)mode, &t[mode]);
	metrics_family(o, "faults_total", "counter", HELP_FAULTS);
	total_kinds(o, "faults_total", t, fault_kinds, ARRAY_SIZE(fault_kinds));
	metrics_family(o, "answers_total", "counter", HELP_ANSWERS);
	total_kinds(o, "answers_total", t, answer_kinds, ARRAY_SIZE(answer_kinds));
	metrics_family(o, "pages_total", "counter", HELP_PAGES);
	total_kinds(o, "pages_total", t, page_kinds, ARRAY_SIZE(page_kinds));
	total_times(o, "fault_seconds", HELP_SERVICE, t, offsetof(struct pager_totals, service_ns));
	total_times(o, "fault_queue_seconds",
		    "How long faults whose frame had to be read waited for the read to begin.", t,
		    offsetof(struct pager_totals, queue_ns));
}
