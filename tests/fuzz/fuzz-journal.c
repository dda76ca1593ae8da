/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-journal.c - any bytes as a session's record in a pager's journal
 *
 * What is accepted keeps its promises, and is the same after it was written and read again. What is
 * refused says why.
 */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "fuzz.h"
#include "pager/journal.h"

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void check(const struct journal_entry *e)
{
	require(str_is_name(e->name));
	require(e->n_pages > 0 && e->n_pages <= IMAGE_MAX_PAGES);
	require(e->mode > SESSION_AUTO && e->mode < SESSION_N_MODES);
	require(strlen(e->image_id) == IMAGE_ID_LEN && strlen(e->memory_id) == IMAGE_ID_LEN);
	require(!e->directory[0] || e->directory[0] == '/');
	require(e->load <= JOB_FULL);
	require(e->pid >= 0 && e->pid != 1 && (e->pid > 0) == (e->map.n_regions > 0));
	for (uint32_t i = 0; i < e->map.n_regions; i++) {
		const struct handshake_region *g = &e->map.regions[i];

		require(g->hva > 0 && g->n_pages > 0 && g->gfn < e->n_pages &&
			g->n_pages <= e->n_pages - g->gfn);
	}
}

static void check_again(const struct journal_entry *e)
{
	_cleanup_free_ char *text = journal_encode(e);
	struct journal_entry *again = malloc(sizeof(*again));
	struct problem problem = PROBLEM_INIT;

	require(text && again);
	require(strlen(text) <= JOURNAL_MAX_BYTES);
	require(journal_decode(text, strlen(text), &problem, again) == 0);
	require(memcmp(e, again, sizeof(*e)) == 0);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct journal_entry *e = calloc(1, sizeof(*e));
	struct problem problem = PROBLEM_INIT;
	int r;

	require(e != NULL);
	r = journal_decode((const char *)data, len, &problem, e);
	require(r >= 0 && (r == JOURNAL_E_DAMAGED) == problem_is_set(&problem));
	if (r == 0) {
		check(e);
		check_again(e);
	}
	free(e);
	return 0;
}
