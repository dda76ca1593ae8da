/* SPDX-License-Identifier: Apache-2.0 */
/* test-settings.c - the table and the file; the program itself: tests/e2e/test_operate.py */
#include "daemon/settings.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/test.h"

static struct settings fresh(void)
{
	struct settings s;

	assert_int_equal(settings_init(&s), 0);
	return s;
}

static int take(struct settings *s, const char *name, const char *value)
{
	return settings_take(s, settings_find(name), value, ORIGIN_OPTION, 0, name);
}

/* The file @text. Return: what settings_read_file() says */
static int read_text(struct settings *s, const char *text)
{
	char path[] = "/tmp/dorm-settings.XXXXXX";
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	fd_close(fd);
	r = settings_read_file(s, path, true);
	assert_int_equal(unlink(path), 0);
	return r;
}

/* Texts of the table against values of the library. */
static void test_defaults(void **state)
{
	const struct host_config d = HOST_CONFIG_DEFAULT;
	struct settings s = fresh();
	const struct host_config *c = &s.config;

	assert_memory_equal(&c->limits, &d.limits, sizeof(d.limits));
	assert_int_equal(c->codec, d.codec);
	assert_int_equal(c->codec_level, d.codec_level);
	assert_int_equal(c->template_level, d.template_level);
	assert_int_equal(c->compact.off, d.compact.off);
	assert_int_equal(c->compact.max_layers, d.compact.max_layers);
	assert_int_equal(c->reflink, d.reflink);
	assert_int_equal(c->pager_mode, d.pager_mode);
	assert_int_equal(c->no_prefetch, d.no_prefetch);
	assert_int_equal(c->no_userfaultfd, d.no_userfaultfd);
	assert_int_equal(c->offers_network, d.offers_network);
	assert_int_equal(c->memory_limit, d.memory_limit);
	assert_int_equal(c->image_limit, d.image_limit);
	assert_int_equal(c->no_jail, d.no_jail);
	assert_int_equal(c->jail_first_uid, d.jail_first_uid);
	assert_int_equal(c->jail_n_uids, d.jail_n_uids);
	assert_int_equal(c->cpu_limit_pct, d.cpu_limit_pct);
	assert_int_equal(c->io_limit, d.io_limit);
	assert_int_equal(c->memory_reserve, d.memory_reserve);
	assert_int_equal(c->max_sandboxes, d.max_sandboxes);
	assert_int_equal(c->queue_max, d.queue_max);
	assert_int_equal(c->queue_ms, d.queue_ms);
	assert_int_equal(c->warm_max, d.warm_max);
	assert_int_equal(c->warm_total, d.warm_total);
	assert_int_equal(c->warm_idle_ms, d.warm_idle_ms);
	assert_int_equal(c->need_jail, d.need_jail);
	assert_null(c->accel);
	settings_free(&s);
}

/* What people will read must be there, and every example must be accepted. */
static void test_rows(void **state)
{
	struct settings s = fresh();

	for (size_t i = 0; i < settings_count; i++) {
		const struct setting *o = &settings_table[i];
		char buf[256];

		assert_ptr_equal(settings_find(o->name), o);
		assert_true(o->help && *o->help && *settings_allowed(o, buf));
		assert_int_equal(!o->arg, o->kind == SETTING_FLAG);
		if (o->this_run)
			continue;
		if (!o->def == !o->example)
			fail_msg("%s needs a default or an example, and not both", o->name);
		assert_int_equal(take(&s, o->name, o->def ?: o->example), 0);
	}
	assert_ptr_equal(settings_find("nonsense"), NULL);
	settings_free(&s);
}

static void test_bounds(void **state)
{
	static const struct {
		const char *name, *value;
	} wrong[] = {{"answer-timeout", "0"},
		     {"answer-timeout", "3601"},
		     {"answer-timeout", "1s"},
		     {"template-level", "20"},
		     {"template-level", "none"},
		     {"memory-limit", "15M"},
		     {"memory-limit", "-1"},
		     {"compact", "Auto"},
		     {"codec", "gzip"},
		     {"accel", ""},
		     {"root", ""},
		     {"vm-users", "0:10"},
		     {"vm-users", "1000:10"},
		     {"vm-users", "1000"},
		     {"vm-users", "4294967290:100"},
		     {"no-prefetch", "yes"},
		     {"pager-mode", "copy"},
		     {"queue", "99999999999999"}};
	struct settings s = fresh();

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		if (take(&s, wrong[i].name, wrong[i].value) != SETTINGS_E_USAGE)
			fail_msg("--%s %s was taken", wrong[i].name, wrong[i].value);
	assert_int_equal(s.config.limits.answer_ms, 15000);
	assert_int_equal(take(&s, "answer-timeout", "3600"), 0);
	assert_int_equal(s.config.limits.answer_ms, 3600000);
	assert_int_equal(take(&s, "memory-limit", "2G"), 0);
	assert_int_equal(s.config.memory_limit, 2ull << 30);
	assert_int_equal(take(&s, "memory-limit", "none"), 0);
	assert_int_equal(s.config.memory_limit, 0);
	assert_int_equal(take(&s, "warm-vms", "0"), 0);
	assert_int_equal(s.config.warm_max, 0);
	assert_int_equal(take(&s, "vm-users", "200000:7"), 0);
	assert_int_equal(s.config.jail_first_uid, 200000);
	assert_int_equal(s.config.jail_n_uids, 7);
	settings_free(&s);
}

