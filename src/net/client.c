/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dorm-net is found again through its control socket: whoever answers there holds it, and the
 * kernel says which process that is. Nothing has to be written down.
 */
#include "net/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "net/rules.h"
#include "sys/pidfd.h"
#include "sys/spawn.h"

#define REPLY_MAX 65536
#define LOG_NAME  "net.log"
#define STOP_MS	  2000

/* Of dorm-net and its passt, which has one for each connection and each UDP port: so many ports of
 * this host, and no more, can one guest keep from others. */
#define PASST_FILES 1024

/* ---- talking to it ----------------------------------------------------------------------------
 */

static int receive(int fd, uint64_t deadline_ns, json_t **ret)
{
	_cleanup_free_ char *text = malloc(REPLY_MAX);
	ssize_t n;
	int r;

	if (!text)
		return -ENOMEM;
	r = fd_poll(fd, POLLIN, deadline_ns);
	if (r <= 0)
		return r < 0 ? r : -ETIMEDOUT;
	n = recv(fd, text, REPLY_MAX, MSG_DONTWAIT);
	if (n <= 0)
		return n < 0 ? error_errno() : -EPIPE;
	*ret = json_loadb(text, (size_t)n, 0, NULL);
	return *ret ? 0 : -EBADMSG;
}

/* Consumes @request. */
static int ask(struct net_process *p, json_t *request)
{
	_cleanup_free_ char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;

	json_decref(request);
	if (!text)
		return -ENOMEM;
	if (send(p->control_fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return error_errno();
	return 0;
}

/* The last of what it wrote to its log: often why it ended. */
static void say_why(const struct net_process *p, struct problem *problem)
{
	_cleanup_free_ char *path = str_printf("/proc/self/fd/%d", p->log_fd), *text = NULL;
	char *last;
	size_t n;

	if (!path || file_read(AT_FDCWD, path, 65536, &text, &n) < 0)
		return;
	while (n && strchr("\r\n ", text[n - 1]))
		text[--n] = 0;
	last = strrchr(text, '\n');
	last = last ? last + 1 : text;
	if (strstr(last, "error: "))
		last = strstr(last, "error: ") + strlen("error: ");
	problem_set(problem, 503, "the sandbox's network ended: %.300s",
		    n ? last : "dorm-net said nothing");
}

/* A reply that comes too late would be taken for the next one: so the line is cut. */
static int await(struct net_process *p, uint64_t deadline_ns, struct problem *problem, json_t **ret)
{
	json_t *reply = NULL;
	int r = receive(p->control_fd, deadline_ns, &reply);

	if (r == -ETIMEDOUT)
		p->control_fd = fd_close(p->control_fd);
	if (r == -EPIPE || r == -ECONNRESET)
		say_why(p, problem);
	if (r == 0 && !json_is_true(json_object_get(reply, "ok"))) {
		const char *why = json_string_value(json_object_get(reply, "message"));

		problem_set(problem, 400, "%.400s", why ? why : "dorm-net gave no reason");
		r = -EINVAL;
	}
	if (r == 0 && ret)
		*ret = json_incref(reply);
	json_decref(reply);
	problem_errno(r < 0 ? problem : NULL, r, "dorm-net does not answer");
	return r;
}

/* The host's own addresses, except those that no guest can mean. Return: NULL without memory */
static json_t *host_addresses(void)
{
	struct ifaddrs *all = NULL;
	json_t *list = json_array();

	if (getifaddrs(&all) < 0)
		return list;
	for (struct ifaddrs *i = all; i && json_array_size(list) < RULES_MAX_HOST;
	     i = i->ifa_next) {
		char text[INET6_ADDRSTRLEN];
		const void *at = NULL;

		if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET)
			at = &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr;
		else if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET6)
			at = &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr;
		if (at && inet_ntop(i->ifa_addr->sa_family, at, text, sizeof(text)))
			(void)json_array_append_new(list, json_string(text)); /* then it is short */
	}
	freeifaddrs(all);
	return list;
}

static int send_rules(struct net_process *p, const json_t *rules)
{
	json_t *o = json_deep_copy(rules);

	if (!o || json_object_set_new(o, "host", host_addresses()) < 0) {
		json_decref(o);
		return -ENOMEM;
	}
	return ask(p, json_pack("{s:o}", "rules", o));
}

int net_process_set_rules(struct net_process *p, const json_t *rules, uint64_t deadline_ns,
			  struct problem *problem)
{
	int r = send_rules(p, rules);

	if (r < 0) {
		problem_errno(problem, r, "dorm-net cannot be told its rules");
		return r;
	}
	return error_trace(await(p, deadline_ns, problem, NULL));
}

