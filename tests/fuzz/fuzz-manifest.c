/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-manifest.c - any bytes as a manifest
 *
 * What is JSON is tried as it is, and once more with a digest that fits. What is accepted must be
 * possible to write again, and mean the same then.
 */
#include <stdlib.h>
#include <string.h>

#include "image/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static void decode(const char *text, size_t len)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0}, files2 = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0}, m2 = {0};
	_cleanup_free_ char *again = NULL, *twice = NULL;
	struct problem problem = PROBLEM_INIT;

	if (manifest_decode(text, len, &problem, &m, &files)) {
		require(problem_is_set(&problem));
		return;
	}
	require(manifest_encode(&m, &files, &again) == 0);
	require(manifest_decode(again, strlen(again), &problem, &m2, &files2) == 0);
	require(manifest_encode(&m2, &files2, &twice) == 0);
	require(!strcmp(again, twice));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_free_ char *fitted = NULL;

	decode((const char *)data, len);
	if (manifest_replace_id((const char *)data, len, "s0123456789abcdefghij", &fitted) == 0)
		decode(fitted, strlen(fitted));
	return 0;
}
