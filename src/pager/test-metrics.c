/* SPDX-License-Identifier: Apache-2.0 */
/* The Prometheus text of a pager that runs, read as strictly as its format is written. */
#include "pager/metrics.h"

#include <ctype.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"
#include "pager/test-vm.h"
#include "pager/watch.h"
#include "pager/wire.h"
#include "sys/uffd.h"

#define NAME_MAX_LEN 128

/* ---- the reader -------------------------------------------------------------------------------
 */

struct reader {
	char family[NAME_MAX_LEN]; /* whose samples come now */
	char type[16];
	char **families; /* that were; each may come once */
	size_t n_families;
	char **series; /* name and labels; each may come once */
	size_t n_series;
	/* of the histogram that is being read */
	char labels[1024]; /* without le */
	double le, last;
	bool open; /* buckets came, +Inf or the count did not */
	bool inf;
};

static void once(char ***list, size_t *n, const char *what, size_t len)
{
	for (size_t i = 0; i < *n; i++)
		if (strlen((*list)[i]) == len && !memcmp((*list)[i], what, len))
			fail_msg("\"%.*s\" comes twice", (int)len, what);
	*list = realloc(*list, (*n + 1) * sizeof(**list));
	assert_non_null(*list);
	(*list)[(*n)++] = strndup(what, len);
}

static size_t name_len(const char *s, bool colons)
{
	size_t n = 0;

	assert_true(isalpha((unsigned char)*s) || *s == '_' || (colons && *s == ':'));
	while (isalnum((unsigned char)s[n]) || s[n] == '_' || (colons && s[n] == ':'))
		n++;
	assert_in_range(n, 1, NAME_MAX_LEN - 1);
	return n;
}

/* name="value",... up to the brace. @ret_le: -1: none. @others: all labels but le. */
static const char *read_labels(const char *s, double *ret_le, char *others)
{
	*ret_le = -1;
	*others = 0;
	while (*s != '}') {
		const char *name = s, *value;
		size_t n = name_len(s, false);
		char *end;

		s += n;
		assert_int_equal(*s, '=');
		assert_int_equal(s[1], '"');
		value = s += 2;
		for (; *s != '"'; s++) {
			assert_true(*s && *s != '\n');
			if (*s == '\\') {
				s++;
				assert_true(*s == '\\' || *s == '"' || *s == 'n');
			}
		}
		s++;
		if (n == 2 && !memcmp(name, "le", 2)) {
			*ret_le = strtod(value, &end);
			assert_int_equal(*end, '"');
		} else {
			assert_true(strlen(others) + (size_t)(s - name) < 1000);
			strncat(others, name, (size_t)(s - name));
			strcat(others, ",");
		}
		if (*s == ',')
			s++;
		else
			assert_int_equal(*s, '}');
	}
	return s + 1;
}

static void read_histogram(struct reader *r, const char *suffix, const char *labels, double le,
			   double value)
{
	if (!strcmp(suffix, "_bucket")) {
		assert_true(le > 0);
		if (r->open) {
			assert_string_equal(labels, r->labels);
			assert_true(le > r->le);
			assert_true(value >= r->last);
		}
		strcpy(r->labels, labels);
		r->open = true;
		r->inf = le > 1e300;
		r->le = le;
		r->last = value;
		return;
	}
	assert_true(le < 0);
	assert_true(r->open && r->inf);
	assert_string_equal(labels, r->labels);
	if (!strcmp(suffix, "_sum"))
		return;
	assert_string_equal(suffix, "_count");
	assert_true(value == r->last); /* +Inf is the count */
	r->open = false;
}

