/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/root-build.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/cache.h"
#include "guest/debian.h"
#include "guest/erofs.h"
#include "guest/finish.h"
#include "guest/jail.h"
#include "guest/rootfs.h"
#include "guest/tar-pipe.h"
#include "guest/tree.h"
#include "guest/unpack.h"

#define LOCK_TIMEOUT_MS 600000
#define TEXT_SHOWN	120 /* of a command, in messages */

struct building {
	const struct root_build *b;
	const struct recipe *recipe;
	const struct runner *r;
	char tree[4096];
	int tree_fd;
	struct root_built built;
};

/* ---- base -------------------------------------------------------------------------------------
 */

/* Does it add anything to its base? */
static bool is_bare(const struct recipe *r)
{
	return !r->n_packages && !r->n_files && !r->n_commands && !r->workdir &&
	       (!r->user || !strcmp(r->user, "user") || !strcmp(r->user, "root"));
}

/* The artefact of one of our own bases: its file in @ret. */
static int find_artefact(struct building *g, char ret[4096])
{
	_cleanup_cache_ struct cache c = CACHE_INIT;
	struct debian debian;
	struct rootfs busybox;
	bool is_debian = g->recipe->base == RECIPE_DEBIAN;
	int r;

	c.progress = g->r->progress;
	c.userdata = g->r->userdata;
	c.problem = g->r->problem;
	r = cache_open(&c, g->b->cache_dir, deadline_after_ms(LOCK_TIMEOUT_MS));
	if (r == 0)
		r = is_debian ? debian_prepare(&c, g->r, &debian) : rootfs_prepare(&c, &busybox);
	if (r < 0)
		return r;
	r = snprintf(ret, 4096, "%s/root.erofs", is_debian ? debian.dir : busybox.dir);
	return r >= 4096 ? -ENAMETOOLONG : 0;
}

static int use_artefact(struct building *g)
{
	char image[4096];
	int r = find_artefact(g, image);

	if (r < 0)
		return r;
	if (is_bare(g->recipe)) {
		str_copy(g->built.image, sizeof(g->built.image), image);
		return 0;
	}
	runner_say(g->r, "unpacking the %s base", recipe_base_name(g->recipe->base));
	return erofs_extract(g->r, image, g->tree);
}

/* A path of the client: absolute, or beside the recipe. */
static int client_path(struct building *g, const char *path, char ret[4096])
{
	int n;

	if (path[0] != '/' && !g->b->context) {
		problem_set(g->r->problem, 400,
			    "recipe: \"%.100s\" is relative, but it is not known to what", path);
		problem_hint(g->r->problem, "give \"contextDir\" with the recipe");
		return -EINVAL;
	}
	n = path[0] == '/' ? snprintf(ret, 4096, "%s", path)
			   : snprintf(ret, 4096, "%s/%s", g->b->context, path);
	return n < 0 || n >= 4096 ? -ENAMETOOLONG : 0;
}

static int make_tree(struct building *g)
{
	int r = mkdir(g->tree, 0755) < 0 ? error_errno() : 0;

	if (r == 0)
		r = g->tree_fd = file_open_dir(AT_FDCWD, g->tree);
	return r < 0 ? error_trace(r) : 0;
}

static void say_left_out(const struct runner *r, const struct unpack_stats *s)
{
	if (s->left_out)
		runner_say(r,
			   "note: %llu devices, fifos or sockets were left out (the first: %s); a "
			   "sandbox has its own /dev",
			   (unsigned long long)s->left_out, s->first_left_out);
}

static struct unpack_limits limits(struct building *g)
{
	struct unpack_limits l = UNPACK_LIMITS_DEFAULT;

	l.cancelled = g->r->cancelled;
	l.userdata = g->r->userdata;
	return l;
}

