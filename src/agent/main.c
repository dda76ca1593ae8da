/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm-agent: PID 1 of a sandbox. Boots it, then serves HTTP/2 on the virtio-serial port "agent".
 *
 * For tests it also runs as an ordinary program that leaves the machine alone:
 *     dorm-agent --no-boot --fd N | --port DEVICE | --listen SOCKET [--cgroup DIRECTORY]
 *                [--root DIRECTORY]
 * With --root the names of the sandbox, and its hooks, are looked for below that directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/boot.h"
#include "agent/files.h"
#include "agent/hooks.h"
#include "agent/network.h"
#include "agent/port.h"
#include "agent/ports.h"
#include "agent/prepare.h"
#include "agent/process-rpc.h"
#include "agent/process.h"
#include "agent/repair.h"
#include "agent/router.h"
#include "agent/tcp.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"

#define PORT_NAME    "agent"
#define PORT_WAIT_MS 10000

struct options {
	int fd;
	enum port_kind kind;
	const char *cgroup, *hooks_cgroup;
	const char *root; /* what stands for /; NULL: nothing does */
};

static void handle_health(struct request *rq)
{
	const struct header h = {"x-dorm-agent", DORM_VERSION};

	if (server_stream_respond(rq->stream, 204, &h, 1) < 0)
		server_stream_reset(rq->stream);
	else
		server_stream_end(rq->stream);
}

static const struct route health_routes[] = {
	{"GET", "/health", handle_health, ROUTE_CLIENT | ROUTE_OPEN},
};

/* --- children -----------------------------------------------------------------------------------
 */

/* One signal can stand for many exits, and PID 1 inherits orphans that nobody asked for. */
static void on_sigchld(void *userdata, uint32_t events)
{
	struct agent *a = userdata;
	struct signalfd_siginfo info;
	int fd = a->child_fd, status;
	pid_t pid;

	while (read(fd, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (!prepare_reaped(a->prepare, pid, status) &&
		    !hooks_reaped(a->hooks, pid, status))
			(void)process_reaped(a->processes, pid, status); /* or an orphan */
	process_table_sweep(a->processes);
}

static int watch_children(struct agent *a)
{
	struct loop_source *source;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return error_errno();
	a->child_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (a->child_fd < 0)
		return error_errno();
	return loop_add(a->loop, a->child_fd, EPOLLIN, on_sigchld, a, &source);
}

/* --- life ---------------------------------------------------------------------------------------
 */

static void flush(void *userdata)
{
	struct agent *a = userdata;

	port_flush(a->port);
}

/* Where the sandbox keeps its hooks, below what is its root. */
static int hooks_setup(struct agent *a, const struct options *o)
{
	static char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/etc/dorm/hooks", o->root ?: "");

	if (n < 0 || (size_t)n >= sizeof(path))
		return -ENAMETOOLONG;
	a->root = o->root;
	return hooks_new(a, o->root ? path : NULL, o->hooks_cgroup, &a->hooks);
}

static int agent_init(struct agent *a, const struct options *o)
{
	int r = loop_new(&a->loop);

	a->env = json_object();
	if (!a->env)
		r = -ENOMEM;
	if (r == 0)
		r = router_new(a, &a->router);
	if (r == 0)
		r = process_table_new(a, &a->processes);
	if (r == 0)
		r = prepare_new(a, &a->prepare);
	if (r == 0)
		r = repair_new(a, &a->repair);
	if (r == 0)
		r = hooks_setup(a, o);
	if (r == 0)
		r = ports_new(&a->ports);
	if (r == 0)
		r = network_new(a->owns_machine, &a->network);
	if (r == 0)
		r = workers_new(a->loop, &a->workers);
	if (r == 0)
		r = router_add(a->router, health_routes, ARRAY_SIZE(health_routes));
	if (r == 0)
		r = repair_add(a->router);
	if (r == 0)
		r = prepare_add(a->router);
	if (r == 0)
		r = network_add(a->router);
	if (r == 0)
		r = process_rpc_add(a->router);
	if (r == 0)
		r = ports_add(a->router);
	if (r == 0)
		r = files_add(a->router);
	if (r == 0)
		r = server_new(&router_ops, a, &a->server);
	if (r == 0)
		r = watch_children(a);
	if (r == 0 && a->owns_machine) {
		a->random_fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
		if (a->random_fd < 0)
			r = error_errno();
		a->tcp_fd = MAX(tcp_open(), -1); /* a kernel without it keeps its connections */
	}
	if (r == 0 && o->cgroup)
		r = cgroup_open(&a->workload, o->cgroup);
	if (r == 0)
		r = port_new(a->loop, a->server, o->fd, o->kind, &a->port);
	if (r == 0)
		loop_set_after(a->loop, flush, a);
	return r;
}

static void agent_deinit(struct agent *a)
{
	port_free(a->port);
	workers_free(a->workers);
	prepare_free(a->prepare);
	repair_free(a->repair);
	hooks_free(a->hooks);
	identity_plan_clear(&a->plan);
	network_free(a->network);
	process_table_free(a->processes);
	server_free(a->server);
	ports_free(a->ports);
	router_free(a->router);
	loop_free(a->loop);
	cgroup_close(&a->workload);
	fd_close(a->random_fd);
	fd_close(a->tcp_fd);
	fd_close(a->child_fd);
	json_decref(a->env);
	free(a->token);
	free(a->default_user);
	free(a->default_workdir);
}

static int agent_run(const struct options *o, bool owns_machine)
{
	struct agent a = {.workload = CGROUP_INIT,
			  .child_fd = -1,
			  .random_fd = -1,
			  .tcp_fd = -1,
			  .connections = -1,
			  .owns_machine = owns_machine};
	int r = agent_init(&a, o);

	if (r == 0)
		r = loop_run(a.loop);
	agent_deinit(&a);
	if (r < 0)
		log_error("the agent ends: %s", strerrordesc_np(-r));
	return r;
}

/*
 * Ahead of whatever the sandbox is busy with: the host must be able to reach the agent of a guest
 * that burns all its CPU, and a woken guest answers before its kernel's housekeeping runs. What the
 * agent starts is ordinary again.
 */
static void go_first(void)
{
	const struct sched_param p = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &p) < 0)
		log_warn("no real-time priority: %s", strerrordesc_np(errno));
}

