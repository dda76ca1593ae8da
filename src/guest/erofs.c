/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/erofs.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

#define UUID "d0a70053-0000-4000-8000-000000000001" /* any constant will do */

int erofs_make(const struct runner *r, const char *tree, const char *image)
{
	const char *const argv[] = {"mkfs.erofs", "--quiet", "-T" EROFS_TIME, "-U" UUID, image,
				    tree,	  NULL};

	return runner_run(r, &(struct runner_command){.what = "making the file system",
						      .argv = argv,
						      .quiet = true});
}

int erofs_extract(const struct runner *r, const char *image, const char *tree)
{
	_cleanup_free_ char *to = str_printf("--extract=%s", tree);
	const char *const argv[] = {"fsck.erofs", to, "--preserve", image, NULL};

	if (!to)
		return -ENOMEM;
	return runner_run(r, &(struct runner_command){
				     .what = "unpacking the base", .argv = argv, .quiet = true});
}
