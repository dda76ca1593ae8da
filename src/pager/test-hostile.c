/* SPDX-License-Identifier: Apache-2.0 */
/* What the pager promises when files, machines or clients are broken or malicious. */
#include "pager/test-vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/str.h"
#include "pager/wire.h"
#include "sys/uffd.h"

#define SIZE (TEST_PAGES * DORM_PAGE_SIZE)

static uint64_t soon(void)
{
	return deadline_after_ms(10000);
}

static uint64_t first_stored(void)
{
	uint64_t gfn = 0;

	while (!*(uint64_t *)(test_model + gfn * DORM_PAGE_SIZE))
		gfn++;
	return gfn;
}

/* Change one byte of the only layer of an image. */
static void damage_layer(int dirfd, off_t offset, char *ret_layer)
{
	_cleanup_fd_ int layers = openat(dirfd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_fd_ int fd = -1;
	struct dirent *e;
	DIR *d;
	char c;

	d = fdopendir(dup(layers));
	assert_non_null(d);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			str_copy(ret_layer, 64, e->d_name);
	closedir(d);
	fd = openat(layers, ret_layer, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &c, 1, offset), 1);
	c ^= 0x40;
	assert_int_equal(pwrite(fd, &c, 1, offset), 1);
}

static void test_corrupt_frame(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int bad = rig_image(r, "bad", IMAGE_CODEC_NONE);
	_cleanup_fd_ int good = rig_image(r, "good", IMAGE_CODEC_ZSTD);
	char layer[64], text[1024], image_id[64];
	uint64_t gfn = first_stored();
	struct vm a, b, c, other;
	int status;

	vm_start(r, &a, "a", bad, 0);
	vm_start(r, &b, "b", bad, 0);
	vm_start(r, &c, "c", bad, 0);
	vm_start(r, &other, "other", good, 0);
	/* frame 0, after the image was opened; plain frames begin at the second page */
	damage_layer(bad, 4096 + 50, layer);
	assert_int_equal(vm_do(&c, VM_READ, TEST_PAGES - 1), 0);
	vm_send(&a, VM_READ, gfn);
	status = vm_wait(&a);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	rig_wait_state(r, "a", "failed");
	rig_text(r, "a", "failure", text);
	rig_text(r, "a", "image_id", image_id);
	assert_non_null(strstr(text, image_id));
	assert_non_null(strstr(text, layer));
	assert_non_null(strstr(text, "frame 0"));
	/* whoever meets the frame later learns the same reason */
	vm_send(&b, VM_READ, gfn);
	assert_true(WIFSIGNALED(vm_wait(&b)));
	rig_wait_state(r, "b", "failed");
	rig_text(r, "b", "failure", text);
	assert_non_null(strstr(text, "frame 0"));
	/* other frames and other images go on */
	assert_int_equal(vm_do(&c, VM_READ, TEST_PAGES / 2), 0);
	assert_int_equal(vm_do(&other, VM_COMPARE, 3), 0);
	vm_end(&c);
	vm_end(&other);
	rig_wait_state(r, "c", "closed");
	/* repaired: nothing is remembered of it once the last session is gone */
	damage_layer(bad, 4096 + 50, layer);
	rig_wait_sessions(r, 0);
	clock_sleep_ms(50);
	vm_start(r, &a, "a", bad, 0);
	assert_int_equal(vm_do(&a, VM_COMPARE, 3), 0);
	vm_end(&a);
}

