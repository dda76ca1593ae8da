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
#include <malloc.h>
#include <netinet/in.h>
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

#define MIN_LIMIT (16ull << 20) /* below, guests would evict what they are about to touch */

static const char help[] =
	"usage: dormd [OPTIONS]\n"
	"\n"
	"Runs sandboxes that sleep, wake and fork. Talk to it with `dorm` or over HTTP.\n"
	"\n"
	"  --root DIR            where snapshots and sandboxes are kept   [/var/lib/dormouse]\n"
	"  --run-dir DIR         sockets of the pager                     [/run/dormouse]\n"
	"  --socket PATH         the API                                  [RUN-DIR/dormd.sock]\n"
	"  --listen ADDRESS:PORT the API over TCP too, on a loopback address         [not]\n"
	"  --api-key SOURCE      what clients over TCP must send as X-API-KEY; file:PATH or\n"
	"                        env:NAME, 16 to 255 characters\n"
	"  --guest-cache DIR     kernels and root file systems            [/var/cache/dormouse]\n"
	"  --libexec DIR         dorm-pager, dorm-agent, libdorm-vmm.so   [beside this program]\n"
	"  --accel tcg|kvm       how to run guests                        [measured at start]\n"
	"  --answer-timeout SEC  how long a woken guest may take to answer              [15]\n"
	"  --boot-timeout SEC    the same for a guest that boots                        [30]\n"
	"  --seal-key SOURCE     encrypt snapshots under this key; may be repeated: the first\n"
	"                        seals, all of them open\n"
	"  --codec none|lz4[:LEVEL]|zstd[:LEVEL]\n"
	"                        how sleeps compress memory                         [zstd:1]\n"
	"  --template-level N    zstd level for templates, 1 to 19                       [9]\n"
	"  --reflink auto|always|never\n"
	"                        how disks are copied                                 [auto]\n"
	"  --compact auto|off    merge the layers of sleeping sandboxes               [auto]\n"
	"  --compact-layers N    when a sandbox has more of its own than this, 1 to 1000 [8]\n"
	"  --pager-mode auto|shared|overlay|eager\n"
	"                        how the memory of woken sandboxes is served          [auto]\n"
	"  --no-prefetch         load only what guests touch, no working sets\n"
	"  --no-userfaultfd      load all of a sandbox's memory before it runs\n"
	"  --memory-limit SIZE   what clean memory of images may take on this host [no limit]\n"
	"  --image-memory-limit SIZE\n"
	"                        the same for each image                          [no limit]\n"
	"  --offer-network       a client that allows a sandbox the internet wants it a network, "
	"as\n"
	"                        with E2B; otherwise it has to ask for one by rules\n"
	"  --doctor              print what this host has and lacks as JSON, and end\n"
	"  --version, --help\n"
	"\n"
	"A key's SOURCE is file:PATH, env:NAME or fd:NUMBER, holding 32 bytes, raw, as 64\n"
	"hexadecimal digits or as base64. A file must be readable by its owner alone. A variable\n"
	"is removed from the environment. To change keys, put the new one first, run\n"
	"`dorm store rewrap`, and start again without the old one.\n"
	"\n"
	"The pager's options hold for sandboxes that are woken from now on, also by a pager that\n"
	"was left running; the limits at once.\n"
	"\n"
	"Environment: DORM_PAGER_MODE=auto|..., DORM_PAGER_PREFETCH=off, DORM_PAGER_UFFD=off,\n"
	"DORM_MEMORY_LIMIT, DORM_IMAGE_MEMORY_LIMIT (as the options, which count more),\n"
	"DORM_QEMU (the QEMU program), DORM_LOG=error|warn|info|debug, DORM_TRACE=1.\n"
	"Exit status: 0 ended in good order; 1 could not start or serve; 2 wrong usage.\n";

struct settings {
	struct host_config config;
	const char *socket;
	const char *listen, *api_key; /* both or neither */
	bool doctor;
	char libexec[PATH_MAX];
	const char *seal_keys[KEYRING_MAX_KEYS]; /* their sources */
	unsigned n_seal_keys;
};

