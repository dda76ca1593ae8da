/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * network-options.h - what run and network say about whom a sandbox may talk to
 *
 *     _cleanup_(network_options_deinit) struct network_options network = NETWORK_OPTIONS_INIT;
 *     const struct option_spec specs[] = {..., NETWORK_OPTIONS(network)};
 */
#include <jansson.h>
#include <stdbool.h>

#include "cli/options.h"

struct network_options {
	bool network, no_internet;
	json_t *allow, *deny; /* arrays of texts; owned */
};

#define NETWORK_OPTIONS_INIT ((struct network_options){.allow = json_array(), .deny = json_array()})

#define NETWORK_OPTIONS(_o)                                                                        \
	{0,	      "network",                                                                   \
	 OPTION_FLAG, &(_o).network,                                                               \
	 NULL,	      "connect it to the internet, but not to this host or private networks"},     \
		{0,                                                                                \
		 "allow",                                                                          \
		 OPTION_LIST,                                                                      \
		 &(_o).allow,                                                                      \
		 "CIDR[:PORT]",                                                                    \
		 "also to these addresses; may be repeated; implies --network"},                   \
		{0,                                                                                \
		 "deny",                                                                           \
		 OPTION_LIST,                                                                      \
		 &(_o).deny,                                                                       \
		 "CIDR[:PORT]",                                                                    \
		 "but not to these, unless they are allowed; may be repeated"},                    \
	{                                                                                          \
		0, "no-internet", OPTION_FLAG, &(_o).no_internet, NULL,                            \
			"to nothing but what --allow names"                                        \
	}

void network_options_deinit(struct network_options *o);

/** network_options_given() - was any of them given? */
bool network_options_given(const struct network_options *o);

/** network_options_create() - add to the body that creates a sandbox; nothing when not given */
void network_options_create(const struct network_options *o, json_t *body);

/** network_options_change() - the body of PUT /sandboxes/{id}/network. New reference */
json_t *network_options_change(const struct network_options *o);
