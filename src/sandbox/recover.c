/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover.c - what a new daemon makes of what an earlier one left
 *
 * For every directory in sandboxes/, by the state in its record:
 *
 *   creating, deleting   nobody was told of it, or it was to go: ended and removed
 *   running              VM alive and served by a pager, the one there was or a new one that took
 *                        it back: adopted. Otherwise failed, with the reason
 *   pausing              VM alive: it goes on running, what was written so far is removed. VM gone
 *                        and the new memory complete: asleep there
 *   waking               the memory directory is whole: VM ended, asleep
 *   asleep, failed       as they are; leftovers of a process are ended
 *
 * Has the host been restarted since (record.boot_id), what ran is failed with just that reason; its
 * memory went with the host, its disk is as it was. A process id of then means nothing now.
 *
 * There is no journal besides: each transition writes the record before it begins and when it
 * counts, what it makes appears by one rename, and what it replaces is removed after that. So state
 * and directory always tell how far it came:
 *
 *   create   "creating" is written with the directory: whatever is in there, nobody was told of it
 *   sleep    "pausing" at g. memory-<g+1> appears complete, or not at all; until the record says
 *            "asleep" at g+1 it counts only if the VM is gone, and then there is nothing else
 *   wake     "waking" at g, and nothing below memory-<g> is ever written: what the guest writes
 *            goes to disks/, which is emptied
 *   compact  see compaction.c
 *   delete   "deleting", or the directory is in tmp/ already, which store_open() has emptied
 *   fork, snapshot   "pausing" on the source; the copy is in tmp/ until it is complete
 *
 * A directory without a record was never completed and is removed. One whose record cannot be read
 * stays as it is, for a person to look at: it is shown as failed, and deleted when a client says
 * so.
 *
 * Last, VM processes of this store which no sandbox owns are ended, and cgroups that no sandbox has
 * are removed. A jailed VM is known by what its root is called (jail.h), any other by its working
 * directory, one of a sandbox of this store or what that became in tmp/: a daemon that died between
 * starting one and writing its pid down leaves such an orphan, often in a directory that was removed
 * above. None can still be about to begin: a child that has not yet closed what it inherited still
 * holds the lock of the store, for which store_open() waited. Nothing else is touched, in particular
 * no shell that somebody has in there.
 */
#include "sandbox/private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/manifest.h"
#include "sys/pidfd.h"
#include "sys/proc.h"

#define ADOPT_MS       10000
#define ANSWER_MS      600 /* for all guests together; whoever is slower is waited for behind */
#define ANSWER_POLL_MS 5
#define THREADS	       4u
#define EXEC_TRIES     20
#define EXEC_PAUSE_MS  5

/* The process that a record names, if it is still that one. Return: a pidfd; -ESRCH */
static int open_process(const struct vmm_identity *vm)
{
	_cleanup_fd_ int fd = vm->pid > 0 ? pidfd_from_pid(vm->pid) : -ESRCH;
	uint64_t start;
	int r;

	if (fd < 0)
		return -ESRCH;
	r = proc_start_time(vm->pid, &start);
	if (r < 0 || start != vm->start_time || pidfd_is_gone(fd) != 0)
		return -ESRCH;
	return take_fd(fd);
}

static bool is_of_another_boot(const struct sandbox *sb)
{
	return sb->record.boot_id[0] && sb->host->boot_id[0] &&
	       strcmp(sb->record.boot_id, sb->host->boot_id) != 0;
}

static int open_vm(const struct sandbox *sb)
{
	return is_of_another_boot(sb) ? -ESRCH : open_process(&sb->record.vm);
}

/* Return: 1 this variable is in its environment; 0 it is not; -EAGAIN no environment (yet) */
static int has_environment(pid_t pid, const char *name)
{
	_cleanup_free_ char *env = NULL;
	char path[64];
	size_t len, n = strlen(name);

	(void)snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid); /* fits */
	if (file_read(AT_FDCWD, path, 1u << 20, &env, &len) < 0)
		return 0;
	for (const char *p = env; p < env + len; p += strlen(p) + 1)
		if (!strncmp(p, name, n) && p[n] == '=')
			return 1;
	return len ? 0 : -EAGAIN;
}

