/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/quota.h"

#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "sandbox/private.h"

#define RETRY_S 5 /* somebody has to give one up: nobody knows when */

struct quota {
	uint64_t max_n, max_bytes; /* 0: no limit */
	uint64_t n, bytes;	   /* what others of the owner take */
	const char *owner;
	const struct sandbox *except;
};

void quota_set_lookup(struct host *host, quota_lookup lookup, void *userdata)
{
	LOCK_SCOPE(&host->quota_lock);
	host->quota_lookup = lookup;
	host->quota_userdata = userdata;
}

static void count(void *userdata, struct sandbox *sb)
{
	struct quota *q = userdata;

	if (sb == q->except)
		return;
	LOCK_SCOPE(&sb->info);
	if (sb->gone || strcmp(sb->record.owner, q->owner) ||
	    !(sb->charged || sb->record.state == SANDBOX_RUNNING ||
	      sb->record.state == SANDBOX_PAUSING))
		return;
	q->n++;
	q->bytes += sb->manifest.memory_bytes;
}

/* quota_lock held. Return: 0: there is room for @bytes more */
static int admit(struct host *host, struct quota *q, uint64_t bytes, struct problem *problem)
{
	char have[16], max[16];
	int r;

	if (!q->owner[0] || !host->quota_lookup ||
	    !host->quota_lookup(host->quota_userdata, q->owner, &q->max_n, &q->max_bytes) ||
	    (!q->max_n && !q->max_bytes))
		return 0;
	r = host_each_sandbox(host, count, q);
	if (r < 0)
		return r;
	if (q->max_n && q->n >= q->max_n)
		problem_set(problem, 429,
			    "API key %s may have %llu sandboxes awake at a time, and has %llu",
			    q->owner, (unsigned long long)q->max_n, (unsigned long long)q->n);
	else if (q->max_bytes && q->bytes + bytes > q->max_bytes)
		problem_set(problem, 429,
			    "API key %s may have %s of sandboxes' memory awake at a time: with "
			    "this one it would have %s",
			    q->owner, str_format_bytes(q->max_bytes, max),
			    str_format_bytes(q->bytes + bytes, have));
	else
		return 0;
	problem_hint(problem, "put sandboxes to sleep or delete them, then try again");
	problem_retry(problem, RETRY_S);
	return -EDQUOT;
}

int quota_check(struct host *host, const char *owner, struct problem *problem)
{
	struct quota q = {.owner = owner};
	LOCK_SCOPE(&host->quota_lock);

	return admit(host, &q, 1, problem);
}

int quota_take(struct sandbox *sb, struct problem *problem)
{
	struct quota q = {.owner = sb->record.owner, .except = sb};
	int r;
	LOCK_SCOPE(&sb->host->quota_lock);

	r = admit(sb->host, &q, sb->manifest.memory_bytes, problem);
	if (r < 0)
		return r;
	LOCK_SCOPE(&sb->info);
	sb->charged = true;
	return 0;
}
