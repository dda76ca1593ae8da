/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* outcome.h - the two outcomes of reading somebody's files, with the sentence that explains them */
#include "base/problem.h"
#include "image/image.h"

/* of layer, map and manifest; docs/format-image.md, "Versions" */
#define FORMAT_MAJOR  2 /* what is written */
#define FORMAT_MINOR  0
#define FORMAT_OLDEST 1 /* what is still read */

/** image_corrupt() - describe damage; evaluates to IMAGE_E_CORRUPT */
#define image_corrupt(_problem, ...) (problem_set((_problem), 500, __VA_ARGS__), IMAGE_E_CORRUPT)

/**
 * image_check_version() - can this program read @what, which says it is of @major.@minor?
 * Return: 0; IMAGE_E_VERSION; IMAGE_E_CORRUPT for a version that never was
 */
static inline int image_check_version(const char *what, uint64_t major, uint64_t minor,
				      struct problem *problem)
{
	if (major >= FORMAT_OLDEST && major <= FORMAT_MAJOR)
		return 0;
	if (major == 0)
		return image_corrupt(problem, "%s: format version 0 never existed", what);
	problem_set(problem, 500,
		    "%s: written by a newer Dormouse (format %llu.%llu, this program reads %d.x)",
		    what, (unsigned long long)major, (unsigned long long)minor, FORMAT_MAJOR);
	problem_hint(problem, "upgrade Dormouse on this host");
	return IMAGE_E_VERSION;
}
