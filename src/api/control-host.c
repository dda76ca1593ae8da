/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

int control_health(struct request *q, struct reply *y)
{
	return reply_json(y, 200,
			  json_pack("{s:s, s:s}", "status", "alive", "version", DORM_VERSION));
}

int control_ready(struct request *q, struct reply *y)
{
	int r = host_ready(q->host, &y->problem);

	if (r < 0) {
		y->problem.status = 503;
		return r;
	}
	return reply_json(y, 200, json_pack("{s:s}", "status", "ready"));
}

int control_doctor(struct request *q, struct reply *y)
{
	return reply_json(y, 200, host_doctor(host_root(q->host)));
}
