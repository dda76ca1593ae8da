/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * caller.h - who a request is from, whom it acts as, and which file it means
 */
#include "agent/router.h"
#include "agent/user.h"
#include "base/problem.h"

#define CALLER_NO_TOKEN                                                                            \
	"unauthorized access, please provide a valid access token or method signing if supported"

/** caller_is_client() - carried by dormd for somebody else, not dormd's own? */
bool caller_is_client(const struct request *rq);

/** caller_has_token() - is it the host, or does it show the sandbox's token, or is there none? */
bool caller_has_token(const struct request *rq);

/**
 * caller_user() - as whom it acts: "Authorization: Basic base64(name:)", otherwise the default
 * @name: instead of the header (query parameter `username`); NULL or "": look at the header
 * The default is the one that init named, otherwise `user`, otherwise root.
 * Return: 0; -EINVAL or -ENOENT with a 401 in @problem
 */
int caller_user(struct request *rq, const char *name, struct problem *problem, struct user *ret);

/**
 * caller_path() - the absolute path that a client means
 * @a: only looked at for ""; may be NULL with any other @path
 * "" is the default working directory (init's, otherwise home), "~" and "~/x" are below home, and
 * so is anything else that does not begin with "/". "." and ".." are resolved as text, as the shell
 * does not: "a/../b" is "b" also if a is a link elsewhere. No path is forbidden: as in envd, files
 * are read and written as root, and what is created belongs to the user.
 * Return: fresh memory; NULL without memory
 */
char *caller_path(const struct agent *a, const struct user *user, const char *path);
