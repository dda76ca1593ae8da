/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void error_trace_slow(int r, const char *file, int line, const char *func)
{
	static int enabled = -1;

	if (enabled < 0) {
		const char *e = getenv("DORM_TRACE");
		enabled = e && *e == '1';
	}
	if (enabled)
		fprintf(stderr, "trace: %s:%d %s(): %s\n", file, line, func, strerrordesc_np(-r));
}
