/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * host.h - everything one daemon owns: the store, the pager, the table of sandboxes
 *
 *     host_new()   opens the store, finds or starts the pager, recovers what an earlier daemon left
 *     ...          sandbox_*(), template_*(), snapshot functions, from any thread
 *     host_free()  lets go: sandboxes go on running, the next daemon adopts them
 *
 * All functions are thread-safe. Results are 0 or a negative errno; the problem says the rest, and
 * its status is what an HTTP client should get.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"
#include "image/compact.h"
#include "image/disk.h"
#include "image/image.h"
#include "image/keyring.h"
#include "pager/client.h"

/* How long things may take, in milliseconds. Separate, so that a slow one does not starve the next.
 */
struct host_limits {
	unsigned boot_ms;      /* kernel start to the agent's first answer; tried three times */
	unsigned start_ms;     /* VMM process until it can be talked to */
	unsigned load_ms;      /* device state */
	unsigned answer_ms;    /* resume until the agent's first answer */
	unsigned repair_ms;    /* the agent's init */
	unsigned prepare_ms;   /* the agent's prepare; best effort */
	unsigned pause_ms;     /* each command to a running VMM */
	unsigned operation_ms; /* a create or wake as a whole, hooks of the guest included */
	unsigned save_ms;      /* a sleep, snapshot or fork as a whole; then the guest runs on */
};

#define HOST_LIMITS_DEFAULT                                                                        \
	((struct host_limits){.boot_ms = 30000,                                                    \
			      .start_ms = 15000,                                                   \
			      .load_ms = 15000,                                                    \
			      .answer_ms = 15000,                                                  \
			      .repair_ms = 10000,                                                  \
			      .prepare_ms = 5000,                                                  \
			      .pause_ms = 5000,                                                    \
			      .operation_ms = 180000,                                              \
			      .save_ms = 900000})

struct host_config {
	const char *root;	 /* the store; absolute */
	const char *run_dir;	 /* sockets of the pager */
	const char *guest_cache; /* kernel, initramfs, root file systems */
	const char *libexec;	 /* directory of dorm-pager, dorm-agent, libdorm-vmm.so */
	const char *accel;	 /* "tcg", "kvm", or NULL: measured */
	struct host_limits limits;
	const struct keyring *keys; /* snapshots are sealed with the first; NULL: not sealed. Must
				       outlive the host */
	enum image_codec codec;	    /* of what sleeps write */
	int codec_level;
	int template_level; /* of zstd, for templates, which are written once and read often */
	struct compact_policy compact; /* of sleeping sandboxes; .off: only when asked to */
	enum disk_reflink reflink;
	enum pager_mode pager_mode;	  /* of sandboxes that are not told otherwise */
	bool no_prefetch, no_userfaultfd; /* of the pager, for all of them */
	bool offers_network; /* clients that only allow a sandbox the internet mean it */
	uint64_t memory_limit, image_limit; /* of the pager's resident memory, bytes; 0: none */
	/* jails (vmm/jail.h) */
	bool no_jail;
	bool need_jail;			      /* with all walls, or not at all */
	uint32_t jail_first_uid, jail_n_uids; /* users of VMMs, one each */
	unsigned cpu_limit_pct;		      /* of one processor, per sandbox; 0: no limit */
	uint64_t io_limit;		      /* bytes per second each way, per sandbox; 0: none */
	/* admission (sandbox/admission.h) */
	uint64_t memory_reserve; /* of the host's memory, never given to sandboxes; 0: 5 % */
	unsigned max_sandboxes;	 /* 0: as many as there is memory for */
	unsigned queue_max;	 /* how many creates, wakes and forks may wait for memory */
	unsigned queue_ms;	 /* and how long each */
	/* VMs kept ready (sandbox/pool.h) */
	unsigned warm_max;     /* per template; 0: none */
	unsigned warm_total;   /* of all templates */
	unsigned warm_idle_ms; /* none for a template that was not used for so long */
};

