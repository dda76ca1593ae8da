/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/page.h"
#include "base/mem.h"

#define N 57

struct item {
	uint64_t ns;
	char id[ID_LEN + 1];
	bool there, shown;
};

static void make_items(struct item *items)
{
	for (unsigned i = 0; i < N; i++) { /* often several of one instant */
		items[i] = (struct item){.ns = 1000 + i / 3, .there = true};
		id_new('i', items[i].id);
	}
}

/* One page of what is there; what it shows is marked, and must not have been shown before. */
static size_t take_page(struct item *items, const char *order, char token[64])
{
	struct reply y = {0};
	struct page p;
	json_t *v;
	size_t i, n;

	assert_int_equal(page_init(&p, "5", order, token, 100, NULL), 0);
	for (unsigned k = 0; k < N; k++) {
		struct item *x = &items[k * 23 % N]; /* in no order */

		if (x->there && page_wants(&p, x->ns, x->id) && page_has_room(&p, x->ns, x->id))
			page_add(&p, x->ns, x->id, json_string(x->id));
		assert_true(p.n <= 10);
	}
	assert_int_equal(page_reply(&p, &y), 0);
	json_array_foreach (y.json, i, v)
		for (unsigned k = 0; k < N; k++)
			if (!strcmp(items[k].id, json_string_value(v))) {
				assert_false(items[k].shown);
				items[k].shown = true;
			}
	n = json_array_size(y.json);
	json_decref(y.json);
	memcpy(token, y.next_token, 64);
	return n;
}

/* Between any two pages some are deleted, the one that the token names among them. */
static void all_pages(const char *order)
{
	struct item items[N];
	char token[64] = "";
	unsigned pages = 0;

	make_items(items);
	do {
		size_t n = take_page(items, order, token);

		assert_true(n == 5 || !token[0]);
		for (unsigned k = 0; k < N; k++)
			if (items[k].shown && token[0] && strstr(token, items[k].id))
				items[k].there = false;
		items[(pages * 7 + 11) % N].there = false;
	} while (token[0] && ++pages < N);
	assert_in_range(pages, 5, N / 5 + 1);
	for (unsigned k = 0; k < N; k++)
		assert_true(items[k].shown || !items[k].there);
}

static void test_pages(void **state)
{
	all_pages(NULL);
	all_pages("desc");
	all_pages("asc");
}

static void test_order(void **state)
{
	static const char *const ids[] = {"i00000000000000000001", "i00000000000000000002",
					  "i00000000000000000003"};
	struct reply y = {0};
	struct page p;

	assert_int_equal(page_init(&p, NULL, NULL, NULL, 2, NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		page_add(&p, i == 0 ? 5 : 7, ids[i], json_string(ids[i]));
	assert_int_equal(page_reply(&p, &y), 0);
	assert_int_equal(json_array_size(y.json), 2);
	assert_string_equal(json_string_value(json_array_get(y.json, 0)), ids[2]);
	assert_string_equal(y.next_token, "0000000000000007-i00000000000000000002");
	json_decref(y.json);
	y = (struct reply){0};
	assert_int_equal(page_init(&p, NULL, NULL, NULL, 0, NULL), 0); /* all */
	for (unsigned i = 0; i < 3; i++)
		page_add(&p, 1, ids[i], json_null());
	assert_int_equal(page_reply(&p, &y), 0);
	assert_int_equal(json_array_size(y.json), 3);
	assert_string_equal(y.next_token, "");
	json_decref(y.json);
	assert_int_equal(page_init(&p, NULL, NULL, NULL, 0, NULL), 0);
	page_add(&p, 1, ids[0], NULL); /* no memory */
	assert_int_equal(page_reply(&p, &y), -ENOMEM);
}

static void refused(const char *limit, const char *order, const char *token, const char *word)
{
	struct problem problem = PROBLEM_INIT;
	struct page p;

	assert_int_equal(page_init(&p, limit, order, token, 100, &problem), -EINVAL);
	assert_int_equal(problem.status, 400);
	assert_ptr_equal(strstr(problem.message, word), problem.message);
}

static void test_refuse(void **state)
{
	refused("0", NULL, NULL, "limit");
	refused("1001", NULL, NULL, "limit");
	refused("-1", NULL, NULL, "limit");
	refused("x", NULL, NULL, "limit");
	refused(NULL, "up", NULL, "order");
	refused(NULL, "", NULL, "order");
	refused(NULL, NULL, "x", "nextToken");
	refused(NULL, NULL, "0000000000000007", "nextToken");
	refused(NULL, NULL, "0000000000000007-", "nextToken");
	refused(NULL, NULL, "0000000000000007-i0000000000000000000/", "nextToken");
	refused(NULL, NULL, "0000000000000007-i000000000000000000022", "nextToken");
	refused(NULL, NULL, "00000000000000007-i00000000000000000002", "nextToken");
}

TEST_MAIN(cmocka_unit_test(test_pages), cmocka_unit_test(test_order), cmocka_unit_test(test_refuse))
