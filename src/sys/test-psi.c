/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/psi.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"

static void test_open(void **state)
{
	struct psi p;
	int r = psi_open(&p);

	(void)state;
	assert_true(p.text[0]);
	if (r < 0) {
		assert_int_equal(p.n, 0);
		assert_non_null(strstr(p.text, "pressure"));
		print_message("no PSI here: %s\n", p.text);
		skip();
	}
	assert_in_range(p.n, 1, PSI_MAX_FDS);
	for (unsigned i = 0; i < p.n; i++) {
		struct pollfd f = {.fd = p.fds[i], .events = POLLPRI};

		/* it is a trigger: it may have fired, but it is no error */
		assert_true(poll(&f, 1, 0) >= 0);
		assert_false(f.revents & (POLLERR | POLLNVAL));
	}
	assert_true(psi_some_avg10() >= 0 && psi_some_avg10() <= 100);
	r = p.fds[0];
	psi_close(&p);
	assert_int_equal(p.n, 0);
	assert_int_equal(close(r), -1); /* was closed */
}

static void test_available(void **state)
{
	(void)state;
	/* a host that runs tests is not at its end */
	assert_false(psi_is_short());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_available),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
