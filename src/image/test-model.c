/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-model.c - random operations on a store, compared with a model of it
 *
 * The model of a snapshot is one number per page, from which the page's bytes are made: 0 is the
 * zero page, equal numbers are equal pages. Operations: sleep (a child with random changes), fork,
 * delete, compact in place or to a copy, export and import under a new id, give and take a name,
 * wrap keys anew, keep an image open and read from it ("a running fork") while all of that happens,
 * check, and crash: a process of its own is killed, or gets EIO, at a random one of the calls that
 * change the file system, and the store is opened again.
 *
 * Always true: a directory exists exactly if the model says so (one that was being made or deleted
 * in a crash may be either), its content is the model's, tmp/ is empty, layers/ has just the layers
 * of the map, every name leads where the model says, and store_check() finds nothing.
 *
 * The same seed does the same operations (only the call at which a writer with its helper thread is
 * struck may be another one); half of all seeds seal. DORM_MODEL_OPS, DORM_MODEL_SEED,
 * DORM_MODEL_SEALED (0 or 1), DORM_MODEL_DIR. The unit test does 600; build/src/image/store-model
 * is the same program and does 10,000.
 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "image/test-fault.h"
#include "base/str.h"
#include "image/compact.h"
#include "image/image-base.h"
#include "image/keyring.h"
#include "image/rewrap.h"
#include "image/snapshot.h"
#include "image/store-check.h"
#include "image/store.h"
#include "image/transfer.h"

#ifndef MODEL_OPS
#define MODEL_OPS 600
#endif
#define MAX_PAGES     1024u
#define MAX_SNAPSHOTS 12u
#define MAX_RUNNING   8u
#define MAX_STRIKE    36u /* most operations make fewer calls */
#define DEVICE	      "state"
#define DISK	      "a disk that nobody writes"
#define HOME	      "sandboxes/imodel000000000000000" /* of the snapshots that are memories */
#define N_POPULAR     8u				/* contents that many guests have */
#define N_NAMES	      3u
#define N_KEYS	      2u

static const struct fault faults[] = {{"EIO", FAULT_ERROR, EIO, CALL_CHANGES, 1},
				      {"killed", FAULT_KILL_BEFORE, 0, CALL_CHANGES, 1}};

/* ---- the model --------------------------------------------------------------------------------
 */

struct snapshot {
	bool alive;
	char id[ID_LEN + 1];
	char path[64];
	uint64_t pages[MAX_PAGES];
};
static const char disk_path[] = "disks/d0";

struct running {
	struct image *image; /* NULL: free */
	uint64_t pages[MAX_PAGES];
};

enum verb { SLEEP, FORK, DELETE, COMPACT, COMPACT_IN_PLACE, IMPORT, NAME, REWRAP };
static const char *const verb_names[] = {"sleep",  "fork", "delete", "compact", "compact in place",
					 "import", "name", "rewrap"};

/* All that is random about an operation is decided before it is done, maybe in another process. */
struct operation {
	enum verb verb;
	struct snapshot *source; /* NULL: a first boot */
	struct snapshot *result; /* what comes or goes; the source, if nothing does */
	unsigned name;		 /* of NAME: which one is to lead to the source, */
	bool take;		 /* or to be taken away */
	unsigned ring;		 /* whose first key seals */
	bool given[MAX_PAGES];	 /* of a sleep: pages handed to the writer */
	bool first[MAX_PAGES];	 /* of those: in its first pass, the working set */
	struct image_writer_options writer;
	struct compact_options compact;
};

static struct {
	uint64_t seed; /* as begun with */
	uint64_t random;
	unsigned n_pages;
	unsigned step;
	char root[128];
	struct store *store;
	/* NULL: nothing is sealed. Each ring has all keys, another one first */
	struct keyring *rings[N_KEYS];
	struct keyring *alone[N_KEYS];	 /* rings of one key */
	struct snapshot *names[N_NAMES]; /* NULL: there is no such name */
	uint64_t next_memory;
	struct snapshot snapshots[MAX_SNAPSHOTS];
	struct snapshot *busy; /* the one that slept last; may be dead */
	struct running running[MAX_RUNNING];
	uint64_t next_content;
	struct operation op;
	unsigned counts[16];
	unsigned n_checks, n_crashes, n_struck;
	unsigned n_bases, n_missing; /* bases that were looked at; of those: without a layer */
} world;

