/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client against a peer that says what each test wants it to say, over the real wire: what a
 * newer pager answers, what an older one leaves out, and nonsense. The requests are looked at too.
 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "pager/client.h"
#include "pager/wire.h"

struct peer {
	char dir[64], path[96];
	int listener;
	pthread_t thread;
	struct pager_client *client;
	/* the one exchange of the test */
	const char *answer; /* JSON */
	int answer_fd;	    /* goes with it, or -1 */
	json_t *request;
	size_t n_request_fds;
};

static void *peer_run(void *userdata)
{
	struct peer *p = userdata;
	int fds[WIRE_MAX_FDS] = {-1, -1}, r;
	int s = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
	json_auto_t *answer = json_loads(p->answer, 0, NULL);

	if (s < 0)
		return NULL; /* nobody asked */
	do {
		(void)fd_poll(s, POLLIN, deadline_after_ms(5000));
		r = wire_receive(s, &p->request, fds);
	} while (r == -EAGAIN);
	for (size_t i = 0; i < WIRE_MAX_FDS; i++) {
		p->n_request_fds += fds[i] >= 0;
		fd_close(fds[i]);
	}
	(void)wire_send(s, answer, &p->answer_fd, p->answer_fd >= 0);
	fd_close(s);
	return NULL;
}

static void peer_start(struct peer *p, const char *answer, int answer_fd)
{
	*p = (struct peer){.answer = answer, .answer_fd = answer_fd};
	strcpy(p->dir, "/tmp/dorm-client-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/sock", p->dir);
	p->listener = fd_unix_listen(p->path, SOCK_SEQPACKET, 0600);
	assert_true(p->listener >= 0);
	assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
	assert_int_equal(pager_client_new(p->path, &p->client), 0);
}

/* Return: the request it got, until peer_end() */
static json_t *peer_request(struct peer *p)
{
	(void)shutdown(p->listener, SHUT_RDWR);
	pthread_join(p->thread, NULL);
	p->thread = 0;
	assert_non_null(p->request);
	return p->request;
}

static void peer_end(struct peer *p)
{
	if (p->thread)
		peer_request(p);
	pager_client_free(p->client);
	json_decref(p->request);
	fd_close(p->listener);
	assert_int_equal(file_remove_tree(AT_FDCWD, p->dir), 0);
}

static uint64_t soon(void)
{
	return deadline_after_ms(5000);
}

static int file_with(const char *text)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	return fd;
}

static const char *text_of(json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? s : "(none)";
}

/* What is not chosen is not said. */
static void test_open_request(void **state)
{
	_cleanup_fd_ int memory = file_with("x");
	static const char answer[] =
		"{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\",\"mode\":\"overlay\","
		"\"register\":\"missing,minor\",\"why\":\"it is private\",\"working_set_pages\":7}";
	const struct pager_open_options options = {.mode = PAGER_MODE_OVERLAY,
						   .load = PAGER_LOAD_FULL,
						   .is_private = true,
						   .no_prefetch = true,
						   .no_record = true};
	struct pager_session s;
	struct peer p;
	json_t *q;

	peer_start(&p, answer, memory);
	assert_int_equal(
		pager_client_open_as(p.client, "a", memory, NULL, 16, &options, soon(), NULL, &s),
		0);
	q = peer_request(&p);
	assert_string_equal(text_of(q, "op"), "open");
	assert_string_equal(text_of(q, "mode"), "overlay");
	assert_string_equal(text_of(q, "load"), "full");
	assert_true(json_is_true(json_object_get(q, "private")));
	assert_true(json_is_false(json_object_get(q, "prefetch")));
	assert_true(json_is_false(json_object_get(q, "record")));
	assert_int_equal(p.n_request_fds, 1);
	assert_int_equal(s.mode, PAGER_MODE_OVERLAY);
	assert_int_equal(s.reg, PAGER_REGISTER_MINOR);
	assert_string_equal(s.why, "it is private");
	assert_int_equal(s.working_set_pages, 7);
	assert_false(s.adopted);
	assert_true(s.memory_fd >= 0);
	fd_close(s.memory_fd);
	peer_end(&p);

	peer_start(&p, answer, memory);
	assert_int_equal(pager_client_open(p.client, "a", -1, NULL, 16, soon(), NULL, &s), 0);
	q = peer_request(&p);
	assert_null(json_object_get(q, "mode"));
	assert_null(json_object_get(q, "load"));
	assert_null(json_object_get(q, "private"));
	assert_null(json_object_get(q, "prefetch"));
	fd_close(s.memory_fd);
	peer_end(&p);
}

