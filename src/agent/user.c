/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"

#define FILE_MAX (1u << 20)

/* Never blocks, whatever the sandbox's root has put there */
char *user_file_text(const char *etc, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", etc, name);
	_cleanup_free_ char *text = NULL;
	_cleanup_fd_ int fd = path ? open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		return NULL;
	text = calloc(1, (size_t)st.st_size + 1);
	if (!text || fd_read_full(fd, text, (size_t)st.st_size) < 0)
		return NULL;
	return take_ptr(text);
}

/* Cut a line at its colons. Return: number of fields */
static size_t fields(char *line, char *ret[], size_t max)
{
	size_t n = 0;

	while (n < max && line)
		ret[n++] = strsep(&line, ":");
	return n;
}

static bool parse_passwd(char *line, const char *name, struct user *ret)
{
	char *f[7];
	uint64_t uid, gid;

	if (fields(line, f, 7) != 7 || str_to_u64(f[2], &uid) < 0 || str_to_u64(f[3], &gid) < 0)
		return false;
	if (strcmp(f[0], name) && strcmp(f[2], name))
		return false;
	str_copy(ret->name, sizeof(ret->name), f[0]);
	str_copy(ret->home, sizeof(ret->home), f[5][0] ? f[5] : "/");
	str_copy(ret->shell, sizeof(ret->shell), f[6][0] ? f[6] : "/bin/sh");
	ret->uid = (uid_t)uid;
	ret->gid = (gid_t)gid;
	return true;
}

static bool is_member(char *members, const char *name)
{
	char *m;

	while ((m = strsep(&members, ",")))
		if (!strcmp(m, name))
			return true;
	return false;
}

static void read_groups(const char *etc, struct user *u)
{
	_cleanup_free_ char *text = user_file_text(etc, "group");
	char *rest = text, *line, *f[4];
	uint64_t gid;

	while (rest && (line = strsep(&rest, "\n")) && u->n_groups < USER_MAX_GROUPS)
		if (fields(line, f, 4) == 4 && str_to_u64(f[2], &gid) == 0 &&
		    is_member(f[3], u->name))
			u->groups[u->n_groups++] = (gid_t)gid;
}

int user_lookup(const char *etc, const char *name, struct user *ret)
{
	_cleanup_free_ char *text = user_file_text(etc, "passwd");
	char *rest = text, *line;
	struct user u = {0};
	bool found = false;

	while (!found && rest && (line = strsep(&rest, "\n")))
		found = parse_passwd(line, name, &u);
	if (!found && !strcmp(name, "root")) {
		u = (struct user){.name = "root", .home = "/root", .shell = "/bin/sh"};
		found = true;
	}
	if (!found)
		return -ENOENT;
	read_groups(etc, &u);
	*ret = u;
	return 0;
}
