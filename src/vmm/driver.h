/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * driver.h - what one kind of VMM must be able to do; inside of src/vmm only
 *
 * vmm.c owns the process (pid, pidfd, its end) and memory.c looks into its memory: both are the
 * same for every program. A driver starts the program and talks to it. Every function that waits
 * keeps to its deadline, also when the program is hostile or stopped, and fills @problem where it
 * has one.
 */
#include "sys/pidfd.h"
#include "sys/proc.h"
#include "vmm/vmm.h"

struct vmm_ops {
	const char *log_name; /* in the work directory; its end explains a death */

	/* version() - of the program that start() would start: "7.2.22" */
	int (*version)(char ret[64], struct problem *problem);

	/* start() - set pid and pidfd as soon as there is a process, then @driver. When it fails,
	 * the caller kills the process and calls detach() */
	int (*start)(struct vmm *v, const struct vmm_config *config, uint64_t deadline_ns,
		     struct problem *problem);
	/* attach() - connect to a process that runs; sets @driver */
	int (*attach)(struct vmm *v, uint64_t deadline_ns, struct problem *problem);
	/* detach() - forget it; @driver may be NULL */
	void (*detach)(struct vmm *v);

	int (*load)(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem);
	int (*resume)(struct vmm *v, uint64_t deadline_ns, struct problem *problem);
	int (*pause)(struct vmm *v, uint64_t deadline_ns, struct problem *problem);
	int (*is_running)(struct vmm *v, uint64_t deadline_ns);
	int (*save_device)(struct vmm *v, int fd, uint64_t deadline_ns, struct problem *problem);
	int (*disk_top)(struct vmm *v, uint64_t deadline_ns, struct problem *problem, char ret[64]);
	int (*disk_push)(struct vmm *v, const char *path, uint64_t deadline_ns,
			 struct problem *problem);
	int (*disk_rebase)(struct vmm *v, const char *top, const char *merged, const char *below,
			   const char *const gone[], size_t n_gone, uint64_t deadline_ns,
			   struct problem *problem);
	int (*is_stalled)(struct vmm *v, uint64_t deadline_ns);
	int (*console)(struct vmm *v, char *buf, size_t size, uint64_t deadline_ns);
	/* last_words() - what it said of its own end, or NULL */
	const char *(*last_words)(struct vmm *v);
};

extern const struct vmm_ops vmm_qemu_ops;

struct vmm {
	const struct vmm_ops *ops;
	void *driver;
	pid_t pid;
	int pidfd;
	uint64_t start_time;
	bool collected; /* @end is known; else it may still be a child of ours */
	struct pidfd_end end;
	char *work_dir;
	char agent_socket[108];
	dev_t memory_dev; /* the memory file, by identity */
	ino_t memory_ino;
	uint64_t memory_bytes;
	struct proc_mapping *mappings; /* where it is in the process; filled by vmm_find_memory() */
	size_t n_mappings;
};

/**
 * vmm_find_memory() - look up where the process has the guest's memory
 * Return: 0; -ENOENT when it does not map it; -EBADMSG when it maps it in a way that cannot be
 * right
 */
int vmm_find_memory(struct vmm *v);

/** vmm_explain_death() - if the process ends within half a second, say how. Return: true if it did
 */
bool vmm_explain_death(struct vmm *v, const char *what, struct problem *problem);
