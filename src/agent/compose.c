/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compose.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/caller.h"
#include "agent/file-problem.h"
#include "agent/upload.h"
#include "agent/receive.h"
#include "base/error.h"
#include "base/fd.h"

#define MAX_SOURCES 1024u
#define CHUNK	    ((size_t)128 * 1024)

struct compose {
	struct user user;
	char *destination; /* absolute, as the sources */
	char **sources;
	size_t n;
	struct problem problem;
};

static int append(struct compose *c, struct worker *w, const char *path, struct upload *u,
		  char *buf)
{
	_cleanup_fd_ int fd = file_open_regular(path, &c->problem, NULL);
	ssize_t n = 1;
	int r = fd < 0 ? fd : 0;

	while (r == 0 && n > 0) {
		n = worker_is_cancelled(w) ? -ECANCELED : read(fd, buf, CHUNK);
		if (n == -1)
			r = file_problem(&c->problem, -errno, path);
		else if (n < 0)
			r = (int)n;
		else
			r = upload_write(u, buf, (size_t)n, &c->problem);
	}
	return r;
}

static int compose(struct compose *c, struct worker *w, struct upload *u)
{
	_cleanup_free_ char *buf = malloc(CHUNK);
	int r = buf ? upload_open(u, c->destination, &c->user, &c->problem) : -ENOMEM;

	for (size_t i = 0; r == 0 && i < c->n; i++)
		r = append(c, w, c->sources[i], u, buf);
	if (r == 0)
		r = upload_finish(u, NULL, -1, &c->problem);
	return r < 0 ? r : upload_commit(u, &c->problem);
}

void compose_run(struct worker *w, void *arg)
{
	struct compose *c = arg;
	struct upload u = UPLOAD_INIT;
	int r = compose(c, w, &u);

	upload_deinit(&u); /* first take back, then tell */
	if (r == 0) {
		worker_reply_json(w, 200, receive_entry(c->destination, NULL));
		return;
	}
	(void)file_problem(&c->problem, r, c->destination); /* unless it was described */
	worker_fail(w, &c->problem);
}

/* --- the request --------------------------------------------------------------------------------
 */

static int bad(struct problem *problem, const char *field, const char *want)
{
	problem_set(problem, 400, "'%s' must be %s", field, want);
	return -EINVAL;
}

/* Return: 0 with fresh memory; -EINVAL; -ENOMEM */
static int read_path(struct request *rq, struct compose *c, const json_t *o, const char *field,
		     struct problem *problem, char **ret)
{
	const char *text = json_string_value(o);

	if (!text || !text[0] || strlen(text) != json_string_length(o))
		return bad(problem, field, "a path, or a list of paths");
	*ret = caller_path(rq->agent, &c->user, text);
	return *ret ? 0 : -ENOMEM;
}

static int read_sources(struct request *rq, struct compose *c, const json_t *list,
			struct problem *problem)
{
	size_t n = json_array_size(list);
	int r = 0;

	if (n == 0 || n > MAX_SOURCES)
		return bad(problem, "source_paths", "a list of 1 to 1024 paths");
	c->sources = calloc(n, sizeof(*c->sources));
	if (!c->sources)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = read_path(rq, c, json_array_get(list, i), "source_paths", problem,
			      &c->sources[i]);
		c->n += r == 0;
	}
	return r;
}

int compose_new(struct request *rq, const json_t *body, struct problem *problem,
		struct compose **ret)
{
	struct compose *c = calloc(1, sizeof(*c));
	const json_t *user = json_object_get(body, "username");
	int r = c ? 0 : -ENOMEM;

	if (r == 0 && user && !json_is_string(user) && !json_is_null(user))
		r = bad(problem, "username", "a name");
	if (r == 0)
		r = caller_user(rq, json_string_value(user), problem, &c->user);
	if (r == 0)
		r = read_path(rq, c, json_object_get(body, "destination"), "destination", problem,
			      &c->destination);
	if (r == 0)
		r = read_sources(rq, c, json_object_get(body, "source_paths"), problem);
	if (r < 0) {
		compose_free(c);
		return error_trace(r);
	}
	*ret = c;
	return 0;
}

void compose_free(void *compose)
{
	struct compose *c = compose;

	if (!c)
		return;
	for (size_t i = 0; i < c->n; i++)
		free(c->sources[i]);
	free(c->sources);
	free(c->destination);
	free(c);
}
