/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * private.h - the insides of this folder: struct host, struct sandbox, who may do what
 *
 * Lock order: sandbox.op, then sandbox.disk, then the lock of admission.c, then host.quota_lock, then
 * host.lock, then sandbox.info; host.pager_lock last of all, and the events' own lock, which may be
 * taken with any of them held. Nothing is taken with the lock of pool.c held.
 *
 *   sandbox.op     held by the one operation under way on a sandbox, for as long as it takes. Its
 *                  holder alone changes vmm, memory_fd, manifest and makes transitions.
 *   sandbox.info   held for moments: guards record, channel. Readers take only this one.
 *   sandbox.disk   held while the record is written, so that the last one on disk is the newest.
 *   host.lock      held for moments: guards the table and the builds.
 *
 * A sandbox is referenced by the table and by everyone who looked it up; it is freed with the last
 * reference. `gone` says that it left the table, which whoever waited for `op` must check. `doomed`
 * says that it is to be deleted: nobody finds it any more, the operation under way gives up, and
 * whoever gets op next removes it.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "base/fd.h"
#include "base/id.h"
#include "channel/client.h"
#include "guest/guest.h"
#include "image/snapshot.h"
#include "image/store-index.h"
#include "image/store.h"
#include "net/client.h"
#include "pager/client.h"
#include "sandbox/admission.h"
#include "sandbox/build.h"
#include "sandbox/events.h"
#include "sandbox/host.h"
#include "sandbox/op.h"
#include "sandbox/jail.h"
#include "sandbox/pager-process.h"
#include "sandbox/quota.h"
#include "sandbox/record.h"
#include "sandbox/sandbox.h"
#include "sandbox/snapshots.h"
#include "sandbox/usage.h"
#include "vmm/vmm.h"

#define HOST_MAX_BUILDS 32
#define OP_WAIT_MS	60000
#define OP_RETRY_S	5 /* what a client is told who waited that long */
#define HOST_MAX_BUSY	8

/* First letter of the ids of what only sandboxes have: their memories and fork points. Snapshots
 * have 's'. */
#define SANDBOX_MEMORY_PREFIX 'm'

/* Requests that wait for it to run (resume.c). */
struct resume {
	pthread_cond_t changed;	/* its state, or that a wake failed */
	unsigned n_waiting;
	bool under_way;		/* a worker wakes it */
	unsigned n_failed;	/* how often that has failed, */
	struct problem problem; /* why the last time, */
	uint64_t not_before_ns; /* and when it may be tried again */
};

struct sandbox {
	struct host *host;
	atomic_uint refs;
	pthread_mutex_t op;
	pthread_mutex_t info;
	pthread_mutex_t disk; /* held while the record is written */

	struct record record; /* info to read; op and info to change */
	bool gone;	      /* info */
	atomic_bool doomed;   /* only ever set, by sandbox_doom() */
	atomic_int interrupt; /* enum op_interrupt */
	struct op doing;      /* info to read; op and info to change */
	bool pooled;	      /* op and info to change: kept ready by pool.c, nobody's yet */
	bool charged;	      /* info; op to change; see quota.h */

	int dirfd;  /* sandboxes/<id>; constant */
	char *path; /* the same, absolute; constant */

	struct vmm *vmm;	  /* op; NULL when no process */
	uint32_t uid;		  /* op; taken of jails.uids, for vmm; 0: none. The record's may be
				     of a VM before it: of a sleeper it is not the present one */
	struct net_process net;	  /* op; pid 0: none */
	uint64_t net_started_ns;  /* op; the last try */
	unsigned net_deaths;	  /* op; one soon after the other */
	int memory_fd;		  /* op; the image's resident memory, -1 without a VM */
	int agent_fd;		  /* op; to the agent's port of a VM that has not run yet, or -1 */
	struct channel *greeted;  /* op; to a guest that answered and has not been repaired, or NULL
				   */
	atomic_int pager_pid;	  /* which pager serves it; 0: none does */
	bool booting;		  /* op; it is being booted, not restored */
	struct manifest manifest; /* info to read; op and info to change; of memory-<generation>,
				     with an empty id before the first save */