/* A list from one place adds up; from the next it begins anew. */
static void test_lists(void **state)
{
	struct settings s = fresh();
	const struct setting *o = settings_find("seal-key");

	assert_int_equal(read_text(&s, "seal-key = file:/a\nseal-key = file:/b\n"), 0);
	assert_int_equal(s.seal_keys.n, 2);
	assert_string_equal(s.seal_keys.item[1], "file:/b");
	assert_int_equal(take(&s, "seal-key", "env:C"), 0);
	assert_int_equal(s.seal_keys.n, 1);
	assert_string_equal(s.seal_keys.item[0], "env:C");
	for (unsigned i = 1; i < SETTINGS_MAX_LIST; i++)
		assert_int_equal(take(&s, "seal-key", "env:D"), 0);
	assert_int_equal(take(&s, "seal-key", "env:E"), SETTINGS_E_USAGE);
	assert_int_equal(s.values[o - settings_table].n, SETTINGS_MAX_LIST);
	settings_free(&s);
}

static void test_file(void **state)
{
	static const char *const wrong[] = {
		"codec lz4\n",
		"codec = gzip\n",
		"= 5\n",
		"--codec = lz4\n",
		"help = on\n",
		"config = /x\n",
		"queue = 1\nqueue = 1\n",
		"root =\n",
	};
	struct settings s = fresh();

	assert_int_equal(read_text(&s, "# all of it\r\n\n  codec=lz4:9  # fast\n\tqueue = 7\n"
				       "root = /with#hash\nno-prefetch = on"),
			 0);
	assert_int_equal(s.config.codec, IMAGE_CODEC_LZ4);
	assert_int_equal(s.config.codec_level, 9);
	assert_int_equal(s.config.queue_max, 7);
	assert_string_equal(s.config.root, "/with#hash");
	assert_true(s.config.no_prefetch);
	settings_free(&s);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		s = fresh();
		if (read_text(&s, wrong[i]) != SETTINGS_E_USAGE)
			fail_msg("this file was taken: %s", wrong[i]);
		settings_free(&s);
	}
	s = fresh();
	assert_int_equal(settings_read_file(&s, "/nonexistent/x.conf", false), 0);
	assert_int_equal(settings_read_file(&s, "/nonexistent/x.conf", true), SETTINGS_E_USAGE);
	assert_int_equal(settings_read_file(&s, "/proc/self/mem", true), SETTINGS_E_USAGE);
	settings_free(&s);
}

/* What --print-config prints can be read again, and means the same. */
static void test_print_again(void **state)
{
	struct settings s = fresh(), again = fresh();
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_int_equal(read_text(&s, "codec = none\nseal-key = env:A\nseal-key = env:B\n"), 0);
	assert_int_equal(take(&s, "io-limit", "5M"), 0);
	settings_print_values(&s, f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(read_text(&again, text), 0);
	assert_int_equal(again.config.codec, IMAGE_CODEC_NONE);
	assert_int_equal(again.config.io_limit, 5u << 20);
	assert_int_equal(again.seal_keys.n, 2);
	settings_free(&s);
	settings_free(&again);
}

/* The example as it is installed changes nothing; with every line taken in it is still right. */
static void test_example(void **state)
{
	struct settings s = fresh();
	_cleanup_free_ char *text = NULL;
	size_t len = 0, n = 0;
	FILE *f = open_memstream(&text, &len);

	settings_describe("conf", f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(read_text(&s, text), 0);
	for (size_t i = 0; i < settings_count; i++)
		n += s.values[i].origin == ORIGIN_FILE;
	assert_int_equal(n, 0);
	for (char *p = text; (p = strstr(p, "\n#")); p++)
		if (p[2] != ' ' && p[2] != '\n')
			p[1] = ' ';
	assert_int_equal(read_text(&s, text), 0);
	for (size_t i = 0; i < settings_count; i++)
		if (!settings_table[i].this_run && s.values[i].origin != ORIGIN_FILE)
			fail_msg("%s is not in the example", settings_table[i].name);
	settings_free(&s);
}

TEST_MAIN(cmocka_unit_test(test_defaults), cmocka_unit_test(test_rows),
	  cmocka_unit_test(test_bounds), cmocka_unit_test(test_lists), cmocka_unit_test(test_file),
	  cmocka_unit_test(test_print_again), cmocka_unit_test(test_example))
