/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine under limits of its memory: VMs that together want several times as much as they may
 * have, every page compared, while the control thread audits.
 *
 * The engine runs in this process, so that its insides can be looked at; machines are processes
 * that were forked before it had threads.
 */
#include "pager/evict.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "image/working-set.h"
#include "pager/background.h"
#include "pager/test-vm.h"
#include "pager/watch.h"
#include "sys/memfd.h"
#include "sys/psi.h"
#include "sys/uffd.h"

#define SIZE	    (TEST_PAGES * DORM_PAGE_SIZE)
#define N_MACHINES  4
#define N_IMAGES    4
#define WOKEN	    3 /* the image of a sandbox that slept */
#define SLACK	    (8 * IMAGE_FRAME_PAGES + LOADER_READ_BYTES / DORM_PAGE_SIZE)

#define now(_field) __atomic_load_n(&(_field), __ATOMIC_RELAXED)

struct machine {
	pid_t pid;
	int sock;
	struct session *session;
	int uffd; /* only while it is handed over */
};

struct state {
	struct rig rig; /* its pager is never started */
	struct machine machine[N_MACHINES];
	struct pager *p;
	struct image *image[N_IMAGES]; /* the last one: with the first one as its base */
	struct shared shared;
	uint64_t stored;
	uint64_t most; /* resident pages, ever */
};

/* ---- machines ---------------------------------------------------------------------------------
 */

struct order {
	uint64_t ms; /* work for so long; 0: compare everything once */
	uint64_t seed;
	bool discards;
};

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

/* What its memory was. */
static const uint8_t *model;
static uint8_t *woken_model; /* every fifth stretch of 20 pages differs */

/* What it wrote itself; 0: nothing. */
static uint8_t written[TEST_PAGES];

static bool is_right(const uint8_t *memory, uint64_t gfn)
{
	const uint8_t *page = memory + gfn * DORM_PAGE_SIZE;

	if (!written[gfn])
		return memcmp(page, model + gfn * DORM_PAGE_SIZE, DORM_PAGE_SIZE) == 0;
	for (size_t i = 0; i < DORM_PAGE_SIZE; i++)
		if (page[i] != written[gfn])
			return false;
	return true;
}

static uint64_t compare_all(const uint8_t *memory)
{
	uint64_t bad = 0;

	for (uint64_t i = 0; i < TEST_PAGES; i++)
		bad += !is_right(memory, i);
	return bad;
}

/* A page here and there, and stretches; a few of the pages are written to and so private. */
static uint64_t work(uint8_t *memory, const struct order *o)
{
	uint64_t until = deadline_after_ms(o->ms), seed = o->seed, bad = 0;

	while (!deadline_passed(until)) {
		uint64_t gfn = next_random(&seed) % TEST_PAGES, n = 1 + next_random(&seed) % 40;

		if (o->discards && next_random(&seed) % 4 == 0) {
			n = MIN(n, TEST_PAGES - gfn);
			(void)madvise(memory + gfn * DORM_PAGE_SIZE, n * DORM_PAGE_SIZE,
				      MADV_DONTNEED);
			memset(written + gfn, 0, n);
			continue;
		}
		for (; n && gfn < TEST_PAGES; n--, gfn++) {
			if (gfn % 50 == 0 && next_random(&seed) % 8 == 0) {
				written[gfn] = (uint8_t)(1 + next_random(&seed) % 255);
				memset(memory + gfn * DORM_PAGE_SIZE, written[gfn], DORM_PAGE_SIZE);
			}
			bad += !is_right(memory, gfn);
		}
	}
	return bad;
}

