/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-trial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/test.h"
#include "image/test-state.h"

static int run_once(struct trial *t, struct problem *problem)
{
	struct store *s;
	int r;

	assert_int_equal(store_open(t->root, problem, &s), 0);
	r = t->op->run(s, problem);
	store_close(s);
	return r;
}

void trial_begin(struct trial *t, const struct operation *op)
{
	struct problem problem = PROBLEM_INIT;
	int r;

	*t = (struct trial){.op = op};
	state_make_directory(t->base);
	(void)snprintf(t->master, sizeof(t->master), "%s/master", t->base);
	(void)snprintf(t->root, sizeof(t->root), "%s/store", t->base);
	r = scene_build(op, t->master, &problem);
	if (r == 0) {
		trial_reset(t);
		t->before = state_describe(t->root);
		r = run_once(t, &problem);
	}
	if (r)
		fail_msg("%s: %d, %s", op->name, r, problem.message);
	t->after = state_describe(t->root);
	if (!state_has_line(t->after, op->gives) || state_has_line(t->before, op->gives) ||
	    strstr(t->after, "stray") || strstr(t->after, "writable"))
		fail_msg("%s: before:\n%s\nafter:\n%s\nexpected: %s", op->name, t->before, t->after,
			 op->gives);
}

void trial_reset(struct trial *t)
{
	state_copy(t->master, t->root);
}

enum trial_state trial_judge(const struct trial *t, const char *root, char **ret_text)
{
	char *now = state_describe(root);

	*ret_text = now;
	return !strcmp(now, t->after)	 ? TRIAL_NEW
	       : !strcmp(now, t->before) ? TRIAL_OLD
					 : TRIAL_OTHER;
}

void trial_end(struct trial *t)
{
	free(t->before);
	free(t->after);
	scene_end();
	assert_int_equal(file_remove_tree(AT_FDCWD, t->base), 0);
}

int trial_main(void (*test)(void **state), void (*last)(void **state), const char *last_name)
{
	struct CMUnitTest *tests = calloc(n_operations + 1, sizeof(*tests));
	int r;

	if (!tests)
		return 1;
	for (size_t i = 0; i < n_operations; i++)
		tests[i] = (struct CMUnitTest){.name = operations[i].name,
					       .test_func = test,
					       .initial_state = (void *)&operations[i]};
	tests[n_operations] = (struct CMUnitTest){.name = last_name, .test_func = last};
	r = _cmocka_run_group_tests("operations", tests, n_operations + 1, NULL, NULL);
	free(tests);
	return r;
}
