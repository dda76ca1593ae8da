/* SPDX-License-Identifier: Apache-2.0 */
/*
 * incoming.c - finding layers in a store
 *
 * Directories are listed, and what is looked for is looked up in memory: a store with a thousand
 * snapshots has as many entries as links, but a snapshot has up to 4096 layers, and asking a
 * thousand directories for each of them would be four million system calls.
 */
#include "image/incoming.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/image.h"
#include "image/layer-format.h"
#include "image/transfer.h"

int store_open_incoming(struct store *store)
{
	return file_open_dir(store->root_fd, "incoming");
}

bool store_is_layer_name(const char *name)
{
	return strlen(name) == IMAGE_ID_LEN && strspn(name, "0123456789abcdef") == IMAGE_ID_LEN;
}

static bool is_ours(const char *name)
{
	return store_is_layer_name(name) || str_has_suffix(name, ".part");
}

int store_clean_incoming(int incoming_dirfd)
{
	const time_t oldest = (time_t)(clock_real_ns() / NSEC_PER_SEC) - INCOMING_MAX_AGE_S;
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	int r = file_opendir(incoming_dirfd, ".", &d);

	while (r == 0 && (e = readdir(d))) {
		if (!is_ours(e->d_name) ||
		    fstatat(incoming_dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    st.st_mtim.tv_sec >= oldest)
			continue;
		if (unlinkat(incoming_dirfd, e->d_name, 0) < 0 && errno != ENOENT)
			r = error_errno();
	}
	return error_trace(r);
}

/* ---- walking ----------------------------------------------------------------------------------
 */

struct walk {
	store_visit_layer visit;
	void *userdata;
};

/* Names first: a visitor may link and remove. */
static int visit_directory(const struct walk *w, int dirfd)
{
	_cleanup_buf_ struct buf names = {0};
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(dirfd, ".", &d);

	while (r == 0 && (e = readdir(d)))
		if (store_is_layer_name(e->d_name))
			r = buf_append(&names, e->d_name, strlen(e->d_name) + 1);
	for (size_t i = 0; r == 0 && i < names.len; i += strlen(names.data + i) + 1)
		r = w->visit(w->userdata, dirfd, names.data + i);
	return r;
}

/* The layers of one snapshot directory, which may be in the course of being deleted. */
static int visit_layers(const struct walk *w, int dirfd)
{
	_cleanup_fd_ int fd =
		openat(dirfd, "layers", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : error_errno();
	return visit_directory(w, fd);
}

static int visit_snapshot(void *userdata, const char *id, int dirfd)
{
	(void)id;
	return visit_layers(userdata, dirfd);
}

/* A sandbox has a snapshot directory for each generation of its memory: memory-3. */
static int visit_sandbox(void *userdata, const char *id, int dirfd)
{
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *e;
	int r = file_opendir(dirfd, ".", &d);

	(void)id;
	while (r == 0 && (e = readdir(d))) {
		_cleanup_fd_ int fd = -1;

		if (!str_has_prefix(e->d_name, "memory-"))
			continue;
		fd = openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0) /* otherwise it has just been removed, or is not ours */
			r = visit_layers(userdata, fd);
	}
	return r;
}

int store_each_layer_file(struct store *store, store_visit_layer visit, void *userdata)
{
	struct walk w = {.visit = visit, .userdata = userdata};
	_cleanup_fd_ int fd = store_open_incoming(store);
	int r = fd < 0 ? fd : visit_directory(&w, fd);

	if (r == 0)
		r = store_each(store, "snapshots", visit_snapshot, &w);
	return r ? r : store_each(store, "sandboxes", visit_sandbox, &w);
}

/* ---- their ids --------------------------------------------------------------------------------
 */

static int collect(void *userdata, int dirfd, const char *layer_id)
{
	(void)dirfd;
	return buf_append(userdata, layer_id, IMAGE_ID_LEN + 1);
}

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, IMAGE_ID_LEN);
}

int transfer_each_layer(struct store *store, int (*visit)(void *userdata, const char *layer_id),
			void *userdata)
{
	_cleanup_buf_ struct buf ids = {0};
	int r = store_each_layer_file(store, collect, &ids);

	if (r < 0)
		return error_trace(r);
	if (ids.len)
		qsort(ids.data, ids.len / (IMAGE_ID_LEN + 1), IMAGE_ID_LEN + 1, compare);
	for (size_t i = 0; r == 0 && i < ids.len; i += IMAGE_ID_LEN + 1)
		if (i == 0 || compare(ids.data + i, ids.data + i - (IMAGE_ID_LEN + 1)))
			r = visit(userdata, ids.data + i);
	return r;
}
