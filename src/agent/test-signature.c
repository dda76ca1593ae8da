/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/signature.h"

#include "base/test.h"

/* Made with: printf %s TEXT | openssl dgst -sha256 -binary | base64 */
static void test_make(void **state)
{
	char text[SIGNATURE_MAX];

	assert_int_equal(signature_make("/home/user/a b", "read", "", "sekrit", NULL, text), 0);
	assert_string_equal(text, "v1_5ad2ZC8P/h2F25EvHXA3/lfF9QaeTT2zSwbuax0jfKs");
	assert_int_equal(signature_make("x", "write", "root", "sekrit", "4102444800", text), 0);
	assert_string_equal(text, "v1_QDE4Z3YrFk5lfoxrNe7Qq9ZugbM6pO0Gj1H7p2vWBas");
}

TEST_MAIN(cmocka_unit_test(test_make))
