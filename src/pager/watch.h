/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * watch.h - what takes too long: reads that VMs wait for and that do not come to an end
 *
 * Whoever hands a fault's frame to the loader notes since when, and takes the note back when it was
 * served. The control thread looks at the notes now and then: storage that hangs is nobody's bug
 * here, but whoever reads the log should not have to guess. Faults that joined a read are stuck
 * with the one that they joined, and are not counted. Reads in the background are the loader's one
 * at a time: if none comes to an end for so long while one is under way, their job is stuck.
 *
 * The notes are atomics in the session; any thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "pager/session.h"

#define WATCH_STUCK_NS 10000000000ull
#define WATCH_MARK     (1ull << 31) /* in @what: on its way into the VM itself */

/** watch_begin() - a read was asked for. @what: layer << 32 | WATCH_MARK or 0 | frame */
void watch_begin(struct session *s, uint64_t since_ns, uint64_t what);

/** watch_end() - it was served, or given up. The same arguments */
void watch_end(struct session *s, uint64_t since_ns, uint64_t what);

struct watch_report {
	uint32_t n_stuck;
	uint64_t oldest_ns;    /* age of the oldest fault that waits for a read; 0: none does */
	uint32_t layer, frame; /* of that one */
	bool direct;	       /* it is a frame of the session's image, else of the resident's */
};

/** watch_look() - how is this session? @stuck_ns: from when on a fault is stuck */
void watch_look(const struct session *s, uint64_t now_ns, uint64_t stuck_ns,
		struct watch_report *ret);
