/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the thread has done is seen by the loop through one eventfd for all workers: it looks at
 * each of them, which is at most WORKERS_MAX. `notified` says that the loop will look anyway, so a
 * busy transfer writes to it about once per round of the loop.
 *
 *     rq      finished   the worker
 *     set     no         runs
 *     NULL    no         was cancelled, or its answer is out; the thread will see, or hangs
 *     set     yes        the rest of the answer is on its way to the stream
 *     NULL    yes        is freed
 */
#include "agent/worker.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define STACK_BYTES  (256u * 1024)
#define FREE_WAIT_MS 1000

struct ring {
	char *data;
	size_t cap, head, len;
};

struct workers {
	struct loop *loop;
	int event_fd;
	struct loop_source *source;
	struct worker *first;
	unsigned n;
	pthread_mutex_t lock; /* a leaf: taken with a worker's lock held */
	bool notified;	      /* under lock */
};

struct worker {
	struct workers *set;
	struct worker *next;
	pthread_t thread;
	void (*run)(struct worker *w, void *job);
	void (*free)(void *job);
	void *job;
	/* the loop's */
	struct request *rq;
	bool responded;
	/* under lock */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* for the thread */
	struct ring in, out;
	size_t consumed; /* of the body, and not yet given back */
	bool in_end, out_end, cancelled, finished;
	int status;				   /* of the answer; 0: no head yet */
	struct header headers[WORKER_MAX_HEADERS]; /* owned strings */
	size_t n_headers;
	struct problem problem; /* an answer of its own, when set */
};

/* --- rings --------------------------------------------------------------------------------------
 */

/* Mapped, so that the memory goes back when the transfer is over. */
static int ring_init(struct ring *r, size_t cap)
{
	void *p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return error_errno();
	*r = (struct ring){.data = p, .cap = cap};
	return 0;
}

static void ring_deinit(struct ring *r)
{
	if (r->data)
		(void)munmap(r->data, r->cap); /* cannot fail for what mmap gave */
}

/* Bytes that follow each other from the first. */
static size_t ring_front(const struct ring *r)
{
	return MIN(r->len, r->cap - r->head);
}

static size_t ring_room(const struct ring *r, char **ret)
{
	size_t tail = (r->head + r->len) % r->cap;

	*ret = r->data + tail;
	return tail < r->head || r->len == r->cap ? r->cap - r->len : r->cap - tail;
}

static void ring_consume(struct ring *r, size_t len)
{
	assert(len <= r->len);
	r->head = (r->head + len) % r->cap;
	r->len -= len;
}

static bool ring_append(struct ring *r, const char *data, size_t len)
{
	if (len > r->cap - r->len)
		return false;
	while (len) {
		char *at;
		size_t n = MIN(ring_room(r, &at), len);

		memcpy(at, data, n);
		r->len += n;
		data += n;
		len -= n;
	}
	return true;
}

/* --- the thread's side --------------------------------------------------------------------------
 */

static void notify(struct worker *w)
{
	struct workers *ws = w->set;
	const uint64_t one = 1;
	bool first;

	pthread_mutex_lock(&ws->lock);
	first = !ws->notified;
	ws->notified = true;
	pthread_mutex_unlock(&ws->lock);
	if (first)
		(void)!write(ws->event_fd, &one, sizeof(one)); /* fails only when it is set */
}

ssize_t worker_peek(struct worker *w, const char **ret)
{
	LOCK_SCOPE(&w->lock);

	while (!w->cancelled && w->in.len == 0 && !w->in_end)
		pthread_cond_wait(&w->changed, &w->lock); /* ends with the stream */
	if (w->cancelled)
		return -ECANCELED;
	*ret = w->in.data + w->in.head;
	return (ssize_t)ring_front(&w->in);
}

bool worker_is_cancelled(struct worker *w)
{
	LOCK_SCOPE(&w->lock);

	return w->cancelled;
}

void worker_consume(struct worker *w, size_t len)
{
	if (len == 0)
		return;
	pthread_mutex_lock(&w->lock);
	ring_consume(&w->in, len);
	w->consumed += len;
	pthread_mutex_unlock(&w->lock);
	notify(w);
}

static int copy_headers(struct worker *w, const struct header *headers, size_t n)
{
	assert(n <= WORKER_MAX_HEADERS);
	for (size_t i = 0; i < n; i++) {
		char *name = strdup(headers[i].name), *value = strdup(headers[i].value);

		w->headers[w->n_headers++] = (struct header){name, value};
		if (!name || !value)
			return -ENOMEM;
	}
	return 0;
}

int worker_respond(struct worker *w, int status, const struct header *headers, size_t n)
{
	LOCK_SCOPE(&w->lock);
	int r = w->cancelled ? -ECANCELED : 0;

	assert(!w->status);
	if (r == 0)
		r = copy_headers(w, headers, n);
	if (r == 0 && !w->out.data)
		r = ring_init(&w->out, WORKER_OUT_BYTES);
	if (r == 0)
		w->status = status;
	return error_trace(r); /* the loop looks when there is a body, or the end */
}

