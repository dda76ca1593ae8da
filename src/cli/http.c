/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/str.h"

#define CONNECT_TIMEOUT_MS 5000l
#define CALL_TIMEOUT_MS	   600000l /* a sandbox with much memory sleeps for a while */
#define LINES_SILENCE_S	   120l	   /* an answer by lines may take hours, but not in silence */
#define MAX_LINE	   (1u << 20)

struct http {
	CURL *easy;
	char *socket_path;
	struct progress *progress;
};

/* What one answer is collected into. */
struct answer {
	CURL *easy;
	struct buf body; /* whole, or the line so far */
	http_visit_line visit;
	void *userdata;
	struct problem *problem;
	int error; /* what made us stop reading: negative errno */
	char next_token[256];
};

void http_reply_deinit(struct http_reply *reply)
{
	json_decref(reply->body);
	*reply = (struct http_reply){0};
}

bool http_is_url(const char *address)
{
	return str_has_prefix(address, "http://") || str_has_prefix(address, "https://");
}

char *http_url(const char *address, const char *path)
{
	size_t len = strlen(address);

	if (!http_is_url(address))
		return str_printf("http://localhost%s", path);
	while (len && address[len - 1] == '/')
		len--;
	return str_printf("%.*s%s", (int)len, address, path);
}

struct curl_slist *http_add_key(struct curl_slist *list, const char *address)
{
	static const char name[] = "X-API-KEY";
	const char *key = getenv("DORM_API_KEY");
	_cleanup_free_ char *text = NULL;

	if (!http_is_url(address) || !key || strpbrk(key, "\r\n"))
		return curl_slist_append(list,
					 "X-API-KEY:"); /* takes a header away, were there one */
	text = str_printf("%s: %s", name, key);
	return text ? curl_slist_append(list, text) : NULL;
}

int http_check_socket(const char *socket_path, struct problem *problem)
{
	struct sockaddr_un un;

	if (http_is_url(socket_path))
		return 0;
	if (*socket_path && strlen(socket_path) < sizeof(un.sun_path))
		return 0;
	problem_set(problem, 400, "'%s' cannot be a socket: a path has 1 to %zu characters",
		    socket_path, sizeof(un.sun_path) - 1);
	return -ENAMETOOLONG;
}

static CURLcode set_address(CURL *easy, const char *address)
{
	const char *ca = getenv("DORM_CA");

	if (!http_is_url(address))
		return curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, address);
	(void)curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	return ca && *ca ? curl_easy_setopt(easy, CURLOPT_CAINFO, ca) : CURLE_OK;
}

CURL *http_easy_new(const char *socket_path)
{
	CURL *easy = curl_easy_init();

	if (!easy)
		return NULL;
	/* the results of setting constants need no check; a string can fail for memory */
	(void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1l);
	(void)curl_easy_setopt(easy, CURLOPT_NOPROXY, "*"); /* whatever http_proxy says */
	(void)curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1l);
	(void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	(void)curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	if (!set_address(easy, socket_path) &&
	    !curl_easy_setopt(easy, CURLOPT_USERAGENT, "dorm/" DORM_VERSION))
		return easy;
	curl_easy_cleanup(easy);
	return NULL;
}

struct http *http_free(struct http *h)
{
	if (!h)
		return NULL;
	curl_easy_cleanup(h->easy);
	free(h->socket_path);
	free(h);
	return NULL;
}

int http_new(const char *socket_path, struct problem *problem, struct http **ret)
{
	_cleanup_(http_freep) struct http *h = NULL;
	int r = http_check_socket(socket_path, problem);

	if (r < 0)
		return error_trace(r);
	h = calloc(1, sizeof(*h));
	if (h) {
		h->socket_path = strdup(socket_path);
		h->easy = http_easy_new(socket_path);
	}
	if (!h || !h->socket_path || !h->easy) {
		problem_set(problem, 500, "out of memory");
		return error_trace(-ENOMEM);
	}
	*ret = take_ptr(h);
	return 0;
}

void http_set_progress(struct http *h, struct progress *progress)
{
	h->progress = progress;
}

/* ---- errors ------------------------------------------------------------------------------------
 */

int http_transport_problem(CURL *easy, CURLcode code, const char *socket_path,
			   struct problem *problem)
{
	long os_errno = 0;

