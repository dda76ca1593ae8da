/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * cache.h - artefacts that are made once and found again
 *
 *     <cache>/lock                      held (flock) from cache_open() to cache_close()
 *             kernel-<digest>/vmlinuz   an artefact: a directory of files, named by its inputs
 *                             seal      one line per file: XXH3-128, size, name
 *             tmp.kernel/               one that is being made; removed by the next cache_open()
 *
 * An artefact is made in a directory from cache_begin() and appears by one rename in
 * cache_commit(), files first fsynced; so a crash leaves nothing, or all of it. cache_find() reads
 * every file back against the seal (a few milliseconds for a kernel): one that does not match is
 * removed and made again. Of each kind the two last used stay; a running VM, or a snapshot that
 * linked the file, is not disturbed when an older one goes.
 *
 * A digest is taken over everything that an artefact is made of (cache_digest_*), including the
 * version of the code that makes it.
 *
 * One thread per struct; other processes and threads wait for the lock.
 */
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/problem.h"
#include "guest/guest.h"

struct cache {
	char dir[2048];
	int dir_fd;
	int lock_fd;
	guest_progress progress; /* may be NULL */
	void *userdata;
	struct problem *problem; /* may be NULL */
};

#define CACHE_INIT ((struct cache){.dir_fd = -1, .lock_fd = -1})

/** cache_open() - create the directory, wait for the lock, clean up what a crash left */
int cache_open(struct cache *c, const char *dir, uint64_t deadline_ns);

/** cache_close() - give up the lock; accepts CACHE_INIT; also the cleanup function */
void cache_close(struct cache *c);
#define _cleanup_cache_ __attribute__((cleanup(cache_close)))

/** cache_say() - tell whoever waits which step has begun */
void cache_say(struct cache *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/**
 * cache_run() - run a program to its end
 * @what:   for the problem: "unpacking the kernel package"
 * @cwd:    may be NULL
 * @output: appended; may be NULL
 * Return: 0; -EIO when it failed (the problem holds the end of its output); negative errno
 */
int cache_run(struct cache *c, const char *what, const char *cwd, const char *const argv[],
	      struct buf *output);

#define CACHE_DIGEST_LEN 32

/* A digest that is being taken; feed it, then read it once. */
struct cache_digest;
struct cache_digest *cache_digest_new(const char *version);
struct cache_digest *cache_digest_free(struct cache_digest *d);
void cache_digest_add(struct cache_digest *d, const void *data, size_t len);
void cache_digest_get(struct cache_digest *d, char out[CACHE_DIGEST_LEN + 1]);

/**
 * cache_find() - the artefact @kind-@digest
 * @ret: its path
 * Return: 0; CACHE_E_ABSENT when it is not there (any more); negative errno
 */
#define CACHE_E_ABSENT 1
int cache_find(struct cache *c, const char *kind, const char *digest, char ret[4096]);

/** cache_begin() - an empty directory to make an artefact in; @ret is its path */
int cache_begin(struct cache *c, const char *kind, char ret[4096]);

/** cache_commit() - seal and publish what cache_begin() gave; only plain files may be in it */
int cache_commit(struct cache *c, const char *kind, const char *digest, char ret[4096]);

/** cache_abort() - throw away what cache_begin() gave; absent is fine */
void cache_abort(struct cache *c, const char *kind);