/* The content of a page that shares its slot with one of a damaged frame cannot be had either. */
static void test_corrupt_shared(void **state)
{
	struct rig *r = *state;
	struct shared shared = {
		.gfn = rig_find_run(true, 60, first_stored() + 1), .n = 1, .of = first_stored()};
	_cleanup_fd_ int bad = rig_shared_image(r, "bad", IMAGE_CODEC_NONE, &shared, 1);
	char layer[64], text[1024];
	struct vm a, b, c;

	vm_start(r, &a, "a", bad, 0);
	vm_start(r, &b, "b", bad, 0);
	vm_start(r, &c, "c", bad, 0);
	damage_layer(bad, 4096 + 50, layer);
	/* the first to touch the frame, and one that finds it failed */
	vm_send(&a, VM_READ, shared.gfn);
	assert_true(WIFSIGNALED(vm_wait(&a)));
	rig_wait_state(r, "a", "failed");
	vm_send(&b, VM_READ, shared.gfn);
	assert_true(WIFSIGNALED(vm_wait(&b)));
	rig_wait_state(r, "b", "failed");
	rig_text(r, "b", "failure", text);
	assert_non_null(strstr(text, layer));
	assert_non_null(strstr(text, "frame 0"));
	assert_int_equal(vm_do(&c, VM_READ, TEST_PAGES / 2), 0);
	vm_end(&c);
	rig_unshare(&shared, 1);
}

static void test_corrupt_image(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int bad = rig_image(r, "bad", IMAGE_CODEC_ZSTD);
	_cleanup_fd_ int map = openat(bad, "map", O_RDWR | O_CLOEXEC), empty = -1;
	struct problem problem = PROBLEM_INIT;
	struct pager_session session = {.memory_fd = -1};
	char path[128], byte = 0x55;

	if (map < 0) {
		(void)fchmodat(bad, "map", 0600, 0);
		map = openat(bad, "map", O_RDWR | O_CLOEXEC);
	}
	assert_int_equal(pwrite(map, &byte, 1, 40), 1);
	assert_int_equal(pager_client_open(r->client, "x", bad, NULL, TEST_PAGES, soon(), &problem,
					   &session),
			 IMAGE_E_CORRUPT);
	assert_true(problem_is_set(&problem));
	(void)snprintf(path, sizeof(path), "%s/empty", r->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	empty = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_not_equal(
		pager_client_open(r->client, "x", empty, NULL, TEST_PAGES, soon(), NULL, &session),
		0);
	/* neither leaves anything behind */
	rig_wait_sessions(r, 0);
	assert_int_equal(session.memory_fd, -1);
}

/* A machine that maps the memory but forgets to register it makes zeros for everybody. */
static void test_poisoned_memory(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	struct pager_session session;
	struct problem problem = PROBLEM_INIT;
	char text[1024];
	struct vm a, b;
	uint8_t *p;

	vm_start(r, &a, "a", image, 0);
	assert_int_equal(pager_client_open(r->client, "rogue", image, NULL, TEST_PAGES, soon(),
					   &problem, &session),
			 0);
	p = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, session.memory_fd, 0);
	assert_int_equal(*(volatile uint8_t *)(p + first_stored() * DORM_PAGE_SIZE), 0);
	/* no fault leads there: it is found all the same, and nobody goes on with zeros */
	assert_true(WIFSIGNALED(vm_wait(&a)));
	rig_wait_state(r, "a", "failed");
	rig_wait_state(r, "rogue", "failed");
	rig_text(r, "a", "failure", text);
	assert_non_null(strstr(text, "did not put there"));
	/* the next session gets new memory */
	vm_start(r, &b, "b", image, 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 1), 0);
	vm_end(&b);
	munmap(p, SIZE);
	close(session.memory_fd);
}

static void test_blocking_uffd(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	struct vm a, b;

	vm_start(r, &b, "good", image, 0);
	for (int i = 0; i < 8; i++) { /* more than there are threads */
		vm_start(r, &a, "bad", image, 0);
		vm_send(&a, VM_BLOCKING, 0);
		vm_send(&a, VM_COMPARE, 0);
		assert_true(WIFSIGNALED(vm_wait(&a)));
		rig_wait_state(r, "bad", "failed");
	}
	assert_int_equal(vm_do(&b, VM_COMPARE, 8), 0);
	vm_end(&b);
}

