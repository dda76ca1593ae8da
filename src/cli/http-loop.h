/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * http-loop.h - several requests to dormd at once, together with descriptors, in one thread
 *
 * A request is started and later calls back: on_data() for every piece of a successful answer,
 * on_done() once. Callbacks run inside http_loop_wait(), never elsewhere; they may not call into
 * the loop. Error answers are collected and arrive in on_done() as a problem.
 */
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/problem.h"

#define HTTP_LOOP_MAX_FDS 8

/* on_data(): not now; the same piece comes again after http_loop_resume() */
#define HTTP_LOOP_PAUSE 1

struct http_loop_request {
	const char *path;
	const char *content_type;
	const char *const *headers; /* "Name: value", NULL at the end; NULL: none */
	const void *body;	    /* copied */
	size_t len;
	const char *answer_type; /* content type that a successful answer must have; NULL: any */
	uint64_t timeout_ms;	 /* for the whole request; 0: none */
	/* Return: 0; HTTP_LOOP_PAUSE; negative errno, which ends the request. NULL: ignore the
	 * answer */
	int (*on_data)(void *userdata, const void *data, size_t len);
	/* @r: 0; HTTP_E_STATUS; negative errno. @problem is set when @r is not 0 */
	void (*on_done)(void *userdata, int r, const struct problem *problem);
	void *userdata;
};

struct http_loop;
struct http_loop_handle;

int http_loop_new(const char *socket_path, struct problem *problem, struct http_loop **ret);

/** http_loop_free() - abandons what is still running, without on_done() */
struct http_loop *http_loop_free(struct http_loop *loop);
DEFINE_CLEANUP(struct http_loop *, http_loop_free)

/**
 * http_loop_post() - start a POST
 * @ret: names it for http_loop_resume(), until on_done(); may be NULL
 * Return: 0; -ENOMEM
 */
int http_loop_post(struct http_loop *loop, const struct http_loop_request *request,
		   struct http_loop_handle **ret);

/** http_loop_resume() - let a paused answer flow again; calls on_data() from the next wait */
void http_loop_resume(struct http_loop_handle *handle);

/**
 * http_loop_wait() - work until something happened: a callback, a descriptor, or @timeout_ms
 * @timeout_ms: -1: none; may return earlier without a reason
 * @fds: at most HTTP_LOOP_MAX_FDS, as for poll(2); revents are filled; a negative fd is ignored
 * Return: 0; negative errno
 */
int http_loop_wait(struct http_loop *loop, struct pollfd *fds, size_t n_fds, int timeout_ms);