ssize_t worker_space(struct worker *w, char **ret)
{
	LOCK_SCOPE(&w->lock);

	while (!w->cancelled && w->out.len == w->out.cap)
		pthread_cond_wait(&w->changed, &w->lock); /* ends with the stream */
	return w->cancelled ? -ECANCELED : (ssize_t)ring_room(&w->out, ret);
}

void worker_produce(struct worker *w, size_t len)
{
	pthread_mutex_lock(&w->lock);
	w->out.len += len;
	pthread_mutex_unlock(&w->lock);
	notify(w);
}

void worker_end(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->out_end = true;
	pthread_mutex_unlock(&w->lock);
	notify(w);
}

static void worker_write(struct worker *w, const char *data, size_t len)
{
	while (len) {
		char *at;
		ssize_t room = worker_space(w, &at);
		size_t n = room < 0 ? 0 : MIN((size_t)room, len);

		if (room < 0)
			return;
		memcpy(at, data, n);
		worker_produce(w, n);
		data += n;
		len -= n;
	}
}

void worker_reply_json(struct worker *w, int status, json_t *body)
{
	static const struct header type = {"content-type", "application/json"};
	_cleanup_free_ char *text = json_dumps(body, JSON_COMPACT);

	json_decref(body);
	if (!text || worker_respond(w, status, &type, 1) < 0)
		return; /* without memory: 500 */
	worker_write(w, text, strlen(text));
	worker_end(w);
}

void worker_fail(struct worker *w, const struct problem *problem)
{
	pthread_mutex_lock(&w->lock);
	w->problem = *problem;
	w->out_end = true;
	pthread_mutex_unlock(&w->lock);
	notify(w);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->run(w, w->job);
	w->free(w->job);
	pthread_mutex_lock(&w->lock);
	w->finished = true;
	pthread_mutex_unlock(&w->lock);
	notify(w);
	return NULL;
}

/* --- the loop's side ----------------------------------------------------------------------------
 */

