/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/keys-internal.h"
#include "api/owners.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

struct fixture {
	char root[64];
	struct keys *keys;
};

static void reopen(struct fixture *f)
{
	struct problem p = PROBLEM_INIT;

	keys_free(f->keys);
	f->keys = NULL;
	assert_int_equal(keys_open(f->root, &p, &f->keys), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	str_copy(f->root, sizeof(f->root), "/tmp/test-keys-XXXXXX");
	assert_non_null(mkdtemp(f->root));
	reopen(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	keys_free(f->keys);
	assert_int_equal(file_remove_tree(AT_FDCWD, f->root), 0);
	free(f);
	return 0;
}

static void path_of(const struct fixture *f, char ret[128])
{
	(void)snprintf(ret, 128, "%s/keys.json", f->root);
}

static char *read_text(const struct fixture *f)
{
	char path[128], *text;

	path_of(f, path);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
	return text;
}

static void write_text(const struct fixture *f, const char *text, mode_t mode)
{
	char path[128];

	path_of(f, path);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), mode), 0);
}

/* Return: the secret; @ret_id: of the key */
static void create(struct fixture *f, const struct key_options *o, char ret_secret[64],
		   char ret_id[64])
{
	struct problem p = PROBLEM_INIT;
	json_t *key;

	assert_int_equal(keys_create(f->keys, o, &p, &key), 0);
	str_copy(ret_secret, 64, json_string_value(json_object_get(key, "key")));
	str_copy(ret_id, 64, json_string_value(json_object_get(key, "id")));
	json_decref(key);
}

static int ask(struct fixture *f, const char *secret, struct caller *ret)
{
	struct problem p = PROBLEM_INIT;
	int r = keys_authenticate(f->keys, secret, &p, ret);

	assert_int_equal(r < 0, problem_is_set(&p));
	if (r == -EACCES)
		assert_int_equal(p.status, 401);
	return r;
}

