/* SPDX-License-Identifier: Apache-2.0 */
#include "api/access.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/routes.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "sandbox/sandbox.h"
#include "sandbox/snapshots.h"

#define KEY_MIN 16
#define KEY_MAX 255

struct access {
	char key[KEY_MAX + 1]; /* the static one; "": none */
	int root_fd;
	struct keys *keys;
	struct owners *owners;
};

/* ---- the static key ---------------------------------------------------------------------------
 */

static int refuse(struct problem *problem, const char *source, const char *why)
{
	problem_set(problem, 400, "API key %s: %s", source, why);
	return -EINVAL;
}

static int from_file(const char *source, const char *path, char text[KEY_MAX + 2],
		     struct problem *problem)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = -errno;

		problem_errno(problem, r, "API key %s", source);
		return r;
	}
	if (!S_ISREG(st.st_mode) || st.st_mode & 077)
		return refuse(problem, source, "it must be a file readable by its owner alone");
	n = read(fd, text, KEY_MAX + 1);
	if (n < 0)
		return error_errno();
	text[n] = 0;
	return 0;
}

static int from_env(const char *source, const char *name, char text[KEY_MAX + 2],
		    struct problem *problem)
{
	const char *value = getenv(name);

	if (!value)
		return refuse(problem, source, "there is no such variable");
	str_copy(text, KEY_MAX + 2, value);
	(void)unsetenv(name);
	return 0;
}

static int check(const char *source, char *text, struct problem *problem)
{
	size_t n = strlen(text);

	while (n && isspace((unsigned char)text[n - 1]))
		text[--n] = 0;
	for (size_t i = 0; i < n; i++)
		if (!isgraph((unsigned char)text[i]))
			return refuse(problem, source, "it must be one word");
	if (n < KEY_MIN || n > KEY_MAX)
		return refuse(problem, source, "it must have 16 to 255 characters");
	return 0;
}

static int load_static(struct access *a, const char *source, struct problem *problem)
{
	const char *path = str_has_prefix(source, "file:"), *name = str_has_prefix(source, "env:");
	char text[KEY_MAX + 2];
	int r;

	if (path)
		r = from_file(source, path, text, problem);
	else if (name)
		r = from_env(source, name, text, problem);
	else
		r = refuse(problem, source, "it is neither file:PATH nor env:NAME");
	if (r == 0)
		r = check(source, text, problem);
	if (r == 0)
		str_copy(a->key, sizeof(a->key), text);
	explicit_bzero(text, sizeof(text));
	return r;
}

int access_open(const char *root, const char *source, struct problem *problem, struct access **ret)
{
	_cleanup_(access_freep) struct access *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->root_fd = file_open_dir(AT_FDCWD, root);
	r = a->root_fd < 0 ? a->root_fd : 0;
	if (r == 0 && source)
		r = load_static(a, source, problem);
	if (r == 0)
		r = keys_open(root, problem, &a->keys);
	if (r == 0)
		r = owners_open(a->root_fd, &a->owners);
	if (r < 0) {
		problem_errno(problem, r, "reading who may use the API");
		return error_trace(r);
	}
	*ret = take_ptr(a);
	return 0;
}

struct access *access_free(struct access *a)
{
	if (!a)
		return NULL;
	owners_free(a->owners);
	keys_free(a->keys);
	fd_close(a->root_fd);
	explicit_bzero(a, sizeof(*a));
	free(a);
	return NULL;
}

struct keys *access_keys(struct access *a)
{
	return a->keys;
}

struct owners *access_owners(struct access *a)
{
	return a->owners;
}

bool access_is_open_to_none(struct access *a)
{
	json_auto_t *keys = keys_list(a->keys);

	return !a->key[0] && !json_array_size(keys);
}

/* ---- who is it, and what may it do? -----------------------------------------------------------
 */

int access_check(struct access *a, const char *key, const char *authorization,
		 struct problem *problem, struct caller *ret)
{
	if (!key && authorization && !strncasecmp(authorization, "Bearer ", 7))
		key = authorization + 7;
	if (key && a->key[0] && str_equal_secret(a->key, key)) {
		*ret = (struct caller){.key_id = ACCESS_STATIC_ID, .scope = SCOPE_ADMIN};
		return 0;
	}
	return keys_authenticate(a->keys, key, problem, ret);
}

