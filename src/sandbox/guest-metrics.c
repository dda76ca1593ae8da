/* SPDX-License-Identifier: Apache-2.0 */
/* guest-metrics.c - GET /sandboxes/{id}/metrics: ask the guest if it runs, then tell what is known
 */
#include "sandbox/private.h"

#include <errno.h>

#include "base/clock.h"
#include "base/error.h"
#include "sandbox/agent-client.h"

#define ASK_MS	    2000
#define NOW_SLACK_S 5 /* a client's clock may be a little behind: until then it means now */

/* Return: the channel to ask over, with a reference; NULL: it does not run, or was asked just now
 */
static struct channel *due_channel(struct sandbox *sb)
{
	LOCK_SCOPE(&sb->info);

	if (!sb->channel || !channel_is_open(sb->channel) ||
	    !usage_is_due(&sb->usage, clock_real_ns()))
		return NULL;
	return channel_ref(sb->channel);
}

/* One that cannot be had now is missing in the series: it is no error. */
static void take_sample(struct sandbox *sb)
{
	struct channel *ch = due_channel(sb);
	struct usage_sample sample;
	json_t *answer = NULL;
	int r = ch ? agent_metrics(ch, deadline_after_ms(ASK_MS), &answer) : -ENOTCONN;

	channel_free(ch);
	if (r == 0)
		r = usage_parse(answer, clock_real_ns(), &sample);
	json_decref(answer);
	if (r == 0) {
		LOCK_SCOPE(&sb->info);
		(void)usage_add(&sb->usage, &sample); /* without memory it is missing */
	}
}

int sandbox_metrics(struct host *host, const char *id, uint64_t start_s, uint64_t end_s,
		    struct problem *problem, json_t **ret)
{
	_cleanup_(sandbox_unrefp) struct sandbox *sb = sandbox_find(host, id, problem);
	bool is_now = end_s + NOW_SLACK_S >= clock_real_ns() / NSEC_PER_SEC;
	json_t *list;

	if (!sb)
		return -ENOENT;
	if (is_now)
		take_sample(sb);
	LOCK_SCOPE(&sb->info);
	/* a sample that was taken for this question belongs to the answer */
	end_s = is_now ? SANDBOX_METRICS_TIME_MAX : end_s;
	list = usage_describe(&sb->usage, start_s * NSEC_PER_SEC, (end_s + 1) * NSEC_PER_SEC - 1);
	if (!list)
		return error_trace(-ENOMEM);
	*ret = list;
	return 0;
}
