/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-server.h - a scripted dormd, and dorm run against it
 *
 *     struct test_server *s = test_server_start(handler, userdata);
 *     struct test_outcome o = test_dorm(s, "standard input", "exec", "i1", "--", "cat", NULL);
 *     assert_int_equal(o.code, 0); assert_string_equal(o.out, "...");
 *     test_outcome_deinit(&o);
 *     test_server_stop(s);
 *
 * The handler runs in one thread per connection and answers with the test_reply functions. It must
 * not assert (cmocka's assertions work in the main thread only); it lets clients see what is wrong.
 * The program under test is $DORM_BIN.
 */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct test_request {
	char method[16];
	char target[1024];
	char head[8192]; /* the header lines */
	char *body;	 /* zero-terminated; of a chunked one what the chunks carried */
	size_t len;
};

struct test_server;
typedef void (*test_handler)(struct test_server *s, const struct test_request *rq, int fd);

struct test_server *test_server_start(test_handler handler, void *userdata);
void test_server_stop(struct test_server *s);
const char *test_server_path(const struct test_server *s);
void *test_server_userdata(const struct test_server *s);

/**
 * test_server_answer_early() - from now on answer when the head of a request is there, without its
 * body, and close the connection with the body unread
 */
void test_server_answer_early(struct test_server *s);

/** test_server_log() - "METHOD TARGET BODY\n" of every request so far; fresh memory */
char *test_server_log(struct test_server *s);

/** test_is() - does the request have this method and exactly this target? */
bool test_is(const struct test_request *rq, const char *method, const char *target);

/** test_reply() - a whole answer; @headers: further lines, each ending in \r\n, or "" */
void test_reply(int fd, int status, const char *type, const char *headers, const char *body);
void test_reply_json(int fd, int status, const char *body);

/** test_reply_head() - the head of an answer of @len bytes, which test_write() brings */
void test_reply_head(int fd, int status, const char *type, size_t len);
void test_write(int fd, const void *data, size_t len);

/** test_hang_up() - break the connection off */
void test_hang_up(int fd);

/** test_stream_begin() - an answer in chunks: then test_stream() for each, then test_stream_end()
 */
void test_stream_begin(int fd, const char *type);
void test_stream(int fd, const void *data, size_t len);
void test_stream_end(int fd);

/** test_frame() - one Connect frame as a chunk */
void test_frame(int fd, unsigned char flags, const char *json);

struct test_outcome {
	int code; /* exit code; -n when signal n ended it */
	char *out, *err;
};

/** test_dorm() - run dorm to its end (30 s at most); arguments end with NULL */
struct test_outcome test_dorm(struct test_server *s, const char *input, ...)
	__attribute__((sentinel));
void test_outcome_deinit(struct test_outcome *o);

/** test_spawn() - start dorm with these descriptors as 0, 1 and 2, which stay the caller's */
pid_t test_spawn(struct test_server *s, const int fds[3], const char *const *args);

/** test_wait() - Return: as test_outcome.code */
int test_wait(pid_t pid);
