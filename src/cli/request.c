/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/request.h"

#include <errno.h>
#include <stdio.h>

#include "cli/output.h"
#include "cli/trace-file.h"

int request_one(struct cli *cli, const char *method, const char *path, struct http_reply *ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct problem problem = PROBLEM_INIT;

	if (!http_new(cli->socket, &problem, &http) &&
	    !http_call(http, method, path, NULL, ret, &problem))
		return 0;
	output_problem(&problem);
	return -1;
}

int request_named(struct cli *cli, const char *method, const char *before, const char *name,
		  const char *after, struct http_reply *ret)
{
	_cleanup_free_ char *path = http_path(before, name, after);
	struct problem problem = PROBLEM_INIT;

	if (path)
		return request_one(cli, method, path, ret);
	problem_set(&problem, 500, "out of memory");
	output_problem(&problem);
	return -1;
}

void request_print_id(const char *id, const struct http_reply *reply, double ms)
{
	(void)puts(id); /* checked by output_finish() */
}

json_t *request_error(const char *id_key, const char *id, const struct problem *p)
{
	json_t *error = json_pack("{s:i, s:s}", "code", p->status, "message", p->message);

	if (p->hint[0])
		(void)json_object_set_new(error, "hint",
					  json_string(p->hint)); /* left out: no harm */
	return json_pack("{s:s, s:o}", id_key, id, "error", error);
}

/* Return: 0; HTTP_E_STATUS; negative errno. Adds to @results, which is NULL without --json */
static int one_of_each(struct cli *cli, struct http *http, const struct request_each *each,
		       const char *id, json_t *results)
{
	_cleanup_free_ char *path = http_path(each->before, id, each->after);
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem problem = PROBLEM_INIT;
	struct progress progress;
	json_t *result;
	int r = -ENOMEM;

	progress_start(&progress, cli, "%s %s%s", each->doing, id,
		       each->doing_after ? each->doing_after : "");
	http_set_progress(http, &progress);
	if (path)
		r = http_call(http, each->method, path, each->body, &reply, &problem);
	http_set_progress(http, NULL);
	progress_end(&progress);
	if (!r && each->trace_file && trace_file_write(each->trace_file, reply.body))
		r = HTTP_E_CUT; /* it was done all the same; the message is printed */
	else if (r == HTTP_E_STATUS && each->forgive && each->forgive(http, id, &reply))
		r = 0;
	else if (r)
		output_problem(&problem);
	if (!r && !results)
		each->done(id, &reply, progress_elapsed_ms(&progress));
	if (!results)
		return r;
	result = r			      ? request_error(each->id_key, id, &problem)
		 : json_is_object(reply.body) ? json_incref(reply.body)
					      : json_pack("{s:s}", each->id_key, id);
	return json_array_append_new(results, result) ? -ENOMEM : r;
}

int request_each(struct cli *cli, const struct request_each *each, char *const *ids, size_t n_ids)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct problem problem = PROBLEM_INIT;
	json_t *results = cli->json ? json_array() : NULL;
	int code = CLI_OK, r = http_new(cli->socket, &problem, &http);

	if (r < 0)
		output_problem(&problem);
	for (size_t i = 0; i < n_ids && r >= 0; i++) {
		r = one_of_each(cli, http, each, ids[i], results);
		if (r)
			code = CLI_FAILED;
	}
	if (results)
		output_json(results);
	json_decref(results);
	return r < 0 ? CLI_FAILED : code;
}
