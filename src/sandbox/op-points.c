/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op-points.c - what becomes of a sandbox when a step of an operation fails
 *
 * One row for each step that can fail, in the order in which they are done; the step has not begun
 * when the failure happens. The columns:
 *
 *     error   the step fails: EIO, or ENOSPC on a full disk
 *     vmm     the VM's process dies
 *     pager   the pager dies; another one takes its place
 *     kill    dormd dies. What the next one makes of it
 *
 * "gone" means that nothing remains. A state is the sandbox's once the operation has ended, and the
 * same after a restart of dormd; "-" means that the failure has no effect there, since there is no
 * such process yet, or nothing waits for the outcome of the step. The operation has succeeded where
 * the state is that of the last row, "reply", and otherwise changed nothing but what the row says.
 *
 * A delete at any of these steps ends the operation and leaves nothing.
 */
#include "base/mem.h"
#include "sandbox/op.h"
#include "sandbox/state.h"

#define GONE  "gone"
#define RUNS  "running"
#define SLEEP "asleep"
#define FAIL  "failed"
#define NONE  "-"

struct point {
	enum op_kind kind;
	enum op_step step;
	const char *error, *vmm, *pager, *kill;
};

static const struct point points[] = {
	/* From a template, or from the point that a fork made; nobody knows the sandbox yet. */
	{OP_CREATE, STEP_CLONE, GONE, NONE, RUNS, GONE},
	{OP_CREATE, STEP_SESSION, GONE, NONE, RUNS, GONE},
	{OP_CREATE, STEP_START, GONE, NONE, RUNS, GONE},
	{OP_CREATE, STEP_LOAD, GONE, GONE, RUNS, GONE},
	{OP_CREATE, STEP_RESUME, GONE, GONE, RUNS, GONE},
	{OP_CREATE, STEP_ANSWER, GONE, GONE, RUNS, GONE},
	{OP_CREATE, STEP_RECORD, GONE, GONE, RUNS, GONE},
	{OP_CREATE, STEP_REPLY, NONE, FAIL, RUNS, RUNS},
	/* The memory directory is never touched. */
	{OP_WAKE, STEP_CHECK, SLEEP, NONE, RUNS, SLEEP},
	{OP_WAKE, STEP_SESSION, SLEEP, NONE, RUNS, SLEEP},
	{OP_WAKE, STEP_START, SLEEP, NONE, RUNS, SLEEP},
	{OP_WAKE, STEP_LOAD, SLEEP, SLEEP, RUNS, SLEEP},
	{OP_WAKE, STEP_RESUME, SLEEP, SLEEP, RUNS, SLEEP},
	{OP_WAKE, STEP_ANSWER, SLEEP, SLEEP, RUNS, SLEEP},
	{OP_WAKE, STEP_RECORD, SLEEP, SLEEP, RUNS, SLEEP},
	{OP_WAKE, STEP_REPLY, NONE, FAIL, RUNS, RUNS},
	/* Until the commit the guest is all there is; from then on the directory has everything. */
	{OP_SLEEP, STEP_BEGIN, RUNS, FAIL, SLEEP, RUNS},
	{OP_SLEEP, STEP_PREPARE, RUNS, FAIL, SLEEP, RUNS},
	{OP_SLEEP, STEP_PAUSE, RUNS, FAIL, SLEEP, RUNS},
	{OP_SLEEP, STEP_DEVICE, RUNS, FAIL, SLEEP, RUNS},
	{OP_SLEEP, STEP_DISKS, RUNS, FAIL, SLEEP, RUNS},
	{OP_SLEEP, STEP_MEMORY, RUNS, FAIL, SLEEP, RUNS},
	{OP_SLEEP, STEP_COMMIT, RUNS, SLEEP, SLEEP, RUNS},
	{OP_SLEEP, STEP_RECORD, RUNS, SLEEP, SLEEP, RUNS},
	{OP_SLEEP, STEP_END, NONE, SLEEP, SLEEP, SLEEP},
	{OP_SLEEP, STEP_REMOVE, NONE, NONE, SLEEP, SLEEP},
	{OP_SLEEP, STEP_REPLY, NONE, NONE, SLEEP, SLEEP},
	/* Of a running sandbox; there is a snapshot from "name" on. */
	{OP_SNAPSHOT, STEP_BEGIN, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_PREPARE, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_PAUSE, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_DEVICE, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_DISKS, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_MEMORY, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_COMMIT, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_CONTINUE, NONE, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_NAME, RUNS, FAIL, RUNS, RUNS},
	{OP_SNAPSHOT, STEP_REPLY, NONE, FAIL, RUNS, RUNS},
	/* Of a running sandbox, on which it leaves as little as a snapshot does. */
	{OP_FORK, STEP_BEGIN, RUNS, FAIL, RUNS, RUNS},
	{OP_FORK, STEP_COMMIT, RUNS, FAIL, RUNS, RUNS},
	{OP_FORK, STEP_CONTINUE, NONE, FAIL, RUNS, RUNS},
	{OP_FORK, STEP_COPIES, RUNS, FAIL, RUNS, RUNS},
	/* Of a running sandbox. What is decided is recorded, if that can be done, and goes on. */
	{OP_DELETE, STEP_BEGIN, GONE, GONE, GONE, RUNS},
	{OP_DELETE, STEP_END, NONE, GONE, GONE, GONE},
	{OP_DELETE, STEP_REMOVE, NONE, NONE, GONE, GONE},
	{OP_DELETE, STEP_REPLY, NONE, NONE, GONE, GONE},
};

