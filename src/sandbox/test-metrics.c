/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/metrics.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/test.h"

static char *written(void)
{
	struct buf b = {0};
	struct metrics_text t = {.buf = &b};

	metrics_write(&t);
	assert_int_equal(t.error, 0);
	assert_int_equal(buf_append(&b, "", 1), 0);
	return (char *)b.data;
}

static void test_text(void **state)
{
	_cleanup_buf_ struct buf b = {0};
	struct metrics_text t = {.buf = &b};

	metrics_family(&t, "sandboxes", "gauge", "How many.");
	metrics_sample(&t, "state", "run\"ning\\\n", 2);
	metrics_one(&t, "process_cpu_seconds_total", "counter", "Time.", 0.5);
	assert_int_equal(buf_append(&b, "", 1), 0);
	assert_string_equal((char *)b.data,
			    "# HELP dormouse_sandboxes How many.\n# TYPE dormouse_sandboxes gauge\n"
			    "dormouse_sandboxes{state=\"run\\\"ning\\\\\\n\"} 2\n"
			    "# HELP process_cpu_seconds_total Time.\n"
			    "# TYPE process_cpu_seconds_total counter\n"
			    "process_cpu_seconds_total 0.5\n");
}

/* The value behind a sample's name. */
static double value(const char *text, const char *sample)
{
	const char *p = text;
	double v;

	while ((p = strstr(p, sample)) && p != text && p[-1] != '\n')
		p++;
	assert_non_null(p);
	assert_int_equal(sscanf(p + strlen(sample), " %lf", &v), 1);
	return v;
}

#define SECONDS "dormouse_operation_seconds"

static void test_operations(void **state)
{
	uint64_t now = clock_now_ns();
	_cleanup_free_ char *text = NULL;

	metrics_op(METRICS_WAKE, 0, now - 40 * NSEC_PER_MSEC);
	metrics_op(METRICS_WAKE, 0, now - 90 * NSEC_PER_SEC);
	metrics_op(METRICS_WAKE, -5, now - 1);
	text = written();
	assert_true(value(text, "dormouse_operations_total{operation=\"wake\",result=\"ok\"}") ==
		    2);
	assert_true(value(text,
			  "dormouse_operations_total{operation=\"wake\",result=\"failed\"}") == 1);
	assert_true(value(text, SECONDS "_bucket{operation=\"wake\",le=\"0.03\"}") == 0);
	assert_true(value(text, SECONDS "_bucket{operation=\"wake\",le=\"60\"}") == 1);
	assert_true(value(text, SECONDS "_bucket{operation=\"wake\",le=\"+Inf\"}") == 2);
	assert_true(value(text, SECONDS "_count{operation=\"wake\"}") == 2);
	assert_true(value(text, SECONDS "_sum{operation=\"wake\"}") >= 90.04);
}

static void test_http(void **state)
{
	_cleanup_free_ char *text = NULL;

	for (int i = 0; i < 3; i++)
		metrics_http("GET", "/sandboxes/{}", 404, NSEC_PER_MSEC);
	metrics_http("BREW", "", 405, NSEC_PER_MSEC);
	text = written();
	assert_true(value(text,
			  "dormouse_http_requests_total{method=\"GET\",route=\"/sandboxes/{}\","
			  "status=\"404\"}") == 3);
	assert_true(value(text, "dormouse_http_requests_total{method=\"other\",route=\"\","
				"status=\"405\"}") == 1);
	assert_true(value(text, "dormouse_http_errors_total{code=\"404\"}") == 3);
	assert_true(value(text, "dormouse_http_seconds_count{api=\"all\"}") == 4);
	assert_true(value(text, "process_resident_memory_bytes") > 100000);
	assert_true(value(text, "process_open_fds") >= 3);
}

TEST_MAIN(cmocka_unit_test(test_text), cmocka_unit_test(test_operations),
	  cmocka_unit_test(test_http))
