/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * event.h - what a client is told about a program, as JSON text
 *
 * By hand, because output comes in gigabytes; nothing in an event needs escaping.
 * Source: envd's process.proto, ProcessEvent
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define EVENT_DATA_MAX	    32768u /* bytes of output in one event */
#define EVENT_TEXT_MAX	    320u   /* of start and end, with the zero */
#define EVENT_DATA_TEXT_MAX (64u + (EVENT_DATA_MAX + 2) / 3 * 4 + 8)

/** event_start() - Return: length of the text */
size_t event_start(pid_t pid, char text[EVENT_TEXT_MAX]);

/** event_data() - @name: "stdout", "stderr" or "pty"; @len: at most EVENT_DATA_MAX */
size_t event_data(const char *name, const void *data, size_t len, char text[EVENT_DATA_TEXT_MAX]);

/**
 * event_end() - @wait_status: from waitpid(); @duration_ns: from the request to the last of its output
 * {"exitCode":3,"exited":true,"status":"exit status 3","durationNs":"1234567",
 *  "error":"exit status 3"};
 * a signal has exitCode -1, exited false, status "signal: killed"; error only if exitCode is not 0
 */
size_t event_end(int wait_status, uint64_t duration_ns, char text[EVENT_TEXT_MAX]);
