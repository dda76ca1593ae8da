/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * rwlock.h - a read-write lock for many readers that never pause
 *
 * By default glibc lets readers in as long as there are any, and a writer may wait for ever. The
 * price of this one: a thread that reads must not begin to read once more.
 * Source: pthread_rwlockattr_setkind_np(3)
 */
#include <pthread.h>

/** rwlock_init() - writers get through; pthread_rwlock_destroy() at the end. Return: 0; -ENOMEM */
static inline int rwlock_init(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;
	int r;

	pthread_rwlockattr_init(&attr); /* neither of these fails */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	r = pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return -r;
}
