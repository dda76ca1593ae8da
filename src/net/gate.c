/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worked example, of a guest that was asleep in the middle of a download. Its kernel sends what
 * it had to say: an ACK of a connection that this gate has not seen begin. The answer is a reset
 * with the ACK's own number, which the guest's kernel believes, and the program has ECONNRESET. If
 * it was the other end's turn to speak, nothing comes by here; for those the agent ends the guest's
 * sockets itself when it repairs a woken guest.
 *
 * A connection that rules refuse half-way: the guest's next segment is answered as above, and in
 * its place passt gets a reset, so that it lets go of the socket that it had on the host.
 */
#include "net/gate.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "net/flows.h"

struct gate {
	struct rules rules;
	struct flows *flows; /* TCP connections */
	struct flows *asked; /* whom the guest has sent datagrams: they may answer */
	uint64_t n_forwarded[2], n_refused[2], n_bad[2], n_stale; /* by direction */
};

int gate_new(struct gate **ret)
{
	struct gate *g = calloc(1, sizeof(*g));
	int r = g ? flows_new(&g->flows) : -ENOMEM;

	if (r == 0)
		r = flows_new(&g->asked);
	if (r < 0) {
		gate_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

struct gate *gate_free(struct gate *g)
{
	if (g) {
		flows_free(g->flows);
		flows_free(g->asked);
	}
	free(g);
	return NULL;
}

static void ends_of(const struct flow *f, struct packet_end *guest, struct packet_end *remote)
{
	*guest = (struct packet_end){.port = f->guest_port};
	*remote = (struct packet_end){.port = f->remote_port, .address = f->remote};
	(void)address_parse(f->remote.family == 4 ? NET_GUEST_V4 : NET_GUEST_V6,
			    &guest->address); /* ours: it is right */
	mac_parse(NET_GUEST_MAC, guest->mac);
	mac_parse(NET_GATEWAY_MAC, remote->mac);
}

static size_t reset_to_remote(const struct flow *f, uint8_t out[PACKET_MAX_REFUSAL])
{
	struct packet_end guest, remote;

	ends_of(f, &guest, &remote);
	return packet_reset(&guest, &remote, f->guest_next, f->remote_next, true, out);
}

static size_t reset_to_guest(const struct flow *f, uint8_t out[PACKET_MAX_REFUSAL])
{
	struct packet_end guest, remote;

	ends_of(f, &guest, &remote);
	return packet_reset(&remote, &guest, f->remote_next, f->guest_next, true, out);
}

static void refuse(struct gate *g, enum packet_kind kind, const struct packet *p,
		   struct gate_result *ret)
{
	struct flow *f = NULL;

	if (kind == PACKET_TCP)
		f = flows_find(g->flows, &p->target, p->target_port, p->source_port);
	if (f) {
		ret->n_onward = reset_to_remote(f, ret->onward);
		flows_remove(g->flows, f);
	}
	ret->n_back = packet_refuse(kind, p, ret->back);
	g->n_refused[PACKET_FROM_GUEST]++;
}

static void learn(struct flow *f, const struct packet *p)
{
	f->guest_next =
		p->seq + p->n_payload + !!(p->flags & PACKET_SYN) + !!(p->flags & PACKET_FIN);
	if (p->flags & PACKET_ACK)
		f->remote_next = p->ack;
}

/* A TCP segment that the rules allow. */
static void pass_tcp(struct gate *g, const struct packet *p, struct gate_result *ret)
{
	struct flow *f = flows_find(g->flows, &p->target, p->target_port, p->source_port);

	if (!f && (p->flags & (PACKET_SYN | PACKET_ACK | PACKET_RST)) == PACKET_SYN)
		f = flows_add(g->flows, &p->target, p->target_port, p->source_port);
	if (!f) {
		g->n_stale++;
		ret->n_back = packet_refuse(PACKET_TCP, p, ret->back);
		return;
	}
	ret->n_forward = p->len;
	learn(f, p);
	if (p->flags & PACKET_RST)
		flows_remove(g->flows, f);
}

static void pass_udp(struct gate *g, const struct packet *p, struct gate_result *ret)
{
	if (!flows_find(g->asked, &p->target, p->target_port, p->source_port))
		(void)flows_add(g->asked, &p->target, p->target_port, p->source_port);
	ret->n_forward = p->len;
}

static void from_guest(struct gate *g, enum packet_kind kind, const struct packet *p,
		       struct gate_result *ret)
{
	if (kind == PACKET_LINK)
		ret->n_forward = p->len;
	else if (!rules_allow(&g->rules, &p->target, p->protocol, p->target_port))
		refuse(g, kind, p, ret);
	else if (kind == PACKET_TCP)
		pass_tcp(g, p, ret);
	else if (kind == PACKET_UDP)
		pass_udp(g, p, ret);
	else
		ret->n_forward = p->len;
}

/* Has the guest begun this? passt takes datagrams from anybody once it has bound a port. */
static bool is_answer(struct gate *g, enum packet_kind kind, const struct packet *p)
{
	struct flows *flows = kind == PACKET_TCP ? g->flows : g->asked;

	if (kind == PACKET_LINK || kind == PACKET_ICMP)
		return true;
	return rules_allow(&g->rules, &p->source, p->protocol, p->source_port) &&
	       flows_find(flows, &p->source, p->source_port, p->target_port);
}

/*
 * passt's resets are written anew: one of 2023 leaves out the ACK that the answer to a SYN must
 * have, and the guest would go on trying.
 */
static void to_guest(struct gate *g, enum packet_kind kind, const struct packet *p,
		     struct gate_result *ret)
{
	struct flow *f;

	if (!is_answer(g, kind, p)) {
		g->n_refused[PACKET_TO_GUEST]++;
		return;
	}
	if (kind != PACKET_TCP || !(p->flags & PACKET_RST)) {
		ret->n_forward = p->len;
		return;
	}
	f = flows_find(g->flows, &p->source, p->source_port, p->target_port);
	ret->n_onward = reset_to_guest(f, ret->onward);
	flows_remove(g->flows, f);
}

void gate_judge(struct gate *g, enum packet_direction direction, const uint8_t *frame, size_t len,
		struct gate_result *ret)
{
	struct packet p;
	enum packet_kind kind = packet_parse(frame, len, direction, &p);

	ret->n_forward = ret->n_back = ret->n_onward = 0;
	if (kind == PACKET_BAD)
		g->n_bad[direction]++;
	else if (direction == PACKET_FROM_GUEST)
		from_guest(g, kind, &p, ret);
	else
		to_guest(g, kind, &p, ret);
	g->n_forwarded[direction] += ret->n_forward > 0;
}

struct sweep {
	struct gate *gate;
	void (*send)(void *userdata, enum packet_direction direction, const uint8_t *frame,
		     size_t len);
	void *userdata;
};

static void reset_refused(void *userdata, struct flow *f)
{
	struct sweep *s = userdata;
	uint8_t frame[PACKET_MAX_REFUSAL];

	if (rules_allow(&s->gate->rules, &f->remote, IPPROTO_TCP, f->remote_port))
		return;
	s->send(s->userdata, PACKET_TO_GUEST, frame, reset_to_guest(f, frame));
	s->send(s->userdata, PACKET_FROM_GUEST, frame, reset_to_remote(f, frame));
	flows_remove(s->gate->flows, f);
}

void gate_set_rules(struct gate *g, const struct rules *rules,
		    void (*send)(void *userdata, enum packet_direction direction,
				 const uint8_t *frame, size_t len),
		    void *userdata)
{
	struct sweep s = {g, send, userdata};

	g->rules = *rules;
	flows_each(g->flows, reset_refused, &s);
}

json_t *gate_counters(const struct gate *g)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "framesOut",
			 (json_int_t)g->n_forwarded[PACKET_FROM_GUEST], "framesIn",
			 (json_int_t)g->n_forwarded[PACKET_TO_GUEST], "refusedOut",
			 (json_int_t)g->n_refused[PACKET_FROM_GUEST], "refusedIn",
			 (json_int_t)g->n_refused[PACKET_TO_GUEST], "badOut",
			 (json_int_t)g->n_bad[PACKET_FROM_GUEST], "badIn",
			 (json_int_t)g->n_bad[PACKET_TO_GUEST], "staleConnections",
			 (json_int_t)g->n_stale, "connections", (int)flows_count(g->flows));
}
