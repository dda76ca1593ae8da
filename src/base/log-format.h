/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * log-format.h - what a line of the log looks like (docs/observability.md)
 *
 *     text      2026-01-02T03:04:05.678Z dormd info: request=4f1c sandbox=x1 it woke
 *     json      {"time":"...","program":"dormd","level":"info","request":"4f1c","sandbox":"x1",
 *               "message":"it woke"}
 *     journal   MESSAGE=it woke, PRIORITY=6, SYSLOG_IDENTIFIER=dormd, REQUEST=4f1c, SANDBOX=x1:
 *               one datagram of lines, see systemd's "Native Journal Protocol"
 *
 * What a message begins with as "sandbox=VALUE " becomes a field of its own where there are fields.
 * Bytes below a space become spaces: what a guest or a client sent cannot forge a line.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"

#define LOG_LINE_MAX 2048

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON, LOG_FORMAT_JOURNAL };

struct log_record {
	uint64_t real_ns;
	const char *program;
	enum log_level level;
	const char *request; /* "": none */
	const char *message;
};

/** log_level_name() - "info" */
const char *log_level_name(enum log_level level);

/**
 * log_format() - @r as a line (with its newline) or a datagram
 * What does not fit is cut, between two characters of UTF-8 if it is JSON.
 * Return: its length, at most @size
 */
size_t log_format(enum log_format format, const struct log_record *r, char *buf, size_t size);
