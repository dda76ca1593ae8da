/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * client.h - talking to a dorm-pager: the only part of this folder that others may include
 *
 * The pager listens on a control socket (SOCK_SEQPACKET, JSON, docs/format-pager.md). For every VM
 * the owner opens a session: the pager makes (or finds) the resident memory of the image, and a
 * socket of the session's own where the VMM will hand over its regions and userfaultfd, in the way
 * Firecracker does. A session ends when it is closed or its VMM's process is gone.
 *
 * A client is one connection with one request under way at a time; functions lock, so any thread
 * may call. Every call has a deadline. After -EPIPE or -ETIMEDOUT the client reconnects on the next
 * call.
 *
 * A pager answers EOPNOTSUPP to a request that it does not know, and ignores members that it does
 * not know: whoever asks for something optional goes on without it.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"

struct keyring; /* image/keyring.h */

struct pager_client;

/** pager_client_new() - does not connect yet; @socket_path is copied. Return: 0; -ENOMEM */
int pager_client_new(const char *socket_path, struct pager_client **ret);
struct pager_client *pager_client_free(struct pager_client *c);
DEFINE_CLEANUP(struct pager_client *, pager_client_free)

/* How a session's memory gets to its VM; docs/format-pager.md, "Modes". */
enum pager_mode {
	PAGER_MODE_AUTO, /* the pager chooses; never in a reply */
	PAGER_MODE_SHARED,
	PAGER_MODE_OVERLAY,
	PAGER_MODE_COPY,
	PAGER_MODE_EAGER,
	PAGER_N_MODES,
};

/* What is loaded without being asked for by the guest. */
enum pager_load {
	PAGER_LOAD_AUTO, /* the working set, if there is one and prefetch is on */
	PAGER_LOAD_DEMAND,
	PAGER_LOAD_WORKING_SET,
	PAGER_LOAD_FULL,
	PAGER_N_LOADS,
};

/* How the VM registers its memory with userfaultfd. */
enum pager_register {
	PAGER_REGISTER_MISSING,
	PAGER_REGISTER_MINOR, /* missing and minor */
	PAGER_REGISTER_NONE,  /* not at all: everything must be loaded before it touches anything */
	PAGER_N_REGISTERS,
};

/* The words of the protocol: "auto", "working-set", "missing,minor"... */
const char *pager_mode_name(enum pager_mode mode);
const char *pager_register_name(enum pager_register reg);
/** pager_mode_parse() - Return: 0; -EINVAL */
int pager_mode_parse(const char *text, enum pager_mode *ret);

/* How a session is to be served; all zero: as the pager thinks best. */
struct pager_open_options {
	enum pager_mode mode;
	enum pager_load load;
	bool is_private;  /* no other VM will run from this image */
	bool no_prefetch; /* not the working set either, unless @load says so */
	bool no_record;	  /* it is not to be the one whose working set is recorded */
};

struct pager_session {
	int memory_fd; /* resident memory, read-only descriptor; caller owns. -1: copy mode, adopted
			*/
	char socket_path[108]; /* the VMM connects here, once; "": adopted */
	char image_id[33];
	enum pager_mode mode;
	enum pager_register reg;
	char why[192]; /* it chose this mode, for people */
	uint64_t working_set_pages;
	bool adopted; /* a session that had lost its image has it again; its VM is served on */
};

/**
 * pager_client_ping() - is it there? @ret_pid: its process id
 */
int pager_client_ping(struct pager_client *c, uint64_t deadline_ns, int *ret_pid);

/* What a pager says of itself. */
struct pager_about {
	int pid;
	bool takes_back; /* after its death a new one goes on with its sessions */
};
/** pager_client_about() - as pager_client_ping(). Return: the same */
int pager_client_about(struct pager_client *c, uint64_t deadline_ns, struct pager_about *ret);

/**
 * pager_client_open_as() - prepare to serve one VM
 * @session:  a sandbox id; unique among open sessions
 * @image_dirfd: snapshot directory of the image; borrowed; -1 for an image of zeros
 * @keys: NULL for a snapshot that is not sealed; only used during the call, on both sides
 * @n_pages:  guest memory; must equal the image's
 * @options: NULL: all zero
 * Return: 0; IMAGE_E_CORRUPT, IMAGE_E_VERSION, IMAGE_E_KEY; negative errno: -EEXIST when it serves
 * a session of this name; @problem explains
 */
