/* SPDX-License-Identifier: Apache-2.0 */
/* dorm-pager - serve the page faults of virtual machines from snapshot images */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "pager/control.h"
#include "pager/pager.h"

#define WANTED_FILES 65536u

struct arguments {
	struct pager_options pager;
	struct control_options control;
	int ready_fd;
};

static const char usage[] =
	"Usage: dorm-pager --socket PATH --run-dir DIR [OPTION]...\n"
	"Serve the page faults of virtual machines from snapshot images.\n"
	"\n"
	"  --socket PATH        listen here for whoever opens sessions (dormd)\n"
	"  --run-dir DIR        make the sockets for the virtual machines here\n"
	"  --threads N          threads that serve faults, 1 to 64 (default: 2 to 4)\n"
	"  --linger SECONDS     keep an image's memory so long after its last session (60)\n"
	"  --linger-images N    and so many of them at most (8)\n"
	"  --handshake-ms MS    time for a virtual machine to hand over its memory (10000)\n"
	"  --adopt-ms MS        time for the owner of a session that was taken back to give its\n"
	"                       image again, if it cannot be opened from here (30000)\n"
	"  --takeover           ask the pager that is running to make room, and go on with its\n"
	"                       virtual machines\n"
	"  --ready-fd N         write one byte there, and close it, when listening\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0 ended by a signal or by request; 1 could not start or go on; 2 bad "
	"usage.\n";

enum {
	OPT_SOCKET = 256,
	OPT_RUN_DIR,
	OPT_THREADS,
	OPT_LINGER,
	OPT_LINGER_IMAGES,
	OPT_HANDSHAKE_MS,
	OPT_ADOPT_MS,
	OPT_TAKEOVER,
	OPT_READY_FD,
	OPT_HELP,
	OPT_VERSION
};

static const struct option options[] = {
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"run-dir", required_argument, NULL, OPT_RUN_DIR},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"linger", required_argument, NULL, OPT_LINGER},
	{"linger-images", required_argument, NULL, OPT_LINGER_IMAGES},
	{"handshake-ms", required_argument, NULL, OPT_HANDSHAKE_MS},
	{"adopt-ms", required_argument, NULL, OPT_ADOPT_MS},
	{"takeover", no_argument, NULL, OPT_TAKEOVER},
	{"ready-fd", required_argument, NULL, OPT_READY_FD},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

static int number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v;

	if (str_to_u64(text, &v) < 0 || v < min || v > max) {
		fprintf(stderr, "dorm-pager: \"%s\" is not a number from %llu to %llu\n", text,
			(unsigned long long)min, (unsigned long long)max);
		return -EINVAL;
	}
	*ret = v;
	return 0;
}

static int parse_one(int option, struct arguments *a)
{
	uint64_t v = 0;
	int r = 0;

	switch (option) {
	case OPT_SOCKET:
		a->control.socket_path = optarg;
		break;
	case OPT_RUN_DIR:
		a->control.run_dir = optarg;
		break;
	case OPT_THREADS:
		r = number(optarg, 1, 64, &v);
		a->pager.n_threads = (unsigned)v;
		break;
	case OPT_LINGER:
		r = number(optarg, 0, 1000000, &v);
		a->pager.linger_ns = v * NSEC_PER_SEC;
		break;
	case OPT_LINGER_IMAGES:
		r = number(optarg, 0, 100000, &v);
		a->pager.max_lingering = (uint32_t)v;
		break;
	case OPT_HANDSHAKE_MS:
		r = number(optarg, 1, 3600000, &v);
		a->control.handshake_ms = (unsigned)v;
		break;
	case OPT_ADOPT_MS:
		r = number(optarg, 1, 3600000, &v);
		a->control.adopt_ms = (unsigned)v;
		break;
	case OPT_TAKEOVER:
		a->control.takeover = true;
		break;
	case OPT_READY_FD:
		r = number(optarg, 0, 1000000, &v);
		a->ready_fd = (int)v;
		break;
	default:
		return -EINVAL;
	}
	return r;
}

/* Return: 0 go on; 1 all was said; negative: bad usage */
static int parse(int argc, char **argv, struct arguments *a)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPT_HELP) {
			fputs(usage, stdout);
			return 1;
		}
		if (option == OPT_VERSION) {
			puts("dorm-pager " DORM_VERSION);
			return 1;
		}
		if (parse_one(option, a) < 0)
			return -EINVAL;
	}
	if (optind != argc || !a->control.socket_path || !a->control.run_dir) {
		fputs("dorm-pager: --socket and --run-dir are needed, and nothing else\n", stderr);
		return -EINVAL;
	}
	return 0;
}

/* Each session costs three descriptors, each image two and one per layer. */
static void raise_file_limit(void)
{
	struct rlimit want = {.rlim_cur = WANTED_FILES, .rlim_max = WANTED_FILES}, have;

	if (getrlimit(RLIMIT_NOFILE, &have) < 0 || have.rlim_cur >= WANTED_FILES)
		return;
	want.rlim_max = MAX(have.rlim_max, want.rlim_max);
	if (setrlimit(RLIMIT_NOFILE, &want) == 0)
		return;
	want.rlim_cur = want.rlim_max =
		have.rlim_max; /* without privilege: up to what is allowed */
	if (setrlimit(RLIMIT_NOFILE, &want) < 0)
		log_warn("the limit of %llu open files stays as it is",
			 (unsigned long long)have.rlim_cur);
}

static int block_signals(void)
{
	sigset_t set;
	int fd;

	(void)signal(SIGPIPE, SIG_IGN); /* cannot fail for this signal */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return error_errno();
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? error_errno() : fd;
}

static void say_ready(int fd)
{
	if (fd < 0)
		return;
	if (fd_write_full(fd, "\n", 1) < 0)
		log_warn("nobody listens on --ready-fd %d", fd);
	fd_close(fd);
}

static int run(struct arguments *a, struct problem *problem)
{
	_cleanup_(pager_freep) struct pager *p = NULL;
	_cleanup_(control_freep) struct control *c = NULL;
	_cleanup_fd_ int signal_fd = block_signals();
	int r;

	if (signal_fd < 0)
		return signal_fd;
	raise_file_limit();
	r = pager_new(&a->pager, &p);
	if (r == 0)
		r = control_new(p, &a->control, signal_fd, problem, &c);
	if (r < 0)
		return r;
	say_ready(a->ready_fd);
	log_info("listening on %s, %u threads", a->control.socket_path, p->options.n_threads);
	r = control_run(c);
	log_info("ending");
	return r;
}

int main(int argc, char **argv)
{
	struct arguments a = {
		.pager = {.linger_ns = 60 * NSEC_PER_SEC, .max_lingering = 8, .slate_dirfd = -1},
		.control = {.handshake_ms = 10000},
		.ready_fd = -1};
	struct problem problem = PROBLEM_INIT;
	int r = parse(argc, argv, &a);

	if (r)
		return r > 0 ? 0 : 2;
	log_init("dorm-pager", LOG_LEVEL_INFO);
	r = run(&a, &problem);
	if (r == 0)
		return 0;
	problem_errno(&problem, r, "cannot go on");
	log_error("%s%s%s", problem.message, problem.hint[0] ? "; " : "", problem.hint);
	return 1;
}
