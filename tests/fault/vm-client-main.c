/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm-client - a VM without a VM: takes memory from a pager, touches it, and checks every page
 *
 *     vm-client --control SOCKET --session NAME --image DIR --content SEED:... --pages N
 * [OPTION]...
 *
 * Prints one JSON object per line: first {"attached": ...} when the memory is handed over, then one
 * for each thing it was told to do. Without --commands that is: touch as the options say, compare
 * all pages, print statistics, end. With it, lines of standard input are obeyed until it closes:
 *
 *     touch [TRACE [TOUCHES]]    compare    stats    quit
 *
 * Exit status: 0 all pages were right; 1 some were not, or something failed (the last line has
 * "error").
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "oracle.h"
#include "sys/uffd.h"
#include "touch.h"
#include "vm-client.h"

#define STUCK_NS (30ull * 1000000000)

struct arguments {
	struct vm_client_options vm;
	struct touch_options touch;
	struct oracle content;
	struct keyring *keys;
	unsigned timeout_s;
	bool commands, chaos, compare, hold;
};

static struct touch *the_touch; /* for the watchdog */
static bool chaos_ends;		/* atomic */

static void say(json_t *consume)
{
	char *text = json_dumps(consume, JSON_COMPACT);

	(void)printf("%s\n", text ? text : "{\"error\":\"no memory\"}");
	(void)fflush(stdout);
	free(text);
	json_decref(consume);
}

static int give_up(int r, const struct problem *problem)
{
	say(json_pack("{s:s}", "error", problem_is_set(problem) ? problem->message : strerror(-r)));
	return 1;
}

/* A page that never comes would otherwise look like a slow test. */
static void too_late(int sig)
{
	uint64_t gfn = the_touch ? touch_stuck(the_touch, 1000000000) : UINT64_MAX;
	char text[160];
	int n = snprintf(text, sizeof(text), "{\"error\":\"out of time\",\"stuck_gfn\":%lld}\n",
			 (long long)gfn);

	(void)!write(STDOUT_FILENO, text, (size_t)n);
	_exit(1);
}

/*
 * Mappings that change while pages are being installed: UFFDIO_COPY then answers EAGAIN. None of
 * them is guest memory.
 */
static void *make_chaos(void *arg)
{
	const size_t len = 64 * DORM_PAGE_SIZE;

	while (!__atomic_load_n(&chaos_ends, __ATOMIC_RELAXED)) {
		uint8_t *moved, *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			break;
		p[0] = p[len / 2] = 1;
		(void)mprotect(p, len / 2, PROT_READ);
		(void)madvise(p + len / 2, len / 2, MADV_DONTNEED);
		moved = mremap(p + len / 2, len / 2, len, MREMAP_MAYMOVE);
		if (moved != MAP_FAILED)
			(void)munmap(moved, len);
		(void)munmap(p, moved == MAP_FAILED ? len : len / 2);
		(void)usleep(20);
	}
	return NULL;
}

/* ---- what it does -----------------------------------------------------------------------------
 */

static int do_touch(struct touch *t, const struct touch_options *o)
{
	struct touch_result r = {0};
	int e = touch_run(t, o, &r);

	if (e < 0) {
		say(json_pack("{s:s}", "error", strerror(-e)));
		return 1;
	}
	say(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "did", "touch", "touches",
		      (json_int_t)r.touches, "checked", (json_int_t)r.checked, "wrong",
		      (json_int_t)r.wrong, "wrong_gfn", (json_int_t)(r.wrong ? r.wrong_gfn : 0),
		      "written", (json_int_t)r.written, "removed", (json_int_t)r.removed, "seconds",
		      (double)r.seconds_ns / 1e9, "latency", r.latency));
	return r.wrong ? 1 : 0;
}

static int do_compare(struct touch *t, const struct arguments *a)
{
	uint64_t gfn = 0, start = clock_now_ns(), wrong = touch_compare(t, a->touch.seed, &gfn);

	say(json_pack("{s:s, s:I, s:I, s:I, s:f}", "did", "compare", "pages",
		      (json_int_t)a->vm.n_pages, "wrong", (json_int_t)wrong, "wrong_gfn",
		      (json_int_t)gfn, "seconds", (double)(clock_now_ns() - start) / 1e9));
	return wrong ? 1 : 0;
}

static int do_stats(const struct arguments *a)
{
	json_t *stats = NULL;

	if (a->vm.control)
		stats = vm_client_stats(a->vm.control, a->vm.session);
	say(json_pack("{s:s, s:o}", "did", "stats", "stats", stats ? stats : json_null()));
	return 0;
}