/*
 * What a client is told who asks for something in each state; the states stand at the top of
 * state.h. "waits" is for the operation under way, and then as in the state in which that ended.
 */
struct answer {
	const char *what;
	const char *in[SANDBOX_N_STATES];
};

#define ANSWERS(_creating, _running, _pausing, _asleep, _waking, _deleting, _failed)               \
	{                                                                                          \
		[SANDBOX_CREATING] = _creating, [SANDBOX_RUNNING] = _running,                      \
		[SANDBOX_PAUSING] = _pausing, [SANDBOX_ASLEEP] = _asleep,                          \
		[SANDBOX_WAKING] = _waking, [SANDBOX_DELETING] = _deleting,                        \
		[SANDBOX_FAILED] = _failed                                                         \
	}

static const struct answer answers[] = {
	{"look", ANSWERS("200", "200", "200", "200", "200", "404", "200")},
	{"sleep", ANSWERS("waits", "204", "waits", "409", "waits", "404", "409")},
	{"wake", ANSWERS("waits", "200", "waits", "201", "waits", "404", "409")},
	{"fork", ANSWERS("waits", "201", "waits", "201", "waits", "404", "409")},
	{"snapshot", ANSWERS("waits", "201", "waits", "201", "waits", "404", "409")},
	{"network", ANSWERS("waits", "204", "waits", "204", "waits", "404", "409")},
	{"timeout", ANSWERS("204", "204", "204", "204", "204", "404", "409")},
	{"request into it", ANSWERS("502", "passed on", "409", "502", "409", "502", "502")},
	{"delete", ANSWERS("204", "204", "204", "204", "204", "404", "204")},
};

bool op_is_point(enum op_kind kind, enum op_step step)
{
	for (size_t i = 0; i < ARRAY_SIZE(points); i++)
		if (points[i].kind == kind && points[i].step == step)
			return true;
	return false;
}

static json_t *describe_points(void)
{
	json_t *all = json_array();

	for (size_t i = 0; all && i < ARRAY_SIZE(points); i++) {
		const struct point *p = &points[i];
		json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "operation",
				      op_kind_name(p->kind), "step", op_step_name(p->step), "error",
				      p->error, "vmm", p->vmm, "pager", p->pager, "kill", p->kill);

		if (json_array_append_new(all, o) < 0) {
			json_decref(all);
			return NULL;
		}
	}
	return all;
}

static json_t *describe_answer(const struct answer *a)
{
	json_t *o = json_pack("{s:s}", "operation", a->what);

	for (unsigned i = 0; o && i < SANDBOX_N_STATES; i++)
		if (json_object_set_new(o, sandbox_state_name((enum sandbox_state)i),
					json_string(a->in[i])) < 0) {
			json_decref(o);
			return NULL;
		}
	return o;
}

static json_t *describe_answers(void)
{
	json_t *all = json_array();

	for (size_t i = 0; all && i < ARRAY_SIZE(answers); i++)
		if (json_array_append_new(all, describe_answer(&answers[i])) < 0) {
			json_decref(all);
			return NULL;
		}
	return all;
}

/* Which change of state is possible at all: what sandbox_set_state() asserts. */
static json_t *describe_changes(void)
{
	json_t *all = json_object();

	for (unsigned from = 0; all && from < SANDBOX_N_STATES; from++) {
		json_t *to = json_array();

		for (unsigned i = 0; to && i < SANDBOX_N_STATES; i++)
			if (sandbox_state_may((enum sandbox_state)from, (enum sandbox_state)i))
				(void)json_array_append_new(
					to, json_string(sandbox_state_name((enum sandbox_state)i)));
		(void)json_object_set_new(all, sandbox_state_name((enum sandbox_state)from), to);
	}
	return all;
}

json_t *op_points_describe(void)
{
	return json_pack("{s:o, s:o, s:o}", "changes", describe_changes(), "answers",
			 describe_answers(), "points", describe_points());
}
