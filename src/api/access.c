/* SPDX-License-Identifier: Apache-2.0 */
#include "api/access.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define KEY_MIN 16
#define KEY_MAX 255

struct access {
	char key[KEY_MAX + 1];
};

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

int access_load(const char *source, struct problem *problem, struct access **ret)
{
	const char *path = str_has_prefix(source, "file:"), *name = str_has_prefix(source, "env:");
	char text[KEY_MAX + 2];
	struct access *a;
	int r;

	if (path)
		r = from_file(source, path, text, problem);
	else if (name)
		r = from_env(source, name, text, problem);
	else
		r = refuse(problem, source, "it is neither file:PATH nor env:NAME");
	if (r == 0)
		r = check(source, text, problem);
	if (r < 0)
		return r;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	str_copy(a->key, sizeof(a->key), text);
	*ret = a;
	return 0;
}

struct access *access_free(struct access *a)
{
	if (a)
		explicit_bzero(a, sizeof(*a));
	free(a);
	return NULL;
}

bool access_allows(const struct access *a, const char *key)
{
	return key && str_equal_secret(a->key, key);
}
