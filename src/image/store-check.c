/* SPDX-License-Identifier: Apache-2.0 */
#include "image/store-check.h"

#include <errno.h>
#include <string.h>

const char *finding_kind_name(enum finding_kind kind)
{
	return NULL;
}

int store_check(struct store *store, const struct check_options *options, struct problem *problem,
		struct check_stats *ret)
{
	return -ENOSYS;
}

int store_repair(struct store *store, struct store_index *index,
		 const struct check_options *options, struct problem *problem,
		 struct check_stats *ret)
{
	return -ENOSYS;
}
