/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why each member is there, where it does not say so itself:
 *
 *  backing          always given, null at the end of a chain: without it QEMU would follow the
 *                   header, which in an imported snapshot is somebody else's
 *  discard, detect-zeroes   what the guest trims becomes holes of the file
 *  locking          as it comes: layers are shared by all who only read them
 */
#include "vmm/qemu/block-node.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define MAX_NAME 29 /* QEMU allows 31 with "n-" */

const char *block_node_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

bool block_node_is_valid(const char *path)
{
	const char *name = block_node_name(path);
	size_t len = strlen(name);

	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
			return false;
	return len && len <= MAX_NAME;
}

/* "n-..." as a value, or null. */
static json_t *node_of(const char *path)
{
	return path ? json_sprintf("n-%s", block_node_name(path)) : json_null();
}

json_t *block_node_layer(const struct vmm_layer *layer, const char *below)
{
	if (layer->raw)
		return json_pack("{s:s, s:o, s:b, s:{s:s, s:s}}", "driver", "raw", "node-name",
				 node_of(layer->path), "read-only", 1, "file", "driver", "file",
				 "filename", layer->path);
	return json_pack("{s:s, s:o, s:b, s:o, s:{s:s, s:s}}", "driver", "qcow2", "node-name",
			 node_of(layer->path), "read-only", 1, "backing", node_of(below), "file",
			 "driver", "file", "filename", layer->path);
}

/* With @file, a reference or the options of a new node, consumed. */
static json_t *overlay(const char *path, const char *below, json_t *file_consume)
{
	return json_pack("{s:s, s:o, s:s, s:s, s:o, s:o}", "driver", "qcow2", "node-name",
			 node_of(path), "discard", "unmap", "detect-zeroes", "unmap", "backing",
			 node_of(below), "file", file_consume);
}

json_t *block_node_overlay(const char *path, const char *below)
{
	json_t *file = json_pack("{s:s, s:o, s:s, s:s}", "driver", "file", "node-name",
				 json_sprintf("f-%s", block_node_name(path)), "filename", path,
				 "discard", "unmap");

	return file ? overlay(path, below, file) : NULL;
}

json_t *block_node_reopen(const char *path, const char *below)
{
	return json_pack("{s:[o]}", "options",
			 overlay(path, below, json_sprintf("f-%s", block_node_name(path))));
}
