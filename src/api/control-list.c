/* SPDX-License-Identifier: Apache-2.0 */
/* control-list.c - many sandboxes at once: which there are, and what they use */
#include "api/routes.h"

#include <errno.h>
#include <string.h>

#include "api/access.h"
#include "api/describe.h"
#include "api/fields.h"
#include "api/page.h"
#include "base/clock.h"
#include "base/str.h"

#define DEFAULT_LIMIT 100u
#define METRICS_MAX   100u
#define METRICS_MS    10000u /* for all of them: who is asked after that, is not asked */
#define METRICS_OLD_S 10u

/* ---- list -------------------------------------------------------------------------------------
 */

struct listing {
	struct page page;
	const struct caller *caller;
	const char *states; /* "running,paused" */
	const char *template_id;
	json_t *metadata;
	uint64_t started_after_ms; /* as exact as times are shown */
};

/* Is @word one of a comma-separated list? */
static bool has_word(const char *list, const char *word, size_t len)
{
	for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == len && !memcmp(p, word, len))
			return true;
	return false;
}

static int check_states(const char *states, struct problem *problem)
{
	for (const char *p = states; *p; p += strcspn(p, ","), p += *p == ',')
		if (!has_word("running,paused,failed", p, strcspn(p, ","))) {
			problem_set(problem, 400, "state: '%.*s' is not running, paused or failed",
				    (int)MIN(strcspn(p, ","), 32u), p);
			return -EINVAL;
		}
	return 0;
}

static bool metadata_matches(json_t *wanted, json_t *has)
{
	const char *key;
	json_t *v;

	json_object_foreach (wanted, key, v)
		if (!json_equal(v, json_object_get(has, key)))
			return false;
	return true;
}

static void list_visit(void *userdata, const struct sandbox_info *info)
{
	struct listing *l = userdata;
	const char *state = describe_state(info->state);

	if (access_sees(l->caller, info->owner) &&
	    page_wants(&l->page, info->created_ns, info->id) &&
	    has_word(l->states, state, strlen(state)) &&
	    (!l->template_id || !strcmp(l->template_id, info->template_id)) &&
	    info->started_ns / NSEC_PER_MSEC > l->started_after_ms &&
	    metadata_matches(l->metadata, info->metadata) &&
	    page_has_room(&l->page, info->created_ns, info->id))
		page_add(&l->page, info->created_ns, info->id, describe_info(info));
}

static int list(struct request *q, struct reply *y, const char *default_states)
{
	const char *metadata = request_query(q, "metadata"), *states = request_query(q, "state");
	struct listing l = {.caller = &q->caller,
			    .states = states && *states ? states : default_states,
			    .template_id = request_query(q, "template")};
	uint64_t after_ns = 0;
	int r;

	r = page_init(&l.page, request_query(q, "limit"), request_query(q, "order"),
		      request_query(q, "nextToken"), DEFAULT_LIMIT, &y->problem);
	if (r == 0)
		r = check_states(l.states, &y->problem);
	if (r == 0)
		r = fields_query_time(request_query(q, "startedAfter"), "startedAfter", &y->problem,
				      &after_ns);
	l.started_after_ms = after_ns / NSEC_PER_MSEC;
	if (r == 0 && metadata)
		r = fields_metadata_filter(metadata, &y->problem, &l.metadata);
	if (r == 0)
		r = sandbox_each(q->host, list_visit, &l);
	if (r == 0)
		r = page_reply(&l.page, y);
	page_deinit(&l.page);
	json_decref(l.metadata);
	return r;
}

int control_sandbox_list(struct request *q, struct reply *y)
{
	return list(q, y, "running,paused");
}

/* Clients of then know of no others. */
int control_sandbox_list_1(struct request *q, struct reply *y)
{
	return list(q, y, "running");
}

/* ---- metrics ----------------------------------------------------------------------------------
 */

/* The latest of one sandbox. Return: new reference; NULL when there is none */
static json_t *latest(struct host *host, const char *id, bool ask)
{
	uint64_t now_s = clock_real_ns() / NSEC_PER_SEC;
	json_t *all = NULL, *last;

	if (sandbox_metrics(host, id, 0, ask ? SANDBOX_METRICS_TIME_MAX : now_s - METRICS_OLD_S,
			    NULL, &all) < 0)
		return NULL;
	last = json_array_size(all) ? json_incref(json_array_get(all, json_array_size(all) - 1))
				    : NULL;
	json_decref(all);
	return last;
}

/* A guest that does not answer must not keep the others' figures from the client for long. */
int control_sandboxes_metrics(struct request *q, struct reply *y)
{
	const char *p = request_query(q, "sandbox_ids");
	uint64_t deadline = deadline_after_ms(METRICS_MS);
	json_t *by_id;
	unsigned n = 0;

	if (!p || !*p) {
		problem_set(&y->problem, 400, "sandbox_ids: is required: ids with commas between");
		return -EINVAL;
	}
	by_id = json_object();
	for (; *p; p += strcspn(p, ","), p += *p == ',') {
		char id[ID_LEN + 1];
		json_t *v;

		if (++n > METRICS_MAX) {
			problem_set(&y->problem, 400, "sandbox_ids: more than %u", METRICS_MAX);
			json_decref(by_id);
			return -EINVAL;
		}
		if (strcspn(p, ",") != ID_LEN)
			continue; /* nobody's */
		str_copy(id, sizeof(id), p);
		if (access_sandbox(q->host, &q->caller, id, NULL) < 0)
			continue; /* another's */
		v = latest(q->host, id, !deadline_passed(deadline));
		if (v)
			(void)json_object_set_new(by_id, id, v); /* short of memory: left out */
	}
	return reply_json(y, 200, by_id ? json_pack("{s:o}", "sandboxes", by_id) : NULL);
}
