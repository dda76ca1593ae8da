/* SPDX-License-Identifier: Apache-2.0 */
#include "base/problem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void problem_set(struct problem *p, int status, const char *fmt, ...)
{
	va_list ap;

	if (!p || p->message[0])
		return;
	p->status = status;
	va_start(ap, fmt);
	(void)vsnprintf(p->message, sizeof(p->message), fmt, ap); /* cut is better than nothing */
	va_end(ap);
}

void problem_hint(struct problem *p, const char *fmt, ...)
{
	va_list ap;

	if (!p || p->hint[0])
		return;
	va_start(ap, fmt);
	(void)vsnprintf(p->hint, sizeof(p->hint), fmt, ap); /* cut is better than nothing */
	va_end(ap);
}

void problem_retry(struct problem *p, unsigned seconds)
{
	if (p && !p->retry_s)
		p->retry_s = seconds;
}

void problem_code(struct problem *p, const char *code)
{
	if (p && !p->code)
		p->code = code;
}

static int status_of_errno(int e)
{
	switch (e) {
	case ENOENT:
		return 404;
	case ENOSPC:
	case EDQUOT:
		return 507;
	case EINVAL:
		return 400;
	case EEXIST:
		return 409;
	case ENOMEM:
	case EAGAIN:
	case EMFILE:
	case ENFILE:
		return 503;
	case ETIMEDOUT:
		return 504;
	default:
		return 500;
	}
}

void problem_errno(struct problem *p, int r, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (!p || p->message[0])
		return;
	p->status = status_of_errno(-r);
	va_start(ap, fmt);
	(void)vsnprintf(p->message, sizeof(p->message), fmt, ap); /* cut is better than nothing */
	va_end(ap);
	n = strlen(p->message);
	(void)snprintf(p->message + n, sizeof(p->message) - n, ": %s", strerrordesc_np(-r));
	if (-r == ENOSPC)
		problem_hint(p, "free disk space and try again");
}
