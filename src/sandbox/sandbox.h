/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * sandbox.h - the life of sandboxes: create, sleep, wake, fork, snapshot, delete
 *
 * See sandbox/state.h for the states. Operations on one sandbox are serialised, operations on
 * different ones run in parallel; each blocks its caller until it is done or its deadline passed,
 * and either did what it says or left the sandbox where it was. Any thread.
 */
#include "base/id.h"
#include "pager/client.h"
#include "sandbox/host.h"
#include "sandbox/state.h"
#include "sandbox/traffic.h"

struct channel;

#define SANDBOX_REQUEST_LEN 64

/* A snapshot of what is known of a sandbox; sandbox_info_deinit() releases it. */
struct sandbox_info {
	char id[ID_LEN + 1];
	char template_id[64];
	enum sandbox_state state;
	char failure[512];
	uint64_t created_ns, started_ns, end_ns;
	bool auto_pause, auto_pause_disk, auto_resume, disk_only;
	char owner[33]; /* which API key it was made with; "": the unix socket */
	char request[SANDBOX_REQUEST_LEN + 1]; /* sandbox_options.request; "": it had none */
	uint32_t cpus;
	uint64_t memory_bytes;
	uint64_t disk_bytes;	      /* what the guest can write to */
	bool stalled;		      /* its VM stands still: the host's disk is full */
	const char *operation, *step; /* what it is busy with; NULL: nothing */
	uint64_t operation_ns;	      /* since when, real time */
	json_t *metadata;	      /* object or NULL */
	char token[65];		      /* what clients show in it; "": none is asked for. A secret */
	char traffic_token[TRAFFIC_TOKEN_LEN + 1]; /* "": none is needed. A secret */
	char mask_host[TRAFFIC_HOST_MAX + 1];	   /* "": not masked */
	json_t *network;			   /* as sandbox_options.network */
};
void sandbox_info_deinit(struct sandbox_info *info);

/* Where the time of a create, wake or fork went. All spans are consecutive; total ends with the
 * agent's answer to its repair, which is the first useful work in the guest. */
struct sandbox_timings {
	uint64_t image_ns;  /* memory directory linked, session with the pager opened */
	uint64_t vmm_ns;    /* VMM process started */
	uint64_t load_ns;   /* device state loaded */
	uint64_t answer_ns; /* guest resumed until the agent's first answer */
	uint64_t repair_ns; /* identity, clock, random numbers, thaw */
	uint64_t total_ns;
	uint64_t queue_ns; /* before all that, not in total: until there was room for it */
	bool warm;	   /* with a VM that was ready: sandbox/pool.h */
};

/* Where the time of a sleep or snapshot went. */
struct sandbox_save_timings {
	uint64_t prepare_ns; /* the agent's prepare */
	uint64_t device_ns;  /* VM paused, device state saved */
	uint64_t memory_ns;  /* changed pages found, read, compressed, written, synced */
	uint64_t total_ns;
	uint64_t bytes_stored;
	uint64_t pages_stored;
};

/* How much of its memory must be there when a create, wake or fork returns. */
enum sandbox_wait {
	SANDBOX_WAIT_READY,	  /* what it takes to answer; more may come in the background */
	SANDBOX_WAIT_WORKING_SET, /* ... and what its working set says it will touch next */
	SANDBOX_WAIT_FULL,	  /* ... and all of it: the sandbox needs no file any more */
	SANDBOX_N_WAITS,
};

/* How the memory of a sandbox that is brought up gets there; all zero: as the host thinks best. */
struct sandbox_memory_options {
	enum pager_mode mode;
	enum sandbox_wait wait;
	bool no_prefetch;
	bool no_record; /* what it touches says nothing of its working set: it stands still first */
	bool reboot; /* of a wake: without its memory, as after a power cut, but nothing that was
			written to its disk is lost */
};

/**
 * sandbox_memory_options_parse() - from the words of the API; each may be NULL
 * @mode: auto, shared, overlay, eager; copy is refused
 * @wait: ready, working-set, full
 * Return: 0; -EINVAL with a 400 that names the field
 */
