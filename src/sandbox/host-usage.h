/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* host-usage.h - what all sandboxes of the host use now, in one look: GET /sandboxes/usage */
#include <jansson.h>

#include "sandbox/host.h"

/**
 * host_sandbox_usage() - of each sandbox, newest first, and of the host
 * @owner: only those of this key; NULL: all
 * @ret: new reference: {"time", "host": {"cpuCount", "memoryTotalBytes", "memoryAvailableBytes",
 *       "dormdRssBytes", "pager": {...} or null}, "sandboxes": [{"sandboxID", "templateID",
 *       "status", "startedAt", "memoryBytes", "ownBytes", "sharedBytes", "cpuNs", "faults", ...}]}
 * No guest is asked, no lock of an operation waited for. Counters are since the VM was started; who
 * wants rates looks twice. What is not known is left out.
 */
int host_sandbox_usage(struct host *host, const char *owner, json_t **ret);
