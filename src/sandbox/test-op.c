/* SPDX-License-Identifier: Apache-2.0 */
/* Operations as objects: their lock, their end before its time, and what a client is told. */
#include "base/test.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "sandbox/private.h"
#include "sys/proc.h"

struct scene {
	struct host host;
	struct sandbox sb;
};

static void init_lock(pthread_mutex_t *m)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(m, &attr);
	pthread_mutexattr_destroy(&attr);
}

static void open_scene(struct scene *s)
{
	*s = (struct scene){.host = {.limits = HOST_LIMITS_DEFAULT}, .sb = {.refs = 1}};
	s->sb.host = &s->host;
	s->host.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	memcpy(s->sb.record.id, "i00000000000000000000", ID_LEN + 1);
	init_lock(&s->host.lock);
	init_lock(&s->host.pager_lock);
	init_lock(&s->sb.op);
	init_lock(&s->sb.info);
	init_lock(&s->sb.disk);
}

static void close_scene(struct scene *s)
{
	close(s->host.kick_fd);
}

static void *try_lock(void *arg)
{
	struct scene *s = arg;

	return op_try(&s->sb) ? s : NULL;
}

static void test_lock(void **state)
{
	struct scene s;
	pthread_t thread;
	void *got;

	open_scene(&s);
	assert_false(op_is_mine(&s.sb));
	assert_true(op_wait(&s.sb));
	assert_true(op_is_mine(&s.sb));
	op_begin(&s.sb, OP_SLEEP);
	assert_int_equal(s.sb.doing.kind, OP_SLEEP);
	assert_int_equal(pthread_create(&thread, NULL, try_lock, &s), 0);
	pthread_join(thread, &got);
	assert_null(got);
	op_unlock(&s.sb);
	assert_int_equal(s.sb.doing.kind, OP_NONE);
	assert_false(op_is_mine(&s.sb));
	s.sb.gone = true;
	assert_false(op_wait(&s.sb));
	assert_true(op_try(&s.sb)); /* it was given up again */
	op_unlock(&s.sb);
	close_scene(&s);
}

/* Whoever waits for op while it holds what comes after it would be a deadlock one day. */
static void test_order(void **state)
{
	static const size_t locks[] = {
		offsetof(struct scene, sb.info), offsetof(struct scene, sb.disk),
		offsetof(struct scene, sb.op), offsetof(struct scene, host.lock)};
	struct scene s;

	for (unsigned i = 0; i < ARRAY_SIZE(locks); i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			freopen("/dev/null", "w", stderr);
			open_scene(&s);
			pthread_mutex_lock((pthread_mutex_t *)((char *)&s + locks[i]));
			(void)op_lock(&s.sb, 0);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	}
	open_scene(&s);
	assert_int_equal(op_lock(&s.sb, 0), 0);
	op_unlock(&s.sb);
	close_scene(&s);
}

static void test_deleted(void **state)
{
	struct problem p = PROBLEM_INIT;
	struct scene s;
	int status;
	pid_t pid;

	open_scene(&s);
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	s.sb.record.vm.pid = pid;
	assert_int_equal(proc_start_time(pid, &s.sb.record.vm.start_time), 0);
	assert_true(op_try(&s.sb));
	op_begin(&s.sb, OP_WAKE);
	assert_int_equal(op_step(&s.sb, STEP_LOAD), 0);
	assert_false(op_is_interrupted(&s.sb));
	op_interrupt(&s.sb, OP_TOO_LATE);
	assert_int_equal(op_step(&s.sb, STEP_RESUME), -ETIMEDOUT);
	op_interrupt(&s.sb, OP_DELETED); /* counts more */
	op_interrupt(&s.sb, OP_TOO_LATE);
	assert_int_equal(op_step(&s.sb, STEP_ANSWER), -ECANCELED);
	assert_int_equal(op_step(&s.sb, STEP_NAME), 0); /* none of a wake's: only noted */
	problem_set(&p, 500, "the VM ended");
	op_explain(&s.sb, -ECANCELED, &p);
	assert_int_equal(p.status, 409);
	assert_non_null(strstr(p.message, "was deleted"));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	op_begin(&s.sb, OP_DELETE); /* what is next is interrupted, too: that is for ever */
	assert_true(op_is_interrupted(&s.sb));
	op_unlock(&s.sb);
	close_scene(&s);
}

