/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bringup.c - from a directory on disk to a guest that answers
 *
 * The order matters: the pager must serve before the VMM loads anything, since loading touches
 * guest memory; and nobody gets the channel before the repair has succeeded, because until then a
 * fork has the random numbers, the clock and the name of its siblings.
 */
#include "sandbox/private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "net/address.h"
#include "sandbox/agent-client.h"
#include "sandbox/metrics.h"
#include "sandbox/trace.h"
#include "sys/pidfd.h"

#define SESSION_MS	   10000
#define DOOMED_SESSION_MS  300
#define KILL_MS		   10000
#define REPORT_MS	   1000
#define DEATH_WAIT_MS	   500 /* a socket hangs up before its process has ended */
#define BOOT_TRIES	   3

#define RECONNECT_TRY_MS   2000
#define RECONNECT_PAUSE_MS 500
#define RECONNECT_MS	   60000

/* What the pager said, in the words of the VMM. */
static enum vmm_register how_to_register(const struct pager_session *session)
{
	switch (session->reg) {
	case PAGER_REGISTER_MINOR:
		return VMM_REGISTER_MINOR;
	case PAGER_REGISTER_NONE:
		return VMM_REGISTER_NONE;
	default:
		return VMM_REGISTER_MISSING;
	}
}

static int start_vmm(struct sandbox *sb, const struct guest *boot,
		     const struct pager_session *session, uint64_t memory_bytes, uint32_t cpus,
		     struct problem *problem)
{
	_cleanup_free_ char *cmdline = NULL;
	_cleanup_(sandbox_disk_paths_deinit) struct sandbox_disk_paths paths = {0};
	struct sandbox_jail jail;
	struct vmm_config config = {
		.work_dir = sb->path,
		.preload = sb->host->preload,
		.pager_socket = session->socket_path,
		.memory_fd = sb->memory_fd,
		.reg = how_to_register(session),
		.memory_bytes = memory_bytes,
		.cpus = cpus,
		.mac = sb->manifest.network ? NET_GUEST_MAC : NULL,
		.netns_fd = sb->host->netns_fd,
		.accel = boot ? sb->host->accel : sb->manifest.accel,
	};
	TRACE("VMM start");
	int r = sandbox_make_disk(sb, problem);

	if (r == 0)
		r = sandbox_fill_disks(sb, &paths, &config, problem);
	if (r == 0)
		r = sandbox_enter_jail(sb, &jail, &config, problem);
	if (r < 0)
		return r;
	if (boot) {
		cmdline = guest_cmdline(sb->host->tsc_khz);
		if (!cmdline)
			return -ENOMEM;
		config.kernel = boot->kernel;
		config.initramfs = boot->initramfs;
		config.cmdline = cmdline;
	}
	r = vmm_start(&config, deadline_after_ms(sb->host->limits.start_ms), problem, &sb->vmm);
	if (r < 0) {
		problem_errno(problem, r, "starting the VMM of sandbox %s", sb->record.id);
		return error_trace(r);
	}
	/* So that the next daemon finds the process; nothing is lost if the host goes down. */
	pthread_mutex_lock(&sb->info);
	str_copy(sb->record.boot_id, sizeof(sb->record.boot_id), sb->host->boot_id);
	vmm_identity(sb->vmm, &sb->record.vm);
	pthread_mutex_unlock(&sb->info);
	return error_trace(sandbox_write_record(sb, false));
}

static int load_device(struct sandbox *sb, int memory_dirfd, struct problem *problem)
{
	_cleanup_fd_ int fd = -1;
	TRACE("load");
	int r = snapshot_open_device(memory_dirfd, &sb->manifest, sb->host->keys, problem, &fd);

	if (r != 0)
		return r > 0 ? -EBADMSG : error_trace(r);
	r = vmm_load(sb->vmm, fd, deadline_after_ms(sb->host->limits.load_ms), problem);
	if (r < 0) {
		problem_errno(problem, r, "loading the device state of sandbox %s", sb->record.id);
		if (strcmp(sb->manifest.vmm_version, sb->host->vmm_version))
			problem_hint(problem,
				     "the snapshot was taken with %s %s, this host runs %s %s",
				     sb->manifest.vmm, sb->manifest.vmm_version, "qemu",
				     sb->host->vmm_version);
	}
	return error_trace(r);
}

