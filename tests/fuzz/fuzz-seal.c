/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-seal.c - any bytes as the file "seal"
 *
 * What is accepted must be possible to write again, and mean the same then. A ring that has no key
 * for it must refuse it, whatever it says.
 */
#include <stdlib.h>
#include <string.h>

#include "image/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void refuse_without_key(const struct seal *s)
{
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	uint8_t(*layer_keys)[LAYER_KEY_BYTES] = NULL;
	struct problem problem = PROBLEM_INIT;

	require(keyring_new(&keys) == 0);
	require(seal_unwrap(s, keys, "", 0, &problem, &layer_keys) == IMAGE_E_KEY);
	require(problem_is_set(&problem) && !layer_keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_(seal_deinit) struct seal s = {0}, s2 = {0};
	_cleanup_free_ char *again = NULL, *twice = NULL;
	struct problem problem = PROBLEM_INIT;

	if (seal_decode((const char *)data, len, &problem, &s)) {
		require(problem_is_set(&problem));
		return 0;
	}
	require(seal_encode(&s, &again) == 0);
	require(seal_decode(again, strlen(again), &problem, &s2) == 0);
	require(seal_encode(&s2, &twice) == 0);
	require(!strcmp(again, twice));
	refuse_without_key(&s);
	return 0;
}
