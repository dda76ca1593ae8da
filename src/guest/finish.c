/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/finish.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/tree.h"

#define FILE_MAX  (1u << 20)
#define FIRST_UID 1000
#define LAST_UID  1999

static const struct tree_owner root_owner;

static int failed(const struct runner *r, const char *path, int e)
{
	problem_errno(r->problem, e, "the root file system's %s", path);
	return error_trace(e);
}

/* ---- directories ------------------------------------------------------------------------------
 */

static const struct {
	const char *path;
	mode_t mode;
	bool mount; /* the agent, or a build, mounts there: no link may lead elsewhere */
} directories[] = {
	{"proc", 0555, true}, {"sys", 0555, true}, {"dev", 0755, true}, {"run", 0755, true},
	{"tmp", 01777, true}, {"etc", 0755, true}, {"root", 0700},	{"home", 0755},
	{"mnt", 0755},	      {"opt", 0755},	   {"var/tmp", 01777},	{"usr/local/bin", 0755},
};

static int add_directories(const struct runner *r, int root_fd)
{
	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		const char *path = directories[i].path;
		struct stat st;
		int e = 0;

		if (directories[i].mount && fstatat(root_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    !S_ISDIR(st.st_mode)) {
			problem_set(r->problem, 400,
				    "the root file system's /%s is not a directory", path);
			return -EINVAL;
		}
		if (!tree_exists(root_fd, path))
			e = tree_mkdir(root_fd, path, directories[i].mode, &root_owner);
		if (e < 0)
			return failed(r, path, e);
	}
	return 0;
}

/* ---- users ------------------------------------------------------------------------------------
 */

/* Is there a line whose field @n is @value? */
static bool has_field(const char *text, int n, const char *value)
{
	size_t len = strlen(value);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		const char *f = line += *line == '\n';

		for (int i = 0; f && i < n; i++) {
			f = strpbrk(f, ":\n");
			f = f && *f == ':' ? f + 1 : NULL;
		}
		if (f && !strncmp(f, value, len) && strchr(":\n", f[len]))
			return true;
	}
	return false;
}

/* Append a line to a file that may be absent; @mode is for a new one. */
static int append_line(const struct runner *r, int root_fd, const char *path, mode_t mode,
		       const char *line)
{
	_cleanup_free_ char *old = NULL, *all = NULL;
	_cleanup_fd_ int fd = -1;
	struct stat st = {.st_mode = mode};
	struct tree_owner owner;
	size_t len = 0;
	int e = tree_read(root_fd, path, FILE_MAX, &old, &len);

	if (e < 0 && e != -ENOENT)
		return failed(r, path, e);
	fd = tree_open(root_fd, path, O_PATH, 0);
	if (fd >= 0 && fstat(fd, &st) < 0)
		return failed(r, path, error_errno());
	owner = (struct tree_owner){st.st_uid, st.st_gid};
	all = str_printf("%s%s%s\n", old ? old : "", len && old[len - 1] != '\n' ? "\n" : "", line);
	if (!all)
		return -ENOMEM;
	e = tree_write(root_fd, path, st.st_mode & 07777, &owner, all, strlen(all));
	return e < 0 ? failed(r, path, e) : 0;
}

static unsigned free_id(const char *passwd, const char *group)
{
	char text[16];

	for (unsigned id = FIRST_UID; id <= LAST_UID; id++) {
		(void)snprintf(text, sizeof(text), "%u", id);
		if (!has_field(passwd, 2, text) && !has_field(group, 2, text))
			return id;
	}
	return 0;
}

static int add_user_lines(const struct runner *r, int root_fd, unsigned id, bool bash, bool group)
{
	_cleanup_free_ char *p = NULL, *g = NULL;
	int e = 0;

	p = str_printf("user:x:%u:%u::/home/user:%s", id, id, bash ? "/bin/bash" : "/bin/sh");
	g = str_printf("user:x:%u:", id);
	if (!p || !g)
		return -ENOMEM;
	e = append_line(r, root_fd, "etc/passwd", 0644, p);
	if (e == 0 && group)
		e = append_line(r, root_fd, "etc/group", 0644, g);
	if (e == 0 && tree_exists(root_fd, "etc/shadow"))
		e = append_line(r, root_fd, "etc/shadow", 0640, "user:!:19723:0:99999:7:::");
	return e;
}

static int add_user(const struct runner *r, int root_fd)
{
	_cleanup_free_ char *passwd = NULL, *group = NULL;
	bool bash = tree_exists(root_fd, "bin/bash"), has_group;
	unsigned id;
	int e;

	(void)tree_read(root_fd, "etc/passwd", FILE_MAX, &passwd, NULL); /* absent: none */
	(void)tree_read(root_fd, "etc/group", FILE_MAX, &group, NULL);
	if (!has_field(passwd, 0, "root")) {
		runner_say(r, "adding the user root");
		e = append_line(r, root_fd, "etc/passwd", 0644,
				bash ? "root:x:0:0:root:/root:/bin/bash"
				     : "root:x:0:0:root:/root:/bin/sh");
		if (e == 0 && !has_field(group, 0, "root"))
			e = append_line(r, root_fd, "etc/group", 0644, "root:x:0:");
		if (e < 0)
			return e;
	}
	if (has_field(passwd, 0, "user"))
		return 0;
	has_group = has_field(group, 0, "user");
	id = free_id(passwd, group);
	if (!id) {
		problem_set(r->problem, 400,
			    "the root file system has no free user id from %d to %d", FIRST_UID,
			    LAST_UID);
		return -EINVAL;
	}
	runner_say(r, "adding the user \"user\" (uid %u)", id);
	return add_user_lines(r, root_fd, id, bash, !has_group);
}