static int open_answered(const char *answer, bool with_memory, struct pager_session *ret)
{
	_cleanup_fd_ int memory = with_memory ? file_with("x") : -1;
	struct problem problem = PROBLEM_INIT;
	struct peer p;
	int r;

	peer_start(&p, answer, memory);
	r = pager_client_open(p.client, "a", -1, NULL, 16, soon(), &problem, ret);
	if (r)
		assert_true(problem.message[0]);
	peer_end(&p);
	return r;
}

static void test_open_replies(void **state)
{
	struct pager_session s;

	/* a pager that knows no modes */
	assert_int_equal(
		open_answered("{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\"}", true, &s), 0);
	assert_int_equal(s.mode, PAGER_MODE_SHARED);
	assert_int_equal(s.reg, PAGER_REGISTER_MISSING);
	fd_close(s.memory_fd);
	/* copy mode brings no memory */
	assert_int_equal(open_answered("{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\","
				       "\"mode\":\"copy\"}",
				       false, &s),
			 0);
	assert_int_equal(s.memory_fd, -1);
	/* and an adopted session no socket either */
	assert_int_equal(open_answered("{\"ok\":true,\"image_id\":\"i\",\"adopted\":true,"
				       "\"mode\":\"shared\"}",
				       false, &s),
			 0);
	assert_true(s.adopted);
	assert_string_equal(s.socket_path, "");
}

static void test_open_nonsense(void **state)
{
	static const char long_id[] = "{\"ok\":true,\"socket\":\"/s\","
				      "\"image_id\":\"000000000000000000000000000000000\"}";
	static const char *const answers[] = {
		"{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\",\"mode\":\"auto\"}",
		"{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\",\"mode\":\"sideways\"}",
		"{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\",\"mode\":7}",
		"{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\",\"register\":\"wp\"}",
		"{\"ok\":true,\"image_id\":\"i\"}",
		"{\"ok\":true,\"socket\":\"/s\"}",
		long_id,
	};
	struct pager_session s;

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
		assert_int_equal(open_answered(answers[i], true, &s), -EPROTO);
	/* no memory to map */
	assert_int_equal(open_answered("{\"ok\":true,\"socket\":\"/s\",\"image_id\":\"i\","
				       "\"mode\":\"shared\"}",
				       false, &s),
			 -EPROTO);
	assert_int_equal(
		open_answered("{\"ok\":false,\"code\":\"EEXIST\",\"message\":\"m\"}", false, &s),
		-EEXIST);
}

static void test_working_set(void **state)
{
	_cleanup_fd_ int file = file_with("the file"), empty = file_with("");
	struct pager_working_set s;
	struct peer p;

	peer_start(&p,
		   "{\"ok\":true,\"settled\":true,\"pages\":12,\"precision\":0.5,"
		   "\"recall\":1,\"wasted_bytes\":4096}",
		   file);
	assert_int_equal(pager_client_working_set(p.client, "a", soon(), NULL, &s), 0);
	assert_true(s.settled);
	assert_int_equal(s.n_pages, 12);
	assert_true(s.precision == 0.5 && s.recall == 1);
	assert_int_equal(s.wasted_bytes, 4096);
	assert_int_equal(s.len, 8);
	assert_memory_equal(s.data, "the file", 8);
	pager_working_set_deinit(&s);
	peer_end(&p);

	peer_start(&p, "{\"ok\":true,\"settled\":false}", -1);
	assert_int_equal(pager_client_working_set(p.client, "a", soon(), NULL, &s), 0);
	assert_false(s.settled);
	assert_null(s.data);
	peer_end(&p);

	peer_start(&p, "{\"ok\":true}", empty);
	assert_int_equal(pager_client_working_set(p.client, "a", soon(), NULL, &s), -EPROTO);
	peer_end(&p);
}

