/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define LAST_MAX_MS 60000u /* older than that, the last question says nothing about now */
#define PROC_MAX    8192u  /* the lines that are needed are the first */

/* The first line of /proc/stat, in ticks of all processors together. */
struct cpu {
	uint64_t total, idle;
	uint64_t at_ns;
};

struct sample {
	double cpu_used_pct;
	long cpu_count;
	uint64_t mem_total, mem_available, mem_cache; /* bytes */
	uint64_t disk_total, disk_used;
};

/* A question that waits for its span to pass. */
struct asking {
	struct metrics *metrics;
	struct asking *next, **prev;
	struct request *rq;
	struct cpu before;
	struct loop_timer timer;
};

struct metrics {
	struct agent *agent;
	struct cpu last;
	struct asking *first;
};

/* --- reading: procfs and statvfs do not wait for anybody ----------------------------------------
 */

static int read_proc(const char *path, char text[PROC_MAX])
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, PROC_MAX - 1);

	if (n < 0)
		return error_errno();
	text[n] = 0;
	return 0;
}

/* "cpu  user nice system idle iowait irq softirq steal guest guest_nice": the last two are part of
 * the first two. Source: proc_stat(5) */
static int read_cpu(struct cpu *ret)
{
	char text[PROC_MAX];
	unsigned long long v[8] = {0};
	int r = read_proc("/proc/stat", text);

	if (r < 0)
		return r;
	if (sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3,
		   v + 4, v + 5, v + 6, v + 7) < 5)
		return error_trace(-EBADMSG);
	*ret = (struct cpu){.idle = v[3] + v[4], .at_ns = clock_now_ns()};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		ret->total += v[i];
	return 0;
}

static uint64_t mem_field(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	unsigned long long kib = 0;

	if (at)
		(void)sscanf(at + strlen(name), " %llu kB", &kib); /* 0 when it is not there */
	return kib << 10;
}

static int read_memory(struct sample *s)
{
	char text[PROC_MAX];
	int r = read_proc("/proc/meminfo", text);

	if (r < 0)
		return r;
	s->mem_total = mem_field(text, "MemTotal:");
	s->mem_available = MIN(mem_field(text, "MemAvailable:"), s->mem_total);
	s->mem_cache = mem_field(text, "\nCached:") + mem_field(text, "SReclaimable:");
	return 0;
}

static int read_disk(struct sample *s)
{
	struct statvfs v;

	if (statvfs("/", &v) < 0)
		return error_errno();
	s->disk_total = (uint64_t)v.f_blocks * v.f_frsize;
	s->disk_used = (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
	return 0;
}

static double used_pct(const struct cpu *from, const struct cpu *to)
{
	uint64_t total = to->total - from->total, idle = to->idle - from->idle;

	if (to->total <= from->total || to->idle < from->idle || idle > total)
		return 0;
	return 100.0 * (double)(total - idle) / (double)total;
}

/* --- answers ------------------------------------------------------------------------------------
 */

static json_t *describe(const struct sample *s)
{
	uint64_t used = s->mem_total - s->mem_available;

	return json_pack(
		"{s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "ts",
		(json_int_t)(clock_real_ns() / NSEC_PER_SEC), "cpu_count", (json_int_t)s->cpu_count,
		"cpu_used_pct", (double)(long)(s->cpu_used_pct * 100 + 0.5) / 100, "mem_total",
		(json_int_t)s->mem_total, "mem_used", (json_int_t)used, "mem_cache",
		(json_int_t)s->mem_cache, "mem_total_mib", (json_int_t)(s->mem_total >> 20),
		"mem_used_mib", (json_int_t)(used >> 20), "disk_used", (json_int_t)s->disk_used,
		"disk_total", (json_int_t)s->disk_total);
}

static void answer(struct metrics *m, struct request *rq, const struct cpu *before)
{
	struct sample s = {.cpu_count = sysconf(_SC_NPROCESSORS_ONLN)};
	struct cpu now;
	int r = read_cpu(&now);

	if (r == 0)
		r = read_memory(&s);
	if (r == 0)
		r = read_disk(&s);
	if (r < 0) {
		request_fail(rq, 500, "the kernel's counters cannot be read: %s",
			     strerrordesc_np(-r));
		return;
	}
	s.cpu_used_pct = used_pct(before, &now);
	m->last = now;
	request_reply_json(rq, 200, describe(&s));
}

static void asking_free(struct asking *a)
{
	loop_timer_clear(&a->timer);
	*a->prev = a->next;
	if (a->next)
		a->next->prev = a->prev;
	if (a->rq)
		request_release(a->rq);
	free(a);
}

static void on_span(void *userdata)
{
	struct asking *a = userdata;
	struct request *rq = take_ptr(a->rq);

	request_release(rq);
	answer(a->metrics, rq, &a->before);
	asking_free(a);
}

static void on_closed(struct request *rq)
{
	struct asking *a = rq->keeper;

	a->rq = NULL;
	asking_free(a);
}

static void ask(struct metrics *m, struct request *rq, const struct cpu *now)
{
	struct asking *a = calloc(1, sizeof(*a));

	if (!a) {
		request_fail(rq, 503, "out of memory");
		return;
	}
	*a = (struct asking){
		.metrics = m, .rq = rq, .before = *now, .timer = {.fire = on_span, .userdata = a}};
	a->next = m->first;
	a->prev = &m->first;
	if (a->next)
		a->next->prev = &a->next;
	m->first = a;
	request_keep(rq, a, on_closed, NULL);
	loop_timer_set(m->agent->loop, &a->timer, deadline_after_ms(METRICS_SPAN_MS));
}

static void handle_metrics(struct request *rq)
{
	struct metrics *m = rq->agent->metrics;
	struct cpu now;
	uint64_t span_ms;
	int r = read_cpu(&now);

	if (r < 0) {
		request_fail(rq, 500, "/proc/stat cannot be read: %s", strerrordesc_np(-r));
		return;
	}
	span_ms = (now.at_ns - m->last.at_ns) / NSEC_PER_MSEC;
	if (m->last.at_ns && span_ms >= METRICS_SPAN_MS && span_ms <= LAST_MAX_MS)
		answer(m, rq, &m->last);
	else
		ask(m, rq, &now);
}

static void handle_envs(struct request *rq)
{
	request_reply_json(rq, 200, json_incref(rq->agent->env));
}

static const struct route routes[] = {
	{"GET", "/metrics", handle_metrics, ROUTE_NEEDS_READY | ROUTE_CLIENT},
	{"GET", "/envs", handle_envs, ROUTE_NEEDS_READY | ROUTE_CLIENT},
};

int metrics_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}

int metrics_new(struct agent *a, struct metrics **ret)
{
	struct metrics *m = calloc(1, sizeof(*m));

	if (!m)
		return error_trace(-ENOMEM);
	m->agent = a;
	*ret = m;
	return 0;
}

struct metrics *metrics_free(struct metrics *m)
{
	while (m && m->first)
		asking_free(m->first);
	free(m);
	return NULL;
}