static bool is_this_program(pid_t pid)
{
	struct stat a, b;
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid); /* fits */
	return pid != getpid() && stat(path, &a) == 0 && stat("/proc/self/exe", &b) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Only our VMs have this variable; until its exec, a child of the daemon before us is a daemon. */
static bool is_vm(pid_t pid)
{
	int r = -EAGAIN;

	for (int i = 0; i < EXEC_TRIES && r == -EAGAIN; i++) {
		if (is_this_program(pid))
			return true;
		r = has_environment(pid, "DORM_VMM_PAGER_SOCKET");
		if (r == -EAGAIN)
			clock_sleep_ms(EXEC_PAUSE_MS); /* in the middle of its exec */
	}
	return r > 0;
}

/* This daemon was not given its key. It is none the worse for it: the next wake says what it needs.
 */
static bool read_sealed(struct sandbox *sb, unsigned generation, struct manifest *ret)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	char memory[32];
	_cleanup_fd_ int fd = file_open_dir(sb->dirfd, sandbox_memory_name(generation, memory));

	return fd >= 0 && manifest_read(fd, NULL, ret, &files) == 0;
}

static bool has_memory(struct sandbox *sb, unsigned generation, struct manifest *ret)
{
	int r = sandbox_read_memory(sb, generation, NULL, ret);

	return r == 0 || (r == IMAGE_E_KEY && read_sealed(sb, generation, ret));
}

/* Memory directories other than the one in use were half-way through being added or removed (by a
 * sleep, or by a compaction, whose result counts from when the record names it), and records that
 * were not renamed were never written. */
static void remove_leftovers(struct sandbox *sb)
{
	char keep[32], path[128];
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;

	if (sb->record.state == SANDBOX_ASLEEP)
		sandbox_forget_disks(sb);
	sandbox_memory_name(sb->record.generation, keep);
	if (file_opendir(sb->dirfd, ".", &d) < 0)
		return; /* tried again next time */
	while ((e = readdir(d))) {
		if (str_has_prefix(e->d_name, "sandbox.json."))
			(void)unlinkat(sb->dirfd, e->d_name, 0); /* tried again next time */
		if (!str_has_prefix(e->d_name, "memory-") || !strcmp(e->d_name, keep))
			continue;
		(void)snprintf(path, sizeof(path), "sandboxes/%s/%.64s", sb->record.id, e->d_name);
		(void)snapshot_delete(sb->host->store->root_fd, path,
				      NULL); /* tried again next time */
	}
}

/* A pager must serve it, which need not be the one that did when the daemon before us ended: that
 * one may have died since, and this one have taken its sessions back. */
static int find_session(struct sandbox *sb, struct problem *problem)
{
	struct problem local = PROBLEM_INIT;
	pid_t pid;
	int r;

	r = host_find_pager(sb->host, &pid); /* which also watches it, from before the adoption */
	if (r < 0) {
		problem_set(problem, 500, "its pager is gone: it died while no dormd ran");
		return r;
	}
	r = sandbox_take_back(sb, pid, &local);
	if (r < 0 && host_pager_takes_back(sb->host))
		problem_set(problem, 500, "it could not be taken back: %.400s", local.message);
	else if (r < 0)
		problem_set(problem, 500,
			    "its pager died while no dormd ran, and the new one (pid %d) "
			    "does not serve it",
			    (int)pid);
	return r;
}

/* Its VM must be the process that the record names, and alive. */
static int find_vm(struct sandbox *sb, struct problem *problem)
{
	_cleanup_fd_ int alive = open_vm(sb);

	if (alive >= 0)
		return 0;
	if (is_of_another_boot(sb)) {
		problem_set(problem, 500, "%s", RECORD_HOST_RESTARTED);
		return -ESRCH;
	}
	if (!sb->record.vm.pid)
		problem_set(problem, 500, "dormd died before it knew its process");
	sandbox_ask_pager(sb, problem); /* it ends VMs that it cannot serve */
	problem_set(problem, 500, "its VM (pid %d) ended while no dormd ran",
		    (int)sb->record.vm.pid);
	return -ESRCH;
}