static void be_a_machine(int sock)
{
	struct order o;
	int memfd = -1, uffd;
	size_t n_fds;
	uint64_t answer;
	uint8_t *memory;
	char c;

	/* with its memory's descriptor, or without: then it brings its own */
	if (fd_recv(sock, &c, 1, &memfd, 1, &n_fds) != 1)
		_exit(0); /* not needed */
	memory = n_fds ? mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 0)
		       : mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);
	model = c == SESSION_OVERLAY ? woken_model : test_model;
	uffd = uffd_new(c == SESSION_OVERLAY ? UFFD_FEATURE_MINOR_SHMEM : 0);
	if (memory == MAP_FAILED || uffd < 0 ||
	    uffd_register(uffd, (uintptr_t)memory, SIZE,
			  UFFDIO_REGISTER_MODE_MISSING |
				  (c == SESSION_OVERLAY ? UFFDIO_REGISTER_MODE_MINOR : 0)) < 0)
		_exit(99);
	answer = (uintptr_t)memory;
	if (fd_send(sock, &answer, sizeof(answer), &uffd, 1) < 0)
		_exit(98);
	while (recv(sock, &o, sizeof(o), 0) == sizeof(o)) {
		answer = o.ms ? work(memory, &o) : compare_all(memory);
		if (send(sock, &answer, sizeof(answer), 0) < 0)
			break;
	}
	_exit(0);
}

static void fork_machines(struct state *s)
{
	for (int i = 0; i < N_MACHINES; i++) {
		struct machine *m = &s->machine[i];
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
		m->sock = pair[0];
		m->pid = fork();
		assert_true(m->pid >= 0);
		if (m->pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (int j = 0; j <= i; j++)
				close(s->machine[j].sock);
			be_a_machine(pair[1]);
		}
		close(pair[1]);
	}
}

static void open_session(struct state *s, struct machine *m, int image, enum session_mode mode,
			 enum job_what what)
{
	struct problem problem = PROBLEM_INIT;
	char name[32];

	(void)snprintf(name, sizeof(name), "vm%d", (int)(m - s->machine));
	assert_int_equal(
		pager_open(s->p,
			   &(struct pager_request){.name = name,
						   .image = s->image[image],
						   .base = image == WOKEN ? s->image[0] : NULL,
						   .mode = mode,
						   .what = what},
			   &problem, &m->session),
		0);
}

static void attach(struct state *s, struct machine *m)
{
	struct handshake map = {.n_regions = 1};
	struct problem problem = PROBLEM_INIT;
	int memfd = -1, uffd, pidfd;
	const char mode = (char)m->session->mode;
	uint64_t base;
	size_t n;

	if (m->session->mode != SESSION_COPY)
		memfd = memfd_reopen_readonly(m->session->resident->memfd);
	assert_true(fd_send(m->sock, &mode, 1, &memfd, memfd >= 0) >= 0);
	assert_int_equal(fd_recv(m->sock, &base, sizeof(base), &uffd, 1, &n), sizeof(base));
	assert_int_equal(n, 1);
	fd_close(memfd);
	map.regions[0] = (struct handshake_region){.hva = base, .gfn = 0, .n_pages = TEST_PAGES};
	pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
	assert_true(pidfd >= 0);
	assert_int_equal(pager_attach(s->p, m->session, &map, uffd, pidfd, m->pid, &problem), 0);
}

static void start(struct state *s, int machine, int image, enum session_mode mode)
{
	open_session(s, &s->machine[machine], image, mode, JOB_NOTHING);
	attach(s, &s->machine[machine]);
}

static void send_order(struct machine *m, uint64_t ms, uint64_t seed, bool discards)
{
	struct order o = {.ms = ms, .seed = seed, .discards = discards};

	assert_int_equal(send(m->sock, &o, sizeof(o), 0), sizeof(o));
}

/* Be the control thread until a machine has answered that all was right. */
static void expect_right(struct state *s, struct machine *m)
{
	uint64_t deadline = deadline_after_ms(90000), bad = 1;
	char text[SESSION_FAILURE_MAX + 1];

	while (fd_poll(m->sock, POLLIN, deadline_after_ms(1)) == 0) {
		(void)pager_tick(s->p);
		s->most = MAX(s->most, now(s->p->budget.pages));
		if (session_state(m->session) != SESSION_SERVING) {
			session_failure(m->session, text);
			fail_msg("the session failed: %s", text);
		}
		if (deadline_passed(deadline))
			fail_msg("machine %d hangs", (int)(m - s->machine));
	}
	assert_int_equal(recv(m->sock, &bad, sizeof(bad), 0), sizeof(bad));
	assert_int_equal(bad, 0);
}

