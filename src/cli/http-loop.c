/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One curl multi handle; one easy handle per request, made for it and gone with it. A request that
 * paused keeps the piece that it was offered inside curl, so memory stays bounded by curl's buffer.
 */
#include "cli/http-loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/str.h"
#include "cli/http.h"

#define MAX_REQUESTS   4
#define MAX_ERROR_BODY (64u << 10)
#define MAX_WAIT_MS    60000 /* curl knows no endless wait */

struct http_loop_handle {
	struct http_loop *loop;
	CURL *easy;
	struct curl_slist *headers;
	struct http_loop_request request;
	struct buf error_body;
	struct problem problem;
	int error; /* what made us stop reading */
	bool checked, paused, resume;
};

struct http_loop {
	CURLM *multi;
	char *socket_path;
	struct http_loop_handle *running[MAX_REQUESTS];
	bool called; /* a callback ran: the caller wants to look at its own state before we sleep */
};

static struct http_loop_handle *handle_free(struct http_loop_handle *h)
{
	if (!h)
		return NULL;
	curl_easy_cleanup(h->easy);
	curl_slist_free_all(h->headers);
	buf_deinit(&h->error_body);
	free(h);
	return NULL;
}
DEFINE_CLEANUP(struct http_loop_handle *, handle_free)

struct http_loop *http_loop_free(struct http_loop *loop)
{
	if (!loop)
		return NULL;
	for (size_t i = 0; i < MAX_REQUESTS; i++) {
		if (loop->running[i])
			(void)curl_multi_remove_handle(loop->multi,
						       loop->running[i]->easy); /* it is in */
		handle_free(loop->running[i]);
	}
	(void)curl_multi_cleanup(loop->multi); /* empty by now */
	free(loop->socket_path);
	free(loop);
	return NULL;
}

int http_loop_new(const char *socket_path, struct problem *problem, struct http_loop **ret)
{
	_cleanup_(http_loop_freep) struct http_loop *loop = NULL;
	int r = http_check_socket(socket_path, problem);

	if (r < 0)
		return error_trace(r);
	loop = calloc(1, sizeof(*loop));
	if (loop) {
		loop->multi = curl_multi_init();
		loop->socket_path = strdup(socket_path);
	}
	if (!loop || !loop->multi || !loop->socket_path) {
		problem_set(problem, 500, "out of memory");
		return error_trace(-ENOMEM);
	}
	*ret = take_ptr(loop);
	return 0;
}

/* A successful answer of another type is not what we asked: somebody else listens there. */
static int check_type(struct http_loop_handle *h)
{
	const char *want = h->request.answer_type;
	char *type = NULL;
	size_t n;

	if (h->checked || !want)
		return 0;
	n = strlen(want);
	(void)curl_easy_getinfo(h->easy, CURLINFO_CONTENT_TYPE, &type);
	if (!type || strncasecmp(type, want, n) != 0 || (type[n] && !strchr("; ", type[n]))) {
		problem_set(&h->problem, 500, "dormd answered with %s where %s belongs",
			    type ? type : "no content type", want);
		return error_trace(-EPROTO);
	}
	h->checked = true;
	return 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *userdata)
{
	struct http_loop_handle *h = userdata;
	size_t len = size * n;
	long status = 0;
	int r;

	(void)curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status < 200 || status > 299) {
		len = MIN(len,
			  MAX_ERROR_BODY - h->error_body.len); /* the rest cannot be a message */
		return buf_append(&h->error_body, data, len) ? CURL_WRITEFUNC_ERROR : size * n;
	}
	h->loop->called = true;
	r = check_type(h);
	if (!r && h->request.on_data)
		r = h->request.on_data(h->request.userdata, data, len);
	if (r == HTTP_LOOP_PAUSE) {
		h->paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	h->error = r;
	return r ? CURL_WRITEFUNC_ERROR : len;
}

static int add_header(struct http_loop_handle *h, const char *text)
{
	struct curl_slist *list = text ? curl_slist_append(h->headers, text) : NULL;

	if (!list)
		return -ENOMEM;
	h->headers = list;
	return 0;
}

static int set_headers(struct http_loop_handle *h, const struct http_loop_request *request)
{
	_cleanup_free_ char *type = str_printf("Content-Type: %s", request->content_type);
	int r = add_header(h, type);

	if (!r)
		r = add_header(h, "Expect:");			   /* never wait for 100-continue */
	if (!r && !http_add_key(h->headers, h->loop->socket_path)) /* appends: the head stays */
		r = -ENOMEM;
	for (const char *const *p = request->headers; !r && p && *p; p++)
		r = add_header(h, *p);
	return r;
}

