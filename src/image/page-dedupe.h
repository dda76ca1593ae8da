/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * page-dedupe.h - has a page with this content been stored already, and where?
 *
 *     page_dedupe_find() -> found: use that slot
 *                        -> not found: store it, then page_dedupe_add() with the slot it got
 *
 * One per writer, with a random key of its own. One thread. See page-dedupe.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"

#define PAGE_DEDUPE_MAX_ENTRIES (1u << 21) /* of the table; three quarters of it are ever used */

struct page_dedupe;

/** page_dedupe_new() - remembers nothing yet. Return: 0; -ENOMEM */
int page_dedupe_new(struct page_dedupe **ret);
struct page_dedupe *page_dedupe_free(struct page_dedupe *d);
DEFINE_CLEANUP(struct page_dedupe *, page_dedupe_free)

/**
 * page_dedupe_find() - look for the content of @page (DORM_PAGE_SIZE bytes)
 * @ret_slot: filled when it is known
 * Return: 1 known; 0 not known; -ENOMEM
 */
int page_dedupe_find(struct page_dedupe *d, const void *page, uint32_t *ret_slot);

/** page_dedupe_add() - what the last find did not know is at @slot; forgotten beyond the limit */
void page_dedupe_add(struct page_dedupe *d, uint32_t slot);
