/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One curl easy handle per transfer.
 *
 * dormd may answer before it has read the whole body: it found the stream damaged, or the snapshot
 * is here already. Then it closes the connection, and what curl does depends on who is faster: it
 * reads the answer, or it fails to send and throws the answer away. And while we wait for a slow
 * pipe curl would not look at all. So there is a second descriptor of the connection: the body is
 * only pulled while nothing has come on it, and when sending has failed, the answer is read there.
 *
 * Since version 8.7 curl keeps the head of a request until it has the first bytes of the body. A
 * source that is slow to begin would keep dormd from answering at all; so then the transfer is
 * paused, which sends the head, until there is something to read.
 *
 * Silence is measured here and not with CURLOPT_LOW_SPEED_TIME, because the time that the other end
 * of a pipe takes is not dormd's fault.
 */
#include "cli/http-transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define SILENCE_MS	600000
#define EARLY_ANSWER_MS 5000
#define MAX_JSON	(1u << 20) /* of an answer that is no stream */
#define MAX_HEAD	(16u << 10)

struct transfer {
	const struct http_transfer *t;
	CURL *easy;
	int spy;	 /* the connection once more; -1 before it is made */
	struct buf body; /* of an answer that is JSON, an error's too */
	struct problem *problem;
	int error; /* what made us stop: negative errno */
	bool checked, early;
	bool begun, paused; /* the body */
	uint64_t active_ns;
};

/* ---- the connection -----------------------------------------------------------------------------
 */

static curl_socket_t on_open(void *userdata, curlsocktype purpose, struct curl_sockaddr *address)
{
	struct transfer *x = userdata;
	int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);

	if (fd < 0)
		return CURL_SOCKET_BAD;
	fd_close(x->spy);
	x->spy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (x->spy < 0)
		fd = fd_close(fd);
	return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* Is this a whole answer? Then *@ret_body is where its body begins, and *@ret_status is set */
static bool is_answer(const struct buf *in, const char **ret_body, int *ret_status)
{
	const char *end = in->len ? strstr(in->data, "\r\n\r\n") : NULL, *length;

	if (!end || sscanf(in->data, "HTTP/1.%*1[01] %3d", ret_status) != 1 || *ret_status < 200)
		return false;
	*ret_body = end + 4;
	length = strcasestr(in->data, "\r\nContent-Length:");
	return length && length < end &&
	       strtoull(length + strlen("\r\nContent-Length:"), NULL, 10) <=
		       in->len - (size_t)(*ret_body - in->data);
}

/* Reads what dormd said before it hung up. Return: its status; 0 when it said nothing */
static int early_answer(struct transfer *x)
{
	uint64_t deadline_ns = deadline_after_ms(EARLY_ANSWER_MS);
	_cleanup_buf_ struct buf in = {0};
	const char *body = NULL;
	char data[4096];
	int status = 0;

	while (!is_answer(&in, &body, &status) && in.len < MAX_HEAD + MAX_JSON &&
	       fd_poll(x->spy, POLLIN, deadline_ns) > 0) {
		ssize_t n = recv(x->spy, data, sizeof(data), MSG_DONTWAIT);

		if (n <= 0 || buf_append(&in, data, (size_t)n))
			break;
	}
	if (!body)
		return 0;
	x->body.len = 0;
	return buf_append(&x->body, body, strlen(body)) ? 0 : status;
}

/* ---- out ---------------------------------------------------------------------------------------
 */

/* Waits for the source. Return: 1; 0 when dormd has answered instead; negative errno */
static int wait_source(struct transfer *x)
{
	struct pollfd p[] = {{x->t->body_fd, POLLIN, 0}, {x->spy, POLLIN, 0}};

	/* a source that never waits: only look at the other one */
	while (poll(p, 2, x->t->body_fd < 0 ? 0 : -1) < 0)
		if (errno != EINTR)
			return error_errno();
	return p[1].revents ? 0 : 1;
}

/* Has the source, or dormd, something to say? */
static bool is_ready(const struct transfer *x)
{
	struct pollfd p[] = {{x->t->body_fd, POLLIN, 0}, {x->spy, POLLIN, 0}};

	return x->t->body_fd < 0 || poll(p, 2, 0) != 0;
}