/*
 * A VM that runs is adopted whether its guest answers or not: that it is too busy at the moment, or
 * that its kernel has crashed, is no reason to end it, and was none before this daemon started.
 */
static int adopt(struct sandbox *sb, struct problem *problem)
{
	struct problem ignored = PROBLEM_INIT, unserved = PROBLEM_INIT;
	int r, served;

	r = find_vm(sb, problem);
	served = r == 0 ? find_session(sb, &unserved) : 0;
	if (r == 0)
		r = vmm_adopt(sb->path, &sb->record.vm, sb->manifest.memory_bytes,
			      deadline_after_ms(ADOPT_MS), served < 0 ? &ignored : problem,
			      &sb->vmm);
	if (served < 0 && (r < 0 || vmm_needs_pager(sb->vmm) != 0)) {
		problem_pass(problem, &unserved);
		return error_trace(served);
	}
	if (r == 0)
		r = vmm_is_running(sb->vmm, deadline_after_ms(ADOPT_MS));
	if (r == 0)
		r = vmm_resume(sb->vmm, deadline_after_ms(ADOPT_MS), problem);
	if (r >= 0)
		sandbox_claim_jail(sb);
	if (r >= 0)
		r = sandbox_adopt_disk(sb, problem);
	if (r >= 0)
		r = monitor_watch(sb->host, sb);
	problem_errno(r < 0 ? problem : NULL, r, "adopting its VM");
	if (r == 0)
		sandbox_network_adopt(sb);
	return error_trace(r);
}

/* End the process that a record names, without adopting it. */
static void end_process(struct sandbox *sb)
{
	_cleanup_fd_ int fd = -1;

	fd = open_vm(sb);
	if (fd >= 0) {
		(void)pidfd_signal(fd, SIGKILL); /* gone already is as good */
		(void)fd_poll(fd, POLLIN, deadline_after_ms(ADOPT_MS));
	}
	(void)pager_client_close_session(sb->host->pager, sb->record.id,
					 deadline_after_ms(ADOPT_MS));
	sb->record.vm = (struct vmm_identity){0};
	sandbox_leave_jail(sb);
}

static void become(struct sandbox *sb, enum sandbox_state state, const char *why)
{
	sb->record.state = state;
	str_copy(sb->record.failure, sizeof(sb->record.failure), why);
	if (sandbox_write_record(sb, true) < 0)
		log_error("sandbox=%s its record could not be written", sb->record.id);
}

static void recover_running(struct sandbox *sb)
{
	struct problem p = PROBLEM_INIT;

	if (adopt(sb, &p) < 0) {
		end_process(sb); /* by the record: it may not have come to be adopted */
		sandbox_take_down(sb);
		become(sb, SANDBOX_FAILED, p.message);
		log_error("sandbox=%s failed: %s", sb->record.id, p.message);
		return;
	}
	become(sb, SANDBOX_RUNNING, "");
	sandbox_reconnect(sb);
	log_info("sandbox=%s adopted pid=%d", sb->record.id, (int)vmm_pid(sb->vmm));
}

static void recover_pausing(struct sandbox *sb)
{
	struct manifest m = {0};
	_cleanup_fd_ int alive = open_vm(sb);

	if (alive < 0 && has_memory(sb, sb->record.generation + 1, &m)) {
		sandbox_set_generation(sb, sb->record.generation + 1, m.image_id);
		sandbox_set_manifest(sb, &m);
		end_process(sb);
		become(sb, SANDBOX_ASLEEP, "");
		return;
	}
	recover_running(sb);
}