static double read_sample(struct reader *r, const char *line, const char *want, double *total)
{
	const char *s = line + name_len(line, true), *suffix = line + strlen(r->family);
	size_t n = (size_t)(s - line), family = strlen(r->family);
	char labels[1024] = "", name[NAME_MAX_LEN];
	double le = -1, value;
	char *end;

	(void)snprintf(name, sizeof(name), "%.*s", (int)n, line);
	if (n < family || memcmp(line, r->family, family) != 0)
		fail_msg("%s is not of the family %s", name, r->family);
	if (*s == '{')
		s = read_labels(s + 1, &le, labels);
	once(&r->series, &r->n_series, line, (size_t)(s - line));
	assert_int_equal(*s, ' ');
	value = strtod(s + 1, &end);
	assert_true(end > s + 1 && *end == '\n');
	if (!strcmp(r->type, "histogram")) {
		char text[16];

		(void)snprintf(text, sizeof(text), "%.*s", (int)(n - family), suffix);
		read_histogram(r, text, labels, le, value);
	} else {
		assert_int_equal(n, family);
		assert_true(le < 0);
	}
	if (strcmp(r->type, "gauge") != 0)
		assert_true(value >= 0);
	if (want && !strcmp(want, name))
		*total += value;
	return value;
}

static void read_comment(struct reader *r, const char *line)
{
	const char *name = line + 7;
	size_t n = name_len(name, true), len = strcspn(name + n + 1, "\n");

	assert_false(r->open);
	assert_int_equal(name[n], ' ');
	if (!strncmp(line, "# HELP ", 7)) {
		once(&r->families, &r->n_families, name, n);
		(void)snprintf(r->family, sizeof(r->family), "%.*s", (int)n, name);
		assert_true(len > 0);
		r->type[0] = 0;
		return;
	}
	assert_int_equal(strncmp(line, "# TYPE ", 7), 0);
	assert_int_equal(strlen(r->family), n);
	assert_memory_equal(name, r->family, n);
	assert_int_equal(r->type[0], 0);
	assert_true(len < sizeof(r->type));
	(void)snprintf(r->type, sizeof(r->type), "%.*s", (int)len, name + n + 1);
	assert_true(!strcmp(r->type, "counter") || !strcmp(r->type, "gauge") ||
		    !strcmp(r->type, "histogram"));
	/* counters, and nothing else, say so in their name */
	assert_int_equal(str_has_suffix(r->family, "_total"), !strcmp(r->type, "counter"));
}

/* Read all of it. Return: the sum of the samples of @want */
static double read_text(const char *text, const char *want)
{
	struct reader r = {0};
	double total = 0;

	assert_true(*text);
	while (*text) {
		const char *end = strchr(text, '\n');

		assert_non_null(end);
		if (*text == '#') {
			read_comment(&r, text);
		} else {
			assert_true(r.type[0]);
			(void)read_sample(&r, text, want, &total);
		}
		text = end + 1;
	}
	assert_false(r.open);
	for (size_t i = 0; i < r.n_families; i++)
		free(r.families[i]);
	for (size_t i = 0; i < r.n_series; i++)
		free(r.series[i]);
	free(r.families);
	free(r.series);
	return total;
}

/* ---- the pager --------------------------------------------------------------------------------
 */

static char *ask(struct rig *r)
{
	char *text = NULL;

	assert_int_equal(pager_client_metrics(r->client, deadline_after_ms(10000), &text), 0);
	return text;
}

static double metric(struct rig *r, const char *name)
{
	_cleanup_free_ char *text = ask(r);

	return read_text(text, name);
}

