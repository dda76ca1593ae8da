/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reboot.c - sleeping without memory, and waking by a boot
 *
 * A sandbox whose disk is all that is kept sleeps in a memory directory like any other, so that it
 * is cloned, verified, recovered and deleted like any other; but the image in it is all zero, which
 * takes a few hundred bytes, and there is no device state, which is how it is known. A VM that was
 * booted runs from an image of zeros anyway: so when it has booted, that directory is its memory,
 * and the next sleep that keeps the memory stores what differs from it.
 *
 *     running, 3      memory-3 (layers, device, disks)    disks/ d1
 *     asleep,  4      memory-4 (zeros, disks: ... d1)     one rename, then the record
 *     waking,  4      memory-4                            disks/ d2, a VM that boots
 *     running, 4      memory-4                            disks/ d2
 *
 * Here the guest's part is not best effort as it is before other sleeps: what it has not written to
 * its disk is lost. A guest that does not say that everything is written keeps the sandbox running.
 *
 * One that slept with its memory can be booted, too. The directory without it is made before, under
 * the next number, and the record goes over to it only when the guest has answered:
 *
 *     asleep,  3      memory-3 (layers, device, disks)
 *     waking,  3      memory-3, memory-4 (zeros, the same disks)    disks/ d2 over memory-3's
 *     running, 4      memory-4                                      disks/ d2
 */
#include "sandbox/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "image/plain-file.h"
#include "sandbox/agent-client.h"

#define WRITE_MS 60000 /* the guest, until everything is on its disk */
#define START_MS 30000 /* a start command, until it runs */

bool sandbox_has_disk(const struct sandbox *sb)
{
	for (uint32_t i = 0; i < sb->manifest.n_disks; i++)
		if (!sb->manifest.disks[i].read_only)
			return true;
	return false;
}

static int check_disk(const struct sandbox *sb, struct problem *problem)
{
	if (sandbox_has_disk(sb))
		return 0;
	problem_set(problem, 400,
		    "memory: false is not possible: sandbox %s has no disk, it keeps its files in "
		    "its memory",
		    sb->record.id);
	problem_hint(problem, "templates built with --disk have one");
	return -EOPNOTSUPP;
}

/* ---- a memory directory without memory --------------------------------------------------------
 */

static int put_zeros(struct sandbox *sb, int dirfd, struct manifest *m, struct problem *problem)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *zeros = NULL;
	int r = image_open_zero(m->memory_bytes / DORM_PAGE_SIZE, &zeros);

	if (r == 0)
		r = image_writer_new(dirfd, zeros, -1, &sb->host->sleep_options, problem, &w);
	if (r == 0)
		r = image_writer_commit(w, &m->stats, m->image_id, problem);
	return r > 0 ? -EBADMSG : error_trace(r);
}

/* @tmp has the disks that @m describes: what else belongs there, then it is at @final. */
static int commit_disks(struct sandbox *sb, struct snapshot_tmp *tmp, const char *final,
			struct manifest *m, struct problem *problem)
{
	int r = put_zeros(sb, tmp->dirfd, m, problem);

	if (r == 0)
		r = snapshot_commit(tmp, sb->host->store->root_fd, final, m, sb->host->keys,
				    problem);
	if (r == 0)
		r = sandbox_read_saved(sb, final, m, problem);
	return error_trace(r);
}

/* ---- sleep ------------------------------------------------------------------------------------
 */

/* Nobody gets the channel any more, whether it succeeds or not. */
static int write_files(struct sandbox *sb, struct manifest *m, struct problem *problem,
		       struct sandbox_save_timings *t, struct channel **ret_channel)
{
	uint64_t t0 = clock_now_ns();
	int r = agent_prepare_disks(sb->channel, WRITE_MS, &m->prepare, problem);

	t->prepare_ns = clock_now_ns() - t0;
	m->prepared = r == 0;
	*ret_channel = sandbox_withdraw(sb);
	return error_trace(r);
}

static int save_paused(struct sandbox *sb, struct snapshot_tmp *tmp, const char *final,
		       struct manifest *m, struct problem *problem, struct sandbox_save_timings *t)
{
	uint64_t t0 = clock_now_ns(), t1;
	int r = op_step(sb, STEP_PAUSE);

	if (r == 0)
		r = vmm_pause(sb->vmm, deadline_after_ms(sb->host->limits.pause_ms), problem);
	t1 = clock_now_ns();
	t->device_ns = t1 - t0;
	if (r < 0)
		problem_errno(problem, r, "pausing sandbox %s", sb->record.id);
	if (r == 0)
		r = op_step(sb, STEP_DISKS);
	if (r == 0)
		r = sandbox_save_disks(sb, tmp->dirfd, m, problem);
	if (r == 0)
		r = op_step(sb, STEP_COMMIT);
	if (r == 0)
		r = commit_disks(sb, tmp, final, m, problem);
	t->memory_ns = clock_now_ns() - t1;
	t->bytes_stored = m->stats.bytes_stored;
	return error_trace(r);
}