/* splitmix64 */
static uint64_t scramble(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static unsigned pick(unsigned n)
{
	return (unsigned)(scramble(&world.random) % n);
}

static void make_page(uint64_t content, uint8_t *out)
{
	uint64_t state = content, words[DORM_PAGE_SIZE / 8] = {0};
	const unsigned n = content % 3 ? 16 : DORM_PAGE_SIZE / 8; /* most compress well */

	for (unsigned i = 0; content && i < n; i++)
		words[i * (ARRAY_SIZE(words) / n)] = scramble(&state);
	memcpy(out, words, sizeof(words));
}

static struct snapshot *pick_living(void)
{
	for (unsigned i = pick(MAX_SNAPSHOTS), n = 0; n < MAX_SNAPSHOTS; n++, i++)
		if (world.snapshots[i % MAX_SNAPSHOTS].alive)
			return &world.snapshots[i % MAX_SNAPSHOTS];
	return NULL;
}

/* Some sandboxes sleep again and again. */
static struct snapshot *pick_busy(void)
{
	return world.busy && world.busy->alive && pick(4) ? world.busy : pick_living();
}

/* A place for another, with an id and a path. */
static struct snapshot *new_snapshot(bool memory)
{
	for (unsigned i = 0; i < MAX_SNAPSHOTS; i++) {
		struct snapshot *s = &world.snapshots[i];

		if (s->alive)
			continue;
		s->id[0] = 's';
		for (unsigned k = 1; k < ID_LEN; k++)
			s->id[k] = "0123456789abcdefghijklmnopqrstuvwxyz"[pick(36)];
		str_copy(s->path, sizeof(s->path), "snapshots/");
		str_copy(s->path + strlen(s->path), sizeof(s->id), s->id);
		if (memory)
			(void)snprintf(s->path, sizeof(s->path), HOME "/memory-%" PRIu64,
				       ++world.next_memory);
		return s;
	}
	return NULL;
}

/* ---- doing an operation: no asserts here, it may be another process -----------------------------
 */

static int add_pass(const struct operation *op, struct image_writer *w, bool first,
		    struct problem *problem)
{
	static uint8_t pages[24 * DORM_PAGE_SIZE];
	int r = 0;

	for (unsigned gfn = 0; r == 0 && gfn < world.n_pages;) {
		unsigned n = 0;

		for (; gfn + n < world.n_pages && n < 24 && op->given[gfn + n] &&
		       op->first[gfn + n] == first;
		     n++)
			make_page(op->result->pages[gfn + n], pages + n * DORM_PAGE_SIZE);
		if (n)
			r = image_writer_add(w, gfn, n, pages, problem);
		gfn += MAX(n, 1u);
	}
	return r;
}

static int write_image(const struct operation *op, int dirfd, int src_dirfd, struct manifest *m,
		       struct problem *problem)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *parent = NULL;
	int r;

	if (src_dirfd >= 0)
		r = image_open(src_dirfd, world.rings[0], problem, &parent);
	else
		r = image_open_zero(world.n_pages, &parent);
	if (r == 0)
		r = image_writer_new(dirfd, parent, src_dirfd, &op->writer, problem, &w);
	if (r == 0)
		r = add_pass(op, w, true, problem);
	if (r == 0)
		r = add_pass(op, w, false, problem);
	return r ? r : image_writer_commit(w, &m->stats, m->image_id, problem);
}

