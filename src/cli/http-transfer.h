/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * http-transfer.h - one request to dormd whose body, or whose answer, is too large for memory
 *
 * The body is pulled from a function and the answer pushed into one, a piece at a time. An error
 * answer is reported as everywhere (a problem with dormd's message and hint), also when it comes
 * before the body has been sent. There is no limit on the whole, only on silence. One thread.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/problem.h"
#include "cli/http.h"

struct http_transfer {
	const char *socket;
	const char *method, *path; /* as for http_call() */
	const char *const *headers; /* "Name: value", NULL at the end; NULL: none */
	struct progress *progress;  /* a bar of the bytes; NULL: none */

	/* out; NULL without a body */
	const char *body_type;
	int64_t body_len; /* -1: unknown, sent in chunks */
	int body_fd;	  /* is waited for before read() is called; -1: read() never waits */
	/* Return: bytes; 0: that was all; negative errno, with or without @problem */
	ssize_t (*read)(void *userdata, void *buf, size_t len, struct problem *problem);

	/* in; NULL: the answer is JSON and goes to @reply */
	const char *answer_type; /* content type that a successful answer must have */
	bool need_length;	 /* refuse an answer that does not say its length */
	/* Return: 0; negative errno, with or without @problem */
	int (*write)(void *userdata, const void *data, size_t len, struct problem *problem);

	void *userdata;
};

/**
 * http_transfer() - do it
 * @ret: filled as by http_call(); its body stays NULL when there is a write(); deinit it always
 * Return: 0; HTTP_E_STATUS; what read() or write() returned; negative errno
 */
int http_transfer(const struct http_transfer *t, struct http_reply *ret, struct problem *problem);
