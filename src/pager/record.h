/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * record.h - a session's part of the journal, kept up to date
 *
 *     record_new() -> [record_attach()] -> record_update()* -> record_end() -> record_free()
 *
 * What cannot be written is logged: the session goes on, and only would not be taken back. Control
 * thread.
 */
#include "base/mem.h"
#include "pager/journal.h"
#include "pager/session.h"

struct record;

/** record_new() - write the record of a new session. @dirfd: the snapshot directory, -1: zeros;
 *  @journal is borrowed. Return: 0; -ENOMEM */
int record_new(int journal, const struct session *s, int dirfd, struct record **ret);

/** record_resume() - of a session that has one already. Return: 0; -ENOMEM */
int record_resume(int journal, const struct journal_entry *e, struct record **ret);

struct record *record_free(struct record *rec);
DEFINE_CLEANUP(struct record *, record_free)

/** record_attach() - it is about to get a VM. record_detach() - it did not */
void record_attach(struct record *rec, const struct handshake *map, int pid, int uffd);
void record_detach(struct record *rec);

/** record_update() - write what changed since the last time, if anything; remove it all when the
 *  session does not listen or serve any more */
void record_update(struct record *rec, const struct session *s);

/** record_end() - the session is over */
void record_end(struct record *rec);

/** record_yield() - another session has the name now, and the files */
void record_yield(struct record *rec);
