/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * http.h - requests to dormd over its unix socket, or over TCP (libcurl)
 *
 *     http_new()    one connection, kept alive between calls; nothing is sent yet
 *     http_call()   one request with a JSON answer
 *     http_lines()  one request whose answer is a line of JSON at a time
 *     http_free()
 *
 * For requests that run side by side see http-loop.h, for bodies that are too large for memory
 * http-transfer.h. One thread. Answers are bounded in size, every wait has a deadline. Needs
 * curl_global_init() in main().
 */
#include <curl/curl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/problem.h"
#include "cli/progress.h"

#define HTTP_MAX_BODY (64u << 20)

/* outcomes */
enum {
	HTTP_E_STATUS =
		1, /* dormd answered with an error; the problem has its message, hint, status */
	HTTP_E_CUT = 2, /* http_lines(): the answer ended before it was complete */
};

struct http_reply {
	int status;
	json_t *body;	      /* NULL without one; owned */
	char next_token[256]; /* x-next-token: more pages follow; "" otherwise */
};

void http_reply_deinit(struct http_reply *reply);
#define _cleanup_reply_ _cleanup_(http_reply_deinit)

struct http;

/**
 * http_new() - prepare for requests to the dormd behind @socket_path
 * Return: 0; -ENAMETOOLONG; -ENOMEM; @problem says so
 */
int http_new(const char *socket_path, struct problem *problem, struct http **ret);
struct http *http_free(struct http *h);
DEFINE_CLEANUP(struct http *, http_free)

/** http_set_progress() - have @progress ticked during calls; NULL: no more. Borrowed */
void http_set_progress(struct http *h, struct progress *progress);

/**
 * http_call() - one request
 * @path: begins with '/', already escaped (http_path())
 * @body: borrowed; NULL: none
 * @ret:  filled when the result is 0, otherwise empty but for status; http_reply_deinit() it always
 * Return: 0; HTTP_E_STATUS; negative errno when there was no (sensible) answer
 */
int http_call(struct http *h, const char *method, const char *path, json_t *body,
	      struct http_reply *ret, struct problem *problem);

/** http_visit_line - one line of an answer. Return: 0; negative errno, which ends the request */
typedef int (*http_visit_line)(void *userdata, json_t *line);

/**
 * http_lines() - one request; each line of the answer, a JSON object, goes to @visit
 * @body: borrowed; NULL: none
 * Return: 0; HTTP_E_STATUS; HTTP_E_CUT; negative errno
 */
int http_lines(struct http *h, const char *method, const char *path, json_t *body,
	       http_visit_line visit, void *userdata, struct problem *problem);

/** http_path() - @before, then @part percent-encoded, then @after; fresh memory, NULL without it */
char *http_path(const char *before, const char *part, const char *after);

/* ---- for http-loop.c ---------------------------------------------------------------------------
 */

/** http_easy_new() - a curl handle that reaches dormd. NULL: out of memory */
CURL *http_easy_new(const char *socket_path);

/** http_is_url() - is @address http:// or https://, and not the path of a socket? */
bool http_is_url(const char *address);

/** http_url() - of @path at @address; fresh memory, NULL without */
char *http_url(const char *address, const char *path);

/** http_add_key() - to @list: the API key, if there is one and it is needed. Return: the list; NULL
 *  without memory, and then @list is as it was */
struct curl_slist *http_add_key(struct curl_slist *list, const char *address);

/** http_check_socket() - can @socket_path be the address of a socket, or a URL? */
int http_check_socket(const char *socket_path, struct problem *problem);

/** http_transport_problem() - describe a request that got no answer. Return: negative errno */
int http_transport_problem(CURL *easy, CURLcode code, const char *socket_path,
			   struct problem *problem);

/** http_status_problem() - describe an error answer. Return: HTTP_E_STATUS */
int http_status_problem(int status, const struct buf *body, struct problem *problem);
