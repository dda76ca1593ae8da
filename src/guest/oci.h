/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * oci.h - images of the Open Container Initiative: what they say about themselves, and their files
 *
 * skopeo brings an image from a registry into a layout directory, umoci unpacks a layout; here is
 * what decides which image of a layout is meant, and what its configuration means for a template.
 * Source: github.com/opencontainers/image-spec: image-layout.md, image-index.md, config.md
 */
#include <jansson.h>

#include "guest/runner.h"

/* Defaults that an image brings; texts are owned, NULL when absent. */
struct oci_config {
	json_t *env; /* name: text; NULL when there is none */
	char *workdir;
	char *user;    /* without its group */
	char *command; /* Entrypoint and Cmd as one line of shell */
};

void oci_config_deinit(struct oci_config *c);
#define _cleanup_oci_config_ __attribute__((cleanup(oci_config_deinit)))

/** oci_config_parse() - an image's configuration blob, not trusted. Return: 0; -EINVAL with a
 *  problem that names the member; -ENOMEM */
int oci_config_parse(const char *text, size_t len, struct problem *problem, struct oci_config *ret);

/** oci_quote() - one word of shell that stands for exactly @arg; fresh memory */
char *oci_quote(const char *arg);

/**
 * oci_config_read() - of the image @tag in the layout @dir
 * @tag: NULL: the only one there is
 * @ret_tag: which it was, for umoci; 128 bytes; "" when that image has no tag
 */
int oci_config_read(const char *dir, const char *tag, struct problem *problem, char ret_tag[128],
		    struct oci_config *ret);

/** oci_fetch() - copy an image into the layout @dir, under the tag "image"
 *  @source: as skopeo takes it: "docker://...", "oci:..." */
int oci_fetch(const struct runner *r, const char *source, const char *dir);

/** oci_unpack() - the files of an image to @bundle/rootfs; @bundle must not exist */
int oci_unpack(const struct runner *r, const char *dir, const char *tag, const char *bundle);