static bool keeps_head(void)
{
	return curl_version_info(CURLVERSION_NOW)->version_num >= 0x080700;
}

static size_t on_read(char *buf, size_t size, size_t n, void *userdata)
{
	struct transfer *x = userdata;
	ssize_t got;

	if (!x->begun && keeps_head() && !is_ready(x)) {
		x->paused = true;
		return CURL_READFUNC_PAUSE;
	}
	x->begun = true;
	got = wait_source(x);
	x->early = got == 0;
	if (got > 0)
		got = x->t->read(x->t->userdata, buf, size * n, x->problem);
	x->active_ns = clock_now_ns();
	if (got < 0)
		x->error = (int)got;
	return x->early || got < 0 ? CURL_READFUNC_ABORT : (size_t)got;
}

/* curl has no reason to send anything twice over one connection */
static int on_seek(void *userdata, curl_off_t offset, int origin)
{
	return CURL_SEEKFUNC_FAIL;
}

/* ---- in ----------------------------------------------------------------------------------------
 */

static int check_answer(struct transfer *x)
{
	curl_off_t len = -1;
	char *type = NULL;
	size_t n = strlen(x->t->answer_type);

	(void)curl_easy_getinfo(x->easy, CURLINFO_CONTENT_TYPE, &type);
	(void)curl_easy_getinfo(x->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &len);
	if (!type || strncasecmp(type, x->t->answer_type, n) != 0 ||
	    (type[n] && !strchr("; ", type[n])))
		problem_set(x->problem, 500, "dormd answered with %s where %s belongs",
			    type ? type : "no content type", x->t->answer_type);
	else if (x->t->need_length && len < 0)
		problem_set(x->problem, 500, "dormd did not say how long its answer is");
	else
		return 0;
	return error_trace(-EPROTO);
}

