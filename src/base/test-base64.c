/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "base/base64.h"

static void test_vectors(void **state)
{
	static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
	static const char *const coded[] = {"",     "Zg==",     "Zm8=",    "Zm9v",
					    "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};

	for (int i = 0; i < 7; i++) {
		char out[16], back[16];
		ssize_t n;

		assert_int_equal(base64_encode(plain[i], strlen(plain[i]), out), strlen(coded[i]));
		assert_string_equal(out, coded[i]);
		n = base64_decode(coded[i], strlen(coded[i]), back);
		assert_int_equal(n, strlen(plain[i]));
		assert_memory_equal(back, plain[i], (size_t)n);
	}
}

static void test_refuses(void **state)
{
	char out[16];

	assert_int_equal(base64_decode("Zm9*", 4, out), -EINVAL);
	assert_int_equal(base64_decode("Zm9vY", 5, out), -EINVAL);
	assert_int_equal(base64_decode("Z=9v", 4, out), -EINVAL);
}

TEST_MAIN(cmocka_unit_test(test_vectors), cmocka_unit_test(test_refuses))
