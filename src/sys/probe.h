/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * probe.h - what this host has, what it lacks, what that costs, and how to get it
 *
 * Every check tries the very thing that it is about (opens a userfaultfd, clones a file, reads
 * another process's memory), because version numbers and configuration files mislead; a check that
 * could not be made counts as missing. Takes up to a second, most of it for KVM and QEMU. Leaves
 * nothing behind. Any thread.
 */
enum probe_status {
	PROBE_OK,
	PROBE_WARN, /* works, but slower, or with less */
	PROBE_FAIL, /* sandboxes cannot run, or not wake */
};

struct probe_item {
	const char *name; /* "userfaultfd"; lower case, stable: programs may look for it */
	enum probe_status status;
	char found[200];    /* what was seen; never empty */
	const char *cost;   /* what the lack of it costs; "" when ok */
	const char *remedy; /* how to get it; "" when ok */
};

#define PROBE_MAX_ITEMS 32

struct probe_report {
	struct probe_item items[PROBE_MAX_ITEMS];
	unsigned n;
};

/**
 * probe_host() - make every check, in a fixed order
 * @store: directory in which the store is or will be; its nearest existing parent is looked at
 * @qemu:  program name or path
 */
void probe_host(const char *store, const char *qemu, struct probe_report *ret);

/** probe_status_name() - "ok", "warn", "fail" */
const char *probe_status_name(enum probe_status status);
