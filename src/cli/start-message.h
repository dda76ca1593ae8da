/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * start-message.h - what process.Process/Start, or Connect, is sent for a command
 *
 * {"process":{"cmd":"cat","args":["-n"],"envs":{"A":"1"},"cwd":"/srv"},"stdin":true,"tag":"x",
 *  "pty":{"size":{"cols":80,"rows":24}}}; to attach only {"process":{"pid":7}}
 */
#include "cli/exec-session.h"

/** start_message_new() - Return: fresh; NULL: something in it is not UTF-8, or no memory */
json_t *start_message_new(const struct exec_options *o, bool with_stdin);
