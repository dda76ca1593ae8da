/* SPDX-License-Identifier: Apache-2.0 */
/* peers-accept.c - the thread that accepts connections, ends those that stall, and makes room */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/peers-internal.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define TICK_MS	  1000
#define STACK	  (128u << 10)
#define WAIT_MS	  200
#define ENDED_MS  100
#define PAUSE_MS  50 /* when there are no descriptors left */
#define DRAIN_MAX 65536u

/* --- accepting ----------------------------------------------------------------------------------
 */

static bool is_from(const struct peer *p, const struct peer_address *from)
{
	return !from || !memcmp(&p->address, from, sizeof(*from));
}

/* The one that has been silent for longest has to go. @from: among those of one client; NULL: of
 * all. Lock held. Return: false when there is none */
static bool displace(struct peers *all, const struct peer_address *from)
{
	struct peer *oldest = NULL;

	for (struct peer *p = all->first; p; p = p->next)
		if (atomic_load(&p->phase) == HEAD && !p->displaced && is_from(p, from) &&
		    (!oldest || atomic_load(&p->since_ns) <= atomic_load(&oldest->since_ns)))
			oldest = p;
	if (!oldest)
		return false;
	(void)shutdown(oldest->fd, SHUT_RDWR); /* not connected any more: it goes anyway */
	oldest->displaced = true;
	all->n_displaced++;
	return true;
}

/* Connections that are, or that libmicrohttpd is about to take. Lock held. */
static unsigned in_use(const struct peers *all)
{
	return all->n + (unsigned)(all->handed - all->taken);
}

/* Lock held. Those that are on their way to libmicrohttpd are not seen: a few more may come in. */
static unsigned n_from(const struct peers *all, const struct peer_address *from)
{
	unsigned n = 0;

	for (const struct peer *p = all->first; p; p = p->next)
		n += !p->displaced && is_from(p, from);
	return n;
}

/*
 * Those that were displaced end in threads of their own, which may take their time on a busy host.
 * They do not count, up to a limit: or an attack that connects again and again would keep us
 * waiting.
 * @from: NULL: over the unix socket. Return: false when there are still too many after WAIT_MS
 */
static bool make_room(struct peers *all, const struct peer_address *from)
{
	uint64_t deadline_ns = deadline_after_ms(WAIT_MS);
	const struct timespec ts = {.tv_sec = (time_t)(deadline_ns / NSEC_PER_SEC),
				    .tv_nsec = (long)(deadline_ns % NSEC_PER_SEC)};

	LOCK_SCOPE(&all->lock);
	while (from && n_from(all, from) >= PEERS_MAX_ADDRESS)
		if (!displace(all, from))
			return false;
	while (in_use(all) - all->n_displaced >= PEERS_MAX || in_use(all) >= PEERS_MAX_LEAVING) {
		if (in_use(all) < PEERS_MAX_LEAVING && displace(all, NULL))
			continue;
		if (pthread_cond_timedwait(&all->changed, &all->lock, &ts) == 0)
			continue;
		all->handed = all->taken; /* one that it could not take, it has closed */
		return in_use(all) < PEERS_MAX;
	}
	all->handed++;
	return true;
}

static void refuse(int fd, unsigned status, const char *body)
{
	char text[512], drain[4096];
	int n = snprintf(text, sizeof(text), /* fits: @body is ours */
			 "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\n"
			 "%sContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
			 status, MHD_get_reason_phrase_for(status),
			 status == 429 ? "Retry-After: 1\r\n" : "", strlen(body), body);

	(void)send(fd, text, (size_t)n,
		   MSG_NOSIGNAL | MSG_DONTWAIT); /* it fits, or nobody is there */
	(void)shutdown(fd, SHUT_WR);
	for (size_t got = 0; got < DRAIN_MAX;) { /* what is unread would reset the answer */
		ssize_t r = recv(fd, drain, sizeof(drain), MSG_DONTWAIT);

		if (r <= 0)
			break;
		got += (size_t)r;
	}
	fd_close(fd);
}

/* A peer that went without a word is noticed after two minutes. */
static void set_keepalive(int fd)
{
	const int on = 1, idle_s = 60, interval_s = 15, tries = 4;

	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void take_connection(struct peers *all)
{
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	struct peer_address from;
	int fd =
		accept4(all->listen_fd, (struct sockaddr *)&sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			pthread_mutex_lock(&all->lock);
			(void)displace(all, NULL);
			pthread_mutex_unlock(&all->lock);
			clock_sleep_ms(PAUSE_MS); /* it stays ready: do not spin */
		}
		return;
	}
	if (!all->local)
		set_keepalive(fd);
	from = peer_address((struct sockaddr *)&sa);
	if (make_room(all, all->local ? NULL : &from))
		(void)MHD_add_connection(all->daemon, fd, (struct sockaddr *)&sa,
					 len); /* closes it if it cannot */
	else if (all->tls)
		fd_close(fd); /* it would take an answer for noise */
	else
		refuse(fd, 429, "{\"code\":429,\"message\":\"too many connections are open\"}");
}

/* --- looking ------------------------------------------------------------------------------------
 */

