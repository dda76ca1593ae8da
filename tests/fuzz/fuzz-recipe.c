/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz-recipe.c - recipes of templates, and configurations of OCI images: JSON of somebody else's
 */
#include "fuzz.h"

#include <assert.h>
#include <string.h>

#include "guest/oci.h"
#include "guest/recipe.h"

/* What every accepted recipe promises to those who use it without looking again. */
static void check(const struct recipe *r)
{
	for (size_t i = 0; i < r->n_packages; i++)
		assert(r->packages[i][0] != '-' && !strpbrk(r->packages[i], "' ;$`\n"));
	for (size_t i = 0; i < r->n_files; i++) {
		const struct recipe_file *f = &r->files[i];

		assert(f->path[0] == '/' && !strstr(f->path, "/../"));
		assert(!f->text != !f->from);
		assert(!f->from || (f->from[0] != '/' && strncmp(f->from, "../", 3)));
		assert(f->mode == (mode_t)-1 || f->mode <= 07777);
	}
	for (size_t i = 0; i < r->n_commands; i++)
		assert(r->commands[i].run[0] && r->commands[i].user[0] &&
		       r->commands[i].user[0] != '-');
	assert(r->base <= RECIPE_DEBIAN || r->source);
	assert(r->ready != RECIPE_READY_PORT || (r->ready_port >= 1 && r->ready_port <= 65535));
	assert(r->ready != RECIPE_READY_COMMAND || r->ready_command);
	assert(r->ready_timeout_s >= 1 && r->ready_timeout_s <= 3600);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *o = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	struct oci_config config = {0};
	struct problem p = PROBLEM_INIT;
	struct recipe r = RECIPE_INIT;

	if (o && recipe_parse(o, RECIPE_DEBIAN, &p, &r) == 0) {
		check(&r);
		recipe_deinit(&r);
	} else if (o) {
		assert(p.status == 400 && p.message[0]);
	}
	json_decref(o);
	p = PROBLEM_INIT;
	if (oci_config_parse((const char *)data, size, &p, &config) == 0) {
		assert(!config.workdir || config.workdir[0] == '/');
		oci_config_deinit(&config);
	}
	return 0;
}