/* What is not said otherwise; paths and keys have no default. */
#define HOST_CONFIG_DEFAULT                                                                        \
	((struct host_config){.limits = HOST_LIMITS_DEFAULT,                                       \
			      .codec = IMAGE_CODEC_ZSTD,                                           \
			      .codec_level = 1,                                                    \
			      .template_level = 9,                                                 \
			      .compact = COMPACT_POLICY_DEFAULT,                                   \
			      .reflink = DISK_REFLINK_AUTO,                                        \
			      .jail_first_uid = 0x70000000,                                        \
			      .jail_n_uids = 65536,                                                \
			      .queue_max = 256,                                                    \
			      .queue_ms = 20000,                                                   \
			      .warm_max = 2,                                                       \
			      .warm_total = 8,                                                     \
			      .warm_idle_ms = 300000})

/* What a task of minutes asks and tells. All of it may be NULL. */
struct host_task {
	bool (*cancelled)(void *userdata); /* asked often */
	void (*progress)(void *userdata, uint64_t done, uint64_t total);
	void *userdata;
};

struct host;
struct events;

int host_new(const struct host_config *config, struct problem *problem, struct host **ret);

/**
 * host_begin_stop() - end what clients wait for, so that the server can be stopped: their streams
 * to guests break, builds give up. Operations that change a sandbox come to their end.
 */
void host_begin_stop(struct host *host);

/** host_free() - @stop_pager: also end the pager, if no sandbox needs it */
struct host *host_free(struct host *host, bool stop_pager);

/** host_ready() - can it take work? Return: 0; -EAGAIN with the reason in @problem */
int host_ready(struct host *host, struct problem *problem);

/** host_is_alive() - can its tables be reached within seconds? For a watchdog: no says that this
 *  process is stuck, and that another one would do better */
bool host_is_alive(struct host *host);

/** host_offers_network() - as configured: does "allow internet access" alone ask for a network? */
bool host_offers_network(const struct host *host);

/** host_events() - what happens on it (sandbox/events.h); lives as long as it does */
struct events *host_events(const struct host *host);

/** host_root() - the store's path */
const char *host_root(const struct host *host);

/** host_doctor() - GET /doctor: what this host has and lacks; does not need a running daemon.
 *  @libexec: as in struct host_config */
json_t *host_doctor(const char *root, const char *libexec);
/** host_doctor_running() - the same of a host that runs: its jails are as they are, not as they
 *  could be */
json_t *host_doctor_running(struct host *host);

/* ---- the pager --------------------------------------------------------------------------------
 */

/** host_pager_status() - GET /pager */
int host_pager_status(struct host *host, struct problem *problem, json_t **ret);

/**
 * host_images() - GET /images: what is resident of which image, and who shares it
 * @image_id: only that one, as an object; NULL: an array of all
 * Return: 0; -ENOENT with a 404
 */
int host_images(struct host *host, const char *image_id, struct problem *problem, json_t **ret);

/** host_pager_upgrade() - POST /pager/upgrade: a new pager process takes over all sessions */
int host_pager_upgrade(struct host *host, struct problem *problem, json_t **ret);

/**
 * host_warm() - load a template or snapshot into the pager's memory, for sandboxes to come
 * @full: all of it; otherwise its working set
 * @task: progress in pages
 */
int host_warm(struct host *host, const char *id_or_name, bool full, const struct host_task *task,
	      struct problem *problem, char ret_image_id[33]);

/**
 * host_keep_warm() - keep @n VMs of a template ready, whether it is used or not; 0: as usual
 * Until said otherwise, or dormd ends.
 */
int host_keep_warm(struct host *host, const char *id_or_name, unsigned n, struct problem *problem);

/** admission_status() - memory, queue, what is kept ready: new reference; NULL without memory */
json_t *admission_status(struct host *host);

/** host_metrics() - GET /metrics: Prometheus text of this daemon and its pager. The caller frees it
 */
int host_metrics(struct host *host, char **ret);
