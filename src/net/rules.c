/* SPDX-License-Identifier: Apache-2.0 */
#include "net/rules.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define ENTRY_MAX 64 /* an IPv6 network with a range of ports takes 58 */

struct block {
	struct address address;
	uint8_t prefix;
};

#define V4(_prefix, ...)                                                                           \
	{                                                                                          \
		{4, {__VA_ARGS__}}, _prefix                                                        \
	}
#define V6(_prefix, ...)                                                                           \
	{                                                                                          \
		{6, {__VA_ARGS__}}, _prefix                                                        \
	}

/* Source: IANA's special-purpose address registries (RFC 6890). */
static const struct block never[] = {
	V4(8, 0),	  /* this network */
	V4(8, 127),	  /* loopback: passt would take it for the host's */
	V4(24, 10, 0, 2), /* the sandbox's own network: the gateway could stand for the host */
	V4(4, 240),	  /* reserved, and broadcast */
	V6(96, 0),	  /* unspecified, loopback, IPv4-compatible */
	V6(96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), /* IPv4-mapped */
	V6(64, 0xfd, 0x64, 0x6f, 0x72, 0x6d),		  /* the sandbox's own network */
};

static const struct block sheltered[] = {
	V4(8, 10),
	V4(10, 100, 64),  /* carriers' and clouds' */
	V4(16, 169, 254), /* link-local; clouds' metadata */
	V4(12, 172, 16),
	V4(24, 192, 0, 0),
	V4(16, 192, 168),
	V4(15, 198, 18),
	V4(4, 224),		     /* multicast */
	V6(96, 0, 0x64, 0xff, 0x9b), /* NAT64: any IPv4 address, of ours too */
	V6(48, 0, 0x64, 0xff, 0x9b, 0, 1),
	V6(32, 0x20, 0x01, 0, 0), /* Teredo */
	V6(16, 0x20, 0x02),	  /* 6to4 */
	V6(7, 0xfc),		  /* unique local */
	V6(10, 0xfe, 0x80),	  /* link-local */
	V6(10, 0xfe, 0xc0),	  /* site-local, as it once was */
	V6(8, 0xff),		  /* multicast */
};

/* ---- reading ----------------------------------------------------------------------------------
 */

static int bad(struct problem *problem, const char *text, const char *why)
{
	problem_set(problem, 400, "'%.80s' is no network rule: %s", text, why);
	problem_hint(problem, "such as 1.2.3.0/24, 1.2.3.4:443, [2001:db8::/32]:80-90, 0.0.0.0/0");
	return -EINVAL;
}

/* "80" or "80-90" */
static int parse_ports(char *text, struct rule *r)
{
	char *dash = strchr(text, '-');
	uint64_t first, last;

	if (dash)
		*dash++ = 0;
	if (str_to_u64(text, &first) < 0 || str_to_u64(dash ? dash : text, &last) < 0 || !first ||
	    first > last || last > UINT16_MAX)
		return -EINVAL;
	r->has_ports = true;
	r->first = (uint16_t)first;
	r->last = (uint16_t)last;
	return 0;
}

/* "1.2.3.0/24". What the prefix does not cover must be zero: a slip of the pen otherwise. */
static int parse_network(char *text, struct rule *r)
{
	char *slash = strchr(text, '/');
	uint64_t prefix, most;
	unsigned bit;

	if (slash)
		*slash++ = 0;
	if (address_parse(text, &r->address) < 0)
		return -EINVAL;
	most = r->address.family == 4 ? 32 : 128;
	prefix = most;
	if (slash && (str_to_u64(slash, &prefix) < 0 || prefix > most))
		return -EINVAL;
	for (bit = (unsigned)prefix; bit < most; bit++)
		if (r->address.bytes[bit / 8] & 0x80 >> bit % 8)
			return -ERANGE;
	r->prefix = (uint8_t)prefix;
	return 0;
}

/* Take "[...]:ports" and "1.2.3.4:ports" apart, in place. A bare IPv6 network has no ports. */
static int split(char *text, char **ret_network, char **ret_ports)
{
	char *end;

	*ret_network = text;
	*ret_ports = NULL;
	if (*text == '[') {
		end = strchr(text, ']');
		if (!end || (end[1] && end[1] != ':'))
			return -EINVAL;
		*ret_network = text + 1;
		*ret_ports = end[1] ? end + 2 : NULL;
		*end = 0;
		return strchr(*ret_network, ':') ? 0 : -EINVAL;
	}
	end = strchr(text, ':');
	if (end && end == strrchr(text, ':')) {
		*end = 0;
		*ret_ports = end + 1;
	}
	return 0;
}

static bool looks_like_a_name(const char *s)
{
	static const char letters[] = "ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ*_";

	return s[strcspn(s, letters)] != 0 ||
	       (!strchr(s, ':') && s[strcspn(s, "abcdefABCDEF")] != 0);
}

