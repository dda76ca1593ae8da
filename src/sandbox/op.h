/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * op.h - the operation under way on a sandbox: which one, at which step, until when, and its end
 *
 * Whoever holds sandbox.op says what for with op_begin(), and with op_step() which step comes next;
 * giving up the lock ends the operation. So a client can be told what a sandbox is busy with, and
 * there is one place where an operation learns that it is to give up:
 *
 *   - a delete, or the end of its time, interrupts it (op_interrupt()): the VM is killed, which
 *     ends every wait for the VM or its guest at once, and the next op_step() gives -ECANCELED;
 *   - it takes longer than operations of its kind may: the monitor interrupts one that brings a VM
 *     up. One that saves a running guest is not worth the guest: its next op_step() gives
 *     -ETIMEDOUT, and it falls back to running.
 *
 * Each pair of operation and step is also a fault point (base/fault.h). op-points.c has the table
 * of them with what must have become of the sandbox when that step fails; docs/lifecycle.md is made
 * from it, and tests/e2e/test_faults.py drives every row.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/fault.h"
#include "base/problem.h"

struct host;
struct sandbox;

enum op_kind {
	OP_NONE,
	OP_CREATE, /* also of each copy that a fork makes */
	OP_WAKE,
	OP_SLEEP,
	OP_SNAPSHOT,
	OP_FORK, /* on its source */
	OP_DELETE,
	OP_BUILD, /* of a template */
	OP_NETWORK,
	OP_RECONNECT,
	OP_RECOVER,
	OP_N_KINDS,
};

/* What comes next. */
enum op_step {
	STEP_NONE,
	STEP_BEGIN,    /* the transition is recorded */
	STEP_CHECK,    /* is its memory what it slept with? */
	STEP_CLONE,    /* link the memory directory */
	STEP_SESSION,  /* the pager's */
	STEP_START,    /* the VMM's process */
	STEP_LOAD,     /* device state */
	STEP_RESUME,   /* the guest goes on */
	STEP_ANSWER,   /* its agent's first word */
	STEP_REPAIR,   /* the agent's init */
	STEP_PREPARE,  /* the agent's prepare */
	STEP_PAUSE,    /* the VM stands still */
	STEP_DEVICE,   /* device state to disk */
	STEP_DISKS,    /* what the guest wrote to its disk */
	STEP_MEMORY,   /* changed pages, compressed */
	STEP_COMMIT,   /* fsync, rename */
	STEP_CONTINUE, /* the guest that was only copied goes on */
	STEP_NAME,     /* of a snapshot */
	STEP_COPIES,   /* a fork's */
	STEP_RECORD,   /* the new state is recorded: from here on it counts */
	STEP_END,      /* the VM's process */
	STEP_REMOVE,   /* files that nothing refers to any more */
	STEP_REPLY,    /* the client is told */
	OP_N_STEPS,
};

/* Why one is to give up. */
enum op_interrupt {
	OP_GO_ON,
	OP_DELETED, /* the sandbox is to go */
	OP_TOO_LATE,
};

/* Part of struct sandbox; info to read, op and info to change. */
struct op {
	enum op_kind kind;
	enum op_step step;
	uint64_t since_real_ns; /* when it began, real time */
	uint64_t deadline_ns;	/* all of it */
};

const char *op_kind_name(enum op_kind kind);
const char *op_step_name(enum op_step step);

/** op_begin() - op held: from here on it is this that the sandbox is busy with */
void op_begin(struct sandbox *sb, enum op_kind kind);

/** op_end() - op held: it is not busy any more. Done by whoever gives up the lock */
void op_end(struct sandbox *sb);

/**
 * op_step() - op held: this comes next; is it to be done?
 * Return: 0; -ECANCELED, -ETIMEDOUT: give up; -EIO, -ENOSPC: as DORM_FAULT says. Steps that are not
 * in the table of points for this operation are only noted, and are always to be done
 */
int op_step(struct sandbox *sb, enum op_step step);

/** op_fault() - any thread: only the fault point, for what is done without the op lock */
int op_fault(struct sandbox *sb, enum op_kind kind, enum op_step step);

/** op_explain() - op held: it ended with @r < 0. If that is because it was interrupted or out of
 *  time, @problem says that, at which step, and nothing else */
void op_explain(struct sandbox *sb, int r, struct problem *problem);

/** op_interrupt() - any thread: make the operation under way on @sb end soon */
void op_interrupt(struct sandbox *sb, enum op_interrupt why);

/** op_is_interrupted() - any thread, for loops that wait for something else than the VM */
bool op_is_interrupted(const struct sandbox *sb);

/** op_is_late() - info held: it brings up a VM, and has taken longer than it may. @ret_left_ns:
 *  otherwise lowered to how long it still may */
bool op_is_late(const struct sandbox *sb, uint64_t *ret_left_ns);

/** op_lock() - take the op lock. Asserts that this thread may wait for it, by the order in
 * private.h. Return: 0; -ETIMEDOUT */
int op_lock(struct sandbox *sb, uint64_t deadline_ns);

/** op_wait() - take the op lock, however long the operation under way takes. Return: false, and
 *  then it is not held: the sandbox is gone, or the daemon ends */
bool op_wait(struct sandbox *sb);

/** op_try() - take it if it is free */
bool op_try(struct sandbox *sb);

/** op_unlock() - end the operation, and give up the lock */
void op_unlock(struct sandbox *sb);

/** op_is_mine() - does this thread hold it? */
bool op_is_mine(struct sandbox *sb);

/* ---- op-points.c ------------------------------------------------------------------------------
 */

/** op_is_point() - is that step one of that operation, and may it fail there? */
bool op_is_point(enum op_kind kind, enum op_step step);

/** op_points_describe() - the whole table, as `dormd --fault-table` prints it; new reference */
json_t *op_points_describe(void);
