/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rewrap.c - key rotation
 *
 * The new file takes the old one's name by rename, so that at every moment one of them is there,
 * whole. Clones that shared the old file keep it, and are rewrapped when their turn comes.
 */
#include "image/rewrap.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/manifest.h"
#include "image/outcome.h"
#include "image/page-map.h"
#include "image/seal.h"

static int read_map(int dirfd, struct problem *problem, char **ret, size_t *ret_len)
{
	_cleanup_fd_ int fd = -1;
	int r = plain_file_open(dirfd, "map", "map", problem, &fd, NULL); /* suspicion first */

	if (r)
		return r;
	r = file_read(dirfd, "map", PAGE_MAP_MAX_BYTES, ret, ret_len);
	if (r == -EFBIG)
		return image_corrupt(problem, "map: more than %u bytes", PAGE_MAP_MAX_BYTES);
	return r;
}

static int rewrap(int dirfd, const struct seal *seal, const struct keyring *keys,
		  struct problem *problem)
{
	_cleanup_free_ char *map = NULL, *manifest = NULL;
	_cleanup_(seal_deinit) struct seal made = {0};
	size_t map_len = 0, manifest_len = 0;
	int r = read_map(dirfd, problem, &map, &map_len);

	if (r == 0 && seal->has_manifest)
		r = manifest_read_text(dirfd, problem, &manifest, &manifest_len);
	if (r == 0)
		r = seal_rewrap(seal, keys, map, map_len, manifest, manifest_len, problem, &made);
	return r ? r : seal_put(&made, dirfd, problem);
}

int snapshot_rewrap(int dirfd, const struct keyring *keys, struct problem *problem)
{
	_cleanup_(seal_deinit) struct seal seal = {0};
	int r = seal_read(dirfd, problem, &seal);

	if (r == SEAL_E_ABSENT)
		return REWRAP_E_CURRENT;
	if (r == 0 && !keyring_n_keys(keys)) {
		problem_set(problem, 400, "seal: the key ring is empty");
		r = -EINVAL;
	}
	if (r == 0 && !strcmp(seal.key_id, keyring_id(keys, 0)))
		return REWRAP_E_CURRENT;
	if (r == 0)
		r = rewrap(dirfd, &seal, keys, problem);
	if (r < 0)
		problem_errno(problem, r, "seal: wrapping it anew");
	return error_trace(r);
}
