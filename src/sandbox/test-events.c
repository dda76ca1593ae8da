/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/events.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/test.h"

static const struct event_filter all;

static json_t *next(struct events *e, uint64_t *after, const struct event_filter *f)
{
	struct event ev;
	json_t *o;

	assert_int_equal(events_next(e, *after, f, deadline_after_ms(5000), &ev), 1);
	*after = ev.number;
	o = json_loads(ev.text, 0, NULL);
	assert_non_null(o);
	assert_int_equal(json_integer_value(json_object_get(o, "id")), ev.number);
	assert_string_equal(json_string_value(json_object_get(o, "type")), ev.type);
	free(ev.text);
	return o;
}

static int count_of(json_t *o)
{
	int n = (int)json_integer_value(json_object_get(o, "n"));

	json_decref(o);
	return n;
}

static void add(struct events *e, const char *type, const char *id, int n)
{
	events_add(e, type, id, json_pack("{s:i}", "n", n));
}

static void test_order(void **state)
{
	_cleanup_(events_freep) struct events *e = NULL;
	uint64_t after = 0, before;
	json_t *o;

	assert_int_equal(events_new(&e), 0);
	before = events_last(e);
	log_set_request("r1");
	add(e, "sandbox.state", "ia", 1);
	log_set_request("");
	add(e, "pager.died", NULL, 2);
	o = next(e, &after, &all);
	assert_int_equal(after, before + 1);
	assert_string_equal(json_string_value(json_object_get(o, "sandboxID")), "ia");
	assert_string_equal(json_string_value(json_object_get(o, "request")), "r1");
	assert_int_equal(count_of(o), 1);
	o = next(e, &after, &all);
	assert_null(json_object_get(o, "sandboxID"));
	assert_null(json_object_get(o, "request"));
	assert_int_equal(count_of(o), 2);
	assert_int_equal(after, events_last(e));
}

/* Members cannot replace what every event has. */
static void test_details(void **state)
{
	_cleanup_(events_freep) struct events *e = NULL;
	uint64_t after = 0;
	json_t *o;

	assert_int_equal(events_new(&e), 0);
	events_add(e, "a", NULL, json_pack("{s:s, s:s}", "type", "b", "reason", "\"c\""));
	o = next(e, &after, &all);
	assert_string_equal(json_string_value(json_object_get(o, "type")), "a");
	assert_string_equal(json_string_value(json_object_get(o, "reason")), "\"c\"");
	json_decref(o);
	events_add(NULL, "a", NULL, json_object()); /* is freed, no more */
}

static void test_filter(void **state)
{
	const struct event_filter of_b = {.sandbox_id = "ib"}, types = {.type = "sandbox"},
				  type = {.type = "sandbox.state"}, mine = {.owner = "me"};
	_cleanup_(events_freep) struct events *e = NULL;
	uint64_t after = 0;
	struct event ev;

	assert_int_equal(events_new(&e), 0);
	add(e, "sandboxes", NULL, 1);
	add(e, "sandbox.expired", "ia", 2);
	add(e, "sandbox.state", "ib", 3);
	events_add_owned(e, "sandbox.state", "ic", "me", json_pack("{s:i}", "n", 4));
	events_add_owned(e, "pager.died", NULL, "me", NULL);
	assert_int_equal(count_of(next(e, &after, &of_b)), 3);
	after = 0;
	assert_int_equal(count_of(next(e, &after, &types)), 2);
	assert_int_equal(count_of(next(e, &after, &types)), 3);
	after = 0;
	assert_int_equal(count_of(next(e, &after, &type)), 3);
	after = 0;
	assert_int_equal(count_of(next(e, &after, &mine)), 4);
	/* a watcher that wants none of them does not read them again */
	assert_int_equal(events_next(e, after, &mine, deadline_after_ms(1), &ev), 0);
	assert_int_equal(ev.number, events_last(e));
	assert_int_equal(ev.lost, 0);
}

/* Who is slow is told what it missed, and goes on with the oldest that is there. */
static void test_lost(void **state)
{
	_cleanup_(events_freep) struct events *e = NULL;
	struct events_counters n;
	uint64_t after = 0;
	struct event ev;

	assert_int_equal(events_new(&e), 0);
	add(e, "a", NULL, -1);
	assert_int_equal(count_of(next(e, &after, &all)), -1);
	for (int i = 0; i < (int)EVENTS_KEPT + 10; i++)
		add(e, "a", NULL, i);
	assert_int_equal(events_next(e, after, &all, deadline_after_ms(1000), &ev), 1);
	assert_int_equal(ev.lost, 10);
	assert_false(ev.restarted);
	assert_int_equal(ev.number, after + 11);
	assert_int_equal(count_of(json_loads(ev.text, 0, NULL)), 10);
	free(ev.text);
	events_counters(e, &n);
	assert_int_equal(n.added, EVENTS_KEPT + 11);
	assert_int_equal(n.missed, 10);
	assert_int_equal(n.lost, 0);
}

/* A number of an earlier daemon, or of one whose clock was ahead: from the oldest, and said so. */
static void test_restarted(void **state)
{
	_cleanup_(events_freep) struct events *e = NULL;
	struct event ev;

	assert_int_equal(events_new(&e), 0);
	add(e, "a", NULL, 1);
	const uint64_t others[] = {7, events_last(e) - 2, events_last(e) + 1, UINT64_MAX};
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		assert_int_equal(events_next(e, others[i], &all, deadline_after_ms(1000), &ev), 1);
		assert_true(ev.restarted);
		assert_int_equal(ev.number, events_last(e));
		free(ev.text);
	}
	assert_int_equal(events_next(e, events_last(e) - 1, &all, deadline_after_ms(1000), &ev), 1);
	assert_false(ev.restarted);
	free(ev.text);
}

struct watcher {
	struct events *e;
	uint64_t after;
	int result;
	struct event ev;
};

static void *watch(void *arg)
{
	struct watcher *w = arg;

	w->result = events_next(w->e, w->after, &(struct event_filter){.type = "b"},
				deadline_after_ms(60000), &w->ev);
	return NULL;
}

static void test_wake_up_and_stop(void **state)
{
	_cleanup_(events_freep) struct events *e = NULL;
	struct watcher w = {0};
	uint64_t t0 = clock_now_ns();
	pthread_t thread;

	assert_int_equal(events_new(&e), 0);
	w.e = e;
	w.after = events_last(e);
	assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
	for (int i = 0; i < 3; i++) { /* others do not end the wait */
		add(e, "a", NULL, i);
		clock_sleep_ms(2);
	}
	add(e, "b", NULL, 0);
	pthread_join(thread, NULL);
	assert_int_equal(w.result, 1);
	assert_string_equal(w.ev.type, "b");
	assert_int_equal(w.ev.number, w.after + 4);
	free(w.ev.text);
	w.after = events_last(e);
	assert_int_equal(pthread_create(&thread, NULL, watch, &w), 0);
	events_stop(e);
	pthread_join(thread, NULL);
	assert_int_equal(w.result, 0);
	assert_true(events_stopped(e));
	assert_true(clock_now_ns() - t0 < 30 * NSEC_PER_SEC);
}

TEST_MAIN(cmocka_unit_test(test_order), cmocka_unit_test(test_details),
	  cmocka_unit_test(test_filter), cmocka_unit_test(test_lost),
	  cmocka_unit_test(test_restarted), cmocka_unit_test(test_wake_up_and_stop))
