/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/tree.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"

#define PASSWD_MAX (1u << 20)
#define TRIES	   16 /* openat2 asks to try again when the tree is being renamed */

int tree_open(int root_fd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	for (int i = 0; i < TRIES; i++) {
		fd = syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR)
			break;
	}
	return error_errno();
}

/* The directory @path, made with its parents if need be. */
static int open_dir(int root_fd, const char *path)
{
	char name[256];
	int r = tree_open(root_fd, *path ? path : ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_fd_ int parent = -1;

	if (r != -ENOENT)
		return r;
	parent = tree_parent(root_fd, path, name);
	if (parent < 0)
		return parent;
	if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
		return error_errno();
	return tree_open(root_fd, path, O_RDONLY | O_DIRECTORY, 0);
}

int tree_parent(int root_fd, const char *path, char ret_name[256])
{
	size_t len = strlen(path), start;
	_cleanup_free_ char *dir = NULL;

	while (len > 0 && path[len - 1] == '/')
		len--;
	for (start = len; start > 0 && path[start - 1] != '/';)
		start--;
	if (len - start > 255)
		return -ENAMETOOLONG;
	(void)snprintf(ret_name, 256, "%.*s", (int)(len - start), path + start);
	if (!*ret_name)
		(void)snprintf(ret_name, 256, ".");
	if (!strcmp(ret_name, ".."))
		return -EINVAL;
	while (start > 0 && path[start - 1] == '/')
		start--;
	dir = strndup(path, start);
	return dir ? open_dir(root_fd, dir) : -ENOMEM;
}

static int set_owner(int fd, mode_t mode, const struct tree_owner *owner)
{
	if (owner && fchown(fd, owner->uid, owner->gid) < 0)
		return error_errno();
	return fchmod(fd, mode) < 0 ? error_errno() : 0;
}

int tree_mkdir(int root_fd, const char *path, mode_t mode, const struct tree_owner *owner)
{
	_cleanup_fd_ int fd = open_dir(root_fd, path);

	return fd < 0 ? fd : set_owner(fd, mode, owner);
}

bool tree_exists(int root_fd, const char *path)
{
	_cleanup_fd_ int fd = tree_open(root_fd, path, O_PATH, 0);

	return fd >= 0;
}

int tree_read(int root_fd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_fd_ int fd = tree_open(root_fd, path, O_RDONLY | O_NONBLOCK, 0);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return error_errno();
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if ((uint64_t)st.st_size > max)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	r = fd_pread_full(fd, text, (size_t)st.st_size, 0);
	if (r < 0)
		return r;
	text[st.st_size] = 0;
	if (ret_len)
		*ret_len = (size_t)st.st_size;
	*ret = take_ptr(text);
	return 0;
}

int tree_create(int root_fd, const char *path, mode_t mode, const struct tree_owner *owner)
{
	_cleanup_fd_ int parent = -1, fd = -1;
	char name[256];
	int r;

	parent = tree_parent(root_fd, path, name);
	if (parent < 0)
		return parent;
	if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
		return error_errno();
	fd = openat(parent, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno();
	r = set_owner(fd, mode, owner);
	return r < 0 ? r : take_fd(fd);
}

int tree_write(int root_fd, const char *path, mode_t mode, const struct tree_owner *owner,
	       const void *data, size_t len)
{
	_cleanup_fd_ int fd = tree_create(root_fd, path, mode, owner);

	return fd < 0 ? fd : fd_write_full(fd, data, len);
}

/* One line of passwd: name:x:uid:gid:gecos:home:shell */
static bool parse_line(char *line, const char *name, struct tree_owner *ret, char ret_home[256])
{
	char *fields[7], *rest = line;
	uint64_t uid, gid;
	int n = 0;

	while (n < 7 && (fields[n] = strsep(&rest, ":")))
		n++;
	if (n < 6 || str_to_u64(fields[2], &uid) < 0 || str_to_u64(fields[3], &gid) < 0 ||
	    uid >= UINT32_MAX || gid >= UINT32_MAX)
		return false;
	if (strcmp(fields[0], name) && strcmp(fields[2], name))
		return false;
	*ret = (struct tree_owner){(uid_t)uid, (gid_t)gid};
	str_copy(ret_home, 256, fields[5]);
	return true;
}

int tree_user(int root_fd, const char *name, struct tree_owner *ret, char ret_home[256])
{
	_cleanup_free_ char *text = NULL;
	char *rest, *line;
	uint64_t number;

	if (tree_read(root_fd, "/etc/passwd", PASSWD_MAX, &text, NULL) == 0) {
		rest = text;
		while ((line = strsep(&rest, "\n")))
			if (parse_line(line, name, ret, ret_home))
				return 0;
	}
	if (str_to_u64(name, &number) < 0 || number >= UINT32_MAX) {
		if (strcmp(name, "root"))
			return -ENOENT;
		number = 0;
	}
	*ret = (struct tree_owner){(uid_t)number, (gid_t)number};
	str_copy(ret_home, 256, number ? "/" : "/root");
	return 0;
}
