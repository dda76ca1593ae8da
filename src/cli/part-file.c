/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/part-file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

/* What a signal removes. Set while no signal can come. */
static const char *volatile doomed;

static void on_signal(int number)
{
	if (doomed)
		(void)unlink(doomed);
	(void)raise(number); /* its handler is the default one again: SA_RESETHAND */
}

/* Sets @path as what signals remove; NULL: nothing more. */
static void doom(const char *path)
{
	struct sigaction action = {.sa_handler = path ? on_signal : SIG_DFL,
				   .sa_flags = (int)SA_RESETHAND};
	sigset_t all, old;

	(void)sigfillset(&all); /* none of these can fail with these arguments */
	(void)sigprocmask(SIG_BLOCK, &all, &old);
	doomed = path;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct sigaction now;

		(void)sigaction(signals[i], NULL, &now);
		if (now.sa_handler != SIG_IGN) /* nohup stays nohup */
			(void)sigaction(signals[i], &action, NULL);
	}
	(void)sigprocmask(SIG_SETMASK, &old, NULL);
}

/* The file is something that can only be written as it is. */
static int open_special(const char *name, struct part_file *f)
{
	f->fd = open(name, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	return f->fd < 0 ? error_errno() : 0;
}

static int open_part(const char *name, struct part_file *f)
{
	char *real = realpath(name, NULL); /* a link keeps pointing to the file */

	f->path = real ? real : strdup(name);
	f->part = f->path ? str_printf("%s.part-XXXXXX", f->path) : NULL;
	if (!f->part)
		return error_trace(-ENOMEM);
	f->fd = mkostemp(f->part, O_CLOEXEC);
	if (f->fd < 0) {
		int r = error_errno();

		free(take_ptr(f->part));
		return r;
	}
	f->regular = true;
	doom(f->part);
	return 0;
}

int part_file_open(const char *name, struct part_file *f, struct problem *problem)
{
	struct stat st;
	int r;

	*f = PART_FILE_INIT;
	f->name = name;
	if (!stat(name, &st) && !S_ISREG(st.st_mode))
		r = open_special(name, f);
	else
		r = open_part(name, f);
	if (r < 0) {
		problem_errno(problem, r, "cannot write %s", name);
		part_file_deinit(f);
	}
	return error_trace(r);
}

/* The rename, made durable: who sees the name sees the whole, also after a crash. */
static int publish(struct part_file *f)
{
	char *slash;
	_cleanup_fd_ int dir = -1;

	if (fsync(f->fd) < 0 || rename(f->part, f->path) < 0)
		return error_errno();
	doom(NULL);
	free(take_ptr(f->part));
	slash = strrchr(f->path, '/');
	if (slash)
		slash[slash == f->path] = 0;
	dir = file_open_dir(AT_FDCWD, slash ? f->path : ".");
	return dir < 0 ? error_trace(dir) : error_trace(file_fsync_dir(dir));
}

int part_file_commit(struct part_file *f, struct problem *problem)
{
	int r = f->part ? publish(f) : 0;

	if (!r && close(take_fd(f->fd)) < 0)
		r = error_errno();
	if (r < 0)
		problem_errno(problem, r, "cannot write %s", f->name);
	return error_trace(r);
}

void part_file_deinit(struct part_file *f)
{
	fd_close(f->fd);
	if (f->part) {
		(void)unlink(f->part); /* nothing can be done about a file that stays */
		doom(NULL);
	}
	free(f->part);
	free(f->path);
	*f = PART_FILE_INIT;
}