/* A first boot makes the disk, all others share it. */
static int put_disk(int dirfd, int src_dirfd, struct manifest *m)
{
	m->n_disks = 1;
	m->disks[0] = (struct snapshot_disk){"d0", "raw", true, strlen(DISK)};
	if (src_dirfd < 0)
		return file_write_atomic(dirfd, disk_path, DISK, strlen(DISK), 0644);
	return linkat(src_dirfd, disk_path, dirfd, disk_path, 0) < 0 ? -errno : 0;
}

/* Others may run from what is a snapshot, nobody from a memory. */
static int put_base(const struct operation *op, int dirfd, int src_dirfd, struct manifest *m,
		    struct problem *problem)
{
	_cleanup_(manifest_deinit) struct manifest parent = {0};
	int r = src_dirfd < 0 ? 0 : snapshot_open(src_dirfd, world.rings[0], problem, &parent);

	if (r)
		return r;
	return image_base_put(dirfd, src_dirfd, &parent,
			      op->source && str_has_prefix(op->source->path, "snapshots/"), problem,
			      m->base_image_id);
}

static int do_sleep(const struct operation *op, int src_dirfd, struct problem *problem)
{
	struct manifest m = {.memory_bytes = world.n_pages * DORM_PAGE_SIZE};
	struct snapshot_tmp tmp;
	int r = snapshot_begin(world.store->root_fd, world.store->root, problem, &tmp);

	if (r)
		return r;
	str_copy(m.id, sizeof(m.id), op->result->id);
	r = file_write_atomic(tmp.dirfd, "device", DEVICE, strlen(DEVICE), 0644);
	if (r == 0)
		r = put_disk(tmp.dirfd, src_dirfd, &m);
	if (r == 0)
		r = write_image(op, tmp.dirfd, src_dirfd, &m, problem);
	if (r == 0)
		r = put_base(op, tmp.dirfd, src_dirfd, &m, problem);
	if (r == 0)
		r = snapshot_commit(&tmp, world.store->root_fd, op->result->path, &m,
				    world.rings[op->ring], problem);
	snapshot_abort(&tmp, world.store->root_fd);
	return r;
}

static int do_import(const struct operation *op, int src_dirfd, struct problem *problem)
{
	const struct import_options options = {.keys = world.rings[op->ring], .id = op->result->id};
	_cleanup_(exporter_freep) struct exporter *x = NULL;
	_cleanup_(importer_freep) struct importer *m = NULL;
	static char piece[50000];
	struct import_stats stats;
	ssize_t n = 0;
	int r = exporter_new(src_dirfd, NULL, problem, &x);

	if (r == 0)
		r = importer_new(world.store, &options, problem, &m);
	while (r == 0 && (n = exporter_read(x, piece, sizeof(piece), problem)) > 0)
		r = importer_write(m, piece, (size_t)n, problem);
	if (r == 0 && n < 0)
		r = (int)n;
	return r ? r : importer_finish(m, problem, &stats);
}

static const char *name_text(unsigned name)
{
	static const char *const texts[N_NAMES] = {"one", "two", "three"};

	return texts[name];
}

static int perform(const struct operation *op, struct problem *problem)
{
	const struct keyring *keys = world.rings[op->ring];
	const int root_fd = world.store->root_fd;
	const char *root = world.store->root;
	_cleanup_fd_ int fd = op->source ? file_open_dir(root_fd, op->source->path) : -1;
	struct compact_stats stats;

	if (op->source && fd < 0)
		return fd;
	switch (op->verb) {
	case SLEEP:
		return do_sleep(op, fd, problem);
	case FORK:
		return snapshot_clone(root_fd, root, fd, keys, op->result->path, op->result->id,
				      problem);
	case DELETE:
		return snapshot_delete(root_fd, op->source->path, problem);
	case COMPACT:
		return snapshot_compact(root_fd, root, fd, op->result->path, false, op->result->id,
					&op->compact, problem, &stats);
	case COMPACT_IN_PLACE:
		return snapshot_compact(root_fd, root, fd, op->source->path, true, NULL,
					&op->compact, problem, &stats);
	case IMPORT:
		return do_import(op, fd, problem);
	case NAME:
		return op->take ? store_template_remove(world.store, name_text(op->name))
				: store_template_set(world.store, name_text(op->name),
						     op->source->id);
	case REWRAP:
		return snapshot_rewrap(root_fd, fd, keys, problem);
	}
	return -EINVAL;
}

