/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every metric is a family: one HELP, one TYPE, then its samples together. So the families are the
 * outer loop, and the tables below have one line for each. Times are in seconds and sizes in bytes,
 * as is the custom; what the pager counts in nanoseconds and pages is scaled on its way out.
 *
 * The buckets of a histogram end at 2^k - 1 ns, where four buckets of ours (histogram.h) end too:
 * so no value is counted in the wrong one. A bound is printed with all of its digits.
 *
 * How many series there are is bounded: an image has about a dozen, a session 50; above
 * METRICS_MAX_SESSIONS sessions share theirs by image and mode, and have no name.
 *
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats/
 */
#include "pager/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"
#include "pager/background.h"
#include "pager/evict.h"
#include "pager/loader.h"
#include "pager/recording.h"
#include "pager/watch.h"
#include "sys/psi.h"

#define FIRST_POWER 10 /* 1 us */
#define LAST_POWER  34 /* 17 s */
#define NAME	    "dormouse_pager_"
#define ull(_v)	    ((unsigned long long)(_v))

static uint64_t load(const void *base, size_t offset)
{
	return __atomic_load_n((const uint64_t *)((const char *)base + offset), __ATOMIC_RELAXED);
}

/* ---- the format -------------------------------------------------------------------------------
 */

/* Appending fails for want of memory only, and then goes on failing: the caller looks once. */
struct out {
	struct buf *b;
	int e;
};

#define print(_o, ...)                                                                             \
	do {                                                                                       \
		if ((_o)->e == 0)                                                                  \
			(_o)->e = buf_printf((_o)->b, __VA_ARGS__);                                \
	} while (0)

int metrics_escape(struct buf *b, const char *value)
{
	int e = buf_append(b, "", 0);

	for (; *value && e == 0; value++) {
		if (*value == '\\' || *value == '"')
			e = buf_printf(b, "\\%c", *value);
		else if (*value == '\n')
			e = buf_append(b, "\\n", 2);
		else
			e = buf_append(b, value, 1);
	}
	return e;
}

static void family(struct out *o, const char *name, const char *type, const char *help)
{
	print(o, "# HELP " NAME "%s %s\n# TYPE " NAME "%s %s\n", name, help, name, type);
}

/* @labels: without braces, escaped; empty: none */
static void sample(struct out *o, const char *name, const char *labels, double value)
{
	print(o, NAME "%s%s%s%s %.15g\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
	      value);
}

static void one(struct out *o, const char *name, const char *type, const char *help, double value)
{
	family(o, name, type, help);
	sample(o, name, "", value);
}

static void histogram(struct out *o, const char *name, const char *labels,
		      const struct histogram *h)
{
	const char *comma = *labels ? "," : "";
	uint64_t seen = 0;
	uint32_t i = 0;

	for (unsigned k = FIRST_POWER; k <= LAST_POWER; k++) {
		uint64_t bound = (1ull << k) - 1;

		for (; i < HISTOGRAM_BUCKETS && histogram_value(i) <= bound; i++)
			seen += h->count[i];
		print(o, NAME "%s_bucket{%s%sle=\"%.12g\"} %llu\n", name, labels, comma,
		      (double)bound / 1e9, ull(seen));
	}
	for (; i < HISTOGRAM_BUCKETS; i++)
		seen += h->count[i];
	print(o, NAME "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, ull(seen));
	print(o, NAME "%s_sum%s%s%s %.15g\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
	      (double)h->sum / 1e9);
	print(o, NAME "%s_count%s%s%s %llu\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
	      ull(seen));
}

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
		to[i] += load(&s->n, i * sizeof(*to));
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
			      kinds[k].name, ull(load(&rows->v[i].n, kinds[k].offset)));
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

