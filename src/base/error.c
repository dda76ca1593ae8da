/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void error_trace_slow(int r, const char *file, int line, const char *func)
{
	static int known = -1; /* atomic: threads may fail for the first time together */
	int enabled = __atomic_load_n(&known, __ATOMIC_RELAXED);

	if (enabled < 0) {
		const char *e = getenv("DORM_TRACE");
		enabled = e && *e == '1';
		__atomic_store_n(&known, enabled, __ATOMIC_RELAXED);
	}
	if (enabled)
		fprintf(stderr, "trace: %s:%d %s(): %s\n", file, line, func, strerrordesc_np(-r));
}