static void test_text(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	struct vm a, b;
	double faults;

	assert_true(metric(r, "dormouse_pager_info") == 1);
	vm_start(r, &a, "vm1", image, 0);
	vm_start(r, &b, "vm2", image, 0);
	assert_int_equal(vm_do(&a, VM_COMPARE, 0), 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 3), 0);
	faults = (double)(rig_stats(r, "vm1", "faults") + rig_stats(r, "vm2", "faults"));
	assert_true(faults > 0);
	assert_true(metric(r, "dormouse_pager_session_faults_total") == faults);
	assert_true(metric(r, "dormouse_pager_faults_total") == faults);
	assert_true(metric(r, "dormouse_pager_session_fault_seconds_count") > 0);
	assert_true(metric(r, "dormouse_pager_session_fault_seconds_sum") > 0);
	assert_true(metric(r, "dormouse_pager_session_fault_seconds_sum") < 60);
	assert_true(metric(r, "dormouse_pager_sessions") == 2);
	assert_true(metric(r, "dormouse_pager_image_sessions") == 2);
	assert_true(metric(r, "dormouse_pager_resident_bytes") > 4096 * 1000);
	assert_true(metric(r, "dormouse_pager_resident_bytes") ==
		    metric(r, "dormouse_pager_image_resident_bytes"));
	assert_true(metric(r, "dormouse_pager_image_shared_bytes") ==
		    metric(r, "dormouse_pager_resident_bytes"));
	assert_true(metric(r, "dormouse_pager_own_bytes") > 1e5);
	assert_true(metric(r, "dormouse_pager_start_time_seconds") > 1.6e9);
	assert_int_equal(rig_stats(r, "vm1", "stuck_faults"), 0);
	assert_int_equal(rig_stats(r, "vm1", "oldest_fault_ns"), 0);
	/* what was counted stays counted when sessions are over */
	vm_end(&a);
	vm_end(&b);
	rig_wait_sessions(r, 0);
	clock_sleep_ms(50);
	assert_true(metric(r, "dormouse_pager_session_faults_total") == 0);
	assert_true(metric(r, "dormouse_pager_faults_total") == faults);
	assert_true(metric(r, "dormouse_pager_sessions_ended_total") == 2);
}

static void test_many(void **state)
{
	struct rig *r = *state;
	struct problem problem = PROBLEM_INIT;
	struct pager_session session;
	_cleanup_free_ char *few = NULL, *many = NULL;
	char name[32];

	for (unsigned i = 0; i < METRICS_MAX_SESSIONS + 10; i++) {
		(void)snprintf(name, sizeof(name), "session-%u", i);
		assert_int_equal(pager_client_open(r->client, name, -1, NULL, TEST_PAGES,
						   deadline_after_ms(5000), &problem, &session),
				 0);
		close(session.memory_fd);
		if (i == METRICS_MAX_SESSIONS - 1)
			few = ask(r);
	}
	many = ask(r);
	assert_non_null(strstr(few, "\"session-7\""));
	assert_null(strstr(many, "session-7"));
	assert_true(strlen(many) < strlen(few) / 3);
	assert_true(read_text(many, "dormouse_pager_session_count") == METRICS_MAX_SESSIONS + 10);
}

static int request(struct rig *r, json_t *q, json_t **reply)
{
	_cleanup_fd_ int sock = fd_unix_connect(r->socket, SOCK_SEQPACKET);
	int fds[WIRE_MAX_FDS];

	assert_true(sock >= 0);
	assert_int_equal(wire_send(sock, q, NULL, 0), 0);
	json_decref(q);
	assert_true(fd_poll(sock, POLLIN, deadline_after_ms(5000)) > 0);
	assert_int_equal(wire_receive(sock, reply, fds), 0);
	return json_is_true(json_object_get(*reply, "ok")) ? 0 : -1;
}

/* A limit that comes while VMs run, and what becomes of it. */
static void test_config(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	json_auto_t *reply = NULL, *bad = NULL, *again = NULL;
	struct vm a;

	vm_start(r, &a, "vm1", image, 0);
	assert_int_equal(vm_do(&a, VM_COMPARE, 0), 0);
	assert_true(metric(r, "dormouse_pager_resident_bytes") > 2 << 20);
	assert_int_equal(
		request(r, json_pack("{s:s, s:i}", "op", "config", "memory_limit", 4096), &bad),
		-1);
	assert_int_equal(
		request(r, json_pack("{s:s, s:s}", "op", "config", "memory_limit", "2M"), &reply),
		0);
	assert_int_equal(json_integer_value(json_object_get(reply, "memory_limit")), 2 << 20);
	for (int i = 0; i < 200 && metric(r, "dormouse_pager_resident_bytes") > 2 << 20; i++)
		clock_sleep_ms(10);
	assert_true(metric(r, "dormouse_pager_resident_bytes") <= 2 << 20);
	assert_true(metric(r, "dormouse_pager_memory_limit_bytes") == 2 << 20);
	assert_int_equal(vm_do(&a, VM_COMPARE, 77), 0);
	assert_true(metric(r, "dormouse_pager_image_refaulted_pages_total") > 0);
	assert_true(metric(r, "dormouse_pager_evicted_pages_total") > 0);
	assert_int_equal(request(r, json_pack("{s:s}", "op", "config"), &again), 0);
	assert_int_equal(json_integer_value(json_object_get(again, "memory_limit")), 2 << 20);
	assert_int_equal(json_integer_value(json_object_get(again, "image_limit")), 0);
	vm_end(&a);
}

