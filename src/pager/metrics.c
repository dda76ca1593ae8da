/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every metric is a family: one HELP, one TYPE, then its samples together. So the families are the
 * outer loop, and the tables have one line for each. Times are in seconds and sizes in bytes, as is
 * the custom; what the pager counts in nanoseconds and pages is scaled on its way out.
 *
 * How many series there are is bounded: an image has about a dozen, a session 50; above
 * METRICS_MAX_SESSIONS sessions share theirs by image and mode, and have no name.
 *
 * The format is in metrics-format.c, sessions are in metrics-sessions.c; here are images, the host
 * and the pager itself.
 */
#include "pager/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "pager/background.h"
#include "pager/evict.h"
#include "pager/loader.h"
#include "pager/metrics-internal.h"
#include "sys/psi.h"

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
	metrics_sample(o, name, labels, value);
}

/* Pages that VMs share, counted once for each but the first: what sharing saves, if all use all. */
static double shared_bytes(const struct resident *r)
{
	uint64_t pages = metrics_load(r, offsetof(struct resident, present_pages));

	return r->n_sessions > 1 ? (double)pages * (r->n_sessions - 1) * DORM_PAGE_SIZE : 0;
}

static void images(struct out *o, struct pager *p)
{
	for (size_t k = 0; k < ARRAY_SIZE(image_numbers); k++) {
		metrics_family(o, image_numbers[k].name, image_numbers[k].type,
			       image_numbers[k].help);
		for (const struct resident *r = p->residents; r; r = r->next)
			image_sample(o, image_numbers[k].name, r,
				     (double)metrics_load(r, image_numbers[k].offset) *
					     image_numbers[k].scale);
	}
	metrics_family(o, "image_sessions", "gauge", "Sessions that use its memory.");
	for (const struct resident *r = p->residents; r; r = r->next)
		image_sample(o, "image_sessions", r, r->n_sessions);
	metrics_family(o, "image_shared_bytes", "gauge",
		       "Resident bytes times sessions beyond the first.");
	for (const struct resident *r = p->residents; r; r = r->next)
		image_sample(o, "image_shared_bytes", r, shared_bytes(r));
	metrics_family(o, "image_pinned", "gauge",
		       "VMs that need all of it: while above 0 it stays.");
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
	metrics_one(o, "resident_bytes", "gauge", "Resident memory of all images.",
		    (double)metrics_load(&p->budget.pages, 0) * DORM_PAGE_SIZE);
	metrics_one(o, "memory_limit_bytes", "gauge", "What it may be; 0: any.",
		    (double)metrics_load(&p->budget.limit, 0) * DORM_PAGE_SIZE);
	metrics_one(o, "image_limit_bytes", "gauge", "What that of one image may be; 0: any.",
		    (double)metrics_load(&p->budget.image_limit, 0) * DORM_PAGE_SIZE);
	metrics_family(o, "evicted_pages_total", "counter", "Pages taken out of memory.");
	for (int i = 0; i < EVICT_N_CAUSES; i++) {
		(void)snprintf(labels, sizeof(labels), "cause=\"%s\"", causes[i]);
		metrics_sample(o, "evicted_pages_total", labels, (double)n.pages[i]);
	}
	metrics_one(o, "evict_helped_pages_total", "counter",
		    "Of these: by threads that were bringing pages in.", (double)n.helped);
	metrics_one(o, "evict_floor_hits_total", "counter",
		    "Frames that only the floor of their working set kept.", (double)n.floor_hits);
	metrics_one(o, "evict_stalls_total", "counter",
		    "Times that nothing was left that may be evicted.", (double)n.stalls);
	metrics_one(o, "evict_seconds_total", "counter", "Time spent evicting.",
		    (double)n.busy_ns / 1e9);
	metrics_one(o, "pressure_events_total", "counter", "Times that memory was short.",
		    (double)n.events);
	metrics_one(o, "pressure_watched", "gauge", "1: the kernel tells of memory pressure (PSI).",
		    evict_is_watching(p));
	if (avg10 >= 0)
		metrics_one(
			o, "pressure_some_ratio", "gauge",
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

	metrics_family(o, name, "histogram", help);
	for (int i = 0; i < LOAD_N_PRIORITIES; i++) {
		(void)snprintf(labels, sizeof(labels), "priority=\"%s\"", priorities[i]);
		metrics_histogram(o, name, labels,
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
		metrics_family(o, loader_numbers[k].name, "counter", loader_numbers[k].help);
		for (size_t i = 0; i < LOAD_N_PRIORITIES; i++)
			print(o, NAME "%s{priority=\"%s\"} %llu\n", loader_numbers[k].name,
			      priorities[i],
			      ull(metrics_load(l,
					       loader_numbers[k].offset + i * sizeof(l->by[0]))));
	}
	loader_times(o, l, "loader_queue_seconds", "From the request to the begin of a read.",
		     LOADER_AT(queue_ns));
	loader_times(o, l, "loader_read_seconds", "From the begin of a read to its end.",
		     LOADER_AT(read_ns));
	metrics_one(o, "loader_slots_used", "gauge", "Demand reads queued or under way.",
		    l->slots_used);
	metrics_one(o, "loader_slots_most", "gauge", "The most of them at one time.",
		    l->slots_most);
	metrics_one(o, "loader_slots_refused_total", "counter",
		    "Demand reads that found none free.", (double)l->slots_refused);
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
	metrics_family(o, "jobs", "gauge",
		       "Jobs that load in the background, of present sessions and images.");
	for (int i = 1; i < 4; i++) {
		(void)snprintf(labels, sizeof(labels), "state=\"%s\"", states[i]);
		metrics_sample(o, "jobs", labels, n[i]);
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
	metrics_family(o, "sessions", "gauge", "Sessions, by state.");
	for (int i = 0; i < SESSION_N_STATES; i++) {
		(void)snprintf(labels, sizeof(labels), "state=\"%s\"", states[i]);
		metrics_sample(o, "sessions", labels, n[i]);
	}
	metrics_one(o, "sessions_ended_total", "counter", "Sessions that are over.",
		    (double)p->n_history);
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
	metrics_family(o, "info", "gauge", "Always 1.");
	print(o, NAME "info{version=\"%s\"} 1\n", DORM_VERSION);
	metrics_one(o, "start_time_seconds", "gauge", "When it started, in seconds since 1970.",
		    (double)p->started_real_ns / 1e9);
	metrics_one(o, "own_bytes", "gauge", "Memory of the pager itself, without images'.",
		    own_bytes());
}

int metrics_text(struct pager *p, struct buf *ret)
{
	struct out o = {.b = ret};

	process(&o, p);
	session_states(&o, p);
	metrics_totals(&o, p);
	jobs(&o, p);
	eviction(&o, p);
	loader(&o, p);
	images(&o, p);
	metrics_sessions(&o, p);
	return o.e;
}
