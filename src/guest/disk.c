/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.c - mkfs.ext4 on a sparse file, then qemu-img
 *
 *  -E hash_seed, E2FSPROGS_FAKE_TIME, -U   nothing random and no time in it
 *  -E lazy_itable_init                     inode tables are holes, and known to be zeros: the guest
 *                                          does not write them in the background
 *  -J size=16                              the journal is written round and round, and each sleep
 *                                          stores what was written: 16 MiB at most (4 on small
 * ones) -m 0                                    nothing is kept back for root: it is one user's
 * disk
 */
#include "guest/disk.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "guest/cache.h"

/* Raise when the same size gives another file system. */
#define BUILDER_VERSION "disk 1"

#define LOCK_TIMEOUT_MS 600000
#define SMALL_BYTES	(512ull << 20)
#define FS_UUID		"d0a70053-0000-4000-8000-000000000002"
#define FS_TIME		"E2FSPROGS_FAKE_TIME=1577836800"

static int make_sparse(const char *path, uint64_t bytes)
{
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	return fd < 0 ? error_errno() : error_trace(fd_truncate(fd, bytes));
}

static int run_mkfs(struct cache *c, const char *raw, uint64_t bytes)
{
	return cache_run(c, "making the empty disk's file system", NULL,
			 (const char *const[]){
				 "env", FS_TIME, "mkfs.ext4", "-q", "-F", "-U", FS_UUID, "-E",
				 "hash_seed=" FS_UUID ",lazy_itable_init=1,lazy_journal_init=1,"
				 "root_owner=0:0",
				 "-J", bytes < SMALL_BYTES ? "size=4" : "size=16", "-m", "0", "-b",
				 "4096", "-I", "256", raw, NULL},
			 NULL);
}

static int make(struct cache *c, const char *dir, uint64_t bytes)
{
	_cleanup_free_ char *raw = str_printf("%s/raw", dir);
	_cleanup_free_ char *disk = str_printf("%s/disk.qcow2", dir);
	int r = raw && disk ? make_sparse(raw, bytes) : -ENOMEM;

	if (r == 0)
		r = run_mkfs(c, raw, bytes);
	if (r < 0)
		problem_hint(c->problem, "apt-get install e2fsprogs");
	if (r == 0) {
		r = cache_run(c, "making the empty disk", NULL,
			      (const char *const[]){"qemu-img", "convert", "-q", "-f", "raw", "-O",
						    "qcow2", raw, disk, NULL},
			      NULL);
		if (r < 0)
			problem_hint(c->problem, "apt-get install qemu-utils");
	}
	if (r == 0 && unlink(raw) < 0)
		r = error_errno();
	return error_trace(r);
}

static int make_artefact(struct cache *c, const char *digest, uint64_t bytes, char ret_dir[4096])
{
	char dir[4096];
	int r = cache_begin(c, "disk", dir);

	if (r < 0)
		return r;
	cache_say(c, "making an empty disk of %" PRIu64 " MiB", bytes >> 20);
	r = make(c, dir, bytes);
	if (r == 0)
		r = cache_commit(c, "disk", digest, ret_dir);
	if (r < 0)
		cache_abort(c, "disk");
	return error_trace(r);
}

static int take_digest(uint64_t bytes, char out[CACHE_DIGEST_LEN + 1])
{
	struct cache_digest *d = cache_digest_new(BUILDER_VERSION);

	if (!d)
		return error_trace(-ENOMEM);
	cache_digest_add(d, &bytes, sizeof(bytes));
	cache_digest_get(d, out);
	cache_digest_free(d);
	return 0;
}

int guest_disk_prepare(const char *cache_dir, uint64_t bytes, guest_progress progress,
		       void *userdata, struct problem *problem, char ret_path[4096])
{
	_cleanup_cache_ struct cache c = CACHE_INIT;
	char digest[CACHE_DIGEST_LEN + 1], dir[4096];
	int r;

	if (bytes < GUEST_DISK_MIN_BYTES || bytes > GUEST_DISK_MAX_BYTES || bytes % (1u << 20)) {
		problem_set(problem, 400,
			    "a disk of %" PRIu64 " bytes: whole MiB from %llu to %llu", bytes,
			    GUEST_DISK_MIN_BYTES >> 20, GUEST_DISK_MAX_BYTES >> 20);
		return -EINVAL;
	}
	c.progress = progress;
	c.userdata = userdata;
	c.problem = problem;
	r = cache_open(&c, cache_dir, deadline_after_ms(LOCK_TIMEOUT_MS));
	if (r == 0)
		r = take_digest(bytes, digest);
	if (r == 0)
		r = cache_find(&c, "disk", digest, dir);
	if (r == CACHE_E_ABSENT)
		r = make_artefact(&c, digest, bytes, dir);
	if (r == 0 && (size_t)snprintf(ret_path, 4096, "%s/disk.qcow2", dir) >= 4096)
		r = -ENAMETOOLONG;
	return error_trace(r);
}
