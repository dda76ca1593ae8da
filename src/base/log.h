/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * log.h - one line per event, to standard error or to the journal
 *
 * "2026-01-02T03:04:05.678Z dormd info: request=4f1c sandbox=x1 what happened". Only the function
 * that gives up, or that carries on in spite of something, logs; libraries below do not. Lines are
 * written with one write(2), so processes may share a log file. Any thread; never on a fault path.
 *
 * A message begins with what it is about, as word=value, as far as there is such a thing:
 * "sandbox=x1". DORM_LOG_FORMAT=text|json|journal says how lines look (log-format.h); without it
 * they go to the journal when standard error does, and are text otherwise. No secret is ever
 * logged: no key, no token, no query of an URL.
 */
#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

#define LOG_REQUEST_MAX 64

/** log_init() - name this process in its log lines; DORM_LOG=error|warn|info|debug overrides @level
 */
void log_init(const char *name, enum log_level level);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** log_wants() - would a line of this level be written? For what costs something to find out */
bool log_wants(enum log_level level);

/**
 * log_set_request() - what this thread does from now on is for this request; "" or NULL: for none
 * @id: copied, at most LOG_REQUEST_MAX bytes. A thread that works for another takes it over:
 * log_request() there, log_set_request() here.
 */
void log_set_request(const char *id);

/** log_request() - the request this thread works for; "": none. Valid until it is set again */
const char *log_request(void);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
