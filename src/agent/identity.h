/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * identity.h - what the sandbox is called, and where its programs find that
 *
 *     host name                   that of the kernel, /etc/hostname, "127.0.1.1 NAME" in /etc/hosts
 *     /etc/machine-id
 *     /run/dorm/sandbox-id        without a newline
 *     /run/dorm/template-id
 *     /run/e2b/.E2B_SANDBOX_ID    links to these two
 *     /run/e2b/.E2B_TEMPLATE_ID
 *
 *     identity_plan()    before a sleep: where in these files the names stand, files open
 *     identity_apply()   after it: with a plan, and names of the same length, a few writes and no
 *                        more. Opening and reading the files would be most of a fork's repair
 *
 * A sandbox that wakes as what it was is left alone: what its programs changed in these files
 * stays. One that has become another has all of them written. A file that cannot be written because
 * it is not writable (or its directory is not there) is left as it is; any other failure is one.
 */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct identity {
	char sandbox_id[65];
	char template_id[129];
	char hostname[65];
	char machine_id[33]; /* "": leave the file alone */
};

#define IDENTITY_SLOTS 4

struct identity_plan {
	bool good;
	size_t n;
	struct identity_slot {
		int fd;
		off_t at;
		size_t name; /* offsetof() in struct identity */
	} slots[IDENTITY_SLOTS];
};

/** identity_plan() - for what it is @now; not good when a file holds something else. @root: as
 * below
 */
void identity_plan(struct identity_plan *p, const struct identity *now, const char *root);

/** identity_plan_clear() - close what it holds; it is not good then */
void identity_plan_clear(struct identity_plan *p);

/**
 * identity_apply() - become @to
 * @from: what it was; all "" after a boot
 * @plan: of @from; may be not good, or NULL. It stays as it is
 * @root: directory that stands for /; "" in a guest; NULL: no files
 * @name_kernel: set the host name, too
 * Return: 0; negative errno
 */
int identity_apply(const struct identity *from, const struct identity *to,
		   const struct identity_plan *plan, const char *root, bool name_kernel);
