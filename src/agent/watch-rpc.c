/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/watch-rpc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "agent/answer.h"
#include "agent/helper.h"
#include "agent/watch-message.h"
#include "agent/watch-stream.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

#define ANSWER_MS 30000u

/* One who waits for events of a polled watcher. */
struct waiting {
	struct waiting *next;
	struct polled *p;
	struct request *rq; /* NULL: it went away */
};

/* A polled watcher. */
struct polled {
	struct watch_table *table;
	struct polled *next, **prev;
	char id[WATCHER_ID_MAX];
	struct helper helper;
	struct relay relay;
	struct loop_timer timer; /* set while an answer is due */
	bool ready;		 /* it has said that it watches */
	struct waiting *first;	 /* of those who come after the one that the relay serves */
};

struct watch_table {
	struct agent *agent;
	struct polled *first;
	unsigned n;
};

static void fail_waiting(struct polled *p)
{
	while (p->first) {
		struct waiting *w = p->first;

		p->first = w->next;
		if (w->rq) {
			request_release(w->rq);
			connect_unary_fail(w->rq, CONNECT_NOT_FOUND, "watcher with id %s not found",
					   p->id);
		}
		free(w);
	}
}

static void polled_free(struct polled *p)
{
	loop_timer_clear(&p->timer);
	relay_fail(&p->relay, CONNECT_NOT_FOUND, "the watcher was removed");
	relay_deinit(&p->relay);
	fail_waiting(p);
	helper_stop(p->table->agent, p->helper);
	*p->prev = p->next;
	if (p->next)
		p->next->prev = p->prev;
	p->table->n--;
	free(p);
}

/* --- events -------------------------------------------------------------------------------------
 */

static void ask(struct polled *p, struct request *rq);

static void ask_next(struct polled *p)
{
	while (p->first && !p->relay.busy) {
		struct waiting *w = p->first;
		struct request *rq = w->rq;

		p->first = w->next;
		free(w);
		if (rq) {
			request_release(rq);
			ask(p, rq);
		}
	}
}

static void on_answer(void *userdata, int r)
{
	struct polled *p = userdata;
	bool failed_to_begin = !p->ready && p->relay.head.status != 200;

	loop_timer_clear(&p->timer);
	p->ready = true;
	p->relay.gone = NULL;
	if (r < 0 || failed_to_begin)
		polled_free(p); /* whoever asks next is told that there is no such watcher */
	else
		ask_next(p);
}

/* Nobody will ever know its id. */
static void on_creator_gone(void *userdata)
{
	polled_free(userdata);
}

static void on_answer_limit(void *userdata)
{
	struct polled *p = userdata;

	relay_fail(&p->relay, CONNECT_DEADLINE_EXCEEDED,
		   "the watcher was removed: its answer was not through in time, because a file "
		   "system hangs or its client does not read");
	polled_free(p);
}