static void recover_sandbox(struct sandbox *sb)
{
	struct manifest m = {0};
	char why[256];
	bool ok, its;

	pthread_mutex_lock(&sb->op);
	op_begin(sb, OP_RECOVER);
	ok = has_memory(sb, sb->record.generation, &m);
	its = !ok || sandbox_is_its_memory(sb, &m, why);
	if (ok)
		sandbox_set_manifest(sb, &m);
	if (sb->record.state == SANDBOX_CREATING || sb->record.state == SANDBOX_DELETING) {
		end_process(sb);
		sandbox_discard(sb);
	} else if (!ok && sb->record.state != SANDBOX_FAILED) {
		end_process(sb);
		become(sb, SANDBOX_FAILED, "its memory directory is missing or damaged");
	} else if (!its &&
		   (sb->record.state == SANDBOX_ASLEEP || sb->record.state == SANDBOX_WAKING)) {
		end_process(sb);
		become(sb, SANDBOX_FAILED, why);
		log_error("sandbox=%s failed: %s", sb->record.id, why);
	} else if (sb->record.state == SANDBOX_RUNNING) {
		recover_running(sb);
	} else if (sb->record.state == SANDBOX_PAUSING) {
		recover_pausing(sb);
	} else {
		end_process(sb);
		if (sb->record.state == SANDBOX_WAKING)
			become(sb, SANDBOX_ASLEEP, "");
	}
	if (!sb->gone)
		remove_leftovers(sb);
	op_unlock(sb);
}

/* Return: 0; -ENOENT there is none; negative errno, and then @ret says that the sandbox failed */
static int read_record(const char *id, int dirfd, struct record *ret)
{
	struct problem p = PROBLEM_INIT;
	int r = record_read(dirfd, &p, ret);

	if (r == 0 && strcmp(ret->id, id)) {
		problem_set(&p, 500, "sandbox.json: it names another sandbox");
		record_deinit(ret);
		r = -EBADMSG;
	}
	if (r == 0 || r == -ENOENT)
		return r;
	problem_errno(&p, r, "sandbox.json: reading it");
	*ret = (struct record){.state = SANDBOX_FAILED};
	memcpy(ret->id, id, strlen(id) + 1); /* store_each() has seen that it is one */
	str_copy(ret->failure, sizeof(ret->failure), p.message);
	log_error("sandbox=%s failed: %s", id, p.message);
	return r;
}

/* Those whose records could be read; a reference of each. */
struct found {
	struct sandbox **items;
	size_t n, cap;
	atomic_size_t next;
	struct host *host;
};

static int visit(void *userdata, const char *id, int dirfd)
{
	struct found *found = userdata;
	struct host *host = found->host;
	struct problem p = PROBLEM_INIT;
	struct record record = {0};
	struct sandbox *sb;
	char path[300];
	int r, read;

	read = read_record(id, dirfd, &record);
	if (read == -ENOENT) {
		log_warn("sandbox=%.64s removed: it has no record", id);
		(void)snprintf(path, sizeof(path), "sandboxes/%.255s", id);
		(void)snapshot_delete(host->store->root_fd, path, NULL); /* tried again next time */
		return 0;
	}
	r = sandbox_new(host, &record, false, &p, &sb);
	record_deinit(&record);
	if (r < 0) {
		log_error("sandbox=%s could not be opened: %s", id, p.message);
		return 0;
	}
	r = sandbox_insert(sb);
	if (r == 0 && read == 0)
		r = mem_grow(&found->items, &found->cap, found->n, sizeof(*found->items));
	if (r == 0 && read == 0)
		found->items[found->n++] = sandbox_ref(sb);
	sandbox_unref(sb);
	return r;
}

static bool is_known(void *userdata, const char *id)
{
	struct host *host = userdata;

	for (size_t i = 0; i < host->n_sandboxes; i++)
		if (!strcmp(host->sandboxes[i]->record.id, id))
			return host->sandboxes[i]->vmm != NULL;
	return false;
}

static void *recover_worker(void *arg)
{
	struct found *found = arg;
	size_t i;

	while ((i = atomic_fetch_add(&found->next, 1)) < found->n)
		recover_sandbox(found->items[i]);
	return NULL;
}

/* Most of it is waiting for VMMs and the pager to answer. */
static void recover_all(struct found *found)
{
	pthread_t threads[THREADS];
	size_t started = 0;

	while (started + 1 < THREADS && started + 1 < found->n &&
	       pthread_create(&threads[started], NULL, recover_worker, found) == 0)
		started++;
	recover_worker(found); /* this thread is one of them */
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

static bool is_silent(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);
	return sb->record.state == SANDBOX_RUNNING && sb->reconnecting && !sb->channel;
}

