/* SPDX-License-Identifier: Apache-2.0 */
#include "api/peers.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api/peers-internal.h"
#include "base/clock.h"

/* --- phases -------------------------------------------------------------------------------------
 */

static void set_phase(struct peer *p, enum phase phase, uint64_t deadline_ns)
{
	atomic_store(&p->deadline_ns, DEADLINE_NEVER); /* neither phase with the other's */
	atomic_store(&p->since_ns, clock_now_ns());
	atomic_store(&p->phase, phase);
	atomic_store(&p->deadline_ns, deadline_ns);
}

static void leave_guest(struct peer *p)
{
	LOCK_SCOPE(&p->lock);
	p->stream = NULL;
}

void peer_head(struct peer *p)
{
	if (!p)
		return;
	leave_guest(p);
	set_phase(p, HEAD, deadline_after_ms(PEER_HEAD_MS));
}

void peer_body(struct peer *p)
{
	if (!p)
		return;
	leave_guest(p);
	set_phase(p, BODY, deadline_after_ms(PEER_BODY_MS));
}

void peer_work(struct peer *p)
{
	if (!p)
		return;
	leave_guest(p);
	set_phase(p, WORK, DEADLINE_NEVER);
}

void peer_send(struct peer *p)
{
	if (!p)
		return;
	leave_guest(p);
	set_phase(p, SEND, deadline_after_ms(PEER_SEND_MS));
}

void peer_tunnel(struct peer *p)
{
	if (!p)
		return;
	leave_guest(p);
	set_phase(p, TUNNEL, DEADLINE_NEVER);
}

void peer_guest(struct peer *p, struct channel_stream *s)
{
	pthread_mutex_lock(&p->lock);
	p->stream = s;
	pthread_mutex_unlock(&p->lock);
	set_phase(p, GUEST, DEADLINE_NEVER);
}

int peer_claim(struct peer *p)
{
	LOCK_SCOPE(&p->all->lock);
	if (p->all->claimed >= PEERS_MAX_PROXIED)
		return -EAGAIN;
	p->all->claimed++;
	p->claimed = true;
	return 0;
}

void peer_unclaim(struct peer *p)
{
	LOCK_SCOPE(&p->all->lock);
	p->all->claimed -= p->claimed;
	p->claimed = false;
}

void peer_upgrade_ended(struct peer *p, struct MHD_UpgradeResponseHandle *urh)
{
	bool stopping;

	pthread_mutex_lock(&p->all->lock);
	stopping = atomic_load(&p->all->stopping);
	if (!stopping) {
		p->ended = urh;
		p->ended_ns = clock_now_ns();
	}
	pthread_mutex_unlock(&p->all->lock);
	if (stopping)
		(void)MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

/* --- connections come and go --------------------------------------------------------------------
 */

struct peer_address peer_address(const struct sockaddr *sa)
{
	const struct in6_addr *v6 = &((const struct sockaddr_in6 *)sa)->sin6_addr;
	struct peer_address a = {0};

	if (sa->sa_family == AF_INET) {
		a.bytes[10] = a.bytes[11] = 0xff; /* as IPv6 writes it */
		memcpy(a.bytes + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
	} else if (sa->sa_family == AF_INET6) {
		/* whoever has one address of a network /64 has all of it */
		memcpy(a.bytes, v6, IN6_IS_ADDR_V4MAPPED(v6) ? 16 : 8);
	}
	return a;
}

static struct peer *peer_new(struct peers *all, int fd, const struct sockaddr *sa)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->all = all;
	p->fd = fd;
	if (sa)
		p->address = peer_address(sa);
	pthread_mutex_init(&p->lock, NULL);
	peer_head(p);
	LOCK_SCOPE(&all->lock);
	p->next = all->first;
	p->prev = &all->first;
	if (p->next)
		p->next->prev = &p->next;
	all->first = p;
	all->n++;
	all->taken++;
	pthread_cond_broadcast(&all->changed);
	return p;
}

static void peer_free(struct peer *p)
{
	struct peers *all = p->all;

	pthread_mutex_lock(&all->lock);
	*p->prev = p->next;
	if (p->next)
		p->next->prev = p->prev;
	all->n--;
	all->n_displaced -= p->displaced;
	all->claimed -= p->claimed;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void peers_on_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
			 enum MHD_ConnectionNotificationCode code)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		const union MHD_ConnectionInfo *from =
			MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

		*socket_context = peer_new(cls, info->connect_fd, from ? from->client_addr : NULL);
		if (!*socket_context)
			(void)shutdown(info->connect_fd, SHUT_RDWR); /* no memory: not served */
	} else if (*socket_context) {
		peer_free(*socket_context);
		*socket_context = NULL;
	}
}

struct peer *peer_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}
