/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-exact - is a woken guest's memory, to the last byte, what was put to sleep?
 *
 * A real guest in this process's own host. Ten times: it changes its memory, is paused, all of its
 * memory is copied out (the expectation), it is put to sleep by sandbox_sleep(). Then its memory
 * directory is restored the way a wake does it, up to and without the resume, once in shared and
 * once in overlay mode, and every page is compared. Only then it is woken and goes on, checking the
 * sums of its own files. No page is left out of any comparison.
 *
 * Copying out makes every page present, and that would hide a save which confuses "not loaded yet"
 * with "zero". So every second generation is first saved, prepared by its agent like every
 * production save, before anyone has looked: the copy comes after, from the VM that this save left
 * paused, and is compared with what the image's files decode to, without pager or VM.
 *
 * What may write to guest memory while the guest stands still is QEMU. A byte that it changed while
 * it saved device state (a second time, after the copy) or while it loaded it would be found as a
 * difference. The number of pages that it wrote while loading, with the same bytes or not, is
 * printed: "written by the VMM".
 *
 * The last cases restore one image, which the pager does not have in memory, four times at once,
 * and read the copies page by page: each in an order of its own, then all in the same one.
 *
 * Prints "pass CASE" or "FAIL CASE: why", lines with "#" tell more. Exit status 0 if all passed.
 */
#include "replica.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "sandbox/agent-client.h"

#define GENERATIONS 10u
#define FORKS	    4u
#define STEP_MS	    30000
#define BUILD_MS    180000

struct test {
	struct host *host;
	struct sandbox *sb; /* one reference */
	char *expected;	    /* MEMORY_BYTES */
	unsigned rounds;    /* how often the guest has changed its memory */
};

/* ---- what the guest does --------------------------------------------------------------------- */

static int run_in_guest(struct test *t, const char *command, struct problem *problem)
{
	_cleanup_buf_ struct buf output = {0};
	struct sandbox_lease lease = {0};
	int r, status = -1;

	r = sandbox_lease(t->host, t->sb->record.id, problem, &lease);
	if (r < 0)
		return r;
	r = agent_run(lease.channel, command, deadline_after_ms(STEP_MS), &output, &status,
		      problem);
	sandbox_lease_return(&lease);
	if (r == 0 && status != 0) {
		problem_set(problem, 500, "in the guest: status %d: %.300s", status,
			    output.data ? output.data : "");
		r = -EIO;
	}
	return error_trace(r);
}

/*
 * New pages, pages that become zero, pages that are freed, pages filled by the disk's DMA; and the
 * guest's own verdict on what it wrote before it slept.
 */
static int change_memory(struct test *t, struct problem *problem)
{
	unsigned k = ++t->rounds;
	char command[640];

	(void)snprintf(
		command, sizeof(command),
		"cd /tmp || exit 1\n"
		"if [ -f sums ]; then md5sum -c -s sums || { echo wrong sums; exit 3; }; fi\n"
		"dd if=/dev/urandom of=r%u bs=64k count=72 2>/dev/null || exit 4\n"
		"if [ -f r%u ]; then\n"
		"dd if=/dev/zero of=r%u bs=64k count=24 conv=notrunc 2>/dev/null || exit 5\n"
		"fi\n"
		"rm -f r%u\n"
		"md5sum r* >sums || exit 6\n"
		"cat /bin/* >/dev/null\n"
		"if [ %u = 0 ]; then echo 1 >/proc/sys/vm/drop_caches; fi\n"
		"exit 0",
		k, k - 1, k - 1, k >= 3 ? k - 3 : 0, k % 3); /* fits */
	return run_in_guest(t, command, problem);
}

/* ---- judging --------------------------------------------------------------------------------- */

/* Pages that share a slot with a lower one, which is filled. */
static void copy_shared(const struct image *image, char *out)
{
	struct page_run run;

	for (uint64_t gfn = 0; gfn < image_n_pages(image); gfn++) {
		uint64_t owner;

		image_lookup(image, gfn, &run);
		if (run.layer == IMAGE_LAYER_ZERO)
			continue;
		owner = image_owner(image, run.layer, run.slot + gfn - run.gfn);
		if (owner != gfn)
			memcpy(out + gfn * DORM_PAGE_SIZE, out + owner * DORM_PAGE_SIZE,
			       DORM_PAGE_SIZE);
	}
}

