/* SPDX-License-Identifier: Apache-2.0 */
/* keys.json: whatever is taken for keys is written again as the same keys */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "api/keys-internal.h"

static void require(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct problem problem = PROBLEM_INIT;
	struct key *keys = NULL, *again = NULL;
	size_t n = 0, n_again = 0;
	char *text;
	int r;

	if (size > KEYS_MAX_BYTES)
		return 0;
	r = keys_decode((const char *)data, size, &problem, &keys, &n);
	if (r < 0) {
		require(problem.message[0]);
		return 0;
	}
	require(n <= KEYS_MAX);
	text = keys_encode(keys, n);
	require(text);
	require(keys_decode(text, strlen(text), NULL, &again, &n_again) == 0 && n_again == n);
	for (size_t i = 0; i < n; i++) {
		require(keys[i].scope >= SCOPE_READ && keys[i].scope <= SCOPE_ADMIN);
		require(!strcmp(keys[i].id, again[i].id) && keys[i].rate == again[i].rate &&
			!memcmp(keys[i].hash, again[i].hash, sizeof(keys[i].hash)) &&
			keys[i].max_sandboxes == again[i].max_sandboxes);
	}
	free(text);
	free(again);
	free(keys);
	return 0;
}