static void all_right(struct state *s, int n, uint64_t ms, bool discards)
{
	for (int i = 0; i < n; i++)
		send_order(&s->machine[i], ms, (uint64_t)i + 1, discards);
	for (int i = 0; i < n; i++)
		expect_right(s, &s->machine[i]);
}

/* ---- the engine -------------------------------------------------------------------------------
 */

/* Every fifth stretch of 20 pages: what another page of the first image is. */
static struct image *make_woken(struct state *s, int base_dirfd)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	struct image_writer_stats stats;
	struct problem problem = PROBLEM_INIT;
	struct image *image = NULL;
	char path[128], id[IMAGE_ID_LEN + 1];
	int fd;

	if (!woken_model)
		woken_model = malloc(SIZE);
	memcpy(woken_model, test_model, SIZE);
	for (uint64_t i = 0; i < TEST_PAGES; i++)
		if (i / 20 % 5 == 0)
			memset(woken_model + i * DORM_PAGE_SIZE, (int)(1 + i % 200),
			       DORM_PAGE_SIZE / 2);
	(void)snprintf(path, sizeof(path), "%s/woken", s->rig.dir);
	assert_int_equal(mkdir(path, 0700), 0);
	fd = file_open_dir(AT_FDCWD, path);
	assert_int_equal(image_writer_new(fd, s->image[0], base_dirfd,
					  &(struct image_writer_options){.codec = IMAGE_CODEC_ZSTD},
					  &problem, &w),
			 0);
	assert_int_equal(image_writer_add(w, 0, TEST_PAGES, woken_model, &problem), 0);
	assert_int_equal(image_writer_commit(w, &stats, id, &problem), 0);
	assert_true(stats.pages_unchanged > TEST_PAGES / 4);
	assert_int_equal(image_open(fd, NULL, &problem, &image), 0);
	close(fd);
	return image;
}

static int setup(void **state)
{
	static struct state s;
	struct problem problem = PROBLEM_INIT;
	char name[2] = "a";
	int base = -1;

	alarm(280);
	s = (struct state){.rig.dir = "/tmp/test-evict-XXXXXX"};
	assert_non_null(mkdtemp(s.rig.dir));
	rig_make_model();
	s.shared = (struct shared){.gfn = rig_find_run(true, 60, 0) + 5,
				   .n = 40,
				   .of = rig_find_run(false, 60, 0) + 3};
	for (int i = 0; i < WOKEN; i++, name[0]++) {
		int fd;
		if (i)
			rig_unshare(&s.shared, 1);
		fd = rig_shared_image(&s.rig, name, i == 2 ? IMAGE_CODEC_NONE : IMAGE_CODEC_ZSTD,
				      &s.shared, 1);
		assert_int_equal(image_open(fd, NULL, &problem, &s.image[i]), 0);
		if (i)
			close(fd);
		else
			base = fd;
	}
	s.image[WOKEN] = make_woken(&s, base);
	close(base);
	s.stored = image_stored_pages(s.image[0]);
	fork_machines(&s);
	*state = &s;
	return 0;
}

static bool is_there(const struct resident *r, uint64_t gfn)
{
	off_t at = (off_t)(gfn * DORM_PAGE_SIZE);

	return lseek(r->memfd, at, SEEK_DATA) == at;
}

/* A host without PSI, which is short of memory when the test says so. */
static bool is_short, looked;

int __wrap_psi_open(struct psi *p);
bool __wrap_psi_is_short(void);

int __wrap_psi_open(struct psi *p)
{
	*p = (struct psi){.text = "not in this test"};
	return -EOPNOTSUPP;
}

bool __wrap_psi_is_short(void)
{
	__atomic_store_n(&looked, true, __ATOMIC_RELAXED);
	return now(is_short);
}

/* Everything has to be read by the loader, which has no place for two of three. */
static bool is_busy;
static unsigned n_refused;

struct load *__real_loader_get(struct loader *l);
struct load *__wrap_loader_get(struct loader *l);
int __real_image_read_frame_nowait(const struct image *image, uint32_t layer, uint32_t frame,
				   void *scratch, void *out, uint32_t *ret_n,
				   struct problem *problem);
int __wrap_image_read_frame_nowait(const struct image *image, uint32_t layer, uint32_t frame,
				   void *scratch, void *out, uint32_t *ret_n,
				   struct problem *problem);

