/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * graduate.h - the end of a job: the session's memory is complete, and it needs the pager no more
 *
 * Source of the order of steps: background.h. Background threads only.
 */
#include "pager/job.h"
#include "pager/resident.h"

/** graduate_has_more() - will there be a step, now or later? With jobs_lock */
bool graduate_has_more(const struct job *job);

/** graduate_is_due() - is there a step to do? With jobs_lock, nothing wanted, nothing under way */
bool graduate_is_due(const struct job *job);

/** graduate_step() - do it. @b: the thread's, with room for a stored frame in scratch */
void graduate_step(struct job *job, struct bounce *b);

/** graduate_copy_resident() - COPY: put into the VM what the resident memory has */
void graduate_copy_resident(struct job *job);