static int take_tar(struct building *g, const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	const struct unpack_limits l = limits(g);
	struct unpack_stats stats;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0) {
		r = error_errno();
		problem_errno(g->r->problem, r, "the archive %s", path);
		return r;
	}
	if (!S_ISREG(st.st_mode)) {
		problem_set(g->r->problem, 400, "%s is not a file", path);
		return -EINVAL;
	}
	runner_say(g->r, "extracting %s", path);
	r = make_tree(g);
	if (r == 0)
		r = unpack_tar(fd, path, g->tree_fd, "/", NULL, &l, g->r->problem, &stats);
	if (r == 0)
		say_left_out(g->r, &stats);
	return r;
}

static int take_dir(struct building *g, const char *path)
{
	const struct unpack_limits l = limits(g);
	struct unpack_stats stats;
	int r;

	runner_say(g->r, "copying %s", path);
	r = make_tree(g);
	if (r == 0)
		r = tar_pipe_copy(g->r, path, ".", g->tree_fd, "/", NULL, &l, &stats);
	if (r == 0)
		say_left_out(g->r, &stats);
	return r;
}

/* "LAYOUT:TAG" or "LAYOUT", whichever is there. */
static void split_layout(char *path, const char **ret_tag)
{
	char *colon = strrchr(path, ':');

	*ret_tag = NULL;
	if (colon && !strchr(colon, '/') && access(path, F_OK) < 0) {
		*colon = 0;
		*ret_tag = colon + 1;
	}
}

/* umoci needs a tag: an image without one goes through skopeo, which gives it ours. */
static int unpack_layout(struct building *g, const char *layout, const char *tag)
{
	_cleanup_free_ char *copy = str_printf("%s/layout", g->b->work);
	_cleanup_free_ char *bundle = str_printf("%s/bundle", g->b->work);
	_cleanup_free_ char *source = str_printf("oci:%s", layout);
	_cleanup_free_ char *rootfs = str_printf("%s/bundle/rootfs", g->b->work);
	char found[128];
	int r;

	if (!copy || !bundle || !source || !rootfs)
		return -ENOMEM;
	r = oci_config_read(layout, tag, g->r->problem, found, &g->built.config);
	if (r == 0 && !found[0]) {
		r = oci_fetch(g->r, source, copy);
		layout = copy;
		str_copy(found, sizeof(found), "image");
	}
	if (r == 0)
		r = oci_unpack(g->r, layout, found, bundle);
	if (r == 0 && rename(rootfs, g->tree) < 0)
		r = error_errno();
	if (r == 0)
		r = file_remove_tree(AT_FDCWD, copy);
	return r;
}

static int take_image(struct building *g)
{
	_cleanup_free_ char *layout = str_printf("%s/layout", g->b->work);
	_cleanup_free_ char *source = str_printf("docker://%s", g->recipe->source);
	int r;

	if (!layout || !source)
		return -ENOMEM;
	r = oci_fetch(g->r, source, layout);
	return r < 0 ? r : unpack_layout(g, layout, "image");
}

static int make_base(struct building *g)
{
	char path[4096] = "";
	const char *tag;
	int r;

	switch (g->recipe->base) {
	case RECIPE_BUSYBOX:
	case RECIPE_DEBIAN:
		return use_artefact(g);
	case RECIPE_IMAGE:
		return take_image(g);
	default:
		break;
	}
	r = client_path(g, g->recipe->source, path);
	if (r < 0)
		return r;
	if (g->recipe->base == RECIPE_DIR)
		return take_dir(g, path);
	if (g->recipe->base == RECIPE_TAR)
		return take_tar(g, path);
	split_layout(path, &tag);
	return unpack_layout(g, path, tag);
}

/* ---- what the recipe adds ---------------------------------------------------------------------
 */

