/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * page.h - one page of a long list, in the order in which its items were made
 *
 *     page_init()     from the query: limit, order, nextToken
 *     page_wants()    for every item there is, in any order: does it lie behind the token?
 *     page_has_room() those that do, and that the client's filters let through: can they be on it?
 *     page_add()      those that can
 *     page_reply()    the first ones, and the token of the next page if there are more
 *
 * An item's place is its time of creation and, among those of one instant, its id. Neither changes,
 * and the token is the place of the last item shown, not that item: so whatever is made or deleted
 * between two pages, what exists all the while is shown exactly once.
 *
 *     items   a@5 b@7 c@7 d@9, newest first, limit 2     shows d c, token 7-c
 *     c is deleted, e@11 is made                         token 7-c shows b a
 *
 * However many items there are, no more than two pages of them are kept. One thread.
 */
#include "api/request.h"

#define PAGE_MAX 1000u

struct page_item {
	uint64_t created_ns;
	char id[ID_LEN + 1];
	json_t *json; /* owned */
};

struct page {
	uint64_t limit; /* 0: all */
	bool ascending; /* oldest first; otherwise newest first */
	bool has_after;
	uint64_t after_ns;
	char after_id[ID_LEN + 1];
	struct page_item *items;
	size_t n, cap;
	size_t n_sorted; /* items that are in order, and the first */
	bool more;	 /* there are some behind the page */
	int error;
};

/**
 * page_init() - @limit, @order, @token: of the query, each may be NULL
 * @default_limit: 0: all
 * Return: 0; -EINVAL with a 400 that names the parameter
 */
int page_init(struct page *p, const char *limit, const char *order, const char *token,
	      uint64_t default_limit, struct problem *problem);
void page_deinit(struct page *p);

/** page_wants() - is its place behind the token? */
bool page_wants(const struct page *p, uint64_t created_ns, const char *id);

/** page_has_room() - or are there as many already that come before it? */
bool page_has_room(struct page *p, uint64_t created_ns, const char *id);

/** page_add() - steals @json; NULL is remembered as lack of memory */
void page_add(struct page *p, uint64_t created_ns, const char *id, json_t *json);

/** page_reply() - a 200 with the page; nothing is left in @p. Return: 0; -ENOMEM */
int page_reply(struct page *p, struct reply *y);
