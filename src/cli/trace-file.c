/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace-file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/problem.h"
#include "cli/output.h"

int trace_file_write(const char *path, const json_t *answer)
{
	const json_t *trace = json_object_get(answer, "trace");
	struct problem problem = PROBLEM_INIT;

	errno = 0;
	if (!trace)
		problem_set(&problem, 500, "dormd sent no trace: nothing was done, or it is older");
	else if (json_dump_file(trace, path, JSON_COMPACT) < 0)
		problem_set(&problem, 500, "%s cannot be written: %s", path,
			    strerror(errno ? errno : EIO));
	else
		return 0;
	output_problem(&problem);
	return -1;
}
