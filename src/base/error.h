/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * error.h - the error policy of the whole tree
 *
 * Functions return int: 0 is done; a positive value is an outcome of that module, documented in its
 * header and handled by the direct caller; a negative value is an errno nobody expected, and is
 * passed up unchanged through error_trace().
 *
 * error_trace() costs one predicted branch when nothing failed. When something did, it leaves one
 * debug line per frame it passes through, which is the stack of an error (DORM_TRACE=1 shows it).
 */
#include <errno.h>

void error_trace_slow(int r, const char *file, int line, const char *func);

/** error_trace() - forward @r, leaving a trace line when it is negative */
#define error_trace(_r)                                                                            \
	({                                                                                         \
		int _error_r = (_r);                                                               \
		if (__builtin_expect(_error_r < 0, 0))                                             \
			error_trace_slow(_error_r, __FILE__, __LINE__, __func__);                  \
		_error_r;                                                                          \
	})

/** error_errno() - the current errno as a negative return value, traced; never 0 */
#define error_errno() error_trace(errno > 0 ? -errno : -EIO)
