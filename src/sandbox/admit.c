/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admit.c - admission (admission.h) as this host has it: its memory, its sandboxes, its pool
 */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"
#include "sandbox/pool.h"
#include "sys/memory-left.h"
#include "sys/proc.h"

#define START_BYTES    (40ull << 20) /* a VMM, and what its guest writes at once */
#define TURNS_PER_CORE 2u

/* ---- what admission looks at ------------------------------------------------------------------
 */

static int memory_hook(void *userdata, uint64_t *ret_available, uint64_t *ret_total)
{
	return memory_left(ret_available, ret_total);
}

static uint64_t held_hook(void *userdata, pid_t pid)
{
	uint64_t bytes = 0;

	return proc_anonymous_bytes(pid, &bytes) == 0 ? bytes : 0;
}

/* One that is being created or woken holds a ticket. */
static unsigned running_hook(void *userdata)
{
	struct host *host = userdata;
	unsigned n = 0;
	LOCK_SCOPE(&host->lock);

	for (size_t i = 0; i < host->n_sandboxes; i++) {
		struct sandbox *sb = host->sandboxes[i];

		LOCK_SCOPE(&sb->info);
		n += sb->record.state == SANDBOX_RUNNING || sb->record.state == SANDBOX_PAUSING;
	}
	return n;
}

static bool give_back_hook(void *userdata)
{
	struct host *host = userdata;

	return pool_give_back(host->pool);
}

int host_admission_new(struct host *host, const struct host_config *config)
{
	const struct admission_limits limits = {
		.reserve = config->memory_reserve,
		.max_sandboxes = config->max_sandboxes,
		.queue_max = config->queue_max,
		.queue_ms = config->queue_ms,
		.turns = TURNS_PER_CORE * (unsigned)get_nprocs(),
	};
	const struct admission_hooks hooks = {
		.memory = memory_hook,
		.held = held_hook,
		.running = running_hook,
		.give_back = give_back_hook,
		.now_ns = clock_now_ns,
		.userdata = host,
	};

	return admission_new(&limits, &hooks, &host->admission);
}

/* ---- for the operations -----------------------------------------------------------------------
 */

/* Of a template that nobody knows anything about yet, its working set says something. */
static uint64_t first_guess(struct host *host, const char *template_id)
{
	char id[ID_LEN + 1];

	if (admission_knows(host->admission, template_id) ||
	    snapshot_resolve(host, template_id, NULL, id) < 0)
		return START_BYTES;
	return START_BYTES + snapshots_working_set_pages(host, id) * DORM_PAGE_SIZE;
}

int host_admit(struct host *host, const struct admit_ask *q, struct problem *problem,
	       struct admission_ticket *ret)
{
	char what[128];
	const struct admission_ask ask = {.what = what,
					  .template = q->template_id,
					  .start = first_guess(host, q->template_id),
					  .least = q->least,
					  .abandoned = q->abandoned,
					  .userdata = q->userdata};
	int r;

	(void)snprintf(what, sizeof(what), "%s of %.63s", q->verb, q->template_id); /* fits */
	r = admission_enter(host->admission, &ask, problem, ret);
	if (r == -ECANCELED)
		problem_set(problem, 503, "dormd is ending, or its client is gone");
	return r;
}

void host_admitted(struct host *host, struct admission_ticket *t, const char *id)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = id ? sandbox_find(host, id, NULL) : NULL;
	pid_t pid = 0;

	if (sb) {
		LOCK_SCOPE(&sb->info);
		pid = sb->record.vm.pid;
	}
	admission_leave(host->admission, t, pid);
	pool_poke(host->pool);
}

void host_learn_memory(struct sandbox *sb)
{
	uint64_t bytes;

	if (sb->record.state == SANDBOX_CREATING) /* it has not done anything yet */
		return;
	bytes = held_hook(NULL, vmm_pid(sb->vmm));
	if (bytes && sb->host->admission)
		admission_learn(sb->host->admission, sb->record.template_id, bytes);
}

/* ---- for operators ----------------------------------------------------------------------------
 */

