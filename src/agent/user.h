/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * user.h - who a name is, from the sandbox's own /etc/passwd and /etc/group
 *
 * Not getpwnam(): in a static program that loads the sandbox's libraries into PID 1. A file that is
 * not a regular file, or larger than 1 MiB, counts as empty.
 */
#include <sys/types.h>

#define USER_MAX_GROUPS 32

struct user {
	char name[64];
	char home[256];
	char shell[256];
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_MAX_GROUPS]; /* supplementary; more are left out */
	size_t n_groups;
};

/**
 * user_lookup() - by name, or by number written in decimal
 * @etc: directory of passwd and group: "/etc"
 * Without any passwd, "root" is known all the same. Return: 0; -ENOENT
 */
int user_lookup(const char *etc, const char *name, struct user *ret);

/** user_file_text() - of passwd or group in @etc, under the limits above. Return: NULL for none;
 *  free() */
char *user_file_text(const char *etc, const char *name);