static void test_others(void **state)
{
	json_auto_t *changes = json_pack("{s:b}", "prefetch", 0);
	struct pager_about about;
	char *text = NULL, id[33];
	json_t *o = NULL, *q;
	struct peer p;

	peer_start(&p, "{\"ok\":true,\"pid\":5,\"takes_back\":true}", -1);
	assert_int_equal(pager_client_about(p.client, soon(), &about), 0);
	assert_true(about.pid == 5 && about.takes_back);
	peer_end(&p);

	peer_start(&p, "{\"ok\":true,\"pid\":5}", -1);
	assert_int_equal(pager_client_about(p.client, soon(), &about), 0);
	assert_false(about.takes_back);
	peer_end(&p);

	peer_start(&p, "{\"ok\":true,\"image_id\":\"abc\"}", -1);
	assert_int_equal(pager_client_warm(p.client, STDIN_FILENO, NULL, 16, PAGER_LOAD_WORKING_SET,
					   soon(), NULL, id),
			 0);
	assert_string_equal(id, "abc");
	assert_string_equal(text_of(peer_request(&p), "what"), "working-set");
	peer_end(&p);

	peer_start(&p, "{\"ok\":true,\"image\":{\"n_pages\":16}}", -1);
	assert_int_equal(pager_client_image(p.client, "abc", soon(), &o), 0);
	assert_int_equal(json_integer_value(json_object_get(o, "n_pages")), 16);
	json_decref(o);
	peer_end(&p);

	peer_start(&p, "{\"ok\":true,\"prefetch\":false}", -1);
	assert_int_equal(pager_client_config(p.client, changes, soon(), NULL, &o), 0);
	assert_null(json_object_get(o, "ok"));
	json_decref(o);
	q = peer_request(&p);
	assert_string_equal(text_of(q, "op"), "config");
	assert_true(json_is_false(json_object_get(q, "prefetch")));
	assert_null(json_object_get(changes, "op")); /* it is the caller's */
	peer_end(&p);

	peer_start(&p, "{\"ok\":true,\"text\":\"a 1\\n\"}", -1);
	assert_int_equal(pager_client_metrics(p.client, soon(), &text), 0);
	assert_string_equal(text, "a 1\n");
	free(text);
	peer_end(&p);

	peer_start(&p, "{\"ok\":false,\"code\":\"EOPNOTSUPP\"}", -1);
	assert_int_equal(pager_client_load(p.client, "a", PAGER_LOAD_FULL, soon(), NULL),
			 -EOPNOTSUPP);
	peer_end(&p);
}

static void test_modes(void **state)
{
	enum pager_mode mode = PAGER_MODE_COPY;

	for (int i = 0; i < PAGER_N_MODES; i++) {
		assert_int_equal(pager_mode_parse(pager_mode_name((enum pager_mode)i), &mode), 0);
		assert_int_equal(mode, i);
	}
	assert_int_equal(pager_mode_parse("", &mode), -EINVAL);
	assert_int_equal(pager_mode_parse("Shared", &mode), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_request),  cmocka_unit_test(test_open_replies),
		cmocka_unit_test(test_open_nonsense), cmocka_unit_test(test_working_set),
		cmocka_unit_test(test_others),	      cmocka_unit_test(test_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
