/* SPDX-License-Identifier: Apache-2.0 */
#include "image/store-index.h"

#include <errno.h>
#include <string.h>

int store_index_open(struct store *store, struct problem *problem, struct store_index **ret)
{
	return -ENOSYS;
}

struct store_index *store_index_close(struct store_index *x)
{
	return NULL;
}

int store_index_each(struct store_index *x, index_visit visit, void *userdata)
{
	return -ENOSYS;
}

int store_index_rebuild(struct store_index *x, index_progress progress, void *userdata,
			uint64_t *ret_n)
{
	return -ENOSYS;
}