static void test_killed_pager(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_NONE);
	uint64_t answer;
	struct vm a;
	int status;

	vm_start(r, &a, "a", image, 0);
	assert_int_equal(vm_do(&a, VM_READ, first_stored()), 0);
	kill(r->pager, SIGKILL);
	assert_int_equal(waitpid(r->pager, &status, 0), r->pager);
	vm_send(&a, VM_COMPARE, 0);
	assert_false(vm_answer(&a, 400, &answer));
	assert_int_equal(kill(a.pid, 0), 0);
	/* the client finds the next pager by itself; the socket left behind is no obstacle */
	assert_int_equal(rig_start_pager(r, NULL), 0);
	assert_int_equal(pager_client_ping(r->client, soon(), &status), 0);
	assert_int_equal(status, r->pager);
	/* and that one goes on where the other stopped */
	assert_true(vm_answer(&a, 60000, &answer));
	assert_int_equal(answer, 0);
	assert_true(rig_stats(r, "a", "faults") > 0);
	vm_end(&a);
	rig_wait_sessions(r, 0);
}

static void expect_end(int s)
{
	char c;

	assert_true(s >= 0);
	assert_true(fd_poll(s, POLLIN, soon()) > 0);
	assert_true(read(s, &c, 1) <= 0);
	close(s);
}

static void test_bad_handshakes(void **state)
{
	static const char *const hasty[] = {"--handshake-ms", "200", NULL};
	static const char good[] =
		"[{\"base_host_virt_addr\":65536,\"size\":4096,\"offset\":0,\"page_size\":4096}]";
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD), null = -1, uffd = -1;
	struct pager_session session;
	struct problem problem = PROBLEM_INIT;
	struct vm a;
	int fds, s;

	assert_int_equal(rig_stop_pager(r), 0);
	assert_int_equal(rig_start_pager(r, hasty), 0);
	vm_start(r, &a, "a", image, 0);
	assert_int_equal(pager_client_open(r->client, "b", image, NULL, TEST_PAGES, soon(),
					   &problem, &session),
			 0);
	close(session.memory_fd);
	fds = rig_pager_fds(r);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	uffd = uffd_new(0);
	expect_end(vm_connect(session.socket_path, "garbage", 7, -1, 0));
	expect_end(vm_connect(session.socket_path, "{}", 2, uffd, 1));
	expect_end(vm_connect(session.socket_path, "[]", 2, uffd, 1));
	expect_end(vm_connect(session.socket_path, good, strlen(good), -1, 0));
	expect_end(vm_connect(session.socket_path, good, strlen(good), null, 1));
	expect_end(vm_connect(session.socket_path, good, strlen(good), uffd, 2));
	expect_end(vm_connect(session.socket_path, good, strlen(good), uffd, 8));
	/* half a handshake, and none, until the time is up */
	expect_end(vm_connect(session.socket_path, good, 20, uffd, 1));
	expect_end(vm_connect(session.socket_path, NULL, 0, -1, 0));
	/* descriptors in every piece */
	s = vm_connect(session.socket_path, "[", 1, uffd, 1);
	for (int i = 0; i < 100; i++)
		if (fd_send(s, " ", 1, (int[]){uffd, null, null, null}, 4) < 0)
			break;
	expect_end(s);
	/* a connection that says nothing more and goes */
	s = vm_connect(session.socket_path, good, 20, uffd, 1);
	close(s);
	expect_end(vm_connect(session.socket_path, "garbage", 7, -1, 0));
	assert_int_equal(rig_pager_fds(r), fds);
	rig_wait_state(r, "b", "listening");
	assert_int_equal(vm_do(&a, VM_COMPARE, 4), 0);
	assert_int_equal(pager_client_close_session(r->client, "b", soon()), 0);
	assert_int_equal(vm_connect(session.socket_path, good, 20, -1, 0), -ENOENT);
	vm_end(&a);
}

