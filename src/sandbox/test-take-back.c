/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is made of what a new pager says of a session: a peer gives the answers, one after the
 * other, over the real wire.
 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "pager/wire.h"
#include "sandbox/private.h"

#define MAX_ANSWERS 4
#define NEW_PAGER   4711

struct scene {
	char dir[64], path[96];
	int listener;
	pthread_t thread;
	const char *const *answers; /* NULL at the end */
	char asked[MAX_ANSWERS][16];
	size_t n_asked, n_fds;
	struct host host;
	struct sandbox sb;
};

static void *answer(void *userdata)
{
	struct scene *s = userdata;
	int sock = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

	for (size_t i = 0; s->answers[i]; i++) {
		json_auto_t *reply = json_loads(s->answers[i], 0, NULL), *request = NULL;
		int fds[WIRE_MAX_FDS] = {-1, -1};

		if (fd_poll(sock, POLLIN, deadline_after_ms(5000)) <= 0 ||
		    wire_receive(sock, &request, fds) < 0)
			break;
		for (size_t k = 0; k < WIRE_MAX_FDS; k++) {
			s->n_fds += fds[k] >= 0;
			fd_close(fds[k]);
		}
		(void)snprintf(s->asked[s->n_asked++], sizeof(s->asked[0]), "%s",
			       json_string_value(json_object_get(request, "op")));
		(void)wire_send(sock, reply, NULL, 0);
	}
	fd_close(sock);
	return NULL;
}

static void begin(struct scene *s, const char *const *answers)
{
	*s = (struct scene){.answers = answers};
	strcpy(s->dir, "/tmp/dorm-take-back-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	(void)snprintf(s->path, sizeof(s->path), "%s/sock", s->dir);
	s->listener = fd_unix_listen(s->path, SOCK_SEQPACKET, 0600);
	assert_true(s->listener >= 0);
	assert_int_equal(pthread_create(&s->thread, NULL, answer, s), 0);
	assert_int_equal(pager_client_new(s->path, &s->host.pager), 0);
	pthread_mutex_init(&s->sb.info, NULL);
	s->sb.host = &s->host;
	s->sb.dirfd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	strcpy(s->sb.record.id, "i0");
	s->sb.record.generation = 2;
	s->sb.manifest.memory_bytes = 1 << 20;
	atomic_store(&s->sb.pager_pid, 1);
}

static void end(struct scene *s)
{
	pager_client_free(s->host.pager);
	pthread_join(s->thread, NULL);
	fd_close(s->listener);
	fd_close(s->sb.dirfd);
	pthread_mutex_destroy(&s->sb.info);
	assert_int_equal(file_remove_tree(AT_FDCWD, s->dir), 0);
}

/* Return: what sandbox_take_back() says */
static int take_back(struct scene *s, struct problem *problem)
{
	*problem = PROBLEM_INIT;
	return sandbox_take_back(&s->sb, NEW_PAGER, problem);
}

static void test_serving(void **state)
{
	static const char *const answers[] = {"{\"ok\":true,\"stats\":{\"state\":\"serving\"}}",
					      NULL};
	struct problem p;
	struct scene s;

	begin(&s, answers);
	assert_int_equal(take_back(&s, &p), 0);
	assert_int_equal(atomic_load(&s.sb.pager_pid), NEW_PAGER);
	end(&s);
}

/* The pager gets the directory of the present memory, and nothing else will do as an answer. */
static void test_orphaned(void **state)
{
	static const char *const adopted[] = {
		"{\"ok\":true,\"stats\":{\"state\":\"orphaned\"}}",
		"{\"ok\":true,\"image_id\":\"x\",\"mode\":\"shared\",\"adopted\":true}", NULL};
	static const char *const refused[] = {
		"{\"ok\":true,\"stats\":{\"state\":\"orphaned\"}}",
		"{\"ok\":false,\"code\":\"EINVAL\",\"message\":\"another image\"}", NULL};
	struct problem p;
	struct scene s;

	begin(&s, adopted);
	assert_int_equal(mkdirat(s.sb.dirfd, "memory-2", 0700), 0);
	assert_int_equal(take_back(&s, &p), 0);
	assert_int_equal(atomic_load(&s.sb.pager_pid), NEW_PAGER);
	assert_string_equal(s.asked[0], "session");
	assert_string_equal(s.asked[1], "open");
	assert_int_equal(s.n_fds, 1);
	end(&s);

	begin(&s, refused);
	assert_int_equal(mkdirat(s.sb.dirfd, "memory-2", 0700), 0);
	assert_int_equal(take_back(&s, &p), -EINVAL);
	assert_non_null(strstr(p.message, "another image"));
	assert_int_equal(atomic_load(&s.sb.pager_pid), 1);
	end(&s);

	begin(&s, adopted); /* its memory is not there any more */
	assert_int_equal(take_back(&s, &p), -ENOENT);
	assert_int_equal(atomic_load(&s.sb.pager_pid), 1);
	end(&s);
}

static void test_lost(void **state)
{
	static const char *const unknown[] = {
		"{\"ok\":false,\"code\":\"ENOENT\",\"message\":\"no session\"}", NULL};
	static const char *const failed[] = {
		"{\"ok\":true,\"stats\":{\"state\":\"failed\",\"failure\":\"no userfaultfd\"}}",
		NULL};
	struct problem p;
	struct scene s;

	begin(&s, unknown);
	assert_int_equal(take_back(&s, &p), -ENOENT);
	assert_non_null(strstr(p.message, "does not know it"));
	assert_int_equal(atomic_load(&s.sb.pager_pid), 1);
	end(&s);

	begin(&s, failed);
	assert_true(take_back(&s, &p) < 0);
	assert_string_equal(p.message, "no userfaultfd");
	assert_int_equal(atomic_load(&s.sb.pager_pid), 1);
	end(&s);
}

TEST_MAIN(cmocka_unit_test(test_serving), cmocka_unit_test(test_orphaned),
	  cmocka_unit_test(test_lost))