static void ask(struct polled *p, struct request *rq)
{
	int r = relay_begin(&p->relay, rq);

	if (r < 0) {
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	loop_timer_set(p->table->agent->loop, &p->timer, deadline_after_ms(ANSWER_MS));
	/* at most one byte at a time is under way: it fits; a dead helper shows as end of file */
	(void)!write(p->helper.fd, "G", 1);
}

static void on_waiting_closed(struct request *rq)
{
	struct waiting *w = rq->keeper;

	w->rq = NULL;
}

static void wait_for(struct polled *p, struct request *rq)
{
	struct waiting *w = calloc(1, sizeof(*w)), **end = &p->first;

	if (!w) {
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	w->p = p;
	w->rq = rq;
	while (*end)
		end = &(*end)->next;
	*end = w;
	request_keep(rq, w, on_waiting_closed, NULL);
}

/* --- calls --------------------------------------------------------------------------------------
 */

static struct polled *find(struct request *rq, json_t *message)
{
	json_t *o = json_object_get(message, "watcherId") ?: json_object_get(message, "watcher_id");
	const char *id = json_string_value(o);

	for (struct polled *p = rq->agent->watches->first; id && p; p = p->next)
		if (p->ready && !strcmp(p->id, id))
			return p;
	connect_unary_fail(rq, CONNECT_NOT_FOUND, "watcher with id %.64s not found", id ?: "");
	return NULL;
}

static void handle_get(struct request *rq)
{
	struct polled *p;
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	p = find(rq, message);
	if (p && p->relay.busy)
		wait_for(p, rq);
	else if (p)
		ask(p, rq);
	json_decref(message);
}

static void handle_remove(struct request *rq)
{
	struct polled *p;
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	p = find(rq, message);
	if (p) {
		polled_free(p);
		connect_unary_reply(rq, json_object());
	}
	json_decref(message);
}

static void make_id(char id[WATCHER_ID_MAX])
{
	uint64_t random = 0;

	(void)!getrandom(&random, sizeof(random),
			 GRND_NONBLOCK); /* made once, long after the boot */
	(void)snprintf(id, WATCHER_ID_MAX, "w%016llx", (unsigned long long)random); /* fits */
}

static int polled_new(struct watch_table *t, struct watcher_options *options, struct polled **ret)
{
	struct polled *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return error_trace(-ENOMEM);
	make_id(options->id);
	str_copy(p->id, sizeof(p->id), options->id);
	p->table = t;
	p->timer = (struct loop_timer){.fire = on_answer_limit, .userdata = p};
	r = helper_start(t->agent, watcher_work, options, &p->helper);
	if (r < 0) {
		free(p);
		return r;
	}
	relay_init(&p->relay, t->agent->loop, p->helper.fd, p);
	p->relay.done = on_answer;
	p->relay.gone = on_creator_gone;
	p->next = t->first;
	p->prev = &t->first;
	if (p->next)
		p->next->prev = &p->next;
	t->first = p;
	t->n++;
	*ret = p;
	return 0;
}

static void create(struct request *rq, struct watcher_options *options)
{
	struct watch_table *t = rq->agent->watches;
	struct polled *p = NULL;
	int r = t->n < WATCHERS_MAX ? polled_new(t, options, &p) : -EAGAIN;

	if (r == 0)
		r = relay_begin(&p->relay, rq); /* its first answer comes unasked */
	if (r == 0) {
		loop_timer_set(t->agent->loop, &p->timer, deadline_after_ms(ANSWER_MS));
		return;
	}
	if (p)
		polled_free(p);
	if (r == -EAGAIN)
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED,
				   "there are too many watchers: %u of %u; remove one first", t->n,
				   WATCHERS_MAX);
	else
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "cannot begin to watch: %s",
				   strerrordesc_np(-r));
}

static enum connect_code code_of(const struct problem *problem)
{
	return problem->status == 401	? CONNECT_UNAUTHENTICATED
	       : problem->status == 400 ? CONNECT_INVALID_ARGUMENT
					: CONNECT_RESOURCE_EXHAUSTED;
}

static void handle_create(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	struct watch_message m = {0};
	json_t *message;

	if (connect_unary_parse(rq, &message) < 0)
		return;
	if (watch_message_read(rq, message, &problem, &m) < 0)
		connect_unary_fail(rq, code_of(&problem), "%s", problem.message);
	else
		create(rq, &m.options);
	watch_message_deinit(&m);
	json_decref(message);
}

static void handle_watch(struct request *rq)
{
	struct problem problem = PROBLEM_INIT;
	struct watch_message m = {0};
	json_t *message;

	if (connect_stream_begin(rq, &message) < 0)
		return;
	if (watch_message_read(rq, message, &problem, &m) < 0)
		connect_stream_fail(rq, code_of(&problem), "%s", problem.message);
	else
		watch_stream_open(rq, &m.options);
	watch_message_deinit(&m);
	json_decref(message);
}

#define CLIENTS (ROUTE_NEEDS_READY | ROUTE_CLIENT)

static const struct route routes[] = {
	{"POST", "/filesystem.Filesystem/WatchDir", handle_watch, CLIENTS},
	{"POST", "/filesystem.Filesystem/CreateWatcher", handle_create, CLIENTS},
	{"POST", "/filesystem.Filesystem/GetWatcherEvents", handle_get, CLIENTS},
	{"POST", "/filesystem.Filesystem/RemoveWatcher", handle_remove, CLIENTS},
};

int watch_rpc_add(struct router *r)
{
	return router_add(r, routes, ARRAY_SIZE(routes));
}

int watch_table_new(struct agent *a, struct watch_table **ret)
{
	struct watch_table *t = calloc(1, sizeof(*t));

	if (!t)
		return error_trace(-ENOMEM);
	t->agent = a;
	*ret = t;
	return 0;
}

struct watch_table *watch_table_free(struct watch_table *t)
{
	while (t && t->first)
		polled_free(t->first);
	free(t);
	return NULL;
}
