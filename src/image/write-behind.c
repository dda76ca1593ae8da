/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write-behind.c - a ring of buffers between the caller and a thread that writes
 *
 * Buffers are numbered from 0 on; number n lies in place n % N_BUFFERS. `done` <= `queued` always:
 * those from done to queued - 1 are full and the writer's, the one of number `queued` is being
 * filled by the caller, who may begin with it when queued - done < N_BUFFERS. Each is written whole
 * before the next, so the file has no holes whatever happens.
 */
#include "image/write-behind.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"

#define N_BUFFERS    16u /* on a busy host each side gets its turn every few milliseconds */
#define BUFFER_BYTES (1u << 20)
#define PUSH_BYTES   (8u << 20) /* ask for writeback in pieces that are worth a disk's while */

struct write_behind {
	int fd;
	uint8_t *buffers; /* N_BUFFERS of BUFFER_BYTES */
	size_t filled;	  /* bytes in the buffer that the caller fills */
	bool has_thread;
	pthread_t thread;

	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t changed;
	uint64_t queued;
	uint64_t done;
	uint64_t written; /* bytes */
	uint64_t pushed;
	int error;
	bool stop;
};

static uint8_t *buffer(const struct write_behind *w, uint64_t number)
{
	return w->buffers + number % N_BUFFERS * BUFFER_BYTES;
}

int write_behind_new(int fd, struct write_behind **ret)
{
	struct write_behind *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->fd = fd;
	w->buffers = aligned_alloc(DORM_PAGE_SIZE, (size_t)N_BUFFERS * BUFFER_BYTES);
	if (!w->buffers) {
		free(w);
		return -ENOMEM;
	}
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	*ret = w;
	return 0;
}

struct write_behind *write_behind_free(struct write_behind *w)
{
	if (!w)
		return NULL;
	if (w->has_thread) {
		pthread_mutex_lock(&w->lock);
		w->stop = true;
		pthread_cond_broadcast(&w->changed);
		pthread_mutex_unlock(&w->lock);
		(void)pthread_join(w->thread, NULL); /* fails only for a thread that is none */
	}
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w->buffers);
	free(w);
	return NULL;
}

/* By whoever writes: the thread, or the caller while there is none. */
static int write_bytes(struct write_behind *w, const uint8_t *data, size_t len)
{
	int r = fd_write_full(w->fd, data, len);
	uint64_t written;

	if (r < 0)
		return error_trace(r);
	pthread_mutex_lock(&w->lock);
	written = w->written += len;
	pthread_mutex_unlock(&w->lock);
	if (written - w->pushed >= PUSH_BYTES) {
		/* only a hint: what it could report, fsync reports */
		(void)sync_file_range(w->fd, (off_t)w->pushed, (off_t)(written - w->pushed),
				      SYNC_FILE_RANGE_WRITE);
		w->pushed = written;
	}
	return 0;
}

static void *write_in_thread(void *userdata)
{
	struct write_behind *w = userdata;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		int r;

		if (w->done == w->queued || w->error) {
			pthread_cond_wait(&w->changed, &w->lock);
			continue;
		}
		pthread_mutex_unlock(&w->lock);
		r = write_bytes(w, buffer(w, w->done), BUFFER_BYTES); /* done is ours alone */
		pthread_mutex_lock(&w->lock);
		w->error = r;
		w->done++;
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* Signals are for the threads that expect them. */
static void start_thread(struct write_behind *w)
{
	sigset_t all, before;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	w->has_thread = pthread_create(&w->thread, NULL, write_in_thread, w) == 0;
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The buffer is full. Return: 0 when the next one may be filled */
static int queue(struct write_behind *w)
{
	int r;

	w->filled = 0;
	if (!w->has_thread)
		start_thread(w);
	if (!w->has_thread) { /* then without: slower, not wrong */
		w->error = write_bytes(w, buffer(w, w->queued), BUFFER_BYTES);
		w->done = ++w->queued;
		return w->error;
	}
	pthread_mutex_lock(&w->lock);
	w->queued++;
	pthread_cond_broadcast(&w->changed);
	while (w->queued - w->done >= N_BUFFERS && !w->error)
		pthread_cond_wait(&w->changed, &w->lock);
	r = w->error;
	pthread_mutex_unlock(&w->lock);
	return r;
}

int write_behind_put(struct write_behind *w, const void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		size_t n = MIN(len - done, (size_t)BUFFER_BYTES - w->filled);
		uint8_t *to = buffer(w, w->queued) + w->filled; /* queued is ours to change */
		int r;

		if (data)
			memcpy(to, (const uint8_t *)data + done, n);
		else
			memset(to, 0, n);
		w->filled += n;
		done += n;
		if (w->filled == BUFFER_BYTES && (r = queue(w)) < 0)
			return r;
	}
	return 0;
}

int write_behind_finish(struct write_behind *w)
{
	int r;

	pthread_mutex_lock(&w->lock);
	while (w->done < w->queued && !w->error)
		pthread_cond_wait(&w->changed, &w->lock);
	r = w->error;
	pthread_mutex_unlock(&w->lock);
	if (r < 0)
		return r;
	r = write_bytes(w, buffer(w, w->queued), w->filled); /* the thread sleeps */
	w->filled = 0;
	pthread_mutex_lock(&w->lock);
	w->error = r;
	pthread_mutex_unlock(&w->lock);
	return r;
}

uint64_t write_behind_written(struct write_behind *w)
{
	uint64_t n;

	pthread_mutex_lock(&w->lock);
	n = w->written;
	pthread_mutex_unlock(&w->lock);
	return n;
}