static void sessions(struct out *o, struct pager *p)
{
	_cleanup_(rows_deinit) struct rows rows = {0};

	o->e = o->e ? o->e : make_rows(p, &rows);
	family(o, "session_faults_total", "counter", HELP_FAULTS);
	kinds_of(o, "session_faults_total", &rows, fault_kinds, ARRAY_SIZE(fault_kinds));
	family(o, "session_answers_total", "counter", HELP_ANSWERS);
	kinds_of(o, "session_answers_total", &rows, answer_kinds, ARRAY_SIZE(answer_kinds));
	family(o, "session_pages_total", "counter", HELP_PAGES);
	kinds_of(o, "session_pages_total", &rows, page_kinds, ARRAY_SIZE(page_kinds));
	for (size_t k = 0; k < ARRAY_SIZE(row_numbers); k++) {
		family(o, row_numbers[k].name, row_numbers[k].type, row_numbers[k].help);
		for (size_t i = 0; i < rows.n; i++)
			sample(o, row_numbers[k].name, rows.v[i].labels,
			       (double)load(&rows.v[i], row_numbers[k].offset) *
				       row_numbers[k].scale);
	}
	family(o, "session_fault_seconds", "histogram", HELP_SERVICE);
	for (size_t i = 0; i < rows.n; i++)
		histogram(o, "session_fault_seconds", rows.v[i].labels, &rows.v[i].service_ns);
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
			      ull(load(&t[mode].n, kinds[k].offset)));
}

static void total_times(struct out *o, const char *name, const char *help,
			const struct pager_totals *t, size_t offset)
{
	char labels[32];

	family(o, name, "histogram", help);
	for (int mode = SESSION_SHARED; mode < SESSION_N_MODES; mode++) {
		(void)snprintf(labels, sizeof(labels), "mode=\"%s\"",
			       session_mode_name((enum session_mode)mode));
		histogram(o, name, labels,
			  (const struct histogram *)((const char *)&t[mode] + offset));
	}
}

static void totals(struct out *o, struct pager *p)
{
	_cleanup_free_ struct pager_totals *t = calloc(SESSION_N_MODES, sizeof(*t));

	if (!t) {
		o->e = -ENOMEM;
		return;
	}
	for (int mode = SESSION_SHARED; mode < SESSION_N_MODES; mode++)
		pager_totals(p, (enum session_mode)mode, &t[mode]);
	family(o, "faults_total", "counter", HELP_FAULTS);
	total_kinds(o, "faults_total", t, fault_kinds, ARRAY_SIZE(fault_kinds));
	family(o, "answers_total", "counter", HELP_ANSWERS);
	total_kinds(o, "answers_total", t, answer_kinds, ARRAY_SIZE(answer_kinds));
	family(o, "pages_total", "counter", HELP_PAGES);
	total_kinds(o, "pages_total", t, page_kinds, ARRAY_SIZE(page_kinds));
	total_times(o, "fault_seconds", HELP_SERVICE, t, offsetof(struct pager_totals, service_ns));
	total_times(o, "fault_queue_seconds",
		    "How long faults whose frame had to be read waited for the read to begin.", t,
		    offsetof(struct pager_totals, queue_ns));
}

/* ---- images -----------------------------------------------------------------------------------
 */

static const struct {
	const char *name, *type, *help;
	size_t offset; /* in struct resident; 64 bits */
	double scale;
} image_numbers[] = {
	{"image_bytes", "gauge", "Guest memory of the image.", offsetof(struct resident, n_pages),
	 DORM_PAGE_SIZE},
	{"image_resident_bytes", "gauge", "Of it: in memory here.",
	 offsetof(struct resident, present_pages), DORM_PAGE_SIZE},
	{"image_frames_loaded_total", "counter", "Frames put into its memory.",
	 offsetof(struct resident, frames_loaded), 1},
	{"image_read_bytes_total", "counter", "Bytes of these, decoded.",
	 offsetof(struct resident, bytes_read), 1},
	{"image_inserted_pages_total", "counter", "Pages put into its memory.",
	 offsetof(struct resident, inserted_pages), 1},
	{"image_evicted_pages_total", "counter", "Pages taken out of its memory.",
	 offsetof(struct resident, evicted_pages), 1},
	{"image_refaulted_pages_total", "counter", "Pages put there again after that.",
	 offsetof(struct resident, refaulted_pages), 1},
	{"image_favoured_frames", "gauge", "Frames of working sets: evicted last.",
	 offsetof(struct resident, favoured_frames), 1},
};

static void image_sample(struct out *o, const char *name, const struct resident *r, double value)
{
	char labels[IMAGE_ID_LEN + 16];

	(void)snprintf(labels, sizeof(labels), "image=\"%s\"", image_id(r->image)); /* hex */
	sample(o, name, labels, value);
}