/* Decode every frame of an image to where its pages belong. What no frame fills is zero. */
static int decode_image(const struct image *image, char *out, struct problem *problem)
{
	_cleanup_free_ char *scratch = malloc(IMAGE_FRAME_BYTES + 4096);
	_cleanup_free_ char *frame = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES);
	struct frame_page pages[IMAGE_FRAME_PAGES];
	uint32_t n_pages;

	if (!scratch || !frame)
		return -ENOMEM;
	for (uint32_t l = 0; l < image_n_layers(image); l++)
		for (uint32_t f = 0; f < image_layer_frames(image, l); f++) {
			uint32_t n = image_frame_pages(image, l, f, pages);
			int r = n ? image_read_frame(image, l, f, scratch, frame, &n_pages, problem)
				  : 0;

			if (r != 0)
				return r > 0 ? -EBADMSG : error_trace(r);
			for (uint32_t i = 0; i < n; i++)
				memcpy(out + pages[i].gfn * DORM_PAGE_SIZE,
				       frame + pages[i].index * DORM_PAGE_SIZE, DORM_PAGE_SIZE);
		}
	copy_shared(image, out);
	return 0;
}

static int open_image(int dirfd, const char *name, struct problem *problem, struct image **ret)
{
	_cleanup_fd_ int fd = file_open_dir(dirfd, name);
	int r = fd < 0 ? fd : image_open(fd, NULL, problem, ret);

	problem_errno(r < 0 ? problem : NULL, r, "image in %s", name);
	return r > 0 ? -EBADMSG : error_trace(r);
}

static void describe_source(const struct image *image, uint64_t gfn, char *buf, size_t size)
{
	struct page_run run;

	image_lookup(image, gfn, &run);
	if (run.layer == IMAGE_LAYER_ZERO)
		(void)snprintf(buf, size, "zero"); /* cut is fine, also below */
	else
		(void)snprintf(buf, size, "layer %u of %u (%s) slot %llu", run.layer + 1,
			       image_n_layers(image), image_layer_id(image, run.layer),
			       (unsigned long long)(run.slot + gfn - run.gfn));
}

/* Return: 0 when nothing differs and nothing was left out; -EBADMSG with the first place in
 * @problem */
static int judge(const struct diff *diff, const struct image *image, const char *what,
		 struct problem *problem)
{
	char source[160];

	for (unsigned i = 0; i < diff->n_places; i++) {
		const struct diff_place *p = &diff->places[i];

		describe_source(image, p->gfn, source, sizeof(source));
		printf("# %s: gfn %llu differs from byte %u on: %02x became %02x; slept %s, "
		       "woke %s; its image says: %s\n",
		       what, (unsigned long long)p->gfn, p->at, p->expected, p->found,
		       p->expected_zero ? "zero" : "not zero", p->found_zero ? "zero" : "not zero",
		       source);
		if (i == 0)
			problem_set(problem, 500,
				    "%s: %llu pages differ, first gfn %llu byte %u (%02x became "
				    "%02x; the image says %s)",
				    what, (unsigned long long)diff->n_pages,
				    (unsigned long long)p->gfn, p->at, p->expected, p->found,
				    source);
	}
	if (diff->n_compared != N_PAGES)
		problem_set(problem, 500, "%s: %llu of %u pages compared", what,
			    (unsigned long long)diff->n_compared, N_PAGES);
	return diff->n_pages || diff->n_compared != N_PAGES ? -EBADMSG : 0;
}

/* ---- generations ----------------------------------------------------------------------------- */

/* Paused as it is, unprepared: the copy is taken before the production path does anything. */
static int copy_then_sleep(struct test *t, struct problem *problem)
{
	struct sandbox_save_timings timings;
	int r;

	pthread_mutex_lock(&t->sb->op);
	/* As a save does it: the connection ends before the guest stands still. */
	channel_close(sandbox_withdraw(t->sb));
	r = vmm_pause(t->sb->vmm, deadline_after_ms(STEP_MS), problem);
	if (r == 0)
		r = memory_copy(t->sb->vmm, t->sb->memory_fd, t->expected, problem);
	pthread_mutex_unlock(&t->sb->op);
	return r < 0 ? r : sandbox_sleep(t->host, t->sb->record.id, problem, &timings);
}

static int check_saved(struct test *t, const char *path, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	struct diff diff = {0};
	char *found;
	int r = open_image(t->host->store->root_fd, path, problem, &image);

	if (r < 0)
		return r;
	found = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	if (found == MAP_FAILED)
		return error_errno();
	r = decode_image(image, found, problem);
	if (r == 0)
		diff_pages(&diff, 0, N_PAGES, t->expected, found);
	(void)munmap(found, MEMORY_BYTES); /* cannot fail */
	return r < 0 ? r : judge(&diff, image, "saved before anyone looked", problem);
}

