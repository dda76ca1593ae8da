/* SPDX-License-Identifier: Apache-2.0 */
#include "base/varint.h"

#include <errno.h>

int varint_get(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
	const uint8_t *q = *p;
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70; shift += 7) {
		uint8_t b;

		if (q >= end)
			return -EBADMSG;
		b = *q++;
		if (shift == 63 && b > 1)
			return -EBADMSG; /* more than 64 bits */
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			if (b == 0 && shift)
				return -EBADMSG; /* padded */
			*p = q;
			*ret = v;
			return 0;
		}
	}
	return -EBADMSG;
}
