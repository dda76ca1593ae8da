/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/arguments.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "pager/evict.h"

static const char usage[] =
	"Usage: dorm-pager --image DIR|FILE --listen SOCKET [OPTION]...\n"
	"       dorm-pager --socket PATH --run-dir DIR [OPTION]...\n"
	"       dorm-pager --query SOCKET metrics|stats|config\n"
	"Serve the page faults of virtual machines from snapshot images.\n"
	"\n"
	"Alone, for any Firecracker that is told to connect (mem_backend of type \"Uffd\"):\n"
	"  --image DIR|FILE     a snapshot directory, or a raw memory file, which must not change\n"
	"  --listen SOCKET      every connection there is a new VM of the image: vm-1, vm-2, ...\n"
	"                       (not needed with systemd socket activation)\n"
	"  --control SOCKET     answer requests for statistics there\n"
	"  --seal-key SOURCE    key of a sealed image: file:PATH, env:NAME, fd:N; may be repeated\n"
	"  --supervise=yes|no   stay behind as a parent that starts the pager again when it dies,\n"
	"                       and keeps what it needs to go on with its VMs: no privilege "
	"(yes)\n"
	"  --run-dir DIR        keep a journal there, so that the next start goes on with the VMs\n"
	"                       when parent and pager died, or were stopped: needs the right to\n"
	"                       trace the VMs (same user, or CAP_SYS_PTRACE); --take-back=yes "
	"alone\n"
	"                       means RUNTIME_DIRECTORY, else SOCKET.d\n"
	"\n"
	"For dormd:\n"
	"  --socket PATH        listen here for whoever opens sessions\n"
	"  --run-dir DIR        make the sockets for the virtual machines here\n"
	"  --takeover           ask the pager that is running to make room, and go on with its\n"
	"                       virtual machines\n"
	"  --adopt-ms MS        time for the owner of a virtual machine that was taken back to "
	"give\n"
	"                       its image again, if it cannot be opened from here (30000)\n"
	"  --no-userfaultfd     new sessions load everything before they start (also\n"
	"                       DORM_PAGER_UFFD=off)\n"
	"\n"
	"Both:\n"
	"  --threads N          threads that serve faults, 1 to 64 (default: 2 to 4)\n"
	"  --linger SECONDS     keep an image's memory so long after its last session (60)\n"
	"  --linger-images N    and so many of them at most (8)\n"
	"  --memory-limit SIZE  memory of all images together: 512M, 8G, 50% of the host's (none)\n"
	"  --image-limit SIZE   and of each (none)\n"
	"  --floor PERCENT      of an image's working set that stays in any case, 0 to 100 (25)\n"
	"  --no-pressure        do not evict when the host is short of memory\n"
	"  --handshake-ms MS    time for a virtual machine to hand over its memory (10000)\n"
	"  --no-prefetch        do not load working sets (also DORM_PAGER_PREFETCH=off)\n"
	"  --seccomp=enforce|log|off\n"
	"                       a system call that is not on the list: die; name it, and die; "
	"allow\n"
	"                       (enforce, or what DORM_PAGER_SECCOMP says)\n"
	"  --take-back=yes|no   keep the right to take VMs back with the journal: CAP_SYS_PTRACE,\n"
	"                       CAP_CHECKPOINT_RESTORE (yes for dormd and with --run-dir, else "
	"no)\n"
	"  --ready-fd N         write one byte there when listening\n"
	"  --help, --version\n"
	"\n"
	"Example, for a snapshot that Firecracker made:\n"
	"  dorm-pager --image snapshot.mem --listen /run/pager.sock\n"
	"  curl --unix-socket /run/firecracker.sock -X PUT http://localhost/snapshot/load -d\n"
	"    '{\"snapshot_path\": \"snapshot.state\", \"resume_vm\": true, \"mem_backend\":\n"
	"      {\"backend_type\": \"Uffd\", \"backend_path\": \"/run/pager.sock\"}}'\n"
	"\n"
	"Exit status: 0 ended by a signal or by request; 1 could not start or go on; 2 bad "
	"usage.\n";

enum {
	OPT_SOCKET = 256,
	OPT_RUN_DIR,
	OPT_IMAGE,
	OPT_LISTEN,
	OPT_CONTROL,
	OPT_SEAL_KEY,
	OPT_SUPERVISE,
	OPT_THREADS,
	OPT_LINGER,
	OPT_LINGER_IMAGES,
	OPT_MEMORY_LIMIT,
	OPT_IMAGE_LIMIT,
	OPT_FLOOR,
	OPT_NO_PRESSURE,
	OPT_HANDSHAKE_MS,
	OPT_NO_USERFAULTFD,
	OPT_NO_PREFETCH,
	OPT_SECCOMP,
	OPT_TAKE_BACK,
	OPT_TAKEOVER,
	OPT_ADOPT_MS,
	OPT_READY_FD,
	OPT_HELP,
	OPT_VERSION
};