int access_permits(const struct caller *caller, const struct route *route, struct problem *problem)
{
	/* a route without a scope was forgotten: closed */
	enum scope needed = route->scope ? route->scope : SCOPE_ADMIN;

	if (caller->scope >= needed && !(route->of_all && caller->scope == SCOPE_USE))
		return 0;
	problem_set(problem, 403, "%s %s needs an API key with scope %s; this one has %s",
		    route->method, route->path,
		    route->of_all && needed == SCOPE_READ ? "read or admin" : scope_name(needed),
		    scope_name(caller->scope));
	return -EPERM;
}

bool access_sees(const struct caller *caller, const char *owner)
{
	return caller->scope != SCOPE_USE || !strcmp(caller->key_id, owner);
}

int access_sandbox(struct host *host, const struct caller *caller, const char *sandbox_id,
		   struct problem *problem)
{
	struct sandbox_info info;
	bool sees;
	int r;

	if (caller->scope != SCOPE_USE)
		return 0;
	r = sandbox_info(host, sandbox_id, problem, &info);
	if (r < 0)
		return r;
	sees = access_sees(caller, info.owner);
	sandbox_info_deinit(&info);
	if (sees)
		return 0;
	/* word for word what is said of one that does not exist */
	problem_set(problem, 404, "there is no sandbox %.64s", sandbox_id);
	problem_hint(problem, "`dorm ps -a` lists them");
	return -ENOENT;
}

int access_snapshot(struct access *a, struct host *host, const struct caller *caller,
		    const char *id_or_name, struct problem *problem,
		    char ret_owner[REQUEST_KEY_ID_MAX + 1])
{
	char id[ID_LEN + 1], owner[REQUEST_KEY_ID_MAX + 1] = "";
	int r = 0;

	if (caller->scope == SCOPE_USE) {
		r = snapshots_resolve(host, id_or_name, problem, id);
		if (r == 0)
			r = owners_get(a->owners, id, problem, owner);
	}
	if (r < 0)
		return r;
	if (ret_owner)
		str_copy(ret_owner, sizeof(owner), owner);
	if (!owner[0] || access_sees(caller, owner))
		return 0;
	problem_set(problem, 404, "there is no template or snapshot '%.64s'", id_or_name);
	problem_hint(problem, "`dorm template ls` and `dorm snapshot ls` list what there is");
	return -ENOENT;
}

int access_delete_snapshot(struct access *a, struct host *host, const struct caller *caller,
			   const char *id_or_name, struct problem *problem)
{
	char id[ID_LEN + 1], owner[REQUEST_KEY_ID_MAX + 1];
	int r = access_snapshot(a, host, caller, id_or_name, problem, owner);

	if (r == 0 && caller->scope < SCOPE_ADMIN && !owner[0]) {
		problem_set(problem, 403,
			    "%.64s was not made with this API key: deleting it needs "
			    "scope admin",
			    id_or_name);
		r = -EPERM;
	}
	if (r == 0)
		r = snapshots_resolve(host, id_or_name, problem, id);
	if (r == 0)
		r = snapshots_delete(host, id, problem);
	if (r == 0) /* it never comes back: a line too many does no harm */
		(void)owners_set(a->owners, id, "", NULL);
	return r;
}

int access_name(struct access *a, struct host *host, const struct caller *caller, const char *name,
		struct problem *problem)
{
	char id[ID_LEN + 1], owner[REQUEST_KEY_ID_MAX + 1];
	int r;

	if (caller->scope != SCOPE_USE || snapshots_resolve(host, name, NULL, id) == -ENOENT)
		return 0;
	r = owners_get(a->owners, id, problem, owner);
	if (r < 0 || !strcmp(owner, caller->key_id))
		return r;
	problem_set(problem, 403, "the name '%.64s' is taken", name);
	return -EPERM;
}
