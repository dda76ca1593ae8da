/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-fault.h - what goes wrong at the n-th system call
 *
 * The calls that read or change files are replaced by the linker (--wrap, meson.build). Disarmed
 * they only pass through. Armed, those of the groups in @calls are counted, and at call @n
 * something happens: an error, a short transfer, the end of the process. One fault at a time per
 * process; the calls may come from any thread, the functions here from one.
 */
#include <limits.h>
#include <stdbool.h>

enum fault_group {
	CALL_WRITE = 1 << 0,  /* write, pwrite, writev, pwritev, copy_file_range, sync_file_range */
	CALL_READ = 1 << 1,   /* read, pread */
	CALL_SYNC = 1 << 2,   /* fsync, fdatasync, syncfs (seen without a descriptor) */
	CALL_CREATE = 1 << 3, /* openat with O_CREAT, mkdir, link, symlink */
	CALL_RENAME = 1 << 4, /* rename */
	CALL_REMOVE = 1 << 5, /* unlink */
	CALL_SIZE = 1 << 6,   /* ftruncate, fallocate */
	CALL_MODE = 1 << 7,   /* fchmod */
	CALL_CLONE = 1 << 8,  /* ioctl(FICLONE) */
	CALL_KERNEL_COPY = 1 << 9, /* copy_file_range alone */
	CALL_SEEK = 1 << 10,	   /* lseek with SEEK_DATA, SEEK_HOLE */
	CALL_CHANGES = CALL_WRITE | CALL_SYNC | CALL_CREATE | CALL_RENAME | CALL_REMOVE |
		       CALL_SIZE | CALL_MODE | CALL_CLONE,
	/* what signals may interrupt; a file that is only opened or renamed does not wait */
	CALL_INTERRUPTIBLE = CALL_WRITE | CALL_READ | CALL_SYNC | CALL_SIZE | CALL_CLONE,
	/* what needs space */
	CALL_GROWS = CALL_WRITE | CALL_SYNC | CALL_CREATE | CALL_RENAME | CALL_SIZE,
};

enum fault_kind {
	FAULT_ERROR,	   /* the call fails with @error */
	FAULT_SHORT,	   /* it transfers half */
	FAULT_KILL_BEFORE, /* the process is killed instead */
	FAULT_KILL_AFTER,  /* ... or when the call has had its effect */
	FAULT_KILL_PART,   /* ... or half of it */
};

#define FAULT_FOR_GOOD UINT_MAX

struct fault {
	const char *name;
	enum fault_kind kind;
	int error;
	unsigned calls; /* groups that count */
	unsigned times; /* in a row; FAULT_FOR_GOOD: from the n-th on */
	bool invisible; /* the operation must succeed nevertheless */
};

/** fault_arm() - let @f happen at call @n of its groups, from 0; @f must outlive it */
void fault_arm(const struct fault *f, unsigned n);

/** fault_disarm() - Return: has it happened? */
bool fault_disarm(void);

/** fault_has_struck() - has it happened yet? */
bool fault_has_struck(void);

/** fault_call() - name of the call that was struck last */
const char *fault_call(void);

/** fault_observe() - call @seen after every call that succeeded; NULL: no more. Not within @seen */
void fault_observe(void (*seen)(unsigned group, int fd));
