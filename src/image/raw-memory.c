/* SPDX-License-Identifier: Apache-2.0 */
#include "image/raw-memory.h"

#include <errno.h>
#include <string.h>

int raw_importer_new(struct store *store, const struct raw_import_options *options,
		     struct problem *problem, struct raw_importer **ret)
{
	return -ENOSYS;
}

struct raw_importer *raw_importer_free(struct raw_importer *m)
{
	return NULL;
}

int raw_importer_write(struct raw_importer *m, const void *data, size_t len,
		       struct problem *problem)
{
	return -ENOSYS;
}

int raw_importer_finish(struct raw_importer *m, struct problem *problem, char ret_id[ID_LEN + 1],
			struct image_writer_stats *ret_stats)
{
	return -ENOSYS;
}

int raw_exporter_new(int dirfd, const struct keyring *keys, struct problem *problem,
		     struct raw_exporter **ret)
{
	return -ENOSYS;
}

struct raw_exporter *raw_exporter_free(struct raw_exporter *x)
{
	return NULL;
}

ssize_t raw_exporter_read(struct raw_exporter *x, void *buf, size_t len, struct problem *problem)
{
	return -ENOSYS;
}
