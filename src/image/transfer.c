/* SPDX-License-Identifier: Apache-2.0 */
#include "image/transfer.h"

#include <errno.h>
#include <string.h>

int exporter_new(int dirfd, const struct export_options *options, struct problem *problem,
		 struct exporter **ret)
{
	return -ENOSYS;
}

struct exporter *exporter_free(struct exporter *x)
{
	return NULL;
}

uint64_t exporter_bytes(const struct exporter *x)
{
	return 0;
}

ssize_t exporter_read(struct exporter *x, void *buf, size_t len, struct problem *problem)
{
	return -ENOSYS;
}

int importer_new(struct store *store, const struct import_options *options, struct problem *problem,
		 struct importer **ret)
{
	return -ENOSYS;
}

struct importer *importer_free(struct importer *m)
{
	return NULL;
}

int importer_write(struct importer *m, const void *data, size_t len, struct problem *problem)
{
	return -ENOSYS;
}

int importer_finish(struct importer *m, struct problem *problem, struct import_stats *ret)
{
	return -ENOSYS;
}

int transfer_each_layer(struct store *store, int (*visit)(void *userdata, const char *layer_id),
			void *userdata)
{
	return -ENOSYS;
}