static void say_ended(struct sandbox *sb, struct problem *problem)
{
	char why[400];

	vmm_exit_reason(sb->vmm, why, sizeof(why));
	problem_set(problem, 500, "the VM of sandbox %s ended: %s", sb->record.id, why);
}

/* What the repair is told: a sandbox that is being made and has no memory yet, boots. */
static enum agent_kind kind_of(const struct sandbox *sb)
{
	if (sb->booting)
		return AGENT_BOOT;
	if (sb->record.state == SANDBOX_CREATING)
		return sb->manifest.id[0] ? AGENT_FORK : AGENT_BOOT;
	return sb->record.state == SANDBOX_WAKING ? AGENT_WAKE : AGENT_RESUME;
}

/* A VM that dies now takes the connection with it: then its end is the cause, not the hang-up. */
static int repair(struct sandbox *sb, struct channel *ch, struct problem *problem)
{
	json_t *network = sandbox_network_config(sb);
	const struct agent_identity identity = {.kind = kind_of(sb),
						.sandbox_id = sb->record.id,
						.template_id = sb->record.template_id,
						.token = sb->record.token,
						.envs = sb->record.envs,
						.defaults = sb->manifest.defaults,
						.network = network};
	struct problem local = PROBLEM_INIT;
	int r = agent_init(ch, &identity, sb->host->limits.repair_ms, &local);

	json_decref(network);
	if (r == -EPIPE && pidfd_wait(vmm_pidfd(sb->vmm), deadline_after_ms(DEATH_WAIT_MS)) == 0)
		say_ended(sb, problem);
	else if (r < 0 && problem && !problem_is_set(problem))
		*problem = local;
	return error_trace(r);
}

/* What the repair did, step by step: only asked for when somebody wants to read it. */
static void log_repair(const struct sandbox *sb, struct channel *ch, uint64_t begun_ns,
		       uint64_t ended_ns)
{
	json_t *steps, *step;
	size_t i;

	if (!log_wants(LOG_LEVEL_DEBUG) && !trace_now())
		return;
	steps = agent_last_repair(ch, deadline_after_ms(REPORT_MS));
	trace_steps(steps, begun_ns, ended_ns);
	json_array_foreach (steps, i, step) {
		_cleanup_free_ char *text = json_dumps(step, JSON_COMPACT);

		log_debug("sandbox=%s repair %s", sb->record.id, text ? text : "?");
	}
	json_decref(steps);
}

/* Until the agent has answered once. A staged one has already. */
static int greet(struct sandbox *sb, int first_fd, unsigned answer_ms, struct problem *problem,
		 struct channel **ret)
{
	int r;

	if (sb->greeted) {
		*ret = take_ptr(sb->greeted);
		return 0;
	}
	r = channel_connect(vmm_agent_socket(sb->vmm), first_fd, vmm_pidfd(sb->vmm),
			    deadline_after_ms(answer_ms), ret);
	if (r == -ECONNRESET) {
		say_ended(sb, problem);
	} else if (r == -ETIMEDOUT) {
		problem_set(problem, 504, "the guest of sandbox %s did not answer within %u ms",
			    sb->record.id, answer_ms);
	} else if (r < 0) {
		problem_errno(problem, r, "connecting to the agent of sandbox %s", sb->record.id);
	}
	return error_trace(r);
}

int sandbox_connect(struct sandbox *sb, int first_fd, unsigned answer_ms, struct problem *problem,
		    struct sandbox_timings *timings)
{
	_cleanup_(channel_freep) struct channel *ch = NULL;
	uint64_t t0 = clock_now_ns(), t1, t2;
	int r = greet(sb, first_fd, answer_ms, problem, &ch);

	if (r < 0)
		return error_trace(r);
	t1 = clock_now_ns();
	timings->answer_ns += t1 - t0;
	trace_add("answer", t0, t1);
	(void)op_step(sb, STEP_REPAIR); /* for those who look: it is no point of failure */
	r = repair(sb, ch, problem);
	if (r < 0)
		return error_trace(r);
	t2 = clock_now_ns();
	timings->repair_ns += t2 - t1;
	trace_add("repair", t1, t2);
	log_repair(sb, ch, t1, t2);
	pthread_mutex_lock(&sb->info);
	sb->channel = take_ptr(ch);
	pthread_mutex_unlock(&sb->info);
	return 0;
}

