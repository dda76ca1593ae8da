/* SPDX-License-Identifier: Apache-2.0 */
#include "api/local-peer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define MAX_GROUPS 256

/* SO_PEERGROUPS: as they were when it connected (Linux 4.13) */
static bool is_member(int fd, const struct ucred *peer, gid_t group)
{
	gid_t groups[MAX_GROUPS];
	socklen_t len = sizeof(groups);

	if (group == (gid_t)-1)
		return false;
	if (peer->gid == group)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		return false; /* with more groups than that, too */
	for (size_t i = 0; i < len / sizeof(*groups); i++)
		if (groups[i] == group)
			return true;
	return false;
}

/* Not a line for every try */
static void note(const struct ucred *peer)
{
	static _Atomic uint64_t last_ns;
	uint64_t now_ns = clock_now_ns(), last = atomic_load(&last_ns);

	if ((!last || now_ns - last > NSEC_PER_SEC) &&
	    atomic_compare_exchange_strong(&last_ns, &last, now_ns))
		log_warn("refused uid=%u pid=%d at the unix socket", peer->uid, (int)peer->pid);
}

int local_peer_check(int fd, gid_t group, struct problem *problem, uint32_t *ret_uid)
{
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof(peer);
	int r = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ? -errno : 0;

	*ret_uid = peer.uid;
	if (r == 0 && (peer.uid == 0 || peer.uid == geteuid() || is_member(fd, &peer, group)))
		return 0;
	note(&peer);
	problem_set(problem, 403, "user %u may not use dormd's socket", peer.uid);
	problem_hint(problem, "root may, and the group of dormd's option --socket-group");
	return -EPERM;
}
