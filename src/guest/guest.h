/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * guest.h - what a guest boots from: kernel, initramfs, root file system
 *
 * Made from the distribution's packages (downloaded and unpacked, never installed on the host) and
 * the static dorm-agent, into a cache directory; made again when an input changed: every artefact
 * lies in a directory named by a digest of its inputs, and appears there by rename. Any thread;
 * concurrent calls on one cache wait for each other (a lock file).
 */
#include <stdint.h>

#include "base/problem.h"

struct guest {
	char kernel[4096];      /* bzImage */
	char initramfs[4096];
	char rootfs[4096];      /* erofs */
	char kernel_version[64];
};

typedef void (*guest_progress)(void *userdata, const char *text);

/**
 * guest_prepare() - make sure everything is there
 * @cache_dir:  absolute; created when absent
 * @agent:      path of the static dorm-agent
 * @progress:   one line of text per step that takes time ("downloading linux-image-...")
 * Return: 0; negative errno; @problem says which step failed, with the end of its output
 */
int guest_prepare(const char *cache_dir, const char *agent, guest_progress progress, void *userdata,
		  struct problem *problem, struct guest *ret);

/**
 * guest_last() - what guest_prepare() gave the last time, without asking anybody or waiting for it
 * For who has no time for a newer kernel. Not read back: a boot that fails tells.
 * Return: 0; 1 the same, but @agent is another program by now; -ENOENT there is nothing (any more)
 */
int guest_last(const char *cache_dir, const char *agent, struct guest *ret);

/** guest_cmdline() - the kernel's command line for a boot on this host; fresh memory */
char *guest_cmdline(uint64_t tsc_khz);