static void worker_destroy(struct worker *w)
{
	for (size_t i = 0; i < w->n_headers; i++) {
		free((char *)w->headers[i].name);
		free((char *)w->headers[i].value);
	}
	ring_deinit(&w->in);
	ring_deinit(&w->out);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

/* The request is no longer ours: what is left of its body is given back, so that the client can
 * send the rest and see the answer. The thread will notice, and the loop that it can be freed. */
static struct request *worker_part(struct worker *w)
{
	struct request *rq = take_ptr(w->rq);

	pthread_mutex_lock(&w->lock);
	w->cancelled = true;
	if (rq)
		request_consumed(rq, w->consumed + w->in.len);
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	notify(w);
	if (rq) {
		server_stream_set_source(rq->stream, NULL);
		request_release(rq);
		request_drop_body(rq);
	}
	return rq;
}

static void worker_refuse(struct worker *w, int status, const char *why)
{
	bool responded = w->responded;
	struct request *rq = worker_part(w);

	if (rq && !responded)
		request_fail(rq, status, "%s", why);
	else if (rq)
		server_stream_reset(rq->stream);
}

/* The stream takes the answer out of the ring by itself, as the client makes room. */
static size_t source_peek(void *userdata, const char **ret)
{
	struct worker *w = userdata;
	LOCK_SCOPE(&w->lock);

	*ret = w->out.data + w->out.head;
	return ring_front(&w->out);
}

static void source_consume(void *userdata, size_t len)
{
	struct worker *w = userdata;
	bool drained;

	pthread_mutex_lock(&w->lock);
	ring_consume(&w->out, len);
	drained = w->out_end && w->out.len == 0;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	if (drained)
		notify(w);
}

struct progress {
	bool head, end; /* the head may go out; the whole body has gone out */
	bool lost;	/* the thread has left without an answer */
};

static struct progress look(struct worker *w)
{
	LOCK_SCOPE(&w->lock);
	struct progress p = {.end = w->out_end && w->out.len == 0};

	p.head = w->status && (w->out.len || w->out_end);
	p.lost = w->finished && !w->out_end;
	if (w->consumed)
		request_consumed(w->rq, w->consumed);
	w->consumed = 0;
	return p;
}

/* Return: 1 all is out; 0; negative errno */
static int pump(struct worker *w)
{
	const struct server_source source = {source_peek, source_consume, w};
	struct server_stream *s = w->rq->stream;
	struct progress p = look(w);

	if (p.lost)
		return -ENOMEM;
	if (p.head && !w->responded) {
		int r = server_stream_respond(s, w->status, w->headers, w->n_headers);

		if (r < 0)
			return r;
		w->responded = true;
		server_stream_set_source(s, &source);
	} else if (w->responded) {
		server_stream_poke(s);
	}
	return p.end;
}

static bool has_failed(struct worker *w)
{
	LOCK_SCOPE(&w->lock);

	return w->problem.status;
}

static void worker_pump(struct worker *w)
{
	int r;

	if (!w->rq)
		return;
	if (has_failed(w)) {
		worker_refuse(w, w->problem.status, w->problem.message);
		return;
	}
	r = pump(w);
	if (r < 0) {
		worker_refuse(w, 503, "the request failed inside the agent: out of memory");
	} else if (r > 0) {
		struct request *rq = worker_part(w);

		server_stream_end(rq->stream);
	}
}

static void on_closed(struct request *rq)
{
	struct worker *w = rq->keeper;

	w->rq = NULL;
	(void)worker_part(w);
}

static void on_body(struct request *rq, const void *data, size_t len)
{
	struct worker *w = rq->keeper;
	bool fits;

	pthread_mutex_lock(&w->lock);
	fits = ring_append(&w->in, data, len);
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	if (!fits) /* more than its window */
		worker_refuse(w, 400, "the body overruns its window");
}

static void on_body_end(struct request *rq)
{
	struct worker *w = rq->keeper;

	pthread_mutex_lock(&w->lock);
	w->in_end = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

/* Free those that are over. */
static void sweep(struct workers *ws)
{
	for (struct worker **at = &ws->first; *at;) {
		struct worker *w = *at;
		bool finished;

		pthread_mutex_lock(&w->lock);
		finished = w->finished;
		pthread_mutex_unlock(&w->lock);
		if (!finished || w->rq) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		ws->n--;
		(void)pthread_join(w->thread, NULL); /* it is about to return */
		worker_destroy(w);
	}
}

static void on_event(void *userdata, uint32_t events)
{
	struct workers *ws = userdata;
	uint64_t n;

	(void)!read(ws->event_fd, &n, sizeof(n)); /* only to make it silent */
	pthread_mutex_lock(&ws->lock);
	ws->notified = false;
	pthread_mutex_unlock(&ws->lock);
	for (struct worker *w = ws->first; w; w = w->next)
		worker_pump(w);
	sweep(ws);
}

static int thread_start(struct worker *w)
{
	pthread_attr_t attr;
	int r;

	if (pthread_attr_init(&attr))
		return -ENOMEM;
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES); /* the default would do */
	r = -pthread_create(&w->thread, &attr, worker_main, w);
	pthread_attr_destroy(&attr);
	return r;
}

static int worker_begin(struct worker *w)
{
	int r = ring_init(&w->in, WORKER_IN_BYTES);

	return r < 0 ? r : thread_start(w);
}

void worker_start(struct workers *ws, struct request *rq, void (*run)(struct worker *w, void *job),
		  void (*free_job)(void *job), void *job)
{
	struct worker *w = ws->n < WORKERS_MAX ? calloc(1, sizeof(*w)) : NULL;

	if (w) {
		w->set = ws;
		w->run = run;
		w->free = free_job;
		w->job = job;
		w->rq = rq;
		pthread_mutex_init(&w->lock, NULL);
		pthread_cond_init(&w->changed, NULL);
	}
	if (!w || worker_begin(w) < 0) {
		if (w)
			worker_destroy(w);
		free_job(job);
		request_drop_body(rq);
		request_fail(rq, 503, "no more than %u files can be transferred at once",
			     WORKERS_MAX);
		return;
	}
	w->next = ws->first;
	ws->first = w;
	ws->n++;
	request_keep(rq, w, on_closed, NULL);
	rq->on_body = on_body;
	rq->on_body_end = on_body_end;
}

void workers_cancel(struct workers *ws, const char *why)
{
	for (struct worker *w = ws->first; w; w = w->next)
		worker_refuse(w, 503, why);
}

int workers_new(struct loop *loop, struct workers **ret)
{
	struct workers *ws = calloc(1, sizeof(*ws));
	int r;

	if (!ws)
		return error_trace(-ENOMEM);
	/* Threads come and go: no heap for each. What is sent is queued in blocks of some 100 KiB:
	 * they come from the heap and stay there, instead of being mapped anew each time. */
	(void)mallopt(M_ARENA_MAX, 1);
	(void)mallopt(M_MMAP_THRESHOLD, 512 * 1024);
	(void)mallopt(M_TRIM_THRESHOLD, 512 * 1024);
	pthread_mutex_init(&ws->lock, NULL);
	ws->loop = loop;
	ws->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = ws->event_fd < 0 ? error_errno()
			     : loop_add(loop, ws->event_fd, EPOLLIN, on_event, ws, &ws->source);
	if (r < 0) {
		workers_free(ws);
		return error_trace(r);
	}
	*ret = ws;
	return 0;
}

struct workers *workers_free(struct workers *ws)
{
	uint64_t deadline_ns = deadline_after_ms(FREE_WAIT_MS);

	if (!ws)
		return NULL;
	workers_cancel(ws, "the agent ends");
	while (sweep(ws), ws->first && !deadline_passed(deadline_ns))
		clock_sleep_ms(1);
	loop_remove(ws->source);
	if (ws->first)
		return NULL; /* the process is about to end; until then it has to stay */
	fd_close(ws->event_fd);
	pthread_mutex_destroy(&ws->lock);
	free(ws);
	return NULL;
}
