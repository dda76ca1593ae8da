/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormd - the daemon: start, stop
 *
 * It may be killed at any moment: sandboxes and the pager are processes of their own, and the next
 * dormd on the same store adopts them. SIGTERM and SIGINT end it in good order, with the same
 * effect.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/listeners.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "daemon/notify.h"
#include "daemon/settings.h"
#include "sandbox/op.h"

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
	int r = s->seal_keys.n ? keyring_new(&keys) : 0;

	for (unsigned i = 0; r == 0 && i < s->seal_keys.n; i++) {
		r = keyring_add(keys, s->seal_keys.item[i], problem);
		if (r < 0)
			problem_errno(problem, r, "--seal-key %s", s->seal_keys.item[i]);
	}
	if (r < 0) {
		problem_errno(problem, r, "keeping keys");
		return error_trace(r);
	}
	*ret = take_ptr(keys);
	return 0;
}

/* Takes @o; NULL without memory. Return: an exit status */
static int print_json(json_t *o)
{
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
	sigaddset(&set, SIGHUP);
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

static void reload(struct listeners *l, const struct notify *notify)
{
	struct problem p = PROBLEM_INIT;

	notify_send_reloading(notify);
	if (listeners_reload(l, &p) < 0)
		log_error("the certificate stays as it was: %s", p.message);
	else
		log_info("read the certificate again");
	notify_send(notify, "READY=1");
}

/* Until a signal ends it. Meanwhile the manager hears, if it asked, that this process is not stuck;
 * if it is, the manager starts another, which adopts the sandboxes. */
static unsigned await_end(struct listeners *l, int signals, struct host *host,
			  const struct notify *notify)
{
	struct signalfd_siginfo si;

	for (;;) {
		uint64_t deadline = notify->watchdog_ms ? deadline_after_ms(notify->watchdog_ms)
							: DEADLINE_NEVER;
		int r = fd_poll(signals, POLLIN, deadline);

		if (r > 0 && fd_read_full(signals, &si, sizeof(si)) == 0) {
			if (si.ssi_signo != SIGHUP)
				return si.ssi_signo;
			reload(l, notify);
		}
		if (notify->watchdog_ms && host_is_alive(host))
			notify_send(notify, "WATCHDOG=1");
	}
}

static int serve(struct settings *s, int signals, const struct notify *notify,
		 struct problem *problem)
{
	int handed = notify_take_socket();
	struct listeners *l = NULL;
	struct host *host = NULL;
	unsigned number;
	int r;

	if (handed < -1) {
		problem_set(problem, 500,
			    "the service manager must hand over one listening unix "
			    "socket, or none");
		return handed;
	}
	s->listeners.handed_fd = handed > 0 ? handed : 0;
	r = host_new(&s->config, problem, &host);
	if (r < 0)
		return r;
	r = listeners_open(&s->listeners, host, problem, &l);
	if (r < 0) {
		host_free(host, true); /* the pager is of no use to anybody, or has sandboxes */
		return r;
	}
	log_info("listening on %s", s->listeners.socket);
	notify_send(notify, "READY=1\nSTATUS=serving");
	number = await_end(l, signals, host, notify);
	log_info("ending on signal %u; sandboxes go on running", number);
	notify_send(notify, "STOPPING=1\nSTATUS=ending; sandboxes go on running");
	if (handed < 0)
		(void)unlink(s->listeners.socket); /* new clients are told at once */
	host_begin_stop(host);
	listeners_close(l);
	host_free(host, true);
	return 0;
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

static int run(struct settings *s)
{
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int signals = -1;
	struct notify notify;
	int r;

	notify_init(&notify);
	log_init("dormd", LOG_LEVEL_INFO);
	keep_small();
	if (load_keys(s, &problem, &keys) < 0)
		return complain(&problem);
	s->config.keys = keys;
	signals = block_signals();
	raise_limits();
	r = signals >= 0 ? serve(s, signals, &notify, &problem) : signals;
	if (r < 0) {
		problem_errno(&problem, r, "starting");
		return complain(&problem);
	}
	return 0;
}

/* What is printed instead of serving. Return: false: nothing is */
static bool print_instead(const struct settings *s, int *ret_status)
{
	*ret_status = 0;
	if (s->help)
		settings_print_help(stdout);
	else if (s->version)
		puts("dormd " DORM_VERSION);
	else if (s->describe)
		settings_describe(s->describe, stdout);
	else if (s->check_config)
		printf("%s: the configuration is right\n", s->file ?: "no file");
	else if (s->print_config)
		settings_print_values(s, stdout);
	else if (s->doctor)
		*ret_status = print_json(host_doctor(s->config.root, s->config.libexec));
	else
		return false;
	return true;
}

int main(int argc, char **argv)
{
	struct settings s;
	int r, status = 1;

	if (argc == 2 && !strcmp(argv[1], "--fault-table")) /* for tools/lifecycle-table and tests */
		return print_json(op_points_describe());
	r = settings_init(&s);
	r = r ?: settings_load(&s, argc, argv);
	if (r > 0)
		status = r;
	else if (r < 0)
		fprintf(stderr, "dormd: %s\n", strerrordesc_np(-r));
	else if (!print_instead(&s, &status))
		status = run(&s);
	settings_free(&s);
	return status;
}
