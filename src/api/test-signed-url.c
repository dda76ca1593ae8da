/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/signed-url.h"

/* Computed with another program: printf '%s' '/home/user/a.txt:read::secret' | openssl dgst -sha256
 * -binary | base64 */
static void test_known(void **state)
{
	struct signed_url u = {.path = "/home/user/a.txt"};
	char got[SIGNED_URL_SIGNATURE_SIZE];

	assert_int_equal(signed_url_sign(&u, "secret", got), 0);
	assert_string_equal(got, "v1_HEW7fDvq8wDd0bCgcYpP4vKMGjo6waU8ir2ibcmhKGY");
	u = (struct signed_url){
		.path = "a b", .user = "root", .expiration = "1700000000", .write = true};
	assert_int_equal(signed_url_sign(&u, "secret", got), 0);
	assert_string_equal(got, "v1_96zVQOyyMQE95YQLWNrXVsAghDYQwawtvd4YKZUf8eQ");
}

static void test_every_part_counts(void **state)
{
	const struct signed_url all[] = {
		{.path = "a"},
		{.path = "b"},
		{.path = "a", .write = true},
		{.path = "a", .user = "root"},
		{.path = "a", .expiration = "17"},
		{.path = "a", .expiration = "18"},
	};
	char got[sizeof(all) / sizeof(*all)][SIGNED_URL_SIGNATURE_SIZE], other[sizeof(got[0])];

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		assert_int_equal(signed_url_sign(&all[i], "t", got[i]), 0);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(got[i], got[k]);
	}
	assert_int_equal(signed_url_sign(&all[0], "u", other), 0);
	assert_string_not_equal(got[0], other);
}

static void test_too_long(void **state)
{
	char got[SIGNED_URL_SIGNATURE_SIZE], *path = calloc(1, 5001);
	struct signed_url u = {.path = path};

	memset(path, 'x', 5000);
	assert_int_equal(signed_url_sign(&u, "t", got), -ENAMETOOLONG);
	free(path);
}

TEST_MAIN(cmocka_unit_test(test_known), cmocka_unit_test(test_every_part_counts),
	  cmocka_unit_test(test_too_long))