static const struct option options[] = {
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"run-dir", required_argument, NULL, OPT_RUN_DIR},
	{"image", required_argument, NULL, OPT_IMAGE},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"control", required_argument, NULL, OPT_CONTROL},
	{"seal-key", required_argument, NULL, OPT_SEAL_KEY},
	{"supervise", required_argument, NULL, OPT_SUPERVISE},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"linger", required_argument, NULL, OPT_LINGER},
	{"linger-images", required_argument, NULL, OPT_LINGER_IMAGES},
	{"memory-limit", required_argument, NULL, OPT_MEMORY_LIMIT},
	{"image-limit", required_argument, NULL, OPT_IMAGE_LIMIT},
	{"floor", required_argument, NULL, OPT_FLOOR},
	{"no-pressure", no_argument, NULL, OPT_NO_PRESSURE},
	{"handshake-ms", required_argument, NULL, OPT_HANDSHAKE_MS},
	{"no-userfaultfd", no_argument, NULL, OPT_NO_USERFAULTFD},
	{"no-prefetch", no_argument, NULL, OPT_NO_PREFETCH},
	{"seccomp", required_argument, NULL, OPT_SECCOMP},
	{"take-back", required_argument, NULL, OPT_TAKE_BACK},
	{"takeover", no_argument, NULL, OPT_TAKEOVER},
	{"adopt-ms", required_argument, NULL, OPT_ADOPT_MS},
	{"ready-fd", required_argument, NULL, OPT_READY_FD},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

/* What was said, where the default depends on the rest. */
struct said {
	const char *socket;
	const char *control;
	int supervise; /* -1: nothing */
	int take_back;
};

#define complain(...)                                                                              \
	(fprintf(stderr, "dorm-pager: " __VA_ARGS__), fputs("; see --help\n", stderr), -EINVAL)

static int number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v;

	if (str_to_u64(text, &v) < 0 || v < min || v > max)
		return complain("\"%s\" is not a number from %llu to %llu", text,
				(unsigned long long)min, (unsigned long long)max);
	*ret = v;
	return 0;
}

static int yes_or_no(const char *option, const char *text, int *ret)
{
	if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0)
		return complain("--%s is yes or no, not \"%s\"", option, text);
	*ret = text[0] == 'y';
	return 0;
}

static int seccomp(const char *from, const char *text, struct arguments *a)
{
	if (isolate_seccomp_parse(text, &a->isolate.seccomp) < 0)
		return complain("%s is enforce, log or off, not \"%s\"", from, text);
	return 0;
}

static int seal_key(const char *source, struct arguments *a)
{
	if (a->n_seal_keys == KEYRING_MAX_KEYS)
		return complain("--seal-key: more than %d keys", KEYRING_MAX_KEYS);
	a->seal_keys[a->n_seal_keys++] = source;
	return 0;
}

static int limit(const char *text, uint64_t *ret)
{
	if (evict_parse(text, ret) < 0)
		return complain("\"%s\" is not a limit: 0, or at least 1M, or 1%% to 100%%", text);
	return 0;
}

static int parse_number(int option, struct arguments *a)
{
	uint64_t v = 0;
	int r;

	switch (option) {
	case OPT_THREADS:
		r = number(optarg, 1, 64, &v);
		a->pager.n_threads = (unsigned)v;
		return r;
	case OPT_LINGER:
		r = number(optarg, 0, 1000000, &v);
		a->pager.linger_ns = v * NSEC_PER_SEC;
		return r;
	case OPT_LINGER_IMAGES:
		r = number(optarg, 0, 100000, &v);
		a->pager.max_lingering = (uint32_t)v;
		return r;
	case OPT_MEMORY_LIMIT:
		return limit(optarg, &a->pager.memory_limit);
	case OPT_IMAGE_LIMIT:
		return limit(optarg, &a->pager.image_limit);
	case OPT_FLOOR:
		r = number(optarg, 0, 100, &v);
		a->pager.floor_percent = (unsigned)v;
		return r;
	case OPT_HANDSHAKE_MS:
		r = number(optarg, 1, 3600000, &v);
		a->control.handshake_ms = (unsigned)v;
		return r;
	case OPT_ADOPT_MS:
		r = number(optarg, 1, 3600000, &v);
		a->control.adopt_ms = (unsigned)v;
		return r;
	case OPT_READY_FD:
		r = number(optarg, 0, 1000000, &v);
		a->ready_fd = (int)v;
		return r;
	default: /* getopt_long() has said what is wrong */
		fputs("dorm-pager: see --help\n", stderr);
		return -EINVAL;
	}
}

