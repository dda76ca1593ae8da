/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/job.h"
#include "base/clock.h"
#include "base/fd.h"

#define WAIT_MS 10000

static char dir[] = "/tmp/dorm-test-job.XXXXXX";
static char path[64];
static atomic_int n_over; /* tasks that came to their end */

/* ---- tasks, chosen by the path ----------------------------------------------------------------
 */

static int succeed(struct job *job, struct host *host, void *arg, struct problem *problem,
		   json_t **ret)
{
	job_line(job, json_pack("{s:s}", "say", (const char *)arg));
	job_progress(job, 3, 4);
	*ret = json_pack("{s:i}", "answer", 42);
	return 0;
}

static int give_up(struct job *job, struct host *host, void *arg, struct problem *problem,
		   json_t **ret)
{
	problem_set(problem, 409, "no");
	problem_hint(problem, "ask again");
	return -EBUSY;
}

/* Says nothing: only a client that is gone ends it. */
static int wait_for_cancel(struct job *job, struct host *host, void *arg, struct problem *problem,
			   json_t **ret)
{
	uint64_t deadline = deadline_after_ms(WAIT_MS);

	while (!job_cancelled(job)) {
		if (deadline_passed(deadline))
			return -ETIMEDOUT;
		clock_sleep_ms(5);
	}
	atomic_fetch_add(&n_over, 1);
	return -ECANCELED;
}

/* Far more than the client reads, which must not be kept in memory. */
static int flood(struct job *job, struct host *host, void *arg, struct problem *problem,
		 json_t **ret)
{
	uint64_t deadline = deadline_after_ms(WAIT_MS);

	while (!job_cancelled(job) && !deadline_passed(deadline))
		job_line(job, json_pack("{s:s}", "word", "........................"));
	atomic_fetch_add(&n_over, 1);
	return job_cancelled(job) ? -ECANCELED : -ETIMEDOUT;
}

static job_task task_of(const char *url)
{
	return !strcmp(url, "/succeed") ? succeed
	       : !strcmp(url, "/fail")	? give_up
	       : !strcmp(url, "/flood") ? flood
					: wait_for_cancel;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *len, void **state)
{
	struct reply y = {0};

	if (!*state) {
		*state = connection;
		return MHD_YES;
	}
	assert_int_equal(job_start(NULL, task_of(url), strdup("hello"), &y), 0);
	return reply_send(connection, &y);
}

/* ---- a client ---------------------------------------------------------------------------------
 */

static int ask(const char *url)
{
	char text[128];
	int fd = fd_unix_connect(path, SOCK_STREAM);

	assert_true(fd >= 0);
	(void)snprintf(text, sizeof(text), "POST %s HTTP/1.0\r\n\r\n", url);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	return fd;
}

static void read_all(const char *url, char *out, size_t max)
{
	int fd = ask(url);
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, out + len, max - len - 1)) > 0)
		len += (size_t)n;
	out[len] = 0;
	close(fd);
}

static void wait_for_end(int wanted)
{
	uint64_t deadline = deadline_after_ms(WAIT_MS / 2);

	while (atomic_load(&n_over) < wanted) {
		assert_false(deadline_passed(deadline));
		clock_sleep_ms(5);
	}
}

static void test_result(void **state)
{
	char text[4096];

	read_all("/succeed", text, sizeof(text));
	assert_non_null(strstr(text, "application/x-ndjson"));
	assert_non_null(strstr(text, "{\"say\":\"hello\"}\n"));
	assert_non_null(strstr(text, "{\"done\":3,\"total\":4}\n"));
	assert_non_null(strstr(text, "\n{\"ok\":true,\"answer\":42}\n"));
}

static void test_failure(void **state)
{
	char text[4096];

	read_all("/fail", text, sizeof(text));
	assert_non_null(strstr(text, "{\"ok\":false,\"error\":{\"code\":409,\"message\":\"no\","
				     "\"hint\":\"ask again\"}}\n"));
}

/* A silent task still writes a line now and then, so that a client that is gone is noticed. */
static void test_client_goes_away(void **state)
{
	char text[512];
	size_t len = 0;
	int fd = ask("/wait"), before = atomic_load(&n_over);

	while (!memmem(text, len, "{\"done\":0", 9)) {
		ssize_t n = read(fd, text + len, sizeof(text) - len);

		assert_true(n > 0);
		len += (size_t)n;
	}
	assert_int_equal(atomic_load(&n_over), before);
	close(fd);
	wait_for_end(before + 1);
}

static void test_client_does_not_read(void **state)
{
	int fd = ask("/flood"), before = atomic_load(&n_over);

	clock_sleep_ms(300);
	assert_int_equal(atomic_load(&n_over), before);
	close(fd);
	wait_for_end(before + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_result),
		cmocka_unit_test(test_failure),
		cmocka_unit_test(test_client_goes_away),
		cmocka_unit_test(test_client_does_not_read),
	};
	struct MHD_Daemon *daemon;
	int fd, failed;

	if (!mkdtemp(dir))
		return 1;
	(void)snprintf(path, sizeof(path), "%s/socket", dir);
	fd = fd_unix_listen(path, SOCK_STREAM, 0600);
	daemon =
		MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION |
					 MHD_USE_POLL | MHD_USE_ITC,
				 0, NULL, NULL, on_request, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
				 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)65536, MHD_OPTION_END);
	if (fd < 0 || !daemon)
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	MHD_stop_daemon(daemon);
	(void)unlink(path);
	(void)rmdir(dir);
	return failed;
}
