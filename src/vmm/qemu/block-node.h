/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * block-node.h - the nodes of a writable disk, as QEMU's -blockdev and blockdev-add want them
 *
 * A node is called "n-" and the last part of its file's path, so that whoever finds the VM later
 * knows the files by asking it. Source: QEMU qapi/block-core.json, BlockdevOptions. Any thread.
 */
#include <jansson.h>
#include <stdbool.h>

#include "vmm/vmm.h"

/** block_node_name() - the last part of @path, borrowed from it */
const char *block_node_name(const char *path);

/** block_node_is_valid() - can a node be called by it? */
bool block_node_is_valid(const char *path);

/** block_node_layer() - an immutable layer over the node of @below (a path; NULL: nothing).
 *  New reference; NULL without memory */
json_t *block_node_layer(const struct vmm_layer *layer, const char *below);

/** block_node_overlay() - the file that is written, the same way. Its protocol node is "f-NAME" */
json_t *block_node_overlay(const char *path, const char *below);

/** block_node_reopen() - arguments of "blockdev-reopen" that give the overlay another backing */
json_t *block_node_reopen(const char *path, const char *below);
