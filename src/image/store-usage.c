/* SPDX-License-Identifier: Apache-2.0 */
#include "image/store-usage.h"

#include <errno.h>
#include <string.h>

int store_usage(struct store *store, usage_visit visit, void *userdata, struct problem *problem,
		struct usage_total *ret)
{
	return -ENOSYS;
}