/* Return: true when there is nothing (more) to be done */
static bool try_to_reconnect(struct sandbox *sb)
{
	struct problem ignored = PROBLEM_INIT;
	struct sandbox_timings t = {0};
	bool done, again = false;

	if (!op_wait(sb))
		return true;
	done = sb->record.state != SANDBOX_RUNNING || (sb->channel && channel_is_open(sb->channel));
	if (!done) {
		op_begin(sb, OP_RECONNECT);
		channel_close(sandbox_withdraw(sb));
		done = again = sandbox_connect(sb, -1, RECONNECT_TRY_MS, &ignored, &t) == 0;
	}
	op_unlock(sb);
	if (!again)
		return done;
	log_info("sandbox=%s its guest answers again", sb->record.id);
	return true;
}

/* Between the tries the sandbox can be put to sleep or deleted like any other. */
static void reconnect_main(struct host *host, void *arg)
{
	struct sandbox *sb = arg;
	uint64_t deadline = deadline_after_ms(RECONNECT_MS);

	while (!atomic_load(&host->stopping) && !try_to_reconnect(sb)) {
		if (deadline_passed(deadline)) {
			log_warn("sandbox=%s its guest does not answer", sb->record.id);
			break;
		}
		clock_sleep_ms(RECONNECT_PAUSE_MS);
	}
	pthread_mutex_lock(&sb->info);
	sb->reconnecting = false;
	pthread_mutex_unlock(&sb->info);
	sandbox_unref(sb);
}

void sandbox_reconnect(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);
	if (sb->reconnecting || atomic_load(&sb->host->stopping))
		return;
	sb->reconnecting = host_run(sb->host, reconnect_main, sandbox_ref(sb)) == 0;
	if (!sb->reconnecting)
		sandbox_unref(sb); /* not the last one: the caller has another */
}

struct channel *sandbox_withdraw(struct sandbox *sb)
{
	struct channel *ch;

	pthread_mutex_lock(&sb->info);
	ch = take_ptr(sb->channel);
	pthread_mutex_unlock(&sb->info);
	if (ch)
		channel_cut(ch); /* whoever waits on a stream gets -EPIPE, and returns its lease */
	return ch;
}

void sandbox_take_down(struct sandbox *sb)
{
	/* who deletes it does not wait for a pager that stands still */
	const unsigned close_ms = atomic_load(&sb->doomed) ? DOOMED_SESSION_MS : SESSION_MS;
	bool lives = false;

	channel_close(sandbox_withdraw(sb));
	channel_close(take_ptr(sb->greeted));
	if (sb->vmm) {
		sandbox_refine_at_end(sb);
		host_learn_memory(sb);
		sandbox_keep_console(sb);
		lives = vmm_kill(sb->vmm, deadline_after_ms(KILL_MS)) < 0;
		if (lives)
			log_error("sandbox=%s VM pid=%d does not die", sb->record.id,
				  (int)vmm_pid(sb->vmm));
		sb->vmm = vmm_free(sb->vmm);
	}
	if (!lives) /* else its user stays its own */
		sandbox_leave_jail(sb);
	sandbox_network_stop(sb);
	sb->agent_fd = fd_close(sb->agent_fd);
	sb->memory_fd = fd_close(sb->memory_fd);
	if (atomic_load(&sb->pager_pid))
		(void)pager_client_close_session(sb->host->pager, sb->record.id,
						 deadline_after_ms(close_ms));
	/* the pager also notices by itself that the process is gone */
	atomic_store(&sb->pager_pid, 0);
	pthread_mutex_lock(&sb->info);
	sb->record.vm = (struct vmm_identity){0};
	pthread_mutex_unlock(&sb->info);
	admission_changed(sb->host->admission);
}

/* What the pager knows of a failure is closer to the cause than a guest that does not answer. */
void sandbox_ask_pager(struct sandbox *sb, struct problem *problem)
{
	const char *failure;
	json_t *stats;

	if (pager_client_session_stats(sb->host->pager, sb->record.id,
				       deadline_after_ms(SESSION_MS), &stats) != 0)
		return;
	failure = json_string_value(json_object_get(stats, "failure"));
	if (failure) {
		*problem = PROBLEM_INIT;
		problem_set(problem, 500, "sandbox %s: %.400s", sb->record.id, failure);
		problem_hint(problem, "`dorm snapshot verify` names every damaged file");
	}
	json_decref(stats);
}

