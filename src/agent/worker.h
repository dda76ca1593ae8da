/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * worker.h - a thread that serves one request with plain blocking code
 *
 * Reading and writing files can take any time: a disk that is busy, and a FUSE or network mount
 * whose server hangs, for ever. The agent's loop must not wait for them, so each file transfer has
 * a thread of its own, which reads the request's body and writes the answer through two rings:
 *
 *     loop     on_body --> [in ring]  --> worker_peek(), worker_consume()    thread
 *              stream  <-- [out ring] <-- worker_space(), worker_produce()
 *
 * The rings are what a transfer costs, however long the file is. A full one makes the other side
 * wait: the body's window is given back as the thread consumes, and the thread gets room as the
 * stream's buffer drains.
 *
 * Life: worker_start() by the request's handler; from then on the request is the worker's. The
 * thread ends by itself. When the client goes away or the sandbox is about to sleep, every call of
 * the thread gives -ECANCELED: it undoes what it has begun and returns. A thread that hangs in the
 * kernel keeps its place, one of WORKERS_MAX, and nothing else. The threads have ordinary
 * priority: the agent's own is real-time.
 *
 * worker_start(), workers_*(): the loop's thread. All others: the worker's own thread.
 */
#include <jansson.h>
#include <stddef.h>

#include "agent/router.h"
#include "base/problem.h"
#include "channel/header.h"

#define WORKERS_MAX	   64u
#define WORKER_MAX_HEADERS 12u
/* the in ring holds the whole window of a body; the out ring is what the thread may be ahead */
#define WORKER_IN_BYTES	 ((size_t)CHANNEL_UPLOAD_WINDOW)
#define WORKER_OUT_BYTES ((size_t)256 * 1024)

struct workers;
struct worker;

int workers_new(struct loop *loop, struct workers **ret);

/** workers_free() - cancel what runs, and wait a second for it; what hangs even then is left */
struct workers *workers_free(struct workers *ws);
DEFINE_CLEANUP(struct workers *, workers_free)

/** workers_cancel() - end all transfers: a 503 to those who have no answer yet, a reset to others
 */
void workers_cancel(struct workers *ws, const char *why);

/**
 * worker_start() - serve @rq in a thread
 * @run: what the thread does; its answer must be complete when it returns, otherwise the client
 *       gets a 500, or a reset in the middle of a body
 * @job: consumed in every case, with @free
 * When no thread can be had the request is answered with a 503.
 */
void worker_start(struct workers *ws, struct request *rq, void (*run)(struct worker *w, void *job),
		  void (*free)(void *job), void *job);

/**
 * worker_peek() - wait for some of the request's body
 * @ret: valid until worker_consume()
 * Return: how many bytes (> 0); 0: that was all; -ECANCELED
 */
ssize_t worker_peek(struct worker *w, const char **ret);

/** worker_is_cancelled() - for work that neither reads nor writes for long */
bool worker_is_cancelled(struct worker *w);

/** worker_consume() - @len bytes of what worker_peek() gave are used */
void worker_consume(struct worker *w, size_t len);

/** worker_respond() - the head of an answer whose body follows with worker_produce() */
int worker_respond(struct worker *w, int status, const struct header *headers, size_t n);

/** worker_space() - wait for room for the answer's body. Return: bytes (> 0); -ECANCELED */
ssize_t worker_space(struct worker *w, char **ret);

/** worker_produce() - @len bytes were put there */
void worker_produce(struct worker *w, size_t len);

/** worker_end() - the answer is complete */
void worker_end(struct worker *w);

/** worker_reply_json() - a whole answer; @body: consumed */
void worker_reply_json(struct worker *w, int status, json_t *body);

/** worker_fail() - a whole answer: {"code", "message"} */
void worker_fail(struct worker *w, const struct problem *problem);
