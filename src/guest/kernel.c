/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/kernel.h"

#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/cpio.h"
#include "guest/modules.h"

/* Raise when what is made from the same package changes. */
#define BUILDER_VERSION "kernel 1"

#define META_PACKAGE	"linux-image-cloud-amd64"
#define APT_LISTS	"/var/lib/apt/lists"
#define RESOLVED	"resolved" /* in the cache: "<mtime of APT_LISTS> <package> <version>" */

static const char *const wanted_modules[] = {
	"virtio_mmio",	  /* every device of a microvm */
	"virtio_console", /* the channel to the agent */
	"virtio_blk",	  /* the disks */
	"erofs",	  /* the root file system, read-only... */
	"overlay",	  /* ...and what the sandbox writes over it */
	"virtio_rng",	  /* entropy */
	"tcp_diag",	  /* which ports are listened on; ends what a sandbox slept through */
	"virtio_net",	  /* a sandbox that may reach a network */
	NULL,
};

struct package {
	char name[128];
	char version[128];
};

/* Changes whenever apt-get update does: a package that was resolved since then still is the one. */
static uint64_t lists_stamp(void)
{
	struct stat st;

	if (stat(APT_LISTS, &st) < 0)
		return 0;
	return (uint64_t)st.st_mtim.tv_sec * NSEC_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
}

/* Only what may stand in a package's name and version: they become arguments and cache keys. */
static bool package_is_valid(const struct package *p)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				 "+-.:~";

	return str_has_prefix(p->name, "linux-image-") && p->version[0] &&
	       p->name[strspn(p->name, ok)] == 0 && p->version[strspn(p->version, ok)] == 0;
}

static int read_resolved(struct cache *c, uint64_t *ret_stamp, struct package *ret)
{
	_cleanup_free_ char *text = NULL;
	int r;

	r = file_read(c->dir_fd, RESOLVED, 1024, &text, NULL);
	if (r < 0)
		return r;
	if (sscanf(text, "%" SCNu64 " %127s %127s", ret_stamp, ret->name, ret->version) != 3 ||
	    !package_is_valid(ret))
		return -EBADMSG;
	return 0;
}

static int write_resolved(struct cache *c, uint64_t stamp, const struct package *p)
{
	_cleanup_buf_ struct buf b = {0};
	int r = buf_printf(&b, "%" PRIu64 " %s %s\n", stamp, p->name, p->version);

	if (r == 0)
		r = file_write_atomic(c->dir_fd, RESOLVED, b.data, b.len, 0644);
	return error_trace(r);
}

/* From "Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)", the first of apt-cache's answer.
 */
static int parse_depends(const char *text, struct package *ret)
{
	const char *line = strstr(text, "\nDepends: linux-image-");

	if (!line ||
	    sscanf(line, "\nDepends: %127[^ ,(] (= %127[^)])", ret->name, ret->version) != 2 ||
	    !package_is_valid(ret))
		return -ENOENT;
	return 0;
}

static int ask_apt(struct cache *c, struct package *ret)
{
	static const char *const argv[] = {"apt-cache", "--no-all-versions", "show", META_PACKAGE,
					   NULL};
	_cleanup_buf_ struct buf out = {0};
	struct problem *problem = c->problem;
	int r;

	c->problem = NULL; /* a failure here is not the end */
	r = cache_run(c, "asking apt for " META_PACKAGE, NULL, argv, &out);
	c->problem = problem;
	return r < 0 ? r : parse_depends(out.data ? out.data : "", ret);
}

static int update_lists(struct cache *c)
{
	static const char *const argv[] = {
		"apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3",
		"update",  NULL};

	cache_say(c, "updating the package lists");
	return cache_run(c, "updating the package lists", NULL, argv, NULL);
}

/* Which package? As last time while the lists are the same; else apt knows; else as last time. */
static int resolve(struct cache *c, struct package *ret)
{
	struct package last;
	uint64_t stamp = 0;
	bool have_last = read_resolved(c, &stamp, &last) == 0;
	int r;

	if (have_last && stamp == lists_stamp()) {
		*ret = last;
		return 0;
	}
	r = ask_apt(c, ret);
	if (r < 0 && have_last) {
		*ret = last;
		return 0;
	}
	if (r < 0) {
		r = update_lists(c);
		if (r < 0)
			return r;
		r = ask_apt(c, ret);
	}
	if (r < 0) {
		problem_set(c->problem, 500, "apt knows no package " META_PACKAGE);
		problem_hint(c->problem, "the guest's kernel is Debian's: add a Debian archive to "
					 "apt's sources");
		return error_trace(r);
	}
	return write_resolved(c, lists_stamp(), ret);
}

static int download(struct cache *c, const struct package *p, const char *work)
{
	_cleanup_free_ char *spec = str_printf("%s=%s", p->name, p->version);
	const char *const argv[] = {
		"apt-get",  "-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3",
		"download", spec, NULL};

	if (!spec)
		return error_trace(-ENOMEM);
	cache_say(c, "downloading %s", p->name);
	return cache_run(c, "downloading the guest's kernel", work, argv, NULL);
}