int rule_parse(const char *text, struct problem *problem, struct rule *ret)
{
	struct rule r = {.last = UINT16_MAX};
	char copy[ENTRY_MAX], *network, *ports;
	int e;

	if (looks_like_a_name(text))
		return bad(problem, text, "names of hosts are not supported, only addresses are");
	if (strlen(text) >= sizeof(copy))
		return bad(problem, text, "it is too long");
	str_copy(copy, sizeof(copy), text);
	if (split(copy, &network, &ports) < 0)
		return bad(problem, text, "brackets belong around an IPv6 network");
	e = parse_network(network, &r);
	if (e == -ERANGE)
		return bad(problem, text, "the address has bits that the prefix leaves out");
	if (e < 0)
		return bad(problem, text, "it is not an address or network");
	if (ports && parse_ports(ports, &r) < 0)
		return bad(problem, text, "ports are 1 to 65535, or a range such as 80-90");
	*ret = r;
	return 0;
}

static int parse_list(const json_t *o, const char *name, struct problem *problem,
		      struct rule rules[RULES_MAX], uint32_t *ret_n)
{
	json_t *list = json_object_get(o, name), *v;
	size_t i;

	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list) || json_array_size(list) > RULES_MAX) {
		problem_set(problem, 400, "%s: must be an array of at most %d texts", name,
			    RULES_MAX);
		return -EINVAL;
	}
	json_array_foreach (list, i, v) {
		if (!json_is_string(v)) {
			problem_set(problem, 400, "%s[%zu]: must be a text", name, i);
			return -EINVAL;
		}
		if (rule_parse(json_string_value(v), problem, &rules[i]) < 0)
			return -EINVAL;
	}
	*ret_n = (uint32_t)json_array_size(list);
	return 0;
}

static int parse_host(const json_t *list, struct problem *problem, struct rules *r)
{
	json_t *v;
	size_t i;

	json_array_foreach (list, i, v) {
		const char *text = json_string_value(v);

		if (r->n_host == RULES_MAX_HOST || !text ||
		    address_parse(text, &r->host[r->n_host]) < 0) {
			problem_set(problem, 400, "host: must be at most %d addresses",
				    RULES_MAX_HOST);
			return -EINVAL;
		}
		r->n_host++;
	}
	return 0;
}

int rules_parse(const json_t *o, struct problem *problem, struct rules *ret)
{
	json_t *internet = json_object_get(o, "internet");
	int r;

	*ret = (struct rules){.internet = json_is_true(internet)};
	if (!json_is_object(o) || (internet && !json_is_boolean(internet))) {
		problem_set(problem, 400, "rules are an object whose internet is true or false");
		return -EINVAL;
	}
	r = parse_list(o, "allow", problem, ret->allow, &ret->n_allow);
	if (r == 0)
		r = parse_list(o, "deny", problem, ret->deny, &ret->n_deny);
	return r < 0 ? r : parse_host(json_object_get(o, "host"), problem, ret);
}

/* ---- judging ----------------------------------------------------------------------------------
 */

static bool in_blocks(const struct block *blocks, size_t n, const struct address *a,
		      unsigned *ret_prefix)
{
	for (size_t i = 0; i < n; i++) {
		if (!address_in(a, &blocks[i].address, blocks[i].prefix))
			continue;
		*ret_prefix = blocks[i].prefix;
		return true;
	}
	return false;
}

/* Must it be named? Then by how many bits at least: 0 when it need not. */
static unsigned shelter(const struct rules *r, const struct address *a)
{
	unsigned prefix = 0;

	for (uint32_t i = 0; i < r->n_host; i++)
		if (address_equal(a, &r->host[i]))
			return a->family == 4 ? 32 : 128;
	(void)in_blocks(sheltered, ARRAY_SIZE(sheltered), a, &prefix); /* 0 then */
	return prefix;
}

static bool matches(const struct rule *rules, uint32_t n, const struct address *a, int protocol,
		    uint16_t port, unsigned least)
{
	bool has_port = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;

	for (uint32_t i = 0; i < n; i++) {
		const struct rule *r = &rules[i];

		if (r->prefix < least || !address_in(a, &r->address, r->prefix))
			continue;
		if (!r->has_ports || (has_port && port >= r->first && port <= r->last))
			return true;
	}
	return false;
}

static bool is_resolver(const struct address *a, int protocol, uint16_t port)
{
	static const struct address resolver = {4, {10, 0, 2, 3}}; /* NET_RESOLVER_V4 */

	return protocol == IPPROTO_UDP && port == NET_RESOLVER_PORT && address_equal(a, &resolver);
}

bool rules_allow(const struct rules *r, const struct address *remote, int protocol, uint16_t port)
{
	bool resolver = is_resolver(remote, protocol, port);
	unsigned named, ignored;

	if (!resolver && in_blocks(never, ARRAY_SIZE(never), remote, &ignored))
		return false;
	named = resolver ? 0 : shelter(r, remote);
	if (matches(r->allow, r->n_allow, remote, protocol, port, named))
		return true;
	if (matches(r->deny, r->n_deny, remote, protocol, port, 0))
		return false;
	return !named && r->internet;
}
