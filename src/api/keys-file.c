/* SPDX-License-Identifier: Apache-2.0 */
/* keys-file.c - API keys as text: strict reading, writing */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "api/keys-internal.h"
#include "base/str.h"

#define VERSION 1

static const char *const scopes[] = {
	[SCOPE_NONE] = "none", [SCOPE_READ] = "read", [SCOPE_USE] = "use", [SCOPE_ADMIN] = "admin"};
static_assert(ARRAY_SIZE(scopes) == SCOPE_ADMIN + 1, "a name for every scope");

const char *scope_name(enum scope scope)
{
	return (size_t)scope < ARRAY_SIZE(scopes) ? scopes[scope] : "?";
}

int scope_parse(const char *text, enum scope *ret)
{
	for (size_t i = SCOPE_READ; i < ARRAY_SIZE(scopes); i++) {
		if (strcmp(text, scopes[i]) != 0)
			continue;
		*ret = (enum scope)i;
		return 0;
	}
	return -EINVAL;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static json_t *encode_key(const struct key *k)
{
	char hash[2 * KEYS_HASH_LEN + 1], old[2 * KEYS_HASH_LEN + 1] = "";

	str_hex(k->hash, sizeof(k->hash), hash);
	if (k->old_until_s)
		str_hex(k->old_hash, sizeof(k->old_hash), old);
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:I}", "id", k->id,
			 "name", k->name, "scope", scope_name(k->scope), "hash", hash, "created",
			 (json_int_t)k->created_s, "expires", (json_int_t)k->expires_s, "old_hash",
			 old, "old_until", (json_int_t)k->old_until_s, "max_sandboxes",
			 (json_int_t)k->max_sandboxes, "max_memory", (json_int_t)k->max_memory,
			 "rate", (json_int_t)k->rate);
}

char *keys_encode(const struct key *keys, size_t n)
{
	json_auto_t *all = json_array(), *file = NULL;

	for (size_t i = 0; i < n; i++)
		if (json_array_append_new(all, encode_key(&keys[i])) < 0)
			return NULL;
	file = json_pack("{s:i, s:O}", "version", VERSION, "keys", all);
	return file ? json_dumps(file, JSON_INDENT(1)) : NULL;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static int bad(struct problem *problem, size_t i, const char *field)
{
	problem_set(problem, 503, "key %zu: \"%s\" is missing or wrong", i, field);
	return -EBADMSG;
}

static int decode_texts(json_t *o, size_t i, struct problem *problem, struct key *k)
{
	const char *id = json_string_value(json_object_get(o, "id")),
		   *name = json_string_value(json_object_get(o, "name")),
		   *scope = json_string_value(json_object_get(o, "scope")),
		   *hash = json_string_value(json_object_get(o, "hash")),
		   *old = json_string_value(json_object_get(o, "old_hash"));

	if (!id || !id_is_valid(id) || id[0] != 'k')
		return bad(problem, i, "id");
	if (!name || !str_is_name(name))
		return bad(problem, i, "name");
	if (!scope || scope_parse(scope, &k->scope) < 0)
		return bad(problem, i, "scope");
	if (!hash || str_unhex(hash, k->hash, sizeof(k->hash)) < 0)
		return bad(problem, i, "hash");
	if (!old || (*old && str_unhex(old, k->old_hash, sizeof(k->old_hash)) < 0) ||
	    !*old != !k->old_until_s)
		return bad(problem, i, "old_hash");
	str_copy(k->id, sizeof(k->id), id);
	str_copy(k->name, sizeof(k->name), name);
	return 0;
}

static int decode_key(json_t *o, size_t i, struct problem *problem, struct key *k)
{
	const struct {
		const char *name;
		uint64_t *dest;
		uint64_t max;
	} numbers[] = {
		{"created", &k->created_s, UINT32_MAX * 64ull},
		{"expires", &k->expires_s, UINT32_MAX * 64ull},
		{"old_until", &k->old_until_s, UINT32_MAX * 64ull},
		{"max_sandboxes", &k->max_sandboxes, KEYS_MAX_COUNT},
		{"max_memory", &k->max_memory, INT64_MAX},
		{"rate", &k->rate, KEYS_MAX_RATE},
	};

	if (json_object_size(o) != ARRAY_SIZE(numbers) + 5)
		return bad(problem, i, "something");
	for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
		json_t *v = json_object_get(o, numbers[n].name);

		if (!json_is_integer(v) || json_integer_value(v) < 0 ||
		    (uint64_t)json_integer_value(v) > numbers[n].max)
			return bad(problem, i, numbers[n].name);
		*numbers[n].dest = (uint64_t)json_integer_value(v);
	}
	return decode_texts(o, i, problem, k);
}

static bool is_twice(const struct key *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(keys[i].id, keys[n].id))
			return true;
	return false;
}

int keys_decode(const char *text, size_t len, struct problem *problem, struct key **ret,
		size_t *ret_n)
{
	json_error_t error;
	json_auto_t *file = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	json_t *all = json_object_get(file, "keys"), *version = json_object_get(file, "version");
	_cleanup_free_ struct key *keys = NULL;
	size_t n = json_array_size(all);

	if (!file) {
		problem_set(problem, 503, "line %d: %s", error.line, error.text);
		return -EBADMSG;
	}
	if (!json_is_integer(version) || json_integer_value(version) != VERSION) {
		problem_set(problem, 503, "its version is not %d", VERSION);
		return -EBADMSG;
	}
	if (!json_is_array(all) || json_object_size(file) != 2 || n > KEYS_MAX) {
		problem_set(problem, 503, "it is not a list of at most %d keys", KEYS_MAX);
		return -EBADMSG;
	}
	keys = calloc(n + 1, sizeof(*keys));
	if (!keys)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		int r = decode_key(json_array_get(all, i), i, problem, &keys[i]);

		if (r == 0 && is_twice(keys, i))
			r = bad(problem, i, "id");
		if (r < 0)
			return r;
	}
	*ret = take_ptr(keys);
	*ret_n = n;
	return 0;
}
