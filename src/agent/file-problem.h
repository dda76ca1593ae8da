/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* file-problem.h - what a client is told when a file cannot be read or written */
#include "base/problem.h"

/**
 * file_problem() - describe errno -@r on the client's @path: 400 for what the path cannot mean,
 * 403, 404, 413, 503, 507 without space, otherwise 500. Text is UTF-8, whatever @path is
 * Return: @r
 */
int file_problem(struct problem *problem, int r, const char *path);

/**
 * file_open_regular() - open a file for reading, if it is a regular one
 * Anything else is refused before it is opened, so that no fifo blocks and no device notices.
 * @ret_stat: may be NULL
 * Return: descriptor; negative errno with @problem set
 */
struct stat;
int file_open_regular(const char *path, struct problem *problem, struct stat *ret_stat);

/** file_check_regular() - Return: 0; -EISDIR or -EINVAL with a 400 in @problem */
int file_check_regular(const struct stat *st, const char *path, struct problem *problem);