static int set_up(struct http_loop_handle *h, const struct http_loop_request *request)
{
	_cleanup_free_ char *url = http_url(h->loop->socket_path, request->path);
	int r;

	h->easy = http_easy_new(h->loop->socket_path);
	if (!url || !h->easy || curl_easy_setopt(h->easy, CURLOPT_URL, url))
		return -ENOMEM;
	r = set_headers(h, request);
	if (r < 0)
		return r;
	(void)curl_easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE, (long)request->len);
	if (curl_easy_setopt(h->easy, CURLOPT_COPYPOSTFIELDS, request->body))
		return -ENOMEM;
	(void)curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, h->headers);
	(void)curl_easy_setopt(h->easy, CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
	(void)curl_easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, on_body);
	(void)curl_easy_setopt(h->easy, CURLOPT_WRITEDATA, h);
	(void)curl_easy_setopt(h->easy, CURLOPT_PRIVATE, h);
	return 0;
}

int http_loop_post(struct http_loop *loop, const struct http_loop_request *request,
		   struct http_loop_handle **ret)
{
	_cleanup_(handle_freep) struct http_loop_handle *h = calloc(1, sizeof(*h));
	size_t i;
	int r;

	if (!h)
		return error_trace(-ENOMEM);
	for (i = 0; i < MAX_REQUESTS && loop->running[i]; i++)
		;
	assert(i < MAX_REQUESTS);
	h->loop = loop;
	h->request = *request;
	r = set_up(h, request);
	if (r < 0)
		return error_trace(r);
	if (curl_multi_add_handle(loop->multi, h->easy))
		return error_trace(-ENOMEM);
	if (ret)
		*ret = h;
	loop->running[i] = take_ptr(h);
	return 0;
}

void http_loop_resume(struct http_loop_handle *handle)
{
	handle->resume = handle->paused;
}

static void finish(struct http_loop *loop, struct http_loop_handle *h, CURLcode code)
{
	long status = 0;
	int r = 0;

	(void)curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
	if (h->error) {
		problem_errno(&h->problem, h->error, "dormd's answer");
		r = h->error;
	} else if (code) {
		r = http_transport_problem(h->easy, code, loop->socket_path, &h->problem);
	} else if (status < 200 || status > 299) {
		r = http_status_problem((int)status, &h->error_body, &h->problem);
	}
	for (size_t i = 0; i < MAX_REQUESTS; i++)
		if (loop->running[i] == h)
			loop->running[i] = NULL;
	(void)curl_multi_remove_handle(loop->multi, h->easy); /* it is in */
	loop->called = true;
	if (h->request.on_done)
		h->request.on_done(h->request.userdata, r, &h->problem);
	handle_free(h);
}

/* Runs what is ready, without waiting. */
static int work(struct http_loop *loop)
{
	CURLMsg *m;
	int n;

	for (size_t i = 0; i < MAX_REQUESTS; i++) {
		struct http_loop_handle *h = loop->running[i];

		if (!h || !h->resume)
			continue;
		h->resume = h->paused = false;
		(void)curl_easy_pause(h->easy, CURLPAUSE_CONT); /* its failure ends the transfer */
	}
	if (curl_multi_perform(loop->multi, &n))
		return error_trace(-ENOMEM);
	while ((m = curl_multi_info_read(loop->multi, &n))) {
		struct http_loop_handle *h = NULL;

		if (m->msg != CURLMSG_DONE)
			continue;
		(void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &h);
		finish(loop, h, m->data.result);
	}
	return 0;
}

int http_loop_wait(struct http_loop *loop, struct pollfd *fds, size_t n_fds, int timeout_ms)
{
	struct curl_waitfd wait[HTTP_LOOP_MAX_FDS];
	size_t n = 0;
	int r;

	assert(n_fds <= HTTP_LOOP_MAX_FDS);
	for (size_t i = 0; i < n_fds; i++) {
		fds[i].revents = 0;
		if (fds[i].fd < 0)
			continue;
		wait[n++] = (struct curl_waitfd){
			.fd = fds[i].fd,
			.events = (short)((fds[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
					  (fds[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0))};
	}
	loop->called = false;
	r = work(loop);
	if (r < 0)
		return error_trace(r);
	if (loop->called)
		timeout_ms = 0;
	else if (timeout_ms < 0 || timeout_ms > MAX_WAIT_MS)
		timeout_ms = MAX_WAIT_MS;
	if (curl_multi_poll(loop->multi, wait, (unsigned)n, timeout_ms, NULL))
		return error_trace(-ENOMEM);
	/* curl reports neither POLLHUP nor POLLERR of our descriptors: ask again, without waiting
	 */
	if (n && poll(fds, n_fds, 0) < 0 && errno != EINTR)
		return error_errno();
	return error_trace(work(loop));
}
