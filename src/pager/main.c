/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm-pager - serve the page faults of virtual machines from snapshot images
 *
 * The start, in an order that matters:
 *
 *   1. isolate_begin(), then keys: before anything else could take a key's descriptor for its own
 *   2. everything that needs a privilege is opened: image, sockets, /dev/userfaultfd
 *   3. isolate_opened(): the privileges go
 *   4. supervise_run(): from here on there is a worker, which has all of that by inheritance
 *   5. isolate_serve(): the filter of system calls; then threads, then whoever wants something
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "pager/activation.h"
#include "pager/alone.h"
#include "pager/arguments.h"
#include "pager/evict.h"
#include "pager/query.h"
#include "pager/supervise.h"
#include "sys/uffd.h"

#define WANTED_FILES 65536u

/* What is open before the privileges go. */
struct opened {
	struct image *image;
	int listeners[ALONE_MAX_LISTENERS];
	size_t n_listeners;
	int lock;
	bool own_socket; /* --listen made it: it is removed at the end */
};

static void opened_deinit(struct opened *o)
{
	image_unref(o->image);
	for (size_t i = 0; i < o->n_listeners; i++)
		fd_close(o->listeners[i]);
	fd_close(o->lock);
}

/* Each session costs five descriptors, each image two and one per layer. */
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

static int load_keys(const struct arguments *a, struct problem *problem, struct keyring **ret)
{
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	int r = a->n_seal_keys ? keyring_new(&keys) : 0;

	for (unsigned i = 0; r == 0 && i < a->n_seal_keys; i++) {
		r = keyring_add(keys, a->seal_keys[i], problem);
		if (r < 0)
			problem_errno(problem, r, "--seal-key %s", a->seal_keys[i]);
	}
	if (r == 0)
		*ret = take_ptr(keys);
	return r;
}

/* Sockets of the service manager: "control" is the control socket, all others let VMs in. */
static int take_sockets(struct arguments *a, struct opened *o, struct problem *problem)
{
	struct activation given = {0};
	int r = activation_take(&given, problem);

	for (size_t i = 0; r == 0 && i < given.n; i++) {
		bool control = !strcmp(given.sockets[i].name, "control");

		r = activation_check(given.sockets[i].fd, control ? SOCK_SEQPACKET : SOCK_STREAM,
				     given.sockets[i].name, problem);
		if (r == 0 && control)
			a->control.listener = given.sockets[i].fd;
		else if (r == 0 && o->n_listeners < ALONE_MAX_LISTENERS)
			o->listeners[o->n_listeners++] = given.sockets[i].fd;
	}
	return r;
}

static int open_alone(struct arguments *a, struct opened *o, struct problem *problem)
{
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	int r = take_sockets(a, o, problem);

	if (r == 0)
		r = load_keys(a, problem, &keys);
	if (r == 0)
		r = alone_open_image(a->image, keys, problem, &o->image);
	if (r == 0 && a->listen && o->n_listeners < ALONE_MAX_LISTENERS) {
		r = alone_listen(a->listen, problem, &o->listeners[o->n_listeners], &o->lock);
		o->own_socket = r == 0;
		o->n_listeners += r == 0;
	}
	if (r == 0 && o->n_listeners == 0) {
		problem_set(problem, 400, "the service manager gave no socket for VMs");
		problem_hint(problem, "give --listen, or a ListenStream= in the socket unit");
		return -EINVAL;
	}
	return r;
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

static void say_ready(int fd, bool again)
{
	if (fd < 0)
		return;
	if (fd_write_full(fd, "\n", 1) < 0 && !again)
		log_warn("nobody listens on --ready-fd %d", fd);
	fd_close(fd);
}

static void say_what(const struct arguments *a, const struct pager *p, const struct image *image)
{
	if (!image)
		log_info("listening on %s, %u threads", a->control.socket_path,
			 p->options.n_threads);
	else
		log_info("serving %s, image=%s, %llu MiB%s, %u threads", a->image, image_id(image),
			 (unsigned long long)image_n_pages(image) >> 8,
			 image_is_raw(image) ? ", which has no checksums: not verified" : "",
			 p->options.n_threads);
}

static int serve(const struct arguments *a, const struct opened *o, bool again,
		 struct problem *problem)
{
	struct alone_options alone = {.image = o->image,
				      .listeners = o->listeners,
				      .n_listeners = o->n_listeners,
				      .handshake_ms = a->control.handshake_ms};
	struct control_options control = a->control;
	_cleanup_(pager_freep) struct pager *p = NULL;
	_cleanup_(control_freep) struct control *c = NULL;
	_cleanup_fd_ int signal_fd = block_signals();
	int r = signal_fd < 0 ? signal_fd : isolate_serve(&a->isolate, problem);

	if (o->image)
		control.alone = &alone;
	if (r == 0)
		r = pager_new(&a->pager, &p);
	if (r == 0)
		r = control_new(p, &control, signal_fd, problem, &c);
	if (r)
		return r;
	say_ready(a->ready_fd, again);
	say_what(a, p, o->image);
	log_info("memory limit %llu MiB, of one image %llu MiB (0: none); pressure: %s",
		 (unsigned long long)(a->pager.memory_limit >> 20),
		 (unsigned long long)(a->pager.image_limit >> 20), evict_pressure_text(p));
	r = control_run(c);
	log_info("ending");
	return r;
}

/* Return: the status to exit with; negative errno */
static int run(struct arguments *a, struct opened *o, struct problem *problem)
{
	struct supervise_worker worker = {.keeper_sock = -1};
	int status = 0, r = isolate_begin(problem);

	if (r == 0 && a->image)
		r = open_alone(a, o, problem);
	if (r)
		return r;
	raise_file_limit();
	uffd_keep_device();
	r = isolate_opened(&a->isolate, problem);
	if (r == 0 && a->supervise) {
		r = supervise_run(&(struct supervise_options){0}, &worker, &status);
		if (r <= 0) {
			if (o->own_socket)
				(void)unlink(a->listen); /* gone already: as good */
			return r < 0 ? r : status;
		}
		r = 0;
	}
	a->control.keeper_sock = worker.keeper_sock;
	a->control.alone_dir = a->run_dir[0] ? a->run_dir : NULL;
	if (r == 0)
		r = serve(a, o, worker.generation > 0, problem);
	if (!a->supervise && o->own_socket)
		(void)unlink(a->listen);
	return r;
}

int main(int argc, char **argv)
{
	struct arguments a;
	struct opened opened = {.lock = -1};
	struct problem problem = PROBLEM_INIT;
	int r;

	if (argc == 4 && !strcmp(argv[1], "--query"))
		return query_run(argv[2], argv[3]);
	r = arguments_parse(argc, argv, &a);
	if (r)
		return r > 0 ? 0 : 2;
	log_init("dorm-pager", LOG_LEVEL_INFO);
	r = run(&a, &opened, &problem);
	if (r == 0 || (r > 0 && !problem_is_set(&problem))) {
		opened_deinit(&opened);
		return r;
	}
	problem_errno(&problem, r, "cannot go on");
	log_error("%s%s%s", problem.message, problem.hint[0] ? "; " : "", problem.hint);
	opened_deinit(&opened);
	return 1;
}
