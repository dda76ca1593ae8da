/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process-rpc.h - the service process.Process: from JSON to process.h and back
 *
 * Start, List, SendInput, CloseStdin, SendSignal, as envd's protocol has them.
 */
#include "agent/router.h"

/** process_rpc_add() - add the service's routes */
int process_rpc_add(struct router *r);
