/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/jail.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/erofs.h"
#include "guest/tree.h"

#define MAX_ARGS 900 /* 3 for each of 200 variables, and ours */
#define PATH	 "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define RESOLV	 "/etc/resolv.conf"
#define BUSYBOX	 "/run/.dorm/busybox" /* the host's static one, in the jail */

/* What installing packages takes, and nothing that leads out of the tree. */
static const char *const capabilities[] = {"CAP_CHOWN",	 "CAP_DAC_OVERRIDE", "CAP_FOWNER",
					   "CAP_FSETID", "CAP_SETUID",	     "CAP_SETGID",
					   "CAP_KILL",	 "CAP_SYS_CHROOT",   "CAP_SETFCAP"};

struct argv {
	const char *all[MAX_ARGS + 1];
	size_t n;
};

static void add(struct argv *a, const char *const *args)
{
	for (; *args && a->n < MAX_ARGS; args++)
		a->all[a->n++] = *args;
}
#define ADD(_a, ...) add(_a, (const char *const[]){__VA_ARGS__, NULL})

static void add_isolation(struct argv *a, const char *root, const char *busybox)
{
	ADD(a, "bwrap", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--perms", "1777",
	    "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/run/lock", "--ro-bind", busybox,
	    "/run/.dorm/busybox");
	if (access(RESOLV, R_OK) == 0)
		ADD(a, "--ro-bind", RESOLV, RESOLV);
	ADD(a, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
	    "--hostname", "build", "--die-with-parent", "--new-session", "--cap-drop", "ALL");
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++)
		ADD(a, "--cap-add", capabilities[i]);
}

static void add_env(struct argv *a, const char *home, json_t *env)
{
	const char *name;
	json_t *value;

	ADD(a, "--clearenv", "--setenv", "PATH", PATH, "--setenv", "HOME", home, "--setenv", "LANG",
	    "C.UTF-8", "--setenv", "DEBIAN_FRONTEND", "noninteractive", "--setenv",
	    "SOURCE_DATE_EPOCH", EROFS_TIME);
	json_object_foreach (env, name, value)
		ADD(a, "--setenv", name, json_string_value(value));
}

static int look_up(const struct runner *r, const char *root, const char *user, char home[256])
{
	_cleanup_fd_ int root_fd = file_open_dir(AT_FDCWD, root);
	struct tree_owner owner;
	int e = root_fd < 0 ? root_fd : tree_user(root_fd, user, &owner, home);

	if (e == -ENOENT)
		problem_set(r->problem, 400, "there is no user \"%s\" in the root file system",
			    user);
	return e;
}

int jail_run(const struct runner *r, const char *what, const char *root, const char *user,
	     const char *workdir, json_t *env, const char *command)
{
	bool is_root = !strcmp(user, "root") || !strcmp(user, "0");
	struct runner_command c = {.what = what, .guarded = true};
	struct argv a = {.n = 0};
	char home[256];
	int e;

	e = look_up(r, root, user, home);
	if (e < 0)
		return e;
	add_isolation(&a, root, runner_busybox());
	add_env(&a, home, env);
	ADD(&a, "--chdir",
	    workdir   ? workdir
	    : is_root ? "/"
		      : home,
	    "--", BUSYBOX, "sh", "-c", RUNNER_GUARD, "guard");
	/* busybox changes the user where the tree has no su of its own; it asks nobody: we are root
	 */
	if (!is_root)
		ADD(&a, BUSYBOX, "su", user, "-s", "/bin/sh", "-c", command);
	else
		ADD(&a, "/bin/sh", "-c", command);
	if (a.n >= MAX_ARGS) {
		problem_set(r->problem, 400, "%s: too many environment variables", what);
		return -E2BIG;
	}
	c.argv = a.all;
	return runner_run(r, &c);
}
