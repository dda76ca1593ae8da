/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm cp: files between here and a sandbox.
 *
 * Directories are walked on the side where they are, and each file is a request of its own: what
 * the sandbox has to bring for that is its agent, not tar, and a file that cannot be copied does
 * not end the rest. Names that a sandbox tells are not trusted: none leads out of the target.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "cli/cli.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/part-file.h"
#include "cli/sandbox-call.h"
#include "cli/sandbox-files.h"

#define MAX_DEPTH 128

struct copy {
	struct cli *cli;
	struct sandbox_files files;
	bool recursive;
	bool failed; /* something was not copied, and that was said */
};

static void complain(struct copy *c, struct problem *problem)
{
	problem_set(problem, 503, "out of memory");
	output_problem(problem);
	c->failed = true;
}

static void skip(struct copy *c, const char *path, const char *why)
{
	(void)fputs("dorm: skipped ", stderr);
	output_text(stderr, path);
	(void)fprintf(stderr, ": %s\n", why);
	c->failed = true;
}

static char *join(const char *dir, const char *name)
{
	size_t n = strlen(dir);

	if (!n)
		return strdup(name);
	return str_printf("%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name);
}

/* The last name of a path; "" for "/", "." and "..", which give none. Fresh memory */
static char *last_name(const char *path)
{
	size_t end = strlen(path), begin;

	while (end && path[end - 1] == '/')
		end--;
	for (begin = end; begin && path[begin - 1] != '/'; begin--)
		;
	if (end - begin <= 2 && !strncmp(path + begin, "..", end - begin))
		return strdup("");
	return strndup(path + begin, end - begin);
}

/* --- out of the sandbox -------------------------------------------------------------------------
 */

static int get_into(struct copy *c, const char *from, int fd, struct problem *problem)
{
	struct progress progress;
	int r;

	progress_start(&progress, c->cli, "copying %s", from);
	c->files.progress = &progress;
	r = sandbox_files_get(&c->files, from, fd, problem);
	progress_end(&progress);
	c->files.progress = NULL;
	return r;
}

/* @mode: -1: what a new file gets here */
static void get_file(struct copy *c, const char *from, const char *to, int mode)
{
	_cleanup_part_file_ struct part_file f = PART_FILE_INIT;
	struct problem problem = PROBLEM_INIT;
	mode_t mask = umask(0);
	int r = part_file_open(to, &f, &problem);

	(void)umask(mask);
	if (r == 0)
		r = get_into(c, from, f.fd, &problem);
	if (r == 0 && f.regular && fchmod(f.fd, mode < 0 ? 0666 & ~mask : (mode_t)mode) < 0) {
		r = -errno;
		problem_errno(&problem, r, "%s", to);
	}
	if (r == 0)
		r = part_file_commit(&f, &problem);
	if (r)
		complain(c, &problem);
}

static bool is_name(const char *name)
{
	return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int mode_of(const json_t *entry)
{
	const json_t *mode = json_object_get(entry, "mode");

	return json_is_integer(mode) ? (int)(json_integer_value(mode) & 0777) : -1;
}

static bool is_type(const json_t *entry, const char *type)
{
	return !strcmp(output_field(entry, "type", ""), type);
}

static void get_tree(struct copy *c, const char *from, const char *to, unsigned depth);

static void get_entry(struct copy *c, const json_t *entry, const char *from, const char *to,
		      unsigned depth)
{
	const char *name = output_field(entry, "name", "");
	_cleanup_free_ char *source = join(from, name), *target = join(to, name);
	struct problem problem = PROBLEM_INIT;

	if (!source || !target)
		complain(c, &problem);
	else if (!is_name(name))
		skip(c, source, "the sandbox gives it a name that is none");
	else if (is_type(entry, "FILE_TYPE_DIRECTORY") && json_object_get(entry, "symlinkTarget"))
		skip(c, source, "a symbolic link to a directory");
	else if (is_type(entry, "FILE_TYPE_DIRECTORY"))
		get_tree(c, source, target, depth + 1);
	else if (is_type(entry, "FILE_TYPE_FILE"))
		get_file(c, source, target, mode_of(entry));
	else
		skip(c, source, "neither a file nor a directory");
}

static void get_tree(struct copy *c, const char *from, const char *to, unsigned depth)
{
	struct problem problem = PROBLEM_INIT;
	json_t *answer = NULL, *entry;
	size_t i;
	int r;

	if (depth == MAX_DEPTH) {
		skip(c, from, "the directories are nested too deeply");
		return;
	}
	r = sandbox_files_call(&c->files, "ListDir", from, &answer, &problem);
	if (r == 0 && mkdir(to, 0777) < 0 && errno != EEXIST) {
		r = -errno;
		problem_errno(&problem, r, "%s", to);
	}
	if (r)
		complain(c, &problem);
	json_array_foreach (json_object_get(answer, "entries"), i, entry) {
		if (r == 0)
			get_entry(c, entry, from, to, depth);
	}
	json_decref(answer);
}

static bool is_local_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Return: the entry of @path, owned; NULL when there is none, or it cannot be known */
static json_t *stat_remote(struct copy *c, const char *path)
{
	struct problem ignored = PROBLEM_INIT; /* what is wrong shows when it is copied */
	json_t *answer = NULL, *entry = NULL;

	if (sandbox_files_call(&c->files, "Stat", path, &answer, &ignored) == 0)
		entry = json_incref(json_object_get(answer, "entry"));
	json_decref(answer);
	return entry;
}

static void get(struct copy *c, const char *from, const char *to)
{
	_cleanup_free_ char *name = last_name(from), *inside = NULL;
	json_t *entry = stat_remote(c, from);
	struct problem problem = PROBLEM_INIT;
	bool is_dir = entry && is_type(entry, "FILE_TYPE_DIRECTORY");

	if (name && name[0] && is_local_dir(to))
		inside = join(to, name);
	if (!name || (name[0] && is_local_dir(to) && !inside))
		complain(c, &problem);
	else if (is_dir && !c->recursive)
		skip(c, from, "it is a directory (-r copies those)");
	else if (is_dir)
		get_tree(c, from, inside ? inside : to, 0);
	else
		get_file(c, from, inside ? inside : to, entry ? mode_of(entry) : -1);
	json_decref(entry);
}

static void get_to_output(struct copy *c, const char *from)
{
	struct problem problem = PROBLEM_INIT;

	if (get_into(c, from, STDOUT_FILENO, &problem))
		complain(c, &problem);
}

/* --- into the sandbox ---------------------------------------------------------------------------
 */

static int put_from(struct copy *c, int fd, int64_t len, const char *shown, const char *to,
		    int mode, struct problem *problem)
{
	struct progress progress;
	int r;

	progress_start(&progress, c->cli, "copying %s", shown);
	c->files.progress = &progress;
	r = sandbox_files_put(&c->files, to, fd, len, mode, problem);
	progress_end(&progress);
	c->files.progress = NULL;
	return r;
}

static void put_file(struct copy *c, const char *from, const char *to)
{
	_cleanup_fd_ int fd = open(from, O_RDONLY | O_NOCTTY | O_CLOEXEC);
	struct problem problem = PROBLEM_INIT;
	struct stat st;
	int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

	if (r < 0)
		problem_errno(&problem, r, "%s", from);
	else if (S_ISREG(st.st_mode) && st.st_size > 0)
		r = put_from(c, fd, st.st_size, from, to, st.st_mode & 0777, &problem);
	else /* a pipe, or of a size that is not told (procfs) */
		r = put_from(c, fd, -1, from, to,
			     S_ISREG(st.st_mode) ? (int)(st.st_mode & 0777) : -1, &problem);
	if (r)
		complain(c, &problem);
}

static void put_tree(struct copy *c, const char *from, const char *to, unsigned depth);

static void put_entry(struct copy *c, int dir_fd, const char *from, const char *name,
		      const char *to, unsigned depth)
{
	_cleanup_free_ char *source = join(from, name), *target = join(to, name);
	struct problem problem = PROBLEM_INIT;
	struct stat st, link;

	if (!source || !target)
		complain(c, &problem);
	else if (fstatat(dir_fd, name, &link, AT_SYMLINK_NOFOLLOW) < 0 ||
		 fstatat(dir_fd, name, &st, 0) < 0)
		skip(c, source, strerrordesc_np(errno));
	else if (S_ISDIR(st.st_mode) && S_ISLNK(link.st_mode))
		skip(c, source, "a symbolic link to a directory");
	else if (S_ISDIR(st.st_mode))
		put_tree(c, source, target, depth + 1);
	else if (S_ISREG(st.st_mode))
		put_file(c, source, target);
	else
		skip(c, source, "neither a file nor a directory");
}

/* The parents of files are made with them; only an empty directory has to be asked for. */
static void put_empty(struct copy *c, const char *to)
{
	struct problem problem = PROBLEM_INIT;
	json_t *answer = NULL;
	int r = sandbox_files_call(&c->files, "MakeDir", to, &answer, &problem);

	if (r && problem.status != 409) /* it is there */
		complain(c, &problem);
	json_decref(answer);
}

static void put_tree(struct copy *c, const char *from, const char *to, unsigned depth)
{
	_cleanup_dir_ DIR *dir = NULL;
	struct problem problem = PROBLEM_INIT;
	struct dirent *e;
	size_t n = 0;
	int r;

	if (depth == MAX_DEPTH) {
		skip(c, from, "the directories are nested too deeply");
		return;
	}
	r = file_opendir(AT_FDCWD, from, &dir);
	if (r < 0) {
		problem_errno(&problem, r, "%s", from);
		complain(c, &problem);
		return;
	}
	while ((e = readdir(dir))) {
		if (!is_name(e->d_name))
			continue;
		n++;
		put_entry(c, dirfd(dir), from, e->d_name, to, depth);
	}
	if (n == 0)
		put_empty(c, to);
}

/* Where @name goes when the target is @to: into it, when that is a directory. Fresh memory */
static char *place_of(struct copy *c, const char *to, const char *name)
{
	json_t *entry = to[0] && !str_has_suffix(to, "/") ? stat_remote(c, to) : NULL;
	bool into = !to[0] || str_has_suffix(to, "/") ||
		    (entry && is_type(entry, "FILE_TYPE_DIRECTORY"));

	json_decref(entry);
	return into && name[0] ? join(to, name) : strdup(to);
}

static void put(struct copy *c, const char *from, const char *to)
{
	_cleanup_free_ char *name = last_name(from);
	_cleanup_free_ char *place = name ? place_of(c, to, name) : NULL;
	struct problem problem = PROBLEM_INIT;

	if (!place)
		complain(c, &problem);
	else if (is_local_dir(from) && !c->recursive)
		skip(c, from, "it is a directory (-r copies those)");
	else if (is_local_dir(from))
		put_tree(c, from, place, 0);
	else
		put_file(c, from, place);
}

static void put_from_input(struct copy *c, const char *to)
{
	struct problem problem = PROBLEM_INIT;

	if (put_from(c, STDIN_FILENO, -1, "standard input", to, -1, &problem))
		complain(c, &problem);
}

/* --- the command --------------------------------------------------------------------------------
 */

/* "ID:PATH"; a local path with a colon before any slash is written ./PATH. Return: PATH, or NULL */
static char *remote_path(char *arg)
{
	size_t n = strcspn(arg, ":/");

	if (n == 0 || arg[n] != ':')
		return NULL;
	arg[n] = 0; /* what is left of @arg is the id */
	return arg + n + 1;
}

static int copy_run(struct copy *c, const struct command *command, char *from, char *to)
{
	char *from_path = remote_path(from), *to_path = remote_path(to);
	struct problem problem = PROBLEM_INIT;

	if (!from_path == !to_path)
		return options_usage(command,
				     "one of SOURCE and TARGET must be ID:PATH, the other a "
				     "path here");
	if (to_path && !strcmp(from, "-") && (!to_path[0] || str_has_suffix(to_path, "/")))
		return options_usage(command, "what comes from standard input needs the path of a "
					      "file");
	c->files.id = from_path ? from : to;
	if (!sandbox_id_is_valid(c->files.id))
		return options_usage(command,
				     "what stands before the colon is no sandbox's id; a path "
				     "here with a colon in it is written ./PATH");
	if (sandbox_files_open(&c->files, &problem))
		complain(c, &problem);
	else if (from_path && !strcmp(to, "-"))
		get_to_output(c, from_path);
	else if (from_path)
		get(c, from_path, to);
	else if (!strcmp(from, "-"))
		put_from_input(c, to_path);
	else
		put(c, from, to_path);
	return c->failed ? CLI_FAILED : CLI_OK;
}

static int run_cp(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct copy c = {.cli = cli, .files = {.socket = cli->socket}};
	const struct option_spec specs[] = {
		{'r', "recursive", OPTION_FLAG, &c.recursive, NULL, "copy directories"},
		{'u', "user", OPTION_TEXT, &c.files.user, "USER",
		 "whose files they become in the sandbox, and whose home paths begin at"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	r = r ? options_exit(r) : copy_run(&c, command, args.pos[0], args.pos[1]);
	sandbox_files_close(&c.files);
	return r;
}

const struct command cmd_cp = {
	.name = "cp",
	.usage = "[OPTIONS] ID:PATH TARGET | SOURCE ID:PATH",
	.summary = "Copy files into a sandbox or out of it",
	.details =
		"Paths in the sandbox begin at the user's home unless they begin with /. Missing\n"
		"directories are made. A file is replaced when its new content is there as a\n"
		"whole; permissions are kept, owners are not. - is standard input or output.\n\n"
		"With -r symbolic links to files are followed; those to directories, and what is\n"
		"neither file nor directory, are skipped and named, and the exit code is 1.",
	.examples = "  dorm cp notes.txt $id:\n"
		    "  dorm cp $id:/etc/os-release .\n"
		    "  dorm cp -r src $id:/home/user/project\n"
		    "  dorm cp $id:/var/log/syslog - | grep oom\n",
	.missing = "ID:PATH and a path here",
	.min_args = 2,
	.max_args = 2,
	.no_json = true,
	.run = run_cp,
};
