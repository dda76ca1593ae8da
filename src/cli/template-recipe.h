/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* template-recipe.h - `dorm template build`'s options as a recipe (docs/templates.md) */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/problem.h"

/* As given on the command line; NULL and 0: not given. */
struct template_sources {
	const char *file;			    /* -f */
	const char *base, *dir, *tar, *oci, *image; /* at most one of them */
	const char *start_cmd, *ready_cmd;
	uint64_t ready_port;
	uint64_t memory_mb, cpus, disk_mb;
};

/** template_sources_any() - do they say more than the API's plain members can? */
bool template_sources_any(const struct template_sources *s);

/**
 * template_recipe_make() - the recipe file, if there is one, with what the options say above it
 * Paths become absolute: dormd runs on this host, but elsewhere.
 * @ret_recipe: new reference
 * @ret_context: the recipe file's directory; fresh memory, NULL without a file
 * Return: 0; -EINVAL, -ENOENT, other negative errno, with a problem
 */
int template_recipe_make(const struct template_sources *s, struct problem *problem,
			 json_t **ret_recipe, char **ret_context);
