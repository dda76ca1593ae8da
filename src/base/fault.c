/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define DEFAULT_N 10u
#define FILE_MAX  65536u

static const char *const names[] = {
	[FAULT_NONE] = "none",	   [FAULT_KILL] = "kill", [FAULT_ERROR] = "error",
	[FAULT_ENOSPC] = "enospc", [FAULT_VMM] = "vmm",	  [FAULT_PAGER] = "pager",
	[FAULT_HANG] = "hang",
};
static_assert(ARRAY_SIZE(names) == FAULT_N_KINDS, "every kind has a name");

static const char *wanted; /* DORM_FAULT; constant once it was looked at */

static void look(void)
{
	wanted = getenv("DORM_FAULT");
}

const char *fault_kind_name(enum fault_kind kind)
{
	assert(kind < FAULT_N_KINDS);
	return names[kind];
}

static bool take(const char **p, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*p, word, n) != 0)
		return false;
	*p += n;
	return true;
}

static enum fault_kind take_kind(const char *p, unsigned *ret_n)
{
	for (unsigned kind = FAULT_KILL; kind < FAULT_N_KINDS; kind++) {
		const char *rest = p;

		if (!take(&rest, names[kind]) || !strchr("=,\n", *rest))
			continue;
		*ret_n = *rest == '=' ? (unsigned)strtoul(rest + 1, NULL, 10) : DEFAULT_N;
		return (enum fault_kind)kind;
	}
	return FAULT_NONE;
}

enum fault_kind fault_parse(const char *text, const char *operation, const char *step,
			    unsigned *ret_n)
{
	while (*text) {
		const char *p = text;

		if (take(&p, operation) && take(&p, ".") && take(&p, step) && take(&p, ":")) {
			enum fault_kind kind = take_kind(p, ret_n);

			if (kind)
				return kind;
		}
		text += strcspn(text, ",\n");
		text += *text != 0;
	}
	return FAULT_NONE;
}

enum fault_kind fault_at(const char *operation, const char *step, unsigned *ret_n)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	_cleanup_free_ char *text = NULL;
	enum fault_kind kind;

	pthread_once(&once, look);
	if (!wanted)
		return FAULT_NONE;
	if (wanted[0] == '@' && file_read(AT_FDCWD, wanted + 1, FILE_MAX, &text, NULL) < 0)
		return FAULT_NONE;
	kind = fault_parse(text ? text : wanted, operation, step, ret_n);
	if (kind && text && truncate(wanted + 1, 0) < 0)
		kind = FAULT_NONE; /* it is to happen once */
	if (kind == FAULT_KILL)
		(void)raise(SIGKILL);
	return kind;
}
