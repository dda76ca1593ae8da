/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * rules.h - whom a sandbox may talk to
 *
 * An entry names addresses, and ports if it likes: "1.2.3.0/24", "1.2.3.4:443",
 * "[2001:db8::/32]:80-90", "0.0.0.0/0". A judgement looks at the remote end of a packet, and the
 * first of these that applies decides:
 *
 *   1. never: the host's loopback, the sandbox's own little network, nonsense as 0.0.0.0/8
 *   2. an entry of allow
 *   3. an entry of deny
 *   4. the resolver that the sandbox was given: as far as the internet is allowed
 *   5. not unless allow names it: private, link-local and shared ranges, multicast, addresses that
 *      hold other addresses (NAT64, 6to4, Teredo), the host's own addresses
 *   6. the rest is the internet: allowed or not as a whole
 *
 * To "name" one of 5, an entry must lie within it: "10.1.0.0/16" opens a part of 10.0.0.0/8, but
 * "0.0.0.0/0" means the internet and opens none. So one is not opened by accident.
 *
 * Plain values without pointers; functions are pure. Any thread.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"
#include "net/address.h"

#define RULES_MAX      256 /* entries of each list */
#define RULES_MAX_HOST 64

struct rule {
	struct address address;
	uint8_t prefix; /* bits */
	bool has_ports; /* then it means TCP and UDP only */
	uint16_t first, last;
};

struct rules {
	bool internet;
	uint32_t n_allow, n_deny, n_host;
	struct rule allow[RULES_MAX];
	struct rule deny[RULES_MAX];
	struct address host[RULES_MAX_HOST]; /* the host's own */
};

/**
 * rule_parse() - one entry
 * Return: 0; -EINVAL, with a 400 in @problem that says what is wrong with @text
 */
int rule_parse(const char *text, struct problem *problem, struct rule *ret);

/**
 * rules_parse() - from {"internet": bool, "allow": [...], "deny": [...], "host": [...]}
 * All members may be absent: then false, and empty.
 * Return: 0; -EINVAL with a 400
 */
int rules_parse(const json_t *o, struct problem *problem, struct rules *ret);

/**
 * rules_allow() - may packets of @protocol (IPPROTO_...) go to and come from @remote?
 * @port: of the remote end; of TCP and UDP only
 */
bool rules_allow(const struct rules *r, const struct address *remote, int protocol, uint16_t port);
