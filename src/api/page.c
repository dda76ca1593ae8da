/* SPDX-License-Identifier: Apache-2.0 */
#include "api/page.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "base/mem.h"
#include "base/str.h"

/* "00000179d2b3c4d5-i4x...": the time in hexadecimal, the id. Return: was it one? */
static bool parse_token(const char *token, struct page *p)
{
	size_t digits = strspn(token, "0123456789abcdef");

	if (digits != 16 || token[16] != '-' || !id_is_valid(token + 17))
		return false;
	p->after_ns = strtoull(token, NULL, 16);
	str_copy(p->after_id, sizeof(p->after_id), token + 17);
	p->has_after = true;
	return true;
}

int page_init(struct page *p, const char *limit, const char *order, const char *token,
	      uint64_t default_limit, struct problem *problem)
{
	int r;

	*p = (struct page){.limit = default_limit};
	r = fields_query_uint(limit, "limit", 1, PAGE_MAX, problem, &p->limit);
	if (r < 0)
		return r;
	if (order && strcmp(order, "asc") && strcmp(order, "desc")) {
		problem_set(problem, 400, "order: '%.32s' is neither asc nor desc", order);
		return -EINVAL;
	}
	p->ascending = order && !strcmp(order, "asc");
	if (token && *token && !parse_token(token, p)) {
		problem_set(problem, 400, "nextToken: '%.64s' was not given by this API", token);
		problem_hint(problem, "it is what the header x-next-token of a page said");
		return -EINVAL;
	}
	return 0;
}

void page_deinit(struct page *p)
{
	for (size_t i = 0; i < p->n; i++)
		json_decref(p->items[i].json);
	free(p->items);
	*p = (struct page){0};
}

static int compare_places(uint64_t a_ns, const char *a, uint64_t b_ns, const char *b)
{
	return a_ns != b_ns ? (a_ns < b_ns ? -1 : 1) : strcmp(a, b);
}

bool page_wants(const struct page *p, uint64_t created_ns, const char *id)
{
	int c;

	if (!p->has_after)
		return true;
	c = compare_places(created_ns, id, p->after_ns, p->after_id);
	return p->ascending ? c > 0 : c < 0;
}

bool page_has_room(struct page *p, uint64_t created_ns, const char *id)
{
	const struct page_item *last;
	int c;

	if (!p->limit || p->n_sorted < p->limit)
		return true;
	last = &p->items[p->limit - 1];
	c = compare_places(created_ns, id, last->created_ns, last->id);
	if (p->ascending ? c < 0 : c > 0)
		return true;
	p->more = true;
	return false;
}

static int oldest_first(const void *va, const void *vb)
{
	const struct page_item *a = va, *b = vb;

	return compare_places(a->created_ns, a->id, b->created_ns, b->id);
}

static int newest_first(const void *va, const void *vb)
{
	return oldest_first(vb, va);
}

/* In order, and no more than a page. */
static void prune(struct page *p)
{
	if (p->n)
		qsort(p->items, p->n, sizeof(*p->items),
		      p->ascending ? oldest_first : newest_first);
	while (p->limit && p->n > p->limit) {
		json_decref(p->items[--p->n].json);
		p->more = true;
	}
	p->n_sorted = p->n;
}

void page_add(struct page *p, uint64_t created_ns, const char *id, json_t *json)
{
	if (p->limit && p->n >= 2 * p->limit)
		prune(p);
	if (!json || mem_grow(&p->items, &p->cap, p->n, sizeof(*p->items)) < 0) {
		json_decref(json);
		p->error = -ENOMEM;
		return;
	}
	p->items[p->n] = (struct page_item){.created_ns = created_ns, .json = json};
	str_copy(p->items[p->n].id, sizeof(p->items[0].id), id);
	p->n++;
}

int page_reply(struct page *p, struct reply *y)
{
	json_t *all = json_array();
	int r = all ? p->error : -ENOMEM;

	prune(p);
	for (size_t i = 0; r == 0 && i < p->n; i++)
		r = json_array_append(all, p->items[i].json) < 0 ? -ENOMEM : 0;
	if (r == 0 && p->more)
		(void)snprintf(y->next_token, sizeof(y->next_token), "%016" PRIx64 "-%s", /* fits */
			       p->items[p->n - 1].created_ns, p->items[p->n - 1].id);
	page_deinit(p);
	if (r == 0)
		return reply_json(y, 200, all);
	json_decref(all);
	return r;
}