struct load *__wrap_loader_get(struct loader *l)
{
	static unsigned n;

	if (now(is_busy) && __atomic_add_fetch(&n, 1, __ATOMIC_RELAXED) % 3) {
		__atomic_add_fetch(&n_refused, 1, __ATOMIC_RELAXED);
		return NULL;
	}
	return __real_loader_get(l);
}

int __wrap_image_read_frame_nowait(const struct image *image, uint32_t layer, uint32_t frame,
				   void *scratch, void *out, uint32_t *ret_n,
				   struct problem *problem)
{
	if (now(is_busy))
		return -EAGAIN;
	return __real_image_read_frame_nowait(image, layer, frame, scratch, out, ret_n, problem);
}

static void start_engine(struct state *s, uint64_t limit, uint64_t image_limit)
{
	struct pager_options o = {.linger_ns = 600 * NSEC_PER_SEC,
				  .max_lingering = 8,
				  .slate_dirfd = -1,
				  .no_pressure = limit || image_limit,
				  .floor_percent = EVICT_FLOOR,
				  .memory_limit = limit * DORM_PAGE_SIZE,
				  .image_limit = image_limit * DORM_PAGE_SIZE};

	assert_int_equal(pager_new(&o, &s->p), 0);
}

/* Nobody is at work: do the books agree with the kernel? */
static void check_books(struct state *s)
{
	uint64_t sum = 0;

	/* whoever evicts may be about to finish */
	evict_limits(s->p, 0, 0);
	clock_sleep_ms(20);
	evict_lock(s->p);
	for (struct resident *r = s->p->residents; r; r = r->next) {
		uint64_t allocated, there = 0, said = 0;

		assert_int_equal(memfd_allocated_pages(r->memfd, &allocated), 0);
		for (uint64_t i = 0; i < r->n_pages; i++) {
			there += is_there(r, i);
			said += resident_has(r, i);
			if (resident_has(r, i) != is_there(r, i))
				fail_msg("gfn %llu: bit %d", (unsigned long long)i,
					 resident_has(r, i));
		}
		assert_int_equal(there, allocated);
		assert_int_equal(now(r->claimed_pages), allocated);
		assert_int_equal(said, now(r->present_pages));
		assert_int_equal(said, there);
		sum += now(r->present_pages);
	}
	assert_int_equal(now(s->p->budget.pages), sum);
	evict_unlock(s->p);
	for (int i = 0; i < N_MACHINES; i++) {
		struct watch_report w = {0};

		if (s->machine[i].session)
			watch_look(s->machine[i].session, clock_now_ns(), WATCH_STUCK_NS, &w);
		assert_int_equal(w.oldest_ns, 0); /* no note was left behind */
	}
}

static int teardown(void **state)
{
	struct state *s = *state;

	for (int i = 0; i < N_MACHINES; i++) {
		kill(s->machine[i].pid, SIGKILL);
		(void)waitpid(s->machine[i].pid, NULL, 0);
		close(s->machine[i].sock);
	}
	s->p = pager_free(s->p);
	for (int i = 0; i < N_IMAGES; i++)
		image_unref(s->image[i]);
	rig_unshare(&s->shared, 1);
	return file_remove_tree(AT_FDCWD, s->rig.dir);
}

static uint64_t evicted(struct state *s, enum evict_cause cause)
{
	struct evict_counters n;

	evict_counters(s->p, &n);
	return n.pages[cause];
}

static unsigned stress_ms(void)
{
	const char *text = getenv("DORM_TEST_EVICT_MS");

	return text ? (unsigned)atoi(text) : 2500;
}

static void report(struct state *s, const char *what)
{
	struct evict_counters n;
	uint64_t all = 0;

	evict_counters(s->p, &n);
	for (int i = 0; i < EVICT_N_CAUSES; i++)
		all += n.pages[i];
	print_message("%s: %llu pages stored, limit %llu, most %llu, evicted %llu (helped %llu), "
		      "%.0f MB/s while evicting, service p50 %.0f us p99 %.0f us\n",
		      what, (unsigned long long)s->stored,
		      (unsigned long long)now(s->p->budget.limit), (unsigned long long)s->most,
		      (unsigned long long)all, (unsigned long long)n.helped,
		      n.busy_ns ? (double)(all - n.helped) * 4096e3 / (double)n.busy_ns : 0.0,
		      (double)histogram_percentile(&s->machine[0].session->service_ns, 50) / 1e3,
		      (double)histogram_percentile(&s->machine[0].session->service_ns, 99) / 1e3);
}