/* Only these say that there was nothing to do. */
static bool is_needless(const struct operation *op, int r)
{
	return op->verb == REWRAP ? r == REWRAP_E_CURRENT
				  : (op->verb == COMPACT || op->verb == COMPACT_IN_PLACE) &&
					    r == COMPACT_E_NOT_DUE;
}

/* ---- deciding on an operation -------------------------------------------------------------------
 */

static uint64_t pick_content(const struct snapshot *s)
{
	switch (pick(6)) {
	case 0:
		return 0;
	case 1: /* the same as another page of this guest */
		return s->pages[pick(world.n_pages)];
	case 2:
		return 1 + pick(N_POPULAR);
	default:
		return world.next_content++;
	}
}

static void change_pages(struct operation *op)
{
	struct snapshot *s = op->result;
	const unsigned touches = pick(10) ? pick(world.n_pages / 16) : pick(world.n_pages);

	for (unsigned i = 0; i < touches; i++) {
		unsigned gfn = pick(world.n_pages), run = pick(5) ? 1 : 1 + pick(40);
		const bool first = pick(3) == 0, same = pick(8) == 0;

		for (; run && gfn < world.n_pages; run--, gfn++) {
			op->given[gfn] = true;
			op->first[gfn] = first;
			if (!same)
				s->pages[gfn] = pick_content(s);
		}
	}
}

static void plan_sleep(struct operation *op)
{
	static const uint32_t frame_pages[] = {0, 0, 0, 1, 3, 16};

	if (op->source)
		memcpy(op->result->pages, op->source->pages, sizeof(op->result->pages));
	else
		memset(op->result->pages, 0, sizeof(op->result->pages));
	op->writer = (struct image_writer_options){
		.keys = world.rings[op->ring],
		.codec = (enum image_codec)pick(3),
		.frame_pages = frame_pages[pick(ARRAY_SIZE(frame_pages))]};
	change_pages(op);
	if (pick(12) == 0) /* everything is given, as after a fresh boot */
		memset(op->given, true, sizeof(op->given));
}

static void plan_compaction(struct operation *op)
{
	op->compact = (struct compact_options){
		.force = pick(2),
		.keys = world.rings[op->ring],
		.codec = (enum image_codec)pick(3),
		.policy = {.max_layers = 1 + pick(6), .max_dead_percent = 10 + pick(70)}};
}

/* Names are of snapshots, not of memories. Return: false when there is nothing to be done */
static bool plan_name(struct operation *op)
{
	const bool can_give = str_has_prefix(op->source->path, "snapshots/") != NULL;

	op->name = pick(N_NAMES);
	op->take = world.names[op->name] && (pick(3) == 0 || !can_give);
	return op->take || can_give;
}

/* Whoever deletes a snapshot has to take its names away first. */
static void forget_names(const struct snapshot *s)
{
	for (unsigned i = 0; i < N_NAMES; i++) {
		if (world.names[i] != s)
			continue;
		assert_int_equal(store_template_remove(world.store, name_text(i)), 0);
		world.names[i] = NULL;
	}
}

static bool makes_another(enum verb verb)
{
	return verb == SLEEP || verb == FORK || verb == COMPACT || verb == IMPORT;
}

/* Return: false when there is nothing to do it with. */
static bool plan(struct operation *op, enum verb verb, struct snapshot *source)
{
	memset(op, 0, sizeof(*op));
	op->verb = verb;
	op->source = source;
	op->ring = pick(N_KEYS);
	if (verb == SLEEP && pick(40) == 0)
		op->source = NULL;
	op->result = makes_another(verb) ? new_snapshot(verb != IMPORT && pick(2)) : op->source;
	if (!op->result || (!op->source && verb != SLEEP) ||
	    (verb == REWRAP && !world.rings[op->ring]))
		return false;
	if (verb == SLEEP)
		plan_sleep(op);
	else
		plan_compaction(op);
	if (makes_another(verb) && verb != SLEEP)
		memcpy(op->result->pages, op->source->pages, sizeof(op->result->pages));
	if (verb == DELETE)
		forget_names(op->source);
	return verb != NAME || plan_name(op);
}

