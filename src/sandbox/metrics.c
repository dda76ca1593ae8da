/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "sandbox/sandbox.h"

/* ---- text -------------------------------------------------------------------------------------
 */

static void print(struct metrics_text *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void print(struct metrics_text *t, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (!t->error)
		t->error = n < (int)sizeof(line) ? buf_append(t->buf, line, (size_t)n) : -EMSGSIZE;
}

/* What every program has is called the same everywhere. */
static const char *prefix(const char *name)
{
	return strncmp(name, "process_", 8) ? "dormouse_" : "";
}

void metrics_family(struct metrics_text *t, const char *name, const char *type, const char *help)
{
	const char *p = prefix(name);

	t->name = name;
	print(t, "# HELP %s%s %s\n# TYPE %s%s %s\n", p, name, help, p, name, type);
}

/* A backslash, a quote and a newline would end the value; each label value is ours but for names.
 */
static void escape(const char *value, char *out, size_t size)
{
	size_t n = 0;

	for (; *value && n + 3 < size; value++) {
		if (*value == '\\' || *value == '"' || *value == '\n')
			out[n++] = '\\';
		out[n++] = *value == '\n' ? 'n' : *value;
	}
	out[n] = 0;
}

void metrics_sample(struct metrics_text *t, const char *label, const char *value, double number)
{
	char text[256];

	if (!label) {
		print(t, "%s%s %.17g\n", prefix(t->name), t->name, number);
		return;
	}
	escape(value, text, sizeof(text));
	print(t, "dormouse_%s{%s=\"%s\"} %.17g\n", t->name, label, text, number);
}

void metrics_one(struct metrics_text *t, const char *name, const char *type, const char *help,
		 double number)
{
	metrics_family(t, name, type, help);
	metrics_sample(t, NULL, NULL, number);
}

/* ---- histograms -------------------------------------------------------------------------------
 */

static const double bounds_s[] = {0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
				  0.5,	 0.75, 1,    2,	   5,	 10,	20,  30,   60};

struct histogram {
	atomic_ullong counts[ARRAY_SIZE(bounds_s) + 1]; /* each alone; the last: longer than all */
	atomic_ullong sum_ns;
};

static void observe(struct histogram *h, uint64_t ns)
{
	double s = (double)ns / 1e9;
	unsigned i = 0;

	while (i < ARRAY_SIZE(bounds_s) && s > bounds_s[i])
		i++;
	atomic_fetch_add(&h->counts[i], 1);
	atomic_fetch_add(&h->sum_ns, ns);
}

static void write_histogram(struct metrics_text *t, const struct histogram *h, const char *label,
			    const char *value)
{
	unsigned long long n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(bounds_s); i++) {
		n += atomic_load(&h->counts[i]);
		print(t, "dormouse_%s_bucket{%s=\"%s\",le=\"%g\"} %llu\n", t->name, label, value,
		      bounds_s[i], n);
	}
	n += atomic_load(&h->counts[ARRAY_SIZE(bounds_s)]);
	print(t, "dormouse_%s_bucket{%s=\"%s\",le=\"+Inf\"} %llu\n", t->name, label, value, n);
	print(t, "dormouse_%s_sum{%s=\"%s\"} %.9g\n", t->name, label, value,
	      (double)atomic_load(&h->sum_ns) / 1e9);
	print(t, "dormouse_%s_count{%s=\"%s\"} %llu\n", t->name, label, value, n);
}

/* ---- operations -------------------------------------------------------------------------------
 */

static const char *const op_names[] = {"create", "wake",     "fork",  "fork_point",
				       "sleep",	 "snapshot", "delete"};
static_assert(ARRAY_SIZE(op_names) == METRICS_N_OPS, "every operation has a name");

static struct {
	struct histogram latency; /* of those that succeeded */
	atomic_ullong ok, failed;
} ops[METRICS_N_OPS];

/* Where the time of these went. */
static const char *const bringup_names[] = {"image", "vmm", "load", "answer", "repair"};
static struct histogram bringup[ARRAY_SIZE(bringup_names)];
static const char *const save_names[] = {"prepare", "device", "memory"};
static struct histogram save[ARRAY_SIZE(save_names)];
static atomic_ullong saved_bytes, expired;
static atomic_int watchers;

void metrics_op(enum metrics_op op, int r, uint64_t begun_ns)
{
	atomic_fetch_add(r < 0 ? &ops[op].failed : &ops[op].ok, 1);
	if (r >= 0)
		observe(&ops[op].latency, clock_now_ns() - begun_ns);
}

void metrics_bringup(const struct sandbox_timings *t)
{
	const uint64_t ns[] = {t->image_ns, t->vmm_ns, t->load_ns, t->answer_ns, t->repair_ns};

	for (unsigned i = 0; i < ARRAY_SIZE(ns); i++)
		observe(&bringup[i], ns[i]);
}

void metrics_save(const struct sandbox_save_timings *t)
{
	const uint64_t ns[] = {t->prepare_ns, t->device_ns, t->memory_ns};

	for (unsigned i = 0; i < ARRAY_SIZE(ns); i++)
		observe(&save[i], ns[i]);
	atomic_fetch_add(&saved_bytes, t->bytes_stored);
}

void metrics_expired(void)
{
	atomic_fetch_add(&expired, 1);
}

void metrics_watcher(int change)
{
	atomic_fetch_add(&watchers, change);
}

