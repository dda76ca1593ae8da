/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rewrap.c - key rotation
 *
 * The new file takes the old one's name by rename, so that at every moment one of them is there,
 * whole. Clones that shared the old file keep it, and are rewrapped when their turn comes.
 */
#include "image/rewrap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
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

static int write_new(int root_fd, const char *path, const char *text)
{
	_cleanup_fd_ int fd =
		openat(root_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	int r;

	if (fd < 0)
		return error_errno();
	r = fd_write_full(fd, text, strlen(text));
	if (r == 0 && fchmod(fd, 0444) < 0) /* whatever the umask is */
		r = error_errno();
	return r < 0 ? error_trace(r) : fd_sync(fd);
}

static int replace(int root_fd, int dirfd, const struct seal *seal, struct problem *problem)
{
	_cleanup_free_ char *text = NULL;
	char id[ID_LEN + 1], path[ID_LEN + 8];
	int r = seal_encode(seal, &text);

	if (r < 0)
		return error_trace(r);
	id_new('r', id);
	(void)snprintf(path, sizeof(path), "tmp/%s", id);
	r = write_new(root_fd, path, text);
	if (r == 0 && renameat(root_fd, path, dirfd, "seal") < 0)
		r = error_errno();
	if (r < 0) {
		(void)unlinkat(root_fd, path, 0); /* store_open() removes what stays */
		problem_errno(problem, r, "seal: writing it anew");
		return r;
	}
	r = file_fsync_dir(dirfd);
	if (r < 0)
		problem_errno(problem, r, "seal: making its rename durable");
	return error_trace(r);
}

static int rewrap(int root_fd, int dirfd, const struct seal *seal, const struct keyring *keys,
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
	return r ? r : replace(root_fd, dirfd, &made, problem);
}

int snapshot_rewrap(int root_fd, int dirfd, const struct keyring *keys, struct problem *problem)
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
		r = rewrap(root_fd, dirfd, &seal, keys, problem);
	if (r < 0)
		problem_errno(problem, r, "seal: wrapping it anew");
	return error_trace(r);
}