	struct snapshot_disk known_disks[SNAPSHOT_MAX_DISKS]; /* op; of its latest snapshot */
	unsigned n_known_disks;				      /* op */

	struct channel *channel; /* info; NULL unless running; each lease holds a reference too */
	bool stalled;		 /* info; its VM stopped because the host's disk is full */
	struct usage usage;	 /* info */
	struct resume resume;	 /* info */
	bool expiring;		 /* info; a worker looks after its time being up */
	bool reconnecting;	 /* info; a worker tries to get a channel */
	unsigned refine_tries;	 /* op and info to change; how often to ask for its working set */
	uint64_t refine_ns;	 /* info; when next, real time; 0: not, or a worker does now */

	struct sandbox *compact_next; /* host.lock; of the queue, which has a reference */
	bool compact_queued;	      /* host.lock */
	atomic_bool compact_cancel;   /* changed with info held: it is not asleep any more */
};

/* A snapshot that is being compacted. */
struct busy_snapshot {
	char id[ID_LEN + 1]; /* "": free */
	atomic_bool cancel;  /* somebody wants to delete it */
};

/* An image whose working set was refined. */
struct refined {
	char image_id[IMAGE_ID_LEN + 1];
	uint64_t when_ns;
};
#define HOST_MAX_REFINED 32

struct build;

struct host {
	char *root, *run_dir, *guest_cache;
	char *pager_program, *preload, *agent_program, *net_program, *jail_program; /* constant */
	char accel[8];
	char vmm_version[64];
	uint64_t tsc_khz;
	bool offers_network;
	char boot_id[37]; /* of this run of the host; "": not known. Constant */
	int netns_fd;	  /* an empty network namespace, for VMs; -1: they have ours. Constant */
	struct host_limits limits;
	struct jails jails; /* constant, but for its users */

	struct store *store;
	const struct keyring *keys; /* NULL: snapshots are not sealed */
	struct store_index *index;  /* NULL: listings read the directories */
	struct image_writer_options sleep_options, template_options;
	struct compact_policy compact;
	enum disk_reflink reflink;
	enum pager_mode pager_mode;
	struct pager_process_options pager_options;

	struct admission *admission; /* locks for itself; see its head */
	struct pool *pool;	     /* locks for itself */

	pthread_mutex_t lock;
	struct sandbox **sandboxes; /* lock; creation order */
	size_t n_sandboxes, cap_sandboxes;
	struct build *builds[HOST_MAX_BUILDS]; /* lock; ring */
	unsigned next_build;
	struct sandbox *compact_first, *compact_last; /* lock; who waits to be compacted */
	bool compacting;			      /* lock; a worker does */
	struct busy_snapshot busy[HOST_MAX_BUSY];     /* lock; see snapshots_hold() */
	struct refined refined[HOST_MAX_REFINED];     /* lock; working-set.c */

	pthread_mutex_t quota_lock;
	quota_lookup quota_lookup; /* quota_lock; NULL: nobody has limits */
	void *quota_userdata;

	pthread_mutex_t pager_lock;
	struct pager_process pager_process; /* pager_lock */
	atomic_uint pager_deaths;
	struct pager_client *pager;

	pthread_t monitor;
	int epoll_fd, kick_fd, clock_fd;
	pthread_mutex_t watch_lock; /* innermost */
	struct watch *watches;	    /* watch_lock; all that have not been handled */
	uint64_t space_ns;	    /* the monitor's; when to look at the store's free space */
	atomic_bool space_checking; /* a worker does */
	atomic_uint n_stalled;	    /* sandboxes whose VM stands still for want of space */
	struct events *events;	    /* constant */
	atomic_bool stopping;
	atomic_int workers; /* threads that still use the host */

	atomic_bool draining; /* no new work is let in; drain.c */
	atomic_uint n_work;   /* creates, wakes, forks, builds under way */
};

/* ---- table.c ----------------------------------------------------------------------------------
 */

/** sandbox_new() - allocate, make sandboxes/<id>; not in the table yet */
int sandbox_new(struct host *host, const struct record *record, bool make_dir,
		struct problem *problem, struct sandbox **ret);
