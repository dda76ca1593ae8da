/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * download.h - one file, or a part of it, to a client
 *
 * A file that has the size that stat(2) told is sent with its length and validators, and in parts
 * on request. One that has not (everything in procfs says 0, much of sysfs 4096) is read to its
 * end: up to 64 KiB it gets the length that it had, more goes without one. A file that becomes
 * shorter while it is sent ends in a reset, never in a wrong length.
 *
 * Compressed is what the client accepts compressed, was not asked for in parts, is of 1 KiB to
 * 4 MiB, and whose beginning shrinks by a quarter at least: more costs the guest's CPU more time
 * than the channel needs. The whole is in memory then only as far as the rings of the worker.
 */
#include "agent/worker.h"

struct download {
	char *path; /* absolute */
	/* the request's headers; NULL: absent */
	char *range, *if_range, *if_none_match, *if_modified_since, *accept_encoding;
};

/** download_new() - @path: consumed. Return: NULL without memory */
struct download *download_new(const struct request *rq, char *path);
void download_free(void *download);

/** download_run() - what the worker's thread does */
void download_run(struct worker *w, void *download);