/* Pages that VMs share, counted once for each but the first: what sharing saves, if all use all. */
static double shared_bytes(const struct resident *r)
{
	uint64_t pages = load(r, offsetof(struct resident, present_pages));

	return r->n_sessions > 1 ? (double)pages * (r->n_sessions - 1) * DORM_PAGE_SIZE : 0;
}

static void images(struct out *o, struct pager *p)
{
	for (size_t k = 0; k < ARRAY_SIZE(image_numbers); k++) {
		family(o, image_numbers[k].name, image_numbers[k].type, image_numbers[k].help);
		for (const struct resident *r = p->residents; r; r = r->next)
			image_sample(o, image_numbers[k].name, r,
				     (double)load(r, image_numbers[k].offset) *
					     image_numbers[k].scale);
	}
	family(o, "image_sessions", "gauge", "Sessions that use its memory.");
	for (const struct resident *r = p->residents; r; r = r->next)
		image_sample(o, "image_sessions", r, r->n_sessions);
	family(o, "image_shared_bytes", "gauge", "Resident bytes times sessions beyond the first.");
	for (const struct resident *r = p->residents; r; r = r->next)
		image_sample(o, "image_shared_bytes", r, shared_bytes(r));
	family(o, "image_pinned", "gauge", "VMs that need all of it: while above 0 it stays.");
	for (const struct resident *r = p->residents; r; r = r->next)
		image_sample(o, "image_pinned", r, __atomic_load_n(&r->n_kept, __ATOMIC_RELAXED));
}

/* ---- the host ---------------------------------------------------------------------------------
 */

static void eviction(struct out *o, const struct pager *p)
{
	static const char *const causes[] = {"limit", "image_limit", "pressure"};
	struct evict_counters n;
	char labels[32];
	double avg10 = psi_some_avg10();

	evict_counters(p, &n);
	one(o, "resident_bytes", "gauge", "Resident memory of all images.",
	    (double)load(&p->budget.pages, 0) * DORM_PAGE_SIZE);
	one(o, "memory_limit_bytes", "gauge", "What it may be; 0: any.",
	    (double)load(&p->budget.limit, 0) * DORM_PAGE_SIZE);
	one(o, "image_limit_bytes", "gauge", "What that of one image may be; 0: any.",
	    (double)load(&p->budget.image_limit, 0) * DORM_PAGE_SIZE);
	family(o, "evicted_pages_total", "counter", "Pages taken out of memory.");
	for (int i = 0; i < EVICT_N_CAUSES; i++) {
		(void)snprintf(labels, sizeof(labels), "cause=\"%s\"", causes[i]);
		sample(o, "evicted_pages_total", labels, (double)n.pages[i]);
	}
	one(o, "evict_helped_pages_total", "counter",
	    "Of these: by threads that were bringing pages in.", (double)n.helped);
	one(o, "evict_floor_hits_total", "counter",
	    "Frames that only the floor of their working set kept.", (double)n.floor_hits);
	one(o, "evict_stalls_total", "counter", "Times that nothing was left that may be evicted.",
	    (double)n.stalls);
	one(o, "evict_seconds_total", "counter", "Time spent evicting.", (double)n.busy_ns / 1e9);
	one(o, "pressure_events_total", "counter", "Times that memory was short.",
	    (double)n.events);
	one(o, "pressure_watched", "gauge", "1: the kernel tells of memory pressure (PSI).",
	    evict_is_watching(p));
	if (avg10 >= 0)
		one(o, "pressure_some_ratio", "gauge",
		    "Share of the last 10 s in which a thread of the host waited for memory.",
		    avg10 / 100);
}

#define LOADER_AT(_field) offsetof(struct loader_stats, by[0]._field)

static const char *const priorities[] = {"demand", "working_set", "graduation"};

static const struct {
	const char *name, *help;
	size_t offset;
} loader_numbers[] = {
	{"loader_reads_total", "Reads that succeeded.", LOADER_AT(reads)},
	{"loader_read_bytes_total", "Bytes of these, as they are stored.", LOADER_AT(bytes)},
	{"loader_failed_total", "Reads that failed.", LOADER_AT(failed)},
	{"loader_direct_total", "Reads that went past the page cache.", LOADER_AT(direct)},
};

static void loader_times(struct out *o, const struct loader_stats *l, const char *name,
			 const char *help, size_t offset)
{
	char labels[32];

	family(o, name, "histogram", help);
	for (int i = 0; i < LOAD_N_PRIORITIES; i++) {
		(void)snprintf(labels, sizeof(labels), "priority=\"%s\"", priorities[i]);
		histogram(o, name, labels,
			  (const struct histogram *)((const char *)&l->by[i] + offset -
						     offsetof(struct loader_stats, by)));
	}
}