/* ---- checking ---------------------------------------------------------------------------------
 */

static bool exists(const struct snapshot *s)
{
	return faccessat(world.store->root_fd, s->path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void check_page(struct image *image, unsigned gfn, uint64_t content, const char *whose)
{
	uint8_t have[DORM_PAGE_SIZE], want[DORM_PAGE_SIZE];
	struct problem problem = PROBLEM_INIT;

	if (image_read_page(image, gfn, have, &problem))
		fail_msg("%s: page %u: %s", whose, gfn, problem.message);
	make_page(content, want);
	if (memcmp(have, want, sizeof(have)))
		fail_msg("%s: page %u is not what the model says", whose, gfn);
}

static unsigned count_entries(int dirfd, const char *name)
{
	_cleanup_dir_ DIR *d = NULL;
	unsigned n = 0;

	assert_int_equal(file_opendir(dirfd, name, &d), 0);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	return n;
}

static void check_device(int dirfd, const struct manifest *m)
{
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int fd = -1;
	char text[8] = "";

	if (snapshot_open_device(dirfd, m, world.rings[0], &problem, &fd))
		fail_msg("%s", problem.message);
	assert_int_equal(read(fd, text, sizeof(text)), strlen(DEVICE));
	assert_string_equal(text, DEVICE);
}

static void check_disk(int dirfd)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	assert_int_equal(file_read(dirfd, disk_path, 1000, &text, &len), 0);
	assert_string_equal(text, DISK);
	assert_int_equal(count_entries(dirfd, "disks"), 1);
}

/* What it says is shared must be: each page read from the base is the snapshot's. */
static void check_base(int dirfd, struct image *image, const struct snapshot *s)
{
	bitmap_word own[MAX_PAGES / 64] = {0};
	_cleanup_(image_unrefp) struct image *base = NULL;
	struct problem problem = PROBLEM_INIT;
	uint64_t n_own, n_own_stored, n_shared;
	int r = image_open_base(dirfd, image, world.rings[0], &problem, &base);

	if (r == IMAGE_E_ABSENT)
		return;
	if (r || image_diff_bitmap(image, base, own, &n_own, &n_own_stored, &n_shared))
		fail_msg("%s: its base: %s", s->path, problem.message);
	for (unsigned i = 0; i < world.n_pages; i++)
		if (!bitmap_test(own, i))
			check_page(base, i, s->pages[i], s->path);
	assert_int_equal(bitmap_count(own, world.n_pages), n_own);
	assert_int_equal(n_own_stored + n_shared, image_stored_pages(image));
	assert_true(n_shared && n_shared * 4 >= image_stored_pages(image));
	world.n_bases++;
	world.n_missing += image_missing_layers(base) > 0;
}

static void check_snapshot(const struct snapshot *s)
{
	_cleanup_fd_ int fd = file_open_dir(world.store->root_fd, s->path);
	struct problem problem = PROBLEM_INIT;
	struct image *image;
	struct manifest m;

	if (fd < 0)
		fail_msg("%s: is not there", s->path);
	if (snapshot_verify(fd, world.rings[0], NULL, NULL, &problem) ||
	    snapshot_open(fd, world.rings[0], &problem, &m) ||
	    image_open(fd, world.rings[0], &problem, &image))
		fail_msg("%s: %s", s->path, problem.message);
	assert_string_equal(m.id, s->id);
	assert_string_equal(m.seal, world.rings[0] ? "aes-256-gcm" : "xxh3");
	check_device(fd, &m);
	check_disk(fd);
	assert_int_equal(image_n_pages(image), world.n_pages);
	assert_int_equal(count_entries(fd, "layers"), image_n_layers(image));
	for (unsigned i = 0; i < world.n_pages; i++)
		check_page(image, i, s->pages[i], s->path);
	check_base(fd, image, s);
	image_unref(image);
	manifest_deinit(&m);
}

/* Exactly the directories that the model has. */
static void check_directories(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < MAX_SNAPSHOTS; i++) {
		const struct snapshot *s = &world.snapshots[i];

		if (s->alive && !exists(s))
			fail_msg("%s: is not there", s->path);
		n += s->alive;
	}
	assert_int_equal(count_entries(world.store->root_fd, "snapshots") +
				 count_entries(world.store->root_fd, HOME),
			 n);
	assert_int_equal(count_entries(world.store->root_fd, "tmp"), 0);
}