/* In pieces, with a pause, and the descriptor in the last one. */
static void test_slow_handshake(void **state)
{
	struct rig *r = *state;
	struct pager_session session;
	struct problem problem = PROBLEM_INIT;
	char text[256];
	pid_t pid;
	int status;

	assert_int_equal(
		pager_client_open(r->client, "a", -1, NULL, TEST_PAGES, soon(), &problem, &session),
		0);
	pid = fork();
	if (pid == 0) {
		uint8_t *p = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, session.memory_fd, 0);
		int uffd = uffd_new(0), s, bad = 0;

		uffd_register(uffd, (uintptr_t)p, SIZE, UFFDIO_REGISTER_MODE_MISSING);
		(void)snprintf(text, sizeof(text),
			       "[{\"base_host_virt_addr\":%llu,\"size\":%lu,\"offset\":0}]",
			       (unsigned long long)(uintptr_t)p, SIZE);
		s = vm_connect(session.socket_path, NULL, 0, -1, 0);
		for (size_t i = 0; i < strlen(text); i++) {
			fd_send(s, text + i, 1, &uffd, text[i + 1] ? 0 : 1);
			clock_sleep_ms(1);
		}
		for (size_t i = 0; i < SIZE; i += 512)
			bad |= p[i];
		_exit(bad);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	rig_wait_state(r, "a", "closed");
	assert_int_equal(rig_stats(r, "a", "pid"), pid);
	close(session.memory_fd);
}

enum lie { LIE_REGION, LIE_MEMORY };

/* A machine that hands over one thing and uses another. */
static void lie(const struct pager_session *session, enum lie what)
{
	uint8_t *image = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, session->memory_fd, 0);
	uint8_t *other = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *p = what == LIE_MEMORY ? other : image;
	int uffd = uffd_new(0);
	char text[256];

	uffd_register(uffd, (uintptr_t)p, SIZE, UFFDIO_REGISTER_MODE_MISSING);
	(void)snprintf(text, sizeof(text),
		       "[{\"base_host_virt_addr\":%llu,\"size\":%lu,\"offset\":0}]",
		       (unsigned long long)(uintptr_t)p, what == LIE_REGION ? 4096 : SIZE);
	(void)vm_connect(session->socket_path, text, strlen(text), uffd, 1);
	for (size_t i = SIZE; i > SIZE / 4; i -= DORM_PAGE_SIZE)
		(void)*(volatile uint8_t *)(p + i - 1);
	_exit(0);
}

static void test_lying_machine(void **state)
{
	static const char *const reasons[] = {"outside of the regions",
					      "not a mapping of the image's memory"};
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);

	for (int what = LIE_REGION; what <= LIE_MEMORY; what++) {
		struct problem problem = PROBLEM_INIT;
		struct pager_session session;
		char name[8], text[1024];
		struct vm vm = {.orders = -1, .answers = -1};

		(void)snprintf(name, sizeof(name), "vm%d", what);
		assert_int_equal(pager_client_open(r->client, name, image, NULL, TEST_PAGES, soon(),
						   &problem, &session),
				 0);
		vm.pid = fork();
		if (vm.pid == 0)
			lie(&session, what);
		close(session.memory_fd);
		assert_true(WIFSIGNALED(vm_wait(&vm)));
		rig_wait_state(r, name, "failed");
		rig_text(r, name, "failure", text);
		assert_non_null(strstr(text, reasons[what]));
	}
}

static int control(struct rig *r)
{
	int s = fd_unix_connect(r->socket, SOCK_SEQPACKET);

	assert_true(s >= 0);
	return s;
}

/* Sends a message and returns the code of the answer. */
static void ask(struct rig *r, const char *text, size_t len, int fd, size_t n_fds, const char *want)
{
	_cleanup_fd_ int s = control(r);
	int fds[8], got[WIRE_MAX_FDS];
	json_auto_t *reply = NULL;
	const char *code;

	for (int i = 0; i < 8; i++)
		fds[i] = fd;
	assert_int_equal(fd_send(s, text, len, fds, n_fds), 0);
	assert_true(fd_poll(s, POLLIN, soon()) > 0);
	assert_int_equal(wire_receive(s, &reply, got), 0);
	assert_false(json_is_true(json_object_get(reply, "ok")));
	code = json_string_value(json_object_get(reply, "code"));
	assert_string_equal(code, want);
	assert_true(strlen(json_string_value(json_object_get(reply, "message"))) > 0);
}