/* Return: 0, and the VM is paused; negative errno, and it runs on, or is failed */
static int save(struct sandbox *sb, const char *final, struct manifest *m, struct problem *problem,
		struct sandbox_save_timings *t)
{
	struct channel *ch = NULL;
	struct snapshot_tmp tmp;
	char id[ID_LEN + 1];
	int r = op_step(sb, STEP_PREPARE);

	if (r == 0)
		r = snapshot_begin(sb->host->store->root_fd, sb->host->store->root, problem, &tmp);
	if (r < 0) {
		problem_errno(problem, r, "putting sandbox %s to sleep", sb->record.id);
		return error_trace(r); /* the guest has not noticed anything */
	}
	id_new(SANDBOX_MEMORY_PREFIX, id);
	sandbox_describe_save(sb, id, NULL, m);
	r = write_files(sb, m, problem, t, &ch);
	if (r == 0)
		r = save_paused(sb, &tmp, final, m, problem, t);
	snapshot_abort(&tmp, sb->host->store->root_fd);
	channel_close(ch);
	if (r == 0)
		return 0;
	problem_errno(problem, r, "putting sandbox %s to sleep", sb->record.id);
	(void)snapshot_delete(sb->host->store->root_fd, final, NULL); /* seldom there */
	(void)sandbox_run_on(sb, NULL); /* logs and records it when that fails too */
	return error_trace(r);
}

static int check_sleep(struct sandbox *sb, struct problem *problem)
{
	int r;

	if (sb->record.state != SANDBOX_RUNNING)
		return sandbox_wrong_state(sb, "put to sleep", problem);
	r = check_disk(sb, problem);
	if (r == 0)
		r = sandbox_refuse_stalled(sb, "put to sleep", problem);
	if (r == 0 && (!sb->channel || !channel_is_open(sb->channel))) {
		problem_set(problem, 503,
			    "the guest of sandbox %s does not answer, and nobody else can write "
			    "its files to its disk",
			    sb->record.id);
		problem_hint(problem, "with its memory it can be put to sleep");
		sandbox_reconnect(sb);
		r = -ENOTCONN;
	}
	return r;
}

int sandbox_sleep_disk_locked(struct sandbox *sb, struct problem *problem,
			      struct sandbox_save_timings *timings)
{
	struct sandbox_save_timings t = {0};
	struct manifest m = {0};
	uint64_t t0 = clock_now_ns();
	char final[128];
	int r = check_sleep(sb, problem);

	if (r < 0)
		return error_trace(r);
	r = sandbox_begin_sleep(sb, problem);
	if (r < 0)
		return error_trace(r);
	sandbox_next_memory(sb, final);
	r = save(sb, final, &m, problem, &t);
	if (r == 0) {
		sandbox_remember_disks(sb, &m);
		r = sandbox_fall_asleep(sb, &m, problem);
		if (r < 0)
			(void)sandbox_run_on(sb, NULL); /* the same */
	} else {
		manifest_deinit(&m);
	}
	op_explain(sb, r, problem);
	if (sb->record.state == SANDBOX_PAUSING)
		sandbox_settle(sb, SANDBOX_RUNNING, false);
	t.total_ns = clock_now_ns() - t0;
	*timings = t;
	return error_trace(r);
}

int sandbox_sleep_disk(struct host *host, const char *id, struct problem *problem,
		       struct sandbox_save_timings *ret_timings)
{
	_cleanup_op_ struct sandbox *sb = sandbox_op_begin(host, id, problem);

	return sb ? sandbox_sleep_disk_locked(sb, problem, ret_timings) : -ENOENT;
}

/* ---- boot -------------------------------------------------------------------------------------
 */

char *start_script(const char *command)
{
	return str_printf("exec >" START_LOG " 2>&1 </dev/null\n( %s\n)\necho $? >" START_STATUS
			  "\n",
			  command);
}

/* A guest without what it should run can be looked at; one that is refused cannot. */
static void run_start_command(struct sandbox *sb)
{
	const json_t *start = json_object_get(sb->manifest.defaults, "start");
	const char *command = json_string_value(json_object_get(start, "command"));
	_cleanup_free_ char *script = command ? start_script(command) : NULL;
	const struct agent_command c = {
		.command = script,
		.user = json_string_value(json_object_get(start, "user")),
		.workdir = json_string_value(json_object_get(start, "workdir"))};
	struct problem p = PROBLEM_INIT;
	int r = 0;

	if (script)
		r = agent_start(sb->channel, &c, deadline_after_ms(START_MS), &p);
	if (r < 0)
		log_warn("sandbox=%s its start command does not run: %s", sb->record.id, p.message);
}

static void say_progress(void *userdata, const char *text)
{
	log_info("sandbox=%s %s", ((struct sandbox *)userdata)->record.id, text);
}

/* What it runs on now, and what its next memory is then made with. */
static void note_machine(struct sandbox *sb, const struct guest *guest)
{
	LOCK_SCOPE(&sb->info);
	str_copy(sb->manifest.accel, sizeof(sb->manifest.accel), sb->host->accel);
	str_copy(sb->manifest.kernel_version, sizeof(sb->manifest.kernel_version),
		 guest->kernel_version);
}