static void stress(struct state *s, enum session_mode mode)
{
	uint64_t limit = s->stored / 4;

	start_engine(s, limit, 0);
	for (int i = 0; i < N_MACHINES; i++)
		start(s, i, mode == SESSION_OVERLAY ? WOKEN : 0, mode);
	all_right(s, N_MACHINES, stress_ms(), mode == SESSION_COPY);
	report(s, session_mode_name(mode));
	assert_true(s->most <= limit + SLACK);
	assert_true(evicted(s, EVICT_LIMIT) > 4 * limit);
	assert_true(now(s->p->residents->refaulted_pages) > limit);
	assert_true(now(s->p->residents->evicted_pages) >= evicted(s, EVICT_LIMIT));
	all_right(s, N_MACHINES, 0, false);
	check_books(s);
}

static void test_shared(void **state)
{
	stress(*state, SESSION_SHARED);
}

static void test_copy(void **state)
{
	stress(*state, SESSION_COPY);
}

/* Unchanged pages are mapped from the base's memory, and vanish from the VMs with it. */
static void test_overlay(void **state)
{
	struct state *s = *state;

	stress(s, SESSION_OVERLAY);
	assert_true(now(s->machine[0].session->n.faults_continued) > 0);
	assert_ptr_equal(s->machine[0].session->resident->image, s->image[0]);
}

/* Guests of three images, two modes; each image is larger than what all of them may have. */
static void test_overcommit(void **state)
{
	struct state *s = *state;
	uint64_t limit = s->stored / 2;

	start_engine(s, limit, limit / 2);
	for (int i = 0; i < N_MACHINES; i++)
		start(s, i, i % 3, i == 3 ? SESSION_COPY : SESSION_SHARED);
	all_right(s, N_MACHINES, stress_ms(), false);
	assert_true(s->most <= limit + SLACK);
	for (struct resident *r = s->p->residents; r; r = r->next)
		assert_true(now(r->present_pages) <= limit / 2 + SLACK);
	assert_true(evicted(s, EVICT_IMAGE_LIMIT) > 0);
	all_right(s, N_MACHINES, 0, false);
	check_books(s);
	/* a limit that comes later */
	evict_limits(s->p, 300 * DORM_PAGE_SIZE, 0);
	for (int i = 0; i < 500 && now(s->p->budget.pages) > 300; i++)
		clock_sleep_ms(10);
	assert_true(now(s->p->budget.pages) <= 300);
	all_right(s, N_MACHINES, 0, false);
}

/* All of the first image, without a session. */
static void warm_all(struct state *s)
{
	struct problem problem = PROBLEM_INIT;
	struct resident *r;

	assert_int_equal(pager_warm(s->p, s->image[0], NULL, JOB_FULL, &problem), 0);
	for (r = s->p->residents; strcmp(image_id(r->image), image_id(s->image[0])) != 0;)
		r = r->next;
	for (int i = 0; i < 1000 && job_state(r->job) == JOB_LOADING; i++) {
		(void)pager_tick(s->p);
		clock_sleep_ms(10);
	}
	assert_int_equal(job_state(r->job), JOB_DONE);
	assert_true(now(r->present_pages) >= s->stored);
}

/* Memory that only lingers goes before any that is used. Whoever wants it again gets all of it. */
static void test_idle_first(void **state)
{
	struct state *s = *state;
	struct resident *idle, *used;

	start_engine(s, 0, 0);
	warm_all(s);
	idle = s->p->residents;
	start(s, 0, 1, SESSION_SHARED);
	used = s->p->residents;
	assert_ptr_not_equal(idle, used);
	all_right(s, 1, 0, false);
	assert_true(now(used->present_pages) >= s->stored);
	assert_true(now(idle->present_pages) >= s->stored);
	evict_limits(s->p, (now(used->present_pages) + 400) * DORM_PAGE_SIZE, 0);
	for (int i = 0; i < 500 && now(s->p->budget.pages) > now(used->present_pages) + 400; i++)
		clock_sleep_ms(10);
	clock_sleep_ms(50);
	assert_int_equal(now(used->evicted_pages), 0);
	assert_true(now(idle->evicted_pages) >= s->stored - 400);
	evict_limits(s->p, 0, 0);
	warm_all(s);
	check_books(s);
}

