/* SPDX-License-Identifier: Apache-2.0 */
/* Admission with a host, sandboxes and a clock that are made up. Waiters are real threads: what
 * they wait for is made to happen, and time passes when a test says so. */
#include "sandbox/admission.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/test.h"
#include "sandbox/forecast.h"
#include "sandbox/pool.h"

#define MIB (1ull << 20)

static _Atomic uint64_t now_ns, available, held;
static atomic_uint running, kept;
static atomic_bool unwanted;

static uint64_t fake_now(void)
{
	return atomic_load(&now_ns);
}

static int fake_memory(void *userdata, uint64_t *ret_available, uint64_t *ret_total)
{
	*ret_available = atomic_load(&available);
	*ret_total = 4096 * MIB;
	return 0;
}

static uint64_t fake_held(void *userdata, pid_t pid)
{
	return atomic_load(&held);
}

static unsigned fake_running(void *userdata)
{
	return atomic_load(&running);
}

static bool fake_give_back(void *userdata)
{
	if (!atomic_load(&kept))
		return false;
	atomic_fetch_sub(&kept, 1);
	atomic_fetch_add(&available, 50 * MIB);
	return true;
}

static bool fake_abandoned(void *userdata)
{
	return atomic_load(&unwanted);
}

static struct admission *begin(unsigned max_sandboxes, unsigned queue_max, unsigned turns)
{
	const struct admission_limits limits = {.reserve = 256 * MIB,
						.max_sandboxes = max_sandboxes,
						.queue_max = queue_max,
						.queue_ms = 10000,
						.turns = turns};
	const struct admission_hooks hooks = {.memory = fake_memory,
					      .held = fake_held,
					      .running = fake_running,
					      .give_back = fake_give_back,
					      .now_ns = fake_now};
	struct admission *a = NULL;

	atomic_store(&now_ns, 1000 * NSEC_PER_SEC);
	atomic_store(&available, 1000 * MIB);
	atomic_store(&held, 20 * MIB);
	atomic_store(&running, 0);
	atomic_store(&kept, 0);
	atomic_store(&unwanted, false);
	assert_int_equal(admission_new(&limits, &hooks, &a), 0);
	return a;
}

static const struct admission_ask usual = {
	.what = "another sandbox of t", .template = "t", .start = 60 * MIB};

static void enter(struct admission *a, struct admission_ticket *t)
{
	assert_int_equal(admission_enter(a, &usual, NULL, t), 0);
}

/* ---- without waiting --------------------------------------------------------------------------
 */

/* The example at the head of admission.h. */
static void test_promised(void **state)
{
	struct admission *a = begin(0, 0, 100);
	struct admission_ticket t[16];
	struct admission_figures f;
	struct problem p = PROBLEM_INIT;

	for (int i = 0; i < 5; i++) {
		enter(a, &t[i]);
		admission_leave(a, &t[i], 100 + i);
	}
	admission_figures(a, &f);
	assert_int_equal(f.promised, 5 * 40 * MIB);
	for (int i = 5; i < 14; i++)
		enter(a, &t[i]);
	admission_figures(a, &f);
	assert_int_equal(f.promised, (5 * 40 + 9 * 60) * MIB);
	assert_int_equal(f.bringing_up, 9);
	assert_int_equal(admission_enter(a, &usual, &p, &t[14]), -EAGAIN);
	assert_int_equal(p.status, 503);
	assert_string_equal(p.code, ADMISSION_CODE);
	assert_true(p.retry_s > 0);
	/* nothing came of one of them */
	admission_leave(a, &t[13], 0);
	enter(a, &t[14]);
	/* those that have ended have nothing promised to them */
	atomic_store(&held, 0);
	for (int i = 5; i < 15; i++)
		admission_leave(a, &t[i], i == 13 ? 0 : 100 + i);
	admission_figures(a, &f);
	assert_int_equal(f.promised, 0);
	admission_free(a);
}

static void test_young_grow_up(void **state)
{
	struct admission *a = begin(0, 0, 100);
	struct admission_ticket t;
	struct admission_figures f;

	enter(a, &t);
	admission_leave(a, &t, 100);
	admission_figures(a, &f);
	assert_int_equal(f.promised, 40 * MIB);
	atomic_fetch_add(&now_ns, 31 * NSEC_PER_SEC);
	enter(a, &t); /* which looks, and learns: 20 MiB, and as it is the first, twice that */
	assert_int_equal(t.bytes, 40 * MIB);
	admission_leave(a, &t, 0);
	admission_figures(a, &f);
	assert_int_equal(f.promised, 0);
	admission_free(a);
}

