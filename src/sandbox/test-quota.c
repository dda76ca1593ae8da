/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "sandbox/private.h"

#define N 24

struct scene {
	struct host host;
	struct sandbox sandboxes[N];
	struct sandbox *table[N];
	uint64_t max_n, max_bytes;
	int results[N];
};

static bool lookup(void *userdata, const char *owner, uint64_t *ret_n, uint64_t *ret_bytes)
{
	const struct scene *s = userdata;

	*ret_n = s->max_n;
	*ret_bytes = s->max_bytes;
	return !strcmp(owner, "k1");
}

static void begin(struct scene *s, uint64_t max_n, uint64_t max_bytes)
{
	*s = (struct scene){.max_n = max_n, .max_bytes = max_bytes};
	pthread_mutex_init(&s->host.lock, NULL);
	pthread_mutex_init(&s->host.quota_lock, NULL);
	for (int i = 0; i < N; i++) {
		struct sandbox *sb = &s->sandboxes[i];

		sb->host = &s->host;
		sb->refs = 1; /* never the last */
		pthread_mutex_init(&sb->info, NULL);
		strcpy(sb->record.owner, "k1");
		sb->record.state = SANDBOX_CREATING;
		sb->manifest.memory_bytes = 100;
		s->table[i] = sb;
	}
	s->host.sandboxes = s->table;
	s->host.n_sandboxes = N;
	quota_set_lookup(&s->host, lookup, s);
}

static int take(struct scene *s, int i)
{
	struct problem p = PROBLEM_INIT;
	int r = quota_take(&s->sandboxes[i], &p);

	if (r < 0) {
		assert_int_equal(r, -EDQUOT);
		assert_int_equal(p.status, 429);
		assert_true(p.retry_s > 0);
	}
	return r;
}

static void test_count(void **state)
{
	struct scene s;

	begin(&s, 2, 0);
	assert_int_equal(take(&s, 0), 0);
	s.sandboxes[0].record.state = SANDBOX_RUNNING; /* counted once, not twice */
	assert_int_equal(quota_check(&s.host, "k1", NULL), 0);
	assert_int_equal(take(&s, 1), 0);
	assert_int_equal(take(&s, 2), -EDQUOT);
	assert_false(s.sandboxes[2].charged);
	assert_int_equal(quota_check(&s.host, "k1", NULL), -EDQUOT);
	assert_int_equal(quota_check(&s.host, "k2", NULL), 0);
	assert_int_equal(quota_check(&s.host, "", NULL), 0);
	s.sandboxes[1].charged = false; /* its boot failed */
	assert_int_equal(take(&s, 2), 0);
	s.sandboxes[0].charged = false;
	s.sandboxes[0].record.state = SANDBOX_PAUSING; /* not yet */
	assert_int_equal(take(&s, 3), -EDQUOT);
	s.sandboxes[0].record.state = SANDBOX_ASLEEP;
	assert_int_equal(take(&s, 3), 0);
	strcpy(s.sandboxes[4].record.owner, "k2");
	assert_int_equal(take(&s, 4), 0);
	quota_set_lookup(&s.host, NULL, NULL);
	assert_int_equal(take(&s, 5), 0);
}

static void test_memory(void **state)
{
	struct scene s;

	begin(&s, 0, 350);
	for (int i = 0; i < 3; i++)
		assert_int_equal(take(&s, i), 0);
	assert_int_equal(take(&s, 3), -EDQUOT);
	s.sandboxes[3].manifest.memory_bytes = 50;
	assert_int_equal(take(&s, 3), 0);
	assert_int_equal(take(&s, 4), -EDQUOT);
}

struct racer {
	struct scene *s;
	int i;
};

static void *race(void *arg)
{
	struct racer *r = arg;
	struct problem p = PROBLEM_INIT;

	r->s->results[r->i] = quota_take(&r->s->sandboxes[r->i], &p);
	return NULL;
}

/* However many come at once, as many as there is room for get in: no more, no fewer. */
static void test_burst(void **state)
{
	for (int round = 0; round < 50; round++) {
		struct racer racers[N];
		pthread_t threads[N];
		struct scene s;
		int n = 0;

		begin(&s, 5, 0);
		for (int i = 0; i < N; i++) {
			racers[i] = (struct racer){.s = &s, .i = i};
			assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
		}
		for (int i = 0; i < N; i++)
			pthread_join(threads[i], NULL);
		for (int i = 0; i < N; i++)
			n += s.results[i] == 0;
		assert_int_equal(n, 5);
	}
}

TEST_MAIN(cmocka_unit_test(test_count), cmocka_unit_test(test_memory), cmocka_unit_test(test_burst))
