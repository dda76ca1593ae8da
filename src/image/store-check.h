/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * store-check.h - is everything in the store what it says, and what can be put right?
 *
 * Checks every directory in snapshots/ and every memory directory of a sandbox. Without @data:
 * manifests, sizes, maps, layer indexes and their agreement. With it, every frame too (each layer
 * once, however many snapshots link it).
 */
#include <stdbool.h>
#include <stdint.h>

#include "image/keyring.h"
#include "image/store-index.h"
#include "image/store.h"

enum finding_kind {
	FINDING_TORN,	 /* a directory without manifest: it was never committed */
	FINDING_DAMAGED, /* committed, and something of it is missing or altered */
	FINDING_LINK,	 /* a template's name that leads nowhere */
	FINDING_STRAY,	 /* a file or directory that nothing here makes */
	FINDING_KEY,	 /* sealed and no key fits: checked as far as possible */
};

/* What was found, and by repair: what was done about it. */
struct finding {
	enum finding_kind kind;
	const char *path; /* below the root */
	const char *why;  /* file, place and reason */
	const char *done; /* "removed", "layer linked again from snapshots/...", "kept"; NULL: check
			     only */
	bool lost;	  /* repair: something that had been committed stays unusable */
};

/** finding_kind_name() - "torn", "damaged", "link", "stray", "key" */
const char *finding_kind_name(enum finding_kind kind);

struct check_options {
	bool data;
	const struct keyring *keys;
	void (*found)(void *userdata, const struct finding *f);
	void (*progress)(void *userdata, uint64_t done_bytes,
			 uint64_t total_bytes); /* with @data */
	bool (*cancelled)(void *userdata);
	void *userdata;
};

struct check_stats {
	uint64_t n_snapshots, n_memories; /* of sandboxes */
	uint64_t n_layers;		  /* different files */
	uint64_t bytes_read;
	uint64_t n_findings;
	uint64_t n_lost; /* findings that repair could not mend */
};

/** store_check() - change nothing. Return: 0 (findings or not); -ECANCELED; negative errno */
int store_check(struct store *store, const struct check_options *options, struct problem *problem,
		struct check_stats *ret);

/**
 * store_repair() - rebuild the index; remove what was never committed and names that lead nowhere;
 * link missing or damaged layers again from another snapshot that has them whole. Nothing that was
 * committed is ever removed: what cannot be mended is kept and reported as lost. Except a working
 * set or a base that is of no use: those only ever saved time or memory.
 */
int store_repair(struct store *store, struct store_index *index,
		 const struct check_options *options, struct problem *problem,
		 struct check_stats *ret);
