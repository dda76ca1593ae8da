/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * output.h - what people and scripts read
 *
 * Results go to standard output; errors, hints and progress to standard error. With --json standard
 * output carries one JSON document and nothing else. Text that came from a server or a guest is
 * printed through output_text(), so that it cannot command the terminal.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "base/problem.h"
#include "cli/cli.h"

/** output_init() - find out what standard output and error are; called once by main() */
void output_init(struct cli *cli);

/** output_finish() - flush standard output. Return: @code, or CLI_FAILED when writing failed */
int output_finish(int code);

/** output_json() - one document, indented, with a newline */
void output_json(const json_t *value);

/** output_text() - print text with control characters (but tab and newline) replaced by '?' */
void output_text(FILE *f, const char *s);

/** output_padded() - output_text() and spaces up to @width bytes */
void output_padded(FILE *f, const char *s, size_t width);

/** output_problem() - "dorm: MESSAGE" and "hint: HINT" to standard error */
void output_problem(const struct problem *problem);

/** output_wrapped() - words wrapped to the terminal's width, all lines but the first indented */
void output_wrapped(FILE *f, size_t indent, const char *s);

/** output_width() - columns of the terminal behind @fd; 80 when unknown */
size_t output_width(int fd);

/** output_duration() - "47.3 ms", "2.05 s", "3m 20s"; @buf holds 32 bytes */
char *output_duration(double ms, char buf[32]);

/** output_span() - "5s", "12m", "3h", "2d": one unit, rounded down; @buf holds 32 bytes */
char *output_span(int64_t seconds, char buf[32]);

/** output_parse_time() - RFC 3339 in UTC to seconds since the epoch. Return: 0; -EINVAL */
int output_parse_time(const char *s, int64_t *ret);

/** output_age() - how long ago the time in a field was: "5m"; "-" without; @buf holds 32 bytes */
char *output_age(const json_t *object, const char *key, char buf[32]);

/* ---- fields of answers: absent or of another type gives the default, never an error ------------
 */

const char *output_field(const json_t *object, const char *key, const char *otherwise);
uint64_t output_field_number(const json_t *object, const char *key);

/** output_field_first() - the first of an array of strings, or @otherwise */
const char *output_field_first(const json_t *object, const char *key, const char *otherwise);

/** output_wake() - "47.3 ms (vmm 20.1, load 6.0)" from an answer's "wake"; "" without; fresh memory
 */
char *output_wake(const json_t *sandbox);
