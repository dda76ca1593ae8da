/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * arguments.h - what dorm-pager was told on its command line
 *
 * There are two ways to run it. For dormd it has a control socket, on which sessions are opened
 * (--socket, --run-dir). Alone it has one image, and lets in whoever connects (--image, --listen or
 * a socket from the service manager). Texts point into argv.
 */
#include <stdbool.h>

#include "base/problem.h"
#include "image/keyring.h"
#include "pager/control.h"
#include "pager/isolate.h"
#include "pager/pager.h"

#define ARGUMENTS_PATH_MAX 4096

struct arguments {
	struct pager_options pager;
	struct control_options control; /* socket_path is also --control's */
	struct isolate_options isolate;
	const char *image;  /* alone: a snapshot directory or a raw file; NULL: for dormd */
	const char *listen; /* alone: NULL when the service manager gives the socket */
	bool supervise;
	const char *seal_keys[KEYRING_MAX_KEYS];
	unsigned n_seal_keys;
	char run_dir[ARGUMENTS_PATH_MAX]; /* alone: of the journal; empty: none */
	int ready_fd;			  /* -1: none */
};

/**
 * arguments_parse() - from the command line and the environment
 * Return: 0 go on; 1 all was said (--help, --version); -EINVAL bad usage, said on standard error
 */
int arguments_parse(int argc, char **argv, struct arguments *ret);