static int obey(struct touch *t, const struct arguments *a, char *line)
{
	struct touch_options o = a->touch;
	char *rest = line, *word = strsep(&rest, " "), *trace, *number;

	if (!strcmp(word, "compare"))
		return do_compare(t, a);
	if (!strcmp(word, "stats"))
		return do_stats(a);
	if (strcmp(word, "touch") != 0) {
		say(json_pack("{s:s}", "error", "not a command"));
		return 1;
	}
	trace = strsep(&rest, " ");
	number = strsep(&rest, " ");
	if (trace)
		o.trace = trace;
	if (number)
		o.n_touches = strtoull(number, NULL, 10);
	return do_touch(t, &o);
}

static int obey_all(struct touch *t, const struct arguments *a)
{
	char line[512];
	int status = 0;

	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "quit"))
			break;
		status |= obey(t, a, line);
	}
	return status;
}

static int work(struct vm_client *c, const struct arguments *a)
{
	struct touch *t = touch_new(c, &a->content);
	pthread_t chaos;
	int status = 0, c_e = a->chaos ? pthread_create(&chaos, NULL, make_chaos, NULL) : -1;

	if (!t)
		return 1;
	the_touch = t;
	if (a->commands) {
		status = obey_all(t, a);
	} else {
		if (a->touch.n_touches || a->touch.seconds > 0)
			status = do_touch(t, &a->touch);
		if (a->compare)
			status |= do_compare(t, a);
		status |= do_stats(a);
		while (a->hold && getchar() != EOF)
			;
	}
	__atomic_store_n(&chaos_ends, true, __ATOMIC_RELAXED);
	if (c_e == 0)
		pthread_join(chaos, NULL);
	the_touch = NULL;
	touch_free(t);
	return status;
}

static int be_a_vm(const struct arguments *a)
{
	struct problem problem = PROBLEM_INIT;
	struct vm_client c;
	int status, r = vm_client_attach(&a->vm, &problem, &c);

	if (r)
		return give_up(r, &problem);
	say(json_pack("{s:b, s:s, s:i, s:i, s:O*}", "attached", 1, "mode", c.mode, "regions",
		      (int)c.n_regions, "pid", (int)getpid(), "reply", c.opened));
	status = work(&c, a);
	vm_client_detach(&c);
	return status;
}

/* ---- arguments --------------------------------------------------------------------------------
 */

enum {
	OPT_CONTROL = 256,
	OPT_LISTENER,
	OPT_SESSION,
	OPT_IMAGE,
	OPT_CONTENT,
	OPT_PAGES,
	OPT_KEY,
	OPT_MODE,
	OPT_LOAD,
	OPT_NO_PREFETCH,
	OPT_PRIVATE,
	OPT_REMOVE_EVENTS,
	OPT_WRONG_MEMORY,
	OPT_REGIONS,
	OPT_PAGE_SIZE_KIB,
	OPT_TRACE,
	OPT_TOUCHES,
	OPT_SECONDS,
	OPT_RATE,
	OPT_THREADS,
	OPT_OWNED,
	OPT_WRITE,
	OPT_REMOVE,
	OPT_KEEP_CHECKING,
	OPT_NO_CHECK,
	OPT_NO_COMPARE,
	OPT_CHAOS,
	OPT_COMMANDS,
	OPT_HOLD,
	OPT_SEED,
	OPT_TIMEOUT,
};

static const struct option options[] = {
	{"control", required_argument, NULL, OPT_CONTROL},
	{"listener", required_argument, NULL, OPT_LISTENER},
	{"session", required_argument, NULL, OPT_SESSION},
	{"image", required_argument, NULL, OPT_IMAGE},
	{"content", required_argument, NULL, OPT_CONTENT},
	{"pages", required_argument, NULL, OPT_PAGES},
	{"key", required_argument, NULL, OPT_KEY},
	{"mode", required_argument, NULL, OPT_MODE},
	{"load", required_argument, NULL, OPT_LOAD},
	{"no-prefetch", no_argument, NULL, OPT_NO_PREFETCH},
	{"private", no_argument, NULL, OPT_PRIVATE},
	{"remove-events", no_argument, NULL, OPT_REMOVE_EVENTS},
	{"wrong-memory", no_argument, NULL, OPT_WRONG_MEMORY},
	{"regions", required_argument, NULL, OPT_REGIONS},
	{"page-size-kib", no_argument, NULL, OPT_PAGE_SIZE_KIB},
	{"trace", required_argument, NULL, OPT_TRACE},
	{"touches", required_argument, NULL, OPT_TOUCHES},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"rate", required_argument, NULL, OPT_RATE},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"owned", required_argument, NULL, OPT_OWNED},
	{"write", required_argument, NULL, OPT_WRITE},
	{"remove", required_argument, NULL, OPT_REMOVE},
	{"keep-checking", no_argument, NULL, OPT_KEEP_CHECKING},
	{"no-check", no_argument, NULL, OPT_NO_CHECK},
	{"no-compare", no_argument, NULL, OPT_NO_COMPARE},
	{"chaos", no_argument, NULL, OPT_CHAOS},
	{"commands", no_argument, NULL, OPT_COMMANDS},
	{"hold", no_argument, NULL, OPT_HOLD},
	{"seed", required_argument, NULL, OPT_SEED},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{0},
};

