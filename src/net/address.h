/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* address.h - an IPv4 or IPv6 address, and the addresses that every sandbox has. Any thread. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * The same in every sandbox and every fork of it: each is alone on its own wire, so there is nobody
 * to be confused with, and what a guest has configured is as good after a wake as before.
 */
#define NET_GUEST_MAC	  "52:54:00:64:6f:01"
#define NET_GATEWAY_MAC	  "52:54:00:64:6f:02"
#define NET_GUEST_V4	  "10.0.2.15"
#define NET_GATEWAY_V4	  "10.0.2.2"
#define NET_RESOLVER_V4	  "10.0.2.3"
#define NET_PREFIX_V4	  24
#define NET_GUEST_V6	  "fd64:6f72:6d00::15"
#define NET_GATEWAY_V6	  "fd64:6f72:6d00::2"
#define NET_PREFIX_V6	  64
#define NET_MTU		  1500
#define NET_RESOLVER_PORT 53

struct address {
	uint8_t family;	   /* 4 or 6 */
	uint8_t bytes[16]; /* network order; of IPv4 the first 4, the others 0 */
};

/** address_from() - from @family and its 4 or 16 bytes */
static inline struct address address_from(int family, const uint8_t *bytes)
{
	struct address a = {.family = (uint8_t)family};

	memcpy(a.bytes, bytes, family == 4 ? 4 : 16);
	return a;
}

/** address_parse() - "1.2.3.4" or "2001:db8::1". Return: 0; -EINVAL */
int address_parse(const char *text, struct address *ret);

bool address_equal(const struct address *a, const struct address *b);

/** address_in() - are the first @prefix bits of @a those of @net? */
bool address_in(const struct address *a, const struct address *net, unsigned prefix);

/** mac_parse() - "52:54:00:64:6f:01", of ours: it must be right */
void mac_parse(const char *text, uint8_t ret[6]);
