/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/journal.h"

#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "pager/pager.h"

static struct journal_entry an_entry(void)
{
	struct journal_entry e = {.name = "s-1.x",
				  .n_pages = 4096,
				  .mode = SESSION_OVERLAY,
				  .why = "it was asked \"so\"",
				  .image_id = "00112233445566778899aabbccddeeff",
				  .memory_id = "ffeeddccbbaa99887766554433221100",
				  .memory_dev = 1,
				  .memory_ino = UINT64_MAX,
				  .directory = "/a dir/\xc3\xa4",
				  .sealed = true,
				  .load = JOB_WORKING_SET,
				  .pid = 77,
				  .start_time = UINT64_MAX - 1,
				  .features = 1u << 8,
				  .map = {.n_regions = HANDSHAKE_MAX_REGIONS}};

	for (uint32_t i = 0; i < HANDSHAKE_MAX_REGIONS; i++)
		e.map.regions[i] =
			(struct handshake_region){.hva = 0x7f0000000000 + i * 0x100000ull,
						  .gfn = 4096 - (i + 1) * 64,
						  .n_pages = 64};
	return e;
}

static int open_journal(char dir[64])
{
	struct problem problem = PROBLEM_INIT;
	int fd;

	strcpy(dir, "/tmp/test-journal-XXXXXX");
	assert_non_null(mkdtemp(dir));
	fd = journal_open(dir, "journal", &problem);
	assert_true(fd >= 0);
	return fd;
}

static void test_files(void **state)
{
	struct journal_entry e = an_entry(), got = {0};
	_cleanup_free_ char(*names)[SESSION_NAME_MAX + 1] = NULL;
	struct problem problem = PROBLEM_INIT;
	char dir[64];
	_cleanup_fd_ int fd = open_journal(dir), other = -1;
	size_t n = 9;

	assert_int_equal(journal_read(fd, e.name, &problem, &got), -ENOENT);
	assert_int_equal(journal_write(fd, &e), 0);
	assert_int_equal(journal_read(fd, e.name, &problem, &got), 0);
	assert_memory_equal(&e, &got, sizeof(e));
	e.pid = 0;
	e.map = (struct handshake){0};
	e.load = JOB_FULL;
	assert_int_equal(journal_write(fd, &e), 0);
	assert_int_equal(journal_read(fd, e.name, &problem, &got), 0);
	assert_memory_equal(&e, &got, sizeof(e));
	/* what is no record is not listed, a slate without one goes */
	assert_int_equal(file_replace(fd, "lost.pages", "x", 1, 0600), 0);
	assert_int_equal(file_replace(fd, "s-1.x.pages", "x", 1, 0600), 0);
	assert_int_equal(file_replace(fd, ".session", "x", 1, 0600), 0);
	assert_int_equal(file_replace(fd, "UPPER.session", "x", 1, 0600), 0);
	assert_int_equal(journal_names(fd, &names, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(names[0], "s-1.x");
	assert_int_equal(faccessat(fd, "lost.pages", F_OK, 0), -1);
	assert_int_equal(faccessat(fd, "s-1.x.pages", F_OK, 0), 0);
	/* a record under another name is nobody's */
	assert_int_equal(renameat(fd, "s-1.x.session", fd, "s-2.session"), 0);
	assert_int_equal(journal_read(fd, "s-2", &problem, &got), JOURNAL_E_DAMAGED);
	journal_remove(fd, "s-2");
	journal_remove(fd, "s-2");
	/* one pager at a time */
	assert_int_equal(journal_lock(fd, &problem), 0);
	other = journal_open(dir, "journal", &problem);
	problem = PROBLEM_INIT;
	assert_int_equal(journal_lock(other, &problem), -EADDRINUSE);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), 0);
}

static void expect_damage(const struct journal_entry *e, const char *from, const char *to)
{
	_cleanup_free_ char *text = journal_encode(e), *other = NULL;
	struct problem problem = PROBLEM_INIT;
	struct journal_entry got;
	char *at;

	assert_non_null(text);
	at = strstr(text, from);
	assert_non_null(at);
	other = str_printf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	if (journal_decode(other, strlen(other), &problem, &got) != JOURNAL_E_DAMAGED)
		fail_msg("accepted %s", other);
	assert_true(problem_is_set(&problem));
}

static void test_damage(void **state)
{
	static const char *const changes[][2] = {
		{"\"version\": 1", "\"version\": 2"},
		{"dormouse-pager-session", "dormouse-pager-sessions"},
		{"\"s-1.x\"", "\"../x\""},
		{"\"s-1.x\"", "17"},
		{"\"n_pages\": 4096", "\"n_pages\": 0"},
		{"\"n_pages\": 4096", "\"n_pages\": 4095"}, /* regions lie outside */
		{"\"overlay\"", "\"auto\""},
		{"\"overlay\"", "\"\""},
		{"\"working-set\"", "\"half\""},
		{"00112233", "0011223x"},
		{"ffeeddcc", "ffeeddccbb"},
		{"\"/a dir", "\"a dir"},
		{"\"sealed\": true", "\"sealed\": 1"},
		{"\"pid\": 77", "\"pid\": -77"},
		{"\"pid\": 77", "\"pid\": 1"},
		{"\"pid\": 77", "\"pid\": 0"},
		{"\"18446744073709551614\"", "\"18446744073709551616\""},
		{"\"18446744073709551614\"", "18"},
		{"\"regions\"", "\"region\""},
		{"\"offset\": 0", "\"offset\": 1"},
	};
	struct journal_entry e = an_entry(), got;
	struct problem problem = PROBLEM_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		expect_damage(&e, changes[i][0], changes[i][1]);
	assert_int_equal(journal_decode("", 0, &problem, &got), JOURNAL_E_DAMAGED);
	assert_int_equal(journal_decode("[]", 2, NULL, &got), JOURNAL_E_DAMAGED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_files),
					   cmocka_unit_test(test_damage)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
