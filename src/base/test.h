/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* test.h - what every unit test includes: cmocka and the headers it wants first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/** TEST_MAIN() - a main() that runs the named test functions */
#define TEST_MAIN(...)                                                                             \
	int main(void)                                                                             \
	{                                                                                          \
		const struct CMUnitTest tests[] = {__VA_ARGS__};                                   \
		return cmocka_run_group_tests(tests, NULL, NULL);                                  \
	}