	(void)curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_errno);
	switch (code) {
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
		problem_set(problem, 503, "%s is not trusted: %s", socket_path,
			    curl_easy_strerror(code));
		problem_hint(problem, "$DORM_CA names the file of certificates to trust");
		return -EACCES;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_URL_MALFORMAT:
		problem_set(problem, 503, "cannot reach dormd at %s: %s", socket_path,
			    curl_easy_strerror(code));
		return -ECONNREFUSED;
	case CURLE_COULDNT_CONNECT:
		problem_set(problem, 503, "cannot reach dormd at %s: %s", socket_path,
			    os_errno == ECONNREFUSED ? "nobody listens there"
			    : os_errno		     ? strerrordesc_np((int)os_errno)
						     : "no connection");
		if (os_errno == EACCES || os_errno == EPERM)
			problem_hint(problem, "you may not use this socket: try as root");
		if (http_is_url(socket_path))
			problem_hint(problem, "dormd listens on TCP when it is told so with --listen");
		problem_hint(problem, "start it with `dormd --root DIR`, or name its socket with "
				      "--socket or $DORM_SOCKET");
		return -ECONNREFUSED;
	case CURLE_OPERATION_TIMEDOUT:
		problem_set(problem, 504, "dormd at %s did not answer in time", socket_path);
		problem_hint(problem, "`dorm doctor` and dormd's log may tell why");
		return -ETIMEDOUT;
	case CURLE_GOT_NOTHING:
	case CURLE_RECV_ERROR:
	case CURLE_SEND_ERROR:
	case CURLE_PARTIAL_FILE:
		problem_set(problem, 503,
			    "dormd at %s closed the connection before its answer was complete",
			    socket_path);
		problem_hint(problem,
			     "it may have been restarted: look with `dorm ps`, then try again");
		return -ECONNRESET;
	case CURLE_OUT_OF_MEMORY:
		problem_set(problem, 500, "out of memory");
		return -ENOMEM;
	default:
		problem_set(problem, 500, "dormd at %s cannot be understood: %s", socket_path,
			    curl_easy_strerror(code));
		problem_hint(problem, "is this dormd's socket?");
		return -EPROTO;
	}
}

int http_status_problem(int status, const struct buf *body, struct problem *problem)
{
	json_t *json = body->len ? json_loadb(body->data, body->len, 0, NULL) : NULL;
	const char *message = json_string_value(json_object_get(json, "message"));
	const char *hint = json_string_value(json_object_get(json, "hint"));

	if (message && *message)
		problem_set(problem, status, "%s", message);
	else
		problem_set(problem, status, "dormd answered HTTP %d without saying why", status);
	if (hint && *hint)
		problem_hint(problem, "%s", hint);
	json_decref(json);
	return HTTP_E_STATUS;
}

/* ---- one request -------------------------------------------------------------------------------
 */

static int take_lines(struct answer *a)
{
	char *end;

	while ((end = a->body.len ? memchr(a->body.data, '\n', a->body.len) : NULL)) {
		size_t len = (size_t)(end - a->body.data);
		json_t *line = json_loadb(a->body.data, len, 0, NULL);
		int r = json_is_object(line) ? a->visit(a->userdata, line) : -EBADMSG;

		json_decref(line);
		if (r == -EBADMSG)
			problem_set(a->problem, 500, "dormd sent a line that is not a JSON object");
		if (r < 0)
			return error_trace(r);
		buf_consume(&a->body, len + 1);
	}
	return 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *userdata)
{
	struct answer *a = userdata;
	size_t len = size * n;
	long status = 0;
	bool lines;

	(void)curl_easy_getinfo(a->easy, CURLINFO_RESPONSE_CODE, &status);
	lines = a->visit && status < 300;
	if (a->body.len + len > (lines ? MAX_LINE : HTTP_MAX_BODY)) {
		problem_set(a->problem, 500, "dormd's answer is too large");
		a->error = -EMSGSIZE;
	} else {
		a->error = buf_append(&a->body, data, len);
		if (!a->error && lines)
			a->error = take_lines(a);
	}
	return a->error ? CURL_WRITEFUNC_ERROR : len;
}

static size_t on_header(char *data, size_t size, size_t n, void *userdata)
{
	static const char name[] = "x-next-token:";
	struct answer *a = userdata;
	size_t len = size * n, skip = sizeof(name) - 1, token;

	if (len < skip || strncasecmp(data, name, skip) != 0)
		return len;
	while (skip < len && data[skip] == ' ')
		skip++;
	for (token = 0; skip + token < len && !strchr("\r\n", data[skip + token]); token++)
		;
	if (token >= sizeof(a->next_token))
		return CURL_WRITEFUNC_ERROR; /* a token cut short would begin again for ever */
	memcpy(a->next_token, data + skip, token);
	a->next_token[token] = 0;
	return len;
}

static int on_progress(void *userdata, curl_off_t dt, curl_off_t dn, curl_off_t ut, curl_off_t un)
{
	struct http *h = userdata;

	if (h->progress)
		progress_tick(h->progress);
	return 0;
}

