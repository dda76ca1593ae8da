/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * target.h - which sandbox and port a request is for
 *
 *     Host: 3000-iabc....anything    port 3000 of sandbox iabc..., whatever else the headers say: a
 *                                    page served under this name cannot reach another sandbox
 *     any other Host                 E2b-Sandbox-Id and E2b-Sandbox-Port, both or none
 *     neither                        the control API
 *
 * Port 49983 is the agent's API. A port and a length of name are checked here; whether there is
 * such a sandbox is not.
 */
#include <stdint.h>

#include "base/problem.h"

#define TARGET_AGENT_PORT 49983
#define TARGET_CONTROL	  1 /* outcome: not for a sandbox */

struct target {
	char sandbox_id[64];
	uint16_t port;
};

/**
 * target_find() - each argument is a header, NULL when absent
 * Return: 0; TARGET_CONTROL; -EINVAL with a 400 in @problem
 */
int target_find(const char *host, const char *sandbox_id, const char *port, struct problem *problem,
		struct target *ret);

/** target_port() - 1 to 65535. Return: 0; -EINVAL with a 400 in @problem */
int target_port(const char *text, struct problem *problem, uint16_t *ret);