/* The mirror may have moved on since the lists were fetched: then fetch them and try once more. */
static int fetch(struct cache *c, struct package *p, const char *work)
{
	struct problem *problem = c->problem;
	int r;

	c->problem = NULL;
	r = download(c, p, work);
	c->problem = problem;
	if (r == 0)
		return 0;
	r = update_lists(c);
	if (r < 0)
		return r;
	r = ask_apt(c, p);
	if (r == 0)
		r = write_resolved(c, lists_stamp(), p);
	return r < 0 ? error_trace(r) : download(c, p, work);
}

/* The one path that @pattern matches. */
static int find_one(struct cache *c, const char *pattern, char ret[4096])
{
	glob_t g = {0};
	int r = 0;

	if (glob(pattern, GLOB_NOSORT, NULL, &g) != 0 || g.gl_pathc < 1 ||
	    strlen(g.gl_pathv[0]) >= 4096) {
		problem_set(c->problem, 500, "the kernel package does not hold %s", pattern);
		r = error_trace(-ENOENT);
	} else {
		str_copy(ret, 4096, g.gl_pathv[0]);
	}
	globfree(&g);
	return r;
}

static int find_in(struct cache *c, const char *dir, const char *pattern, char ret[4096])
{
	_cleanup_free_ char *p = str_printf("%s/%s", dir, pattern);

	return p ? find_one(c, p, ret) : error_trace(-ENOMEM);
}

/*
 * Unpack into @work/root. Where modules lie has moved from /lib to /usr/lib; depmod of either
 * release must find them, so the other name leads there too.
 */
static int unpack(struct cache *c, const char *work)
{
	_cleanup_free_ char *root = str_printf("%s/root", work);
	_cleanup_free_ char *lib = str_printf("%s/root/lib", work);
	_cleanup_free_ char *usr = str_printf("%s/root/usr", work);
	_cleanup_free_ char *usr_lib = str_printf("%s/root/usr/lib", work);
	char deb[4096];
	int r;

	if (!root || !lib || !usr || !usr_lib)
		return error_trace(-ENOMEM);
	r = find_in(c, work, "*.deb", deb);
	if (r < 0)
		return r;
	cache_say(c, "unpacking the guest's kernel");
	r = cache_run(c, "unpacking the guest's kernel", NULL,
		      (const char *const[]){"dpkg-deb", "-x", deb, root, NULL}, NULL);
	if (r < 0)
		return r;
	if (access(lib, F_OK) == 0) {
		r = file_mkdir_p(usr, 0755);
		if (r == 0 && symlink("../lib", usr_lib) < 0 && errno != EEXIST)
			r = error_errno();
	} else if (symlink("usr/lib", lib) < 0) {
		r = error_errno();
	}
	return error_trace(r);
}

/* Decompress @path in place, by its suffix, which is cut off. */
static int decompress(struct cache *c, char *path)
{
	static const struct {
		const char *suffix, *program;
	} known[] = {{".xz", "xz"}, {".zst", "zstd"}, {".gz", "gzip"}};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		const char *argv[] = {known[i].program, "-d", "-q", "-f", path, NULL};
		int r;

		if (!str_has_suffix(path, known[i].suffix))
			continue;
		r = cache_run(c, "decompressing a kernel module", NULL, argv, NULL);
		if (r == 0)
			path[strlen(path) - strlen(known[i].suffix)] = 0;
		return r;
	}
	return 0;
}

/* Append one module to the archive and its name to @list. */
static int add_module(struct cache *c, const char *modules_dir, const char *path,
		      struct buf *archive, struct buf *list)
{
	_cleanup_free_ char *file = str_printf("%s/%s", modules_dir, path);
	_cleanup_free_ char *name = NULL, *data = NULL;
	size_t len;
	int r;

	if (!file)
		return error_trace(-ENOMEM);
	r = decompress(c, file);
	if (r < 0)
		return r;
	r = file_read(AT_FDCWD, file, 64 << 20, &data, &len);
	if (r < 0) {
		problem_errno(c->problem, r, "kernel module %s", file);
		return error_trace(r);
	}
	name = str_printf("lib/modules/%s", strrchr(file, '/') + 1);
	if (!name)
		return error_trace(-ENOMEM);
	r = cpio_file(archive, name, 0644, data, len);
	return r < 0 ? r : buf_printf(list, "/%s\n", name);
}

static int make_archive(struct cache *c, const char *modules_dir, const struct module_list *modules,
			struct buf *archive)
{
	_cleanup_buf_ struct buf list = {0};
	int r;

	r = cpio_dir(archive, "lib", 0755);
	if (r == 0)
		r = cpio_dir(archive, "lib/modules", 0755);
	for (unsigned i = 0; r == 0 && i < modules->n; i++)
		r = add_module(c, modules_dir, modules->paths[i], archive, &list);
	if (r == 0)
		r = cpio_dir(archive, "etc", 0755);
	if (r == 0)
		r = cpio_file(archive, "etc/modules.list", 0644, list.data, list.len);
	if (r == 0)
		r = cpio_end(archive);
	return error_trace(r);
}

