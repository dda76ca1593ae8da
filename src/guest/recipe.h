/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * recipe.h - what a template is to be made of, as a JSON object (docs/templates.md)
 *
 *     {"base": "debian", "packages": ["jq"],
 *      "files": [{"path": "/srv/app.py", "from": "app.py", "mode": "0755", "owner": "user"}],
 *      "commands": ["pip install flask", {"run": "make -C /srv", "user": "user"}],
 *      "env": {"LANG": "C.UTF-8"}, "workdir": "/srv", "user": "user",
 *      "start": "python3 /srv/app.py", "ready": {"port": 8000}, "readyTimeout": 60,
 *      "memoryMB": 512, "cpuCount": 1}
 *
 * Every member is optional; one that is not known is refused, as is a value that cannot be right,
 * with a problem that names the member. Pure: looks at nothing but its argument.
 *
 * A recipe owns one reference to its JSON; all texts are borrowed from that. Any thread.
 */
#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/problem.h"

#define RECIPE_MAX_PACKAGES  500
#define RECIPE_MAX_FILES     1000
#define RECIPE_MAX_COMMANDS  200
#define RECIPE_MAX_COMMAND   65536
#define RECIPE_READY_SECONDS 120 /* when the recipe says nothing */

enum recipe_base {
	RECIPE_BUSYBOX, /* small: for tests */
	RECIPE_DEBIAN,
	RECIPE_DIR,   /* source: a directory of this host, absolute or seen from the recipe's */
	RECIPE_TAR,   /* source: a tar archive, likewise */
	RECIPE_OCI,   /* source: LAYOUT or LAYOUT:TAG, likewise */
	RECIPE_IMAGE, /* source: a registry's reference, as skopeo takes it after "docker://" */
};

struct recipe_file {
	const char *path; /* in the sandbox, absolute */
	const char *text; /* either this, with its length, */
	size_t text_len;
	const char *from;  /* or a file or directory, relative to the recipe's directory */
	mode_t mode;	   /* of a file; (mode_t)-1: 0644 for text, as it is for from */
	const char *owner; /* "user", "root", "1000:1000" */
};

struct recipe_command {
	const char *run; /* for /bin/sh -c */
	const char *user;
};

enum recipe_ready {
	RECIPE_READY_NONE,
	RECIPE_READY_COMMAND,
	RECIPE_READY_PORT,
	RECIPE_READY_DELAY
};

struct recipe {
	json_t *json;
	enum recipe_base base;
	const char *source;
	const char **packages;
	size_t n_packages;
	struct recipe_file *files;
	size_t n_files;
	struct recipe_command *commands;
	size_t n_commands;
	json_t *env; /* name: text; NULL when absent, like the texts below */
	const char *workdir, *user;
	const char *start, *start_user;
	enum recipe_ready ready;
	const char *ready_command;
	uint32_t ready_port, ready_delay_s;
	uint32_t ready_timeout_s;
	uint64_t memory_mb, cpus; /* 0: not said */
	uint64_t disk_mb;	  /* 0: none */
	bool has_disk;		  /* it says something of a disk */
};

#define RECIPE_INIT ((struct recipe){.base = RECIPE_DEBIAN})

/**
 * recipe_parse() - @json: an object; a reference is taken
 * @otherwise: the base when the recipe names none
 * Return: 0; -EINVAL with a 400 that names the member; -ENOMEM
 */
int recipe_parse(json_t *json, enum recipe_base otherwise, struct problem *problem,
		 struct recipe *ret);

/** recipe_deinit() - also the cleanup function */
void recipe_deinit(struct recipe *r);
#define _cleanup_recipe_ __attribute__((cleanup(recipe_deinit)))

/** recipe_base_name() - "debian", "oci", ... */
const char *recipe_base_name(enum recipe_base base);