static void check_deadline(struct peer *p, uint64_t now_ns)
{
	uint64_t deadline_ns = atomic_load(&p->deadline_ns);

	if (deadline_ns == DEADLINE_NEVER || now_ns < deadline_ns)
		return;
	(void)shutdown(p->fd, SHUT_RDWR);
}

/* Those in GUEST whose client has hung up */
static void check_guests(struct peers *all, nfds_t n)
{
	if (n == 0 || poll(all->polls, n, 0) <= 0)
		return;
	for (nfds_t i = 0; i < n; i++) {
		struct peer *p = all->polled[i];

		if (!(all->polls[i].revents & (POLLRDHUP | POLLHUP | POLLERR)))
			continue;
		LOCK_SCOPE(&p->lock);
		if (p->stream)
			channel_stream_cancel(p->stream);
	}
}

static void look(struct peers *all)
{
	uint64_t now_ns = clock_now_ns();
	nfds_t n = 0;

	LOCK_SCOPE(&all->lock);
	for (struct peer *p = all->first; p; p = p->next) {
		check_deadline(p, now_ns);
		if (atomic_load(&p->phase) != GUEST || n == ARRAY_SIZE(all->polls))
			continue;
		all->polls[n] = (struct pollfd){.fd = p->fd, .events = POLLRDHUP};
		all->polled[n++] = p;
	}
	check_guests(all, n);
}

/* Connections that were upgraded and have ended before @until_ns. Without the lock, since it calls
 * into libmicrohttpd, which may call back. */
static void close_ended(struct peers *all, uint64_t until_ns)
{
	size_t n = 0;

	pthread_mutex_lock(&all->lock);
	for (struct peer *p = all->first; p && n < PEERS_MAX; p = p->next)
		if (p->ended && p->ended_ns <= until_ns)
			all->ended[n++] = take_ptr(p->ended);
	pthread_mutex_unlock(&all->lock);
	for (size_t i = 0; i < n; i++)
		(void)MHD_upgrade_action(all->ended[i], MHD_UPGRADE_ACTION_CLOSE);
}

static bool is_empty(struct peers *all)
{
	LOCK_SCOPE(&all->lock);
	return in_use(all) == 0;
}

static void *peers_main(void *arg)
{
	struct peers *all = arg;
	uint64_t next_ns = deadline_after_ms(TICK_MS), wakes;

	(void)pthread_setname_np(pthread_self(), "accept"); /* only for people */
	while (!atomic_load(&all->stopping)) {
		struct pollfd p[2] = {{.fd = all->listen_fd, .events = POLLIN},
				      {.fd = all->wake_fd, .events = POLLIN}};

		(void)poll(p, 2, is_empty(all) ? -1 : deadline_poll_ms(next_ns)); /* EINTR: again */
		if (p[1].revents)
			(void)!read(all->wake_fd, &wakes, sizeof(wakes)); /* only to reset it */
		if (p[0].revents & POLLIN)
			take_connection(all);
		if (deadline_passed(next_ns)) {
			look(all);
			close_ended(all, clock_now_ns() - ENDED_MS * NSEC_PER_MSEC);
			next_ns = deadline_after_ms(TICK_MS);
		}
	}
	return NULL;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static void wake(struct peers *all)
{
	const uint64_t one = 1;

	(void)!write(all->wake_fd, &one, sizeof(one)); /* full means awake already */
}

int peers_new(const struct server_config *config, struct peers **ret)
{
	struct peers *all = calloc(1, sizeof(*all));
	pthread_condattr_t attr;

	if (!all) {
		fd_close(config->listen_fd);
		return error_trace(-ENOMEM);
	}
	all->listen_fd = config->listen_fd;
	all->local = config->local;
	all->tls = config->tls;
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&all->changed, &attr);
	pthread_condattr_destroy(&attr);
	all->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (all->wake_fd < 0 || fd_set_nonblock(all->listen_fd, 1) < 0) {
		int r = -errno;

		peers_free(all);
		return error_trace(r);
	}
	*ret = all;
	return 0;
}

int peers_start(struct peers *all, struct MHD_Daemon *daemon)
{
	pthread_attr_t attr;
	int r;

	all->daemon = daemon;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	r = pthread_create(&all->thread, &attr, peers_main, all);
	pthread_attr_destroy(&attr);
	all->started = r == 0;
	return error_trace(-r);
}

void peers_stop(struct peers *all)
{
	if (!all->started)
		return;
	pthread_mutex_lock(&all->lock);
	atomic_store(&all->stopping, true);
	pthread_mutex_unlock(&all->lock);
	wake(all);
	pthread_join(all->thread, NULL);
	all->started = false;
	all->listen_fd = fd_close(all->listen_fd);
	close_ended(all, UINT64_MAX);
	LOCK_SCOPE(&all->lock);
	for (struct peer *p = all->first; p; p = p->next)
		if (atomic_load(&p->phase) == HEAD || atomic_load(&p->phase) == TUNNEL)
			(void)shutdown(p->fd, SHUT_RDWR);
}

struct peers *peers_free(struct peers *all)
{
	if (!all)
		return NULL;
	peers_stop(all);
	fd_close(all->listen_fd);
	fd_close(all->wake_fd);
	pthread_cond_destroy(&all->changed);
	pthread_mutex_destroy(&all->lock);
	free(all);
	return NULL;
}