/* So that the first request after a restart finds guests that answer, as nearly all do. */
static void await_guests(struct found *found)
{
	uint64_t deadline = deadline_after_ms(ANSWER_MS);

	for (size_t i = 0; i < found->n; i++)
		while (is_silent(found->items[i]) && !deadline_passed(deadline))
			clock_sleep_ms(ANSWER_POLL_MS);
}

static bool is_owned(struct host *host, pid_t pid)
{
	for (size_t i = 0; i < host->n_sandboxes; i++)
		if (host->sandboxes[i]->vmm && vmm_pid(host->sandboxes[i]->vmm) == pid)
			return true;
	return false;
}

/* Does it work in sandboxes/<id>, or in what that became in tmp/? Deeper may be another store. */
static bool works_in_store(const struct host *host, const char *pid)
{
	static const char *const folders[] = {"sandboxes/", "tmp/"};
	char link[300], cwd[PATH_MAX];
	size_t n = strlen(host->store->root);
	ssize_t len;

	(void)snprintf(link, sizeof(link), "/proc/%s/cwd", pid); /* digits */
	len = readlink(link, cwd, sizeof(cwd) - 1);
	if (len <= 0)
		return false;
	cwd[len] = 0;
	if (!str_has_prefix(cwd, host->store->root) || cwd[n] != '/')
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(folders); i++)
		if (str_has_prefix(cwd + n + 1, folders[i]))
			return !strchr(cwd + n + 1 + strlen(folders[i]), '/');
	return false;
}

static bool is_ours(struct host *host, const char *name, pid_t pid)
{
	return jails_is_ours(&host->jails, pid) || (works_in_store(host, name) && is_vm(pid));
}

/* The descriptor comes first: it stays that of the process which is looked at. */
static void end_orphan(struct host *host, const char *name, pid_t pid)
{
	_cleanup_fd_ int fd = -1;

	if (!is_ours(host, name, pid))
		return; /* which most are not */
	fd = pidfd_from_pid(pid);
	if (fd < 0 || !is_ours(host, name, pid) || is_owned(host, pid))
		return;
	log_warn("ending orphaned VM pid=%d", (int)pid);
	(void)pidfd_signal(fd, SIGKILL); /* it may have gone by itself */
}

static void end_orphans(struct host *host)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	uint64_t pid;

	if (file_opendir(AT_FDCWD, "/proc", &d) < 0)
		return; /* then nothing else works here either */
	while ((e = readdir(d)))
		if (str_to_u64(e->d_name, &pid) == 0)
			end_orphan(host, e->d_name, (pid_t)pid);
	jails_forget_groups(&host->jails, is_known, host);
}

static int recover_sandboxes(struct host *host)
{
	struct found found = {.host = host};
	int r = store_each(host->store, "sandboxes", visit, &found);

	if (r == 0) {
		recover_all(&found);
		end_orphans(host);
		await_guests(&found);
	}
	for (size_t i = 0; i < found.n; i++)
		sandbox_unref(found.items[i]);
	free(found.items);
	return error_trace(r);
}

int recover(struct host *host, struct problem *problem)
{
	pid_t pid;
	int r = host_find_pager(host, &pid);

	if (r == -ETIMEDOUT) { /* it lives: nothing is lost yet, and must not be lost by us */
		problem_set(problem, 503, "the pager that was left running does not answer");
		problem_hint(problem,
			     "it may be stopped (SIGCONT); if you kill it, the sandboxes that it "
			     "serves may be lost");
		return r;
	}
	if (r < 0) /* VMs may be waiting for one; what it takes back is adopted below */
		r = host_pager(host, problem, &pid);
	if (r < 0)
		return r;
	r = recover_sandboxes(host);
	if (r < 0) {
		problem_errno(problem, r, "reading %s/sandboxes", host->store->root);
		return error_trace(r);
	}
	return 0;
}
