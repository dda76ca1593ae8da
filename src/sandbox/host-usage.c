/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host-usage.c - what `dorm top` shows
 *
 * The kernel tells of each VMM's processor time and memory (two small files of /proc), the pager of
 * all sessions and images in one answer. Anonymous memory of a VMM is its own; file-backed memory
 * is the image's, shared with others, and the program's. What a guest could still touch and is not
 * in memory here at all is "not loaded": its memory less what the image has resident and what it
 * has of its own.
 */
#include "sandbox/host-usage.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/str.h"
#include "sandbox/private.h"

#define PAGER_MS   500
#define NETWORK_MS 100 /* for all of them together, from when on they are left out */

struct look {
	json_t *list;
	const char *owner;
	json_t *sessions, *images; /* by id; of the pager */
	uint64_t network_until_ns;
	int error;
};

/* ---- what the kernel says ---------------------------------------------------------------------
 */

static char *read_proc(pid_t pid, const char *name)
{
	char path[64];
	char *text = NULL;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name); /* fits */
	return file_read(AT_FDCWD, path, 65536, &text, NULL) == 0 ? text : NULL;
}

/* "RssAnon:   1234 kB" in bytes; 0 without */
static uint64_t kib_field(const char *text, const char *name)
{
	const char *p = text ? strstr(text, name) : NULL;
	unsigned long long kib = 0;

	if (p)
		(void)sscanf(p + strlen(name), " %llu", &kib); /* stays 0 */
	return kib << 10;
}

/* Return: false when the process is not that one any more */
static bool cpu_time(const struct vmm_identity *vm, uint64_t *ret_ns)
{
	_cleanup_free_ char *text = read_proc(vm->pid, "stat");
	const char *p = text ? strrchr(text, ')') : NULL;
	unsigned long long user, kernel, start;

	if (!p ||
	    sscanf(p + 1,
		   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d "
		   "%*d %*d %*d %*d %llu",
		   &user, &kernel, &start) != 3 ||
	    start != vm->start_time)
		return false;
	*ret_ns = (user + kernel) * (NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK));
	return true;
}

static void set(json_t *o, const char *key, uint64_t n)
{
	(void)json_object_set_new(o, key, json_integer((json_int_t)n)); /* left out then */
}

static uint64_t number(const json_t *o, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(o, key));

	return n > 0 ? (uint64_t)n : 0;
}

/* ---- one sandbox ------------------------------------------------------------------------------
 */

/* What is copied out of it under its lock. */
struct known {
	struct vmm_identity vm;
	struct record_disk disk;
	uint64_t memory_bytes;
	bool network;
};

/* Blocks of the files that only it writes to. */
static uint64_t disk_bytes(const struct sandbox *sb, const struct record_disk *disk)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < disk->n; i++) {
		char name[16 + ID_LEN];
		struct stat st;

		(void)snprintf(name, sizeof(name), "disks/%s", disk->names[i]); /* fits */
		if (fstatat(sb->dirfd, name, &st, 0) == 0)
			bytes += (uint64_t)st.st_blocks * 512;
	}
	return bytes;
}

static void add_memory(struct look *l, const struct known *k, const char *id, json_t *o)
{
	_cleanup_free_ char *text = read_proc(k->vm.pid, "status");
	const json_t *session = json_object_get(l->sessions, id);
	const char *image = json_string_value(json_object_get(session, "image_id"));
	uint64_t own = kib_field(text, "RssAnon:"), here;

	set(o, "ownBytes", own);
	set(o, "sharedBytes", kib_field(text, "RssFile:") + kib_field(text, "RssShmem:"));
	if (!session)
		return;
	set(o, "faults", number(session, "faults"));
	if (!image)
		return;
	here = number(json_object_get(l->images, image), "resident_pages") * DORM_PAGE_SIZE + own;
	set(o, "notLoadedBytes", k->memory_bytes > here ? k->memory_bytes - here : 0);
}

static void add_network(struct look *l, struct sandbox *sb, json_t *o)
{
	json_t *counters;

	if (clock_now_ns() > l->network_until_ns)
		return;
	counters = sandbox_network_counters(sb->host, sb->record.id);
	if (counters)
		(void)json_object_set_new(o, "network", counters); /* left out then */
}

