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
 */
#include <jansson.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"

struct keyring; /* image/keyring.h */

struct pager_client;

/** pager_client_new() - does not connect yet; @socket_path is copied. Return: 0; -ENOMEM */
int pager_client_new(const char *socket_path, struct pager_client **ret);
struct pager_client *pager_client_free(struct pager_client *c);
DEFINE_CLEANUP(struct pager_client *, pager_client_free)

struct pager_session {
	int memory_fd;	       /* resident memory of the image, read-only descriptor; caller owns */
	char socket_path[108]; /* the VMM connects here, once */
	char image_id[33];
};

/**
 * pager_client_ping() - is it there? @ret_pid: its process id
 */
int pager_client_ping(struct pager_client *c, uint64_t deadline_ns, int *ret_pid);

/**
 * pager_client_open() - prepare to serve one VM
 * @session:  a sandbox id; unique among open sessions
 * @image_dirfd: snapshot directory of the image; borrowed; -1 for an image of zeros
 * @keys: NULL for a snapshot that is not sealed; only used during the call, on both sides
 * @n_pages:  guest memory; must equal the image's
 * Return: 0; IMAGE_E_CORRUPT, IMAGE_E_VERSION, IMAGE_E_KEY; negative errno; @problem explains
 */
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
 *       "service_ns_p50","service_ns_p99","failure":null|"text"}
 *       faults = faults_stored + faults_joined + faults_resident + faults_zero:
 *       a frame had to be read / was being read / was already there / a page of zeros
 *       The last 256 sessions that ended can still be asked for, by the same name.
 * Return: 0; -ENOENT; negative errno
 */
int pager_client_session_stats(struct pager_client *c, const char *session, uint64_t deadline_ns,
			       json_t **ret);

/** pager_client_ask() - {"op":@op} and nothing else. @ret: the whole reply, new reference. Return:
 * 0; -EOPNOTSUPP no such operation; negative errno; @problem says */
int pager_client_ask(struct pager_client *c, const char *op, uint64_t deadline_ns,
		     struct problem *problem, json_t **ret);

/**
 * pager_client_stats() - everything: {"pid","sessions":[...],"images":[{"image_id","n_pages",
 * "resident_pages","sessions","frames_loaded","bytes_read","pages_inserted"}]}
 */
int pager_client_stats(struct pager_client *c, uint64_t deadline_ns, json_t **ret);