enum {
	OPT_ROOT = 256,
	OPT_RUN,
	OPT_SOCKET,
	OPT_LISTEN,
	OPT_API_KEY,
	OPT_CACHE,
	OPT_LIBEXEC,
	OPT_ACCEL,
	OPT_ANSWER,
	OPT_BOOT,
	OPT_SEAL_KEY,
	OPT_CODEC,
	OPT_TEMPLATE_LEVEL,
	OPT_REFLINK,
	OPT_COMPACT,
	OPT_COMPACT_LAYERS,
	OPT_PAGER_MODE,
	OPT_NO_PREFETCH,
	OPT_NO_UFFD,
	OPT_MEMORY_LIMIT,
	OPT_IMAGE_LIMIT,
	OPT_OFFER_NETWORK,
	OPT_DOCTOR,
	OPT_VERSION,
	OPT_HELP
};

static const struct option options[] = {
	{"root", required_argument, NULL, OPT_ROOT},
	{"run-dir", required_argument, NULL, OPT_RUN},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"api-key", required_argument, NULL, OPT_API_KEY},
	{"guest-cache", required_argument, NULL, OPT_CACHE},
	{"libexec", required_argument, NULL, OPT_LIBEXEC},
	{"accel", required_argument, NULL, OPT_ACCEL},
	{"answer-timeout", required_argument, NULL, OPT_ANSWER},
	{"boot-timeout", required_argument, NULL, OPT_BOOT},
	{"seal-key", required_argument, NULL, OPT_SEAL_KEY},
	{"codec", required_argument, NULL, OPT_CODEC},
	{"template-level", required_argument, NULL, OPT_TEMPLATE_LEVEL},
	{"reflink", required_argument, NULL, OPT_REFLINK},
	{"compact", required_argument, NULL, OPT_COMPACT},
	{"compact-layers", required_argument, NULL, OPT_COMPACT_LAYERS},
	{"pager-mode", required_argument, NULL, OPT_PAGER_MODE},
	{"no-prefetch", no_argument, NULL, OPT_NO_PREFETCH},
	{"no-userfaultfd", no_argument, NULL, OPT_NO_UFFD},
	{"memory-limit", required_argument, NULL, OPT_MEMORY_LIMIT},
	{"image-memory-limit", required_argument, NULL, OPT_IMAGE_LIMIT},
	{"offer-network", no_argument, NULL, OPT_OFFER_NETWORK},
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

static int parse_number(const char *name, const char *value, unsigned max, uint64_t *ret)
{
	uint64_t v;

	if (str_to_u64(value, &v) < 0 || v < 1 || v > max) {
		fprintf(stderr, "dormd: --%s: '%s' is not a number from 1 to %u\n", name, value,
			max);
		return 2;
	}
	*ret = v;
	return -1;
}

static int refuse(const char *name, const char *value, const char *allowed)
{
	fprintf(stderr, "dormd: --%s: '%s' is not %s\n", name, value, allowed);
	return 2;
}

static int take_key(struct settings *s, const char *source)
{
	if (s->n_seal_keys == KEYRING_MAX_KEYS) {
		fprintf(stderr, "dormd: --seal-key: more than %d keys\n", KEYRING_MAX_KEYS);
		return 2;
	}
	s->seal_keys[s->n_seal_keys++] = source;
	return -1;
}

static int take_pager_mode(const char *name, const char *value, struct host_config *c)
{
	enum pager_mode mode;

	if (pager_mode_parse(value, &mode) < 0 || mode == PAGER_MODE_COPY)
		return refuse(name, value,
			      "auto, shared, overlay or eager (copy is for VMMs that bring their "
			      "own memory)");
	c->pager_mode = mode;
	return -1;
}

static int take_limit(const char *name, const char *value, uint64_t *ret)
{
	uint64_t v;

	if (str_to_bytes(value, &v) < 0 || v < MIN_LIMIT)
		return refuse(name, value, "a size of at least 16M, such as 512M or 8G");
	*ret = v;
	return -1;
}