json_t *admission_status(struct host *host)
{
	struct admission_figures f;

	admission_figures(host->admission, &f);
	return json_pack(
		"{s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I, s:b}, s:{s:I, s:I}, "
		"s:{s:I, s:I, s:I, s:I, s:I}, s:o}",
		"memory", "total", (json_int_t)f.total, "available", (json_int_t)f.available,
		"reserve", (json_int_t)f.reserve, "promised", (json_int_t)f.promised, "turns",
		"taken", (json_int_t)f.bringing_up, "all", (json_int_t)f.turns, "queue", "waiting",
		(json_int_t)f.waiting, "max", (json_int_t)f.queue_max, "blocked", (int)f.blocked,
		"sandboxes", "running", (json_int_t)f.running, "max", (json_int_t)f.max_sandboxes,
		"counts", "admitted", (json_int_t)f.admitted, "waited", (json_int_t)f.waited,
		"refused", (json_int_t)f.refused, "abandoned", (json_int_t)f.abandoned, "waitedMs",
		(json_int_t)(f.waited_ns / NSEC_PER_MSEC), "pool", pool_status(host->pool));
}

int admission_check(struct host *host, struct problem *problem)
{
	struct admission_figures f;

	admission_figures(host->admission, &f);
	if (!f.waiting || f.waiting < f.queue_max)
		return 0;
	problem_set(problem, 503, "%u creates, wakes and forks wait already, as many as may",
		    f.waiting);
	return -EAGAIN;
}

int admission_metrics(struct host *host, struct buf *b)
{
	struct admission_figures f;
	struct pool_figures p;

	admission_figures(host->admission, &f);
	pool_figures(host->pool, &p);
	return buf_printf(
		b,
		"# HELP dormouse_admission_waiting Creates, wakes and forks that wait for room or "
		"their turn.\n"
		"# TYPE dormouse_admission_waiting gauge\n"
		"dormouse_admission_waiting %u\n"
		"# HELP dormouse_admission_total Creates, wakes and forks that were let in, had to "
		"wait, were refused, were given up by their client.\n"
		"# TYPE dormouse_admission_total counter\n"
		"dormouse_admission_total{result=\"admitted\"} %llu\n"
		"dormouse_admission_total{result=\"waited\"} %llu\n"
		"dormouse_admission_total{result=\"refused\"} %llu\n"
		"dormouse_admission_total{result=\"abandoned\"} %llu\n"
		"# HELP dormouse_admission_promised_bytes What young sandboxes have not taken yet "
		"of their forecasts.\n"
		"# TYPE dormouse_admission_promised_bytes gauge\n"
		"dormouse_admission_promised_bytes %llu\n"
		"# HELP dormouse_memory_available_bytes Memory that is left on this host.\n"
		"# TYPE dormouse_memory_available_bytes gauge\n"
		"dormouse_memory_available_bytes %llu\n"
		"# HELP dormouse_warm_vms VMs that are kept ready, or being made so.\n"
		"# TYPE dormouse_warm_vms gauge\n"
		"dormouse_warm_vms{state=\"ready\"} %u\n"
		"dormouse_warm_vms{state=\"making\"} %u\n"
		"# HELP dormouse_warm_creates_total Creates that got such a VM, and that did not.\n"
		"# TYPE dormouse_warm_creates_total counter\n"
		"dormouse_warm_creates_total{result=\"hit\"} %llu\n"
		"dormouse_warm_creates_total{result=\"miss\"} %llu\n"
		"# HELP dormouse_warm_vms_total Such VMs that were made, could not be made, were "
		"given back for want of memory.\n"
		"# TYPE dormouse_warm_vms_total counter\n"
		"dormouse_warm_vms_total{result=\"made\"} %llu\n"
		"dormouse_warm_vms_total{result=\"failed\"} %llu\n"
		"dormouse_warm_vms_total{result=\"given_back\"} %llu\n",
		f.waiting, (unsigned long long)f.admitted, (unsigned long long)f.waited,
		(unsigned long long)f.refused, (unsigned long long)f.abandoned,
		(unsigned long long)f.promised, (unsigned long long)f.available, p.ready, p.making,
		(unsigned long long)p.hits, (unsigned long long)p.misses,
		(unsigned long long)p.made, (unsigned long long)p.failed,
		(unsigned long long)p.given_back);
}
