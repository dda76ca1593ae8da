/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* routes.h - which handler answers which method and path of the control API */
#include "api/request.h"

/**
 * routes_find() - the handler for a request; fills q->args
 * Return: NULL, with 404 or 405 and a reason in @problem
 */
request_handler routes_find(const char *method, const char *path, struct request *q,
			    struct problem *problem);

/* control-sandboxes.c */
int control_sandbox_create(struct request *q, struct reply *y);
int control_sandbox_list(struct request *q, struct reply *y);
int control_sandbox_get(struct request *q, struct reply *y);
int control_sandbox_delete(struct request *q, struct reply *y);
int control_sandbox_pause(struct request *q, struct reply *y);
int control_sandbox_connect(struct request *q, struct reply *y);
int control_sandbox_timeout(struct request *q, struct reply *y);
int control_sandbox_fork(struct request *q, struct reply *y);
int control_sandbox_snapshot(struct request *q, struct reply *y);
int control_sandbox_memory(struct request *q, struct reply *y);

/* control-snapshots.c */
int control_snapshot_list(struct request *q, struct reply *y);
int control_snapshot_get(struct request *q, struct reply *y);
int control_snapshot_verify(struct request *q, struct reply *y);

/* control-templates.c */
int control_template_list(struct request *q, struct reply *y);
int control_template_new(struct request *q, struct reply *y);
int control_template_build(struct request *q, struct reply *y);
int control_template_status(struct request *q, struct reply *y);
int control_template_delete(struct request *q, struct reply *y);

/* control-host.c */
int control_health(struct request *q, struct reply *y);
int control_ready(struct request *q, struct reply *y);
int control_doctor(struct request *q, struct reply *y);
