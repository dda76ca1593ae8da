/* SPDX-License-Identifier: Apache-2.0 */
#include "net/address.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdio.h>

int address_parse(const char *text, struct address *ret)
{
	struct address a = {.family = strchr(text, ':') ? 6 : 4};

	if (inet_pton(a.family == 6 ? AF_INET6 : AF_INET, text, a.bytes) != 1)
		return -EINVAL;
	*ret = a;
	return 0;
}

bool address_equal(const struct address *a, const struct address *b)
{
	return a->family == b->family && !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

bool address_in(const struct address *a, const struct address *net, unsigned prefix)
{
	unsigned whole = prefix / 8, rest = prefix % 8;
	uint8_t mask = (uint8_t)(0xff << (8 - rest));

	if (a->family != net->family || memcmp(a->bytes, net->bytes, whole))
		return false;
	return !rest || (a->bytes[whole] & mask) == (net->bytes[whole] & mask);
}

void mac_parse(const char *text, uint8_t ret[6])
{
	int n = sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &ret[0], &ret[1], &ret[2], &ret[3],
		       &ret[4], &ret[5]);

	assert(n == 6);
	(void)n;
}
