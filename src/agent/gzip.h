/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * gzip.h - bodies with "Content-Encoding: gzip": unpacked as they arrive (RFC 1952)
 *
 * Several members that follow each other are one content, as gzip(1) has it. One thread.
 */
#include <stdbool.h>
#include <stddef.h>

#include <zlib.h>

struct gunzip {
	z_stream z;
	bool begun;   /* in a member */
	bool any;     /* there was one */
	char *buffer; /* owned */
};

/** gunzip_init() - Return: 0; -ENOMEM */
int gunzip_init(struct gunzip *g);
void gunzip_deinit(struct gunzip *g);

/**
 * gunzip_feed() - @sink is called for what comes out
 * Return: 0; -EBADMSG: not gzip, or damaged; -ENOMEM; what @sink returned below 0
 */
int gunzip_feed(struct gunzip *g, const char *data, size_t len,
		int (*sink)(void *userdata, const char *data, size_t len), void *userdata);

/** gunzip_finish() - Return: 0; -EBADMSG: it was cut */
int gunzip_finish(const struct gunzip *g);
