/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/rootfs.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/program.h"

/* Raise when what is made from the same busybox changes in another way than by the table below. */
#define BUILDER_VERSION	  "rootfs 1"

#define BUSYBOX_MAX_BYTES (64u << 20)

/* Any constant will do; it only must not change from one build to the next. */
#define FS_UUID	   "d0a70053-0000-4000-8000-000000000001"

#define GUEST_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum node_type { DIRECTORY, TEXT, LINK };

struct node {
	enum node_type type;
	const char *path; /* relative; parents before children */
	mode_t mode;
	const char *content; /* text of a file, target of a link */
	uid_t owner;	     /* and group */
};

static const char passwd[] = "root:x:0:0:root:/root:/bin/bash\n"
			     "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
			     "user:x:1000:1000:user:/home/user:/bin/bash\n"
			     "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
static const char group[] = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nsudo:x:27:user\nusers:x:100:user\n"
			    "user:x:1000:\nnogroup:x:65534:\n";
static const char shadow[] = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"
			     "user:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n";
static const char os_release[] = "NAME=\"Dormouse base\"\nPRETTY_NAME=\"Dormouse base (busybox)\"\n"
				 "ID=dormouse\nVERSION_ID=1\n";
static const char profile[] = "export PATH=" GUEST_PATH "\n"
			      "[ -n \"${PS1:-}\" ] && PS1='\\u@\\h:\\w\\$ '\n"
			      "for f in /etc/profile.d/*.sh; do [ -r \"$f\" ] && . \"$f\"; done\n"
			      "unset f\n";
/* Options that only bash has are dropped, up to the first one that it shares with ash. */
static const char bash[] = "#!/bin/sh\n"
			   "login=\n"
			   "while :; do\n"
			   "\tcase $1 in\n"
			   "\t--login) login=-l ;;\n"
			   "\t--norc|--noprofile|--posix|--noediting) ;;\n"
			   "\t*) break ;;\n"
			   "\tesac\n"
			   "\tshift\n"
			   "done\n"
			   "exec /bin/sh $login \"$@\"\n";

static const struct node tree[] = {
	{DIRECTORY, "dev", 0755},
	{DIRECTORY, "etc", 0755},
	{DIRECTORY, "etc/profile.d", 0755},
	{TEXT, "etc/group", 0644, group},
	{TEXT, "etc/hostname", 0644, "sandbox\n"},
	{TEXT, "etc/hosts", 0644, "127.0.0.1 localhost sandbox\n::1 localhost\n"},
	{LINK, "etc/mtab", 0, "../proc/self/mounts"},
	{TEXT, "etc/os-release", 0644, os_release},
	{TEXT, "etc/passwd", 0644, passwd},
	{TEXT, "etc/profile", 0644, profile},
	{TEXT, "etc/resolv.conf", 0644, ""},
	{TEXT, "etc/shadow", 0600, shadow},
	{TEXT, "etc/shells", 0644, "/bin/sh\n/bin/bash\n"},
	{DIRECTORY, "home", 0755},
	{DIRECTORY, "home/user", 0755, NULL, 1000},
	{DIRECTORY, "media", 0755},
	{DIRECTORY, "mnt", 0755},
	{DIRECTORY, "opt", 0755},
	{DIRECTORY, "proc", 0555},
	{DIRECTORY, "root", 0700},
	{DIRECTORY, "run", 0755},
	{DIRECTORY, "srv", 0755},
	{DIRECTORY, "sys", 0555},
	{DIRECTORY, "tmp", 01777},
	{DIRECTORY, "usr", 0755},
	{DIRECTORY, "usr/bin", 0755},
	{DIRECTORY, "usr/lib", 0755},
	{DIRECTORY, "usr/local", 0755},
	{DIRECTORY, "usr/local/bin", 0755},
	{DIRECTORY, "usr/local/lib", 0755},
	{DIRECTORY, "usr/local/sbin", 0755},
	{DIRECTORY, "usr/sbin", 0755},
	{DIRECTORY, "usr/share", 0755},
	{LINK, "bin", 0, "usr/bin"},
	{LINK, "lib", 0, "usr/lib"},
	{LINK, "lib64", 0, "usr/lib"},
	{LINK, "sbin", 0, "usr/sbin"},
	{TEXT, "usr/bin/bash", 0755, bash},
	{LINK, "usr/sbin/nologin", 0, "../bin/nologin"},
	{DIRECTORY, "var", 0755},
	{DIRECTORY, "var/lib", 0755},
	{DIRECTORY, "var/log", 0755},
	{DIRECTORY, "var/tmp", 01777},
	{LINK, "var/run", 0, "../run"},
	{LINK, "var/lock", 0, "../run/lock"},
};