/* A guest that does not answer often says why on its console. */
static void hint_console(struct sandbox *sb, struct problem *problem)
{
	char text[4096], *last;
	size_t n;

	if (!sb->vmm || vmm_console(sb->vmm, text, sizeof(text), deadline_after_ms(1000)) < 0)
		return;
	for (n = strlen(text); n && strchr("\r\n ", text[n - 1]); n--)
		text[n - 1] = 0;
	last = strrchr(text, '\n');
	last = last ? last + 1 : text;
	if (*last)
		problem_hint(problem, "the guest's console ends with: %.180s", last);
}

/*
 * The first half: the pager serves, the VM has its device state and is paused. A kernel that boots
 * runs already.
 */
static int stage(struct sandbox *sb, const struct guest *boot, uint64_t memory_bytes, uint32_t cpus,
		 const struct sandbox_memory_options *how, pid_t *ret_served_by,
		 struct problem *problem, struct sandbox_timings *t)
{
	_cleanup_fd_ int memory_dirfd = -1;
	struct pager_session session;
	uint64_t t0 = clock_now_ns(), t1;
	char memory[32];
	int r;

	if (!boot) {
		memory_dirfd = file_open_dir(sb->dirfd,
					     sandbox_memory_name(sb->record.generation, memory));
		if (memory_dirfd < 0) {
			problem_errno(problem, memory_dirfd, "memory of sandbox %s", sb->record.id);
			return memory_dirfd;
		}
	}
	r = op_step(sb, STEP_SESSION);
	if (r < 0)
		return r;
	r = sandbox_open_session(sb, memory_dirfd, memory_bytes, how, problem, &session);
	if (r < 0)
		return r;
	sb->memory_fd = session.memory_fd;
	*ret_served_by = atomic_load(&sb->pager_pid);
	t1 = clock_now_ns();
	trace_add("session", t0, t1);
	t->image_ns += t1 - t0;
	r = op_step(sb, STEP_START);
	if (r == 0)
		r = start_vmm(sb, boot, &session, memory_bytes, cpus, problem);
	t0 = clock_now_ns();
	t->vmm_ns += t0 - t1;
	if (r < 0 || boot)
		return r;
	/* The port was connected when the state was saved: it must be so again before it is loaded,
	 * or the guest has to deal with a hang-up and a new connection first. */
	sb->agent_fd = channel_dial(vmm_agent_socket(sb->vmm));
	r = op_step(sb, STEP_LOAD);
	if (r == 0)
		r = load_device(sb, memory_dirfd, problem);
	t->load_ns += clock_now_ns() - t0;
	return r;
}

/* The second half: it runs, answers, and is who it is to be. */
static int go(struct sandbox *sb, bool boots, struct problem *problem, struct sandbox_timings *t)
{
	uint64_t t0 = clock_now_ns();
	int r = sandbox_network_start(sb, problem); /* ready before the guest is */

	t->vmm_ns += clock_now_ns() - t0;
	if (r == 0 && !boots)
		r = op_step(sb, STEP_RESUME);
	t0 = clock_now_ns();
	if (r == 0 && !boots)
		r = vmm_resume(sb->vmm, deadline_after_ms(sb->host->limits.pause_ms), problem);
	t->answer_ns += clock_now_ns() - t0;
	trace_add("resume", t0, clock_now_ns());
	if (r == 0)
		r = op_step(sb, STEP_ANSWER);
	if (r == 0)
		r = sandbox_connect(sb, take_fd(sb->agent_fd),
				    boots ? sb->host->limits.boot_ms : sb->host->limits.answer_ms,
				    problem, t);
	return r < 0 ? r : sandbox_network_await(sb, problem);
}

static int try_once(struct sandbox *sb, const struct guest *boot, uint64_t memory_bytes,
		    uint32_t cpus, const struct sandbox_memory_options *how, pid_t *ret_served_by,
		    struct problem *problem, struct sandbox_timings *t)
{
	int r = stage(sb, boot, memory_bytes, cpus, how, ret_served_by, problem, t);

	return r < 0 ? r : go(sb, boot != NULL, problem, t);
}

/* Did the pager die under our hands? Then the next one knows nothing of this VM, or has ended it.
 */
static bool lost_its_pager(struct sandbox *sb, pid_t served_by)
{
	pid_t now;

	return served_by && host_pager(sb->host, NULL, &now) == 0 && now != served_by;
}