int pager_client_open_as(struct pager_client *c, const char *session, int image_dirfd,
			 const struct keyring *keys, uint64_t n_pages,
			 const struct pager_open_options *options, uint64_t deadline_ns,
			 struct problem *problem, struct pager_session *ret);

/** pager_client_open() - the same, as the pager thinks best */
int pager_client_open(struct pager_client *c, const char *session, int image_dirfd,
		      const struct keyring *keys, uint64_t n_pages, uint64_t deadline_ns,
		      struct problem *problem, struct pager_session *ret);

/**
 * pager_client_close_session() - stop serving; for a VM that is gone. Unknown sessions are fine.
 * A VM that still lives waits for ever at its next missing page; it never sees zeros.
 */
int pager_client_close_session(struct pager_client *c, const char *session, uint64_t deadline_ns);

/**
 * pager_client_session_stats() - counters of one session
 * @ret: object, new reference: {"session","image_id","state":"listening|serving|failed|closed",
 *       "pid","faults","faults_stored","faults_resident","faults_zero","faults_joined",
 *       "zero_preinstalled","frames_loaded","pages_inserted","bytes_read",
 *       "service_ns_p50","service_ns_p99","resident_image","failure":null|"text"}
 *       resident_image: whose resident memory it shares; its base's in overlay mode
 *       faults = faults_stored + faults_joined + faults_resident + faults_zero:
 *       a frame had to be read / was being read / was already there / a page of zeros
 *       The last 256 sessions that ended can still be asked for, by the same name.
 * Return: 0; -ENOENT; negative errno
 */
int pager_client_session_stats(struct pager_client *c, const char *session, uint64_t deadline_ns,
			       json_t **ret);

/**
 * pager_client_stats() - everything: {"pid","sessions":[...],"images":[{"image_id","n_pages",
 * "resident_pages","sessions","frames_loaded","bytes_read","pages_inserted"}]}
 */
int pager_client_stats(struct pager_client *c, uint64_t deadline_ns, json_t **ret);

/**
 * pager_client_load() - begin to load in the background, or load more than is under way
 * Returns at once; the session's stats say how far it is:
 * "load":{"what","state":"none|loading|done|failed","pages_done","pages_total"}, "full":bool
 */
int pager_client_load(struct pager_client *c, const char *session, enum pager_load what,
		      uint64_t deadline_ns, struct problem *problem);

/**
 * pager_client_warm() - begin to load an image without any session
 * @ret_image_id: for pager_client_image()
 * Return: as pager_client_open_as()
 */
int pager_client_warm(struct pager_client *c, int image_dirfd, const struct keyring *keys,
		      uint64_t n_pages, enum pager_load what, uint64_t deadline_ns,
		      struct problem *problem, char ret_image_id[33]);

/** pager_client_image() - counters of one image, with "load" as above. Return: 0; -ENOENT */
int pager_client_image(struct pager_client *c, const char *image_id, uint64_t deadline_ns,
		       json_t **ret);

/* What a session recorded, and how good the set was that it began with. */
struct pager_working_set {
	bool settled; /* the guest has stopped touching pages for the first time */
	uint64_t n_pages;
	double precision; /* of the pages that were loaded ahead, how many were used; 0 to 1 */
	double recall;	  /* of the pages that were used, how many were loaded ahead */
	uint64_t wasted_bytes;
	void *data; /* the file as it is to be written (image/working-set.h); NULL: nothing to write
		     */
	size_t len;
};
void pager_working_set_deinit(struct pager_working_set *s);

/** pager_client_working_set() - Return: 0; -ENOENT; negative errno */
int pager_client_working_set(struct pager_client *c, const char *session, uint64_t deadline_ns,
			     struct problem *problem, struct pager_working_set *ret);

/**
 * pager_client_config() - change what holds for new sessions; limits hold at once
 * @changes: {"userfaultfd":bool, "prefetch":bool, "memory_limit":bytes, "image_limit":bytes}, all
 *           optional; borrowed; NULL: only ask
 * @ret: the present values, new reference
 */
int pager_client_config(struct pager_client *c, const json_t *changes, uint64_t deadline_ns,
			struct problem *problem, json_t **ret);

/** pager_client_metrics() - Prometheus text; the caller frees it */
int pager_client_metrics(struct pager_client *c, uint64_t deadline_ns, char **ret);
