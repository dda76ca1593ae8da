/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* trace-file.h - the trace of an operation, as dormd gave it, in a file */
#include <jansson.h>

/** trace_file_write() - the member "trace" of @answer to @path. Return: 0; -1 after printing why */
int trace_file_write(const char *path, const json_t *answer);
