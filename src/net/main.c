/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm-net: the network of one sandbox. Stands between its VM and a passt that it starts.
 *
 *     dorm-net --vm FD --control FD --passt PROGRAM [--no-ipv6]
 *
 * --vm is a connection to the VM's network device, --control a listening socket (control.h). It
 * ends when either the VM or passt does, and passt ends with it: whoever started it starts another.
 * docs/network.md has the whole picture.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "net/control.h"
#include "net/isolate.h"
#include "sys/spawn.h"

#define PASST_MAX_WORDS	 40
#define PASST_OUTPUT_MAX 8192 /* of what passt says, that much is passed on */

struct options {
	int vm_fd, control_fd;
	const char *passt;
	bool no_ipv6;
};

struct passt {
	int fd;	    /* frames */
	int output; /* what it says, -1 at its end */
	int pidfd;
	size_t n_output;
};

static void passt_words(const struct options *o, const char *words[PASST_MAX_WORDS])
{
	static const char *const fixed[] = {"--foreground",
					    "--quiet",
					    "--stderr",
					    "--fd",
					    "3",
					    "--tcp-ports",
					    "none",
					    "--udp-ports",
					    "none",
					    "--mac-addr",
					    NET_GATEWAY_MAC,
					    "--no-map-gw",
					    "--dns-forward",
					    NET_RESOLVER_V4,
					    "--address",
					    NET_GUEST_V4,
					    "--netmask",
					    "24",
					    "--gateway",
					    NET_GATEWAY_V4,
					    "--mtu",
					    "1500",
					    "--search",
					    "none"};
	static const char *const v6[] = {"--address", NET_GUEST_V6, "--gateway", NET_GATEWAY_V6};
	size_t n = 0;

	words[n++] = o->passt;
	for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
		words[n++] = fixed[i];
	for (size_t i = 0; !o->no_ipv6 && i < ARRAY_SIZE(v6); i++)
		words[n++] = v6[i];
	if (o->no_ipv6)
		words[n++] = "--ipv4-only";
	words[n] = NULL;
}

static int passt_start(const struct options *o, struct passt *ret)
{
	_cleanup_fd_ int ours = -1, theirs = -1, out_r = -1, out_w = -1;
	const char *words[PASST_MAX_WORDS];
	int pair[2], pipes[2], r;
	struct spawn_options s = {.argv = words, .n_fds = 1, .clear_env = true};

	passt_words(o, words);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno();
	ours = pair[0];
	theirs = pair[1];
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return error_errno();
	out_r = pipes[0];
	out_w = s.output_fd = pipes[1];
	s.fds = &theirs;
	r = fd_set_nonblock(out_r, 1);
	if (r == 0)
		r = spawn(&s, NULL, &ret->pidfd);
	if (r < 0)
		return error_trace(r);
	ret->fd = take_fd(ours);
	ret->output = take_fd(out_r);
	return 0;
}

/* It is a guest's servant: what it says is bounded. */
static void pass_output(struct passt *p)
{
	char chunk[1024];
	ssize_t n = read(p->output, chunk, sizeof(chunk));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		p->output = fd_close(p->output);
	if (n <= 0 || p->n_output >= PASST_OUTPUT_MAX)
		return;
	p->n_output += (size_t)n;
	(void)!write(STDERR_FILENO, chunk, (size_t)n); /* only words */
}

enum { POLL_VM, POLL_PASST, POLL_OUTPUT, POLL_CONTROL, N_POLLS = POLL_CONTROL + CONTROL_N_POLLS };

static int serve(const struct options *o, struct passt *passt, struct relay *relay,
		 struct control *control)
{
	for (;;) {
		struct pollfd p[N_POLLS] = {
			[POLL_VM] = {o->vm_fd, relay_events(relay, RELAY_VM), 0},
			[POLL_PASST] = {passt->fd, relay_events(relay, RELAY_NETWORK), 0},
			[POLL_OUTPUT] = {passt->output, POLLIN, 0},
		};
		short revents[2];
		int r;

		control_polls(control, &p[POLL_CONTROL]);
		if (poll(p, N_POLLS, -1) < 0) {
			if (errno == EINTR)
				continue;
			return error_errno();
		}
		if (p[POLL_OUTPUT].revents)
			pass_output(passt);
		control_work(control, &p[POLL_CONTROL]);
		revents[RELAY_VM] = p[POLL_VM].revents;
		revents[RELAY_NETWORK] = p[POLL_PASST].revents;
		r = relay_work(relay, revents);
		if (r < 0)
			return r;
	}
}

static int run(const struct options *o)
{
	_cleanup_(gate_freep) struct gate *gate = NULL;
	_cleanup_(relay_freep) struct relay *relay = NULL;
	struct passt passt = {.fd = -1, .output = -1, .pidfd = -1};
	struct problem problem = PROBLEM_INIT;
	struct control control;
	int r;

	json_object_seed(0); /* it would read /dev/urandom at its first object */
	r = gate_new(&gate);
	if (r == 0)
		r = net_tame_children(&problem);
	if (r == 0)
		r = passt_start(o, &passt);
	if (r < 0) {
		log_error("cannot start %s: %s", o->passt,
			  problem_is_set(&problem) ? problem.message : strerrordesc_np(-r));
		return r;
	}
	r = relay_new((const int[]){o->vm_fd, passt.fd}, gate, &relay);
	if (r == 0)
		r = control_init(&control, o->control_fd, relay, gate);
	if (r < 0)
		return r;
	r = net_isolate(&problem);
	if (r == 0)
		r = serve(o, &passt, relay, &control);
	if (r < 0 && r != -EPIPE)
		log_error("%s", problem_is_set(&problem) ? problem.message : strerrordesc_np(-r));
	control_deinit(&control);
	while (r == -EPIPE && passt.output >= 0 && passt.n_output < PASST_OUTPUT_MAX &&
	       fd_poll(passt.output, POLLIN, 0) > 0)
		pass_output(&passt); /* its last words */
	return r;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {{"vm", required_argument, NULL, 'v'},
						{"control", required_argument, NULL, 'c'},
						{"passt", required_argument, NULL, 'p'},
						{"no-ipv6", no_argument, NULL, '6'},
						{NULL, 0, NULL, 0}};
	uint64_t n;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'v' && str_to_u64(optarg, &n) == 0 && n <= INT32_MAX)
			o->vm_fd = (int)n;
		else if (c == 'c' && str_to_u64(optarg, &n) == 0 && n <= INT32_MAX)
			o->control_fd = (int)n;
		else if (c == 'p')
			o->passt = optarg;
		else if (c == '6')
			o->no_ipv6 = true;
		else
			return -EINVAL;
	}
	return o->vm_fd >= 0 && o->control_fd >= 0 && o->passt && optind == argc ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct options o = {.vm_fd = -1, .control_fd = -1};
	int r;

	log_init("dorm-net", LOG_LEVEL_INFO);
	if (parse(argc, argv, &o) < 0) {
		fprintf(stderr, "usage: %s --vm FD --control FD --passt PROGRAM [--no-ipv6]\n",
			argv[0]);
		return 2;
	}
	/* what passt inherits is named, so neither of these is */
	if (fd_set_cloexec(o.vm_fd, 1) < 0 || fd_set_cloexec(o.control_fd, 1) < 0)
		return 2;
	/* listens already; this makes us the process that those who connect see (SO_PEERCRED) */
	if (listen(o.control_fd, CONTROL_MAX_CLIENTS) < 0)
		return 2;
	r = run(&o);
	return r == -EPIPE ? 0 : 1; /* 0: the VM or passt has ended */
}
