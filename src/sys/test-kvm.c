/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "sys/kvm.h"

/* Any verdict is right somewhere; it must agree with its own numbers, and come in time. */
static void test_probe(void **state)
{
	uint64_t t = clock_now_ns();
	struct kvm_probe p;

	assert_int_equal(kvm_probe(&p), 0);
	assert_true(clock_now_ns() - t < (KVM_PROBE_MS + 1000) * NSEC_PER_MSEC);
	print_message("present %d usable %d guest %.2f native %.2f ns: %s\n", p.present, p.usable,
		      p.guest_ns_per_iteration, p.native_ns_per_iteration, p.reason);
	assert_true(p.reason[0]);
	assert_int_equal(p.present, access("/dev/kvm", F_OK) == 0);
	if (!p.present)
		assert_false(p.usable);
	if (p.usable)
		assert_true(p.guest_ns_per_iteration > 0);
	if (p.guest_ns_per_iteration > 0) {
		assert_true(p.native_ns_per_iteration > 0.01 && p.native_ns_per_iteration < 100);
		assert_int_equal(p.usable, p.guest_ns_per_iteration <=
						   MAX(10.0, 20 * p.native_ns_per_iteration));
	}
}

TEST_MAIN(cmocka_unit_test(test_probe))
