/* SPDX-License-Identifier: Apache-2.0 */
/* What cannot be added to a body for want of memory is left out; dormd then allows less. */
#include "cli/network-options.h"

void network_options_deinit(struct network_options *o)
{
	json_decref(o->allow);
	json_decref(o->deny);
}

bool network_options_given(const struct network_options *o)
{
	return o->network || o->no_internet || json_array_size(o->allow) ||
	       json_array_size(o->deny);
}

void network_options_create(const struct network_options *o, json_t *body)
{
	if (!network_options_given(o))
		return;
	(void)json_object_set_new(body, "allow_internet_access", json_boolean(!o->no_internet));
	(void)json_object_set_new(
		body, "network", json_pack("{s:O, s:O}", "allowOut", o->allow, "denyOut", o->deny));
}

json_t *network_options_change(const struct network_options *o)
{
	return json_pack("{s:b, s:O, s:O}", "allow_internet_access", !o->no_internet, "allowOut",
			 o->allow, "denyOut", o->deny);
}
