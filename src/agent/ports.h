/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * ports.h - the ports of the sandbox, for the host
 *
 *     POST /connect/{port}   a connection to that port of loopback (dial.h). 502: nobody listens;
 *                            429: PORTS_MAX connections; 503: not now, see below; 504
 *     GET  /ports            {"ports": [{port, address, family, uid, pid?, process?}]}
 * (listeners.h)
 *
 * For the host only: dormd decides who may reach which port. The listeners are looked up when
 * somebody asks; nothing is polled, and the kernel tells nobody of a new listener, so there are no
 * notifications: an idle agent never wakes up.
 *
 * Around a snapshot, called by prepare and repair:
 *
 *     ports_quiesce()  first of all steps, before the workload is frozen: from here new connections
 *                      and lists are answered with 503, and connections that have been silent for
 *                      PORTS_IDLE_MS are reset, so that both ends learn of it while they run
 *     (seal)           server_seal() resets every stream that is left: its connection is closed
 *     ports_resume()   when the sandbox is repaired, before clients are let in; also after a
 *                      prepare that came to nothing. A new agent is resumed
 */
#include "agent/router.h"

#define PORTS_MAX     224u /* of the channel's 256 streams: some stay for the rest */
#define PORTS_IDLE_MS 500u

struct ports;

int ports_new(struct ports **ret);
/** ports_free() - after the server, whose streams the connections are */
struct ports *ports_free(struct ports *p);
DEFINE_CLEANUP(struct ports *, ports_free)

/** ports_add() - add the routes */
int ports_add(struct router *r);

/** ports_quiesce() - see above. Return: how many idle connections were reset */
unsigned ports_quiesce(struct agent *a);

/** ports_resume() - accept again; harmless when it does already */
void ports_resume(struct agent *a);