static void loader(struct out *o, struct pager *p)
{
	_cleanup_free_ struct loader_stats *l = calloc(1, sizeof(*l));

	if (!l) {
		o->e = -ENOMEM;
		return;
	}
	loader_stats(p->loader, l);
	for (size_t k = 0; k < ARRAY_SIZE(loader_numbers); k++) {
		family(o, loader_numbers[k].name, "counter", loader_numbers[k].help);
		for (size_t i = 0; i < LOAD_N_PRIORITIES; i++)
			print(o, NAME "%s{priority=\"%s\"} %llu\n", loader_numbers[k].name,
			      priorities[i],
			      ull(load(l, loader_numbers[k].offset + i * sizeof(l->by[0]))));
	}
	loader_times(o, l, "loader_queue_seconds", "From the request to the begin of a read.",
		     LOADER_AT(queue_ns));
	loader_times(o, l, "loader_read_seconds", "From the begin of a read to its end.",
		     LOADER_AT(read_ns));
	one(o, "loader_slots_used", "gauge", "Demand reads queued or under way.", l->slots_used);
	one(o, "loader_slots_most", "gauge", "The most of them at one time.", l->slots_most);
	one(o, "loader_slots_refused_total", "counter", "Demand reads that found none free.",
	    (double)l->slots_refused);
}

static void jobs(struct out *o, struct pager *p)
{
	static const char *const states[] = {"none", "loading", "done", "failed"};
	uint32_t n[4] = {0};
	char labels[32];

	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		if (p->slots[i] && p->slots[i]->job)
			n[job_state(p->slots[i]->job)]++;
	for (const struct resident *r = p->residents; r; r = r->next)
		if (r->job)
			n[job_state(r->job)]++;
	family(o, "jobs", "gauge",
	       "Jobs that load in the background, of present sessions and images.");
	for (int i = 1; i < 4; i++) {
		(void)snprintf(labels, sizeof(labels), "state=\"%s\"", states[i]);
		sample(o, "jobs", labels, n[i]);
	}
}

static void session_states(struct out *o, const struct pager *p)
{
	static const char *const states[] = {"listening", "serving", "failed", "closed"};
	uint32_t n[SESSION_N_STATES] = {0};
	char labels[32];

	for (uint32_t i = 0; i < PAGER_MAX_SESSIONS; i++)
		if (p->slots[i])
			n[session_state(p->slots[i])]++;
	family(o, "sessions", "gauge", "Sessions, by state.");
	for (int i = 0; i < SESSION_N_STATES; i++) {
		(void)snprintf(labels, sizeof(labels), "state=\"%s\"", states[i]);
		sample(o, "sessions", labels, n[i]);
	}
	one(o, "sessions_ended_total", "counter", "Sessions that are over.", (double)p->n_history);
}

/* Without the resident memory, which is counted above, and mapped here only to be named. */
static double own_bytes(void)
{
	_cleanup_free_ char *text = calloc(1, 8192);
	int fd = text ? open("/proc/self/status", O_RDONLY | O_CLOEXEC) : -1;
	const char *anon;

	if (fd < 0)
		return 0;
	if (read(fd, text, 8191) < 0)
		*text = 0;
	fd_close(fd);
	anon = strstr(text, "RssAnon:");
	return anon ? (double)strtoull(anon + 8, NULL, 10) * 1024 : 0;
}

static void process(struct out *o, const struct pager *p)
{
	family(o, "info", "gauge", "Always 1.");
	print(o, NAME "info{version=\"%s\"} 1\n", DORM_VERSION);
	one(o, "start_time_seconds", "gauge", "When it started, in seconds since 1970.",
	    (double)p->started_real_ns / 1e9);
	one(o, "own_bytes", "gauge", "Memory of the pager itself, without images'.", own_bytes());
}

int metrics_text(struct pager *p, struct buf *ret)
{
	struct out o = {.b = ret};

	process(&o, p);
	session_states(&o, p);
	totals(&o, p);
	jobs(&o, p);
	eviction(&o, p);
	loader(&o, p);
	images(&o, p);
	sessions(&o, p);
	return o.e;
}
