/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * sparse.h - large blocks that are seldom filled
 *
 * A channel at rest has two buffers of 16 KiB, its own and nghttp2's, of which it has used a few
 * hundred bytes. From the heap they would be of memory that others have touched before, and stay
 * resident; a block with pages of its own takes what was touched of it.
 */
#include <nghttp2/nghttp2.h>
#include <stddef.h>

/** sparse_alloc() - zeroed; NULL without memory */
void *sparse_alloc(size_t bytes);
/** sparse_free() - @bytes: as allocated; @p may be NULL */
void sparse_free(void *p, size_t bytes);

/** sparse_mem() - for nghttp2: what is large has pages of its own. Constant; any thread */
nghttp2_mem *sparse_mem(void);
