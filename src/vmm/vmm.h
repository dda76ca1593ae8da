/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * vmm.h - one running virtual machine, whatever program runs it
 *
 * Life: vmm_start() either boots a kernel (running at once) or begins a restore (paused, waiting);
 * a restore goes on with vmm_load() and vmm_resume(). From then on vmm_pause(), vmm_save_device(),
 * vmm_scan(), vmm_read() and vmm_resume() take snapshots; vmm_kill() ends it. vmm_free() only
 * forgets: the process lives on, and vmm_adopt() finds it again from what vmm_identity() said.
 *
 * The VM's memory is a MAP_PRIVATE mapping of the memfd that the pager gave, registered with
 * userfaultfd by the preload library as the pager wants it; so in it "anonymous page" means
 * "written since it started", unless the pager copied pages of the VM's own into it.
 *
 * Threads: one at a time per vmm (the sandbox's lock); vmm_pid(), vmm_pidfd() from any.
 * Every call that waits takes a deadline, and gives -ETIMEDOUT when it passes.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"
#include "base/problem.h"

#define VMM_MAX_DISKS  4

#define VMM_MAX_LAYERS 24

/* One immutable file under a writable disk. */
struct vmm_layer {
	const char *path;
	bool raw; /* else qcow2 */
};

/*
 * A raw file that is only read; or, with layers, a qcow2 file at @path that is written and under
 * which lie the layers, from the lowest. What their headers say of backing files is not looked at:
 * the list is the chain. The last parts of the paths must be names of their own, of at most 29
 * characters: the disk's nodes in QEMU are called by them.
 */
struct vmm_disk {
	const char *path;
	bool read_only;
	const struct vmm_layer *layers;
	size_t n_layers;
};

/* How the preload library registers the guest's memory with userfaultfd. */
enum vmm_register {
	VMM_REGISTER_MISSING,
	VMM_REGISTER_MINOR, /* missing and minor */
	VMM_REGISTER_NONE,  /* not at all: the memory file is complete already */
};

struct vmm_jail;

struct vmm_config {
	const char *work_dir;	  /* absolute; sockets ("qmp.sock", "agent.sock", "net.sock") and
				     "vmm.log" go here */
	const char *preload;	  /* path of libdorm-vmm.so */
	const char *pager_socket; /* the session's socket: the preload library hands over there */
	int memory_fd;		  /* the image's resident memory; borrowed */
	enum vmm_register reg;
	uint64_t memory_bytes;
	uint32_t cpus;
	const char *accel; /* "tcg" or "kvm" */
	struct vmm_disk disks[VMM_MAX_DISKS];
	uint32_t n_disks;
	const char *mac; /* of its network device, whose frames go to whoever connects to
			    net.sock; NULL: it has none */
	int netns_fd;	 /* network namespace of the process itself; 0 or -1: ours. Borrowed */
	const struct vmm_jail *jail; /* vmm/jail.h; NULL: it runs as we do */
	/* a boot; all NULL for a restore */
	const char *kernel;
	const char *initramfs;
	const char *cmdline;
};

/* What finds a VM again after the daemon was restarted. */
struct vmm_identity {
	pid_t pid;
	uint64_t start_time; /* field 22 of /proc/PID/stat: guards against reused pids */
	uint64_t memory_dev; /* device and inode of its memory's memfd */
	uint64_t memory_ino;
};

struct vmm;

/**
 * vmm_version() - ask the program: "qemu", "7.2.22"
 * The program is DORM_QEMU or qemu-system-x86_64 from PATH.
 */
int vmm_version(char ret_version[64], struct problem *problem);

/**
 * vmm_start() - start the process and wait until it can be talked to
 * Boot: the guest runs when this returns. Restore (no kernel): paused, ready for vmm_load().
 * Return: 0; negative errno, with the end of vmm.log in @problem and no process left
 */
int vmm_start(const struct vmm_config *config, uint64_t deadline_ns, struct problem *problem,
	      struct vmm **ret);

/** vmm_adopt() - take over a VM that an earlier process started. -ESRCH when it is gone */
int vmm_adopt(const char *work_dir, const struct vmm_identity *identity, uint64_t memory_bytes,
	      uint64_t deadline_ns, struct problem *problem, struct vmm **ret);

struct vmm *vmm_free(struct vmm *vmm);
DEFINE_CLEANUP(struct vmm *, vmm_free)

void vmm_identity(const struct vmm *vmm, struct vmm_identity *ret);
pid_t vmm_pid(const struct vmm *vmm);
/** vmm_pidfd() - readable once the process is gone; owned by @vmm */
int vmm_pidfd(const struct vmm *vmm);
/** vmm_agent_socket() - path of the host end of the agent's virtio-serial port */
const char *vmm_agent_socket(const struct vmm *vmm);
/**
 * vmm_dial_network() - connect to the VM's network device, if it has one
 * On the connection: Ethernet frames both ways, each after its length in 4 bytes, big-endian
 * (QEMU's
 * "-netdev stream"). One connection at a time; when it ends the VM waits for the next.
 * Return: the descriptor; -ENOENT when it has no such device; negative errno
 */
int vmm_dial_network(const struct vmm *vmm);

/** vmm_load() - device state from @fd (read to its end) into a VM that waits for it */
int vmm_load(struct vmm *vmm, int fd, uint64_t deadline_ns, struct problem *problem);
int vmm_resume(struct vmm *vmm, uint64_t deadline_ns, struct problem *problem);
int vmm_pause(struct vmm *vmm, uint64_t deadline_ns, struct problem *problem);
/** vmm_is_running() - ask it. Return: 1 running, 0 paused; negative errno */
int vmm_is_running(struct vmm *vmm, uint64_t deadline_ns);

/**
 * vmm_save_device() - device state without memory into @fd, a file that the VM cannot reach by
 * name; its content is replaced. VM paused
 */
int vmm_save_device(struct vmm *vmm, int fd, uint64_t deadline_ns, struct problem *problem);

/**
 * vmm_disk_top() - the file that its writable disk is written into now
 * @ret: the last part of its path. Return: 0; -ENOENT: it has no such disk; negative errno
 */
int vmm_disk_top(struct vmm *vmm, uint64_t deadline_ns, struct problem *problem, char ret[64]);

/**
 * vmm_disk_push() - from now on the writable disk is written into @path, over what it was so far
 * @path: absolute; an empty qcow2 file of the same size, whose name obeys struct vmm_disk
 * VM paused. What was the top so far has everything the guest wrote, is durable, and never changes
 * again. Return: 0; negative errno, and then nothing has changed
 */
int vmm_disk_push(struct vmm *vmm, const char *path, uint64_t deadline_ns, struct problem *problem);

/**
 * vmm_disk_rebase() - put one file in the place of several layers that held the same together
 * @top:    what is written now, with which @below's content and the layers' in between
 * @merged: absolute path of the qcow2 file that comes between @top and @below
 * @below:  the layer below, as it was opened; NULL: none
 * @gone:   the @n_gone layers that nobody needs any more, from the highest
 * VM paused. Return: 0; negative errno, and then nothing has changed
 */
int vmm_disk_rebase(struct vmm *vmm, const char *top, const char *merged, const char *below,
		    const char *const gone[], size_t n_gone, uint64_t deadline_ns,
		    struct problem *problem);

/**
 * vmm_is_stalled() - did it stop by itself, because the host's disk is full?
 * A write that failed for want of space is tried again by vmm_resume().
 * Return: 1; 0; negative errno
 */
int vmm_is_stalled(struct vmm *vmm, uint64_t deadline_ns);

/** vmm_console() - the last of the guest's console, at most @size - 1 bytes, terminated */
int vmm_console(struct vmm *vmm, char *buf, size_t size, uint64_t deadline_ns);

/** vmm_kill() - SIGKILL and wait until it is gone. Already gone is fine */
int vmm_kill(struct vmm *vmm, uint64_t deadline_ns);

/** vmm_exit_reason() - how it ended, for people: "killed by signal 9", with the last of vmm.log */
void vmm_exit_reason(struct vmm *vmm, char *buf, size_t size);

struct vmm_range {
	uint64_t gfn;
	uint64_t n_pages;
};

/**
 * vmm_scan() - the pages written since the VM started, ascending, adjacent ranges merged; VM paused
 * @ret: fresh memory (free()), @ret_n ranges
 */
int vmm_scan(struct vmm *vmm, struct vmm_range **ret, size_t *ret_n);

/**
 * vmm_read() - copy guest pages out with process_vm_readv
 * @out: @n_pages pages. Only pages that vmm_scan() named may be read while no pager serves the VM
 */
int vmm_read(struct vmm *vmm, uint64_t gfn, uint64_t n_pages, void *out);

/**
 * vmm_needs_pager() - is any of its memory registered with a userfaultfd?
 * One that is not would run on without the pager: all of its pages are in the memory file.
 * Return: 1; 0; negative errno
 */
int vmm_needs_pager(struct vmm *vmm);

struct vmm_memory_use {
	uint64_t private_pages; /* anonymous: written by this VM */
	uint64_t shared_pages;	/* present, still the image's */
	uint64_t pss_bytes;	/* of the whole process */
	uint64_t rss_bytes;
	uint64_t private_bytes; /* Private_Clean + Private_Dirty of the whole process */
};

/** vmm_memory_use() - from pagemap and smaps_rollup */
int vmm_memory_use(struct vmm *vmm, struct vmm_memory_use *ret);