static void test_bad_requests(void **state)
{
	static const char open_x[] = "{\"op\":\"open\",\"session\":\"x\",\"n_pages\":1}";
	static const char open_keys[] =
		"{\"op\":\"open\",\"session\":\"x\",\"n_pages\":1,\"keys\":true}";
	static char big[WIRE_MAX_MESSAGE + 100];
	struct rig *r = *state;
	_cleanup_fd_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_fd_ int dir = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fds = rig_pager_fds(r);
#define ASK(_text, _want) ask(r, _text, strlen(_text), -1, 0, _want)

	ASK("garbage", "EPROTO");
	ASK("[]", "EPROTO");
	ASK("{}", "EOPNOTSUPP");
	ASK("{\"op\":7}", "EOPNOTSUPP");
	ASK("{\"op\":\"fly\"}", "EOPNOTSUPP");
	ASK("{\"op\":\"open\"}", "EINVAL");
	ASK("{\"op\":\"open\",\"session\":\"../x\",\"n_pages\":1,\"zero\":true}", "EINVAL");
	ASK("{\"op\":\"open\",\"session\":\"x\",\"n_pages\":0,\"zero\":true}", "EINVAL");
	ASK("{\"op\":\"open\",\"session\":\"x\",\"n_pages\":-1,\"zero\":true}", "EINVAL");
	ASK("{\"op\":\"open\",\"session\":\"x\",\"n_pages\":9223372036854775807,\"zero\":true}",
	    "EINVAL");
	ASK("{\"op\":\"open\",\"session\":\"x\",\"n_pages\":1}", "EINVAL");
	ASK("{\"op\":\"session\",\"session\":\"x\"}", "ENOENT");
	ASK("{\"op\":\"session\"}", "ENOENT");
	ask(r, open_x, strlen(open_x), null, 1, "ENOTDIR");
	ask(r, open_x, strlen(open_x), null, 2, "ENOTDIR");
	ask(r, open_x, strlen(open_x), dir, 2, "EINVAL"); /* nobody spoke of keys */
	ask(r, open_keys, strlen(open_keys), dir, 1, "EINVAL");
	ask(r, open_keys, strlen(open_keys), dir, 2, "EINVAL"); /* a directory is no key ring */
	ask(r, open_keys, strlen(open_keys), -1, 0, "EINVAL");
	ask(r, "{}", 2, null, 3, "EPROTO");
	ask(r, "{}", 2, null, 8, "EPROTO");
	memset(big, ' ', sizeof(big));
	ask(r, big, sizeof(big), -1, 0, "EPROTO");
	clock_sleep_ms(20);
	assert_int_equal(rig_pager_fds(r), fds);
	assert_int_equal(pager_client_ping(r->client, soon(), NULL), 0);
}

static void test_many_clients(void **state)
{
	struct rig *r = *state;
	int s[80], refused = 0;
	char c[512];

	assert_int_equal(pager_client_ping(r->client, soon(), NULL), 0);
	for (int i = 0; i < 80; i++)
		s[i] = control(r);
	for (int i = 0; i < 80; i++)
		refused += fd_poll(s[i], POLLIN, deadline_after_ms(i < 70 ? 1 : 500)) > 0 &&
			   read(s[i], c, sizeof(c)) > 0;
	assert_in_range(refused, 80 - 63, 80 - 63);
	for (int i = 0; i < 80; i++)
		close(s[i]);
	assert_int_equal(pager_client_ping(r->client, soon(), NULL), 0);
}

static void test_shutdown(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int s = control(r);
	json_auto_t *reply = NULL;
	int status, got[WIRE_MAX_FDS];

	assert_int_equal(fd_send(s, "{\"op\":\"shutdown\"}", 17, NULL, 0), 0);
	assert_true(fd_poll(s, POLLIN, soon()) > 0);
	assert_int_equal(wire_receive(s, &reply, got), 0);
	assert_true(json_is_true(json_object_get(reply, "ok")));
	assert_int_equal(waitpid(r->pager, &status, 0), r->pager);
	assert_int_equal(status, 0);
	assert_int_equal(access(r->socket, F_OK), -1);
	assert_int_equal(rig_start_pager(r, NULL), 0);
}

