/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/exited.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Drop all from the @keep-th on that is behind it, or old. The list is in the order of time. */
static void prune(struct exited_list *l, unsigned keep)
{
	struct exited **at = &l->first;
	uint64_t now_ns = clock_now_ns();

	for (; *at && keep && (*at)->end_ns > now_ns; keep--)
		at = &(*at)->next;
	while (*at) {
		struct exited *e = *at;

		*at = e->next;
		l->n--;
		free(e->tag);
		free(e);
	}
}

void exited_add(struct exited_list *l, pid_t pid, const char *tag, int wait_status,
		uint64_t duration_ns)
{
	struct exited *e = calloc(1, sizeof(*e));
	char *copy = tag ? strdup(tag) : NULL;

	if (!e || (tag && !copy)) {
		free(copy);
		free(e);
		return;
	}
	prune(l, EXITED_MAX - 1);
	*e = (struct exited){.next = l->first,
			     .pid = pid,
			     .tag = copy,
			     .wait_status = wait_status,
			     .duration_ns = duration_ns,
			     .end_ns = deadline_after_ms(EXITED_KEEP_MS)};
	l->first = e;
	l->n++;
}

const struct exited *exited_find(struct exited_list *l, pid_t pid, const char *tag)
{
	prune(l, EXITED_MAX);
	for (const struct exited *e = l->first; e; e = e->next)
		if (tag ? e->tag && !strcmp(e->tag, tag) : e->pid == pid)
			return e;
	return NULL;
}

void exited_clear(struct exited_list *l)
{
	prune(l, 0);
}