int sandbox_memory_options_parse(const char *mode, const char *wait, struct problem *problem,
				 struct sandbox_memory_options *ret);

struct sandbox_options {
	const char *template_id; /* a template's name, or a snapshot's id */
	uint64_t timeout_s;	 /* 0: never ends by itself */
	bool auto_pause;	 /* sleep when the time is up, instead of being deleted */
	bool auto_pause_disk;	 /* ... keeping only the disk, not the memory */
	bool auto_resume;	 /* requests to it wake it */
	const char *request; /* the name of the request that wants it, SANDBOX_REQUEST_LEN bytes, kept
				with it: sandbox_made_by(); NULL: it has none */
	const char *owner;	 /* which API key wants it; NULL: the unix socket */
	bool secure;		 /* with an access token */
	json_t *metadata;	 /* borrowed; object or NULL */
	json_t *envs;		 /* borrowed; object of strings or NULL */
	json_t *network;	 /* borrowed; whom it may talk to, NULL: nobody:
				    {"internet": bool, "allow": [...], "deny": [...]} */
	struct sandbox_memory_options memory;
	bool private_traffic;  /* requests to its ports have to show a token: sandbox/traffic.h */
	bool (*abandoned)(void *userdata); /* asked while it waits for room: is nobody there any
					      more? NULL: somebody is */
	void *userdata;
	const char *mask_host; /* what servers in it see as Host, ${PORT} replaced; NULL: the
				  client's */
};

/** sandbox_create() - @ret_token: its access token; "" without .secure */
int sandbox_create(struct host *host, const struct sandbox_options *options,
		   struct problem *problem, char ret_id[ID_LEN + 1], char ret_token[65],
		   struct sandbox_timings *ret_timings);

int sandbox_sleep(struct host *host, const char *id, struct problem *problem,
		  struct sandbox_save_timings *ret_timings);

/**
 * sandbox_sleep_disk() - put it to sleep without its memory: a wake boots it from its disk
 * Return: 0; -EOPNOTSUPP with a 400: it has no disk; negative errno, and then it goes on running
 */
int sandbox_sleep_disk(struct host *host, const char *id, struct problem *problem,
		       struct sandbox_save_timings *ret_timings);

/**
 * sandbox_wake() - @timeout_s: time to live from now, only ever extended; 0 leaves it
 * Return: 0; 1 when it was running already; negative errno, and then it is asleep as before
 */
int sandbox_wake(struct host *host, const char *id, uint64_t timeout_s,
		 const struct sandbox_memory_options *memory, struct problem *problem,
		 struct sandbox_timings *ret_timings);

struct sandbox_fork {
	int result; /* 0, or a negative errno with @problem set */
	char id[ID_LEN + 1];
	char token[65]; /* of its own, if the source has one; "" otherwise */
	struct problem problem;
	struct sandbox_timings timings;
};

/**
 * sandbox_fork() - @count copies of a running or sleeping sandbox
 * @network: borrowed; as sandbox_options.network, JSON null for none; NULL: that of the source
 * @owner: which API key wants them; "": the unix socket
 * @forks: @count entries, each with its own outcome
 * A running source is snapshotted in a pause of milliseconds and goes on; the copies own their
 * data. Return: 0 when the forks were attempted; negative errno when nothing was
 */
int sandbox_fork(struct host *host, const char *id, unsigned count, uint64_t timeout_s,
		 const struct sandbox_memory_options *memory, json_t *network, const char *owner,
		 struct problem *problem, struct sandbox_fork *forks);

/** sandbox_snapshot() - an immutable snapshot; @name: template name that will lead to it, or NULL
 */
int sandbox_snapshot(struct host *host, const char *id, const char *name, struct problem *problem,
		     char ret_id[ID_LEN + 1], struct sandbox_save_timings *ret_timings);

int sandbox_delete(struct host *host, const char *id, struct problem *problem);

/** sandbox_set_timeout() - ends @timeout_s from now; 0: at once */
int sandbox_set_timeout(struct host *host, const char *id, uint64_t timeout_s,
			struct problem *problem);

/** sandbox_extend() - it ends @timeout_s from now at the earliest; one that never ends stays so */
int sandbox_extend(struct host *host, const char *id, uint64_t timeout_s, struct problem *problem);

