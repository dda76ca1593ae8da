/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * wide-xxhash.h - <xxhash.h> with the widest vectors that this processor has
 *
 * A distribution's libxxhash is built for the oldest processor of its kind. Where it also has the
 * functions that choose at run time (the build asks), this header puts them in the place of
 * XXH3_64bits_withSeed() and the other one-shot functions: three to six times as fast, same
 * results.
 */
#ifdef DORM_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif
