/* SPDX-License-Identifier: Apache-2.0 */
#include "channel/sparse.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"

#define LARGE (8u << 10)

void *sparse_alloc(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void sparse_free(void *p, size_t bytes)
{
	if (p)
		(void)munmap(p, bytes); /* only fails for what was not allocated */
}

/* In front of every block that nghttp2 has: it does not say how large what it frees is. */
union header {
	size_t bytes; /* with the header */
	max_align_t align;
};

static void *take(size_t size, void *user)
{
	size_t bytes = sizeof(union header) + size;
	union header *h;

	if (size > SIZE_MAX - sizeof(*h))
		return NULL;
	h = size >= LARGE ? sparse_alloc(bytes) : malloc(bytes);
	if (!h)
		return NULL;
	h->bytes = bytes;
	return h + 1;
}

static void give(void *p, void *user)
{
	union header *h = p ? (union header *)p - 1 : NULL;

	if (!h)
		return;
	if (h->bytes - sizeof(*h) >= LARGE)
		sparse_free(h, h->bytes);
	else
		free(h);
}

static void *take_zeroed(size_t n, size_t size, void *user)
{
	void *p = size && n > SIZE_MAX / size ? NULL : take(n * size, user);

	if (p && n * size < LARGE) /* what is larger is zero already */
		memset(p, 0, n * size);
	return p;
}

static void *take_more(void *old, size_t size, void *user)
{
	void *p = take(size, user);

	if (p && old) {
		memcpy(p, old, MIN(size, ((union header *)old - 1)->bytes - sizeof(union header)));
		give(old, user);
	}
	return p;
}

nghttp2_mem *sparse_mem(void)
{
	static nghttp2_mem mem = {NULL, take, give, take_zeroed, take_more};

	return &mem;
}