static void set_callbacks(struct http *h, struct answer *a)
{
	(void)curl_easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, on_body);
	(void)curl_easy_setopt(h->easy, CURLOPT_WRITEDATA, a);
	(void)curl_easy_setopt(h->easy, CURLOPT_HEADERFUNCTION, on_header);
	(void)curl_easy_setopt(h->easy, CURLOPT_HEADERDATA, a);
	(void)curl_easy_setopt(h->easy, CURLOPT_NOPROGRESS, 0l);
	(void)curl_easy_setopt(h->easy, CURLOPT_XFERINFOFUNCTION, on_progress);
	(void)curl_easy_setopt(h->easy, CURLOPT_XFERINFODATA, h);
	(void)curl_easy_setopt(h->easy, CURLOPT_TIMEOUT_MS, a->visit ? 0l : CALL_TIMEOUT_MS);
	(void)curl_easy_setopt(h->easy, CURLOPT_LOW_SPEED_LIMIT, a->visit ? 1l : 0l);
	(void)curl_easy_setopt(h->easy, CURLOPT_LOW_SPEED_TIME, a->visit ? LINES_SILENCE_S : 0l);
}

static CURLcode set_request(struct http *h, const char *method, const char *path, const char *body,
			    struct curl_slist *headers)
{
	_cleanup_free_ char *url = http_url(h->socket_path, path);
	CURLcode c = url ? curl_easy_setopt(h->easy, CURLOPT_URL, url) : CURLE_OUT_OF_MEMORY;

	if (c)
		return c;
	(void)curl_easy_setopt(h->easy, CURLOPT_HTTPGET,
			       1l); /* forgets the body of the last call */
	if (body) {
		(void)curl_easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
		(void)curl_easy_setopt(h->easy, CURLOPT_POSTFIELDS, body);
	}
	(void)curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, headers);
	return curl_easy_setopt(h->easy, CURLOPT_CUSTOMREQUEST, method);
}

/* Sends and receives. Return: as http_call(), with the status in *@ret_status */
static int perform(struct http *h, const char *method, const char *path, json_t *body,
		   struct answer *a, int *ret_status)
{
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct curl_slist *headers = http_add_key(NULL, h->socket_path), *more = headers;
	CURLcode c = CURLE_OUT_OF_MEMORY;
	long status = 0;

	if (body && headers)
		more = curl_slist_append(headers, "Content-Type: application/json");
	if (headers && more && (!body || text))
		c = set_request(h, method, path, text, headers);
	a->easy = h->easy;
	set_callbacks(h, a);
	if (!c)
		c = curl_easy_perform(h->easy);
	curl_slist_free_all(headers);
	if (a->error) {
		problem_errno(a->problem, a->error, "dormd's answer");
		return error_trace(a->error);
	}
	if (c)
		return error_trace(http_transport_problem(h->easy, c, h->socket_path, a->problem));
	(void)curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
	*ret_status = (int)status;
	return status < 200 || status > 299 ? http_status_problem((int)status, &a->body, a->problem)
					    : 0;
}

int http_call(struct http *h, const char *method, const char *path, json_t *body,
	      struct http_reply *ret, struct problem *problem)
{
	struct answer a = {.problem = problem};
	json_error_t error;
	int r;

	*ret = (struct http_reply){0};
	r = perform(h, method, path, body, &a, &ret->status);
	if (!r && a.body.len) {
		ret->body = json_loadb(a.body.data, a.body.len, 0, &error);
		if (!ret->body) {
			problem_set(problem, 500, "dormd's answer to %s %s is not JSON: %s", method,
				    path, error.text);
			r = error_trace(-EBADMSG);
		}
	}
	str_copy(ret->next_token, sizeof(ret->next_token), a.next_token);
	buf_deinit(&a.body);
	return r;
}

int http_lines(struct http *h, const char *method, const char *path, json_t *body,
	       http_visit_line visit, void *userdata, struct problem *problem)
{
	struct answer a = {.problem = problem, .visit = visit, .userdata = userdata};
	int status = 0, r = perform(h, method, path, body, &a, &status);

	if (!r && a.body.len) {
		problem_set(problem, 500, "dormd's answer ended in the middle of a line");
		r = HTTP_E_CUT;
	}
	buf_deinit(&a.body);
	return r;
}

char *http_path(const char *before, const char *part, const char *after)
{
	char *escaped = curl_easy_escape(NULL, part, 0);
	char *path = escaped ? str_printf("%s%s%s", before, escaped, after) : NULL;

	curl_free(escaped);
	return path;
}