int net_process_counters(struct net_process *p, uint64_t deadline_ns, json_t **ret)
{
	json_t *reply = NULL, *counters;
	int r = ask(p, json_pack("{s:b}", "status", 1));

	if (r == 0)
		r = await(p, deadline_ns, NULL, &reply);
	counters = json_object_get(reply, "counters");
	if (r == 0 && !counters)
		r = -EBADMSG;
	if (r == 0)
		*ret = json_incref(counters);
	json_decref(reply);
	return error_trace(r);
}

/* ---- its life ---------------------------------------------------------------------------------
 */

int net_process_find(const char *work_dir, struct net_process *ret)
{
	_cleanup_free_ char *path = str_printf("%s/" NET_PROCESS_SOCKET, work_dir);
	_cleanup_fd_ int fd = path ? fd_unix_connect(path, SOCK_SEQPACKET) : -ENOMEM;
	_cleanup_fd_ int pidfd = -1;
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return fd == -ECONNREFUSED ? -ENOENT : fd;
	/* of whoever called listen() last: dorm-net does so itself at its start */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return error_errno();
	pidfd = pidfd_from_pid(peer.pid);
	if (pidfd < 0)
		return pidfd;
	*ret = (struct net_process){peer.pid, take_fd(pidfd), take_fd(fd), -1};
	return 0;
}

/* Return: descriptor; negative errno */
static int open_log(const char *work_dir)
{
	_cleanup_free_ char *path = str_printf("%s/" LOG_NAME, work_dir);
	int fd = path ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600) : -1;

	return fd < 0 ? error_errno() : fd;
}

static int start(const struct net_options *o, int control_fd, struct net_process *p)
{
	const int fds[] = {o->vm_fd, control_fd};
	const char *argv[] = {o->program, "--vm",    "3",      "--control",
			      "4",	  "--passt", o->passt, o->ipv6 ? NULL : "--no-ipv6",
			      NULL};
	const struct spawn_limit files = {RLIMIT_NOFILE, PASST_FILES};
	const struct spawn_options s = {.argv = argv,
					.clear_env = true,
					.fds = fds,
					.n_fds = ARRAY_SIZE(fds),
					.output_fd = p->log_fd,
					.cwd = "/",
					.new_session = true,
					.limits = &files,
					.n_limits = 1};

	return spawn(&s, &p->pid, &p->pidfd);
}

int net_process_start(const struct net_options *options, const json_t *rules,
		      struct problem *problem, struct net_process *ret)
{
	_cleanup_free_ char *path = str_printf("%s/" NET_PROCESS_SOCKET, options->work_dir);
	_cleanup_fd_ int listen_fd = path ? fd_unix_listen(path, SOCK_SEQPACKET, 0600) : -ENOMEM;
	struct net_process p = NET_PROCESS_NONE;
	int r = MIN(listen_fd, 0);

	if (r == 0)
		p.log_fd = r = open_log(options->work_dir);
	if (r >= 0)
		r = start(options, listen_fd, &p);
	if (r == 0)
		p.control_fd = r = fd_unix_connect(path, SOCK_SEQPACKET);
	if (r >= 0)
		r = send_rules(&p, rules);
	if (r < 0) {
		problem_errno(problem, r, "starting the sandbox's network, %s", options->program);
		net_process_stop(&p, deadline_after_ms(STOP_MS));
		return error_trace(r);
	}
	*ret = p;
	return 0;
}

int net_process_await(struct net_process *p, uint64_t deadline_ns, struct problem *problem)
{
	return error_trace(await(p, deadline_ns, problem, NULL));
}

void net_process_forget(struct net_process *p)
{
	fd_close(p->pidfd);
	fd_close(p->control_fd);
	fd_close(p->log_fd);
	*p = NET_PROCESS_NONE;
}

void net_process_stop(struct net_process *p, uint64_t deadline_ns)
{
	struct pidfd_end end;

	if (p->pidfd >= 0) {
		(void)pidfd_signal(p->pidfd, SIGKILL); /* gone already is as good */
		(void)pidfd_wait(p->pidfd, deadline_ns);
		(void)pidfd_reap(p->pidfd, &end); /* it may be no child of ours */
	}
	net_process_forget(p);
}

bool net_host_has_ipv6(void)
{
	_cleanup_free_ char *text = NULL;
	char *rest, *line;

	if (file_read(AT_FDCWD, "/proc/net/ipv6_route", 1u << 20, &text, NULL) < 0)
		return false;
	rest = text;
	while ((line = strsep(&rest, "\n"))) {
		char device[32] = "";

		/* target ::/0, not by the device lo, where the kernel keeps "unreachable" */
		if (str_has_prefix(line, "00000000000000000000000000000000 00 ") &&
		    sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %31s", device) == 1 &&
		    strcmp(device, "lo") != 0)
			return true;
	}
	return false;
}
