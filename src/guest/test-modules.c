/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <string.h>

#include "guest/modules.h"

/* Debian 12: everything is a module. */
static const char dep12[] =
	"kernel/net/vmw_vsock/vsock.ko:\n"
	"kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko "
	"kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/drivers/virtio/virtio_ring.ko:\n"
	"kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko "
	"kernel/drivers/virtio/virtio_ring.ko\n"
	"kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko\n"
	"kernel/fs/erofs_tools.ko:\n"
	"kernel/lib/libcrc32c.ko:\n";

static void expect(const char *dep, const char *builtin, const char *const wanted[],
		   const char *expected)
{
	_cleanup_module_list_ struct module_list l = {0};
	struct problem problem = PROBLEM_INIT;
	char text[1024] = "";

	assert_int_equal(modules_resolve(dep, builtin, wanted, &problem, &l), 0);
	for (unsigned i = 0; i < l.n; i++) {
		const char *base = strrchr(l.paths[i], '/') + 1;

		strcat(strcat(text, base), " ");
	}
	assert_string_equal(text, expected);
}

static void test_load_order(void **state)
{
	const char *const wanted[] = {"virtio_mmio", "erofs", "virtio_rng", NULL};
	const char *const again[] = {"virtio-rng", "virtio_ring", "virtio_mmio", NULL};
	const char *const none[] = {NULL};

	expect(dep12, "", wanted,
	       "virtio_ring.ko virtio.ko virtio_mmio.ko libcrc32c.ko erofs.ko virtio-rng.ko ");
	expect(dep12, "", again, "virtio_ring.ko virtio.ko virtio-rng.ko virtio_mmio.ko ");
	expect(dep12, "", none, "");
}

/* Debian 13: part of it is built in, the rest is compressed. */
static void test_builtin_and_compressed(void **state)
{
	const char *const wanted[] = {"virtio_console", "virtio_blk", "erofs", NULL};

	expect("kernel/drivers/block/virtio_blk.ko.xz:\n"
	       "kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\n"
	       "kernel/lib/libcrc32c.ko.xz:",
	       "kernel/drivers/char/virtio_console.ko\n", wanted,
	       "virtio_blk.ko.xz libcrc32c.ko.xz erofs.ko.xz ");
}

static void expect_error(const char *dep, const char *name, int error, const char *message)
{
	_cleanup_module_list_ struct module_list l = {0};
	struct problem problem = PROBLEM_INIT;
	const char *const wanted[] = {name, NULL};

	assert_int_equal(modules_resolve(dep, "", wanted, &problem, &l), error);
	assert_non_null(strstr(problem.message, message));
	assert_null(l.paths);
}

static void test_errors(void **state)
{
	expect_error(dep12, "virtio_blk", -ENOENT, "no module \"virtio_blk\"");
	expect_error(dep12, "erof", -ENOENT, "no module");
	expect_error("k/a.ko: k/b.ko\n", "a", -ENOENT, "needs k/b.ko");
	expect_error("k/a.ko: k/b.ko\nk/b.ko: k/a.ko\n", "a", -EINVAL, "circle");
	expect_error("k/a.ko\n", "a", -EINVAL, "no ':'");
}

TEST_MAIN(cmocka_unit_test(test_load_order), cmocka_unit_test(test_builtin_and_compressed),
	  cmocka_unit_test(test_errors))