/* How memory is served. Return: as take_option() */
static int take_pager_option(int opt, struct host_config *c)
{
	switch (opt) {
	case OPT_PAGER_MODE:
		return take_pager_mode("pager-mode", optarg, c);
	case OPT_NO_PREFETCH:
		c->no_prefetch = true;
		return -1;
	case OPT_NO_UFFD:
		c->no_userfaultfd = true;
		return -1;
	case OPT_MEMORY_LIMIT:
		return take_limit("memory-limit", optarg, &c->memory_limit);
	case OPT_IMAGE_LIMIT:
		return take_limit("image-memory-limit", optarg, &c->image_limit);
	default:
		fputs("Try 'dormd --help'.\n", stderr);
		return 2;
	}
}

/* What the environment says, before the options. Return: as take_option() */
static int take_environment(struct host_config *c)
{
	const char *mode = getenv("DORM_PAGER_MODE"), *prefetch = getenv("DORM_PAGER_PREFETCH"),
		   *uffd = getenv("DORM_PAGER_UFFD"), *limit = getenv("DORM_MEMORY_LIMIT"),
		   *image = getenv("DORM_IMAGE_MEMORY_LIMIT");
	int r = -1;

	c->no_prefetch = prefetch && !strcmp(prefetch, "off");
	c->no_userfaultfd = uffd && !strcmp(uffd, "off");
	if (mode && *mode)
		r = take_pager_mode("pager-mode (DORM_PAGER_MODE)", mode, c);
	if (r < 0 && limit && *limit)
		r = take_limit("memory-limit (DORM_MEMORY_LIMIT)", limit, &c->memory_limit);
	if (r < 0 && image && *image)
		r = take_limit("image-memory-limit (DORM_IMAGE_MEMORY_LIMIT)", image,
			       &c->image_limit);
	return r;
}

/* How snapshots are stored. Return: as take_option() */
static int take_store_option(int opt, struct host_config *c)
{
	uint64_t n = 0;
	int r;

	switch (opt) {
	case OPT_CODEC:
		if (image_codec_parse(optarg, &c->codec, &c->codec_level) < 0)
			return refuse("codec", optarg, "none, lz4[:LEVEL] or zstd[:LEVEL]");
		return -1;
	case OPT_TEMPLATE_LEVEL:
		r = parse_number("template-level", optarg, 19, &n);
		c->template_level = (int)n;
		return r;
	case OPT_REFLINK:
		if (disk_reflink_parse(optarg, &c->reflink) < 0)
			return refuse("reflink", optarg, "auto, always or never");
		return -1;
	case OPT_COMPACT:
		if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "off") != 0)
			return refuse("compact", optarg, "auto or off");
		c->compact.off = !strcmp(optarg, "off");
		return -1;
	case OPT_COMPACT_LAYERS:
		r = parse_number("compact-layers", optarg, 1000, &n);
		c->compact.max_layers = (uint32_t)n;
		return r;
	default:
		return take_pager_option(opt, c);
	}
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
	case OPT_LISTEN:
		s->listen = optarg;
		return -1;
	case OPT_API_KEY:
		s->api_key = optarg;
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
	case OPT_SEAL_KEY:
		return take_key(s, optarg);
	case OPT_OFFER_NETWORK:
		s->config.offers_network = true;
		return -1;
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
		return take_store_option(opt, &s->config);
	}
}

