/* SPDX-License-Identifier: Apache-2.0 */
#include "api/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "api/keys-internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define FILE_NAME    "keys.json"
#define SECRET_BYTES 20
#define MAX_GRACE_S  (366ull * 86400)

struct keys {
	int root_fd;
	char path[512];	  /* of the file, for messages */
	char damage[512]; /* constant; "": none */
	pthread_mutex_t lock;
	struct key *all; /* lock */
	size_t n;	 /* lock */
};

static uint64_t now_s(void)
{
	return clock_real_ns() / NSEC_PER_SEC;
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static int read_file(struct keys *k, struct problem *problem)
{
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len;
	int r;

	if (fstatat(k->root_fd, FILE_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISREG(st.st_mode) || st.st_mode & 077) {
		problem_set(problem, 503, "it must be a file that its owner alone can read");
		return -EBADMSG;
	}
	r = file_read(k->root_fd, FILE_NAME, KEYS_MAX_BYTES, &text, &len);
	return r < 0 ? r : keys_decode(text, len, problem, &k->all, &k->n);
}

static void read_or_refuse(struct keys *k)
{
	struct problem p = PROBLEM_INIT;
	int r = read_file(k, &p);

	if (r == 0)
		return;
	problem_errno(&p, r, "reading it");
	(void)snprintf(k->damage, sizeof(k->damage),
		       "the API keys in %.240s cannot be used: %.200s", k->path,
		       p.message); /* cut is fine */
	log_error("%s; no API key is valid until the file is restored or removed and dormd "
		  "started again",
		  k->damage);
}

/* Lock held: make @all (consumed on success) what there is. Durable before it holds. */
static int replace(struct keys *k, struct key *all, size_t n, struct problem *problem)
{
	_cleanup_free_ char *text = keys_encode(all, n);
	int r = text ? file_write_atomic(k->root_fd, FILE_NAME, text, strlen(text), 0600) : -ENOMEM;

	if (r < 0) {
		problem_errno(problem, r, "writing %s", k->path);
		return error_trace(r);
	}
	free(k->all);
	k->all = all;
	k->n = n;
	return 0;
}

int keys_open(const char *root, struct problem *problem, struct keys **ret)
{
	struct keys *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	pthread_mutex_init(&k->lock, NULL);
	(void)snprintf(k->path, sizeof(k->path), "%.400s/" FILE_NAME, root); /* cut is fine */
	k->root_fd = file_open_dir(AT_FDCWD, root);
	if (k->root_fd < 0) {
		int r = k->root_fd;

		problem_errno(problem, r, "%s", root);
		keys_free(k);
		return error_trace(r);
	}
	read_or_refuse(k);
	*ret = k;
	return 0;
}

struct keys *keys_free(struct keys *k)
{
	if (!k)
		return NULL;
	free(k->all);
	fd_close(k->root_fd);
	pthread_mutex_destroy(&k->lock);
	free(k);
	return NULL;
}

const char *keys_damage(const struct keys *k)
{
	return k->damage[0] ? k->damage : NULL;
}

static int check_damage(const struct keys *k, struct problem *problem)
{
	if (!k->damage[0])
		return 0;
	problem_set(problem, 503, "%s", k->damage);
	problem_hint(problem, "restore the file or remove it, then start dormd again");
	problem_retry(problem, 60);
	return -EBADMSG;
}

/* ---- who is it? -------------------------------------------------------------------------------
 */

static void digest(const char *secret, uint8_t ret[KEYS_HASH_LEN])
{
	SHA256((const unsigned char *)secret, strlen(secret), ret);
}

/* Lock held. All of them are compared, in full. */
static struct key *find_secret(struct keys *k, const char *secret, uint64_t now)
{
	uint8_t hash[KEYS_HASH_LEN];
	struct key *found = NULL;

	digest(secret, hash);
	for (size_t i = 0; i < k->n; i++) {
		struct key *key = &k->all[i];
		bool is_new = !CRYPTO_memcmp(key->hash, hash, sizeof(hash)),
		     is_old = !CRYPTO_memcmp(key->old_hash, hash, sizeof(hash));

		if (is_new || (is_old && now < key->old_until_s))
			found = key;
	}
	return found;
}

static int take_token(struct key *key, struct problem *problem)
{
	uint64_t wait_ns = rate_take(&key->bucket, (unsigned)key->rate, clock_now_ns());

	if (!wait_ns)
		return 0;
	problem_set(problem, 429, "API key '%s' may send %u requests per second", key->name,
		    (unsigned)key->rate);
	problem_retry(problem, (unsigned)(wait_ns / NSEC_PER_SEC) + 1);
	return -EAGAIN;
}

int keys_authenticate(struct keys *k, const char *secret, struct problem *problem,
		      struct caller *ret)
{
	uint64_t now = now_s();
	struct key *key;
	int r = check_damage(k, problem);

	if (r < 0)
		return r;
	if (!secret) {
		problem_set(problem, 401, "the header X-API-KEY is missing");
		problem_hint(problem, "`dorm key create NAME` makes a key");
		return -EACCES;
	}
	LOCK_SCOPE(&k->lock);
	key = find_secret(k, secret, now);
	if (!key) {
		problem_set(problem, 401, "the key in X-API-KEY is wrong, or was revoked");
		return -EACCES;
	}
	if (key->expires_s && now >= key->expires_s) {
		problem_set(problem, 401, "API key '%s' has expired", key->name);
		return -EACCES;
	}
	key->used_s = now;
	r = take_token(key, problem);
	if (r < 0)
		return r;
	*ret = (struct caller){.scope = key->scope};
	str_copy(ret->key_id, sizeof(ret->key_id), key->id);
	return 0;
}

/* Lock held */
static struct key *find_id(struct keys *k, const char *id)
{
	for (size_t i = 0; i < k->n; i++)
		if (!strcmp(k->all[i].id, id))
			return &k->all[i];
	return NULL;
}

bool keys_quota(struct keys *k, const char *id, uint64_t *ret_sandboxes, uint64_t *ret_memory)
{
	const struct key *key;
	LOCK_SCOPE(&k->lock);

	key = find_id(k, id);
	if (!key)
		return false;
	*ret_sandboxes = key->max_sandboxes;
	*ret_memory = key->max_memory;
	return true;
}

/* ---- changing ---------------------------------------------------------------------------------
 */

static void add_time(json_t *o, const char *name, uint64_t s)
{
	char text[32];

	(void)json_object_set_new(o, name, /* without memory: left out */
				  s ? json_string(clock_rfc3339(s * NSEC_PER_SEC, text))
				    : json_null());
}

static json_t *describe(const struct key *key, const char *secret)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s*}", "id", key->id, "name",
			      key->name, "scope", scope_name(key->scope), "maxSandboxes",
			      (json_int_t)key->max_sandboxes, "maxMemoryMB",
			      (json_int_t)(key->max_memory >> 20), "rate", (json_int_t)key->rate,
			      "key", secret);

	if (!o)
		return NULL;
	add_time(o, "createdAt", key->created_s);
	add_time(o, "expiresAt", key->expires_s);
	add_time(o, "lastUsedAt", key->used_s);
	add_time(o, "oldKeyValidUntil", key->old_until_s > now_s() ? key->old_until_s : 0);
	return o;
}