/* No limit, but the host is short of memory: it gives, and no more than is asked for. */
static void test_pressure(void **state)
{
	struct state *s = *state;
	uint64_t before;

	start_engine(s, 0, 0);
	assert_non_null(strstr(evict_pressure_text(s->p), "MemAvailable"));
	assert_false(evict_is_watching(s->p));
	start(s, 0, 0, SESSION_SHARED);
	all_right(s, 1, 0, false);
	for (int i = 0; i < 300 && !now(looked); i++)
		clock_sleep_ms(10);
	assert_true(now(looked));
	before = now(s->p->budget.pages);
	assert_true(before >= s->stored);
	assert_int_equal(evicted(s, EVICT_PRESSURE), 0);
	__atomic_store_n(&is_short, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 300 && !evicted(s, EVICT_PRESSURE); i++)
		clock_sleep_ms(10);
	__atomic_store_n(&is_short, false, __ATOMIC_RELAXED);
	clock_sleep_ms(100);
	assert_true(evicted(s, EVICT_PRESSURE) >= 1024);
	assert_true(evicted(s, EVICT_PRESSURE) < before);
	all_right(s, 1, 0, false);
	check_books(s);
}

/* Fault threads do not wait for the disk, come what may: the VM asks again. */
static void test_no_place(void **state)
{
	struct state *s = *state;

	start_engine(s, s->stored / 2, 0);
	for (int i = 0; i < N_MACHINES; i++)
		start(s, i, i == 2 ? 2 : 0, i > 1 ? SESSION_COPY : SESSION_SHARED);
	__atomic_store_n(&is_busy, true, __ATOMIC_RELAXED);
	all_right(s, N_MACHINES, 1000, false);
	__atomic_store_n(&is_busy, false, __ATOMIC_RELAXED);
	all_right(s, N_MACHINES, 0, false);
	assert_true(now(n_refused) > 50);
	check_books(s);
}

static uint64_t favoured_there(const struct resident *r)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < r->frames.n; i++)
		n += resident_is_favoured(r, i) && frames_state(&r->frames, i) == FRAME_RESIDENT;
	return n;
}

/* Frames of a working set stay while there are others, and a quarter of them in any case. */
static void test_floor(void **state)
{
	struct state *s = *state;
	struct problem problem = PROBLEM_INIT;
	struct working_set set;
	struct resident *r;
	struct evict_counters n;

	start_engine(s, 0, 0);
	working_set_init(&set, s->image[0]);
	assert_int_equal(working_set_add(&set, 0, TEST_PAGES / 4), 0);
	assert_int_equal(pager_open(s->p,
				    &(struct pager_request){.name = "vm0",
							    .image = s->image[0],
							    .mode = SESSION_SHARED,
							    .set = &set,
							    .prefetch = true,
							    .what = JOB_WORKING_SET},
				    &problem, &s->machine[0].session),
			 0);
	working_set_deinit(&set);
	attach(s, &s->machine[0]);
	all_right(s, 1, 0, false);
	r = s->p->residents;
	(void)pager_tick(s->p);
	assert_true(r->favoured_frames > 16);
	assert_int_equal(favoured_there(r), r->favoured_frames);
	/* room for them and as many again */
	evict_limits(s->p, (2 * r->favoured_frames + 16) * IMAGE_FRAME_PAGES * DORM_PAGE_SIZE, 0);
	clock_sleep_ms(200);
	assert_true(now(r->evicted_pages) > 0);
	assert_int_equal(favoured_there(r), r->favoured_frames);
	all_right(s, 1, 1000, false);
	assert_int_equal(favoured_there(r), r->favoured_frames);
	/* room for less: the floor stays. It is less than half of this limit */
	evict_limits(s->p, r->favoured_frames * IMAGE_FRAME_PAGES / 4 * 3 * DORM_PAGE_SIZE, 0);
	clock_sleep_ms(300);
	assert_true(favoured_there(r) < r->favoured_frames);
	assert_true(favoured_there(r) >= r->favoured_frames / 4);
	assert_true(now(s->p->budget.pages) <= r->favoured_frames * IMAGE_FRAME_PAGES / 4 * 3);
	all_right(s, 1, 1000, false);
	assert_true(favoured_there(r) >= r->favoured_frames / 4);
	evict_counters(s->p, &n);
	check_books(s);
}

