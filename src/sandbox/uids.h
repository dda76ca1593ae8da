/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * uids.h - which users VMMs run as: one each, out of a range that is nobody else's
 *
 * A VMM has its user from its start to its end and not longer: a sandbox that sleeps has none, and
 * wakes as another. The record names it as long as there is a process, so that the next daemon
 * claims it again. Users are handed out round the range, beginning at a random place, so that one
 * that was given back is not used again soon.
 *
 * Any thread; the lock is innermost.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct uids {
	pthread_mutex_t lock;
	uint32_t first, n; /* constant */
	uint32_t next;	   /* lock; where to look first */
	uint64_t *taken;   /* lock; a bit each */
};

#define UIDS_MIN 100000 /* below are the system's and people's */
#define UIDS_MAX (1u << 20)

/** uids_may_be() - could this be such a range? Not the system's users or people's, and not too many
 */
bool uids_may_be(uint64_t first, uint64_t n);

/** uids_init() - Return: 0; -EINVAL for a range that is empty, too large or below UIDS_MIN; -ENOMEM
 */
int uids_init(struct uids *u, uint32_t first, uint32_t n);
void uids_deinit(struct uids *u);

/** uids_take() - Return: 0; -EAGAIN when all are taken */
int uids_take(struct uids *u, uint32_t *ret);

/** uids_claim() - @uid is in use: a VMM that runs has it. Outside the range: nothing happens */
void uids_claim(struct uids *u, uint32_t uid);

/** uids_give_back() - 0, or outside the range: nothing happens */
void uids_give_back(struct uids *u, uint32_t uid);
