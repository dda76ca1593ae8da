/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process-event.h - what process.Process/Start tells about a command, message by message
 *
 * {"event":{"start":{"pid":7}}}, {"event":{"data":{"stdout":"aGk="}}},
 * {"event":{"end":{"exitCode":3, "exited":true,"status":"exit status 3"}}},
 * {"event":{"keepalive":{}}}; later versions may add more, which are passed over. Fields with
 * default values may be absent (proto3 JSON). Pure.
 */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/problem.h"

enum process_event_kind {
	PROCESS_EVENT_OTHER, /* unknown: pass over */
	PROCESS_EVENT_START,
	PROCESS_EVENT_DATA,
	PROCESS_EVENT_END,
	PROCESS_EVENT_KEEPALIVE,
};

struct process_event {
	enum process_event_kind kind;
	uint64_t pid; /* START */
	int fd;	      /* DATA: 1 or 2; a terminal's output is 1 */
	char *data;   /* DATA; owned */
	size_t len;
	int exit_code; /* END: 0 to 255, as a shell would show it: 128 + n for signal n */
};

void process_event_deinit(struct process_event *e);

/** process_event_parse() - Return: 0; -EBADMSG, with @problem saying what is wrong; -ENOMEM */
int process_event_parse(const json_t *message, struct problem *problem, struct process_event *ret);

/**
 * process_signal_number() - "killed", "SIGKILL", "Killed (core dumped)" or "9" to 9; 0 when unknown
 */
int process_signal_number(const char *name);

/**
 * process_start_error() - exit code for a command that was not started
 * @code, @message: how the RPC failed
 * As docker does: CLI_NOT_FOUND when there is no such program, CLI_CANNOT_RUN when there is but it
 * cannot be executed, CLI_TIMEOUT when the time limit passed, CLI_OWN otherwise.
 */
int process_start_error(const char *code, const char *message);
