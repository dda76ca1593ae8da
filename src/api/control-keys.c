/* SPDX-License-Identifier: Apache-2.0 */
/* control-keys.c - API keys: made, listed, rotated, revoked */
#include "api/routes.h"

#include <errno.h>

#include "api/access.h"
#include "api/fields.h"
#include "base/clock.h"
#include "base/log.h"

#define MAX_EXPIRES_S	(100ull * 366 * 86400)
#define DEFAULT_GRACE_S 3600u
#define MAX_GRACE_S	(366u * 86400)
#define MAX_MEMORY_MB	(1ull << 40)

static int get_keys(struct request *q, struct problem *problem, struct keys **ret)
{
	if (!q->access) {
		problem_set(problem, 501, "this server asks nobody for a key");
		return -ENOTSUP;
	}
	*ret = access_keys(q->access);
	return 0;
}

/* Who did it, for the log */
static void note(const struct request *q, const char *done, json_t *key)
{
	log_info("API key %s (%s) %s by %s, uid %u", json_string_value(json_object_get(key, "id")),
		 json_string_value(json_object_get(key, "name")), done,
		 q->caller.key_id[0] ? q->caller.key_id : "the unix socket", q->caller.uid);
}

int control_key_list(struct request *q, struct reply *y)
{
	struct keys *keys;
	int r = get_keys(q, &y->problem, &keys);

	if (r == 0 && keys_damage(keys)) {
		problem_set(&y->problem, 503, "%s", keys_damage(keys));
		r = -EBADMSG;
	}
	return r < 0 ? r : reply_json(y, 200, keys_list(keys));
}

static int read_scope(struct request *q, struct problem *problem, enum scope *ret)
{
	const char *text = NULL;
	int r = fields_text(q->json, "scope", 16, problem, &text);

	if (r < 0 || !text)
		return r;
	if (scope_parse(text, ret) == 0)
		return 0;
	problem_set(problem, 400, "scope: '%.16s' is not read, use or admin", text);
	return -EINVAL;
}

static int read_options(struct request *q, struct problem *problem, struct key_options *o)
{
	uint64_t expires_s = 0, memory_mb = 0;
	int r = fields_text(q->json, "name", KEYS_NAME_MAX, problem, &o->name);

	if (r == 0)
		r = read_scope(q, problem, &o->scope);
	if (r == 0)
		r = fields_uint(q->json, "expires", 1, MAX_EXPIRES_S, problem, &expires_s);
	if (r == 0)
		r = fields_uint(q->json, "maxSandboxes", 0, KEYS_MAX_COUNT, problem,
				&o->max_sandboxes);
	if (r == 0)
		r = fields_uint(q->json, "maxMemoryMB", 0, MAX_MEMORY_MB, problem, &memory_mb);
	if (r == 0)
		r = fields_uint(q->json, "rate", 0, KEYS_MAX_RATE, problem, &o->rate);
	o->max_memory = memory_mb << 20;
	if (expires_s)
		o->expires_ns = clock_real_ns() + expires_s * NSEC_PER_SEC;
	return r;
}

int control_key_create(struct request *q, struct reply *y)
{
	struct key_options o = {.scope = SCOPE_USE};
	struct keys *keys;
	json_t *key;
	int r = get_keys(q, &y->problem, &keys);

	if (r == 0)
		r = read_options(q, &y->problem, &o);
	if (r == 0)
		r = keys_create(keys, &o, &y->problem, &key);
	if (r < 0)
		return r;
	note(q, "was made", key);
	return reply_json(y, 201, key);
}

int control_key_rotate(struct request *q, struct reply *y)
{
	uint64_t grace_s = DEFAULT_GRACE_S;
	struct keys *keys;
	json_t *key;
	int r = get_keys(q, &y->problem, &keys);

	if (r == 0)
		r = fields_uint(q->json, "grace", 0, MAX_GRACE_S, &y->problem, &grace_s);
	if (r == 0)
		r = keys_rotate(keys, q->args[0], grace_s, &y->problem, &key);
	if (r < 0)
		return r;
	note(q, "was given a new secret", key);
	return reply_json(y, 200, key);
}

int control_key_revoke(struct request *q, struct reply *y)
{
	struct keys *keys;
	int r = get_keys(q, &y->problem, &keys);

	y->status = 204;
	if (r == 0)
		r = keys_revoke(keys, q->args[0], &y->problem);
	if (r == 0)
		log_info("API key %s was revoked by %s, uid %u", q->args[0],
			 q->caller.key_id[0] ? q->caller.key_id : "the unix socket", q->caller.uid);
	return r;
}