/** sandbox_network_check() - could this be a sandbox's network? Return: 0; -EINVAL with a 400 */
int sandbox_network_check(const json_t *policy, struct problem *problem);

/**
 * sandbox_set_network() - replace whom it may talk to, also while it runs: for connections that
 * exist too. @policy: borrowed; NULL ends its network
 * Return: 0; negative errno, and then it is as before
 */
int sandbox_set_network(struct host *host, const char *id, json_t *policy, struct problem *problem);

/** sandbox_network_counters() - what its dorm-net counted; NULL when it has none or is busy */
json_t *sandbox_network_counters(struct host *host, const char *id);

int sandbox_info(struct host *host, const char *id, struct problem *problem,
		 struct sandbox_info *ret);

/**
 * sandbox_made_by() - which sandbox was created by the request @request?
 * Only the first half counts: the other half of what is found may be another.
 * Return: 0; -ENOENT: none was, or it is not there any more, or not yet
 */
int sandbox_made_by(struct host *host, const char *request, struct sandbox_info *ret);

typedef void (*sandbox_visit)(void *userdata, const struct sandbox_info *info);

/** sandbox_each() - every sandbox, newest first; those being created or deleted are left out */
int sandbox_each(struct host *host, sandbox_visit visit, void *userdata);

/** sandbox_memory() - GET /sandboxes/{id}/memory */
int sandbox_memory(struct host *host, const char *id, struct problem *problem, json_t **ret);

#define SANDBOX_METRICS_TIME_MAX 9999999999ull /* seconds since 1970: the year 2286 */

/**
 * sandbox_metrics() - GET /sandboxes/{id}/metrics: what its guest used between two times
 * @start_s, @end_s: seconds since 1970, at most SANDBOX_METRICS_TIME_MAX
 * When @end_s is not past and the guest runs, it is asked, at most once a second: nothing else
 * takes samples (usage.h). One that sleeps is not woken.
 * @ret: new reference to an array, oldest first; may be empty
 */
int sandbox_metrics(struct host *host, const char *id, uint64_t start_s, uint64_t end_s,
		    struct problem *problem, json_t **ret);

/**
 * sandbox_memory_state() - how it gets its memory and how much is there, as GET /sandboxes/{id}
 * says Does not wait for operations on it. Return: new reference; NULL when it does not run, or the
 * pager does not say
 */
json_t *sandbox_memory_state(struct host *host, const char *id);

/**
 * sandbox_last_repair() - ask the guest what its last repair did: {"name", "ok", "ms", ...} of each
 * step. Return: new reference; NULL when it does not run, or does not say within a second
 */
json_t *sandbox_last_repair(struct host *host, const char *id);

/**
 * sandbox_resume() - a request wants it to run: one that was created with auto_resume, and sleeps
 * with its memory, is woken, once for all who want that, and given as much time as the last time
 * Waits for that, at most a minute; also for a transition that is under way.
 * Return: 0, it runs; -ENOTCONN without @problem: it is not to be woken so; negative errno, with a
 * 500, or a 503 or 504 that says when to try again
 */
int sandbox_resume(struct host *host, const char *id, struct problem *problem);

/**
 * sandbox_console() - the end of what its guest wrote on its console, in earlier lives of its VM too
 * @ret: fresh memory (free()), bytes as the guest wrote them, without zeros
 * @ret_since_ns: when it was started last, real time
 */
int sandbox_console(struct host *host, const char *id, struct problem *problem, char **ret,
		    uint64_t *ret_since_ns);

/* A running sandbox's channel, for one request. A sleep breaks its streams and does not wait for
 * the lease: a client that does not read its answer must not keep a sandbox from sleeping or going.
 */
struct sandbox_lease {
	struct channel *channel;
	char traffic_token[TRAFFIC_TOKEN_LEN + 1]; /* "": traffic is public */
	char mask_host[TRAFFIC_HOST_MAX + 1];
};
int sandbox_lease(struct host *host, const char *id, struct problem *problem,
		  struct sandbox_lease *ret);
void sandbox_lease_return(struct sandbox_lease *lease);
