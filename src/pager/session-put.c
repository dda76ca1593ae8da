/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done to a VM's memory: waking, zeros, copies, mappings, and leaving it alone
 *
 * Guest pages lie in regions, so every run is cut into pieces (session_piece()), each a stretch of
 * addresses. What is there already is passed over, but whoever waits for it is woken: a thread that
 * waits for a page that exists would not be told by anybody else.
 *
 * When the VM changes its mappings the kernel says EAGAIN until its event has been read. Nothing
 * here insists: all pieces that are left are woken, and whoever waits asks again.
 */
#include "pager/session.h"

#include <errno.h>

#include "sys/uffd.h"

static const uint8_t zero_page[DORM_PAGE_SIZE] __attribute__((aligned(4096)));

bool session_gfn(const struct session *s, uint64_t hva, uint64_t *ret)
{
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];

		if (hva < g->hva || hva - g->hva >= g->n_pages * DORM_PAGE_SIZE)
			continue;
		*ret = g->gfn + (hva - g->hva) / DORM_PAGE_SIZE;
		return true;
	}
	return false;
}

bool session_piece(const struct session *s, uint64_t *gfn, uint64_t *n_pages, uint64_t *ret_hva,
		   uint64_t *ret_len)
{
	const struct handshake_region *best = NULL;
	uint64_t end = *gfn + *n_pages, begin = 0, n;

	/* regions are in the order of addresses, not of guest pages */
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];

		if (g->gfn >= end || g->gfn + g->n_pages <= *gfn)
			continue;
		if (!best || g->gfn < best->gfn)
			best = g;
	}
	if (!best)
		return false;
	begin = MAX(*gfn, best->gfn);
	n = MIN(end, best->gfn + best->n_pages) - begin;
	*ret_hva = best->hva + (begin - best->gfn) * DORM_PAGE_SIZE;
	*ret_len = n * DORM_PAGE_SIZE;
	*gfn = begin + n;
	*n_pages = end - *gfn;
	return true;
}

void session_wake(struct session *s, uint64_t gfn, uint64_t n_pages)
{
	uint64_t hva, len;

	/* attaching may be under way; what waits there has not been read, and will be */
	if (session_state(s) == SESSION_LISTENING)
		return;
	while (n_pages && session_piece(s, &gfn, &n_pages, &hva, &len))
		(void)uffd_wake(s->uffd, hva, len); /* checked regions: it cannot fail */
}

/*
 * A write-protect marker on a page that was never there makes UFFDIO_ZEROPAGE say EEXIST for ever;
 * UFFDIO_COPY replaces markers. So where a thread waits for a page that "exists", copy: if it
 * really exists by now, that fails in the same way, and the wake is all that was needed.
 */
static int zero_over_marker(struct session *s, uint64_t hva, uint64_t *installed)
{
	uint64_t done;
	int r = uffd_copy(s->uffd, hva, zero_page, DORM_PAGE_SIZE, &done);

	*installed += done / DORM_PAGE_SIZE;
	return r == -EEXIST ? 0 : r;
}

static int zero_range(struct session *s, uint64_t hva, uint64_t len, uint64_t focus_hva,
		      uint64_t *installed)
{
	uint64_t done;

	for (uint64_t i = 0; i < len; i += done) {
		int r = uffd_zeropage(s->uffd, hva + i, len - i, &done);

		*installed += done / DORM_PAGE_SIZE;
		if (r == 0 || done)
			continue;
		if (r == -EEXIST)
			r = hva + i == focus_hva ? zero_over_marker(s, hva + i, installed) : 0;
		if (r < 0)
			return r;
		done = DORM_PAGE_SIZE;
	}
	return 0;
}

int session_zero(struct session *s, uint64_t gfn, uint64_t n_pages, uint64_t focus,
		 uint64_t *ret_installed)
{
	uint64_t hva, len;
	int r = 0;

	while (n_pages && session_piece(s, &gfn, &n_pages, &hva, &len)) {
		uint64_t first = gfn - len / DORM_PAGE_SIZE;
		uint64_t focus_hva =
			focus == UINT64_MAX ? 0 : hva + (focus - first) * DORM_PAGE_SIZE;

		/* once one failed, the other pieces are still to be woken: the focus may lie there
		 */
		if (r == 0)
			r = zero_range(s, hva, len, focus_hva, ret_installed);
		(void)uffd_wake(s->uffd, hva, len);
	}
	return r;
}

/* How far from @gfn do pages go that were not given back? And @skip: how many were, before. */
static uint64_t not_removed(const struct session *s, uint64_t gfn, uint64_t n, uint64_t *skip)
{
	uint64_t len = 0;

	*skip = 0;
	if (!slate_has_removed(&s->slate))
		return n;
	while (*skip < n && session_is_removed(s, gfn + *skip))
		(*skip)++;
	while (*skip + len < n && !session_is_removed(s, gfn + *skip + len))
		len++;
	return len;
}

typedef int put_fn(struct session *s, uint64_t hva, const uint8_t *src, uint64_t len,
		   uint64_t *ret_done);