static void test_life(void **state)
{
	const struct key_options o = {.name = "ci", .scope = SCOPE_USE, .max_sandboxes = 7};
	char secret[64], second[64], id[64];
	_cleanup_free_ char *text = NULL;
	struct fixture *f = *state;
	uint64_t n = 0, memory = 1;
	struct caller c = {0};
	json_t *key, *list;
	char path[128];
	struct stat st;

	create(f, &o, secret, id);
	assert_int_equal(strlen(secret), KEYS_SECRET_LEN);
	assert_string_equal(str_has_prefix(secret, "e2b_") - 4, secret);
	assert_int_equal(strspn(secret + 4, "0123456789abcdef"), 40);
	assert_int_equal(ask(f, secret, &c), 0);
	assert_string_equal(c.key_id, id);
	assert_int_equal(c.scope, SCOPE_USE);
	assert_int_equal(ask(f, "e2b_0123456789012345678901234567890123456789", &c), -EACCES);
	assert_int_equal(ask(f, "", &c), -EACCES);
	assert_int_equal(ask(f, NULL, &c), -EACCES);
	assert_true(keys_quota(f->keys, id, &n, &memory));
	assert_int_equal(n, 7);
	assert_int_equal(memory, 0);

	path_of(f, path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	text = read_text(f);
	assert_null(strstr(text, secret + 4)); /* what the file tells opens nothing */

	reopen(f);
	assert_int_equal(ask(f, secret, &c), 0);
	assert_int_equal(keys_rotate(f->keys, id, 3600, NULL, &key), 0);
	str_copy(second, sizeof(second), json_string_value(json_object_get(key, "key")));
	assert_true(json_is_string(json_object_get(key, "oldKeyValidUntil")));
	json_decref(key);
	assert_string_not_equal(secret, second);
	reopen(f);
	assert_int_equal(ask(f, secret, &c), 0); /* in its grace */
	assert_int_equal(ask(f, second, &c), 0);
	assert_string_equal(c.key_id, id);
	assert_int_equal(keys_rotate(f->keys, id, 0, NULL, &key), 0);
	json_decref(key);
	assert_int_equal(ask(f, secret, &c), -EACCES);
	assert_int_equal(ask(f, second, &c), -EACCES);

	list = keys_list(f->keys);
	assert_int_equal(json_array_size(list), 1);
	assert_null(json_object_get(json_array_get(list, 0), "key"));
	json_decref(list);
	assert_int_equal(keys_revoke(f->keys, id, NULL), 0);
	assert_int_equal(keys_revoke(f->keys, id, NULL), -ENOENT);
	assert_false(keys_quota(f->keys, id, &n, &memory));
	reopen(f);
	list = keys_list(f->keys);
	assert_int_equal(json_array_size(list), 0);
	json_decref(list);
}

static void test_expired(void **state)
{
	const struct key_options o = {
		.name = "old", .scope = SCOPE_ADMIN, .expires_ns = clock_real_ns() - NSEC_PER_SEC};
	struct fixture *f = *state;
	char secret[64], id[64];
	struct caller c;

	create(f, &o, secret, id);
	assert_int_equal(ask(f, secret, &c), -EACCES);
}

static void test_rate_of_key(void **state)
{
	const struct key_options o = {.name = "r", .scope = SCOPE_READ, .rate = 3};
	struct problem p = PROBLEM_INIT;
	struct fixture *f = *state;
	char secret[64], id[64];
	int refused = 0;
	struct caller c;

	create(f, &o, secret, id);
	for (int i = 0; i < 1000 && !refused; i++)
		refused = keys_authenticate(f->keys, secret, &p, &c);
	assert_int_equal(refused, -EAGAIN);
	assert_int_equal(p.status, 429);
	assert_true(p.retry_s >= 1);
	assert_non_null(strstr(p.message, "3 requests per second"));
}

static void test_bucket(void **state)
{
	struct rate r = {0};
	uint64_t t = 5 * NSEC_PER_SEC;

	for (int i = 0; i < 4; i++)
		assert_int_equal(rate_take(&r, 4, t), 0);
	assert_in_range(rate_take(&r, 4, t), NSEC_PER_SEC / 4 - 10, NSEC_PER_SEC / 4 + 10);
	assert_true(rate_take(&r, 4, t + NSEC_PER_SEC / 8) > 0);
	assert_int_equal(rate_take(&r, 4, t + NSEC_PER_SEC / 4 + 10), 0);
	assert_true(rate_take(&r, 4, t + NSEC_PER_SEC / 4 + 10) > 0);
	t += 3600 * NSEC_PER_SEC; /* an hour of silence is worth no more than a second */
	for (int i = 0; i < 4; i++)
		assert_int_equal(rate_take(&r, 4, t), 0);
	assert_true(rate_take(&r, 4, t) > 0);
	assert_true(rate_take(&r, 4, t - NSEC_PER_SEC) > 0); /* a clock that goes back */
	for (int i = 0; i < 1000; i++)
		assert_int_equal(rate_take(&r, 0, t), 0);
}

static void damaged(struct fixture *f, const char *text, mode_t mode)
{
	struct problem p = PROBLEM_INIT;
	struct caller c;
	json_t *key;

	write_text(f, text, mode);
	reopen(f);
	assert_non_null(keys_damage(f->keys));
	assert_int_equal(
		keys_authenticate(f->keys, "e2b_0123456789012345678901234567890123456789", &p, &c),
		-EBADMSG);
	assert_int_equal(p.status, 503);
	assert_non_null(strstr(p.message, "keys.json"));
	assert_true(keys_create(f->keys, &(struct key_options){.name = "n", .scope = SCOPE_USE},
				NULL, &key) < 0);
	assert_true(keys_revoke(f->keys, "k", NULL) < 0);
}

static void test_damage(void **state)
{
	const struct key_options o = {.name = "ci", .scope = SCOPE_USE, .rate = 5};
	_cleanup_free_ char *good = NULL, *other = NULL;
	struct fixture *f = *state;
	char secret[64], id[64], *p;

	create(f, &o, secret, id);
	good = read_text(f);
	reopen(f);
	assert_null(keys_damage(f->keys));
	damaged(f, good, 0644);
	damaged(f, "", 0600);
	damaged(f, "{}", 0600);
	damaged(f, "{\"version\": 2, \"keys\": []}", 0600);
	damaged(f, "{\"version\": 1, \"keys\": {}}", 0600);
	for (size_t len = 1; len + 2 < strlen(good); len += 37) { /* cut anywhere */
		_cleanup_free_ char *cut = strndup(good, len);

		damaged(f, cut, 0600);
	}
	other = strdup(good);
	p = strstr(other, "\"rate\"");
	memcpy(p, "\"rote\"", 6); /* no limit is not what was meant */
	damaged(f, other, 0600);
	free(other);
	other = strdup(good);
	p = strstr(other, "\"use\"");
	memcpy(p, "\"uso\"", 5);
	damaged(f, other, 0600);
	write_text(f, good, 0600);
	reopen(f);
	assert_null(keys_damage(f->keys));
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	struct problem p = PROBLEM_INIT;
	json_t *key;

	assert_int_equal(keys_create(f->keys, &(struct key_options){.scope = SCOPE_USE}, &p, &key),
			 -EINVAL);
	assert_int_equal(p.status, 400);
	assert_int_equal(keys_create(f->keys,
				     &(struct key_options){.name = "A b", .scope = SCOPE_USE}, NULL,
				     &key),
			 -EINVAL);
}

static void test_owners(void **state)
{
	const char *s1 = "saaaaaaaaaaaaaaaaaaaa", *k1 = "kaaaaaaaaaaaaaaaaaaaa";
	char owner[REQUEST_KEY_ID_MAX + 1], path[128];
	struct fixture *f = *state;
	int fd = file_open_dir(AT_FDCWD, f->root);
	struct owners *o;

	assert_int_equal(owners_open(fd, &o), 0);
	assert_int_equal(owners_get(o, s1, NULL, owner), 0);
	assert_string_equal(owner, "");
	assert_int_equal(owners_set(o, s1, k1, NULL), 0);
	owners_free(o);
	assert_int_equal(owners_open(fd, &o), 0);
	assert_int_equal(owners_get(o, s1, NULL, owner), 0);
	assert_string_equal(owner, k1);
	assert_int_equal(owners_set(o, s1, "", NULL), 0);
	assert_int_equal(owners_get(o, s1, NULL, owner), 0);
	assert_string_equal(owner, "");
	owners_free(o);

	(void)snprintf(path, sizeof(path), "%s/snapshot-owners.json", f->root);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, "{", 1, 0600), 0);
	assert_int_equal(owners_open(fd, &o), 0);
	assert_int_equal(owners_get(o, s1, NULL, owner), -EBADMSG); /* not: everybody's */
	assert_int_equal(owners_set(o, s1, k1, NULL), -EBADMSG);
	owners_free(o);
	close(fd);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

TEST_MAIN(T(test_life), T(test_expired), T(test_rate_of_key), cmocka_unit_test(test_bucket),
	  T(test_damage), T(test_refused), T(test_owners))