static void test_never_fits(void **state)
{
	struct admission *a = begin(0, 10, 100);
	struct admission_ask ask = usual;
	struct admission_ticket t;
	struct problem p = PROBLEM_INIT;

	ask.least = 5000 * MIB;
	assert_int_equal(admission_enter(a, &ask, &p, &t), -EAGAIN); /* at once */
	assert_int_equal(p.status, 503);
	/* one that grew too large does not shut its template out */
	atomic_store(&available, 4096 * MIB);
	admission_learn(a, "t", 4000 * MIB);
	enter(a, &t);
	assert_int_equal(t.bytes, (4096 - 256) / 2 * MIB);
	admission_leave(a, &t, 0);
	admission_free(a);
}

static void test_try(void **state)
{
	struct admission *a = begin(0, 10, 2);
	struct admission_ticket client, fill, other;

	assert_true(admission_try(a, &usual, &fill));
	enter(a, &client);
	admission_leave(a, &fill, 0);
	assert_false(admission_try(a, &usual, &other)); /* a client is at it */
	admission_leave(a, &client, 0);
	atomic_store(&available, (256 + 60 + 59) * MIB); /* as much again must be left */
	assert_false(admission_try(a, &usual, &other));
	atomic_store(&available, (256 + 60 + 60) * MIB);
	assert_true(admission_try(a, &usual, &other));
	admission_leave(a, &other, 0);
	admission_free(a);
}

