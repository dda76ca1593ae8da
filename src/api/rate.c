/* SPDX-License-Identifier: Apache-2.0 */
#include "api/rate.h"

#include "base/clock.h"
#include "base/mem.h"

uint64_t rate_take(struct rate *r, unsigned per_s, uint64_t now_ns)
{
	double wait_s;

	if (!per_s)
		return 0;
	if (!r->at_ns)
		r->tokens = per_s;
	else if (now_ns > r->at_ns)
		r->tokens += (double)(now_ns - r->at_ns) / (double)NSEC_PER_SEC * per_s;
	r->tokens = MIN(r->tokens, (double)per_s); /* the limit may have been lowered */
	r->at_ns = MAX(now_ns, r->at_ns);
	if (r->tokens >= 1) {
		r->tokens -= 1;
		return 0;
	}
	wait_s = (1 - r->tokens) / per_s;
	return (uint64_t)(wait_s * (double)NSEC_PER_SEC) + 1;
}
