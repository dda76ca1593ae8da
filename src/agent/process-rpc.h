/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process-rpc.h - the service process.Process: from JSON to process.h and back
 *
 * Start, Connect, List, SendInput, CloseStdin, SendSignal, Update, as envd's protocol has them;
 * StreamInput is in input-stream.c.
 */
#include "agent/process.h"
#include "base/problem.h"

/** process_rpc_add() - add the service's routes */
int process_rpc_add(struct router *r);

/* Which process a message means: {"pid": number} or {"tag": string}. */
struct process_selector {
	pid_t pid;
	const char *tag; /* the message's; NULL: by pid */
};

/** process_select() - of {"process": selector}. Return: 0; -EINVAL with @problem */
int process_select(const json_t *message, struct problem *problem, struct process_selector *ret);

/** process_select_live() - the same, and find it. Return: 0; -EINVAL, -ENOENT with @problem */
int process_select_live(struct agent *a, const json_t *message, struct problem *problem,
			struct process **ret);

/**
 * process_input_parse() - of {"input": {"stdin": base64} or {"pty": base64}}
 * @ret: fresh memory
 * Return: 0; -EINVAL, -EPIPE (it is the other kind) with @problem; -ENOMEM
 */
int process_input_parse(const json_t *message, const struct process *p, struct problem *problem,
			char **ret, size_t *ret_len);

/** process_input_problem() - what process_input() or process_close_input() complained about */
void process_input_problem(int r, struct problem *problem);

/** process_problem_code() - how Connect calls a problem of the functions above */
enum connect_code process_problem_code(const struct problem *problem);
