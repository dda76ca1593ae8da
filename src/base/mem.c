/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#define FIRST_ELEMENTS 64ul

int mem_grow(void *array, size_t *cap, size_t n, size_t size)
{
	size_t more = *cap ? 2 * *cap : FIRST_ELEMENTS;
	void *p;

	if (n < *cap)
		return 0;
	memcpy(&p, array, sizeof(p)); /* a pointer of whatever type */
	p = reallocarray(p, more, size);
	if (!p)
		return -ENOMEM;
	memcpy(array, &p, sizeof(p));
	*cap = more;
	return 0;
}
