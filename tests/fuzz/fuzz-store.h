/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* fuzz-store.h - a store of its own for a fuzz target, made once and removed at the end */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "fuzz.h"
#include "image/store.h"

static char root[64];
static struct store *store;

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void remove_root(void)
{
	store_close(store);
	(void)file_remove_tree(AT_FDCWD, root); /* it is a temporary directory */
}

static void open_store(void)
{
	struct problem problem = PROBLEM_INIT;
	bool memory = access("/dev/shm", W_OK) == 0;

	if (store)
		return;
	(void)snprintf(root, sizeof(root), "%s/dorm-fuzz.XXXXXX", memory ? "/dev/shm" : "/tmp");
	require(mkdtemp(root) && store_open(root, &problem, &store) == 0);
	require(atexit(remove_root) == 0);
}
