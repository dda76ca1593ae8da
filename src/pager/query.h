/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* query.h - dorm-pager --query: ask one that runs, and print what it says */

/** query_run() - @what: "metrics", "stats" or "config". Return: the exit status of the program */
int query_run(const char *socket, const char *what);
