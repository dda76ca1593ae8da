/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * process-list.h - what runs in a sandbox, for `dorm ps ID`
 */
#include "cli/cli.h"

/** process_list_show() - a table, or with --json the array of the API. Return: the exit code */
int process_list_show(struct cli *cli, const char *id);
