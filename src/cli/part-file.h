/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * part-file.h - a file that is there whole or not at all
 *
 *     part_file_open("x", &f, &problem)    makes x.part-AbC123, which f.fd writes
 *     part_file_commit(&f, &problem)       syncs it and renames it to x
 *     part_file_deinit(&f)                 removes what was not committed
 *
 * SIGINT, SIGTERM and SIGHUP remove it, too; so one may be open at a time. What is there already
 * and is no regular file (a pipe, /dev/null) is written as it is. The file belongs to its owner
 * alone (0600), for guest memory is full of secrets.
 */
#include <stdbool.h>

#include "base/mem.h"
#include "base/problem.h"

struct part_file {
	int fd;
	bool regular;
	const char *name; /* as given; borrowed */
	char *path;	  /* where it will be: @name with links resolved; NULL when not regular */
	char *part;	  /* where it is; NULL when there is nothing to remove */
};

#define PART_FILE_INIT ((struct part_file){.fd = -1})

/** part_file_open() - Return: 0; negative errno */
int part_file_open(const char *name, struct part_file *f, struct problem *problem);
int part_file_commit(struct part_file *f, struct problem *problem);
void part_file_deinit(struct part_file *f);
#define _cleanup_part_file_ _cleanup_(part_file_deinit)
