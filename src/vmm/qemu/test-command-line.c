/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/buf.h"
#include "vmm/qemu/command-line.h"

static struct vmm_config plain(void)
{
	return (struct vmm_config){
		.work_dir = "/w", .memory_bytes = 256ull << 20, .cpus = 2, .accel = "tcg"};
}

/* All words, one per line, as the program would see them. */
static void words(const struct vmm_config *c, struct buf *out)
{
	_cleanup_(command_line_freep) struct command_line *l = NULL;

	assert_int_equal(command_line_new("qemu", c, NULL, &l), 0);
	for (const char *const *w = command_line_argv(l); *w; w++)
		assert_int_equal(buf_printf(out, "%s\n", *w), 0);
}

static bool has(const struct buf *b, const char *lines)
{
	return strstr(b->data, lines) != NULL;
}

static void test_restore(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct vmm_config c = plain();

	words(&c, &b);
	assert_true(strncmp(b.data, "qemu\n-M\nmicrovm,", 16) == 0);
	assert_true(has(&b, "\n-bios\nqboot.rom\n-accel\ntcg,tb-size=32\n-cpu\nmax,-erms,-fsrm\n-"
			    "smp\n2\n-m\n256M\n"));
	assert_true(has(&b, "size=256M,mem-path=/dorm/guest-memory,share=off,prealloc=off\n"));
	assert_true(has(&b, "\nsocket,id=agent,fd=5,server=on,wait=off\n"));
	assert_true(has(&b, "\nsocket,id=qmp,fd=4,server=on,wait=off\n"));
	assert_true(has(&b, "\n-S\n-global\nmigration.send-configuration=off\n-global\nmigration."
			    "announce-rounds=0\n"
			    "-incoming\ndefer\n"));
	assert_false(has(&b, "-kernel") || has(&b, "-initrd") || has(&b, "-append"));
	assert_false(has(&b, "virtio-blk"));
}

/* A boot and its restore differ only in how they begin: the devices must be the same. */
static void test_boot(void **state)
{
	_cleanup_buf_ struct buf boot = {0}, restore = {0};
	struct vmm_config c = plain();
	size_t n;

	c.disks[0] = (struct vmm_disk){"/root.erofs", true};
	c.n_disks = 1;
	words(&c, &restore);
	c.kernel = "/k,ernel";
	c.initramfs = "/initramfs";
	c.cmdline = "console=ttyS0 a,b";
	words(&c, &boot);
	assert_true(has(&boot,
			"\n-kernel\n/k,ernel\n-initrd\n/initramfs\n-append\nconsole=ttyS0 a,b\n"));
	assert_false(has(&boot, "\n-S\n") || has(&boot, "-incoming"));
	n = (size_t)(strstr(boot.data, "-kernel\n") - boot.data);
	assert_memory_equal(boot.data, restore.data, n);
	assert_true(strncmp(restore.data + n, "-S\n", 3) == 0);
}

static void test_disks(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct vmm_config c = plain();

	c.accel = "kvm";
	c.disks[0] = (struct vmm_disk){"/root.erofs", true};
	c.disks[1] = (struct vmm_disk){"/odd,readonly=off,.img", false};
	c.n_disks = 2;
	words(&c, &b);
	assert_true(has(&b, "\n-accel\nkvm\n-cpu\nhost\n"));
	assert_true(has(&b, "\n-drive\nif=none,id=d0,file=/root.erofs,format=raw,readonly=on\n"
			    "-device\nvirtio-blk-device,drive=d0\n"));
	/* a comma in a name cannot become an option */
	assert_true(has(&b, "\nif=none,id=d1,file=/odd,,readonly=off,,.img,format=raw,"
			    "cache=writeback,discard=unmap,detect-zeroes=unmap\n"
			    "-device\nvirtio-blk-device,drive=d1\n"));
}

static void layers_are(struct vmm_config *c, const struct vmm_layer layers[3])
{
	static struct vmm_layer copy[3];

	memcpy(copy, layers, sizeof(copy));
	c->disks[1].layers = copy;
}

