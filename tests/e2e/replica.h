/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * replica.h - a sleeping sandbox restored beside itself: loaded, compared, ended, but never run
 *
 * A replica is what sandbox_bring_up() makes of the sandbox's memory directory, with a session and
 * a VM of its own, up to and without the resume. Nothing of the sandbox changes. replica_main() is
 * the start routine of a thread; replicas of one sandbox may run at the same time.
 */
#include "guest-ram.h"
#include "sandbox/private.h"

#define MEMORY_BYTES (128ull << 20) /* of every guest in these tests */
#define N_PAGES	     ((uint32_t)(MEMORY_BYTES / DORM_PAGE_SIZE))

struct replica {
	const struct sandbox *sb; /* asleep, and left alone meanwhile */
	const char *expected;	  /* MEMORY_BYTES */
	char name[32];		  /* of its session and directory */
	enum page_order order;
	pthread_barrier_t *together; /* all start reading at once; NULL: alone */
	enum pager_mode mode;	     /* how the pager must serve it; AUTO: as it likes */

	int r; /* the rest is the result */
	struct problem problem;
	struct diff diff;
	uint64_t written_by_vmm; /* pages that the VMM wrote while it loaded, whatever it wrote */
	uint64_t faults, stored, joined, resident, zero; /* as the pager counted them */
	uint64_t continued, copied; /* pages mapped from the base's memory, and pages of its own */
};

void *replica_main(void *replica);

/** memory_copy() - all of a paused VM's memory. @out: MEMORY_BYTES */
int memory_copy(struct vmm *vmm, int memory_fd, char *out, struct problem *problem);

/** memory_compare() - all of a paused VM's memory with @expected, page by page in @order */
int memory_compare(const char *expected, struct vmm *vmm, int memory_fd, enum page_order order,
		   struct problem *problem, struct diff *diff);