/*
 * What the last template was built with: a wake is no time to fetch another kernel. Unless there is
 * none, or its agent is that of an older daemon; and if a newer cannot be had, that one will do.
 */
static int find_guest(struct sandbox *sb, struct problem *problem, struct guest *ret)
{
	struct host *host = sb->host;
	struct problem newer = PROBLEM_INIT;
	int last = guest_last(host->guest_cache, host->agent_program, ret), r;

	if (last == 0)
		return 0;
	r = guest_prepare(host->guest_cache, host->agent_program, say_progress, sb, &newer, ret);
	if (r < 0 && last > 0) {
		log_warn("sandbox=%s boots with an older agent: %s", sb->record.id, newer.message);
		return 0;
	}
	if (r < 0)
		problem_pass(problem, &newer);
	return error_trace(r);
}

int sandbox_boot(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings)
{
	_cleanup_free_ struct guest *guest = calloc(1, sizeof(*guest)); /* 12 KB of paths */
	uint64_t t0 = clock_now_ns(), found;
	int r = guest ? find_guest(sb, problem, guest) : -ENOMEM;

	if (r < 0)
		return error_trace(r);
	found = clock_now_ns() - t0;
	sb->booting = true;
	r = sandbox_bring_up(sb, guest, sb->manifest.memory_bytes, sb->manifest.cpus, NULL, problem,
			     timings);
	sb->booting = false;
	if (r < 0)
		return error_trace(r);
	timings->image_ns += found;
	timings->total_ns += found;
	note_machine(sb, guest);
	run_start_command(sb);
	return 0;
}

/* The disks of memory-<generation>, linked. */
static int link_disks(struct sandbox *sb, int to_dirfd, struct manifest *m, struct problem *problem)
{
	_cleanup_fd_ int memory = -1, from = -1, to = file_open_dir(to_dirfd, "disks");
	char name[32];
	int r = to < 0 ? to : 0;

	memory = file_open_dir(sb->dirfd, sandbox_memory_name(sb->record.generation, name));
	if (r == 0)
		r = memory < 0 ? memory : plain_dir_open(memory, "disks", problem, &from);
	for (uint32_t i = 0; r == 0 && i < sb->manifest.n_disks; i++) {
		m->disks[m->n_disks++] = sb->manifest.disks[i];
		r = plain_file_link(from, to, sb->manifest.disks[i].name);
	}
	if (r < 0)
		problem_errno(problem, r, "linking the disks of sandbox %s", sb->record.id);
	return r > 0 ? -EBADMSG : error_trace(r);
}

/* What it slept with, but for the memory, as its next memory. */
static int leave_memory_out(struct sandbox *sb, const char *final, struct manifest *m,
			    struct problem *problem)
{
	struct snapshot_tmp tmp;
	char id[ID_LEN + 1];
	int r = snapshot_begin(sb->host->store->root_fd, sb->host->store->root, problem, &tmp);

	if (r < 0)
		return error_trace(r);
	id_new(SANDBOX_MEMORY_PREFIX, id);
	sandbox_describe_save(sb, id, NULL, m);
	str_copy(m->accel, sizeof(m->accel), sb->host->accel);
	m->prepared = sb->manifest.prepared;
	r = link_disks(sb, tmp.dirfd, m, problem);
	if (r == 0)
		r = commit_disks(sb, &tmp, final, m, problem);
	snapshot_abort(&tmp, sb->host->store->root_fd);
	return error_trace(r);
}

/* It has booted: from here on what it slept with is not its memory any more. */
static int go_over(struct sandbox *sb, struct manifest *m, struct problem *problem)
{
	unsigned old = sb->record.generation;
	int r;

	sandbox_set_generation(sb, old + 1, m->image_id);
	r = sandbox_write_record(sb, true);
	if (r < 0) {
		problem_errno(problem, r, "recording that sandbox %s was booted", sb->record.id);
		sandbox_set_generation(sb, old, sb->manifest.image_id);
		sandbox_take_down(sb);
		sandbox_forget_disks(sb);
		return error_trace(r);
	}
	sandbox_set_manifest(sb, m);
	sandbox_forget_generation(sb, old);
	return 0;
}

int sandbox_boot_anew(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings)
{
	_cleanup_(manifest_deinit) struct manifest m = {0};
	char final[128];
	int r = check_disk(sb, problem);

	if (r < 0)
		return r;
	if (sb->record.disk_only)
		return sandbox_boot(sb, problem, timings);
	sandbox_next_memory(sb, final);
	r = leave_memory_out(sb, final, &m, problem);
	if (r == 0)
		r = sandbox_boot(sb, problem, timings);
	if (r == 0)
		r = go_over(sb, &m, problem);
	if (r < 0)
		(void)snapshot_delete(sb->host->store->root_fd, final, NULL); /* may not be there */
	return error_trace(r);
}