static int save_then_copy(struct test *t, const char *path, const char *id, struct problem *problem)
{
	struct sandbox_save_timings timings;
	struct manifest m;
	int r;

	LOCK_SCOPE(&t->sb->op);
	r = sandbox_save(t->sb, path, id, NULL, &t->host->sleep_options, problem, &timings, &m);
	if (r < 0)
		return r;
	if (!m.prepared) {
		problem_set(problem, 500, "the guest did not prepare for its snapshot");
		r = -EPROTO;
	}
	manifest_deinit(&m);
	return r < 0 ? r : memory_copy(t->sb->vmm, t->sb->memory_fd, t->expected, problem);
}

/* Saved like in production, then looked at, then saved once more as it is, which is its sleep. */
static int save_copy_then_sleep(struct test *t, struct problem *problem)
{
	struct sandbox_save_timings timings;
	char path[64], id[ID_LEN + 1];
	int r;

	id_new('s', id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id); /* fixed length */
	r = save_then_copy(t, path, id, problem);
	if (r == 0)
		r = check_saved(t, path, problem);
	if (r == 0)
		r = snapshot_delete(t->host->store->root_fd, path, problem);
	return r < 0 ? r : sandbox_sleep(t->host, t->sb->record.id, problem, &timings);
}

static int judge_replica(struct replica *p, struct problem *problem)
{
	_cleanup_(image_unrefp) struct image *image = NULL;
	char memory[32];
	int r;

	if (p->r < 0) {
		*problem = p->problem;
		return p->r;
	}
	r = open_image(p->sb->dirfd, sandbox_memory_name(p->sb->record.generation, memory), problem,
		       &image);
	return r < 0 ? r : judge(&p->diff, image, p->name, problem);
}

/* Restored in @mode beside the sleeping sandbox, and compared. */
static int check_mode(struct test *t, enum pager_mode mode, enum page_order order,
		      struct problem *problem)
{
	struct replica p = {.sb = t->sb, .expected = t->expected, .order = order, .mode = mode};
	int r;

	(void)snprintf(p.name, sizeof(p.name), "generation-%u-%s", t->sb->record.generation,
		       pager_mode_name(mode)); /* fits */
	replica_main(&p);
	printf("# %s: read %s: %llu compared, %llu differ; %llu faults, %llu pages mapped from the "
	       "base, %llu copied; %llu written by the VMM\n",
	       p.name, page_order_names[p.order], (unsigned long long)p.diff.n_compared,
	       (unsigned long long)p.diff.n_pages, (unsigned long long)p.faults,
	       (unsigned long long)p.continued, (unsigned long long)p.copied,
	       (unsigned long long)p.written_by_vmm);
	r = judge_replica(&p, problem);
	if (r == 0 && mode == PAGER_MODE_OVERLAY && (!p.continued || !p.copied)) {
		problem_set(problem, 500, "%s: %llu pages of the base and %llu of its own", p.name,
			    (unsigned long long)p.continued, (unsigned long long)p.copied);
		r = -EINVAL;
	}
	return r;
}

static int check_generation(struct test *t, unsigned k, struct image_writer_stats *sum,
			    struct problem *problem)
{
	const struct image_writer_stats *stats = &t->sb->manifest.stats;
	enum page_order order = (enum page_order)(k % N_PAGE_ORDERS);
	struct sandbox_timings timings;
	bool look_first = k % 2 == 0;
	int r = change_memory(t, problem);

	if (r == 0)
		r = look_first ? copy_then_sleep(t, problem) : save_copy_then_sleep(t, problem);
	if (r < 0)
		return r;
	sum->pages_stored += stats->pages_stored;
	sum->pages_zero += stats->pages_zero;
	printf("# generation %u: %s: %llu pages stored, %llu turned zero, %llu unchanged\n",
	       t->sb->record.generation, look_first ? "copied, saved" : "saved, copied, saved",
	       (unsigned long long)stats->pages_stored, (unsigned long long)stats->pages_zero,
	       (unsigned long long)stats->pages_unchanged);
	r = check_mode(t, PAGER_MODE_SHARED, order, problem);
	if (r == 0)
		r = check_mode(t, PAGER_MODE_OVERLAY, (order + 1) % N_PAGE_ORDERS, problem);
	if (r == 0)
		r = sandbox_wake(t->host, t->sb->record.id, 0, NULL, problem, &timings);
	return error_trace(r);
}

