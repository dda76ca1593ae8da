/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * qmp.h - QEMU's machine protocol: one JSON object per line over a unix socket
 *
 * Life: qmp_new() on a connected socket, qmp_handshake() (greeting, capabilities), any number of
 * qmp_call(), qmp_free(). One thread at a time.
 *
 * The peer is not trusted: it runs the guest and may be taken over by it. So every call has a
 * deadline, a line may be QMP_LINE_MAX bytes at most, and the number of events skipped while
 * waiting for a reply is bounded. A peer that breaks the protocol gives -EPROTO; after that, or
 * after its end (-EPIPE), the connection is broken for good and every call gives -EPIPE at once.
 * After -ETIMEDOUT it stays usable: commands carry an id, and a reply that comes late is dropped.
 * Source: QEMU docs/interop/qmp-spec.txt.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"

#define QMP_LINE_MAX	(1ul << 20)
#define QMP_SKIPPED_MAX 4096

struct qmp;

/** qmp_new_take() - @fd: connected stream socket, owned from success on. Return: 0; negative errno
 */
int qmp_new_take(int fd, struct qmp **ret);

/** qmp_connect() - connect to the unix socket at @path and shake hands */
int qmp_connect(const char *path, uint64_t deadline_ns, struct qmp **ret);

struct qmp *qmp_free(struct qmp *q);
DEFINE_CLEANUP(struct qmp *, qmp_free)

/** qmp_handshake() - read the greeting, leave negotiation mode. Return: 0; -ETIMEDOUT, -EPIPE,
 * -EPROTO */
int qmp_handshake(struct qmp *q, uint64_t deadline_ns);

/**
 * qmp_call() - send a command and wait for its reply
 * @arguments:  object, consumed in every case; NULL for none
 * @fd:         borrowed; sent along with the command (for getfd); -1 for none
 * @problem:    on -EREMOTEIO QEMU's own words, otherwise what went wrong with the connection
 * @ret_value:  the "return" value, new reference; may be NULL
 * Return: 0; -EREMOTEIO when QEMU answered with an error; -ETIMEDOUT; -EPIPE; -EPROTO; -ENOMEM
 */
int qmp_call(struct qmp *q, const char *command, json_t *arguments, int fd, uint64_t deadline_ns,
	     struct problem *problem, json_t **ret_value);

/** qmp_is_broken() - is there nothing left but to connect anew? */
bool qmp_is_broken(const struct qmp *q);

/**
 * qmp_shutdown_reason() - why QEMU said it would end ("guest-shutdown", "guest-panic"), or NULL
 * Also reads what has arrived and nobody has asked for. Valid until qmp_free().
 */
const char *qmp_shutdown_reason(struct qmp *q);