struct sandbox *sandbox_ref(struct sandbox *sb);
struct sandbox *sandbox_unref(struct sandbox *sb);
DEFINE_CLEANUP(struct sandbox *, sandbox_unref)

/** sandbox_find() - one reference, or NULL with a 404 in @problem */
struct sandbox *sandbox_find(struct host *host, const char *id, struct problem *problem);

/** sandbox_insert() / sandbox_remove() - the table's own reference */
int sandbox_insert(struct sandbox *sb);
void sandbox_remove(struct sandbox *sb);

/** sandbox_move_to_end() - of the table, which is in the order of creation: it is somebody's now */
void sandbox_move_to_end(struct sandbox *sb);

/** sandbox_set_state() - op held; asserts the table; writes the record */
int sandbox_set_state(struct sandbox *sb, enum sandbox_state state, bool durable);

/** sandbox_write_record() - what is known of it to disk. @durable: also after a power cut */
int sandbox_write_record(struct sandbox *sb, bool durable);

/** sandbox_set_manifest() - op held: @m moves in */
void sandbox_set_manifest(struct sandbox *sb, struct manifest *m);

/** sandbox_fail() - op held: end the VM, record why, log it once */
void sandbox_fail(struct sandbox *sb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** sandbox_fail_asking_pager() - the same for a VM that ended by itself: the pager may know why */
void sandbox_fail_asking_pager(struct sandbox *sb, const char *why);

/** sandbox_expire() - its time was up a moment ago: if it still is, put it to sleep or delete it */
int sandbox_expire(struct sandbox *sb, struct problem *problem);

/** sandbox_discard() - op held: end the VM and remove every trace on disk */
void sandbox_discard(struct sandbox *sb);

/** sandbox_doom() - any thread, without op: it is to go. From here on nobody finds it, its record
 *  says "deleting", and the operation under way ends soon. It is removed when this returns, or soon
 *  after. Return: false when somebody else has done so */
bool sandbox_doom(struct sandbox *sb);

/** sandbox_try_state() - sandbox_set_state() for a transition that only counts if it is recorded:
 * if it cannot be, the state is the one before again. Return: 0; negative errno */
int sandbox_try_state(struct sandbox *sb, enum sandbox_state state, bool durable);

/** sandbox_memory_name() - "memory-3"; @buf holds 32 bytes */
char *sandbox_memory_name(unsigned generation, char buf[32]);

/** sandbox_set_generation() - op held: which memory is its own, and what is in it; the record is to
 *  be written by the caller */
void sandbox_set_generation(struct sandbox *sb, unsigned generation, const char *image_id);

/** sandbox_read_memory() - the manifest of memory-<generation>. Return: as snapshot_open() */
int sandbox_read_memory(struct sandbox *sb, unsigned generation, struct problem *problem,
			struct manifest *ret);

/** sandbox_is_its_memory() - is that the content that its record names? If not, @why says so */
bool sandbox_is_its_memory(const struct sandbox *sb, const struct manifest *m, char why[256]);

/** sandbox_forget_generation() - remove memory-<generation>; failing is only logged */
void sandbox_forget_generation(struct sandbox *sb, unsigned generation);

/** sandbox_op_lock() - take the op lock: NULL with a 503 when it stays busy, with a 404 when the
 *  sandbox is gone. Consumes @sb */
struct sandbox *sandbox_op_lock(struct sandbox *sb, struct problem *problem);

/** sandbox_op_begin() - look a sandbox up and take its op lock; for `_cleanup_op_` */
struct sandbox *sandbox_op_begin(struct host *host, const char *id, struct problem *problem);

static inline void sandbox_op_endp(struct sandbox **sb)
{
	if (*sb) {
		op_unlock(*sb);
		sandbox_unref(*sb);
	}
}
#define _cleanup_op_ _cleanup_(sandbox_op_endp)

/** sandbox_event() - something happened to it, as events_add_owned(); @details: stolen, may be
 * NULL. Any lock may be held */
void sandbox_event(struct sandbox *sb, const char *type, json_t *details);

/** sandbox_settle() - sandbox_set_state() for a transition that has happened: if its record cannot
 * be written, say so, and go on */
void sandbox_settle(struct sandbox *sb, enum sandbox_state state, bool durable);

/** sandbox_wrong_state() - a 409: in its present state it cannot be "@verb". Return: -EBUSY */
int sandbox_wrong_state(struct sandbox *sb, const char *verb, struct problem *problem);

/** sandbox_end_after() - the real time @timeout_s from now; 0 (never) for 0 */
uint64_t sandbox_end_after(uint64_t timeout_s);

/* ---- sandbox.c --------------------------------------------------------------------------------
 */

/** sandbox_create_from() - a sandbox over a clone of the memory directory @from: nothing of it
 *  remains if this fails */
int sandbox_create_from(struct host *host, int from, const struct record *like,
			const struct sandbox_memory_options *memory, struct problem *problem,
			char ret_id[ID_LEN + 1], struct sandbox_timings *timings);

/** sandbox_create_warm() - the same with a VM that is kept ready for @like's template, of which @from
 *  is the directory. Return: 1: there it is; 0: there was none that could be used */
int sandbox_create_warm(struct host *host, int from, const struct record *like,
			const struct sandbox_memory_options *memory, char ret_id[ID_LEN + 1],
			struct sandbox_timings *timings);

/** sandbox_come_to_life() - op held: the guest answers and is repaired; now that is made the truth.
 *  If it cannot be, the VM has been ended */
int sandbox_come_to_life(struct sandbox *sb, bool durable, struct problem *problem);

/** sandbox_clone_memory() - op held, new: link the memory directory @from as its memory-0 */
int sandbox_clone_memory(struct sandbox *sb, int from, struct problem *problem);

/** sandbox_fall_asleep() - op held, pausing, @m is at memory-<generation + 1>: record that, end the
 *  VM. @m: moves in. Return: 0; negative errno, @m is gone, and the VM is as it was */
int sandbox_fall_asleep(struct sandbox *sb, struct manifest *m, struct problem *problem);

/** sandbox_wake_locked() - op held: sandbox_wake() */
int sandbox_wake_locked(struct sandbox *sb, uint64_t timeout_s,
			const struct sandbox_memory_options *memory, struct problem *problem,
			struct sandbox_timings *ret_timings);

/* ---- reboot.c ---------------------------------------------------------------------------------
 */

/** sandbox_is_disk_only() - info held: does memory-<generation> hold disks only? */
static inline bool sandbox_is_disk_only(const struct manifest *m)
{
	return m->id[0] && !m->device_bytes;
}

/** sandbox_has_disk() - op or info held: has it a disk that is written? */
bool sandbox_has_disk(const struct sandbox *sb);

/** sandbox_sleep_disk_locked() - op held: sandbox_sleep_disk() */
int sandbox_sleep_disk_locked(struct sandbox *sb, struct problem *problem,
			      struct sandbox_save_timings *timings);

/** sandbox_boot() - op held, no VM: sandbox_bring_up() by a boot from the disks of
 *  memory-<generation>, and its template's start command. On failure no process is left */
int sandbox_boot(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings);

/** sandbox_boot_anew() - op held, waking: the same instead of a wake. What it slept with is dropped
 *  when it has booted; on failure it is as it was */
int sandbox_boot_anew(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings);

/** start_script() - a shell script that runs a template's start command, its output in
 *  START_LOG, its exit status, should it end, in START_STATUS; fresh memory */
char *start_script(const char *command);
#define START_LOG    "/tmp/start-command.log"
#define START_STATUS "/tmp/start-command.status"

/* ---- bringup.c --------------------------------------------------------------------------------
 */

/** sandbox_bring_up() - op held: session, VMM, device state, resume, agent, repair.
 *  @boot: what to boot from, or NULL to restore memory-<generation>. @memory: NULL: all zero; its
 *  wait is not looked at, but decides what is loaded. On failure no process is left */
int sandbox_bring_up(struct sandbox *sb, const struct guest *boot, uint64_t memory_bytes,
		     uint32_t cpus, const struct sandbox_memory_options *memory,
		     struct problem *problem, struct sandbox_timings *timings);

/** sandbox_stage() - op held, being created: the first half of sandbox_bring_up(), up to a VM that is
 *  loaded, has answered once and is paused. What a failure leaves goes with sandbox_discard() */
int sandbox_stage(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings);

/** sandbox_go() - op held, staged: the second half. A failure leaves it to sandbox_discard() */
int sandbox_go(struct sandbox *sb, struct problem *problem, struct sandbox_timings *timings);

/** sandbox_connect() - op held, VM runs: open the channel, repair, publish the channel.
 *  @first_fd: from channel_dial(), consumed; or -1 */
int sandbox_connect(struct sandbox *sb, int first_fd, unsigned answer_ms, struct problem *problem,
		    struct sandbox_timings *timings);

/** sandbox_withdraw() - op held: take the channel away from everyone. Return: it, cut but still
 *  connected to the VM, for channel_close(); NULL when there was none */
struct channel *sandbox_withdraw(struct sandbox *sb);

/** sandbox_reconnect() - it runs but there is no channel, or a broken one: try again in the
 *  background, for a while. Any thread, any number of times; host_free() waits for it */
void sandbox_reconnect(struct sandbox *sb);

/** sandbox_ask_pager() - op held: if the pager gave up on the session, why goes into @problem */
void sandbox_ask_pager(struct sandbox *sb, struct problem *problem);

/** sandbox_take_down() - op held: end the VM and its session with the pager; fine without any */
void sandbox_take_down(struct sandbox *sb);

/* ---- admit.c ----------------------------------------------------------------------------------
 */

int host_admission_new(struct host *host, const struct host_config *config);

struct admit_ask {
	const char *verb;	 /* "another sandbox", "a fork": for people */
	const char *template_id; /* of which */
	uint64_t least;		 /* bytes that it takes at least, as far as the caller knows */
	bool (*abandoned)(void *userdata); /* asked now and then while it waits; may be NULL */
	void *userdata;
};

/**
 * host_admit() - wait until there is room for one more, and a turn. No lock held
 * Return: as admission_enter(); then host_admitted() is owed
 */
int host_admit(struct host *host, const struct admit_ask *ask, struct problem *problem,
	       struct admission_ticket *ret);

/** host_admitted() - it is up; @id NULL: it came to nothing. Fine when nothing is owed */
void host_admitted(struct host *host, struct admission_ticket *t, const char *id);

/** host_learn_memory() - op held, its VM is about to be ended: what it held tells about others */
void host_learn_memory(struct sandbox *sb);

/**
 * sandbox_admit_wake() - host_admit() for a sandbox that sleeps; one that runs needs nothing
 * op not held: so it can be deleted while its client waits. Return: as host_admit(); -ENOENT
 */
int sandbox_admit_wake(struct host *host, const char *id, struct problem *problem,
		       struct admission_ticket *ticket);

/* For the daemon's figures. */
int admission_metrics(struct host *host, struct buf *b);
/** admission_check() - can anybody wait? Return: 0; -EAGAIN with a 503 */
int admission_check(struct host *host, struct problem *problem);

/* ---- disks.c ----------------------------------------------------------------------------------
 */

/** sandbox_make_disk() - op held, no VM: what the next one writes into, over the disks of
 *  memory-<generation>. What an earlier one wrote there goes. Nothing to do without such a disk */
int sandbox_make_disk(struct sandbox *sb, struct problem *problem);

/** sandbox_forget_disks() - op held, no VM: what it wrote last is in its memory, or not wanted */
void sandbox_forget_disks(struct sandbox *sb);

/* Where the paths in a vmm_config are kept. */
struct sandbox_disk_paths {
	char *text[VMM_MAX_DISKS + SNAPSHOT_MAX_DISKS];
	size_t n;
	struct vmm_layer layers[SNAPSHOT_MAX_DISKS];
};
void sandbox_disk_paths_deinit(struct sandbox_disk_paths *p);

/** sandbox_fill_disks() - op held, after sandbox_make_disk(): its disks in @config. @paths: zeroed;
 *  to be released once the VM has started */
int sandbox_fill_disks(struct sandbox *sb, struct sandbox_disk_paths *paths,
		       struct vmm_config *config, struct problem *problem);

/** sandbox_disk_bytes() - op held, after sandbox_make_disk(): how much its VM can write; 0: nothing */
uint64_t sandbox_disk_bytes(struct sandbox *sb);

/** sandbox_own_disks() - op held, after sandbox_make_disk(): what its VM writes belongs to
 *  record.uid; nothing to do for 0 */
int sandbox_own_disks(struct sandbox *sb, struct problem *problem);

/** sandbox_save_disks() - op held, VM paused: its disks as they are now into disks/ of the snapshot
 *  directory @dirfd and into @m. The VM writes into a new file from here on */
int sandbox_save_disks(struct sandbox *sb, int dirfd, struct manifest *m, struct problem *problem);

/** sandbox_remember_disks() - op held: digests of layers that @m has and a later one will too */
void sandbox_remember_disks(struct sandbox *sb, const struct manifest *m);

/** sandbox_describe_disk() - op held: size, own and shared bytes, layers; null without a disk */
json_t *sandbox_describe_disk(struct sandbox *sb);

/** sandbox_adopt_disk() - op held, its VM was found again: which file does it write? */
int sandbox_adopt_disk(struct sandbox *sb, struct problem *problem);

/* ---- console.c --------------------------------------------------------------------------------
 */

/** sandbox_keep_console() - op held, its VM is about to be ended, or has ended: keep what its guest
 *  wrote on its console */
void sandbox_keep_console(struct sandbox *sb);

/* ---- disk-full.c ------------------------------------------------------------------------------
 */

/** sandbox_is_stalled() - op held: does its VM stand still because the host's disk is full? Then
 *  says so, once, and disk_full_check() lets it go on when there is space */
bool sandbox_is_stalled(struct sandbox *sb);

/** sandbox_refuse_stalled() - op held: a 507 for what cannot be done with a VM that stands still.
 *  Return: 0; -ENOSPC */
int sandbox_refuse_stalled(struct sandbox *sb, const char *verb, struct problem *problem);

/** disk_full_check() - the monitor's thread: is it time to look? Return: when next, real time; 0
 *  if nobody could be concerned. @any: some running sandbox has a disk */
uint64_t disk_full_check(struct host *host, uint64_t now_ns, bool any);

/* ---- inspect.c --------------------------------------------------------------------------------
 */

/** sandbox_is_pooled() - is it kept ready, and nobody's yet? Then clients do not see it */
bool sandbox_is_pooled(struct sandbox *sb);

/** host_each_sandbox() - every one in the table, those kept ready too, newest first; @visit is
 *  called without locks */
int host_each_sandbox(struct host *host, void (*visit)(void *userdata, struct sandbox *sb),
		      void *userdata);

/* ---- save.c -----------------------------------------------------------------------------------
 */

/** sandbox_begin_sleep() - op held, it runs: what both kinds of sleep begin with. It is pausing then */
int sandbox_begin_sleep(struct sandbox *sb, struct problem *problem);

/** sandbox_next_memory() - op held: the path of its next memory, below the root */
void sandbox_next_memory(const struct sandbox *sb, char ret[128]);

/** sandbox_save() - op held, VM runs: prepare, pause, write a snapshot directory at @final.
 *  On success the VM is paused; on failure it runs on, connected and repaired (or is failed).
 *  @id, @name: of the snapshot
 *  @options: of the host: how its layer is written */
int sandbox_save(struct sandbox *sb, const char *final, const char *id, const char *name,
		 const struct image_writer_options *options, struct problem *problem,
		 struct sandbox_save_timings *timings, struct manifest *ret_manifest);

/** sandbox_describe_save() - op held: @m of a memory that is saved now; @id, @name: of the snapshot
 */
void sandbox_describe_save(struct sandbox *sb, const char *id, const char *name,
			   struct manifest *m);

/** sandbox_read_saved() - the manifest at @final as it is on disk, in the place of @m */
int sandbox_read_saved(struct sandbox *sb, const char *final, struct manifest *m,
		       struct problem *problem);

/** sandbox_run_on() - op held: resume a VM that sandbox_save() paused; failing fails the sandbox */
int sandbox_run_on(struct sandbox *sb, struct problem *problem);

/* ---- compaction.c -----------------------------------------------------------------------------
 */

/** sandbox_compact_later() - it has just fallen asleep: look in the background whether its layers
 *  are worth merging, and do so unless it is woken meanwhile. Any thread */
void sandbox_compact_later(struct sandbox *sb);

/** compactions_free() - forget who waits; no worker is left */
void compactions_free(struct host *host);

/* ---- network.c --------------------------------------------------------------------------------
 */

/** sandbox_network_start() - op held, VM runs: its dorm-net, if it is to have one */
int sandbox_network_start(struct sandbox *sb, struct problem *problem);
/** sandbox_network_await() - op held: until that works; a failure leaves none */
int sandbox_network_await(struct sandbox *sb, struct problem *problem);
/** sandbox_network_stop() - op held: end it; fine without */
void sandbox_network_stop(struct sandbox *sb);
/** sandbox_network_adopt() - op held, VM adopted: find its dorm-net, or start one; failing is only
 *  logged */
void sandbox_network_adopt(struct sandbox *sb);
/** sandbox_network_died() - its dorm-net @pid is gone: start another, if that was not our doing.
 *  Returns when there is one, or no need any more */
void sandbox_network_died(struct sandbox *sb, pid_t pid);
/** sandbox_network_config() - what the guest is told of it: new reference; NULL: it has none */
json_t *sandbox_network_config(const struct sandbox *sb);

/* ---- monitor.c --------------------------------------------------------------------------------
 */

/** monitor_open() - from here on there is something to watch with */
int monitor_open(struct host *host);
/** monitor_start() - begin to look; not before recovery is through */
int monitor_start(struct host *host);
void monitor_stop(struct host *host);
/** monitor_watch() - tell when @sb's VM dies */
int monitor_watch(struct host *host, struct sandbox *sb);
/** monitor_watch_network() - tell when its dorm-net dies */
int monitor_watch_network(struct host *host, struct sandbox *sb);
/** monitor_watch_pager() - after the pager was found or started; pager_lock held */
int monitor_watch_pager(struct host *host);
/** monitor_kick() - deadlines have changed */
void monitor_kick(struct host *host);

/** host_run() - @fn on a thread of its own; host_free() waits for it */
int host_run(struct host *host, void (*fn)(struct host *host, void *arg), void *arg);

/* ---- host.c -----------------------------------------------------------------------------------
 */

/** host_pager() - make sure there is a pager. @ret_pid: which */
int host_pager(struct host *host, struct problem *problem, pid_t *ret_pid);

/** host_find_pager() - the same, but only if one runs already: -ETIMEDOUT when it does not answer,
 *  another negative errno when there is none */
int host_find_pager(struct host *host, pid_t *ret_pid);

/** host_pager_takes_back() - does the pager that runs now go on with the sessions of a dead one? */
bool host_pager_takes_back(struct host *host);

/** host_lock_pager() - pager_lock, within a deadline. Return: 0; -ETIMEDOUT, @problem says */
int host_lock_pager(struct host *host, struct problem *problem);

/* ---- memory.c ---------------------------------------------------------------------------------
 */

/** sandbox_open_session() - op held: have the pager serve it. @image_dirfd: -1 for a boot.
 *  Everything is loaded when this returns, if the VM is to do without userfaultfd */
int sandbox_open_session(struct sandbox *sb, int image_dirfd, uint64_t memory_bytes,
			 const struct sandbox_memory_options *memory, struct problem *problem,
			 struct pager_session *ret);

/** sandbox_await_pager() - op held: a VM whose pager is dead answers nobody, so what is asked of
 * the VM is asked when there is one again, and has its deadline to itself */
void sandbox_await_pager(struct sandbox *sb);

/** sandbox_await_memory() - no lock held: until as much is there as @wait says, or it cannot come.
 *  A sandbox that runs is not lost for that: then it gets its memory as it touches it */
void sandbox_await_memory(struct host *host, const char *id, enum sandbox_wait wait);

/* ---- working-set.c ----------------------------------------------------------------------------
 */

/**
 * template_record_working_set() - restore a new template on trial, and keep what that needed
 * Return: 0; -EOPNOTSUPP when the pager records nothing; negative errno
 */
int template_record_working_set(struct host *host, const char *snapshot_id, const char *name,
				struct problem *problem, uint64_t *ret_pages);

/** sandbox_refine_later() - op held, it has just been made: when it has settled, what it touched is
 *  added to its template's working set, if it has one by name */
void sandbox_refine_later(struct sandbox *sb);
/** sandbox_refine_at_end() - op held, its VM is about to be ended: now or never */
void sandbox_refine_at_end(struct sandbox *sb);
/** sandbox_refine_now() - for host_run(); @arg: the sandbox, a reference */
void sandbox_refine_now(struct host *host, void *arg);

/* ---- take-back.c ------------------------------------------------------------------------------
 */

/**
 * sandbox_take_back() - its pager is another one than before: is it served by that one?
 * Gives the pager the image again if it could not open that by itself. Without locks: the VM of a
 * sandbox under an operation waits for its pages too.
 * @pid: of the present pager
 * Return: 0; negative errno, @problem says why it is not served
 */
int sandbox_take_back(struct sandbox *sb, pid_t pid, struct problem *problem);

/** take_back_all() - the pager @dead is gone: start another, and have all sandboxes served again;
 *  fail those that cannot be */
void take_back_all(struct host *host, pid_t dead);

/* ---- recover.c --------------------------------------------------------------------------------
 */

int recover(struct host *host, struct problem *problem);

/* ---- snapshots.c ------------------------------------------------------------------------------
 */

/** snapshot_resolve() - an id or a template's name to an id. Return: 0; -ENOENT with a 404 */
int snapshot_resolve(struct host *host, const char *id_or_name, struct problem *problem,
		     char ret_id[ID_LEN + 1]);

/** snapshot_open_dir() - its directory, by id or a template's name. Return: descriptor; -ENOENT
 * with a 404; negative errno */
int snapshot_open_dir(struct host *host, const char *id_or_name, struct problem *problem,
		      char ret_id[ID_LEN + 1]);

/** snapshot_was_replaced() - has a compacted copy taken the place of @dirfd? */
bool snapshot_was_replaced(struct host *host, const char *id, int dirfd);

/** problem_pass() - hand on what was described, unless something was before */
static inline void problem_pass(struct problem *to, const struct problem *from)
{
	if (to && !problem_is_set(to))
		*to = *from;
}

/* How often an operation begins again when that happens under its hands. */
#define SNAPSHOT_TRIES 3

/* ---- snapshot-compact.c -----------------------------------------------------------------------
 */

/** snapshots_hold() - it is worked on: nobody deletes or compacts it until snapshots_let_go().
 *  Return: NULL with a 409 or 503 in @problem when that is not to be had now */
struct busy_snapshot *snapshots_hold(struct host *host, const char *id, struct problem *problem);
void snapshots_let_go(struct host *host, struct busy_snapshot *b);

/** snapshots_interrupt() - it is to be deleted: end a compaction of it. Return: 0; -EBUSY */
int snapshots_interrupt(struct host *host, const char *id, struct problem *problem);

/* ---- drain.c ----------------------------------------------------------------------------------
 */

/** work_begin() - for what a host that is drained refuses. Return: @host, for work_end() or
 *  `_cleanup_work_`; NULL with a 503 in @problem */
struct host *work_begin(struct host *host, struct problem *problem);
void work_end(struct host *host);

static inline void work_endp(struct host **host)
{
	if (*host)
		work_end(*host);
}
#define _cleanup_work_ _cleanup_(work_endp)

/* ---- build.c ----------------------------------------------------------------------------------
 */

void builds_free(struct host *host);