static int add_packages(struct building *g)
{
	static const char policy[] = "#!/bin/sh\nexit 101\n"; /* nothing is started here */
	_cleanup_buf_ struct buf command = {0};
	int r;

	if (!g->recipe->n_packages)
		return 0;
	if (!tree_exists(g->tree_fd, "/usr/bin/apt-get")) {
		problem_set(g->r->problem, 400,
			    "recipe: packages: the root file system has no apt-get");
		return -EINVAL;
	}
	r = buf_printf(&command, "apt-get -q update && apt-get -q -y -o Dpkg::Use-Pty=0 install "
				 "--no-install-recommends --");
	for (size_t i = 0; r == 0 && i < g->recipe->n_packages; i++)
		r = buf_printf(&command, " '%s'", g->recipe->packages[i]);
	if (r == 0)
		r = tree_write(g->tree_fd, "/usr/sbin/policy-rc.d", 0755, NULL, policy,
			       sizeof(policy) - 1);
	if (r < 0)
		return r;
	runner_say(g->r, "installing %zu packages", g->recipe->n_packages);
	r = jail_run(g->r, "installing packages", g->tree, "root", NULL, NULL, command.data);
	if (r < 0)
		return r;
	r = jail_run(g->r, "cleaning up after packages", g->tree, "root", NULL, NULL,
		     "rm -f /usr/sbin/policy-rc.d && apt-get -q clean");
	return r;
}

static int file_owner(struct building *g, const char *text, struct tree_owner *ret)
{
	char name[96], home[256];
	char *colon;
	uint64_t gid;
	int r;

	str_copy(name, sizeof(name), text);
	colon = strchr(name, ':');
	if (colon)
		*colon = 0;
	r = tree_user(g->tree_fd, name, ret, home);
	if (r == 0 && colon && str_to_u64(colon + 1, &gid) == 0)
		ret->gid = (gid_t)gid; /* the recipe's parser has checked it */
	if (r == -ENOENT)
		problem_set(g->r->problem, 400, "there is no user \"%s\" in the root file system",
			    name);
	return r;
}

static int copy_bytes(int from, int to)
{
	for (;;) {
		ssize_t n = copy_file_range(from, NULL, to, NULL, 1 << 30, 0);

		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return error_errno();
	}
}

static int copy_file(struct building *g, const struct recipe_file *f, int from,
		     const struct stat *st, const struct tree_owner *owner)
{
	mode_t mode = f->mode == (mode_t)-1 ? st->st_mode & 0777 : f->mode;
	_cleanup_fd_ int to = tree_create(g->tree_fd, f->path, mode, owner);

	return to < 0 ? to : copy_bytes(from, to);
}

/* From beside the recipe: a file, or a directory with all that is in it. Links that lead out of the
 * recipe's directory are not followed: a recipe may be somebody else's. */
static int copy_from(struct building *g, const struct recipe_file *f,
		     const struct tree_owner *owner)
{
	const struct unpack_limits l = limits(g);
	_cleanup_fd_ int context = -1, from = -1;
	struct unpack_stats stats;
	struct stat st;
	char path[4096];
	int r;

	r = client_path(g, f->from, path);
	if (r < 0)
		return r;
	context = file_open_dir(AT_FDCWD, g->b->context);
	r = from = context < 0 ? context : tree_open(context, f->from, O_RDONLY | O_NONBLOCK, 0);
	if (r >= 0 && fstat(from, &st) < 0)
		r = error_errno();
	if (r < 0) {
		problem_errno(g->r->problem, r, "recipe: file %s", path);
		return r;
	}
	if (S_ISDIR(st.st_mode))
		return tar_pipe_copy(g->r, g->b->context, f->from, g->tree_fd, f->path, owner, &l,
				     &stats);
	if (!S_ISREG(st.st_mode)) {
		problem_set(g->r->problem, 400, "recipe: %s is neither a file nor a directory",
			    path);
		return -EINVAL;
	}
	return copy_file(g, f, from, &st, owner);
}

static int add_file(struct building *g, const struct recipe_file *f)
{
	struct tree_owner owner;
	int r = file_owner(g, f->owner, &owner);

	if (r == 0 && f->from)
		r = copy_from(g, f, &owner);
	else if (r == 0)
		r = tree_write(g->tree_fd, f->path, f->mode == (mode_t)-1 ? 0644 : f->mode, &owner,
			       f->text, f->text_len);
	if (r < 0)
		problem_errno(g->r->problem, r, "recipe: making %s", f->path);
	return r;
}

