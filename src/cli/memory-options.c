/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/memory-options.h"

#include <errno.h>

int memory_options_add(const struct memory_options *o, json_t *body)
{
	if (o->wait && json_object_set_new(body, "wait", json_string(o->wait)))
		return -EILSEQ;
	if (o->mode && json_object_set_new(body, "pagerMode", json_string(o->mode)))
		return -EILSEQ;
	return 0;
}
