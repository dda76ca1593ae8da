/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/watch.h"

#define FREE	0
#define FILLING 1

void watch_begin(struct session *s, uint64_t since_ns, uint64_t what)
{
	for (uint32_t i = 0; i < SESSION_WAITS; i++) {
		struct session_wait *w = &s->waits[i];
		uint64_t free_place = FREE;

		if (__atomic_load_n(&w->since_ns, __ATOMIC_RELAXED) != FREE ||
		    !__atomic_compare_exchange_n(&w->since_ns, &free_place, FILLING, false,
						 __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		__atomic_store_n(&w->what, what, __ATOMIC_RELAXED);
		__atomic_store_n(&w->since_ns, since_ns, __ATOMIC_RELEASE);
		return;
	}
}

void watch_end(struct session *s, uint64_t since_ns, uint64_t what)
{
	for (uint32_t i = 0; i < SESSION_WAITS; i++) {
		struct session_wait *w = &s->waits[i];
		uint64_t seen = since_ns;

		/* a frame is brought by one thread at a time, so nobody else has the same note */
		if (__atomic_load_n(&w->since_ns, __ATOMIC_ACQUIRE) == since_ns &&
		    __atomic_load_n(&w->what, __ATOMIC_RELAXED) == what &&
		    __atomic_compare_exchange_n(&w->since_ns, &seen, FREE, false, __ATOMIC_RELEASE,
						__ATOMIC_RELAXED))
			return;
	}
}

void watch_look(const struct session *s, uint64_t now_ns, uint64_t stuck_ns,
		struct watch_report *ret)
{
	*ret = (struct watch_report){0};
	for (uint32_t i = 0; i < SESSION_WAITS; i++) {
		const struct session_wait *w = &s->waits[i];
		uint64_t since = __atomic_load_n(&w->since_ns, __ATOMIC_ACQUIRE);
		uint64_t what = __atomic_load_n(&w->what, __ATOMIC_RELAXED);

		if (since <= FILLING || since >= now_ns)
			continue;
		ret->n_stuck += now_ns - since >= stuck_ns;
		if (now_ns - since <= ret->oldest_ns)
			continue;
		ret->oldest_ns = now_ns - since;
		ret->direct = what & WATCH_MARK;
		ret->layer = (uint32_t)(what >> 32);
		ret->frame = (uint32_t)(what & (WATCH_MARK - 1));
	}
}
