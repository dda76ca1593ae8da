/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * keyring.h - the tenant's keys, under which the data keys of layers are wrapped
 *
 * A tenant key is 32 bytes. The first of a ring seals what is written; all of them open what is
 * there, so that a rotation is: new key in front of the old one, snapshot_rewrap() for every
 * snapshot, old key gone. Keys are kept in locked memory that is not dumped, and wiped at the end.
 *
 * Read-only once filled: any thread.
 */
#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/problem.h"

#define KEYRING_MAX_KEYS 16
#define KEY_ID_LEN	 16 /* hexadecimal characters: enough to tell keys apart, useless to guess one \
			     */

struct keyring;

/** keyring_new() - an empty ring */
int keyring_new(struct keyring **ret);
struct keyring *keyring_free(struct keyring *k);
DEFINE_CLEANUP(struct keyring *, keyring_free)

/**
 * keyring_add() - append a key
 * @source: "file:PATH", "env:NAME" or "fd:NUMBER", which hold 32 raw bytes, 64 hexadecimal digits
 * or base64, with or without a newline. A file that others may read is refused; the variable is
 * removed from the environment; the descriptor is closed Return: 0; -EINVAL, with what is wrong in
 * @problem (never the key); -EEXIST; negative errno
 */
int keyring_add(struct keyring *k, const char *source, struct problem *problem);

size_t keyring_n_keys(const struct keyring *k);
/** keyring_id() - KEY_ID_LEN digits that name key @i, derived from it, not secret */
const char *keyring_id(const struct keyring *k, size_t i);

/** keyring_to_fd() - a sealed memfd for handing the ring to another process */
int keyring_to_fd(const struct keyring *k, int *ret_fd);
/** keyring_from_fd() - the opposite. @fd: borrowed, not trusted. Return: 0; -EINVAL; negative errno
 */
int keyring_from_fd(int fd, struct problem *problem, struct keyring **ret);