static bool leads_to(unsigned name, const struct snapshot *s)
{
	char id[ID_LEN + 1];
	int r = store_template_get(world.store, name_text(name), id);

	return s ? r == 0 && !strcmp(id, s->id) : r == -ENOENT;
}

static void check_names(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < N_NAMES; i++) {
		if (!leads_to(i, world.names[i]))
			fail_msg("the name %s does not lead where it should", name_text(i));
		n += world.names[i] != NULL;
	}
	assert_int_equal(count_entries(world.store->root_fd, "templates"), n);
}

static void found(void *userdata, const struct finding *f)
{
	(void)printf("%s: %s: %s\n", finding_kind_name(f->kind), f->path, f->why);
}

static void check_store(void)
{
	const struct check_options options = {.data = true, .keys = world.rings[0], .found = found};
	struct problem problem = PROBLEM_INIT;
	struct check_stats stats;
	unsigned n = 0;

	if (store_check(world.store, &options, &problem, &stats))
		fail_msg("%s", problem.message);
	for (unsigned i = 0; i < MAX_SNAPSHOTS; i++)
		n += world.snapshots[i].alive;
	assert_int_equal(stats.n_snapshots + stats.n_memories, n);
	assert_int_equal(stats.n_findings, 0);
	world.n_checks++;
}

static void check_all(void)
{
	check_directories();
	check_names();
	check_store();
	for (unsigned i = 0; i < MAX_SNAPSHOTS; i++)
		if (world.snapshots[i].alive)
			check_snapshot(&world.snapshots[i]);
}

/* ---- the steps ----------------------------------------------------------------------------------
 */

/* The key that it was wrapped with is all that is needed. */
static void check_key(const struct operation *op)
{
	_cleanup_fd_ int fd = file_open_dir(world.store->root_fd, op->source->path);
	struct problem problem = PROBLEM_INIT;
	struct image *image;

	if (image_open(fd, world.alone[op->ring], &problem, &image))
		fail_msg("%s: %s", op->source->path, problem.message);
	image_unref(image);
}

static void step_operation(enum verb verb, struct snapshot *source)
{
	struct operation *op = &world.op;
	struct problem problem = PROBLEM_INIT;
	int r;

	if (!plan(op, verb, source) &&
	    (!makes_another(verb) || !plan(op, DELETE, source))) /* no place left */
		return;
	r = perform(op, &problem);
	if (is_needless(op, r))
		return;
	if (r)
		fail_msg("%s: %d: %s", verb_names[op->verb], r, problem.message);
	op->result->alive = op->verb != DELETE;
	if (op->verb == NAME)
		world.names[op->name] = op->take ? NULL : op->source;
	if (op->verb == REWRAP)
		check_key(op);
	world.counts[op->verb]++;
}

/* Mostly the new snapshot is all that is kept of a sandbox, so that it owns its layers. */
static void step_sleep(void)
{
	struct snapshot *source = pick_busy();

	step_operation(SLEEP, source);
	if (world.op.verb != SLEEP)
		return;
	world.busy = world.op.result;
	if (source && world.op.source == source && pick(8))
		step_operation(DELETE, source);
}

