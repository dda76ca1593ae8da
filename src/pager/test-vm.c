/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/test-vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/page-map.h"
#include "pager/wire.h"
#include "sys/uffd.h"

#define SIZE (TEST_PAGES * DORM_PAGE_SIZE)

uint8_t *test_model;

static uint64_t soon(void)
{
	return deadline_after_ms(10000);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

/* A third is long zero runs, a sixth short ones, the rest text and noise. */
void rig_make_model(void)
{
	uint64_t seed = 42, gfn = 0;

	if (test_model)
		return;
	test_model = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(test_model, MAP_FAILED);
	while (gfn < TEST_PAGES) {
		unsigned kind = next_random(&seed) % 6;
		uint64_t n =
			kind < 2 ? 100 + next_random(&seed) % 600 : 1 + next_random(&seed) % 12;

		if (kind >= 3)
			n += next_random(&seed) % 200;
		for (; n && gfn < TEST_PAGES; n--, gfn++) {
			uint64_t *p = (uint64_t *)(test_model + gfn * DORM_PAGE_SIZE);

			for (size_t i = 0; kind >= 3 && i < DORM_PAGE_SIZE / 8; i++)
				p[i] = kind == 3 ? next_random(&seed) << 32 | next_random(&seed)
						 : gfn * 1000003 + 1 + i / 64;
		}
	}
}

int rig_start_pager(struct rig *r, const char *const *more)
{
	const char *argv[32] = {getenv("DORM_PAGER"), "--socket", r->socket,
				"--run-dir",	      r->dir,	  "--ready-fd"};
	char ready[16], c;
	int p[2], n = 7, status;

	assert_int_equal(pipe(p), 0);
	(void)snprintf(ready, sizeof(ready), "%d", p[1]);
	argv[6] = ready;
	for (; more && *more; more++)
		argv[n++] = *more;
	r->pager = fork();
	if (r->pager == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(p[0]);
		execv(argv[0], (char **)argv);
		_exit(127);
	}
	close(p[1]);
	n = (int)read(p[0], &c, 1);
	close(p[0]);
	if (n == 1)
		return 0;
	assert_int_equal(waitpid(r->pager, &status, 0), r->pager);
	r->pager = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int rig_stop_pager(struct rig *r)
{
	int status = 0;

	if (r->pager) {
		kill(r->pager, SIGTERM);
		assert_int_equal(waitpid(r->pager, &status, 0), r->pager);
	}
	r->pager = 0;
	return status;
}

int rig_setup(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;

	alarm(240);
	*r = (struct rig){.dir = "/tmp/test-pager-XXXXXX"};
	assert_non_null(mkdtemp(r->dir));
	(void)snprintf(r->socket, sizeof(r->socket), "%s/control", r->dir);
	rig_make_model();
	assert_int_equal(rig_start_pager(r, NULL), 0);
	assert_int_equal(pager_client_new(r->socket, &r->client), 0);
	*state = r;
	return 0;
}

int rig_teardown(void **state)
{
	struct rig *r = *state;

	r->client = pager_client_free(r->client);
	assert_int_equal(rig_stop_pager(r), 0);
	assert_int_equal(file_remove_tree(AT_FDCWD, r->dir), 0);
	return 0;
}

static int write_image(struct rig *r, const char *name, const struct image_writer_options *options)
{
	_cleanup_(image_unrefp) struct image *zero = NULL;
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	struct image_writer_stats stats;
	struct problem problem = PROBLEM_INIT;
	_cleanup_free_ char *path = str_printf("%s/%s", r->dir, name);
	char id[IMAGE_ID_LEN + 1];
	int fd;

	assert_int_equal(mkdir(path, 0700), 0);
	fd = file_open_dir(AT_FDCWD, path);
	assert_true(fd >= 0);
	assert_int_equal(image_open_zero(TEST_PAGES, &zero), 0);
	assert_int_equal(image_writer_new(fd, zero, -1, options, &problem, &w), 0);
	assert_int_equal(image_writer_add(w, 0, TEST_PAGES, test_model, &problem), 0);
	assert_int_equal(image_writer_commit(w, &stats, id, &problem), 0);
	assert_true(stats.pages_zero > TEST_PAGES / 5 && stats.pages_stored > TEST_PAGES / 5);
	return fd;
}

int rig_image(struct rig *r, const char *name, enum image_codec codec)
{
	return write_image(r, name, &(struct image_writer_options){.codec = codec});
}

int rig_sealed_image(struct rig *r, const char *name, const struct keyring *keys)
{
	return write_image(r, name,
			   &(struct image_writer_options){.codec = IMAGE_CODEC_ZSTD, .keys = keys});
}

uint64_t rig_find_run(bool zero, uint64_t n, uint64_t from)
{
	uint64_t have = 0;

	for (uint64_t gfn = from; gfn < TEST_PAGES; gfn++) {
		const uint64_t *p = (const uint64_t *)(test_model + gfn * DORM_PAGE_SIZE);

		have = (*p == 0) == zero ? have + 1 : 0;
		if (have == n)
			return gfn + 1 - n;
	}
	fail_msg("the model has no such run");
	return 0;
}

/* The gfn whose source in the image as written this page shall have. */
static uint64_t share_of(const struct shared *shared, size_t n, uint64_t gfn)
{
	for (size_t i = 0; i < n; i++)
		if (gfn >= shared[i].gfn && gfn < shared[i].gfn + shared[i].n)
			return shared[i].of + (gfn - shared[i].gfn);
	return gfn;
}

static void share_in_map(int dirfd, const struct shared *shared, size_t n)
{
	_cleanup_(page_map_deinit) struct page_map old = {0}, m = {0};
	_cleanup_free_ struct layer_name *names = NULL;
	_cleanup_free_ char *data = NULL;
	_cleanup_buf_ struct buf file = {0};
	struct problem problem = PROBLEM_INIT;
	uint32_t n_layers;
	size_t len;

	assert_int_equal(file_read(dirfd, "map", 1u << 20, &data, &len), 0);
	assert_int_equal(page_map_decode(data, len, &problem, &old, &names, &n_layers), 0);
	for (uint64_t gfn = 0; gfn < TEST_PAGES; gfn++) {
		uint64_t of = share_of(shared, n, gfn);
		const struct page_run *run = &old.runs[page_map_find(&old, of)];

		assert_true(of == gfn || run->layer != IMAGE_LAYER_ZERO);
		assert_int_equal(page_map_append(&m, 1, run->layer, run->slot + of - run->gfn), 0);
	}
	assert_int_equal(page_map_encode(&m, names, n_layers, &file), 0);
	assert_int_equal(file_write_atomic(dirfd, "map", file.data, file.len, 0444), 0);
}

int rig_shared_image(struct rig *r, const char *name, enum image_codec codec,
		     const struct shared *shared, size_t n)
{
	int dirfd = rig_image(r, name, codec);

	share_in_map(dirfd, shared, n);
	for (size_t i = 0; i < n; i++)
		memcpy(test_model + shared[i].gfn * DORM_PAGE_SIZE,
		       test_model + shared[i].of * DORM_PAGE_SIZE, shared[i].n * DORM_PAGE_SIZE);
	return dirfd;
}

void rig_unshare(const struct shared *shared, size_t n)
{
	for (size_t i = 0; i < n; i++)
		memset(test_model + shared[i].gfn * DORM_PAGE_SIZE, 0,
		       shared[i].n * DORM_PAGE_SIZE);
}

uint64_t rig_stats(struct rig *r, const char *session, const char *what)
{
	json_auto_t *stats = NULL;
	int e = pager_client_session_stats(r->client, session, soon(), &stats);

	if (e == -ENOENT)
		return UINT64_MAX;
	assert_int_equal(e, 0);
	assert_true(json_is_integer(json_object_get(stats, what)));
	return (uint64_t)json_integer_value(json_object_get(stats, what));
}

void rig_text(struct rig *r, const char *session, const char *what, char *out)
{
	json_auto_t *stats = NULL;
	const char *text;

	*out = 0;
	if (pager_client_session_stats(r->client, session, soon(), &stats) != 0)
		return;
	text = json_string_value(json_object_get(stats, what));
	str_copy(out, 1024, text ? text : "");
}

void rig_wait_state(struct rig *r, const char *session, const char *state)
{
	uint64_t deadline = soon();
	char text[1024];

	for (;;) {
		rig_text(r, session, "state", text);
		if (!strcmp(text, state))
			return;
		if (deadline_passed(deadline))
			fail_msg("session %s is %s, not %s", session, text, state);
		clock_sleep_ms(2);
	}
}

void rig_wait_sessions(struct rig *r, size_t n)
{
	uint64_t deadline = soon();

	for (;;) {
		json_auto_t *stats = NULL;
		size_t have;

		assert_int_equal(pager_client_stats(r->client, soon(), &stats), 0);
		have = json_array_size(json_object_get(stats, "sessions"));
		if (have == n)
			return;
		if (deadline_passed(deadline))
			fail_msg("%zu sessions, not %zu", have, n);
		clock_sleep_ms(5);
	}
}

int rig_pager_fds(struct rig *r)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/fd", r->pager);
	DIR *d = opendir(path);
	int n = 0;

	assert_non_null(d);
	/* an answer to this comes after all that the requests before needed was closed */
	assert_int_equal(pager_client_ping(r->client, soon(), NULL), 0);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* ---- the machine ------------------------------------------------------------------------------
 */

int vm_connect(const char *path, const char *text, size_t len, int fd, size_t n_fds)
{
	int fds[8], s = fd_unix_connect(path, SOCK_STREAM);

	if (s < 0)
		return s;
	for (size_t i = 0; i < 8; i++)
		fds[i] = fd;
	if (len && fd_send(s, text, len, fds, n_fds) < 0) {
		close(s);
		return -EPIPE;
	}
	return s;
}

static uint64_t differs(const uint8_t *memory, uint64_t gfn)
{
	return memcmp(memory + gfn * DORM_PAGE_SIZE, test_model + gfn * DORM_PAGE_SIZE,
		      DORM_PAGE_SIZE) != 0;
}

static uint64_t scribble(uint8_t *memory, uint64_t seed)
{
	uint64_t bad = 0;

	for (uint64_t i = 0; i < TEST_PAGES; i += 3)
		memset(memory + i * DORM_PAGE_SIZE, (int)(seed + i), DORM_PAGE_SIZE);
	for (uint64_t i = 0; i < TEST_PAGES; i++)
		for (size_t j = 0; j < DORM_PAGE_SIZE; j++) {
			uint8_t want =
				i % 3 ? test_model[i * DORM_PAGE_SIZE + j] : (uint8_t)(seed + i);

			if (memory[i * DORM_PAGE_SIZE + j] == want)
				continue;
			bad++;
			break;
		}
	return bad;
}

/* ---- churning ---- */

#define MAX_STALLS 16384

static uint8_t given_back[TEST_PAGES];
static uint64_t stalls[MAX_STALLS], n_stalls, churn_seed = 1;

enum told { TOLD_NOBODY, TOLD_SHARED, TOLD_COPY };

/*
 * Give a page back and look at it again, and at the time that it took. Behind a mapping of the
 * image's memory there is the image's page still, if it was loaded.
 */
static uint64_t churn_one(uint8_t *memory, uint64_t gfn, enum told told)
{
	static const uint8_t zeros[DORM_PAGE_SIZE];
	uint64_t t0 = clock_now_ns(), ns;
	bool bad = differs(memory, gfn);

	if (given_back[gfn] && (bad || told == TOLD_COPY))
		bad = memcmp(memory + gfn * DORM_PAGE_SIZE, zeros, DORM_PAGE_SIZE) != 0;
	if (madvise(memory + gfn * DORM_PAGE_SIZE, DORM_PAGE_SIZE, MADV_DONTNEED) < 0)
		return 1;
	given_back[gfn] = told != TOLD_NOBODY;
	ns = clock_now_ns() - t0;
	if (ns > 1000000 && n_stalls < MAX_STALLS)
		stalls[n_stalls++] = ns;
	return bad;
}

static uint64_t churn(uint8_t *memory, uint64_t ms, enum told told)
{
	uint64_t deadline = deadline_after_ms(ms), bad = 0;

	while (!deadline_passed(deadline))
		for (int i = 0; i < 16; i++)
			bad += churn_one(memory, next_random(&churn_seed) % TEST_PAGES, told);
	return bad;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t stall(uint64_t percent)
{
	qsort(stalls, n_stalls, sizeof(stalls[0]), compare_u64);
	return n_stalls ? stalls[(n_stalls - 1) * percent / 100] / 1000 : 0;
}

static uint64_t obey(uint8_t *memory, int uffd, enum told told, uint64_t order, uint64_t arg)
{
	uint64_t bad = 0;

	switch (order) {
	case VM_COMPARE: /* an odd factor visits every page of a power of two */
		for (uint64_t i = 0; i < TEST_PAGES; i++)
			bad += differs(memory, (i * (2 * arg + 1)) % TEST_PAGES);
		return bad;
	case VM_READ:
		return differs(memory, arg);
	case VM_SCRIBBLE:
		return scribble(memory, arg);
	case VM_DISCARD:
		return (uint64_t)-madvise(memory + arg * DORM_PAGE_SIZE, DORM_PAGE_SIZE,
					  MADV_DONTNEED);
	case VM_IS_ZERO:
		for (size_t i = 0; i < DORM_PAGE_SIZE; i++)
			bad += memory[arg * DORM_PAGE_SIZE + i] != 0;
		return bad;
	case VM_CHURN:
		return churn(memory, arg, told);
	case VM_STALL:
		return stall(arg);
	default:
		return (uint64_t)-fd_set_nonblock(uffd, 0);
	}
}

/* Memory of its own (copy mode), or a mapping of the image's; with a userfaultfd or without. */
static uint8_t *make_memory(const struct pager_session *session, bool eager, uint64_t features,
			    int *ret_uffd)
{
	int flags = MAP_PRIVATE | (session->memory_fd < 0 ? MAP_ANONYMOUS : 0);
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, session->memory_fd, 0);

	*ret_uffd = -1;
	if (memory == MAP_FAILED)
		_exit(99);
	if (eager)
		return memory;
	*ret_uffd = uffd_new(features);
	if (*ret_uffd < 0 ||
	    uffd_register(*ret_uffd, (uintptr_t)memory, SIZE, UFFDIO_REGISTER_MODE_MISSING) < 0)
		_exit(99);
	return memory;
}

static void be_a_machine(const struct pager_session *session, bool eager, uint64_t features,
			 int orders, int answers)
{
	enum told told = !(features & UFFD_FEATURE_EVENT_REMOVE) ? TOLD_NOBODY
			 : session->memory_fd < 0		 ? TOLD_COPY
								 : TOLD_SHARED;
	uint64_t order[2], answer;
	char text[512];
	int uffd;
	uint8_t *memory = make_memory(session, eager, features, &uffd);

	if (session->memory_fd >= 0)
		close(session->memory_fd);
	/* two regions, the second half of memory first, as a VMM with a hole below 4 GiB has them
	 */
	(void)snprintf(
		text, sizeof(text),
		"[{\"base_host_virt_addr\":%llu,\"size\":%lu,\"offset\":%lu,\"page_size\":4096},"
		"{\"base_host_virt_addr\":%llu,\"size\":%lu,\"offset\":0,\"page_size_kib\":4}]",
		(unsigned long long)(uintptr_t)memory + SIZE / 2, SIZE / 2, SIZE / 2,
		(unsigned long long)(uintptr_t)memory, SIZE / 2);
	if (vm_connect(session->socket_path, text, strlen(text), uffd, !eager) < 0)
		_exit(98);
	while (fd_read_full(orders, order, sizeof(order)) == 0) {
		answer = obey(memory, uffd, told, order[0], order[1]);
		if (fd_write_full(answers, &answer, sizeof(answer)) < 0)
			break;
	}
	_exit(0);
}

static void start_machine(struct rig *r, struct vm *vm, const struct pager_session *session,
			  bool eager, uint64_t features)
{
	int orders[2], answers[2];

	assert_int_equal(pipe2(orders, O_CLOEXEC), 0);
	assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
	vm->orders = orders[1];
	vm->answers = answers[0];
	vm->pid = fork();
	assert_true(vm->pid >= 0);
	if (vm->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(orders[1]);
		close(answers[0]);
		be_a_machine(session, eager, features, orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	if (session->memory_fd >= 0)
		close(session->memory_fd);
	rig_wait_state(r, vm->name, "serving");
}

static void start(struct rig *r, struct vm *vm, const char *name, int image_dirfd,
		  const struct keyring *keys, uint64_t features)
{
	struct problem problem = PROBLEM_INIT;
	struct pager_session session;
	int e = pager_client_open(r->client, name, image_dirfd, keys, TEST_PAGES, soon(), &problem,
				  &session);

	if (e)
		fail_msg("open: %d %s", e, problem.message);
	*vm = (struct vm){0};
	str_copy(vm->name, sizeof(vm->name), name);
	start_machine(r, vm, &session, false, features);
}

int rig_open_raw(struct rig *r, const char *name, int image_dirfd, const struct vm_options *o,
		 json_t **ret, int *ret_fd)
{
	json_auto_t *request = json_pack("{s:s, s:s, s:I, s:b, s:s*, s:s*}", "op", "open",
					 "session", name, "n_pages", (json_int_t)TEST_PAGES, "keys",
					 o->keys != NULL, "mode", o->mode, "load", o->load);
	json_auto_t *reply = NULL;
	int sock = fd_unix_connect(r->socket, SOCK_SEQPACKET), fds[2] = {image_dirfd, -1}, e = 0;

	assert_true(sock >= 0);
	if (o->keys)
		assert_int_equal(keyring_to_fd(o->keys, &fds[1]), 0);
	assert_int_equal(wire_send(sock, request, fds, o->keys ? 2 : 1), 0);
	fd_close(fds[1]);
	assert_true(fd_poll(sock, POLLIN, soon()) > 0);
	assert_int_equal(wire_receive(sock, &reply, fds), 0);
	close(sock);
	if (!json_is_true(json_object_get(reply, "ok")))
		e = wire_result(json_string_value(json_object_get(reply, "code")));
	if (ret_fd)
		*ret_fd = fds[0];
	else
		fd_close(fds[0]);
	if (ret)
		*ret = json_incref(reply);
	return e;
}

void vm_attach(struct rig *r, struct vm *vm, const struct vm_options *o)
{
	bool eager = o->mode && !strcmp(o->mode, "eager");

	start_machine(r, vm, &vm->session, eager, o->features);
}

void vm_start_as(struct rig *r, struct vm *vm, const char *name, int image_dirfd,
		 const struct vm_options *o)
{
	json_auto_t *reply = NULL;
	const char *path;
	int fd;

	*vm = (struct vm){0};
	assert_int_equal(rig_open_raw(r, name, image_dirfd, o, &reply, &fd), 0);
	path = json_string_value(json_object_get(reply, "socket"));
	assert_non_null(path);
	str_copy(vm->session.socket_path, sizeof(vm->session.socket_path), path);
	vm->session.memory_fd = fd;
	str_copy(vm->name, sizeof(vm->name), name);
	if (!o->late)
		vm_attach(r, vm, o);
}

void vm_start(struct rig *r, struct vm *vm, const char *name, int image_dirfd, uint64_t features)
{
	start(r, vm, name, image_dirfd, NULL, features);
}

void vm_start_sealed(struct rig *r, struct vm *vm, const char *name, int image_dirfd,
		     const struct keyring *keys)
{
	start(r, vm, name, image_dirfd, keys, 0);
}

void vm_send(struct vm *vm, enum vm_order order, uint64_t arg)
{
	uint64_t o[2] = {order, arg};

	assert_int_equal(fd_write_full(vm->orders, o, sizeof(o)), 0);
}

bool vm_answer(struct vm *vm, unsigned ms, uint64_t *ret)
{
	int e = fd_poll(vm->answers, POLLIN, deadline_after_ms(ms));

	return e > 0 && fd_read_full(vm->answers, ret, sizeof(*ret)) == 0;
}

uint64_t vm_do(struct vm *vm, enum vm_order order, uint64_t arg)
{
	uint64_t answer = UINT64_MAX;

	vm_send(vm, order, arg);
	assert_true(vm_answer(vm, 60000, &answer));
	return answer;
}

int vm_wait(struct vm *vm)
{
	uint64_t deadline = soon();
	int status;

	while (waitpid(vm->pid, &status, WNOHANG) != vm->pid) {
		if (deadline_passed(deadline))
			fail_msg("machine %s does not end", vm->name);
		clock_sleep_ms(2);
	}
	close(vm->orders);
	close(vm->answers);
	vm->pid = 0;
	return status;
}

void vm_end(struct vm *vm)
{
	kill(vm->pid, SIGKILL);
	(void)vm_wait(vm);
}
