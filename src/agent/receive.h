/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * receive.h - the files in the body of a POST /files
 *
 * The body is multipart/form-data, whose parts named "file" are files (others are ignored), or
 * application/octet-stream, which is one; either with Content-Encoding gzip. Every file is complete
 * before the first appears under its name, so a request that fails at its last byte has changed
 * nothing; only the renames at the end, one after the other, are not one step.
 */
#include "agent/user.h"
#include "agent/worker.h"

#define RECEIVE_MAX_FILES 1024u

struct receive;

/**
 * receive_new() - look at the head of a request
 * @path: absolute; NULL: the parts say; consumed in every case
 * Return: 0; negative errno with @problem set
 */
int receive_new(const struct request *rq, char *path, const struct user *user,
		struct problem *problem, struct receive **ret);
void receive_free(void *receive);

/** receive_run() - what the worker's thread does */
void receive_run(struct worker *w, void *receive);

/** receive_entry() - {path, name, type, metadata?} of a reply; @metadata: borrowed, NULL: none */
json_t *receive_entry(const char *path, json_t *metadata);
