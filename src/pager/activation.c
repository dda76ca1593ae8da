/* SPDX-License-Identifier: Apache-2.0 */
/*
 * activation.c - the environment of sd_listen_fds(3), read without its library
 *
 * All that this takes is three variables. The names are separated by ':' and belong to the
 * descriptors in their order; fewer names than descriptors leave the rest "unknown", as in systemd.
 */
#include "pager/activation.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"

#define FIRST_FD 3

static void copy_name(const char **names, char out[ACTIVATION_NAME_MAX + 1])
{
	size_t len = *names ? strcspn(*names, ":") : 0;

	if (len == 0)
		str_copy(out, ACTIVATION_NAME_MAX + 1, "unknown");
	else
		str_copy(out, MIN(len, (size_t)ACTIVATION_NAME_MAX) + 1, *names);
	if (*names)
		*names = (*names)[len] ? *names + len + 1 : NULL;
}

static int take_all(uint64_t n, const char *names, struct activation *ret, struct problem *problem)
{
	for (uint64_t i = 0; i < n; i++) {
		int fd = FIRST_FD + (int)i, r = fd_set_cloexec(fd, 1);

		if (r < 0) {
			problem_set(problem, 400,
				    "LISTEN_FDS is %llu, but descriptor %d is not open",
				    (unsigned long long)n, fd);
			return -EINVAL;
		}
		ret->sockets[i].fd = fd;
		copy_name(&names, ret->sockets[i].name);
	}
	ret->n = (size_t)n;
	return 0;
}

static int take_from(const char *pid_text, const char *fds_text, const char *names,
		     struct activation *ret, struct problem *problem)
{
	uint64_t pid, n;

	if (!pid_text && !fds_text)
		return 0;
	if (!pid_text || !fds_text || str_to_u64(pid_text, &pid) < 0 ||
	    str_to_u64(fds_text, &n) < 0) {
		problem_set(problem, 400,
			    "socket activation: LISTEN_PID and LISTEN_FDS must both be "
			    "numbers, not \"%.20s\" and \"%.20s\"",
			    pid_text ? pid_text : "", fds_text ? fds_text : "");
		return -EINVAL;
	}
	if (pid != (uint64_t)getpid())
		return 0; /* a parent's, and not for us */
	if (n > ACTIVATION_MAX) {
		problem_set(problem, 400, "socket activation: %llu sockets; at most %u are taken",
			    (unsigned long long)n, ACTIVATION_MAX);
		return -EINVAL;
	}
	return take_all(n, names, ret, problem);
}

int activation_take(struct activation *ret, struct problem *problem)
{
	struct activation a = {0};
	int r = take_from(getenv("LISTEN_PID"), getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), &a,
			  problem);

	(void)unsetenv("LISTEN_PID"); /* cannot fail for a good name */
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_FDNAMES");
	if (r == 0)
		*ret = a;
	return r;
}

static int option_of(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

int activation_check(int fd, int type, const char *name, struct problem *problem)
{
	if (option_of(fd, SO_DOMAIN) != AF_UNIX) {
		problem_set(problem, 400, "the socket \"%s\" is not a unix socket", name);
		return -ENOTSOCK;
	}
	if (option_of(fd, SO_TYPE) == type && option_of(fd, SO_ACCEPTCONN) == 1)
		return 0;
	problem_set(problem, 400, "the socket \"%s\" is not a listening %s socket", name,
		    type == SOCK_STREAM ? "stream" : "seqpacket");
	problem_hint(problem, type == SOCK_STREAM ? "ListenStream= makes one"
						  : "ListenSequentialPacket= makes one");
	return -EPROTOTYPE;
}
