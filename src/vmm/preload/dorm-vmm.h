/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* dorm-vmm.h - what the QEMU driver and the library that it preloads agree on */

/* The file that QEMU thinks its memory is. */
#define DORM_MEMORY_PATH "/dorm/guest-memory"

/* Environment: number of the inherited, read-only descriptor of the guest's memory. */
#define DORM_VMM_MEMORY_FD "DORM_VMM_MEMORY_FD"

/* Environment: path of the socket where the pager takes the userfaultfd. */
#define DORM_VMM_PAGER_SOCKET "DORM_VMM_PAGER_SOCKET"

/* Environment, of a jailed VMM: numbers of a descriptor that is connected to that socket, and of
 * /dev/userfaultfd, neither of which it could open by name. */
#define DORM_VMM_PAGER_FD "DORM_VMM_PAGER_FD"
#define DORM_VMM_UFFD_FD  "DORM_VMM_UFFD_FD"

/* Environment: how to register the memory with userfaultfd. Not set: missing. With none there is no
 * userfaultfd, and the pager gets the regions alone. */
#define DORM_VMM_UFFD	      "DORM_VMM_UFFD"
#define DORM_VMM_UFFD_MISSING "missing"
#define DORM_VMM_UFFD_MINOR   "missing,minor"
#define DORM_VMM_UFFD_NONE    "none"

/* Exit status of a VMM that could not hand its memory to the pager (EX_SOFTWARE of sysexits). */
#define DORM_VMM_EXIT_STATUS 70
