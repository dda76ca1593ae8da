/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics and GET /envs; and what the agent itself costs: memory, and nothing when idle. */
#include "agent/test-box.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/str.h"

#define RESIDENT_MAX_KIB 4096
#define IDLE_MS		 3000

static json_t *get(struct box *b, const char *path)
{
	char *body;
	json_t *o;

	assert_int_equal(box_call(b, "GET", path, NULL, &body), 200);
	o = json_loads(body, 0, NULL);
	if (!o)
		fail_msg("not JSON: %s", body);
	free(body);
	return o;
}

static double number(json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);

	if (!json_is_number(v))
		fail_msg("%s is not a number", key);
	return json_number_value(v);
}

static void test_values(void **state)
{
	struct box b = {0};
	json_t *o;

	box_start(&b);
	for (int i = 0; i < 3;
	     i++) { /* the first measures a span, the second uses the last one's */
		o = get(&b, "/metrics");
		assert_true(number(o, "ts") >= (double)(clock_real_ns() / NSEC_PER_SEC) - 5);
		assert_true(number(o, "cpu_count") == (double)sysconf(_SC_NPROCESSORS_ONLN));
		assert_true(number(o, "cpu_used_pct") >= 0 && number(o, "cpu_used_pct") <= 100);
		assert_true(number(o, "mem_total") > 16e6);
		assert_true(number(o, "mem_used") > 0);
		assert_true(number(o, "mem_used") < number(o, "mem_total"));
		assert_true(number(o, "mem_cache") < number(o, "mem_total"));
		assert_true(number(o, "mem_total_mib") ==
			    (double)((uint64_t)number(o, "mem_total") >> 20));
		assert_true(number(o, "disk_total") > 1e6);
		assert_true(number(o, "disk_used") <= number(o, "disk_total"));
		json_decref(o);
		clock_sleep_ms(i * 120);
	}
	box_stop(&b);
}

/* A busy processor shows, whether the question before was just now, long ago or never. */
static void test_cpu(void **state)
{
	struct box b = {0};
	struct run r = {0};
	double used[3];

	box_start(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"while :; do :; done\"]}}",
		 NULL, 0);
	run_until_started(&r);
	for (int i = 0; i < 3; i++) {
		json_t *o = get(&b, "/metrics");

		used[i] = number(o, "cpu_used_pct") * number(o, "cpu_count") / 100;
		json_decref(o);
		clock_sleep_ms(i ? 300 : 0);
	}
	for (int i = 0; i < 3; i++)
		if (used[i] < 0.3) /* of one processor; others may want it too */
			fail_msg("%.2f processors in use", used[i]);
	kill(-r.pid, SIGKILL);
	run_deinit(&r);
	box_stop(&b);
}

static void test_at_once(void **state)
{
	struct box b = {0};
	struct channel_stream *s[10];
	int status;

	box_start(&b);
	for (int i = 0; i < 10; i++)
		assert_int_equal(channel_stream_open(b.ch, "GET", "/metrics", NULL, 0, true, &s[i]),
				 0);
	for (int i = 0; i < 10; i += 2)
		channel_stream_close(s[i]); /* while it waits */
	for (int i = 1; i < 10; i += 2) {
		assert_int_equal(channel_stream_head(s[i], box_soon(), &status), 0);
		assert_int_equal(status, 200);
		channel_stream_close(s[i]);
	}
	box_stop(&b);
}

static void test_envs(void **state)
{
	struct box b = {0};
	json_t *o;

	box_start(&b);
	o = get(&b, "/envs");
	assert_string_equal(json_string_value(json_object_get(o, "COLOUR")), "blue");
	assert_string_equal(json_string_value(json_object_get(o, "E2B_SANDBOX_ID")), "i123");
	json_decref(o);
	box_stop(&b);
}

/* --- what the agent costs -----------------------------------------------------------------------
 */

/* A number of /proc/PID/status */
static unsigned long status_of(const struct box *b, const char *key)
{
	char path[32], line[128];
	unsigned long value = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", b->pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		const char *rest = str_has_prefix(line, key);

		if (rest)
			found = sscanf(rest, ": %lu", &value) == 1;
	}
	fclose(f);
	if (!found)
		fail_msg("no %s of %d", key, b->pid);
	return value;
}

/* Something of everything: commands, output, listings, watches, many at once. */
static void work(struct box *b)
{
	struct run r[60];

	for (int i = 0; i < 20; i++)
		run_expect(b, "echo hello", 0, "hello\n");
	for (int i = 0; i < 60; i++) {
		r[i] = (struct run){0};
		run_open(b, &r[i],
			 "{\"process\":{\"cmd\":\"sh\",\"args\":[\"-c\",\"head -c 400000 "
			 "/dev/zero\"]}}",
			 NULL, 0);
	}
	for (int i = 0; i < 60; i++) {
		run_finish(&r[i]);
		assert_int_equal(r[i].out.len, 400000);
		run_deinit(&r[i]);
	}
	for (int i = 0; i < 20; i++) {
		char *body;

		assert_int_equal(box_call(b, "POST", "/filesystem.Filesystem/ListDir",
					  "{\"path\":\"/usr\",\"depth\":2}", &body),
				 200);
		free(body);
	}
	assert_int_equal(box_call(b, "POST", "/filesystem.Filesystem/CreateWatcher",
				  "{\"path\":\"/usr\",\"recursive\":true}", NULL),
			 200);
	assert_int_equal(box_call(b, "GET", "/metrics", NULL, NULL), 200);
}

/* A watcher, a program that sleeps and a connected host: none of them is a reason to wake up. */
static void test_footprint(void **state)
{
	bool is_static = str_has_suffix(box_program, "dorm-agent");
	struct box b = {0};
	struct run r = {0};
	unsigned long resident, before, after, begin;

	box_start(&b);
	begin = status_of(&b, "VmRSS");
	work(&b);
	run_open(&b, &r, "{\"process\":{\"cmd\":\"sleep\",\"args\":[\"100\"]}}", NULL, 0);
	run_until_started(&r);
	clock_sleep_ms(1500); /* grace periods of the programs, keep-alive of nobody */
	resident = status_of(&b, "VmRSS");
	before = status_of(&b, "voluntary_ctxt_switches");
	clock_sleep_ms(IDLE_MS);
	after = status_of(&b, "voluntary_ctxt_switches");
	print_message(
		"resident: %lu KiB at start, %lu KiB after work; woken up %lu times in %d ms\n",
		begin, resident, after - before, IDLE_MS);
	assert_int_equal(before, after);
	if (is_static)
		assert_true(resident < RESIDENT_MAX_KIB);
	kill(-r.pid, SIGKILL);
	run_deinit(&r);
	box_stop(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),	  cmocka_unit_test(test_cpu),
		cmocka_unit_test(test_at_once),	  cmocka_unit_test(test_envs),
		cmocka_unit_test(test_footprint),
	};

	return box_main(argc, argv, tests, ARRAY_SIZE(tests));
}