static void write_ops(struct metrics_text *t)
{
	metrics_family(t, "operations_total", "counter", "Operations on sandboxes that ended.");
	for (unsigned i = 0; i < METRICS_N_OPS; i++) {
		print(t, "dormouse_operations_total{operation=\"%s\",result=\"ok\"} %llu\n",
		      op_names[i], atomic_load(&ops[i].ok));
		print(t, "dormouse_operations_total{operation=\"%s\",result=\"failed\"} %llu\n",
		      op_names[i], atomic_load(&ops[i].failed));
	}
	metrics_family(t, "operation_seconds", "histogram",
		       "Time of operations that succeeded, with what they waited for; create, wake "
		       "and fork end with the guest's answer to its repair.");
	for (unsigned i = 0; i < METRICS_N_OPS; i++)
		write_histogram(t, &ops[i].latency, "operation", op_names[i]);
	metrics_family(t, "bringup_seconds", "histogram",
		       "The phases of bringing up a VM: create, wake, fork.");
	for (unsigned i = 0; i < ARRAY_SIZE(bringup); i++)
		write_histogram(t, &bringup[i], "phase", bringup_names[i]);
	metrics_family(t, "save_seconds", "histogram",
		       "The phases of saving a sandbox: sleep, snapshot, fork of a running one.");
	for (unsigned i = 0; i < ARRAY_SIZE(save); i++)
		write_histogram(t, &save[i], "phase", save_names[i]);
	metrics_one(t, "saved_bytes_total", "counter", "Bytes of memory written by these.",
		    (double)atomic_load(&saved_bytes));
	metrics_one(t, "expired_total", "counter", "Sandboxes whose time was up.",
		    (double)atomic_load(&expired));
	metrics_one(t, "event_watchers", "gauge", "Clients that watch events now.",
		    atomic_load(&watchers));
}

/* ---- HTTP -------------------------------------------------------------------------------------
 */

#define HTTP_MAX 512u /* series: routes times statuses; what is beyond is counted as "other" */

static struct {
	pthread_mutex_t lock;
	struct {
		const char *method, *route; /* constants */
		unsigned status;
		unsigned long long n;
	} rows[HTTP_MAX];
	unsigned n;
	unsigned long long other, errors[600];
} http = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct histogram http_seconds;

static const char *known_method(const char *method)
{
	static const char *const known[] = {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"};

	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(method, known[i]))
			return known[i];
	return "other";
}

void metrics_http(const char *method, const char *route, unsigned status, uint64_t ns)
{
	unsigned i = 0;

	method = known_method(method);
	observe(&http_seconds, ns);
	LOCK_SCOPE(&http.lock);
	if (status >= 400 && status < ARRAY_SIZE(http.errors))
		http.errors[status]++;
	while (i < http.n && (http.rows[i].status != status || strcmp(http.rows[i].route, route) ||
			      http.rows[i].method != method))
		i++;
	if (i == HTTP_MAX) {
		http.other++;
		return;
	}
	if (i == http.n) {
		http.rows[i].method = method;
		http.rows[i].route = route;
		http.rows[i].status = status;
		http.n++;
	}
	http.rows[i].n++;
}

static void write_http(struct metrics_text *t)
{
	LOCK_SCOPE(&http.lock);
	metrics_family(t, "http_requests_total", "counter",
		       "Requests answered; without a route: to sandboxes, and to nowhere.");
	for (unsigned i = 0; i < http.n; i++)
		print(t,
		      "dormouse_http_requests_total{method=\"%s\",route=\"%s\",status=\"%u\"} "
		      "%llu\n",
		      http.rows[i].method, http.rows[i].route, http.rows[i].status, http.rows[i].n);
	print(t,
	      "dormouse_http_requests_total{method=\"other\",route=\"other\",status=\"0\"} %llu\n",
	      http.other);
	metrics_family(t, "http_errors_total", "counter", "Of these: errors, by status.");
	for (unsigned i = 0; i < ARRAY_SIZE(http.errors); i++)
		if (http.errors[i])
			print(t, "dormouse_http_errors_total{code=\"%u\"} %llu\n", i,
			      http.errors[i]);
	metrics_family(t, "http_seconds", "histogram",
		       "Time from the head of a request to the end of its answer.");
	write_histogram(t, &http_seconds, "api", "all");
}

/* ---- this process -----------------------------------------------------------------------------
 */

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n > 3 ? n - 3 : 0; /* ".", "..", and the one that reads */
}

static void write_process(struct metrics_text *t)
{
	_cleanup_free_ char *text = NULL;
	unsigned long long pages = 0;
	struct rusage u = {0};

	if (file_read(AT_FDCWD, "/proc/self/statm", 4096, &text, NULL) == 0)
		(void)sscanf(text, "%*u %llu", &pages); /* stays 0 */
	(void)getrusage(RUSAGE_SELF, &u);
	metrics_family(t, "build_info", "gauge", "1; the version of this dormd.");
	metrics_sample(t, "version", DORM_VERSION, 1);
	metrics_one(t, "process_resident_memory_bytes", "gauge", "Memory of dormd itself.",
		    (double)pages * DORM_PAGE_SIZE);
	metrics_one(t, "process_open_fds", "gauge", "Descriptors that dormd has open.",
		    count_fds());
	metrics_one(t, "process_cpu_seconds_total", "counter", "Processor time that dormd used.",
		    (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
			    (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
	metrics_one(t, "process_context_switches_total", "counter",
		    "Times that a thread of dormd waited and was woken.", (double)u.ru_nvcsw);
}

void metrics_write(struct metrics_text *t)
{
	write_ops(t);
	write_http(t);
	write_process(t);
}
