/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm-jail - become a VMM that can reach nothing but what it was given
 *
 * usage: dorm-jail [OPTION]... -- PROGRAM [ARGUMENT]...
 *
 * Started by dormd for each VM (vmm/jail.h builds the command line). It goes from root to an
 * unprivileged user in an empty root and becomes PROGRAM, with the descriptors that it inherited
 * and two more, which it opens while it may and names in the environment: a connection to the
 * session's socket of the pager, made here so that the pager sees this very process at its other
 * end, and /dev/userfaultfd. --check puts up the walls and ends: can they be had on this host?
 *
 * Status 71 (EX_OSERR) when a wall cannot be put up: a VM must not start with one less than asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/jail/walls.h"
#include "vmm/preload/dorm-vmm.h"

#define STATUS_USAGE 64
#define STATUS_WALL  71
#define OOM_SCORE    "500"

static char error_text[512];

int wall_fail(const char *what, const char *path)
{
	int e = errno ? errno : EIO;

	(void)snprintf(error_text, sizeof(error_text), "%s%s%s: %s", what, path && *path ? " " : "",
		       path ? path : "", strerrordesc_np(e)); /* cut is better than nothing */
	return -e;
}

const char *wall_error(void)
{
	return error_text;
}

enum {
	OPT_READ = 256,
	OPT_TRY_READ,
	OPT_WRITE,
	OPT_DIRECTORY,
	OPT_DEVICE,
	OPT_ROOT,
	OPT_NAMESPACES,
	OPT_USER,
	OPT_FILTER,
	OPT_QUIET,
	OPT_MAX_FILE,
	OPT_CWD,
	OPT_PAGER,
	OPT_USERFAULTFD,
	OPT_CHECK
};

static const struct option options[] = {
	{"read", required_argument, NULL, OPT_READ},
	{"try-read", required_argument, NULL, OPT_TRY_READ},
	{"write", required_argument, NULL, OPT_WRITE},
	{"directory", required_argument, NULL, OPT_DIRECTORY},
	{"device", required_argument, NULL, OPT_DEVICE},
	{"root", required_argument, NULL, OPT_ROOT},
	{"namespaces", no_argument, NULL, OPT_NAMESPACES},
	{"user", required_argument, NULL, OPT_USER},
	{"filter", no_argument, NULL, OPT_FILTER},
	{"oom-first", no_argument, NULL, OPT_QUIET},
	{"max-file", required_argument, NULL, OPT_MAX_FILE},
	{"cwd", required_argument, NULL, OPT_CWD},
	{"pager", required_argument, NULL, OPT_PAGER},
	{"userfaultfd", no_argument, NULL, OPT_USERFAULTFD},
	{"check", no_argument, NULL, OPT_CHECK},
	{0},
};

static int add_path(struct walls *w, enum wall_bind how, const char *path)
{
	if (path[0] != '/' || w->n_paths == WALLS_MAX_PATHS)
		return -EINVAL;
	w->paths[w->n_paths++] = (struct wall_path){how, path};
	return 0;
}

static int take_number(const char *text, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno || end == text || *end || *ret > max || *text == '-' ? -EINVAL : 0;
}

static int take_option(struct walls *w, int opt, bool *check)
{
	uint64_t n = 0;
	int r = 0;

	switch (opt) {
	case OPT_READ:
	case OPT_TRY_READ:
	case OPT_WRITE:
	case OPT_DIRECTORY:
	case OPT_DEVICE:
		return add_path(w, (enum wall_bind)(opt - OPT_READ), optarg);
	case OPT_ROOT:
		w->root = true;
		w->tag = optarg;
		return 0;
	case OPT_NAMESPACES:
		w->namespaces = true;
		return 0;
	case OPT_USER:
		r = take_number(optarg, UINT32_MAX - 1, &n);
		w->user = true;
		w->uid = (uint32_t)n;
		return n ? r : -EINVAL;
	case OPT_FILTER:
		w->filter = true;
		return 0;
	case OPT_QUIET:
		w->quiet = true;
		return 0;
	case OPT_MAX_FILE:
		return take_number(optarg, INT64_MAX, &w->max_file);
	case OPT_CWD:
		w->cwd = optarg;
		return 0;
	case OPT_PAGER:
		w->pager = optarg;
		return 0;
	case OPT_USERFAULTFD:
		w->userfaultfd = true;
		return 0;
	case OPT_CHECK:
		*check = true;
		return 0;
	default:
		return -EINVAL;
	}
}

static int put_fd(const char *variable, int fd)
{
	char number[16];

	(void)snprintf(number, sizeof(number), "%d", fd); /* fits */
	return setenv(variable, number, 1) < 0 ? wall_fail("setenv", variable) : 0;
}

/* Without CLOEXEC: they are for the VMM. The library in it closes the device when it has used it.
 */
static int open_userfaultfd(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR);

	return fd < 0 ? 0 : put_fd(DORM_VMM_UFFD_FD, fd); /* then it tries the system call */
}

static int connect_pager(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd;

	errno = ENAMETOOLONG;
	if (strlen(path) >= sizeof(sa.sun_path))
		return wall_fail("connect", path);
	memcpy(sa.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return wall_fail("connect", path);
	return put_fd(DORM_VMM_PAGER_FD, fd);
}

/* As long as /proc is there. It may always be raised. */
static int go_first(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : write(fd, OOM_SCORE, strlen(OOM_SCORE));

	if (n < 0)
		return wall_fail("oom_score_adj", "");
	(void)close(fd);
	return 0;
}

static int put_up(const struct walls *w)
{
	int r = w->userfaultfd ? open_userfaultfd() : 0;

	if (r == 0 && w->pager)
		r = connect_pager(w->pager);
	if (r == 0 && w->quiet)
		r = go_first();
	if (r == 0 && w->namespaces && unshare(CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0)
		r = wall_fail("unshare", "ipc, uts and cgroup namespaces");
	if (r == 0 && w->namespaces && sethostname("vm", 2) < 0)
		r = wall_fail("sethostname", "");
	if (r == 0 && w->root)
		r = wall_root(w);
	if (r == 0)
		r = wall_limits(w);
	if (r == 0)
		r = wall_privileges(w);
	if (r == 0 && w->filter)
		r = wall_filter();
	return r;
}

int main(int argc, char **argv)
{
	struct walls w = {0};
	bool check = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1)
		if (take_option(&w, opt, &check) < 0) {
			(void)fprintf(stderr, "dorm-jail: wrong option near '%s'\n",
				      argv[optind - 1]);
			return STATUS_USAGE;
		}
	if (optind == argc && !check) {
		(void)fputs("usage: dorm-jail [OPTION]... -- PROGRAM [ARGUMENT]...\n", stderr);
		return STATUS_USAGE;
	}
	if (put_up(&w) < 0) {
		(void)fprintf(stderr, "dorm-jail: %s\n", wall_error());
		return STATUS_WALL;
	}
	if (check)
		return 0;
	(void)execv(argv[optind], argv + optind);
	(void)fprintf(stderr, "dorm-jail: %s: %s\n", argv[optind], strerrordesc_np(errno));
	return STATUS_WALL;
}
