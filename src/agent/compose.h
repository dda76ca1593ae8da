/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * compose.h - POST /files/compose: one file out of several, inside the sandbox
 *
 * {"source_paths": [...], "destination", "username"?}: the destination becomes what the sources
 * are, one after the other; whole or not at all, as an upload (upload.h). The sources stay, and the
 * destination may be one of them.
 */
#include "agent/user.h"
#include "agent/worker.h"

struct compose;

/** compose_new() - @body: the request's, borrowed. Return: 0; negative errno with @problem set */
int compose_new(struct request *rq, const json_t *body, struct problem *problem,
		struct compose **ret);
void compose_free(void *compose);

/** compose_run() - what the worker's thread does */
void compose_run(struct worker *w, void *compose);
