/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * owner.h - names of users and groups by number, for listings
 *
 * Read from the sandbox's /etc when first asked for, and kept until owner_deinit(): a listing sees
 * one state of them. Blocks on the sandbox's files: for helpers (helper.h) only.
 */
#include <sys/types.h>

struct owner {
	const char *etc; /* "/etc"; borrowed */
	char *passwd, *group;
	unsigned loaded;
	/* the last answers: files in a directory have few owners */
	uid_t uid;
	gid_t gid;
	char user_name[64], group_name[64];
};

#define OWNER_INIT(_etc) ((struct owner){.etc = (_etc)})
void owner_deinit(struct owner *o);

/** owner_user() - the name of @uid, or its number. Return: valid until the next call */
const char *owner_user(struct owner *o, uid_t uid);
const char *owner_group(struct owner *o, gid_t gid);
