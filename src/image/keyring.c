/* SPDX-License-Identifier: Apache-2.0 */
#include "image/keyring.h"

#include <errno.h>
#include <string.h>

int keyring_new(struct keyring **ret)
{
	return -ENOSYS;
}

struct keyring *keyring_free(struct keyring *k)
{
	return NULL;
}

int keyring_add(struct keyring *k, const char *source, struct problem *problem)
{
	return -ENOSYS;
}

size_t keyring_n_keys(const struct keyring *k)
{
	return 0;
}

const char *keyring_id(const struct keyring *k, size_t i)
{
	return NULL;
}

int keyring_to_fd(const struct keyring *k, int *ret_fd)
{
	return -ENOSYS;
}

int keyring_from_fd(int fd, struct problem *problem, struct keyring **ret)
{
	return -ENOSYS;
}