static void test_gives_back(void **state)
{
	struct admission *a = begin(0, 10, 10);
	struct admission_ticket t;

	atomic_store(&available, 256 * MIB);
	atomic_store(&kept, 3);
	enter(a, &t);
	assert_int_equal(atomic_load(&kept), 1); /* no more than it takes */
	admission_leave(a, &t, 0);
	admission_free(a);
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

struct client {
	struct admission *a;
	struct admission_ask ask;
	struct admission_ticket ticket;
	struct problem problem;
	int result;
	atomic_int *order;
	int place; /* in which it got in, from 0 */
	atomic_bool done;
	pthread_t thread;
};

static void *client_main(void *arg)
{
	struct client *c = arg;

	c->result = admission_enter(c->a, &c->ask, &c->problem, &c->ticket);
	c->place = atomic_fetch_add(c->order, 1);
	atomic_store(&c->done, true);
	return NULL;
}

static unsigned waiting(struct admission *a)
{
	struct admission_figures f;

	admission_figures(a, &f);
	return f.waiting;
}

/* Returns when it waits in the queue. */
static void come_as(struct client *c, struct admission *a, atomic_int *order,
		    const struct admission_ask *ask)
{
	const unsigned before = waiting(a);

	*c = (struct client){.a = a, .ask = *ask, .order = order};
	assert_int_equal(pthread_create(&c->thread, NULL, client_main, c), 0);
	for (int i = 0; waiting(a) == before; i++) {
		assert_true(i < 10000);
		clock_sleep_ms(1);
	}
}

static void come(struct client *c, struct admission *a, atomic_int *order)
{
	come_as(c, a, order, &usual);
}

static void await(struct client *c)
{
	for (int i = 0; !atomic_load(&c->done); i++) {
		assert_true(i < 20000);
		clock_sleep_ms(1);
	}
	pthread_join(c->thread, NULL);
}

/* Whoever came first goes first, one for each that ends; whoever finds the queue full goes away. */
static void test_order(void **state)
{
	struct admission *a = begin(1, 4, 100);
	atomic_int order = 0;
	struct client c[4];
	struct admission_ticket t;
	struct problem p = PROBLEM_INIT;

	atomic_store(&running, 1);
	for (int i = 0; i < 4; i++)
		come(&c[i], a, &order);
	assert_int_equal(admission_enter(a, &usual, &p, &t), -EAGAIN);
	assert_int_equal(p.status, 503);
	assert_non_null(strstr(p.message, "4 others wait"));
	for (int i = 0; i < 4; i++) {
		atomic_store(&running, 0);
		admission_changed(a);
		await(&c[i]);
		assert_int_equal(c[i].result, 0);
		assert_int_equal(c[i].place, i);
		atomic_store(&running, 1);
		admission_leave(a, &c[i].ticket, 100);
	}
	admission_free(a);
}

/* A turn is waited for as long as it takes; room only for so long. */
static void test_patience(void **state)
{
	struct admission *a = begin(0, 10, 1);
	struct admission_ticket busy;
	atomic_int order = 0;
	struct client c;

	enter(a, &busy);
	come(&c, a, &order);
	atomic_fetch_add(&now_ns, 60 * NSEC_PER_SEC);
	admission_changed(a);
	clock_sleep_ms(50);
	assert_false(atomic_load(&c.done));
	admission_leave(a, &busy, 0);
	await(&c);
	assert_int_equal(c.result, 0);
	admission_leave(a, &c.ticket, 0);

	atomic_store(&available, 300 * MIB);
	come(&c, a, &order);
	for (int i = 0; i < 100; i++) { /* until it has seen that there is no room */
		struct admission_figures f;

		admission_figures(a, &f);
		if (f.blocked)
			break;
		clock_sleep_ms(10);
	}
	atomic_fetch_add(&now_ns, 11 * NSEC_PER_SEC);
	await(&c);
	assert_int_equal(c.result, -EAGAIN);
	assert_int_equal(c.problem.status, 503);
	assert_non_null(strstr(c.problem.message, "60.0 MiB"));
	assert_int_equal(waiting(a), 0);
	admission_free(a);
}

static void test_abandoned(void **state)
{
	struct admission *a = begin(1, 10, 100);
	struct admission_ask ask = usual;
	struct admission_figures f;
	atomic_int order = 0;
	struct client c, next;

	atomic_store(&running, 1);
	come(&c, a, &order);
	assert_false(atomic_load(&c.done));
	admission_stop(a);
	await(&c);
	assert_int_equal(c.result, -ECANCELED);
	admission_free(a);

	a = begin(1, 10, 100);
	atomic_store(&running, 1);
	ask.abandoned = fake_abandoned;
	come_as(&c, a, &order, &ask);
	come(&next, a, &order);
	atomic_store(&unwanted, true);
	await(&c);
	assert_int_equal(c.result, -ECANCELED);
	atomic_store(&running, 0);
	await(&next);
	assert_int_equal(next.result, 0);
	admission_figures(a, &f);
	assert_int_equal(f.abandoned, 1);
	admission_leave(a, &next.ticket, 0);
	admission_free(a);
}

/* ---- forecasts, demand ------------------------------------------------------------------------
 */

static void test_forecast(void **state)
{
	struct forecasts *f = calloc(1, sizeof(*f));
	uint64_t v;

	assert_non_null(f);
	assert_int_equal(forecast_ask(f, "t", 50 * MIB), 50 * MIB);
	assert_int_equal(forecast_ask(f, "t", 1), FORECAST_LEAST);
	forecast_learn(f, "t", 30 * MIB);
	assert_int_equal(forecast_ask(f, "t", 1), 60 * MIB);
	for (int i = 0; i < 200; i++)
		forecast_learn(f, "t", i % 2 ? 30 * MIB : 50 * MIB);
	v = forecast_ask(f, "t", 1);
	assert_true(v > 55 * MIB && v < 65 * MIB);
	assert_int_equal(forecast_ask(f, "other", 50 * MIB), 50 * MIB);
	/* the oldest goes */
	for (unsigned i = 0; i < FORECAST_KEYS; i++) {
		char key[16];

		(void)snprintf(key, sizeof(key), "k%u", i);
		forecast_learn(f, key, 100 * MIB);
	}
	assert_int_equal(forecast_ask(f, "t", 50 * MIB), 50 * MIB);
	assert_int_equal(forecast_ask(f, "k0", 1), 200 * MIB);
	free(f);
}

static void test_demand(void **state)
{
	struct pool_rate r = {0};
	uint64_t t = 1000 * NSEC_PER_SEC;

	assert_int_equal(pool_demand(0, 200 * NSEC_PER_MSEC, 2), 1);
	assert_int_equal(pool_demand(0, 200 * NSEC_PER_MSEC, 0), 0);
	assert_int_equal(pool_demand(10, 200 * NSEC_PER_MSEC, 8), 5);
	assert_int_equal(pool_demand(1000, 200 * NSEC_PER_MSEC, 8), 8);
	for (int i = 0; i < 600; i++)
		pool_rate_add(&r, 1, t += NSEC_PER_SEC / 10); /* ten a second for a minute */
	assert_true(r.per_s > 6 && r.per_s < 14);
	pool_rate_add(&r, 0, t + 60 * NSEC_PER_SEC);
	assert_true(r.per_s < 0.01);
	pool_rate_add(&r, 1, t); /* a clock that stands still */
	assert_true(r.per_s < 1);
}

TEST_MAIN(cmocka_unit_test(test_promised), cmocka_unit_test(test_young_grow_up),
	  cmocka_unit_test(test_never_fits), cmocka_unit_test(test_try),
	  cmocka_unit_test(test_gives_back), cmocka_unit_test(test_order),
	  cmocka_unit_test(test_patience), cmocka_unit_test(test_abandoned),
	  cmocka_unit_test(test_forecast), cmocka_unit_test(test_demand))
