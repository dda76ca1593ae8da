/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * boot.h - what PID 1 does before it serves: kernel file systems, modules, the sandbox's root
 *
 * Once, as PID 1 of the initramfs, in this order. A step that fails ends the boot with a line on
 * the console; the kernel's panic that follows ends the VM, and the host reads why in its console
 * log.
 */

/** boot_kernel() - mount /proc, /sys, /dev; console as standard streams; load /etc/modules.list */
int boot_kernel(void);

/**
 * boot_root() - make the sandbox's file system the root
 *
 * The virtio disk that holds an erofs file system, read-only, and above it the disk that holds ext4,
 * or a tmpfs if there is no second one; then a move of that mount to "/" and chroot, which processes
 * see as any other root. Without any virtio disk the initramfs stays the root.
 * Return: 0; -ENODEV: there are disks, but none holds what is looked for after 10 s; negative errno
 */
int boot_root(void);

/** boot_disk_fd() - the root directory of the disk that is written, which no path leads to any more:
 *  for FITRIM and FIFREEZE. -1: there is none. Not to be closed */
int boot_disk_fd(void);

/** boot_system() - what a sandbox's programs expect: pts, shm, tmp, run, cgroups, loopback, limits
 */
int boot_system(void);

#define BOOT_WORKLOAD_CGROUP "/sys/fs/cgroup/workload"
#define BOOT_HOOKS_CGROUP    "/sys/fs/cgroup/hooks"