/* Applets that make no sense in a sandbox, or that pretend to be what is not there. */
static const char *const not_linked[] = {"busybox", "bash",	"dpkg", "dpkg-deb",  "rpm",
					 "linuxrc", "run-init", "init", "bootchartd"};

static int make_node(int root_fd, const struct node *n)
{
	_cleanup_fd_ int fd = -1;
	int r = 0;

	if (n->type == LINK)
		return symlinkat(n->content, root_fd, n->path) < 0 ? error_errno() : 0;
	if (n->type == DIRECTORY && mkdirat(root_fd, n->path, 0700) < 0)
		return error_errno();
	fd = openat(root_fd, n->path,
		    n->type == DIRECTORY ? O_RDONLY | O_DIRECTORY | O_CLOEXEC
					 : O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return error_errno();
	if (n->type == TEXT)
		r = fd_write_full(fd, n->content, strlen(n->content));
	if (r == 0 && (fchown(fd, n->owner, n->owner) < 0 || fchmod(fd, n->mode) < 0))
		r = error_errno();
	return error_trace(r);
}

static int install_busybox(int root_fd, const void *busybox, size_t len)
{
	_cleanup_fd_ int fd =
		openat(root_fd, "usr/bin/busybox", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	int r;

	if (fd < 0)
		return error_errno();
	r = fd_write_full(fd, busybox, len);
	if (r == 0 && fchmod(fd, 0755) < 0)
		r = error_errno();
	return error_trace(r);
}

static bool is_applet_to_link(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(not_linked); i++)
		if (!strcmp(name, not_linked[i]))
			return false;
	return *name && !strchr(name, '/') && name[0] != '.';
}

static int link_applets(struct cache *c, const char *busybox_path, int root_fd)
{
	_cleanup_fd_ int bin_fd = file_open_dir(root_fd, "usr/bin");
	_cleanup_buf_ struct buf list = {0};
	char *name, *save = NULL;
	int r;

	if (bin_fd < 0)
		return error_trace(bin_fd);
	r = cache_run(c, "listing busybox's applets", NULL,
		      (const char *const[]){busybox_path, "--list", NULL}, &list);
	if (r < 0 || !list.data)
		return error_trace(r < 0 ? r : -ENODATA);
	for (name = strtok_r(list.data, "\n", &save); name; name = strtok_r(NULL, "\n", &save))
		if (is_applet_to_link(name) && symlinkat("busybox", bin_fd, name) < 0)
			return error_errno();
	return 0;
}

struct busybox {
	const char *path;
	char *data;
	size_t len;
};

static int read_busybox(struct cache *c, struct busybox *ret)
{
	static const char *const paths[] = {"/bin/busybox", "/usr/bin/busybox"};
	int r = -ENOENT;

	for (size_t i = 0; i < ARRAY_SIZE(paths) && r == -ENOENT; i++) {
		ret->path = paths[i];
		r = file_read(AT_FDCWD, paths[i], BUSYBOX_MAX_BYTES, &ret->data, &ret->len);
	}
	if (r == 0 && !program_is_static(ret->data, ret->len)) {
		problem_set(c->problem, 500, "%s needs shared libraries; the guest has none",
			    ret->path);
		r = -ENOEXEC;
	}
	if (r < 0) {
		problem_errno(c->problem, r, "reading the static busybox %s", ret->path);
		problem_hint(c->problem, "apt-get install busybox-static");
	}
	return error_trace(r);
}

/* The tree in @root, then the image of it in @image. */
static int make(struct cache *c, const struct busybox *b, const char *root, const char *image)
{
	_cleanup_fd_ int root_fd = -1;
	int r;

	r = file_mkdir_p(root, 0755);
	if (r == 0)
		r = root_fd = file_open_dir(AT_FDCWD, root);
	if (r < 0)
		return error_trace(r);
	if (fchmod(root_fd, 0755) < 0)
		return error_errno();
	for (size_t i = 0; i < ARRAY_SIZE(tree); i++) {
		r = make_node(root_fd, &tree[i]);
		if (r < 0) {
			problem_errno(c->problem, r, "%s/%s", root, tree[i].path);
			return error_trace(r);
		}
	}
	r = install_busybox(root_fd, b->data, b->len);
	if (r == 0)
		r = link_applets(c, b->path, root_fd);
	if (r < 0)
		return error_trace(r);
	return cache_run(c, "making the root file system", NULL,
			 (const char *const[]){"mkfs.erofs", "--quiet", "-x-1", "-T0", "-U" FS_UUID,
					       image, root, NULL},
			 NULL);
}

static int make_artefact(struct cache *c, const struct busybox *b)
{
	_cleanup_free_ char *image = NULL, *work = NULL, *root = NULL;
	char dir[4096];
	int r;

	if (geteuid() != 0) {
		problem_set(c->problem, 403,
			    "making a root file system needs root: its files "
			    "belong to root and to uid 1000");
		return error_trace(-EPERM);
	}
	cache_say(c, "making the root file system");
	r = cache_begin(c, "rootfs", dir);
	if (r < 0)
		return r;
	image = str_printf("%s/root.erofs", dir);
	work = str_printf("%s/work", dir);
	root = str_printf("%s/work/root", dir);
	if (!image || !work || !root)
		return error_trace(-ENOMEM);
	r = make(c, b, root, image);
	return r < 0 ? r : error_trace(file_remove_tree(AT_FDCWD, work));
}

static int take_digest(const struct busybox *b, char out[CACHE_DIGEST_LEN + 1])
{
	struct cache_digest *d = cache_digest_new(BUILDER_VERSION);

	if (!d)
		return error_trace(-ENOMEM);
	cache_digest_add(d, b->data, b->len);
	for (size_t i = 0; i < ARRAY_SIZE(tree); i++) {
		const struct node *n = &tree[i];
		uint32_t numbers[] = {n->type, n->mode, n->owner};

		cache_digest_add(d, numbers, sizeof(numbers));
		cache_digest_add(d, n->path, strlen(n->path));
		cache_digest_add(d, n->content, n->content ? strlen(n->content) : 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(not_linked); i++)
		cache_digest_add(d, not_linked[i], strlen(not_linked[i]));
	cache_digest_get(d, out);
	cache_digest_free(d);
	return 0;
}

int rootfs_prepare(struct cache *c, struct rootfs *ret)
{
	char digest[CACHE_DIGEST_LEN + 1];
	struct busybox b = {0};
	int r;

	r = read_busybox(c, &b);
	if (r == 0)
		r = take_digest(&b, digest);
	if (r == 0)
		r = cache_find(c, "rootfs", digest, ret->dir);
	if (r == CACHE_E_ABSENT) {
		r = make_artefact(c, &b);
		if (r == 0)
			r = cache_commit(c, "rootfs", digest, ret->dir);
		if (r < 0)
			cache_abort(c, "rootfs");
	}
	free(b.data);
	return error_trace(r);
}