static void open_store(void)
{
	struct problem problem = PROBLEM_INIT;

	if (store_open(world.root, &problem, &world.store))
		fail_msg("%s", problem.message);
}

/* In a process of its own, up to the @n-th call. Return: did it get through? */
static bool perform_struck(const struct operation *op, int n, bool deadly)
{
	int status;
	pid_t pid;

	world.store = store_close(world.store);
	(void)fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct problem problem = PROBLEM_INIT;
		int r;

		if (store_open(world.root, &problem, &world.store))
			_exit(3);
		fault_arm(&faults[deadly], (unsigned)n);
		r = perform(op, &problem);
		_exit(is_needless(op, r) ? 1 : fault_disarm() ? 2 : r ? 4 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	open_store();
	if (deadly && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
		world.n_struck++;
		return false;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) > 2)
		fail_msg("%s, struck at call %d: status 0x%x", verb_names[op->verb], n,
			 (unsigned)status);
	world.n_struck += WEXITSTATUS(status) == 2;
	return WEXITSTATUS(status) == 0;
}

static void settle_name(const struct operation *op, bool through)
{
	struct snapshot *to = op->take ? NULL : op->source;

	if (through || leads_to(op->name, to))
		world.names[op->name] = to;
	check_names();
}

static void step_crash(void)
{
	struct operation *op = &world.op;
	const enum verb verb = (enum verb)pick(ARRAY_SIZE(verb_names));
	bool through;

	if (!plan(op, verb, pick_busy()))
		return;
	through = perform_struck(op, (int)pick(verb == IMPORT ? 3 * MAX_STRIKE : MAX_STRIKE),
				 pick(3) != 0);
	world.n_crashes++;
	op->result->alive = exists(op->result);
	if (through)
		assert_int_equal(op->result->alive, verb != DELETE);
	if (!makes_another(verb) && verb != DELETE)
		assert_true(op->result->alive);
	if (verb == NAME)
		settle_name(op, through);
	if (op->source && verb != DELETE)
		check_snapshot(op->source);
	if (op->result->alive)
		check_snapshot(op->result);
	check_directories();
}

static void step_run(void)
{
	struct running *f = &world.running[pick(MAX_RUNNING)];
	const struct snapshot *s = pick_living();
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int fd = -1;

	if (!s)
		return;
	f->image = image_unref(f->image);
	fd = file_open_dir(world.store->root_fd, s->path);
	if (fd < 0 || image_open(fd, world.rings[0], &problem, &f->image))
		fail_msg("%s: %s", s->path, problem.message);
	memcpy(f->pages, s->pages, sizeof(f->pages));
}

static void step_read(void)
{
	const struct running *f = &world.running[pick(MAX_RUNNING)];

	for (unsigned i = 0; f->image && i < 20; i++) {
		unsigned gfn = pick(world.n_pages);

		check_page(f->image, gfn, f->pages[gfn], "a running fork");
	}
}

static void step(void)
{
	static const struct {
		unsigned upto;
		enum verb verb;
	} verbs[] = {{46, FORK}, {48, DELETE}, {62, COMPACT_IN_PLACE}, {66, COMPACT}, {68, IMPORT},
		     {71, NAME}, {75, REWRAP}};
	const unsigned die_roll = pick(100);
	const struct snapshot *s;

	if (die_roll < 42) {
		step_sleep();
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++)
		if (die_roll < verbs[i].upto) {
			step_operation(verbs[i].verb, pick_busy());
			return;
		}
	if (die_roll < 83) {
		step_crash();
	} else if (die_roll < 88) {
		step_run();
	} else if (die_roll < 94) {
		step_read();
	} else {
		s = pick_living();
		if (s)
			check_snapshot(s);
		check_directories();
		check_names();
		if (pick(3) == 0)
			check_store();
	}
}

/* ---- the program --------------------------------------------------------------------------------
 */

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
	const char *text = getenv(variable);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void add_key(struct keyring *ring, unsigned k)
{
	static const char *const keys[N_KEYS] = {
		"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
		"ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"};
	struct problem problem = PROBLEM_INIT;

	assert_int_equal(setenv("DORM_MODEL_KEY", keys[k], 1), 0);
	if (keyring_add(ring, "env:DORM_MODEL_KEY", &problem))
		fail_msg("%s", problem.message);
}