static int run_as_init(void)
{
	struct options o = {.fd = -1,
			    .kind = PORT_DEVICE,
			    .cgroup = BOOT_WORKLOAD_CGROUP,
			    .hooks_cgroup = BOOT_HOOKS_CGROUP,
			    .root = ""};
	int r = boot_kernel();

	if (r == 0)
		r = boot_root();
	if (r == 0)
		r = boot_system();
	if (r < 0) {
		log_error("the sandbox cannot boot: %s", strerrordesc_np(-r));
		return r;
	}
	o.fd = port_find(PORT_NAME, deadline_after_ms(PORT_WAIT_MS));
	if (o.fd < 0) {
		log_error("no virtio-serial port named '%s' after %d ms: %s", PORT_NAME,
			  PORT_WAIT_MS, strerrordesc_np(-o.fd));
		return o.fd;
	}
	log_info("dorm-agent %s serves, %llu ms after the kernel started", DORM_VERSION,
		 (unsigned long long)(clock_now_ns() / NSEC_PER_MSEC));
	go_first();
	return agent_run(&o, true);
}

static int usage(const char *name)
{
	fprintf(stderr,
		"usage: %s --no-boot (--fd N | --port DEVICE | --listen SOCKET) "
		"[--cgroup DIRECTORY] [--root DIRECTORY]\n"
		"Without arguments it must be PID 1 of a sandbox.\n",
		name);
	return 2;
}

static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {{"no-boot", no_argument, NULL, 'n'},
						{"fd", required_argument, NULL, 'f'},
						{"port", required_argument, NULL, 'p'},
						{"listen", required_argument, NULL, 'l'},
						{"cgroup", required_argument, NULL, 'c'},
						{"root", required_argument, NULL, 'r'},
						{NULL, 0, NULL, 0}};
	bool no_boot = false;
	uint64_t n;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'n') {
			no_boot = true;
		} else if (c == 'f' && str_to_u64(optarg, &n) == 0 && n <= INT32_MAX) {
			o->fd = (int)n;
			o->kind = PORT_STREAM;
			(void)fd_set_cloexec(o->fd, 1); /* a bad number shows when it is used */
		} else if (c == 'p') {
			o->fd = open(optarg, O_RDWR | O_NONBLOCK | O_CLOEXEC);
			o->kind = PORT_DEVICE;
		} else if (c == 'l') {
			o->fd = fd_unix_listen(optarg, SOCK_STREAM, 0600);
			o->kind = PORT_LISTEN;
		} else if (c == 'c') {
			o->cgroup = optarg;
		} else if (c == 'r') {
			o->root = optarg;
		} else {
			return -EINVAL;
		}
	}
	return no_boot && o->fd >= 0 && optind == argc ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct options o = {.fd = -1};

	log_init("dorm-agent", LOG_LEVEL_INFO);
	if (getpid() == 1)
		return run_as_init() < 0 ? 1 : 0;
	if (parse_options(argc, argv, &o) < 0)
		return usage(argv[0]);
	return agent_run(&o, false) < 0 ? 1 : 0;
}
