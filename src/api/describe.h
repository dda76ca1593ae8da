/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * describe.h - sandboxes as the API shows them
 *
 * All return new references, NULL without memory; "with" functions add to what they are given, take
 * NULL, and leave out what cannot be added.
 */
#include "api/request.h"
#include "sandbox/sandbox.h"

#define DESCRIBE_CLIENT_ID    "dormouse"
#define DESCRIBE_ENVD_VERSION "0.6.13"

/** describe_state() - "running", "paused", which are E2B's, or "failed" */
const char *describe_state(enum sandbox_state s);

/** describe_sandbox() - what create, connect and fork answer: Sandbox
 *  @token: "" without one; @timings: NULL if nothing was brought up */
json_t *describe_sandbox(const char *id, const char *template_id, const char *token,
			 const struct sandbox_timings *timings);

/** describe_info() - an item of a list: ListedSandbox */
json_t *describe_info(const struct sandbox_info *info);

/** describe_details() - one sandbox by itself: SandboxDetail. With its tokens for who may use it */
json_t *describe_details(const struct caller *caller, const struct sandbox_info *info);

/** describe_save() - where the time of a pause or snapshot went */
json_t *describe_save(const struct sandbox_save_timings *t);

/** describe_with_memory() - how much of its memory has come: for who waited for it */
json_t *describe_with_memory(struct request *q, const char *id, json_t *sandbox);

/** describe_with_traffic() - the token that requests to its ports have to show, if they have */
json_t *describe_with_traffic(struct request *q, const char *id, json_t *sandbox);