static int parse(int argc, char **argv, struct settings *s)
{
	ssize_t n = readlink("/proc/self/exe", s->libexec, sizeof(s->libexec) - 1);
	int opt, r = take_environment(&s->config);

	if (r >= 0)
		return r;
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
	if (!s->listen != !s->api_key) {
		fputs("dormd: --listen and --api-key go together: whoever can use the API over TCP "
		      "rules this host's sandboxes\n",
		      stderr);
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

/* Before anything else is opened or started: a descriptor must not be taken for a key that is not
 * meant, and no child must inherit one, or the variable it was in. */
static int load_keys(const struct settings *s, struct problem *problem, struct keyring **ret)
{
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	int r = s->n_seal_keys ? keyring_new(&keys) : 0;

	for (unsigned i = 0; r == 0 && i < s->n_seal_keys; i++) {
		r = keyring_add(keys, s->seal_keys[i], problem);
		if (r < 0)
			problem_errno(problem, r, "--seal-key %s", s->seal_keys[i]);
	}
	if (r < 0) {
		problem_errno(problem, r, "keeping keys");
		return error_trace(r);
	}
	*ret = take_ptr(keys);
	return 0;
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

/* Without TLS a key is safe on this host alone. */
static int listen_tcp(const char *text, struct problem *problem)
{
	_cleanup_fd_ int fd = fd_tcp_listen(text);
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	bool local = false;

	if (fd < 0) {
		problem_errno(problem, fd, "--listen %s", text);
		if (fd == -EINVAL)
			problem_hint(problem, "a numeric address and a port, as 127.0.0.1:3000");
		return fd;
	}
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return error_errno();
	if (sa.ss_family == AF_INET)
		local = ntohl(((struct sockaddr_in *)&sa)->sin_addr.s_addr) >> 24 == 127;
	else if (sa.ss_family == AF_INET6)
		local = IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&sa)->sin6_addr);
	if (!local) {
		problem_set(problem, 400, "--listen %s: only a loopback address (127.0.0.1, ::1)",
			    text);
		problem_hint(problem, "keys would cross the network in the clear; put a proxy that "
				      "speaks TLS in front");
		return -EINVAL;
	}
	return take_fd(fd);
}

struct listeners {
	struct access *access;
	struct server *local, *tcp;
};

static void listeners_close(struct listeners *l)
{
	server_free(l->local);
	server_free(l->tcp);
	access_free(l->access);
}

static int listeners_open(const struct settings *s, struct host *host, struct problem *problem,
			  struct listeners *l)
{
	int fd, r = 0;

	if (s->listen)
		r = access_load(s->api_key, problem, &l->access);
	if (r == 0 && s->listen) {
		r = fd = listen_tcp(s->listen, problem);
		if (fd >= 0)
			r = server_new(host, fd, l->access, problem, &l->tcp);
	}
	if (r < 0)
		return r;
	fd = fd_unix_listen(s->socket, SOCK_STREAM, 0600);
	r = fd < 0 ? fd : server_new(host, fd, NULL, problem, &l->local);
	if (r < 0)
		problem_errno(problem, r, "listening on %s", s->socket);
	return r;
}

/*
 * A daemon of a hundred sandboxes stays small: one heap for all its threads, which come and go;
 * what a burst of work took is given back; and buffers have pages of their own, of which those that
 * were never filled take no memory (two of 16 KiB for each sandbox's channel). Nothing here
 * allocates so often that threads would wait for each other.
 */
static void keep_small(void)
{
	(void)mallopt(M_ARENA_MAX, 1); /* all of them only fail for wrong arguments */
	(void)mallopt(M_TRIM_THRESHOLD, 128 << 10);
	(void)mallopt(M_MMAP_THRESHOLD, 16 << 10);
}

static int serve(const struct settings *s, int signals, struct problem *problem)
{
	struct signalfd_siginfo si;
	struct listeners l = {0};
	struct host *host = NULL;
	int r;

	r = host_new(&s->config, problem, &host);
	if (r < 0)
		return r;
	r = listeners_open(s, host, problem, &l);
	if (r < 0) {
		listeners_close(&l);
		host_free(host, false);
		return r;
	}
	log_info("listening on %s%s%s", s->socket, s->listen ? " and " : "", s->listen ?: "");
	while (fd_read_full(signals, &si, sizeof(si)) < 0)
		;
	log_info("ending on signal %u; sandboxes go on running", si.ssi_signo);
	(void)unlink(s->socket); /* new clients are told at once */
	host_begin_stop(host);
	listeners_close(&l);
	host_free(host, true);
	return 0;
}

int main(int argc, char **argv)
{
	struct settings s = {.config = HOST_CONFIG_DEFAULT};
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	struct problem problem = PROBLEM_INIT;
	_cleanup_free_ char *socket = NULL;
	_cleanup_fd_ int signals = -1;
	int r;

	s.config.root = "/var/lib/dormouse";
	s.config.run_dir = "/run/dormouse";
	s.config.guest_cache = "/var/cache/dormouse";
	s.config.libexec = s.libexec;
	r = parse(argc, argv, &s);
	if (r >= 0)
		return r;
	if (s.doctor)
		return print_doctor(s.config.root);
	log_init("dormd", LOG_LEVEL_INFO);
	keep_small();
	if (load_keys(&s, &problem, &keys) < 0)
		return complain(&problem);
	s.config.keys = keys;
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
