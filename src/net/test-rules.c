/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "net/rules.h"

static void test_entries(void **state)
{
	static const struct {
		const char *text;
		int family, prefix, first, last; /* family 0: refused */
	} cases[] = {
		{"1.2.3.4", 4, 32, 0, 65535},
		{"1.2.3.0/24", 4, 24, 0, 65535},
		{"0.0.0.0/0", 4, 0, 0, 65535},
		{"1.2.3.4:443", 4, 32, 443, 443},
		{"1.2.3.0/24:80-90", 4, 24, 80, 90},
		{"2001:db8::1", 6, 128, 0, 65535},
		{"2001:db8::/32", 6, 32, 0, 65535},
		{"[2001:db8::/32]:80-90", 6, 32, 80, 90},
		{"[2001:db8::1]", 6, 128, 0, 65535},
		{"::/0", 6, 0, 0, 65535},
		{""},
		{"1.2.3"},
		{"1.2.3.4/33"},
		{"1.2.3.4/"},
		{"1.2.3.4/24"},
		{"1.2.3.4:"},
		{"1.2.3.4:0"},
		{"1.2.3.4:65536"},
		{"1.2.3.4:90-80"},
		{"1.2.3.4:80-"},
		{"1.2.3.4:-80"},
		{"[1.2.3.4]:80"},
		{"[2001:db8::1"},
		{"[2001:db8::1]80"},
		{"2001:db8::/129"},
		{"2001:db8::1/32"},
		{"example.com"},
		{"*.example.com"},
		{"abc.de"},
		{"localhost:80"},
		{"1.2.3.4:http"},
		{" 1.2.3.4"},
		{"1.2.3.4 "},
		{"010.1.2.3"},
		{"2001:0db8:0000:0000:0000:0000:0000:0001/128:12345-12346-00000000000000000"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct problem p = PROBLEM_INIT;
		struct rule r = {0};
		int e = rule_parse(cases[i].text, &p, &r);

		if (e != (cases[i].family ? 0 : -EINVAL))
			fail_msg("'%s': %d", cases[i].text, e);
		if (e < 0) {
			assert_int_equal(p.status, 400);
			continue;
		}
		assert_int_equal(r.address.family, cases[i].family);
		assert_int_equal(r.prefix, cases[i].prefix);
		assert_int_equal(r.first, cases[i].first);
		assert_int_equal(r.last, cases[i].last);
	}
}

static void test_names_are_refused_as_such(void **state)
{
	struct problem p = PROBLEM_INIT;
	struct rule r;

	assert_int_equal(rule_parse("api.example.com", &p, &r), -EINVAL);
	assert_non_null(strstr(p.message, "names of hosts"));
}

static struct rules *parse(const char *text)
{
	static struct rules rules;
	json_t *o = json_loads(text, 0, NULL);
	struct problem p = PROBLEM_INIT;

	assert_non_null(o);
	if (rules_parse(o, &p, &rules) < 0)
		fail_msg("%s: %s", text, p.message);
	json_decref(o);
	return &rules;
}

static void expect(const struct rules *r, const char *address, int protocol, int port, bool allowed)
{
	struct address a;

	assert_int_equal(address_parse(address, &a), 0);
	if (rules_allow(r, &a, protocol, (uint16_t)port) != allowed)
		fail_msg("%s protocol %d port %d is %sallowed", address, protocol, port,
			 allowed ? "not " : "");
}

static const char *const sheltered[] = {
	"10.0.0.1",	     "10.255.255.255", "100.64.0.1",
	"169.254.169.254",   "172.16.0.1",     "172.31.255.255",
	"192.168.1.1",	     "198.18.0.1",     "224.0.0.251",
	"192.0.0.8",	     "fc00::1",	       "fdff::1",
	"fe80::1",	     "ff02::1",	       "64:ff9b::0a00:0001",
	"2002:0a00:0001::1", "2001:0000:1::1", "fec0::1",
};

static const char *const never[] = {
	"127.0.0.1",	  "127.255.255.255",   "0.0.0.0",   "0.1.2.3", "255.255.255.255",
	"240.0.0.1",	  "10.0.2.2",	       "10.0.2.15", "::1",     "::",
	"::ffff:1.2.3.4", "fd64:6f72:6d00::2",
};

static const char *const open[] = {
	"1.1.1.1",     "9.255.255.255",	  "11.0.0.0",	    "172.15.255.255",
	"172.32.0.0",  "192.0.2.1",	  "100.63.255.255", "100.128.0.0",
	"169.253.0.1", "223.255.255.255", "2600::1",	    "2001:4860::8888",
};

static void test_default(void **state)
{
	const struct rules *r = parse("{\"internet\":true,\"host\":[\"1.2.3.4\",\"2600::9\"]}");

	for (size_t i = 0; i < ARRAY_SIZE(open); i++) {
		expect(r, open[i], IPPROTO_TCP, 443, true);
		expect(r, open[i], IPPROTO_ICMP, 0, true);
	}
	for (size_t i = 0; i < ARRAY_SIZE(sheltered); i++)
		expect(r, sheltered[i], IPPROTO_TCP, 443, false);
	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		expect(r, never[i], IPPROTO_TCP, 443, false);
	expect(r, "1.2.3.4", IPPROTO_TCP, 22, false); /* the host itself */
	expect(r, "2600::9", IPPROTO_TCP, 22, false);
	expect(r, "10.0.2.3", IPPROTO_UDP, 53, true); /* the resolver */
	expect(r, "10.0.2.3", IPPROTO_TCP, 53, false);
	expect(r, "10.0.2.3", IPPROTO_UDP, 54, false);
}

/* Nothing given, nothing allowed: what dorm-net starts with. */
static void test_empty(void **state)
{
	const struct rules *r = parse("{}");

	for (size_t i = 0; i < ARRAY_SIZE(open); i++)
		expect(r, open[i], IPPROTO_TCP, 443, false);
	expect(r, "10.0.2.3", IPPROTO_UDP, 53, false);
}

static void test_all_of_the_internet_opens_nothing_sheltered(void **state)
{
	const struct rules *r = parse("{\"internet\":true,\"allow\":[\"0.0.0.0/0\",\"::/0\"],"
				      "\"host\":[\"1.2.3.4\"]}");

	expect(r, "1.1.1.1", IPPROTO_TCP, 443, true);
	expect(r, "1.2.3.4", IPPROTO_TCP, 443, false);
	for (size_t i = 0; i < ARRAY_SIZE(sheltered); i++)
		expect(r, sheltered[i], IPPROTO_TCP, 443, false);
	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		expect(r, never[i], IPPROTO_TCP, 443, false);
}

static void test_named(void **state)
{
	const struct rules *r = parse(
		"{\"internet\":false,\"allow\":[\"10.1.0.0/16:5432\",\"1.2.3.4\",\"127.0.0.1\","
		"\"169.254.169.254\",\"8.8.8.8:1-100\"],\"host\":[\"1.2.3.4\"]}");

	expect(r, "10.1.2.3", IPPROTO_TCP, 5432, true);
	expect(r, "10.1.2.3", IPPROTO_UDP, 5432, true);
	expect(r, "10.1.2.3", IPPROTO_ICMP, 0, false); /* an entry with ports has no ICMP */
	expect(r, "10.1.2.3", IPPROTO_TCP, 5433, false);
	expect(r, "10.2.2.3", IPPROTO_TCP, 5432, false);
	expect(r, "1.2.3.4", IPPROTO_TCP, 1, true);
	expect(r, "127.0.0.1", IPPROTO_TCP, 1, false); /* never */
	expect(r, "169.254.169.254", IPPROTO_TCP, 80, true);
	expect(r, "8.8.8.8", IPPROTO_TCP, 100, true);
	expect(r, "8.8.8.8", IPPROTO_TCP, 101, false);
	expect(r, "10.0.2.3", IPPROTO_UDP, 53, false); /* no internet, no names */
}

static void test_allow_wins(void **state)
{
	const struct rules *r = parse("{\"internet\":true,\"allow\":[\"1.1.1.1:443\"],"
				      "\"deny\":[\"0.0.0.0/0\"]}");

	expect(r, "1.1.1.1", IPPROTO_TCP, 443, true);
	expect(r, "1.1.1.1", IPPROTO_TCP, 80, false);
	expect(r, "9.9.9.9", IPPROTO_TCP, 443, false);
	expect(r, "2600::1", IPPROTO_TCP, 443, true); /* another family */
	expect(r, "10.0.2.3", IPPROTO_UDP, 53, false);
}

static void test_bad_objects(void **state)
{
	static const char *const texts[] = {
		"[]",
		"{\"internet\":1}",
		"{\"allow\":\"1.1.1.1\"}",
		"{\"allow\":[1]}",
		"{\"deny\":[\"nowhere\"]}",
		"{\"host\":[\"x\"]}",
		"{\"host\":[1]}",
	};
	static struct rules rules;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		json_t *o = json_loads(texts[i], 0, NULL);

		if (rules_parse(o, NULL, &rules) != -EINVAL)
			fail_msg("%s was accepted", texts[i]);
		json_decref(o);
	}
}

static void test_bounds(void **state)
{
	static struct rules rules;
	json_t *list = json_array(), *o = json_pack("{s:O}", "allow", list);

	for (int i = 0; i < RULES_MAX; i++)
		json_array_append_new(list, json_string("1.1.1.1"));
	assert_int_equal(rules_parse(o, NULL, &rules), 0);
	json_array_append_new(list, json_string("1.1.1.1"));
	assert_int_equal(rules_parse(o, NULL, &rules), -EINVAL);
	json_decref(list);
	json_decref(o);
}

TEST_MAIN(cmocka_unit_test(test_entries), cmocka_unit_test(test_names_are_refused_as_such),
	  cmocka_unit_test(test_default), cmocka_unit_test(test_empty),
	  cmocka_unit_test(test_all_of_the_internet_opens_nothing_sheltered),
	  cmocka_unit_test(test_named), cmocka_unit_test(test_allow_wins),
	  cmocka_unit_test(test_bad_objects), cmocka_unit_test(test_bounds))