/* The program's options, and its way to ask another one. */
static void test_program(void **state)
{
	static const char *const bad[] = {"--memory-limit", "17", NULL};
	static const char *const good[] = {"--memory-limit", "50%", "--image-limit", "64M",
					   "--floor",	     "40",  "--no-pressure", NULL};
	struct rig *r = *state;
	_cleanup_free_ char *command = NULL;
	char text[65536];
	FILE *f;
	size_t n;

	assert_int_equal(rig_stop_pager(r), 0);
	assert_int_equal(rig_start_pager(r, bad), 2);
	assert_int_equal(rig_start_pager(r, good), 0);
	assert_true(metric(r, "dormouse_pager_image_limit_bytes") == 64 << 20);
	assert_true(metric(r, "dormouse_pager_memory_limit_bytes") > 64 << 20);
	assert_true(metric(r, "dormouse_pager_pressure_watched") == 0);
	command = str_printf("%s --query %s metrics", getenv("DORM_PAGER"), r->socket);
	f = popen(command, "r");
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	assert_int_equal(pclose(f), 0);
	assert_true(read_text(text, "dormouse_pager_info") == 1);
	free(take_ptr(command));
	command = str_printf("%s --query %s/nothing stats 2>&1", getenv("DORM_PAGER"), r->dir);
	f = popen(command, "r");
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	assert_int_equal(WEXITSTATUS(pclose(f)), 1);
	assert_non_null(strstr(text, "dorm-pager: "));
	assert_non_null(strstr(text, "/nothing"));
}

/* ---- parts ------------------------------------------------------------------------------------
 */

static void test_escape(void **state)
{
	_cleanup_buf_ struct buf b = {0};

	(void)state;
	assert_int_equal(metrics_escape(&b, "a\"b\\c\nd"), 0);
	assert_string_equal(b.data, "a\\\"b\\\\c\\nd");
}

static void test_watch(void **state)
{
	static struct session s;
	struct watch_report w;

	(void)state;
	watch_look(&s, 1000, 100, &w);
	assert_int_equal(w.oldest_ns + w.n_stuck, 0);
	watch_begin(&s, 500, 3ull << 32 | 7);
	watch_begin(&s, 400, 3ull << 32 | WATCH_MARK | 8);
	watch_begin(&s, 950, 9);
	watch_look(&s, 1000, 100, &w);
	assert_int_equal(w.n_stuck, 2);
	assert_int_equal(w.oldest_ns, 600);
	assert_int_equal(w.layer, 3);
	assert_int_equal(w.frame, 8);
	assert_true(w.direct);
	watch_end(&s, 400, 3ull << 32 | 8); /* another one */
	watch_look(&s, 1000, 100, &w);
	assert_int_equal(w.n_stuck, 2);
	watch_end(&s, 400, 3ull << 32 | WATCH_MARK | 8);
	watch_end(&s, 950, 9);
	watch_look(&s, 1000, 100, &w);
	assert_int_equal(w.n_stuck, 1);
	assert_int_equal(w.frame, 7);
	assert_false(w.direct);
	watch_end(&s, 500, 3ull << 32 | 7);
	for (uint64_t i = 0; i < 2 * SESSION_WAITS; i++) /* the older ones are watched */
		watch_begin(&s, 100 + i, i);
	for (uint64_t i = 0; i < 2 * SESSION_WAITS; i++)
		watch_end(&s, 100 + i, i);
	watch_look(&s, 1000, 100, &w);
	assert_int_equal(w.oldest_ns, 0);
}

#define RIGGED(_test) cmocka_unit_test_setup_teardown(_test, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_escape),
		cmocka_unit_test(test_watch),
		RIGGED(test_text),
		RIGGED(test_many),
		RIGGED(test_config),
		RIGGED(test_program),
	};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