static const char *const skeleton[] = {".bashrc", ".profile", ".bash_logout"};

/* The home, if there is none, with what a new user's home begins with. */
static int add_home(const struct runner *r, int root_fd)
{
	struct tree_owner owner;
	char home[256];
	int e = tree_user(root_fd, "user", &owner, home);

	if (e == 0 && home[0] == '/' && !tree_exists(root_fd, home)) {
		e = tree_mkdir(root_fd, home, 0755, &owner);
		for (size_t i = 0; e == 0 && i < ARRAY_SIZE(skeleton); i++) {
			_cleanup_free_ char *from = str_printf("etc/skel/%s", skeleton[i]);
			_cleanup_free_ char *to = str_printf("%s/%s", home, skeleton[i]);
			_cleanup_free_ char *text = NULL;
			size_t len;

			if (!from || !to)
				return -ENOMEM;
			if (tree_read(root_fd, from, FILE_MAX, &text, &len) == 0)
				e = tree_write(root_fd, to, 0644, &owner, text, len);
		}
	}
	return e < 0 ? failed(r, "/home/user", e) : 0;
}

static int allow_sudo(const struct runner *r, int root_fd)
{
	static const char rule[] = "user ALL=(ALL:ALL) NOPASSWD: ALL\n";
	int e;

	if (!tree_exists(root_fd, "etc/sudoers") || tree_exists(root_fd, "etc/sudoers.d/dorm-user"))
		return 0;
	e = tree_write(root_fd, "etc/sudoers.d/dorm-user", 0440, &root_owner, rule,
		       sizeof(rule) - 1);
	return e < 0 ? failed(r, "/etc/sudoers.d/dorm-user", e) : 0;
}

/* ---- files ------------------------------------------------------------------------------------
 */

static const char hosts[] = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

static const struct {
	const char *path, *text;
	bool always; /* what a host or a build left there is not the sandbox's */
} files[] = {
	{"etc/hosts", hosts},
	{"etc/hostname", "sandbox\n", true},
	{"etc/resolv.conf", "", true},
	{"etc/machine-id", "", true},
};

static int add_files(const struct runner *r, int root_fd)
{
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int e = 0;

		if (files[i].always || !tree_exists(root_fd, files[i].path))
			e = tree_write(root_fd, files[i].path, 0644, &root_owner, files[i].text,
				       strlen(files[i].text));
		if (e < 0)
			return failed(r, files[i].path, e);
	}
	return 0;
}

static int check_shell(const struct runner *r, int root_fd)
{
	if (!tree_exists(root_fd, "bin/sh")) {
		problem_set(
			r->problem, 400,
			"the root file system has no /bin/sh: is it one for Linux, and not only "
			"a part of one?");
		return -EINVAL;
	}
	if (!tree_exists(root_fd, "bin/bash"))
		runner_say(r, "note: there is no /bin/bash, with which E2B clients run commands");
	return 0;
}

int finish_add(const struct runner *r, int root_fd)
{
	int e = check_shell(r, root_fd);

	if (e == 0)
		e = add_directories(r, root_fd);
	if (e == 0)
		e = add_user(r, root_fd);
	if (e == 0)
		e = add_home(r, root_fd);
	if (e == 0)
		e = allow_sudo(r, root_fd);
	return e < 0 ? e : add_files(r, root_fd);
}

/* ---- tidying ----------------------------------------------------------------------------------
 */

/* Everything in these... */
static const char *const emptied[] = {"tmp",
				      "run",
				      "var/tmp",
				      "var/log/apt",
				      "var/lib/apt/lists",
				      "var/cache/apt",
				      "var/cache/ldconfig",
				      "var/cache/man"};
/* ...and these. */
static const char *const removed[] = {
	"var/log/dpkg.log",
	"var/log/alternatives.log",
	"var/log/bootstrap.log",
	"var/log/fontconfig.log",
	"var/cache/debconf/config.dat-old",
	"var/cache/debconf/templates.dat-old",
	"var/lib/dpkg/status-old",
	"var/lib/dpkg/diversions-old",
	"var/lib/dpkg/statoverride-old",
	"var/lib/systemd/random-seed",
	"var/lib/dbus/machine-id",
	"etc/passwd-",
	"etc/group-",
	"etc/shadow-",
	"etc/gshadow-",
	"etc/subuid-",
	"etc/subgid-",
	"etc/.pwd.lock",
};

static void empty_directory(int root_fd, const char *path)
{
	_cleanup_fd_ int fd = tree_open(root_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;

	if (fd < 0 || file_opendir(fd, ".", &d) < 0)
		return;
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			(void)file_remove_tree(fd, e->d_name);
}

void finish_tidy(int root_fd)
{
	char name[256];

	for (size_t i = 0; i < ARRAY_SIZE(emptied); i++)
		empty_directory(root_fd, emptied[i]);
	for (size_t i = 0; i < ARRAY_SIZE(removed); i++) {
		_cleanup_fd_ int parent = -1;

		if (!tree_exists(root_fd, removed[i]))
			continue;
		parent = tree_parent(root_fd, removed[i], name);
		if (parent >= 0)
			(void)unlinkat(parent, name, 0);
	}
}