static void make_keys(void)
{
	for (unsigned i = 0; i < N_KEYS; i++) {
		assert_int_equal(keyring_new(&world.rings[i]), 0);
		assert_int_equal(keyring_new(&world.alone[i]), 0);
		add_key(world.alone[i], i);
		for (unsigned k = 0; k < N_KEYS; k++)
			add_key(world.rings[i], (i + k) % N_KEYS);
	}
}

static void test_model(void **state)
{
	const uint64_t n_steps = number_from("DORM_MODEL_OPS", MODEL_OPS);

	if (number_from("DORM_MODEL_SEALED", pick(2)))
		make_keys();
	world.n_pages = 64 + pick(MAX_PAGES / 2 - 64);
	world.next_content = 1 + N_POPULAR;
	print_message("%u pages, %s\n", world.n_pages, world.rings[0] ? "sealed" : "not sealed");
	open_store();
	assert_int_equal(mkdirat(world.store->root_fd, HOME, 0755), 0);
	for (world.step = 0; world.step < n_steps; world.step++) {
		step();
		if (world.step % 1000 == 999)
			check_all();
	}
	check_all();
	for (unsigned i = 0; i < MAX_RUNNING; i++)
		for (unsigned gfn = 0; world.running[i].image && gfn < world.n_pages; gfn++)
			check_page(world.running[i].image, gfn, world.running[i].pages[gfn],
				   "a running fork");
	while (pick_living())
		step_operation(DELETE, pick_living());
	check_directories();
	assert_true(world.n_struck <= world.n_crashes);
	if (n_steps >= 600) { /* it must have done something */
		assert_true(world.n_struck > 0);
		assert_true(world.n_bases > 0);
		for (unsigned i = 0; i < ARRAY_SIZE(verb_names); i++)
			assert_true(world.counts[i] > 0 || (i == REWRAP && !world.rings[0]));
	}
}

static int setup(void **state)
{
	const char *dir = getenv("DORM_MODEL_DIR");

	/* Processes die here, hosts do not: memory is as good as a disk, and quicker to fsync. */
	if (!dir)
		dir = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	(void)snprintf(world.root, sizeof(world.root), "%s/dorm-model.XXXXXX", dir);
	return mkdtemp(world.root) ? 0 : -1;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < MAX_RUNNING; i++)
		world.running[i].image = image_unref(world.running[i].image);
	world.store = store_close(world.store);
	for (unsigned i = 0; i < N_KEYS; i++) {
		world.rings[i] = keyring_free(world.rings[i]);
		world.alone[i] = keyring_free(world.alone[i]);
	}
	return file_remove_tree(AT_FDCWD, world.root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_model, setup, teardown)};
	uint64_t seed = 0;
	int failed;

	if (getrandom(&seed, 4, 0) != 4)
		return 1;
	world.seed = world.random = number_from("DORM_MODEL_SEED", seed);
	(void)printf("seed %" PRIu64 "\n", world.seed);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	if (failed)
		(void)printf("failed at step %u: DORM_MODEL_SEED=%" PRIu64 " does it again\n",
			     world.step, world.seed);
	else
		(void)printf("%u pages: %u sleeps, %u forks, %u deletes, %u + %u compactions, "
			     "%u imports, %u names, %u rewraps, %u checks, %u crashes of which %u "
			     "struck; %u bases, %u of them without a layer\n",
			     world.n_pages, world.counts[SLEEP], world.counts[FORK],
			     world.counts[DELETE], world.counts[COMPACT],
			     world.counts[COMPACT_IN_PLACE], world.counts[IMPORT],
			     world.counts[NAME], world.counts[REWRAP], world.n_checks,
			     world.n_crashes, world.n_struck, world.n_bases, world.n_missing);
	return failed;
}
