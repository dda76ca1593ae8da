/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "api/once.h"
#include "base/clock.h"

static void name(struct request *q, const char *who, const char *path, const char *key,
		 const char *body)
{
	*q = (struct request){.json = json_loads(body, 0, NULL)};
	(void)snprintf(q->caller.key_id, sizeof(q->caller.key_id), "%s", who);
	assert_int_equal(once_name(q, path, key, NULL), 0);
	json_decref(q->json);
}

static void test_names(void **state)
{
	struct request a, b;
	struct problem p = PROBLEM_INIT;
	char longest[257];

	name(&a, "", "/sandboxes", "k", "{\"x\":1,\"y\":2}");
	name(&b, "", "/sandboxes", "k", "{\"y\":2, \"x\":1}");
	assert_int_equal(strlen(a.once), REQUEST_ONCE_LEN);
	assert_string_equal(a.once, b.once);
	name(&b, "", "/sandboxes", "k", "{\"x\":1}");
	assert_memory_equal(a.once, b.once, REQUEST_ONCE_LEN / 2);
	assert_string_not_equal(a.once, b.once);
	name(&b, "me", "/sandboxes", "k", "{}");
	assert_memory_not_equal(a.once, b.once, REQUEST_ONCE_LEN / 2);
	name(&b, "", "/templates", "k", "{}");
	assert_memory_not_equal(a.once, b.once, REQUEST_ONCE_LEN / 2);
	name(&b, "", "/sandboxes", "l", "{}");
	assert_memory_not_equal(a.once, b.once, REQUEST_ONCE_LEN / 2);
	b.json = json_object();
	memset(longest, 'k', 256);
	longest[256] = 0;
	assert_int_equal(once_name(&b, "/", longest, &p), -EINVAL);
	assert_int_equal(p.status, 400);
	assert_int_equal(once_name(&b, "/", longest + 1, NULL), 0);
	assert_int_equal(once_name(&b, "/", "", NULL), -EINVAL);
	assert_int_equal(once_name(&b, "/", "a\x01", NULL), -EINVAL);
	json_decref(b.json);
}

static int begin(struct once *o, const struct request *q, struct reply *y)
{
	*y = (struct reply){0};
	return once_begin(o, q, deadline_after_ms(20), y);
}

static void answer(struct once *o, const struct request *q, const char *text)
{
	struct reply y = {.status = 201, .json = json_string(text)};

	once_end(o, q, &y);
	json_decref(y.json);
}

static void test_repeat(void **state)
{
	_cleanup_(once_freep) struct once *o = NULL;
	struct request q, other;
	struct reply y;

	assert_int_equal(once_new(&o), 0);
	name(&q, "", "/sandboxes", "k", "{}");
	name(&other, "", "/sandboxes", "k", "{\"a\":1}");
	assert_int_equal(begin(o, &q, &y), 0);
	assert_int_equal(begin(o, &q, &y), -EBUSY); /* under way */
	assert_int_equal(y.problem.status, 409);
	assert_int_equal(y.problem.retry_s, 1);
	once_end(o, &q, NULL); /* it failed */
	assert_int_equal(begin(o, &q, &y), 0);
	assert_int_equal(begin(o, &other, &y), -EINVAL); /* the key is taken already */
	assert_int_equal(y.problem.status, 422);
	answer(o, &q, "made");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(begin(o, &q, &y), 1);
		assert_int_equal(y.status, 201);
		assert_true(y.replayed);
		assert_string_equal(json_string_value(y.json), "made");
		json_decref(y.json);
	}
	assert_int_equal(begin(o, &other, &y), -EINVAL);
}

/* Only the latest are kept; what is under way always is. */
static void test_bounds(void **state)
{
	_cleanup_(once_freep) struct once *o = NULL;
	struct request q, first;
	struct reply y;
	char key[16];

	assert_int_equal(once_new(&o), 0);
	name(&first, "", "/", "first", "{}");
	assert_int_equal(begin(o, &first, &y), 0);
	for (unsigned i = 0; i < ONCE_MAX + 9; i++) {
		(void)snprintf(key, sizeof(key), "%u", i);
		name(&q, "", "/", key, "{}");
		assert_int_equal(begin(o, &q, &y), 0);
		answer(o, &q, key);
	}
	assert_int_equal(begin(o, &q, &y), 1);
	json_decref(y.json);
	name(&q, "", "/", "9", "{}"); /* the tenth oldest: out */
	assert_int_equal(begin(o, &q, &y), 0);
	once_end(o, &q, NULL);
	answer(o, &first, "at last");
	assert_int_equal(begin(o, &first, &y), 1);
	json_decref(y.json);
}

static void test_bytes(void **state)
{
	_cleanup_(once_freep) struct once *o = NULL;
	char *text = malloc((1u << 20) + 1);
	struct request q;
	struct reply y;
	char key[16];

	assert_non_null(text);
	memset(text, 'x', 1u << 20);
	text[1u << 20] = 0;
	assert_int_equal(once_new(&o), 0);
	for (unsigned i = 0; i < 20; i++) {
		(void)snprintf(key, sizeof(key), "%u", i);
		name(&q, "", "/", key, "{}");
		assert_int_equal(begin(o, &q, &y), 0);
		answer(o, &q, text);
	}
	for (unsigned i = 0; i < 20; i++) {
		(void)snprintf(key, sizeof(key), "%u", i);
		name(&q, "", "/", key, "{}");
		assert_int_equal(begin(o, &q, &y), i < 5 ? 0 : 1); /* 15 are less than 16 MiB */
		json_decref(y.json);
		if (i < 5)
			once_end(o, &q, NULL);
	}
	free(text);
}

struct race {
	struct once *once;
	struct request q;
	atomic_int done, replayed;
};

static void *race_main(void *arg)
{
	struct race *race = arg;
	struct reply y = {0};
	int r = once_begin(race->once, &race->q, deadline_after_ms(60000), &y);

	if (r == 0) {
		atomic_fetch_add(&race->done, 1);
		answer(race->once, &race->q, "made");
	} else if (r == 1) {
		atomic_fetch_add(&race->replayed, 1);
		json_decref(y.json);
	}
	return NULL;
}

static void test_race(void **state)
{
	_cleanup_(once_freep) struct once *o = NULL;
	struct race race = {0};
	pthread_t threads[8];

	assert_int_equal(once_new(&o), 0);
	race.once = o;
	for (unsigned round = 0; round < 50; round++) {
		char key[16];

		(void)snprintf(key, sizeof(key), "%u", round);
		name(&race.q, "", "/", key, "{}");
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, race_main, &race), 0);
		for (unsigned i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
		assert_int_equal(race.done, round + 1);
		assert_int_equal(race.replayed, 7 * (round + 1));
	}
}

TEST_MAIN(cmocka_unit_test(test_names), cmocka_unit_test(test_repeat),
	  cmocka_unit_test(test_bounds), cmocka_unit_test(test_bytes), cmocka_unit_test(test_race))