/* The archive of the modules below @root, of kernel @release, into @dir. */
static int write_modules(struct cache *c, const char *root, const char *release, int dir_fd)
{
	_cleanup_free_ char *modules_dir = str_printf("%s/lib/modules/%s", root, release);
	_cleanup_free_ char *dep = NULL, *builtin = NULL;
	_cleanup_module_list_ struct module_list modules = {0};
	_cleanup_buf_ struct buf archive = {0};
	_cleanup_fd_ int fd = -1;
	int r;

	if (!modules_dir)
		return error_trace(-ENOMEM);
	r = cache_run(c, "reading the kernel modules' dependencies", NULL,
		      (const char *const[]){"depmod", "-b", root, release, NULL}, NULL);
	if (r < 0)
		return r;
	fd = file_open_dir(AT_FDCWD, modules_dir);
	r = fd < 0 ? fd : file_read(fd, "modules.dep", 64 << 20, &dep, NULL);
	if (r == 0)
		r = file_read(fd, "modules.builtin", 64 << 20, &builtin, NULL);
	if (r < 0) {
		problem_errno(c->problem, r, "modules.dep or modules.builtin in %s", modules_dir);
		return error_trace(r);
	}
	r = modules_resolve(dep, builtin, wanted_modules, c->problem, &modules);
	if (r == 0)
		r = make_archive(c, modules_dir, &modules, &archive);
	if (r == 0)
		r = file_write_atomic(dir_fd, "modules.cpio", archive.data, archive.len, 0644);
	return error_trace(r);
}

/* Everything of the artefact, into @dir. */
static int make(struct cache *c, struct package *p, const char *dir)
{
	_cleanup_free_ char *work = str_printf("%s/work", dir);
	_cleanup_free_ char *root = str_printf("%s/work/root", dir);
	_cleanup_fd_ int dir_fd = file_open_dir(AT_FDCWD, dir);
	char vmlinuz[4096];
	const char *release;
	int r;

	if (!work || !root || dir_fd < 0)
		return error_trace(dir_fd < 0 ? dir_fd : -ENOMEM);
	r = file_mkdir_p(work, 0755);
	if (r == 0)
		r = fetch(c, p, work);
	if (r == 0)
		r = unpack(c, work);
	if (r == 0)
		r = find_in(c, root, "boot/vmlinuz-*", vmlinuz);
	if (r < 0)
		return error_trace(r);
	release = strrchr(vmlinuz, '/') + strlen("/vmlinuz-");
	r = write_modules(c, root, release, dir_fd);
	if (r == 0)
		r = file_write_atomic(dir_fd, "release", release, strlen(release), 0644);
	if (r == 0 && renameat(AT_FDCWD, vmlinuz, dir_fd, "vmlinuz") < 0)
		r = error_errno();
	if (r == 0)
		r = file_remove_tree(dir_fd, "work");
	if (r < 0)
		problem_errno(c->problem, r, "making the guest's kernel in %s", dir);
	return error_trace(r);
}

static int package_digest(const struct package *p, char out[CACHE_DIGEST_LEN + 1])
{
	struct cache_digest *d = cache_digest_new(BUILDER_VERSION);

	if (!d)
		return error_trace(-ENOMEM);
	cache_digest_add(d, p->name, strlen(p->name));
	cache_digest_add(d, p->version, strlen(p->version));
	for (size_t i = 0; wanted_modules[i]; i++)
		cache_digest_add(d, wanted_modules[i], strlen(wanted_modules[i]));
	cache_digest_get(d, out);
	cache_digest_free(d);
	return 0;
}

static int read_release(struct cache *c, struct kernel *k)
{
	_cleanup_fd_ int fd = file_open_dir(AT_FDCWD, k->dir);
	_cleanup_free_ char *text = NULL;
	int r = fd < 0 ? fd : file_read(fd, "release", sizeof(k->release) - 1, &text, NULL);

	if (r < 0) {
		problem_errno(c->problem, r, "%s/release", k->dir);
		return error_trace(r);
	}
	str_copy(k->release, sizeof(k->release), text);
	return 0;
}

int kernel_prepare(struct cache *c, struct kernel *ret)
{
	struct package p = {0};
	char dir[4096];
	int r;

	r = resolve(c, &p);
	if (r == 0)
		r = package_digest(&p, ret->digest);
	if (r == 0)
		r = cache_find(c, "kernel", ret->digest, ret->dir);
	if (r == CACHE_E_ABSENT) {
		r = cache_begin(c, "kernel", dir);
		if (r == 0)
			r = make(c, &p, dir);
		if (r == 0)
			r = package_digest(&p, ret->digest); /* fetch() may have moved on */
		if (r == 0)
			r = cache_commit(c, "kernel", ret->digest, ret->dir);
		if (r < 0)
			cache_abort(c, "kernel");
	}
	return r < 0 ? error_trace(r) : read_release(c, ret);
}