static int check_accel(struct sandbox *sb, struct problem *problem)
{
	if (!strcmp(sb->manifest.accel, "tcg") || !strcmp(sb->manifest.accel, sb->host->accel))
		return 0;
	problem_set(problem, 409, "the snapshot was taken with %s, this host runs %s",
		    sb->manifest.accel, sb->host->accel);
	problem_hint(problem, "run it on a host with usable KVM; see `dorm doctor`");
	return -ENOTSUP;
}

static void add_up(struct sandbox_timings *t)
{
	t->total_ns = t->image_ns + t->vmm_ns + t->load_ns + t->answer_ns + t->repair_ns;
}

int sandbox_bring_up(struct sandbox *sb, const struct guest *boot, uint64_t memory_bytes,
		     uint32_t cpus, const struct sandbox_memory_options *how,
		     struct problem *problem, struct sandbox_timings *timings)
{
	static const struct sandbox_memory_options as_it_comes;
	struct problem local = PROBLEM_INIT;
	int r = boot ? 0 : check_accel(sb, problem), tries = boot ? BOOT_TRIES : 1;
	bool again = true; /* with another pager, once */
	TRACE("bring up");

	if (r < 0)
		return r;
	/* Some boots under emulation hang in the kernel's delay calibration: try those again. */
	while (tries-- > 0) {
		pid_t served_by = 0;

		local = PROBLEM_INIT;
		*timings = (struct sandbox_timings){0};
		r = try_once(sb, boot, memory_bytes, cpus, how ? how : &as_it_comes, &served_by,
			     &local, timings);
		if (r == 0)
			r = monitor_watch(sb->host, sb);
		if (r == 0) {
			add_up(timings);
			metrics_bringup(timings);
			return 0;
		}
		hint_console(sb, &local);
		sandbox_ask_pager(sb, &local);
		if (!served_by) /* else what it was at first: another may have adopted the session
				 */
			served_by = atomic_load(&sb->pager_pid);
		sandbox_take_down(sb);
		if (again && lost_its_pager(sb, served_by)) {
			log_warn("sandbox=%s its pager died while it was brought up: once more",
				 sb->record.id);
			again = false;
			tries++;
		} else if (r != -ETIMEDOUT || op_is_interrupted(sb)) {
			break;
		}
	}
	sandbox_forget_disks(sb);
	problem_errno(&local, r, "starting sandbox %s", sb->record.id);
	if (problem && !problem_is_set(problem))
		*problem = local;
	return error_trace(r);
}

/*
 * Under emulation most of a guest's first answers is translating code that has never run. They say
 * and do nothing in which copies of a template could differ, the workload is frozen, and random
 * numbers, clock and name are repaired after them as always: so those too can be had ahead.
 */
static int rehearse(struct sandbox *sb, struct problem *problem)
{
	const struct host_limits *limits = &sb->host->limits;
	const struct agent_identity identity = {.kind = AGENT_FORK,
						.sandbox_id = sb->record.id,
						.template_id = sb->record.template_id,
						.defaults = sb->manifest.defaults};
	int r = vmm_resume(sb->vmm, deadline_after_ms(limits->pause_ms), problem);

	if (r == 0)
		r = greet(sb, take_fd(sb->agent_fd), limits->answer_ms, problem, &sb->greeted);
	if (r == 0)
		r = agent_rehearse(sb->greeted, &identity, limits->repair_ms);
	if (r == 0)
		r = vmm_pause(sb->vmm, deadline_after_ms(limits->pause_ms), problem);
	return error_trace(r);
}

int sandbox_stage(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings)
{
	static const struct sandbox_memory_options as_it_comes = {.no_record = true};
	int r = check_accel(sb, problem);
	pid_t served_by;

	*timings = (struct sandbox_timings){0};
	if (r == 0)
		r = stage(sb, NULL, sb->manifest.memory_bytes, sb->manifest.cpus, &as_it_comes,
			  &served_by, problem, timings);
	if (r == 0)
		r = rehearse(sb, problem);
	if (r == 0)
		r = monitor_watch(sb->host, sb);
	add_up(timings);
	return error_trace(r);
}

int sandbox_go(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings)
{
	int r;

	*timings = (struct sandbox_timings){.warm = true};
	r = go(sb, false, problem, timings);
	add_up(timings);
	if (r == 0)
		metrics_bringup(timings);
	return error_trace(r);
}