/* Asks and never reads the answers. */
static void test_deaf_client(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int s = control(r);

	assert_int_equal(fd_set_nonblock(s, 1), 0);
	for (int i = 0; i < 20000; i++)
		if (fd_send(s, "{\"op\":\"stats\"}", 14, NULL, 0) < 0)
			break;
	assert_int_equal(pager_client_ping(r->client, soon(), NULL), 0);
}

static void test_names_and_sizes(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	struct pager_session session, again = {.memory_fd = -1};
	struct problem problem = PROBLEM_INIT;
	pid_t first = r->pager;
	json_auto_t *stats = NULL;

	assert_int_equal(pager_client_open(r->client, "a", image, NULL, TEST_PAGES + 1, soon(),
					   &problem, &again),
			 -EINVAL);
	assert_non_null(strstr(problem.message, "4096 pages"));
	assert_int_equal(
		pager_client_open(r->client, "a", image, NULL, TEST_PAGES, soon(), NULL, &session),
		0);
	assert_int_equal(strlen(session.image_id), IMAGE_ID_LEN);
	assert_int_equal(
		pager_client_open(r->client, "a", image, NULL, TEST_PAGES, soon(), NULL, &again),
		-EEXIST);
	assert_int_equal(again.memory_fd, -1);
	assert_int_equal(pager_client_close_session(r->client, "unknown", soon()), 0);
	assert_int_equal(pager_client_session_stats(r->client, "unknown", soon(), &stats), -ENOENT);
	/* a second pager on the same socket gives way */
	assert_int_equal(rig_start_pager(r, NULL), 1);
	r->pager = first;
	assert_int_equal(pager_client_ping(r->client, soon(), NULL), 0);
	assert_int_equal(pager_client_close_session(r->client, "a", soon()), 0);
	close(session.memory_fd);
}

/* Closed while its machine lives: it waits, and what it has not seen never turns into zeros. */
static void test_closed_too_early(void **state)
{
	struct rig *r = *state;
	_cleanup_fd_ int image = rig_image(r, "a", IMAGE_CODEC_ZSTD);
	struct vm a, b;
	uint64_t answer;

	vm_start(r, &a, "a", image, 0);
	assert_int_equal(pager_client_close_session(r->client, "a", soon()), 0);
	vm_send(&a, VM_READ, first_stored());
	assert_false(vm_answer(&a, 300, &answer));
	vm_start(r, &b, "a", image, 0);
	assert_int_equal(vm_do(&b, VM_COMPARE, 2), 0);
	rig_wait_sessions(r, 2);
	vm_end(&a);
	rig_wait_sessions(r, 1);
	vm_end(&b);
}

static void test_no_pager(void **state)
{
	struct pager_client *c;
	struct problem problem = PROBLEM_INIT;
	struct pager_session session;

	assert_int_equal(pager_client_new("/nonexistent/pager", &c), 0);
	assert_int_equal(pager_client_ping(c, soon(), NULL), -ENOENT);
	assert_int_equal(pager_client_open(c, "a", -1, NULL, 16, soon(), &problem, &session),
			 -ENOENT);
	assert_non_null(strstr(problem.message, "/nonexistent/pager"));
	pager_client_free(c);
}

#define RIGGED(_test) cmocka_unit_test_setup_teardown(_test, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIGGED(test_corrupt_frame),    RIGGED(test_corrupt_image),
		RIGGED(test_corrupt_shared),   RIGGED(test_poisoned_memory),
		RIGGED(test_blocking_uffd),    RIGGED(test_killed_pager),
		RIGGED(test_bad_handshakes),   RIGGED(test_slow_handshake),
		RIGGED(test_lying_machine),    RIGGED(test_bad_requests),
		RIGGED(test_many_clients),     RIGGED(test_deaf_client),
		RIGGED(test_shutdown),	       RIGGED(test_names_and_sizes),
		RIGGED(test_closed_too_early), cmocka_unit_test(test_no_pager),
	};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