/* Return: new reference; NULL: not of this owner, or without memory */
static json_t *describe(struct look *l, struct sandbox *sb, struct known *k)
{
	const struct record *r = &sb->record;
	char started[32];

	LOCK_SCOPE(&sb->info);
	if (l->owner && strcmp(l->owner, r->owner) != 0)
		return NULL;
	*k = (struct known){.vm = r->vm,
			    .disk = r->disk,
			    .memory_bytes = sb->manifest.memory_bytes,
			    .network = r->network != NULL};
	clock_rfc3339(r->started_ns ? r->started_ns : r->created_ns, started);
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:i}", "sandboxID", r->id, "templateID",
			 r->template_id, "status", sandbox_state_name(r->state), "startedAt",
			 started, "memoryBytes", (json_int_t)sb->manifest.memory_bytes, "cpuCount",
			 (int)sb->manifest.cpus);
}

static void visit(void *userdata, struct sandbox *sb)
{
	struct look *l = userdata;
	struct known k;
	json_t *o = sandbox_is_pooled(sb) ? NULL : describe(l, sb, &k);
	uint64_t cpu_ns;

	if (!o)
		return;
	if (k.vm.pid && cpu_time(&k.vm, &cpu_ns)) {
		set(o, "cpuNs", cpu_ns);
		add_memory(l, &k, sb->record.id, o);
		if (k.network)
			add_network(l, sb, o);
	}
	if (k.disk.n)
		set(o, "diskBytes", disk_bytes(sb, &k.disk));
	if (json_array_append_new(l->list, o) < 0)
		l->error = -ENOMEM;
}

/* ---- the host ---------------------------------------------------------------------------------
 */

/* An array of objects as an object of them, by one of their members. */
static json_t *by(const json_t *list, const char *key)
{
	json_t *o = json_object(), *v;
	size_t i;

	json_array_foreach (list, i, v) {
		const char *name = json_string_value(json_object_get(v, key));

		if (name)
			(void)json_object_set(o, name, v); /* then it is not known */
	}
	return o;
}

static json_t *describe_pager(struct host *host, const json_t *stats)
{
	_cleanup_free_ char *text = NULL;
	uint64_t resident = 0;
	const json_t *v;
	size_t i;
	int pid;

	if (!stats)
		return json_null();
	pid = (int)json_integer_value(json_object_get(stats, "pid"));
	text = read_proc(pid, "status");
	json_array_foreach (json_object_get(stats, "images"), i, v)
		resident += number(v, "resident_pages") * DORM_PAGE_SIZE;
	return json_pack("{s:i, s:I, s:I, s:I, s:i}", "pid", pid, "ownBytes",
			 (json_int_t)kib_field(text, "RssAnon:"), "residentBytes",
			 (json_int_t)resident, "images",
			 (json_int_t)json_array_size(json_object_get(stats, "images")), "deaths",
			 (int)atomic_load(&host->pager_deaths));
}

static json_t *describe_host(struct host *host, const json_t *stats)
{
	_cleanup_free_ char *meminfo = NULL, *self = read_proc(getpid(), "status");

	(void)file_read(AT_FDCWD, "/proc/meminfo", 65536, &meminfo, NULL); /* then 0 */
	return json_pack("{s:i, s:I, s:I, s:I, s:o}", "cpuCount", get_nprocs(), "memoryTotalBytes",
			 (json_int_t)kib_field(meminfo, "MemTotal:"), "memoryAvailableBytes",
			 (json_int_t)kib_field(meminfo, "MemAvailable:"), "dormdRssBytes",
			 (json_int_t)kib_field(self, "VmRSS:"), "pager",
			 describe_pager(host, stats));
}

int host_sandbox_usage(struct host *host, const char *owner, json_t **ret)
{
	json_auto_t *stats = NULL;
	struct look l = {.list = json_array(), .owner = owner};
	char now[32];
	int r;

	(void)pager_client_stats(host->pager, deadline_after_ms(PAGER_MS), &stats); /* NULL then */
	l.sessions = by(json_object_get(stats, "sessions"), "session");
	l.images = by(json_object_get(stats, "images"), "image_id");
	l.network_until_ns = deadline_after_ms(NETWORK_MS);
	r = host_each_sandbox(host, visit, &l);
	json_decref(l.sessions);
	json_decref(l.images);
	if (r == 0)
		r = l.error;
	if (r < 0) {
		json_decref(l.list);
		return error_trace(r);
	}
	*ret = json_pack("{s:s, s:o, s:o}", "time", clock_rfc3339(clock_real_ns(), now), "host",
			 owner ? json_null() : describe_host(host, stats), "sandboxes", l.list);
	return *ret ? 0 : -ENOMEM;
}