static int case_generations(struct test *t, struct problem *problem)
{
	struct image_writer_stats sum = {0};
	int r = 0;

	for (unsigned k = 0; r == 0 && k < GENERATIONS; k++)
		r = check_generation(t, k, &sum, problem);
	if (r == 0)
		r = change_memory(t, problem); /* the guest's own verdict on the last one */
	if (r == 0 && (t->sb->record.generation != GENERATIONS || !sum.pages_zero ||
		       sum.pages_stored < GENERATIONS * 100)) {
		problem_set(problem, 500,
			    "the guest has not done what this test is about: generation %u, %llu "
			    "pages stored, %llu turned zero",
			    t->sb->record.generation, (unsigned long long)sum.pages_stored,
			    (unsigned long long)sum.pages_zero);
		r = -EINVAL;
	}
	return r;
}

/* ---- forks ----------------------------------------------------------------------------------- */

static int check_cold(struct test *t, struct problem *problem)
{
	json_t *stats, *image;
	size_t i;
	int r = pager_client_stats(t->host->pager, deadline_after_ms(STEP_MS), &stats);

	if (r < 0)
		return r;
	json_array_foreach (json_object_get(stats, "images"), i, image) {
		const char *id = json_string_value(json_object_get(image, "image_id"));

		if (id && !strcmp(id, t->sb->manifest.image_id)) {
			problem_set(problem, 500, "image %s is in memory before its first use", id);
			r = -EINVAL;
		}
	}
	json_decref(stats);
	return r;
}

static int judge_forks(struct replica forks[FORKS], struct problem *problem, uint64_t *ret_met)
{
	uint64_t met = 0;
	int r = 0;

	for (unsigned i = 0; i < FORKS && r == 0; i++) {
		struct replica *p = &forks[i];

		r = judge_replica(p, problem);
		printf("# %s: read %s: %llu compared, %llu differ; %llu faults: %llu stored, %llu "
		       "joined, %llu resident, %llu zero; %llu written by the VMM\n",
		       p->name, page_order_names[p->order], (unsigned long long)p->diff.n_compared,
		       (unsigned long long)p->diff.n_pages, (unsigned long long)p->faults,
		       (unsigned long long)p->stored, (unsigned long long)p->joined,
		       (unsigned long long)p->resident, (unsigned long long)p->zero,
		       (unsigned long long)p->written_by_vmm);
		met += p->joined + p->resident;
		if (r == 0 && !p->faults) {
			problem_set(problem, 500, "%s has not faulted", p->name);
			r = -EINVAL;
		}
	}
	*ret_met = met;
	return r;
}

static int run_forks(struct test *t, const enum page_order orders[FORKS],
		     const enum pager_mode modes[FORKS], struct replica forks[FORKS])
{
	pthread_barrier_t together;
	pthread_t threads[FORKS];

	if (pthread_barrier_init(&together, NULL, FORKS))
		return -ENOMEM;
	for (unsigned i = 0; i < FORKS; i++) {
		forks[i] = (struct replica){.sb = t->sb,
					    .expected = t->expected,
					    .order = orders[i],
					    .mode = modes[i],
					    .together = &together};
		(void)snprintf(forks[i].name, sizeof(forks[i].name), "fork-%u", i); /* fits */
		/* without a thread the others would wait for ever, and the time limit ends all */
		if (pthread_create(&threads[i], NULL, replica_main, &forks[i]))
			abort();
	}
	for (unsigned i = 0; i < FORKS; i++)
		pthread_join(threads[i], NULL);
	pthread_barrier_destroy(&together);
	return 0;
}

static int check_forks(struct test *t, const enum page_order orders[FORKS],
		       const enum pager_mode modes[FORKS], struct problem *problem,
		       uint64_t *ret_met)
{
	struct replica forks[FORKS];
	struct sandbox_timings timings;
	int r = change_memory(t, problem);

	if (r == 0)
		r = copy_then_sleep(t, problem);
	if (r == 0)
		r = check_cold(t, problem);
	if (r == 0)
		r = run_forks(t, orders, modes, forks);
	if (r == 0)
		r = judge_forks(forks, problem, ret_met);
	if (r == 0)
		r = sandbox_wake(t->host, t->sb->record.id, 0, NULL, problem, &timings);
	return r < 0 ? r : change_memory(t, problem);
}

