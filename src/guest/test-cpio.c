/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "guest/cpio.h"

static void make_archive(struct buf *out)
{
	assert_int_equal(cpio_dir(out, "dev", 0755), 0);
	assert_int_equal(cpio_char_device(out, "dev/console", 0600, 5, 1), 0);
	assert_int_equal(cpio_dir(out, "etc", 0755), 0);
	assert_int_equal(cpio_file(out, "etc/name", 0644, "seven..", 7), 0);
	assert_int_equal(cpio_file(out, "etc/empty", 0600, NULL, 0), 0);
	assert_int_equal(cpio_file(out, "init", 0755, "#!", 2), 0);
	assert_int_equal(cpio_end(out), 0);
}

static void test_bytes(void **state)
{
	_cleanup_buf_ struct buf a = {0}, b = {0};

	make_archive(&a);
	make_archive(&b);
	assert_int_equal(a.len % 512, 0);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	/* inode 1, a directory 0755, no data, a name of 4 bytes with its zero */
	assert_memory_equal(a.data,
			    "070701"
			    "00000001"
			    "000041ED"
			    "00000000"
			    "00000000"
			    "00000002"
			    "00000000"
			    "00000000"
			    "00000000"
			    "00000000"
			    "00000000"
			    "00000000"
			    "00000004"
			    "00000000"
			    "dev",
			    6 + 13 * 8 + 4);
	assert_non_null(memmem(a.data, a.len, "TRAILER!!!", 11));
}

/* What the reference implementation reads out of it. */
static void test_cpio_reads_it(void **state)
{
	char path[] = "/tmp/dorm-test-cpio.XXXXXX", command[128], text[4096];
	_cleanup_buf_ struct buf a = {0};
	size_t n;
	FILE *p;
	int fd;

	if (system("cpio --version >/dev/null 2>&1") != 0) {
		print_message("cpio is not installed\n");
		skip();
	}
	make_archive(&a);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, a.data, a.len), 0);
	close(fd);
	(void)snprintf(command, sizeof(command), "LC_ALL=C cpio -itv --quiet -n < %s 2>&1", path);
	p = popen(command, "r");
	assert_non_null(p);
	n = fread(text, 1, sizeof(text) - 1, p);
	text[n] = 0;
	assert_int_equal(pclose(p), 0);
	(void)unlink(path);
	assert_non_null(strstr(text, "drwxr-xr-x   2 0        0 "));
	assert_non_null(strstr(text, "crw-------   1 0        0          5,   1"));
	assert_non_null(
		strstr(text, "-rw-r--r--   1 0        0               7 Jan  1  1970 etc/name"));
	assert_non_null(
		strstr(text, "-rw-------   1 0        0               0 Jan  1  1970 etc/empty"));
	assert_non_null(
		strstr(text, "-rwxr-xr-x   1 0        0               2 Jan  1  1970 init"));
}

static void test_too_large(void **state)
{
	_cleanup_buf_ struct buf a = {0};

	assert_int_equal(cpio_file(&a, "f", 0644, "", (size_t)UINT32_MAX + 1), -EFBIG);
	assert_int_equal(a.len, 0);
}

TEST_MAIN(cmocka_unit_test(test_bytes), cmocka_unit_test(test_cpio_reads_it),
	  cmocka_unit_test(test_too_large))