static int add_key(struct arguments *a, const char *source)
{
	struct problem problem = PROBLEM_INIT;
	int r = a->keys ? 0 : keyring_new(&a->keys);

	if (r == 0)
		r = keyring_add(a->keys, source, &problem);
	if (r)
		fprintf(stderr, "vm-client: %s\n", problem.message);
	a->vm.keys = a->keys;
	return r;
}

/* Options of the session. Return: 1 it is none of them */
static int parse_session(int option, struct arguments *a)
{
	switch (option) {
	case OPT_CONTROL:
		a->vm.control = optarg;
		return 0;
	case OPT_LISTENER:
		a->vm.listener = optarg;
		return 0;
	case OPT_SESSION:
		a->vm.session = optarg;
		return 0;
	case OPT_IMAGE:
		a->vm.image = optarg;
		return 0;
	case OPT_CONTENT:
		return oracle_parse(optarg, &a->content);
	case OPT_PAGES:
		return str_to_u64(optarg, &a->vm.n_pages);
	case OPT_KEY:
		return add_key(a, optarg) ? -EINVAL : 0;
	case OPT_MODE:
		a->vm.mode = optarg;
		return 0;
	case OPT_LOAD:
		a->vm.load = optarg;
		return 0;
	case OPT_NO_PREFETCH:
		a->vm.prefetch = "no";
		return 0;
	case OPT_PRIVATE:
		a->vm.is_private = true;
		return 0;
	case OPT_REGIONS:
		a->vm.n_regions = (unsigned)atoi(optarg);
		return a->vm.n_regions > VM_CLIENT_MAX_REGIONS ? -EINVAL : 0;
	case OPT_PAGE_SIZE_KIB:
		a->vm.page_size_kib = true;
		return 0;
	case OPT_REMOVE_EVENTS:
		a->vm.features |= UFFD_FEATURE_EVENT_REMOVE;
		return 0;
	case OPT_WRONG_MEMORY:
		a->vm.wrong_memory = true;
		return 0;
	default:
		return 1;
	}
}

/* Options of the touches. Return: 1 it is none of them */
static int parse_touch(int option, struct touch_options *o)
{
	switch (option) {
	case OPT_TRACE:
		o->trace = optarg;
		return 0;
	case OPT_TOUCHES:
		return str_to_u64(optarg, &o->n_touches);
	case OPT_SECONDS:
		o->seconds = atof(optarg);
		return 0;
	case OPT_RATE:
		o->rate = atof(optarg);
		return 0;
	case OPT_THREADS:
		o->n_threads = (unsigned)atoi(optarg);
		return 0;
	case OPT_OWNED:
		o->owned_percent = (unsigned)atoi(optarg);
		return 0;
	case OPT_WRITE:
		o->write_percent = (unsigned)atoi(optarg);
		return 0;
	case OPT_REMOVE:
		o->remove_percent = (unsigned)atoi(optarg);
		return 0;
	case OPT_KEEP_CHECKING:
		o->keep_checking = true;
		return 0;
	case OPT_NO_CHECK:
		o->no_check = true;
		return 0;
	default:
		return 1;
	}
}

static int parse_one(int option, struct arguments *a)
{
	int r = parse_session(option, a);

	if (r <= 0)
		return r;
	r = parse_touch(option, &a->touch);
	if (r <= 0)
		return r;
	switch (option) {
	case OPT_NO_COMPARE:
		a->compare = false;
		break;
	case OPT_CHAOS:
		a->chaos = true;
		break;
	case OPT_COMMANDS:
		a->commands = true;
		break;
	case OPT_HOLD:
		a->hold = true;
		break;
	case OPT_SEED:
		a->vm.seed = a->touch.seed = strtoull(optarg, NULL, 10);
		break;
	case OPT_TIMEOUT:
		a->timeout_s = (unsigned)atoi(optarg);
		break;
	default:
		return -EINVAL;
	}
	return 0;
}

static bool parse(int argc, char **argv, struct arguments *a)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (parse_one(option, a) < 0) {
			fprintf(stderr, "vm-client: bad option %s\n", argv[optind - 1]);
			return false;
		}
	if (a->vm.n_pages && (a->vm.listener || (a->vm.control && a->vm.session)))
		return true;
	fprintf(stderr, "vm-client: --pages and --control with --session, or --listener\n");
	return false;
}

int main(int argc, char **argv)
{
	struct arguments a = {
		.touch = {.trace = "shuffled", .n_threads = 1}, .timeout_s = 120, .compare = true};
	int status;

	if (!parse(argc, argv, &a))
		return 2;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)signal(SIGALRM, too_late);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)alarm(a.timeout_s);
	status = be_a_vm(&a);
	keyring_free(a.keys);
	return status;
}