static const enum pager_mode as_usual[FORKS] = {PAGER_MODE_AUTO};
static_assert(PAGER_MODE_AUTO == 0, "all of them");

/* Every fork on a way of its own through the image: each loads what the others then find. */
static int case_forks_apart(struct test *t, struct problem *problem)
{
	const enum page_order orders[FORKS] = {ORDER_ASCENDING, ORDER_DESCENDING, ORDER_STRIDED,
					       ORDER_SHUFFLED};
	uint64_t met;

	return check_forks(t, orders, as_usual, problem, &met);
}

/* All on the same way: they want the same pages at the same time, again and again. */
static int case_forks_together(struct test *t, struct problem *problem)
{
	const enum page_order orders[FORKS] = {ORDER_SHUFFLED, ORDER_SHUFFLED, ORDER_SHUFFLED,
					       ORDER_SHUFFLED};
	uint64_t met = 0;
	int r = check_forks(t, orders, as_usual, problem, &met);

	if (r == 0 && !met) {
		problem_set(problem, 500, "the forks never wanted a page at the same time");
		r = -EINVAL;
	}
	return r;
}

/* On the memory of one base at once, while another one loads the same image for itself. */
static int case_forks_overlay(struct test *t, struct problem *problem)
{
	const enum page_order orders[FORKS] = {ORDER_SHUFFLED, ORDER_SHUFFLED, ORDER_DESCENDING,
					       ORDER_ASCENDING};
	const enum pager_mode modes[FORKS] = {PAGER_MODE_OVERLAY, PAGER_MODE_OVERLAY,
					      PAGER_MODE_OVERLAY, PAGER_MODE_SHARED};
	uint64_t met;

	return check_forks(t, orders, modes, problem, &met);
}

/* ---- can the comparator fail? ---------------------------------------------------------------- */

/* Spoil one byte of the expectation: exactly that byte must be found. */
static int expect_found(struct test *t, uint64_t at, struct problem *problem)
{
	const struct diff_place *p;
	struct diff diff = {0};
	int r;

	t->expected[at] ^= 0x40;
	r = memory_compare(t->expected, t->sb->vmm, t->sb->memory_fd, ORDER_SHUFFLED, problem,
			   &diff);
	t->expected[at] ^= 0x40;
	if (r < 0)
		return r;
	p = &diff.places[0];
	if (diff.n_compared == N_PAGES && diff.n_pages == 1 && diff.n_places == 1 &&
	    p->gfn == at / DORM_PAGE_SIZE && p->at == at % DORM_PAGE_SIZE &&
	    (p->expected ^ p->found) == 0x40)
		return 0;
	problem_set(
		problem, 500,
		"byte %llu was changed; the comparator found %llu pages, first gfn %llu byte %u",
		(unsigned long long)at, (unsigned long long)diff.n_pages,
		(unsigned long long)p->gfn, p->at);
	return -EINVAL;
}

static int case_comparator(struct test *t, struct problem *problem)
{
	const uint64_t places[] = {0, MEMORY_BYTES / 2 + 3 * DORM_PAGE_SIZE + 77, MEMORY_BYTES - 1};
	struct diff diff = {0};
	int r;

	LOCK_SCOPE(&t->sb->op);
	r = vmm_pause(t->sb->vmm, deadline_after_ms(STEP_MS), problem);
	if (r == 0)
		r = memory_copy(t->sb->vmm, t->sb->memory_fd, t->expected, problem);
	if (r == 0)
		r = memory_compare(t->expected, t->sb->vmm, t->sb->memory_fd, ORDER_STRIDED,
				   problem, &diff);
	if (r == 0 && (diff.n_compared != N_PAGES || diff.n_pages)) {
		problem_set(problem, 500, "a paused VM differs from its copy in %llu of %llu pages",
			    (unsigned long long)diff.n_pages, (unsigned long long)diff.n_compared);
		r = -EINVAL;
	}
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(places); i++)
		r = expect_found(t, places[i], problem);
	return r < 0 ? r : vmm_resume(t->sb->vmm, deadline_after_ms(STEP_MS), problem);
}

/* ---- setting up ------------------------------------------------------------------------------ */

static int await_build(struct host *host, const char *template_id, const char *build_id,
		       struct problem *problem)
{
	uint64_t deadline = deadline_after_ms(BUILD_MS);