/* A number that belongs to another process by now is left alone. */
static void test_not_its_process(void **state)
{
	struct scene s;

	open_scene(&s);
	s.sb.record.vm.pid = getpid();
	assert_int_equal(proc_start_time(getpid(), &s.sb.record.vm.start_time), 0);
	s.sb.record.vm.start_time--;
	op_interrupt(&s.sb, OP_DELETED);
	close_scene(&s); /* still here */
}

static void test_too_late(void **state)
{
	uint64_t left = UINT64_MAX;
	struct problem p = PROBLEM_INIT;
	struct scene s;

	open_scene(&s);
	s.host.limits.operation_ms = 0;
	assert_true(op_try(&s.sb));
	op_begin(&s.sb, OP_SLEEP); /* the monitor does not end that: the guest would be lost */
	assert_false(op_is_late(&s.sb, &left));
	assert_int_equal(op_step(&s.sb, STEP_MEMORY), 0);
	s.sb.doing.deadline_ns = 1;
	assert_int_equal(op_step(&s.sb, STEP_MEMORY), -ETIMEDOUT);
	op_begin(&s.sb, OP_CREATE);
	assert_true(op_is_late(&s.sb, &left));
	assert_int_equal(left, UINT64_MAX);
	op_interrupt(&s.sb, OP_TOO_LATE);
	assert_false(op_is_late(&s.sb, &left)); /* it has been told */
	assert_int_equal(op_step(&s.sb, STEP_ANSWER), -ETIMEDOUT);
	op_explain(&s.sb, -ETIMEDOUT, &p);
	assert_int_equal(p.status, 504);
	assert_non_null(strstr(p.message, "answer"));
	s.host.limits.operation_ms = 60000;
	op_begin(&s.sb, OP_WAKE); /* the next one has its own time */
	assert_false(op_is_late(&s.sb, &left));
	assert_true(left > 0 && left <= 60 * NSEC_PER_SEC);
	assert_int_equal(op_step(&s.sb, STEP_LOAD), 0);
	op_unlock(&s.sb);
	close_scene(&s);
}

/* Every row of the table leads to a state, or to none; every state has an answer to everything. */
static void test_tables(void **state)
{
	json_auto_t *all = op_points_describe();
	json_t *row, *cell;
	const char *key;
	enum sandbox_state ignored;
	size_t i;

	json_array_foreach (json_object_get(all, "points"), i, row) {
		json_object_foreach (row, key, cell) {
			const char *text = json_string_value(cell);

			assert_non_null(text);
			if (!strcmp(key, "operation") || !strcmp(key, "step") ||
			    !strcmp(text, "gone") || !strcmp(text, "-"))
				continue;
			assert_int_equal(sandbox_state_parse(text, &ignored), 0);
		}
	}
	assert_true(i > 40);
	json_array_foreach (json_object_get(all, "answers"), i, row)
		assert_int_equal(json_object_size(row), SANDBOX_N_STATES + 1);
	assert_true(i > 5);
	assert_true(op_is_point(OP_SLEEP, STEP_COMMIT));
	assert_false(op_is_point(OP_SLEEP, STEP_LOAD));
	assert_false(op_is_point(OP_NONE, STEP_NONE));
}

TEST_MAIN(cmocka_unit_test(test_lock), cmocka_unit_test(test_order), cmocka_unit_test(test_deleted),
	  cmocka_unit_test(test_not_its_process), cmocka_unit_test(test_too_late),
	  cmocka_unit_test(test_tables))