static int add_files(struct building *g)
{
	int r = 0;

	if (g->recipe->n_files)
		runner_say(g->r, "adding %zu files", g->recipe->n_files);
	for (size_t i = 0; r == 0 && i < g->recipe->n_files; i++) {
		r = runner_cancelled(g->r);
		if (r == 0)
			r = add_file(g, &g->recipe->files[i]);
	}
	return r;
}

/* Made for its user when it is not there: commands and sandboxes begin in it. */
static int add_workdir(struct building *g)
{
	const struct recipe *recipe = g->recipe;
	struct tree_owner owner;
	int r = 0;

	if (recipe->workdir && !tree_exists(g->tree_fd, recipe->workdir)) {
		r = file_owner(g, recipe->user ? recipe->user : "user", &owner);
		if (r == 0)
			r = tree_mkdir(g->tree_fd, recipe->workdir, 0755, &owner);
		if (r < 0)
			problem_errno(g->r->problem, r, "recipe: workdir %s", recipe->workdir);
	}
	return r;
}

static int run_commands(struct building *g)
{
	const struct recipe *recipe = g->recipe;
	char what[256];
	int r = 0;

	for (size_t i = 0; r == 0 && i < recipe->n_commands; i++) {
		const struct recipe_command *c = &recipe->commands[i];

		(void)snprintf(what, sizeof(what), "command %zu of %zu failed: %.*s", i + 1,
			       recipe->n_commands, TEXT_SHOWN, c->run);
		runner_say(g->r, "command %zu of %zu (%s): %.*s", i + 1, recipe->n_commands,
			   c->user, TEXT_SHOWN, c->run);
		r = jail_run(g->r, what, g->tree, c->user, recipe->workdir, recipe->env, c->run);
	}
	return r;
}

static int check_user(struct building *g)
{
	struct tree_owner owner;

	return g->recipe->user ? file_owner(g, g->recipe->user, &owner) : 0;
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static int make_image(struct building *g)
{
	int n = snprintf(g->built.image, sizeof(g->built.image), "%s/root.erofs", g->b->work);
	uint64_t t0 = clock_now_ns(), bytes = 0;
	char size[16];
	int r;

	if (n < 0 || (size_t)n >= sizeof(g->built.image))
		return -ENAMETOOLONG;
	finish_tidy(g->tree_fd);
	r = erofs_make(g->r, g->tree, g->built.image);
	if (r == 0)
		r = file_allocated_bytes(AT_FDCWD, g->built.image, &bytes);
	if (r == 0)
		runner_say(g->r, "made the file system in %.1f s: %s",
			   (double)(clock_now_ns() - t0) / 1e9, str_format_bytes(bytes, size));
	return r;
}

static int build(struct building *g)
{
	int r = make_base(g);

	if (r < 0 || g->built.image[0])
		return r;
	if (g->tree_fd < 0)
		r = g->tree_fd = file_open_dir(AT_FDCWD, g->tree);
	if (r >= 0)
		r = finish_add(g->r, g->tree_fd);
	if (r == 0)
		r = check_user(g);
	if (r == 0)
		r = add_packages(g);
	if (r == 0)
		r = add_files(g);
	if (r == 0)
		r = add_workdir(g);
	if (r == 0)
		r = run_commands(g);
	if (r == 0)
		r = finish_add(g->r, g->tree_fd); /* whatever the commands did to it */
	return r < 0 ? r : make_image(g);
}

int root_build(const struct root_build *b, struct root_built *ret)
{
	struct building g = {.b = b, .recipe = b->recipe, .r = b->runner, .tree_fd = -1};
	int r = snprintf(g.tree, sizeof(g.tree), "%s/root", b->work);

	if (r < 0 || (size_t)r >= sizeof(g.tree) - 16)
		return -ENAMETOOLONG;
	r = build(&g);
	fd_close(g.tree_fd);
	if (r < 0) {
		problem_errno(b->runner->problem, r, "making the root file system");
		root_built_deinit(&g.built);
		return error_trace(r);
	}
	*ret = g.built;
	return 0;
}

void root_built_deinit(struct root_built *b)
{
	oci_config_deinit(&b->config);
}
