/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * root-build.h - from a recipe to a root file system
 *
 *     base        busybox, debian: the artefact as it is, if the recipe adds nothing to it;
 *                 otherwise unpacked. dir, tar: through unpack.h. oci, image: skopeo, umoci
 *     packages    apt-get in the tree (jail.h)
 *     files       texts, and what lies beside the recipe
 *     commands    in order, in the tree
 *     finish      what a sandbox needs (finish.h), then erofs.h
 *
 * Everything is made below one directory that the caller gives and removes, whatever happens.
 */
#include "guest/oci.h"
#include "guest/recipe.h"
#include "guest/runner.h"

struct root_build {
	const struct recipe *recipe;
	const char *context;   /* absolute; where the recipe's files lie; NULL: nowhere */
	const char *cache_dir; /* of artefacts: guest.h */
	const char *work;      /* an empty directory that only root can enter */
	const struct runner *runner;
};

struct root_built {
	char image[4096];	  /* the file; in the cache, or below the work directory */
	struct oci_config config; /* of an OCI image; empty otherwise. root_built_deinit() */
};

/** root_build() - Return: 0; negative errno, and the runner's problem says which step failed */
int root_build(const struct root_build *b, struct root_built *ret);

void root_built_deinit(struct root_built *b);
