/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"

#define LISTEN_FIRST 3 /* SD_LISTEN_FDS_START */

/* Is a variable of the manager's meant for this process? */
static bool is_ours(const char *pid_variable)
{
	const char *text = getenv(pid_variable);
	uint64_t pid;

	return text && str_to_u64(text, &pid) == 0 && pid == (uint64_t)getpid();
}

void notify_init(struct notify *n)
{
	const char *address = getenv("NOTIFY_SOCKET"), *watchdog = getenv("WATCHDOG_USEC");
	uint64_t us = 0;

	*n = (struct notify){0};
	/* '/' a path, '@' a name in the abstract namespace */
	if (address && (*address == '/' || *address == '@') && strlen(address) < sizeof(n->address))
		str_copy(n->address, sizeof(n->address), address);
	if (watchdog && (!getenv("WATCHDOG_PID") || is_ours("WATCHDOG_PID")) &&
	    str_to_u64(watchdog, &us) == 0)
		n->watchdog_ms = us / 1000 / 2; /* twice as often as must be, as is usual */
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_send(const struct notify *n, const char *state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(n->address));
	_cleanup_fd_ int fd = -1;

	if (!n->address[0])
		return;
	memcpy(sa.sun_path, n->address, strlen(n->address));
	if (sa.sun_path[0] == '@')
		sa.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 ||
	    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&sa, len) < 0)
		log_warn("the service manager cannot be told '%s': %m", state);
}

void notify_send_reloading(const struct notify *n)
{
	char text[64];

	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%ju",
		 (uintmax_t)(clock_now_ns() / 1000));
	notify_send(n, text);
}

static bool is_listening_unix(int fd)
{
	int domain = 0, listening = 0;
	socklen_t len = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
	       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening;
}

int notify_take_socket(void)
{
	const char *text = getenv("LISTEN_FDS");
	bool ours = is_ours("LISTEN_PID");
	uint64_t n = 0;

	if (text && str_to_u64(text, &n) < 0)
		n = 0;
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDNAMES");
	if (!ours || !n)
		return -1;
	if (n > 1 || !is_listening_unix(LISTEN_FIRST))
		return error_trace(-EINVAL);
	(void)fd_set_cloexec(LISTEN_FIRST, 1); /* it is open: that cannot fail */
	return LISTEN_FIRST;
}
