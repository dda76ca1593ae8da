/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * log.h - one line per event, to standard error
 *
 * "2026-01-02T03:04:05.678Z dormd info: sandbox=x1 what happened". Only the function that gives up,
 * or that carries on in spite of something, logs; libraries below do not. Lines are written with one
 * write(2), so processes may share a log file. Any thread; never on a fault path.
 */
#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/** log_init() - name this process in its log lines; DORM_LOG=error|warn|info|debug overrides @level */
void log_init(const char *name, enum log_level level);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** log_wants() - would a line of this level be written? For what costs something to find out */
bool log_wants(enum log_level level);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
