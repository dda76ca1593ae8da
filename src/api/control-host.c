/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/openapi.h"
#include "sandbox/drain.h"
#include "sandbox/host-usage.h"

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

/* As it was written, for people read it too. */
int control_openapi(struct request *q, struct reply *y)
{
	y->raw = MHD_create_response_from_buffer(openapi_json_len, (void *)openapi_json,
						 MHD_RESPMEM_PERSISTENT);
	if (!y->raw)
		return -ENOMEM;
	(void)MHD_add_response_header(y->raw, "Content-Type", "application/json");
	y->status = 200;
	return 0;
}

int control_doctor(struct request *q, struct reply *y)
{
	json_t *report = host_doctor_running(q->host);

	if (host_is_draining(q->host))
		(void)json_array_append_new(/* out of memory: a shorter list */
					    json_object_get(report, "checks"),
					    json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", "drain",
						      "status", "warn", "found", "on", "cost",
						      "creates, wakes, forks and builds are refused",
						      "remedy", "dorm undrain"));
	return reply_json(y, 200, report);
}

int control_pager(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_pager_status(q->host, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_pager_upgrade(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_pager_upgrade(q->host, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_image_list(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_images(q->host, NULL, &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_image_get(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_images(q->host, q->args[0], &y->problem, &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_sandbox_usage(struct request *q, struct reply *y)
{
	json_t *o = NULL;
	int r = host_sandbox_usage(q->host, request_owner(q), &o);

	return r < 0 ? r : reply_json(y, 200, o);
}

int control_metrics(struct request *q, struct reply *y)
{
	char *text = NULL;
	int r = host_metrics(q->host, &text);

	if (r < 0)
		return r;
	y->raw = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	if (!y->raw) {
		free(text);
		return -ENOMEM;
	}
	(void)MHD_add_response_header(y->raw, "Content-Type", "text/plain; version=0.0.4");
	y->status = 200;
	return 0;
}