static void wait_job(struct state *s, struct machine *m)
{
	uint64_t deadline = deadline_after_ms(60000);

	while (job_state(m->session->job) == JOB_LOADING && !deadline_passed(deadline)) {
		(void)pager_tick(s->p);
		clock_sleep_ms(5);
	}
}

/* A VM that wants all of its memory gets it while others make room, if it fits at all. */
static void test_graduate(void **state)
{
	struct state *s = *state;
	struct resident *kept;

	start_engine(s, s->stored * 13 / 10 + 200, 0);
	start(s, 1, 1, SESSION_SHARED);
	start(s, 2, 2, SESSION_SHARED);
	send_order(&s->machine[1], stress_ms() * 2, 1, false);
	send_order(&s->machine[2], stress_ms() * 2, 2, false);
	open_session(s, &s->machine[0], 0, SESSION_SHARED, JOB_FULL);
	kept = s->machine[0].session->resident;
	attach(s, &s->machine[0]);
	send_order(&s->machine[0], stress_ms(), 3, false);
	wait_job(s, &s->machine[0]);
	if (job_state(s->machine[0].session->job) != JOB_DONE)
		fail_msg("graduation: %s", job_failure(s->machine[0].session->job));
	assert_int_equal(now(kept->n_kept), 1);
	for (int i = 0; i < 3; i++)
		expect_right(s, &s->machine[i]);
	assert_true(now(kept->present_pages) >= s->stored);
	all_right(s, 3, 0, false);
	/* no room: it says so, and the VM goes on as before */
	evict_limits(s->p, s->stored / 2 * DORM_PAGE_SIZE, 0);
	open_session(s, &s->machine[3], 1, SESSION_SHARED, JOB_FULL);
	attach(s, &s->machine[3]);
	send_order(&s->machine[3], 1000, 3, false);
	wait_job(s, &s->machine[3]);
	assert_int_equal(job_state(s->machine[3].session->job), JOB_FAILED);
	assert_non_null(strstr(job_failure(s->machine[3].session->job), "does not fit"));
	assert_int_equal(now(s->machine[3].session->resident->n_kept), 0);
	expect_right(s, &s->machine[3]);
	all_right(s, 4, 0, false);
}

static void test_parse(void **state)
{
	uint64_t v = 7, all = (uint64_t)sysconf(_SC_PHYS_PAGES) * DORM_PAGE_SIZE;

	(void)state;
	assert_int_equal(evict_parse("64M", &v), 0);
	assert_int_equal(v, 64u << 20);
	assert_int_equal(evict_parse("0", &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(evict_parse("2T", &v), 0);
	assert_int_equal(evict_parse("50%", &v), 0);
	assert_true(v > all / 2 - (1u << 20) && v <= all / 2);
	for (const char *const *bad = (const char *const[]){"", "%", "0%", "101%", "5%%", "-1",
							    "1K", "5 %", "abc", "5x%", NULL};
	     *bad; bad++)
		if (evict_parse(*bad, &v) != -EINVAL)
			fail_msg("\"%s\" is a limit", *bad);
}

#define READY(_test) cmocka_unit_test_setup_teardown(_test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		READY(test_shared),
		READY(test_copy),
		READY(test_overlay),
		READY(test_overcommit),
		READY(test_idle_first),
		READY(test_floor),
		READY(test_graduate),
		READY(test_pressure),
		READY(test_no_place),
	};
	int fd = uffd_new(0);

	if (fd < 0) {
		printf("skipped: no userfaultfd here (%s)\n", strerror(-fd));
		return 77;
	}
	fd_close(fd);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