static int parse_one(int option, struct arguments *a, struct said *said)
{
	switch (option) {
	case OPT_SOCKET:
		said->socket = optarg;
		return 0;
	case OPT_CONTROL:
		said->control = optarg;
		return 0;
	case OPT_RUN_DIR:
		a->control.run_dir = optarg;
		return 0;
	case OPT_IMAGE:
		a->image = optarg;
		return 0;
	case OPT_LISTEN:
		a->listen = optarg;
		return 0;
	case OPT_SEAL_KEY:
		return seal_key(optarg, a);
	case OPT_SUPERVISE:
		return yes_or_no("supervise", optarg, &said->supervise);
	case OPT_TAKE_BACK:
		return yes_or_no("take-back", optarg, &said->take_back);
	case OPT_TAKEOVER:
		a->control.takeover = true;
		return 0;
	case OPT_NO_USERFAULTFD:
		a->pager.no_userfaultfd = true;
		return 0;
	case OPT_NO_PRESSURE:
		a->pager.no_pressure = true;
		return 0;
	case OPT_NO_PREFETCH:
		a->pager.no_prefetch = true;
		return 0;
	case OPT_SECCOMP:
		return seccomp("--seccomp", optarg, a);
	default:
		return parse_number(option, a);
	}
}

/* Options of the other way to run it are refused: they would silently do nothing. */
static int check(struct arguments *a, const struct said *said)
{
	bool alone = a->image != NULL;

	if (!alone && (!said->socket || !a->control.run_dir))
		return complain("--image, or --socket and --run-dir are needed");
	if (alone && said->socket)
		return complain("--socket does not go with --image: a pager serves one image "
				"alone, or what dormd opens (for statistics there is --control)");
	if (alone && a->control.run_dir && said->take_back == 0)
		return complain("--run-dir is for taking back, which --take-back=no forbids");
	if (alone && (a->control.takeover || a->control.adopt_ms))
		return complain("--takeover and --adopt-ms go with --socket and --run-dir only");
	if (!alone && (a->listen || said->control || a->n_seal_keys || said->supervise == 1))
		return complain("--listen, --control, --seal-key and --supervise=yes go with "
				"--image only");
	if (alone && !a->listen && !getenv("LISTEN_FDS"))
		return complain("--listen is needed (or a socket from the service manager)");
	if (alone && a->pager.no_userfaultfd)
		return complain(
			"--no-userfaultfd does not go with --image: Firecracker brings one");
	if (a->listen && said->control && !strcmp(a->listen, said->control))
		return complain("--listen and --control must be different sockets");
	return 0;
}

/* Where the journal is: as was said, else where the service manager says, else beside the socket.
 */
static int alone_dir(struct arguments *a)
{
	const char *given = getenv("RUNTIME_DIRECTORY");
	int n;

	if (a->control.run_dir)
		n = snprintf(a->run_dir, sizeof(a->run_dir), "%s", a->control.run_dir);
	else if (given && given[0]) /* the first, if there are several */
		n = snprintf(a->run_dir, sizeof(a->run_dir), "%.*s", (int)strcspn(given, ":"),
			     given);
	else if (a->listen)
		n = snprintf(a->run_dir, sizeof(a->run_dir), "%s.d", a->listen);
	else
		return complain("--take-back=yes needs a directory: --run-dir");
	if (n <= 0 || (size_t)n >= sizeof(a->run_dir))
		return complain("--run-dir is empty, or too long");
	a->control.run_dir = NULL;
	return 0;
}

static bool is_off(const char *variable)
{
	const char *value = getenv(variable);

	return value && !strcmp(value, "off");
}

int arguments_parse(int argc, char **argv, struct arguments *ret)
{
	struct arguments a = {.pager = {.linger_ns = 60 * NSEC_PER_SEC,
					.max_lingering = 8,
					.slate_dirfd = -1,
					.floor_percent = EVICT_FLOOR},
			      .control = {.handshake_ms = 10000, .listener = -1, .keeper_sock = -1},
			      .ready_fd = -1};
	struct said said = {.supervise = -1, .take_back = -1};
	const char *env = getenv("DORM_PAGER_SECCOMP");
	int option, r;

	r = env ? seccomp("DORM_PAGER_SECCOMP", env, &a) : 0;
	a.pager.no_userfaultfd = is_off("DORM_PAGER_UFFD");
	a.pager.no_prefetch = is_off("DORM_PAGER_PREFETCH");
	while (r == 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPT_HELP || option == OPT_VERSION) {
			fputs(option == OPT_HELP ? usage : "dorm-pager " DORM_VERSION "\n", stdout);
			return 1;
		}
		r = parse_one(option, &a, &said);
	}
	if (r == 0 && optind != argc)
		r = complain("\"%s\" is not an option", argv[optind]);
	if (r == 0)
		r = check(&a, &said);
	if (r < 0)
		return r;
	if (a.image && (a.control.run_dir || said.take_back == 1)) {
		said.take_back = 1;
		r = alone_dir(&a);
		if (r < 0)
			return r;
	}
	a.control.socket_path = a.image ? said.control : said.socket;
	a.supervise = a.image && said.supervise != 0;
	a.isolate.take_back = said.take_back >= 0 ? said.take_back : !a.image;
	*ret = a;
	return 0;
}
