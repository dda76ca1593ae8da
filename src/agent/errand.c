/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/errand.h"

#include <string.h>

#include "agent/answer.h"
#include "agent/helper.h"
#include "base/clock.h"
#include "base/error.h"

struct errand {
	struct agent *agent;
	struct helper helper;
	struct relay relay;
	struct loop_timer timer;
	uint64_t limit_ms;
};

static void errand_free(struct errand *e)
{
	loop_timer_clear(&e->timer);
	relay_deinit(&e->relay);
	helper_stop(e->agent, e->helper);
	free(e);
}

static void on_done(void *userdata, int r)
{
	errand_free(userdata);
}

static void on_gone(void *userdata)
{
	errand_free(userdata);
}

static void on_limit(void *userdata)
{
	struct errand *e = userdata;

	relay_fail(&e->relay, CONNECT_DEADLINE_EXCEEDED,
		   "it was not done when its time was over, and was stopped where it was");
	errand_free(e);
}

static int errand_new(struct request *rq, uint64_t limit_ms, void (*work)(void *ctx), void *ctx,
		      struct errand **ret)
{
	struct errand *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return error_trace(-ENOMEM);
	e->agent = rq->agent;
	e->limit_ms = limit_ms;
	e->timer = (struct loop_timer){.fire = on_limit, .userdata = e};
	r = helper_start(e->agent, work, ctx, &e->helper);
	if (r < 0) {
		free(e);
		return r;
	}
	relay_init(&e->relay, e->agent->loop, e->helper.fd, e);
	*ret = e;
	return 0;
}

static void fail(struct request *rq, int r)
{
	if (r == -EAGAIN)
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED,
				   "%u operations on files are under way already", HELPER_MAX);
	else
		connect_unary_fail(rq, CONNECT_RESOURCE_EXHAUSTED, "cannot begin: %s",
				   strerrordesc_np(-r));
}

void errand_run(struct request *rq, bool changes, void (*work)(void *ctx), void *ctx)
{
	struct errand *e;
	uint64_t limit_ms;
	int r;

	if (connect_timeout_ms(rq, &limit_ms) < 0) {
		connect_unary_fail(rq, CONNECT_INVALID_ARGUMENT,
				   "Connect-Timeout-Ms must be a number of at most ten digits");
		return;
	}
	limit_ms = limit_ms && limit_ms < ERRAND_MS ? limit_ms : ERRAND_MS;
	r = errand_new(rq, limit_ms, work, ctx, &e);
	if (r < 0) {
		fail(rq, r);
		return;
	}
	e->relay.done = on_done;
	e->relay.gone = changes ? NULL : on_gone;
	r = relay_begin(&e->relay, rq);
	if (r < 0) {
		errand_free(e);
		fail(rq, r);
		return;
	}
	loop_timer_set(e->agent->loop, &e->timer, deadline_after_ms(limit_ms));
}
