/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz-net-rule.c - what a client writes as a network rule: an error, or a rule that makes sense */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "net/rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct problem problem = PROBLEM_INIT;
	struct rule r;
	char *text = malloc(size + 1);

	assert(text);
	memcpy(text, data, size);
	text[size] = 0;
	if (rule_parse(text, &problem, &r) == 0) {
		assert(r.address.family == 4 || r.address.family == 6);
		assert(r.prefix <= (r.address.family == 4 ? 32 : 128));
		assert(r.first <= r.last && address_in(&r.address, &r.address, r.prefix));
		assert(!r.has_ports || r.first);
	} else {
		assert(problem.status == 400 && problem.message[0] && problem.hint[0]);
	}
	free(text);
	return 0;
}