/* Each layer a node of its own, with what lies below it said and nothing left to a header. */
static void test_chain(void **state)
{
	static const struct vmm_layer layers[] = {{"/m/base", true}, {"/m/a,b"}, {"/m/d2"}};
	_cleanup_buf_ struct buf b = {0};
	struct vmm_config c = plain();

	c.disks[0] = (struct vmm_disk){"/root.erofs", true};
	c.disks[1] = (struct vmm_disk){"/s/top", false, layers, 3};
	c.n_disks = 2;
	assert_int_equal(command_line_new("qemu", &c, NULL, &(struct command_line *){NULL}),
			 -EINVAL); /* a comma in a node's name */
	layers_are(&c, (struct vmm_layer[]){{"/m/base", true}, {"/m/d1"}, {"/m/d2"}});
	words(&c, &b);
	assert_true(has(&b, "\n-blockdev\n{\"driver\":\"raw\",\"node-name\":\"n-base\","
			    "\"read-only\":true,\"file\":{\"driver\":\"file\",\"filename\":"
			    "\"/m/base\"}}\n"));
	assert_true(has(&b, "\"node-name\":\"n-d1\",\"read-only\":true,\"backing\":\"n-base\","));
	assert_true(has(&b, "\"node-name\":\"n-d2\",\"read-only\":true,\"backing\":\"n-d1\","));
	assert_true(has(&b, "\"node-name\":\"n-top\",\"discard\":\"unmap\",\"detect-zeroes\":"
			    "\"unmap\",\"backing\":\"n-d2\","));
	assert_true(has(&b, "\nvirtio-blk-device,drive=n-top,werror=enospc,rerror=report\n"));
	layers_are(&c, (struct vmm_layer[]){{"/m/d1"}, {"/m/d1"}, {"/m/d2"}});
	b.len = 0;
	words(&c, &b);
	assert_true(has(&b, "\"node-name\":\"n-d1\",\"read-only\":true,\"backing\":null,"));
}

/* In the same order whether it is connected or not: that is no concern of the VM's. */
static void test_network(void **state)
{
	_cleanup_buf_ struct buf without = {0}, with = {0};
	struct vmm_config c = plain();

	words(&c, &without);
	assert_false(has(&without, "virtio-net"));
	c.mac = "52:54:00:00:00:01";
	words(&c, &with);
	assert_true(has(&with,
			"\n-netdev\nstream,id=net,server=on,addr.type=fd,addr.str=6\n-device\n"
			"virtio-net-device,netdev=net,mac=52:54:00:00:00:01,"));
}

static void refused(const struct vmm_config *c, const char *word)
{
	struct problem p = PROBLEM_INIT;
	struct command_line *l = NULL;

	assert_int_equal(command_line_new("qemu", c, &p, &l), -EINVAL);
	assert_null(l);
	assert_int_equal(p.status, 400);
	assert_non_null(strstr(p.message, word));
}

static void test_refused(void **state)
{
	struct vmm_config c = plain();

	c.memory_bytes = 0;
	refused(&c, "memory");
	c.memory_bytes = (1 << 20) + 4096;
	refused(&c, "memory");
	c = plain();
	c.cpus = 0;
	refused(&c, "processors");
	c.cpus = 65;
	refused(&c, "processors");
	c = plain();
	c.accel = NULL;
	refused(&c, "accelerator");
	c.accel = "tcg,tb-size=1";
	refused(&c, "accelerator");
	c = plain();
	c.n_disks = VMM_MAX_DISKS + 1;
	refused(&c, "disks");
	c.n_disks = 1;
	refused(&c, "disk");
	c.disks[0].path = "nbd:host:1";
	refused(&c, "absolute");
	c = plain();
	c.cmdline = "x";
	refused(&c, "kernel");
}

TEST_MAIN(cmocka_unit_test(test_restore), cmocka_unit_test(test_boot), cmocka_unit_test(test_disks),
	  cmocka_unit_test(test_chain), cmocka_unit_test(test_network),
	  cmocka_unit_test(test_refused))
