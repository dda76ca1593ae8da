/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor and its keeper, with a toy worker that does as it is told over a socket. */
#include "base/test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "pager/keeper-wire.h"
#include "pager/keeper.h"
#include "pager/supervise.h"

/* ---- the keeper by itself ---------------------------------------------------------------------
 */

struct pair {
	struct keeper *keeper;
	int parent, worker;
	pid_t pid;
};

/* A process that serves a keeper until the socket hangs up; exits with 0 then. */
static void start_keeper(struct pair *p)
{
	int s[2], r;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s),
			 0);
	p->pid = fork();
	if (p->pid == 0) {
		struct keeper *k;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(s[1]);
		if (keeper_new(&k) < 0)
			_exit(100);
		do {
			fd_poll(s[0], POLLIN, DEADLINE_NEVER);
			r = keeper_serve(k, s[0]);
		} while (r == 0);
		keeper_free(k);
		_exit(r == -EPIPE ? 0 : r == -EPROTO ? 2 : 3);
	}
	close(s[0]);
	p->worker = s[1];
}

static int end_keeper(struct pair *p)
{
	int status;

	fd_close(p->worker);
	assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int named_memfd(const char *text)
{
	int fd = memfd_create("kept", MFD_CLOEXEC);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

struct seen {
	char text[512]; /* "name=json(first file,second file) ..." */
	int stop_at;
	int n;
	int taken;
};

static int see(void *data, const char *name, const char *json, int *fds, size_t n_fds)
{
	struct seen *s = data;
	size_t at = strlen(s->text);

	at += (size_t)snprintf(s->text + at, sizeof(s->text) - at, "%s=%s(", name, json);
	for (size_t i = 0; i < n_fds; i++) {
		char content[16] = "";

		assert_true(pread(fds[i], content, sizeof(content) - 1, 0) > 0);
		at += (size_t)snprintf(s->text + at, sizeof(s->text) - at, "%s,", content);
	}
	(void)snprintf(s->text + at, sizeof(s->text) - at, ") ");
	if (n_fds && s->taken < 0)
		s->taken = take_fd(fds[0]);
	return ++s->n == s->stop_at ? 7 : 0;
}

static void test_put_and_get(void **state)
{
	struct seen all = {.taken = -1}, some = {.stop_at = 1};
	struct pair p = {0};
	_cleanup_fd_ int a = named_memfd("a"), b = named_memfd("b");
	int fds[] = {a, b, a, b, a};
	char content[4] = "";

	start_keeper(&p);
	assert_int_equal(keeper_receive_all(p.worker, see, &all), 0);
	assert_string_equal(all.text, "");
	assert_int_equal(keeper_put(p.worker, "one", "{}", fds, 1), 0);
	assert_int_equal(keeper_put(p.worker, "two", "{\"x\":1}", fds, 4), 0);
	assert_int_equal(keeper_put(p.worker, "three", "", NULL, 0), 0);
	assert_int_equal(keeper_put(p.worker, "one", "[]", fds + 1, 1), 0); /* in its place */
	assert_int_equal(keeper_put(p.worker, "gone", "", fds, 2), 0);
	assert_int_equal(keeper_remove(p.worker, "gone"), 0);
	assert_int_equal(keeper_remove(p.worker, "never"), 0);
	assert_int_equal(keeper_remove(p.worker, "on"), 0); /* no more than the beginning */
	assert_int_equal(keeper_receive_all(p.worker, see, &all), 0);
	assert_string_equal(all.text, "one=[](b,) two={\"x\":1}(a,b,a,b,) three=() ");
	assert_true(all.taken >= 0);
	assert_int_equal(pread(all.taken, content, 3, 0), 1);
	assert_string_equal(content, "b");
	close(all.taken);
	assert_int_equal(keeper_receive_all(p.worker, see, &some), 7);
	assert_string_equal(some.text, "one=[](b,) ");
	assert_int_equal(end_keeper(&p), 0);
}

static void test_limits(void **state)
{
	static char json[KEEPER_MAX_JSON + 2], name[KEEPER_MAX_NAME + 2];
	struct pair p = {0};
	int fds[KEEPER_MAX_FDS + 1] = {0}, r = 0;
	uint32_t n = 0;

	start_keeper(&p);
	memset(json, ' ', sizeof(json) - 1);
	memset(name, 'n', sizeof(name) - 1);
	assert_int_equal(keeper_put(p.worker, "a", json, NULL, 0), -EINVAL);
	assert_int_equal(keeper_put(p.worker, name, "", NULL, 0), -EINVAL);
	assert_int_equal(keeper_put(p.worker, "", "", NULL, 0), -EINVAL);
	assert_int_equal(keeper_put(p.worker, "a", "", fds, KEEPER_MAX_FDS + 1), -EINVAL);
	json[KEEPER_MAX_JSON] = 0;
	name[KEEPER_MAX_NAME] = 0;
	assert_int_equal(keeper_put(p.worker, name, json, fds, KEEPER_MAX_FDS), 0);
	assert_int_equal(keeper_remove(p.worker, name), 0);
	while (r == 0) { /* all texts together */
		char each[16];

		(void)snprintf(each, sizeof(each), "big-%u", n++);
		r = keeper_put(p.worker, each, json, NULL, 0);
	}
	assert_int_equal(r, -ENOSPC);
	assert_in_range(n, KEEPER_MAX_BYTES / KEEPER_MAX_JSON - 4,
			KEEPER_MAX_BYTES / KEEPER_MAX_JSON);
	/* what is full can still be changed, and what is removed makes room */
	assert_int_equal(keeper_put(p.worker, "big-0", "{}", NULL, 0), 0);
	assert_int_equal(keeper_put(p.worker, "big-x", json, NULL, 0), 0);
	assert_int_equal(end_keeper(&p), 0);
}

static void test_many(void **state)
{
	struct pair p = {0};
	int r = 0;
	uint32_t n = 0;

	start_keeper(&p);
	while (r == 0) {
		char each[16];

		(void)snprintf(each, sizeof(each), "%u", n++);
		r = keeper_put(p.worker, each, "{}", NULL, 0);
	}
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(n, KEEPER_MAX_RECORDS + 1);
	assert_int_equal(end_keeper(&p), 0);
}

/* What no worker sends ends the conversation, and nothing else. */
static void test_nonsense(void **state)
{
	uint8_t m[32] = {KEEPER_PUT, 0, 1};
	struct keeper_message out;
	struct pair p = {0};

	m[16] = 'x';
	assert_int_equal(keeper_decode(m, 17, &out), 0);
	assert_int_equal(out.name_len, 1);
	assert_int_equal(keeper_decode(m, 16, &out), -EPROTO);
	assert_int_equal(keeper_decode(m, 18, &out), -EPROTO);
	assert_int_equal(keeper_decode(m, 3, &out), -EPROTO);
	for (unsigned at = 0; at < 8; at++) { /* op, zero, both lengths */
		uint8_t old = m[at];

		m[at] = 0xff;
		assert_int_equal(keeper_decode(m, 17, &out), -EPROTO);
		m[at] = old;
	}
	m[16] = 0; /* no zero bytes inside */
	assert_int_equal(keeper_decode(m, 17, &out), -EPROTO);
	start_keeper(&p);
	assert_int_equal(fd_send(p.worker, "garbage", 7, NULL, 0), 0);
	assert_int_equal(end_keeper(&p), 2);
}

static void test_keeper_gone(void **state)
{
	struct pair p = {0};

	start_keeper(&p);
	kill(p.pid, SIGKILL);
	assert_int_equal(fd_poll(p.worker, 0, deadline_after_ms(5000)), POLLHUP);
	assert_int_equal(keeper_put(p.worker, "a", "{}", NULL, 0), -EPIPE);
	assert_int_equal(end_keeper(&p), -1);
}

/* A supervisor that does not answer holds nobody up, and an answer that is late is not taken for
 * the next one. */
static void test_keeper_stopped(void **state)
{
	struct seen all = {.taken = -1};
	struct pair p = {0};
	uint64_t begun = clock_now_ns();

	start_keeper(&p);
	kill(p.pid, SIGSTOP);
	assert_int_equal(keeper_put(p.worker, "late", "{}", NULL, 0), -ETIMEDOUT);
	assert_true(clock_now_ns() - begun >= KEEPER_ANSWER_MS * NSEC_PER_MSEC);
	kill(p.pid, SIGCONT);
	assert_int_equal(keeper_receive_all(p.worker, see, &all), 0);
	assert_string_equal(all.text, "late={}() ");
	assert_int_equal(end_keeper(&p), 0);
}

/* ---- the supervisor ---------------------------------------------------------------------------
 */

struct rig {
	pid_t parent;
	int sock;     /* to the workers: all inherit the other end */
	pid_t worker; /* the present one */
	uint32_t generation;
	char kept[256]; /* what it got from the keeper at its start */
};

struct hello {
	pid_t pid;
	uint32_t generation;
	char kept[256];
};

/* Orders: k<name> keep under the name; r<name> remove; e<byte> exit; w: wait for the hang-up; p:
 * ping
 */
static int work(int sock, const struct supervise_worker *w)
{
	struct seen seen = {.taken = -1};
	struct hello h = {.pid = getpid(), .generation = w->generation};
	char order[64];
	ssize_t n;

	if (keeper_receive_all(w->keeper_sock, see, &seen) != 0)
		return 90;
	memcpy(h.kept, seen.text, sizeof(h.kept) - 1);
	fd_write_full(sock, &h, sizeof(h));
	while ((n = read(sock, order, sizeof(order) - 1)) > 0) {
		int fd, r = 0;

		order[n] = 0;
		if (order[0] == 'e')
			return order[1];
		if (order[0] == 'k') {
			fd = named_memfd(order + 1);
			r = keeper_put(w->keeper_sock, order + 1, "{}", &fd, 1);
			fd_close(fd);
		} else if (order[0] == 'r') {
			r = keeper_remove(w->keeper_sock, order + 1);
		} else if (order[0] == 'w') {
			r = fd_poll(w->keeper_sock, 0, deadline_after_ms(10000)) == POLLHUP ? 0
											    : -1;
		}
		r = -r;
		fd_write_full(sock, &r, sizeof(r));
	}
	return 91;
}

static void expect_worker(struct rig *r)
{
	struct hello h;

	assert_true(fd_poll(r->sock, POLLIN, deadline_after_ms(10000)) > 0);
	assert_int_equal(read(r->sock, &h, sizeof(h)), sizeof(h));
	r->worker = h.pid;
	r->generation = h.generation;
	memcpy(r->kept, h.kept, sizeof(r->kept));
}

static void start(struct rig *r)
{
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	r->parent = fork();
	if (r->parent == 0) {
		struct supervise_options options = {
			.rapid_ms = 500, .delay_ms = 50, .max_delay_ms = 200};
		struct supervise_worker w;
		int status = 99;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(s[0]);
		_exit(supervise_run(&options, &w, &status) == SUPERVISE_E_WORKER ? work(s[1], &w)
										 : status);
	}
	close(s[1]);
	r->sock = s[0];
	expect_worker(r);
}

static int order(struct rig *r, const char *text)
{
	int answer = -1;

	assert_int_equal(write(r->sock, text, strlen(text)), strlen(text));
	assert_true(fd_poll(r->sock, POLLIN, deadline_after_ms(15000)) > 0);
	assert_int_equal(read(r->sock, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static int wait_parent(struct rig *r)
{
	int status;

	assert_int_equal(waitpid(r->parent, &status, 0), r->parent);
	fd_close(r->sock);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void kill_worker(struct rig *r)
{
	kill(r->worker, SIGKILL);
	expect_worker(r);
}

static void test_exit(void **state)
{
	struct rig r;

	start(&r);
	assert_int_equal(r.generation, 0);
	assert_int_equal(write(r.sock, "e\5", 2), 2);
	assert_int_equal(wait_parent(&r), 5);
}

static void test_restart(void **state)
{
	struct rig r;
	pid_t first;

	start(&r);
	first = r.worker;
	assert_int_equal(order(&r, "kvm-1"), 0);
	assert_int_equal(order(&r, "kvm-2"), 0);
	assert_int_equal(order(&r, "kvm-3"), 0);
	assert_int_equal(order(&r, "rvm-2"), 0);
	kill_worker(&r);
	assert_int_not_equal(r.worker, first);
	assert_int_equal(r.generation, 1);
	assert_string_equal(r.kept, "vm-1={}(vm-1,) vm-3={}(vm-3,) ");
	assert_int_equal(order(&r, "kvm-4"), 0);
	kill_worker(&r); /* what was kept before the last one is still there */
	assert_int_equal(r.generation, 2);
	assert_string_equal(r.kept, "vm-1={}(vm-1,) vm-3={}(vm-3,) vm-4={}(vm-4,) ");
	assert_int_equal(write(r.sock, "e\0", 2), 2);
	assert_int_equal(wait_parent(&r), 0);
}

/* Fast three times, then later and later. */
static void test_backoff(void **state)
{
	uint64_t begun, took[6];
	struct rig r;

	start(&r);
	for (int i = 0; i < 6; i++) {
		begun = clock_now_ns();
		kill_worker(&r);
		took[i] = (clock_now_ns() - begun) / NSEC_PER_MSEC;
	}
	assert_true(took[3] >= 50);
	assert_true(took[4] >= 100);
	assert_true(took[5] >= 200);
	clock_sleep_ms(600); /* it lived: all is forgotten */
	begun = clock_now_ns();
	kill_worker(&r);
	assert_true((clock_now_ns() - begun) / NSEC_PER_MSEC < 200);
	assert_int_equal(write(r.sock, "e\0", 2), 2);
	assert_int_equal(wait_parent(&r), 0);
}

static void test_term(void **state)
{
	struct rig r;

	start(&r);
	kill(r.parent, SIGTERM); /* the toy has no handler: the signal itself ends it */
	assert_int_equal(wait_parent(&r), 0);
	assert_int_equal(kill(r.worker, 0), -1);
}

/* Told to end while there is no worker. */
static void test_term_while_waiting(void **state)
{
	struct rig r;

	start(&r);
	for (int i = 0; i < 5; i++)
		kill_worker(&r);
	kill(r.worker, SIGKILL); /* the next one would start after 200 ms */
	clock_sleep_ms(50);
	kill(r.parent, SIGTERM);
	assert_int_equal(wait_parent(&r), 1);
}

static void test_parent_dies(void **state)
{
	struct rig r;

	start(&r);
	kill(r.parent, SIGKILL);
	assert_int_equal(order(&r, "w"), 0); /* it sees that */
	assert_int_equal(order(&r, "kx"), EPIPE);
	assert_int_equal(order(&r, "p"), 0); /* and goes on */
	assert_int_equal(write(r.sock, "e\0", 2), 2);
	assert_int_equal(wait_parent(&r), -SIGKILL);
}

static int setup(void **state)
{
	struct rlimit files = {.rlim_cur = 4096, .rlim_max = 4096};

	log_init("test-supervise", LOG_LEVEL_INFO);
	alarm(120);
	signal(SIGPIPE, SIG_IGN);
	(void)setrlimit(RLIMIT_NOFILE, &files); /* what it is may do as well */
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_put_and_get),
					   cmocka_unit_test(test_limits),
					   cmocka_unit_test(test_many),
					   cmocka_unit_test(test_nonsense),
					   cmocka_unit_test(test_keeper_gone),
					   cmocka_unit_test(test_keeper_stopped),
					   cmocka_unit_test(test_exit),
					   cmocka_unit_test(test_restart),
					   cmocka_unit_test(test_backoff),
					   cmocka_unit_test(test_term),
					   cmocka_unit_test(test_term_while_waiting),
					   cmocka_unit_test(test_parent_dies)};

	return cmocka_run_group_tests(tests, setup, NULL);
}
