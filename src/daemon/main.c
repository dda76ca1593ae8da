/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormd - the daemon: configuration, start, stop
 *
 * It may be killed at any moment: sandboxes and the pager are processes of their own, and the next
 * dormd on the same store adopts them. SIGTERM and SIGINT end it in good order, with the same
 * effect.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/server.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "sandbox/host.h"

static const char help[] =
	"usage: dormd [OPTIONS]\n"
	"\n"
	"Runs sandboxes that sleep, wake and fork. Talk to it with `dorm` or over HTTP.\n"
	"\n"
	"  --root DIR            where snapshots and sandboxes are kept   [/var/lib/dormouse]\n"
	"  --run-dir DIR         sockets of the pager                     [/run/dormouse]\n"
	"  --socket PATH         the API                                  [RUN-DIR/dormd.sock]\n"
	"  --guest-cache DIR     kernels and root file systems            [/var/cache/dormouse]\n"
	"  --libexec DIR         dorm-pager, dorm-agent, libdorm-vmm.so   [beside this program]\n"
	"  --accel tcg|kvm       how to run guests                        [measured at start]\n"
	"  --answer-timeout SEC  how long a woken guest may take to answer              [15]\n"
	"  --boot-timeout SEC    the same for a guest that boots                        [30]\n"
	"  --doctor              print what this host has and lacks as JSON, and end\n"
	"  --version, --help\n"
	"\n"
	"Environment: DORM_QEMU (the QEMU program), DORM_LOG=error|warn|info|debug, DORM_TRACE=1.\n"
	"Exit status: 0 ended in good order; 1 could not start or serve; 2 wrong usage.\n";

struct settings {
	struct host_config config;
	const char *socket;
	bool doctor;
	char libexec[PATH_MAX];
};

enum {
	OPT_ROOT = 256,
	OPT_RUN,
	OPT_SOCKET,
	OPT_CACHE,
	OPT_LIBEXEC,
	OPT_ACCEL,
	OPT_ANSWER,
	OPT_BOOT,
	OPT_DOCTOR,
	OPT_VERSION,
	OPT_HELP
};

static const struct option options[] = {
	{"root", required_argument, NULL, OPT_ROOT},
	{"run-dir", required_argument, NULL, OPT_RUN},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"guest-cache", required_argument, NULL, OPT_CACHE},
	{"libexec", required_argument, NULL, OPT_LIBEXEC},
	{"accel", required_argument, NULL, OPT_ACCEL},
	{"answer-timeout", required_argument, NULL, OPT_ANSWER},
	{"boot-timeout", required_argument, NULL, OPT_BOOT},
	{"doctor", no_argument, NULL, OPT_DOCTOR},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{0},
};

static int parse_seconds(const char *name, const char *value, unsigned *ret_ms)
{
	uint64_t v;

	if (str_to_u64(value, &v) < 0 || v < 1 || v > 3600) {
		fprintf(stderr, "dormd: --%s: '%s' is not a number of seconds from 1 to 3600\n",
			name, value);
		return 2;
	}
	*ret_ms = (unsigned)v * 1000;
	return -1;
}

/* One option. Return: -1 to go on; an exit status otherwise. */
static int take_option(int opt, struct settings *s)
{
	switch (opt) {
	case OPT_ROOT:
		s->config.root = optarg;
		return -1;
	case OPT_RUN:
		s->config.run_dir = optarg;
		return -1;
	case OPT_SOCKET:
		s->socket = optarg;
		return -1;
	case OPT_CACHE:
		s->config.guest_cache = optarg;
		return -1;
	case OPT_LIBEXEC:
		s->config.libexec = optarg;
		return -1;
	case OPT_ACCEL:
		if (strcmp(optarg, "tcg") && strcmp(optarg, "kvm")) {
			fprintf(stderr, "dormd: --accel: '%s' is neither tcg nor kvm\n", optarg);
			return 2;
		}
		s->config.accel = optarg;
		return -1;
	case OPT_ANSWER:
		return parse_seconds("answer-timeout", optarg, &s->config.limits.answer_ms);
	case OPT_BOOT:
		return parse_seconds("boot-timeout", optarg, &s->config.limits.boot_ms);
	case OPT_DOCTOR:
		s->doctor = true;
		return -1;
	case OPT_VERSION:
		puts("dormd " DORM_VERSION);
		return 0;
	case OPT_HELP:
		fputs(help, stdout);
		return 0;
	default:
		fputs("Try 'dormd --help'.\n", stderr);
		return 2;
	}
}

static int parse(int argc, char **argv, struct settings *s)
{
	ssize_t n = readlink("/proc/self/exe", s->libexec, sizeof(s->libexec) - 1);
	int opt, r;

	if (n > 0) {
		s->libexec[n] = 0;
		*strrchr(s->libexec, '/') = 0;
	}
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		r = take_option(opt, s);
		if (r >= 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "dormd: unexpected argument '%s'\nTry 'dormd --help'.\n",
			argv[optind]);
		return 2;
	}
	return -1;
}

static int complain(const struct problem *p)
{
	log_error("%s", p->message);
	if (p->hint[0])
		log_error("hint: %s", p->hint);
	return 1;
}

static int print_doctor(const char *root)
{
	json_t *o = host_doctor(root);

	if (!o)
		return 1;
	json_dumpf(o, stdout, JSON_INDENT(1));
	puts("");
	json_decref(o);
	return 0;
}

/* Signals are read from a descriptor; they are blocked before any thread exists. */
static int block_signals(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? error_errno() : fd;
}

static void raise_limits(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE,
				&l); /* then fewer sandboxes fit; `dorm doctor` says so */
	}
}

static int serve(const struct settings *s, int signals, struct problem *problem)
{
	struct signalfd_siginfo si;
	struct server *server = NULL;
	struct host *host = NULL;
	int r, fd;

	r = host_new(&s->config, problem, &host);
	if (r < 0)
		return r;
	fd = fd_unix_listen(s->socket, SOCK_STREAM, 0600);
	r = fd < 0 ? fd : server_new(host, fd, problem, &server);
	if (r < 0) {
		problem_errno(problem, r, "listening on %s", s->socket);
		host_free(host, false);
		return r;
	}
	log_info("listening on %s", s->socket);
	while (fd_read_full(signals, &si, sizeof(si)) < 0)
		;
	log_info("ending on signal %u; sandboxes go on running", si.ssi_signo);
	(void)unlink(s->socket); /* new clients are told at once */
	host_begin_stop(host);
	server_free(server);
	host_free(host, true);
	return 0;
}

int main(int argc, char **argv)
{
	struct settings s = {.config = {.root = "/var/lib/dormouse",
					.run_dir = "/run/dormouse",
					.guest_cache = "/var/cache/dormouse",
					.limits = HOST_LIMITS_DEFAULT}};
	struct problem problem = PROBLEM_INIT;
	_cleanup_free_ char *socket = NULL;
	_cleanup_fd_ int signals = -1;
	int r;

	s.config.libexec = s.libexec;
	r = parse(argc, argv, &s);
	if (r >= 0)
		return r;
	if (s.doctor)
		return print_doctor(s.config.root);
	log_init("dormd", LOG_LEVEL_INFO);
	if (!s.socket)
		s.socket = socket = str_printf("%s/dormd.sock", s.config.run_dir);
	signals = block_signals();
	raise_limits();
	r = s.socket && signals >= 0 ? serve(&s, signals, &problem) : -ENOMEM;
	if (r < 0) {
		problem_errno(&problem, r, "starting");
		return complain(&problem);
	}
	return 0;
}
