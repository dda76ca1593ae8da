/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/state.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/mem.h"

static const char *const names[] = {
	[SANDBOX_CREATING] = "creating", [SANDBOX_RUNNING] = "running",
	[SANDBOX_PAUSING] = "pausing",	 [SANDBOX_ASLEEP] = "asleep",
	[SANDBOX_WAKING] = "waking",	 [SANDBOX_DELETING] = "deleting",
	[SANDBOX_FAILED] = "failed",
};
static_assert(ARRAY_SIZE(names) == SANDBOX_N_STATES, "every state has a name");

#define TO(_s) (1u << SANDBOX_##_s)

static const unsigned allowed[] = {
	[SANDBOX_CREATING] = TO(RUNNING) | TO(DELETING) | TO(FAILED),
	[SANDBOX_RUNNING] = TO(PAUSING) | TO(DELETING) | TO(FAILED),
	[SANDBOX_PAUSING] = TO(RUNNING) | TO(ASLEEP) | TO(DELETING) | TO(FAILED),
	[SANDBOX_ASLEEP] = TO(WAKING) | TO(DELETING) | TO(FAILED),
	[SANDBOX_WAKING] = TO(RUNNING) | TO(ASLEEP) | TO(DELETING) | TO(FAILED),
	[SANDBOX_DELETING] = 0,
	[SANDBOX_FAILED] = TO(DELETING),
};
static_assert(ARRAY_SIZE(allowed) == SANDBOX_N_STATES, "every state has its ways out");

const char *sandbox_state_name(enum sandbox_state state)
{
	assert(state < SANDBOX_N_STATES);
	return names[state];
}

int sandbox_state_parse(const char *name, enum sandbox_state *ret)
{
	for (unsigned i = 0; i < SANDBOX_N_STATES; i++) {
		if (!strcmp(name, names[i])) {
			*ret = (enum sandbox_state)i;
			return 0;
		}
	}
	return -EINVAL;
}

bool sandbox_state_may(enum sandbox_state from, enum sandbox_state to)
{
	return allowed[from] & 1u << to;
}