static size_t on_write(char *data, size_t size, size_t n, void *userdata)
{
	struct transfer *x = userdata;
	long status = 0;

	x->active_ns = clock_now_ns();
	(void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
	if (x->t->write && status >= 200 && status <= 299) {
		if (!x->checked)
			x->error = check_answer(x);
		x->checked = true;
		if (!x->error)
			x->error = x->t->write(x->t->userdata, data, size * n, x->problem);
	} else if (x->body.len + size * n > MAX_JSON) {
		problem_set(x->problem, 500, "dormd's answer is too large");
		x->error = -EMSGSIZE;
	} else {
		x->error = buf_append(&x->body, data, size * n);
	}
	x->active_ns = clock_now_ns();
	return x->error ? CURL_WRITEFUNC_ERROR : size * n;
}

static int on_progress(void *userdata, curl_off_t dl_total, curl_off_t dl_now, curl_off_t ul_total,
		       curl_off_t ul_now)
{
	struct transfer *x = userdata;
	bool up = x->t->read;
	curl_off_t now = up ? ul_now : dl_now, total = up ? ul_total : dl_total;

	if (x->paused && is_ready(x)) {
		x->paused = false;
		(void)curl_easy_pause(x->easy, CURLPAUSE_CONT); /* its failure ends the transfer */
	}
	if (x->paused)
		x->active_ns = clock_now_ns(); /* it is not dormd that is silent */
	if (x->t->progress && now > 0)
		progress_bytes(x->t->progress, (uint64_t)now, total > 0 ? (uint64_t)total : 0);
	else if (x->t->progress)
		progress_tick(x->t->progress);
	if (clock_now_ns() - x->active_ns < SILENCE_MS * NSEC_PER_MSEC)
		return 0;
	problem_set(x->problem, 504, "dormd at %s has been silent for %u minutes", x->t->socket,
		    SILENCE_MS / 60000);
	x->error = -ETIMEDOUT;
	return 1;
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static CURLcode set_up(struct transfer *x, const char *url, struct curl_slist *headers)
{
	CURLcode c = curl_easy_setopt(x->easy, CURLOPT_URL, url);

	/* the results of setting constants need no check */
	(void)curl_easy_setopt(x->easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
	(void)curl_easy_setopt(x->easy, CURLOPT_OPENSOCKETDATA, x);
	(void)curl_easy_setopt(x->easy, CURLOPT_WRITEFUNCTION, on_write);
	(void)curl_easy_setopt(x->easy, CURLOPT_WRITEDATA, x);
	(void)curl_easy_setopt(x->easy, CURLOPT_NOPROGRESS, 0l);
	(void)curl_easy_setopt(x->easy, CURLOPT_XFERINFOFUNCTION, on_progress);
	(void)curl_easy_setopt(x->easy, CURLOPT_XFERINFODATA, x);
	(void)curl_easy_setopt(x->easy, CURLOPT_BUFFERSIZE, 256l << 10);
	if (x->t->read) {
		(void)curl_easy_setopt(x->easy, CURLOPT_UPLOAD, 1l);
		(void)curl_easy_setopt(x->easy, CURLOPT_UPLOAD_BUFFERSIZE, 256l << 10);
		(void)curl_easy_setopt(x->easy, CURLOPT_INFILESIZE_LARGE,
				       (curl_off_t)x->t->body_len);
		(void)curl_easy_setopt(x->easy, CURLOPT_READFUNCTION, on_read);
		(void)curl_easy_setopt(x->easy, CURLOPT_READDATA, x);
		(void)curl_easy_setopt(x->easy, CURLOPT_SEEKFUNCTION, on_seek);
	}
	(void)curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, headers);
	return c ? c : curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, x->t->method);
}

static CURLcode run(struct transfer *x)
{
	_cleanup_free_ char *url = http_url(x->t->socket, x->t->path);
	_cleanup_free_ char *type =
		x->t->read ? str_printf("Content-Type: %s", x->t->body_type) : NULL;
	/* without "Expect:" curl would wait for a 100 that nobody sends */
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:"), *more = headers;
	CURLcode c = CURLE_OUT_OF_MEMORY;

	if (more)
		more = http_add_key(headers, x->t->socket);
	if (more && type)
		more = curl_slist_append(headers, type);
	for (size_t i = 0; more && x->t->headers && x->t->headers[i]; i++)
		more = curl_slist_append(headers, x->t->headers[i]);
	if (url && headers && more && (type || !x->t->read))
		c = set_up(x, url, headers);
	x->active_ns = clock_now_ns();
	if (!c)
		c = curl_easy_perform(x->easy);
	curl_slist_free_all(headers);
	return c;
}

/* What came of it. Return: as http_transfer(), with the status in *@status */
static int judge(struct transfer *x, CURLcode c, int *status)
{
	long code = 0;

	(void)curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &code);
	if (x->t->read && (x->early || c == CURLE_SEND_ERROR)) {
		code = early_answer(x);
		c = code ? CURLE_OK : CURLE_SEND_ERROR;
	}
	if (x->error) {
		problem_errno(x->problem, x->error, x->t->read ? "sending" : "dormd's answer");
		return error_trace(x->error);
	}
	if (c)
		return error_trace(http_transport_problem(x->easy, c, x->t->socket, x->problem));
	*status = (int)code;
	if (code < 200 || code > 299)
		return http_status_problem((int)code, &x->body, x->problem);
	/* an empty answer is of no type either */
	return x->t->write && !x->checked ? check_answer(x) : 0;
}

static int parse_answer(struct transfer *x, json_t **ret)
{
	json_error_t error;

	if (x->t->write || !x->body.len)
		return 0;
	*ret = json_loadb(x->body.data, x->body.len, 0, &error);
	if (*ret)
		return 0;
	problem_set(x->problem, 500, "dormd's answer to %s %s is not JSON: %s", x->t->method,
		    x->t->path, error.text);
	return error_trace(-EBADMSG);
}

int http_transfer(const struct http_transfer *t, struct http_reply *ret, struct problem *problem)
{
	struct transfer x = {.t = t, .spy = -1, .problem = problem};
	int r = http_check_socket(t->socket, problem);

	*ret = (struct http_reply){0};
	if (r < 0)
		return error_trace(r);
	x.easy = http_easy_new(t->socket);
	if (!x.easy) {
		problem_set(problem, 500, "out of memory");
		return error_trace(-ENOMEM);
	}
	r = judge(&x, run(&x), &ret->status);
	if (!r)
		r = parse_answer(&x, &ret->body);
	curl_easy_cleanup(x.easy);
	fd_close(x.spy);
	buf_deinit(&x.body);
	return r;
}
