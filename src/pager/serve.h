/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * serve.h - the answer to one page fault
 *
 * Fault threads only. Allocates nothing and logs nothing; what takes the disk goes to the loader.
 */
#include <linux/userfaultfd.h>

#include "pager/pager.h"

/**
 * serve_fault() - end an event of a missing or minor page, as the session's mode wants it
 * @s:       held by the caller
 * @b:       the calling thread's
 * @read_ns: when the event was read
 */
void serve_fault(struct pager *p, struct session *s, struct bounce *b, const struct uffd_msg *m,
		 uint64_t read_ns);