	for (;;) {
		json_t *status;
		const char *word, *why;
		int r = template_build_status(host, template_id, build_id, 0, problem, &status);

		if (r < 0)
			return r;
		word = json_string_value(json_object_get(status, "status"));
		why = json_string_value(
			json_object_get(json_object_get(status, "reason"), "message"));
		r = !strcmp(word, "ready") ? 1 : !strcmp(word, "error") ? -EIO : 0;
		if (r < 0)
			problem_set(problem, 500, "the template: %s",
				    why ? why : "no reason given");
		if (r == 0 && deadline_passed(deadline)) {
			problem_set(problem, 504, "the template is still %s", word);
			r = -ETIMEDOUT;
		}
		json_decref(status);
		if (r)
			return r < 0 ? r : 0;
		clock_sleep_ms(50);
	}
}

static int set_up(struct test *t, const struct host_config *config, struct problem *problem)
{
	const struct template_options template = {
		.name = "exact", .memory_bytes = MEMORY_BYTES, .cpus = 1};
	const struct sandbox_options sandbox = {.template_id = "exact"};
	char template_id[ID_LEN + 1], build_id[ID_LEN + 1], id[ID_LEN + 1], token[65];
	struct sandbox_timings timings;
	int r = host_new(config, problem, &t->host);

	if (r < 0)
		return r;
	t->expected = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	if (t->expected == MAP_FAILED)
		return error_errno();
	r = template_build_new(t->host, &template, problem, template_id, build_id);
	if (r == 0)
		r = template_build_start(t->host, template_id, build_id, NULL, NULL, false,
					 problem);
	if (r == 0)
		r = await_build(t->host, template_id, build_id, problem);
	if (r == 0)
		r = sandbox_create(t->host, &sandbox, problem, id, token, &timings);
	if (r == 0)
		t->sb = sandbox_find(t->host, id, problem);
	return r < 0 ? r : t->sb ? 0 : -ENOENT;
}

static int tear_down(struct test *t, struct problem *problem)
{
	int r = t->sb ? sandbox_delete(t->host, t->sb->record.id, problem) : 0;

	sandbox_unref(t->sb);
	host_free(t->host, true);
	if (t->expected && t->expected != MAP_FAILED)
		(void)munmap(t->expected, MEMORY_BYTES); /* cannot fail */
	return r;
}

static bool report(const char *name, uint64_t since_ns, int r, struct problem *problem)
{
	if (r < 0)
		problem_errno(problem, r, "%s", name);
	for (char *p = problem->message; *p; p++)
		if (*p == '\n')
			*p = ' '; /* it quotes commands; one case is one line */
	if (r < 0)
		printf("FAIL %s: %s\n", name, problem->message);
	else
		printf("pass %s (%.1f s)\n", name,
		       (double)(clock_now_ns() - since_ns) / (double)NSEC_PER_SEC);
	fflush(stdout);
	return r < 0;
}

static int run_cases(const struct host_config *config)
{
	static const struct {
		const char *name;
		int (*run)(struct test *t, struct problem *problem);
	} cases[] = {{"comparator", case_comparator},
		     {"generations", case_generations},
		     {"forks-apart", case_forks_apart},
		     {"forks-together", case_forks_together},
		     {"forks-overlay", case_forks_overlay}};
	struct problem problem = PROBLEM_INIT;
	struct test t = {0};
	uint64_t t0 = clock_now_ns();
	bool failed = report("set-up", t0, set_up(&t, config, &problem), &problem);

	for (unsigned i = 0; i < ARRAY_SIZE(cases) && !failed; i++) {
		problem = PROBLEM_INIT;
		t0 = clock_now_ns();
		failed = report(cases[i].name, t0, cases[i].run(&t, &problem), &problem);
	}
	problem = PROBLEM_INIT;
	t0 = clock_now_ns();
	failed |= report("tear-down", t0, tear_down(&t, &problem), &problem);
	return failed;
}

int main(int argc, char **argv)
{
	struct host_config config = HOST_CONFIG_DEFAULT;

	if (argc != 5) {
		fprintf(stderr, "Usage: page-exact STORE RUN-DIR GUEST-CACHE LIBEXEC\n");
		return 2;
	}
	config.root = argv[1];
	config.run_dir = argv[2];
	config.guest_cache = argv[3];
	config.libexec = argv[4];
	config.compact.off = true; /* the generations are counted */
	log_init("page-exact", LOG_LEVEL_ERROR);
	setvbuf(stdout, NULL, _IOLBF, 0);
	return run_cases(&config);
}