static void new_secret(char ret[KEYS_SECRET_LEN + 1], uint8_t ret_hash[KEYS_HASH_LEN])
{
	uint8_t raw[SECRET_BYTES];

	id_random(raw, sizeof(raw));
	memcpy(ret, "e2b_", 4);
	str_hex(raw, sizeof(raw), ret + 4);
	explicit_bzero(raw, sizeof(raw));
	digest(ret, ret_hash);
}

/* Lock held. A copy with room for one more; NULL without memory. */
static struct key *copy_all(const struct keys *k)
{
	struct key *all = calloc(k->n + 1, sizeof(*all));

	if (all && k->n)
		memcpy(all, k->all, k->n * sizeof(*all));
	return all;
}

static int check_options(const struct keys *k, const struct key_options *o, struct problem *problem)
{
	if (!o->name || !str_is_name(o->name)) {
		problem_set(problem, 400, "name: '%.64s' is not a name", o->name ?: "");
		problem_hint(problem, "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
		return -EINVAL;
	}
	if (k->n >= KEYS_MAX) {
		problem_set(problem, 409, "there are %d API keys already", KEYS_MAX);
		problem_hint(problem, "`dorm key revoke` those that nobody uses");
		return -ENOSPC;
	}
	return 0;
}

int keys_create(struct keys *k, const struct key_options *o, struct problem *problem, json_t **ret)
{
	_cleanup_free_ struct key *all = NULL;
	char secret[KEYS_SECRET_LEN + 1];
	struct key *key;
	int r = check_damage(k, problem);
	LOCK_SCOPE(&k->lock);

	if (r == 0)
		r = check_options(k, o, problem);
	if (r < 0)
		return r;
	all = copy_all(k);
	if (!all)
		return -ENOMEM;
	key = &all[k->n];
	*key = (struct key){.scope = o->scope,
			    .created_s = now_s(),
			    .expires_s = o->expires_ns / NSEC_PER_SEC,
			    .max_sandboxes = o->max_sandboxes,
			    .max_memory = o->max_memory,
			    .rate = o->rate};
	id_new('k', key->id);
	str_copy(key->name, sizeof(key->name), o->name);
	new_secret(secret, key->hash);
	*ret = describe(key, secret);
	explicit_bzero(secret, sizeof(secret));
	if (!*ret)
		return -ENOMEM;
	r = replace(k, all, k->n + 1, problem);
	if (r < 0) {
		json_decref(*ret);
		return r;
	}
	(void)take_ptr(all);
	return 0;
}

static int no_key(const char *id, struct problem *problem)
{
	problem_set(problem, 404, "there is no API key %.64s", id);
	problem_hint(problem, "`dorm key ls` lists them");
	return -ENOENT;
}

/* lock held. Return: which of the copy @ret_all it is; negative errno, with @problem */
static ssize_t begin_change(struct keys *k, const char *id, struct problem *problem,
			    struct key **ret_all)
{
	const struct key *was;
	int r = check_damage(k, problem);

	if (r < 0)
		return r;
	was = find_id(k, id);
	if (!was)
		return no_key(id, problem);
	*ret_all = copy_all(k);
	return *ret_all ? was - k->all : -ENOMEM;
}

int keys_rotate(struct keys *k, const char *id, uint64_t grace_s, struct problem *problem,
		json_t **ret)
{
	_cleanup_free_ struct key *all = NULL;
	char secret[KEYS_SECRET_LEN + 1];
	struct key *key;
	ssize_t i;
	int r;
	LOCK_SCOPE(&k->lock);

	i = begin_change(k, id, problem, &all);
	if (i < 0)
		return (int)i;
	key = &all[i];
	memcpy(key->old_hash, key->hash, sizeof(key->old_hash));
	key->old_until_s = grace_s ? now_s() + MIN(grace_s, MAX_GRACE_S) : 0;
	new_secret(secret, key->hash);
	*ret = describe(key, secret);
	explicit_bzero(secret, sizeof(secret));
	if (!*ret)
		return -ENOMEM;
	r = replace(k, all, k->n, problem);
	if (r < 0) {
		json_decref(*ret);
		return r;
	}
	(void)take_ptr(all);
	return 0;
}

int keys_revoke(struct keys *k, const char *id, struct problem *problem)
{
	_cleanup_free_ struct key *all = NULL;
	ssize_t i;
	int r;
	LOCK_SCOPE(&k->lock);

	i = begin_change(k, id, problem, &all);
	if (i < 0)
		return (int)i;
	memmove(&all[i], &all[i + 1], (k->n - 1 - (size_t)i) * sizeof(*all));
	r = replace(k, all, k->n - 1, problem);
	if (r == 0)
		(void)take_ptr(all);
	return r;
}

json_t *keys_list(struct keys *k)
{
	json_t *all = json_array();
	LOCK_SCOPE(&k->lock);

	for (size_t i = 0; i < k->n; i++)
		(void)json_array_append_new(all, describe(&k->all[i], NULL));
	return all;
}
