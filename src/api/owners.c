/* SPDX-License-Identifier: Apache-2.0 */
#include "api/owners.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "base/str.h"

#define FILE_NAME "snapshot-owners.json"
#define MAX_BYTES (16u << 20)
#define VERSION	  1

struct owners {
	int root_fd;
	bool damaged; /* constant */
	pthread_mutex_t lock;
	json_t *all; /* lock; object of snapshot id -> key id */
};

/* Return: 0; -EBADMSG; negative errno. @ret: new reference */
static int decode(const char *text, size_t len, json_t **ret)
{
	json_auto_t *file = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	json_t *all = json_object_get(file, "owners"), *v;
	const char *id;

	if (json_integer_value(json_object_get(file, "version")) != VERSION || !json_is_object(all))
		return -EBADMSG;
	json_object_foreach (all, id, v)
		if (!id_is_valid(id) || !json_is_string(v) || !id_is_valid(json_string_value(v)))
			return -EBADMSG;
	*ret = json_incref(all);
	return 0;
}

static int read_file(struct owners *o)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = file_read(o->root_fd, FILE_NAME, MAX_BYTES, &text, &len);

	if (r == -ENOENT) {
		o->all = json_object();
		return o->all ? 0 : -ENOMEM;
	}
	return r < 0 ? r : decode(text, len, &o->all);
}

int owners_open(int root_fd, struct owners **ret)
{
	struct owners *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	o->root_fd = root_fd;
	pthread_mutex_init(&o->lock, NULL);
	r = read_file(o);
	o->damaged = r < 0;
	if (r < 0)
		log_error(FILE_NAME " cannot be read (%s): keys with scope use cannot use or "
				    "delete snapshots",
			  strerrordesc_np(-r));
	*ret = o;
	return 0;
}

struct owners *owners_free(struct owners *o)
{
	if (!o)
		return NULL;
	json_decref(o->all);
	pthread_mutex_destroy(&o->lock);
	free(o);
	return NULL;
}

static int check(const struct owners *o, struct problem *problem)
{
	if (!o->damaged)
		return 0;
	problem_set(problem, 503,
		    "it is not known who made which snapshot: " FILE_NAME
		    " in the store cannot be read");
	problem_hint(problem, "restore the file or remove it, then start dormd again");
	return -EBADMSG;
}

int owners_get(struct owners *o, const char *snapshot_id, struct problem *problem,
	       char ret[REQUEST_KEY_ID_MAX + 1])
{
	const char *key_id;
	int r = check(o, problem);

	if (r < 0)
		return r;
	LOCK_SCOPE(&o->lock);
	key_id = json_string_value(json_object_get(o->all, snapshot_id));
	str_copy(ret, REQUEST_KEY_ID_MAX + 1, key_id ?: "");
	return 0;
}

/* Lock held */
static int write_file(struct owners *o)
{
	json_auto_t *file = json_pack("{s:i, s:O}", "version", VERSION, "owners", o->all);
	_cleanup_free_ char *text = file ? json_dumps(file, JSON_COMPACT) : NULL;

	return text ? file_write_atomic(o->root_fd, FILE_NAME, text, strlen(text), 0600) : -ENOMEM;
}

int owners_set(struct owners *o, const char *snapshot_id, const char *key_id,
	       struct problem *problem)
{
	json_t *was;
	int r = check(o, problem);
	LOCK_SCOPE(&o->lock);

	if (r < 0)
		return r;
	was = json_object_get(o->all, snapshot_id);
	if (!was && !*key_id)
		return 0;
	if (*key_id && json_object_size(o->all) >= OWNERS_MAX) {
		problem_set(problem, 409, "keys have made %d snapshots already", OWNERS_MAX);
		return -ENOSPC;
	}
	json_incref(was);
	r = *key_id ? json_object_set_new(o->all, snapshot_id, json_string(key_id))
		    : json_object_del(o->all, snapshot_id);
	r = r < 0 ? -ENOMEM : write_file(o);
	if (r < 0) { /* as it was */
		if (was)
			(void)json_object_set(o->all, snapshot_id, was);
		else
			(void)json_object_del(o->all, snapshot_id);
		problem_errno(problem, r, "recording who made snapshot %s", snapshot_id);
	}
	json_decref(was);
	return error_trace(r);
}
