/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * ledger.h - a session's part of the journal, kept up to date
 *
 *     ledger_new() -> [ledger_attach()] -> ledger_update()* -> ledger_end() -> ledger_free()
 *     ledger_new_kept() -> ledger_attach() -> the same
 *
 * A session whose descriptors the supervisor keeps has its record there, too (keeper.h).
 *
 * What cannot be written is logged: the session goes on, and only would not be taken back. Control
 * thread.
 */
#include "base/mem.h"
#include "pager/journal.h"
#include "pager/session.h"

struct ledger;

/** ledger_new() - write the record of a new session. @dirfd: the snapshot directory, -1: zeros;
 *  @journal is borrowed. Return: 0; -ENOMEM */
int ledger_new(int journal, const struct session *s, int dirfd, struct ledger **ret);

/* What is kept of a session, in this order. Borrowed: open as long as the ledger. */
struct ledger_fds {
	int uffd, pidfd, slate, conn;
};

/**
 * ledger_new_kept() - of a session without a directory, nothing is written before it has a VM
 * @journal: -1: none; @keeper: where the keeper's socket is noted, -1 there: none (any more);
 * borrowed. Return: 0; -ENOMEM
 */
int ledger_new_kept(int journal, const int *keeper, const struct session *s,
		    const struct ledger_fds *fds, struct ledger **ret);

/** ledger_keep() - after ledger_resume(): its descriptors are kept, or are to be; the record is
 *  put (again) when @put */
void ledger_keep(struct ledger *rec, const int *keeper, const struct ledger_fds *fds, bool put);

/** ledger_resume() - of a session that has one already. Return: 0; -ENOMEM */
int ledger_resume(int journal, const struct journal_entry *e, struct ledger **ret);

struct ledger *ledger_free(struct ledger *rec);
DEFINE_CLEANUP(struct ledger *, ledger_free)

/** ledger_attach() - it is about to get a VM. ledger_detach() - it did not */
void ledger_attach(struct ledger *rec, const struct handshake *map, int pid, int uffd);
void ledger_detach(struct ledger *rec);

/** ledger_update() - write what changed since the last time, if anything; remove it all when the
 *  session does not listen or serve any more */
void ledger_update(struct ledger *rec, const struct session *s);

/** ledger_end() - the session is over */
void ledger_end(struct ledger *rec);

/** ledger_yield() - another session has the name now, and the files */
void ledger_yield(struct ledger *rec);
