/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-operations.h - everything that changes a store, one line each, and a store to do it to
 *
 * What crash, fault and power-cut tests share: for each operation a store before it, the operation,
 * and a description of a store as text (image/test-state.h), in which the states before and after
 * can be compared. A new operation needs a line in operations[].
 */
#include <stdbool.h>
#include <stddef.h>

#include "image/keyring.h"
#include "image/store.h"

#define SCENE_PAGES    40u
#define SCENE_MEMORIES 3u /* different contents of memory */

/* the snapshots: OLD is a child of BASE, NEW is what operations make */
#define BASE "sbase00000000000000aa"
#define OLD  "sold000000000000000aa"
#define NEW  "snew000000000000000aa"
#define TORN "storn00000000000000aa" /* has no manifest */

struct operation {
	const char *name;
	int (*prepare)(struct store *s,
		       struct problem *problem); /* on top of BASE and OLD, or NULL */
	int (*run)(struct store *s, struct problem *problem);
	const char *gives; /* a line of the state afterwards; with '-' in front: is not there */
	bool late;	   /* an error may leave the new state: its header says so */
	bool goes_on;	   /* what it could not do it only reports, and answers 0 */
	bool leaves_tmp;   /* an error may leave something in tmp/ for the next store_open() */
};

extern const struct operation operations[];
extern const size_t n_operations;

/** scene_memory() - the contents of memory @k: SCENE_PAGES pages */
const unsigned char *scene_memory(unsigned k);

/** scene_ring() - the key rings snapshots may be sealed under: 0 none (NULL), then others */
const struct keyring *scene_ring(unsigned k);
#define SCENE_RINGS 3u

/**
 * scene_build() - a new store at @root as the operation finds it
 * Return: 0; negative errno, with a problem
 */
int scene_build(const struct operation *op, const char *root, struct problem *problem);

/** scene_end() - free what building left in memory */
void scene_end(void);
