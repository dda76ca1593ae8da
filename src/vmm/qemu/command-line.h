/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * command-line.h - the words that start QEMU
 *
 * The device list is part of every snapshot: a restore must give the same devices in the same
 * order, so nothing here depends on whether it is a boot or a restore except the kernel and
 * "-incoming". Only options that QEMU 7.2 to 10 share.
 */
#include "base/problem.h"
#include "vmm/vmm.h"

/* Descriptors that the program inherits, in the order in which it gets them: 3, 4, 5, 6. The last
 * only with a network device. */
enum command_line_fd {
	COMMAND_LINE_FD_MEMORY = 3,
	COMMAND_LINE_FD_QMP,
	COMMAND_LINE_FD_AGENT,
	COMMAND_LINE_FD_NETWORK
};

struct command_line; /* argv and the memory behind it */

/**
 * command_line_new() - check @config and put the words together
 * Return: 0; -EINVAL with @problem when @config cannot be; -ENOMEM
 */
int command_line_new(const char *program, const struct vmm_config *config, struct problem *problem,
		     struct command_line **ret);
struct command_line *command_line_free(struct command_line *c);
DEFINE_CLEANUP(struct command_line *, command_line_free)

/** command_line_argv() - NULL-terminated; valid until command_line_free() */
const char *const *command_line_argv(const struct command_line *c);