static int put_copy(struct session *s, uint64_t hva, const uint8_t *src, uint64_t len,
		    uint64_t *ret_done)
{
	return uffd_copy(s->uffd, hva, src, len, ret_done);
}

static int put_mapping(struct session *s, uint64_t hva, const uint8_t *src, uint64_t len,
		       uint64_t *ret_done)
{
	(void)src;
	return uffd_continue(s->uffd, hva, len, ret_done);
}

/* One stretch of addresses. What is there already, or cannot be mapped, is passed over. */
static int put_range(struct session *s, put_fn *put, uint64_t hva, const uint8_t *src, uint64_t len,
		     uint64_t *ret_pages)
{
	uint64_t done;

	for (uint64_t i = 0; i < len; i += done) {
		int r = put(s, hva + i, src ? src + i : NULL, len - i, &done);

		*ret_pages += done / DORM_PAGE_SIZE;
		if (r == 0 || done)
			continue;
		if (r != -EEXIST && !(r == -EFAULT && put == put_mapping))
			return r;
		/* the thread that waits for a page that is there has to be told */
		(void)uffd_wake(s->uffd, hva + i, DORM_PAGE_SIZE);
		done = DORM_PAGE_SIZE;
	}
	return 0;
}

/* The regions, and in them what was not given back. The caller has the lock if it is needed. */
static int put_pages(struct session *s, put_fn *put, uint64_t gfn, uint64_t n_pages,
		     const uint8_t *src, uint64_t *ret_pages)
{
	const uint64_t first = gfn;
	uint64_t hva, len;
	int r = 0;

	while (r == 0 && n_pages && session_piece(s, &gfn, &n_pages, &hva, &len)) {
		uint64_t at = gfn - len / DORM_PAGE_SIZE, skip, n;

		for (; r == 0 && at < gfn; at += skip + n) {
			uint64_t to = hva + (at - (gfn - len / DORM_PAGE_SIZE)) * DORM_PAGE_SIZE;

			n = not_removed(s, at, gfn - at, &skip);
			if (skip) /* whoever waits there is to ask again, for zeros */
				(void)uffd_wake(s->uffd, to, skip * DORM_PAGE_SIZE);
			r = put_range(s, put, to + skip * DORM_PAGE_SIZE,
				      src ? src + (at + skip - first) * DORM_PAGE_SIZE : NULL,
				      n * DORM_PAGE_SIZE, ret_pages);
		}
		if (r == -EAGAIN) { /* of all pieces that are left: the focus may lie there */
			(void)uffd_wake(s->uffd, hva, len);
			session_wake(s, gfn, n_pages);
		}
	}
	return r;
}

static int put_locked(struct session *s, put_fn *put, uint64_t gfn, uint64_t n_pages,
		      const uint8_t *src, uint64_t *ret_pages)
{
	int r;

	if (!s->can_remove)
		return put_pages(s, put, gfn, n_pages, src, ret_pages);
	pthread_rwlock_rdlock(&s->remove_lock);
	r = put_pages(s, put, gfn, n_pages, src, ret_pages);
	pthread_rwlock_unlock(&s->remove_lock);
	return r;
}

int session_copy(struct session *s, uint64_t gfn, uint64_t n_pages, const uint8_t *src,
		 uint64_t *ret_copied)
{
	uint64_t copied = 0;
	int r = put_locked(s, put_copy, gfn, n_pages, src, &copied);

	if (r == 0)
		slate_install(&s->slate, gfn, n_pages);
	__atomic_fetch_add(&s->n.pages_copied, copied, __ATOMIC_RELAXED);
	*ret_copied += copied;
	return r;
}

int session_continue(struct session *s, uint64_t gfn, uint64_t n_pages, uint64_t *ret_continued)
{
	uint64_t continued = 0;
	int r = put_locked(s, put_mapping, gfn, n_pages, NULL, &continued);

	__atomic_fetch_add(&s->n.pages_continued, continued, __ATOMIC_RELAXED);
	*ret_continued += continued;
	return r;
}

void session_remove(struct session *s, uint64_t hva, uint64_t end)
{
	for (uint32_t i = 0; i < s->map.n_regions; i++) {
		const struct handshake_region *g = &s->map.regions[i];
		uint64_t from = MAX(hva, g->hva);
		uint64_t to = MIN(end, g->hva + g->n_pages * DORM_PAGE_SIZE);

		if (from < to)
			slate_remove(&s->slate, g->gfn + (from - g->hva) / DORM_PAGE_SIZE,
				     (to - from) / DORM_PAGE_SIZE);
	}
}

int session_unregister(struct session *s, uint32_t *ret_n)
{
	for (*ret_n = 0; *ret_n < s->map.n_regions; ++*ret_n) {
		const struct handshake_region *g = &s->map.regions[*ret_n];
		int r = uffd_unregister(s->uffd, g->hva, g->n_pages * DORM_PAGE_SIZE);

		if (r < 0)
			return r;
	}
	return 0;
}
