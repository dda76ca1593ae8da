/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/reference.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/str.h"

/* Return: was it a name? */
static bool take(const char *text, size_t len, char ret[REFERENCE_NAME])
{
	if (len >= REFERENCE_NAME)
		return false;
	memcpy(ret, text, len);
	ret[len] = 0;
	return str_is_name(ret);
}

int reference_parse(const char *text, struct problem *problem, char ret[REFERENCE_NAME])
{
	const char *slash = strchr(text, '/'), *start = slash ? slash + 1 : text;
	const char *tag = start + strcspn(start, ":");
	char space[REFERENCE_NAME], name[REFERENCE_NAME];

	if ((slash && !take(text, (size_t)(slash - text), space)) ||
	    !take(start, (size_t)(tag - start), name)) {
		problem_set(problem, 400, "name: '%.64s' is not a name", text);
		problem_hint(problem, "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
		return -EINVAL;
	}
	if (*tag && strcmp(tag, ":default") != 0 && strcmp(tag, ":latest") != 0) {
		problem_set(problem, 400, "name: '%.128s': a name has no tags but default", text);
		problem_hint(problem, "put the version into the name: %s-v2", name);
		return -EINVAL;
	}
	memcpy(ret, name, sizeof(name));
	return 0;
}
