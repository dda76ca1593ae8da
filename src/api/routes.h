/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* routes.h - which handler answers which method and path of the control API */
#include "api/request.h"

struct route {
	const char *method;
	const char *path; /* {} stands for one segment */
	request_handler handler;
	upload_handler upload; /* instead: its body is not JSON, and of any size */
	bool raw;	       /* with "Upgrade: tcp" a connection to port {2} of sandbox {1} */
	enum scope scope;      /* what a key needs for it; SCOPE_NONE: forgotten, so SCOPE_ADMIN */
	bool of_all; /* tells of everybody's sandboxes: not for keys that see only their own */
	bool open;   /* for everybody, without a key */
};

/** routes_table() - all of them, in the order in which they are tried */
const struct route *routes_table(size_t *ret_n);

/** routes_allowed() - the methods of a path: "GET, HEAD, OPTIONS". Return: is there such a path? */
bool routes_allowed(const char *path, char ret[64]);

/**
 * routes_find() - the route of a request; fills q->args
 * @path: as the client wrote it: what is escaped in a segment ("%2F") belongs to that segment
 * HEAD is answered as GET is; the server leaves out the body.
 * Return: NULL, with 404 or 405 and a reason in @problem
 */
const struct route *routes_find(const char *method, const char *path, struct request *q,
				struct problem *problem);

/** routes_table() - all of them, for tests */
const struct route *routes_table(size_t *ret_n);

/* control-keys.c */
int control_key_list(struct request *q, struct reply *y);
int control_key_create(struct request *q, struct reply *y);
int control_key_rotate(struct request *q, struct reply *y);
int control_key_revoke(struct request *q, struct reply *y);

/* control-sandboxes.c */
int control_sandbox_create(struct request *q, struct reply *y);
int control_sandbox_create_1(struct request *q, struct reply *y); /* of the first version */
int control_sandbox_get(struct request *q, struct reply *y);
int control_sandbox_delete(struct request *q, struct reply *y);
int control_sandbox_pause(struct request *q, struct reply *y);
int control_sandbox_connect(struct request *q, struct reply *y);
int control_sandbox_timeout(struct request *q, struct reply *y);
int control_sandbox_refresh(struct request *q, struct reply *y);
int control_sandbox_fork(struct request *q, struct reply *y);
int control_sandbox_snapshot(struct request *q, struct reply *y);
int control_sandbox_metrics(struct request *q, struct reply *y);
int control_sandbox_memory(struct request *q, struct reply *y);
int control_sandbox_network(struct request *q, struct reply *y);
int control_sandbox_network_get(struct request *q, struct reply *y);

/* control-list.c */
int control_sandbox_list(struct request *q, struct reply *y);
int control_sandbox_list_1(struct request *q, struct reply *y); /* of the first version */
int control_sandboxes_metrics(struct request *q, struct reply *y);

/* control-ports.c */
int control_port_list(struct request *q, struct reply *y);
int control_port_raw(struct request *q, struct reply *y);

/* control-snapshots.c */
int control_snapshot_list(struct request *q, struct reply *y);
int control_snapshot_get(struct request *q, struct reply *y);
int control_snapshot_verify(struct request *q, struct reply *y);
int control_snapshot_compact(struct request *q, struct reply *y);
int control_snapshot_tree(struct request *q, struct reply *y);

/* control-transfer.c */
int control_layers(struct request *q, struct reply *y);
int control_snapshot_export(struct request *q, struct reply *y);
int control_snapshot_import(struct request *q, struct problem *problem, struct upload *ret);

/* control-store.c */
int control_store_usage(struct request *q, struct reply *y);
int control_store_check(struct request *q, struct reply *y);
int control_store_repair(struct request *q, struct reply *y);
int control_store_rewrap(struct request *q, struct reply *y);

/* control-templates.c */
int control_template_list(struct request *q, struct reply *y);
int control_template_get(struct request *q, struct reply *y);
int control_template_new(struct request *q, struct reply *y);
int control_template_build(struct request *q, struct reply *y);
int control_template_status(struct request *q, struct reply *y);
int control_template_delete(struct request *q, struct reply *y);
int control_template_alias(struct request *q, struct reply *y);
int control_template_files(struct request *q, struct reply *y);
int control_template_warm(struct request *q, struct reply *y);

/* control-host.c */
int control_health(struct request *q, struct reply *y);
int control_ready(struct request *q, struct reply *y);
int control_openapi(struct request *q, struct reply *y);

/* control-drain.c */
int control_host(struct request *q, struct reply *y);
int control_host_drain(struct request *q, struct reply *y);
int control_host_undrain(struct request *q, struct reply *y);

/* control-host.c */
int control_doctor(struct request *q, struct reply *y);
int control_pager(struct request *q, struct reply *y);
int control_pager_upgrade(struct request *q, struct reply *y);
int control_image_list(struct request *q, struct reply *y);
int control_image_get(struct request *q, struct reply *y);
int control_metrics(struct request *q, struct reply *y);
int control_sandbox_usage(struct request *q, struct reply *y);

/* control-events.c */
int control_events(struct request *q, struct reply *y);
int control_sandbox_events(struct request *q, struct reply *y);

/* control-logs.c */
int control_sandbox_logs(struct request *q, struct reply *y);
int control_sandbox_logs_2(struct request *q, struct reply *y); /* of the second version */
