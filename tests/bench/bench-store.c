/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-store.c - what a store with many snapshots costs
 *
 *     bench-store [DIRECTORY [SNAPSHOTS]]
 *
 * Makes a store below DIRECTORY (default: the working directory) with SNAPSHOTS (1,000) snapshots
 * of one template, each with the template's layer and one of its own, and measures listing,
 * rebuild, usage and check; then the clone of a guest of 8 GiB against one of 128 MiB. Prints one
 * JSON object per line. The store is removed at the end.
 *
 * The two guests' pages are all different and not zero, but compress well, so that 8 GiB of guest
 * take little of the disk. What a clone costs depends on neither: it links files.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/snapshot.h"
#include "image/store-check.h"
#include "image/store-index.h"
#include "image/store-usage.h"

#define TEMPLATE_PAGES 256u
#define OWN_PAGES      4u
#define ROUNDS	       21u
#define CLONE_PAIRS    101u
#define BATCH_PAGES    256u
#define GIB	       (1ull << 30)

static struct problem problem;

static int failed(const char *what, int r)
{
	(void)fprintf(stderr, "bench-store: %s: %s (%s)\n", what, strerror(r < 0 ? -r : EIO),
		      problem.message);
	return r < 0 ? r : -EIO;
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

struct row {
	const char *metric, *unit, *from, *to;
	double goal; /* at most; 0: none */
};

static void print_row(const struct row *row, double *values, unsigned n)
{
	double median;

	qsort(values, n, sizeof(*values), compare);
	median = values[n / 2];
	(void)printf("{\"metric\": \"%s\", \"value\": %.3f, \"unit\": \"%s\", ", row->metric,
		     median, row->unit);
	if (row->goal > 0)
		(void)printf("\"goal\": %g, \"ok\": %s, ", row->goal,
			     median <= row->goal ? "true" : "false");
	(void)printf("\"min\": %.3f, \"median\": %.3f, \"max\": %.3f, \"n\": %u, "
		     "\"from\": \"%s\", \"to\": \"%s\"}\n",
		     values[0], median, values[n - 1], n, row->from, row->to);
	(void)fflush(stdout);
}

static double since_ms(uint64_t from_ns)
{
	return (double)(clock_now_ns() - from_ns) / 1e6;
}

/* ---- making snapshots -------------------------------------------------------------------------
 */

static void fill_page(uint8_t *page, uint64_t stamp, bool compressible)
{
	uint64_t *words = (uint64_t *)(void *)page;

	for (size_t i = 0; i < DORM_PAGE_SIZE / 8; i++)
		words[i] =
			compressible ? stamp + 1 : (stamp = stamp * 6364136223846793005ull + i + 1);
}

static int add_pages(struct image_writer *w, uint64_t n_pages, uint64_t step, uint64_t seed,
		     bool compressible)
{
	_cleanup_free_ uint8_t *pages = malloc(BATCH_PAGES * DORM_PAGE_SIZE);
	uint64_t batch = step == 1 ? BATCH_PAGES : 1;
	int r = pages ? 0 : -ENOMEM;

	for (uint64_t i = 0; r == 0 && i < n_pages; i += batch) {
		for (uint64_t j = 0; j < batch; j++)
			fill_page(pages + j * DORM_PAGE_SIZE, seed + i + j, compressible);
		r = image_writer_add(w, i * step, batch, pages, &problem);
	}
	return r;
}

struct recipe {
	const char *id, *parent;
	uint64_t guest_pages, n_pages, step, seed;
	bool compressible;
};

static int write_image(struct store *store, const struct recipe *recipe, struct snapshot_tmp *tmp,
		       struct manifest *m)
{
	_cleanup_(image_writer_freep) struct image_writer *w = NULL;
	_cleanup_(image_unrefp) struct image *from = NULL;
	_cleanup_fd_ int parent_dirfd = -1;
	struct image_writer_options options = {.codec = IMAGE_CODEC_ZSTD};
	char path[64];
	int r;

	if (recipe->parent) {
		(void)snprintf(path, sizeof(path), "snapshots/%s", recipe->parent);
		parent_dirfd = file_open_dir(store->root_fd, path);
		r = image_open(parent_dirfd, NULL, &problem, &from);
	} else {
		r = image_open_zero(recipe->guest_pages, &from);
	}
	if (r == 0)
		r = image_writer_new(tmp->dirfd, from, parent_dirfd, &options, &problem, &w);
	if (r == 0)
		r = add_pages(w, recipe->n_pages, recipe->step, recipe->seed, recipe->compressible);
	return r ? r : image_writer_commit(w, &m->stats, m->image_id, &problem);
}

static int make_snapshot(struct store *store, const struct recipe *recipe)
{
	struct manifest m = {.created_ns = clock_real_ns(),
			     .memory_bytes = recipe->guest_pages * DORM_PAGE_SIZE,
			     .cpus = 1,
			     .vmm = "qemu",
			     .accel = "tcg",
			     .template_id = "base"};
	struct snapshot_tmp tmp;
	char path[64];
	int r = snapshot_begin(store->root_fd, store->root, &problem, &tmp);

	if (r)
		return failed("snapshot_begin", r);
	str_copy(m.id, sizeof(m.id), recipe->id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", m.id);
	r = write_image(store, recipe, &tmp, &m);
	if (r == 0)
		r = file_write_atomic(tmp.dirfd, "device", "device state", 12, 0600);
	if (r == 0)
		r = snapshot_commit(&tmp, store->root_fd, path, &m, NULL, &problem);
	snapshot_abort(&tmp, store->root_fd);
	return r ? failed("making a snapshot", r) : 0;
}

static int make_snapshots(struct store *store, unsigned n)
{
	char base[ID_LEN + 1], id[ID_LEN + 1];
	struct recipe recipe = {.id = base,
				.guest_pages = TEMPLATE_PAGES,
				.n_pages = TEMPLATE_PAGES,
				.step = 1,
				.seed = 1};
	int r;

	id_new('s', base);
	r = make_snapshot(store, &recipe);
	recipe = (struct recipe){.id = id,
				 .parent = base,
				 .guest_pages = TEMPLATE_PAGES,
				 .n_pages = OWN_PAGES,
				 .step = TEMPLATE_PAGES / OWN_PAGES};
	for (unsigned i = 1; r == 0 && i < n; i++) {
		id_new('s', id);
		recipe.seed = 1000 + i * 10;
		r = make_snapshot(store, &recipe);
	}
	return r;
}

/* ---- a store of many snapshots ----------------------------------------------------------------
 */

static int count(void *userdata, const struct index_entry *e)
{
	++*(unsigned *)userdata;
	return e->damage ? -EBADMSG : 0;
}

static int list(struct store_index *x, unsigned want, double *ret_ms)
{
	uint64_t start = clock_now_ns();
	unsigned n = 0;
	int r = store_index_each(x, count, &n);

	*ret_ms = since_ms(start);
	return r || n != want ? failed("listing", r) : 0;
}

static int bench_index(struct store *store, unsigned n)
{
	_cleanup_(store_index_closep) struct store_index *x = NULL;
	double rebuild[ROUNDS], cold[ROUNDS], warm[ROUNDS];
	int r = store_index_open(store, &problem, &x);

	for (unsigned i = 0; r == 0 && i < ROUNDS; i++) {
		uint64_t start = clock_now_ns(), have = 0;

		r = store_index_rebuild(x, NULL, NULL, &have);
		rebuild[i] = since_ms(start);
		if (r == 0)
			r = list(x, n, &cold[i]);
		if (r == 0)
			r = list(x, n, &warm[i]);
	}
	if (r)
		return failed("index", r);
	print_row(&(struct row){"store_list_ms", "ms", "store_index_each() called",
				"the last of all snapshots visited", 100},
		  warm, ROUNDS);
	print_row(&(struct row){"store_list_after_rebuild_ms", "ms",
				"store_index_each() called, the first after a rebuild",
				"the last of all snapshots visited", 0},
		  cold, ROUNDS);
	print_row(&(struct row){"store_index_rebuild_ms", "ms", "store_index_rebuild() called",
				"all manifests read into a new file", 5000},
		  rebuild, ROUNDS);
	return 0;
}

/* A process that starts with, and one without, the file of the one before. */
static int bench_open(struct store *store, unsigned n, bool without)
{
	double ms[ROUNDS];

	for (unsigned i = 0; i < ROUNDS; i++) {
		_cleanup_(store_index_closep) struct store_index *x = NULL;
		uint64_t start;
		double unused;
		int r;

		if (without)
			(void)unlinkat(store->root_fd, "index.sqlite", 0); /* or absent */
		start = clock_now_ns();
		r = store_index_open(store, &problem, &x);
		if (r == 0)
			r = list(x, n, &unused);
		if (r)
			return r;
		ms[i] = since_ms(start);
	}
	print_row(&(struct row){without ? "store_list_without_index_ms" : "store_list_first_ms",
				"ms",
				without ? "store_index_open() called, no index.sqlite"
					: "store_index_open() called, index.sqlite is there",
				"the last of all snapshots visited", 0},
		  ms, ROUNDS);
	return 0;
}

static int bench_usage(struct store *store)
{
	struct usage_total total;
	double ms[ROUNDS];

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t start = clock_now_ns();
		int r = store_usage(store, NULL, NULL, &problem, &total);

		if (r)
			return failed("usage", r);
		ms[i] = since_ms(start);
	}
	print_row(&(struct row){"store_usage_ms", "ms", "store_usage() called",
				"everything counted", 0},
		  ms, ROUNDS);
	return 0;
}

static int bench_check(struct store *store, bool data)
{
	struct check_options options = {.data = data};
	struct check_stats stats;
	double ms[ROUNDS];

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t start = clock_now_ns();
		int r = store_check(store, &options, &problem, &stats);

		if (r || stats.n_findings)
			return failed("check", r);
		ms[i] = since_ms(start);
	}
	print_row(&(struct row){data ? "store_check_data_ms" : "store_check_ms", "ms",
				"store_check() called",
				data ? "every frame read and verified"
				     : "structure of everything checked",
				data ? 0 : 5000},
		  ms, ROUNDS);
	return 0;
}

/* ---- clones -----------------------------------------------------------------------------------
 */

static int clone_once(struct store *store, const char *source, double *ret_ms)
{
	_cleanup_fd_ int fd = -1;
	char path[64] = "snapshots/", *id = path + strlen(path);
	uint64_t start;
	int r;

	(void)snprintf(id, ID_LEN + 1, "%s", source);
	fd = file_open_dir(store->root_fd, path);
	id_new('s', id);
	start = clock_now_ns();
	r = snapshot_clone(store->root_fd, store->root, fd, NULL, path, id, &problem);
	*ret_ms = since_ms(start);
	if (r == 0)
		r = snapshot_delete(store->root_fd, path, &problem);
	return r ? failed("clone", r) : 0;
}

static int bench_clone(struct store *store)
{
	char small[ID_LEN + 1], big[ID_LEN + 1];
	double small_ms[CLONE_PAIRS], big_ms[CLONE_PAIRS], ratio[CLONE_PAIRS];
	int r;

	id_new('s', small);
	id_new('s', big);
	r = make_snapshot(store, &(struct recipe){.id = small,
						  .guest_pages = GIB / 8 / DORM_PAGE_SIZE,
						  .n_pages = GIB / 8 / DORM_PAGE_SIZE,
						  .step = 1,
						  .compressible = true});
	if (r == 0)
		r = make_snapshot(store, &(struct recipe){.id = big,
							  .guest_pages = 8 * GIB / DORM_PAGE_SIZE,
							  .n_pages = 8 * GIB / DORM_PAGE_SIZE,
							  .step = 1,
							  .compressible = true});
	for (unsigned i = 0; r == 0 && i < CLONE_PAIRS; i++) {
		r = clone_once(store, small, &small_ms[i]);
		if (r == 0)
			r = clone_once(store, big, &big_ms[i]);
		if (r == 0)
			ratio[i] = big_ms[i] / small_ms[i];
	}
	if (r)
		return r;
	print_row(&(struct row){"clone_128_mib_ms", "ms", "snapshot_clone() called",
				"the clone is durable; guest of 128 MiB, every page stored, "
				"different and compressible",
				10},
		  small_ms, CLONE_PAIRS);
	print_row(&(struct row){"clone_8_gib_ms", "ms", "snapshot_clone() called",
				"the clone is durable; guest of 8 GiB, every page stored, "
				"different and compressible",
				10},
		  big_ms, CLONE_PAIRS);
	print_row(&(struct row){"clone_8_gib_to_128_mib", "ratio",
				"a clone of the guest of 128 MiB",
				"a clone of the guest of 8 GiB right after it", 2},
		  ratio, CLONE_PAIRS);
	return 0;
}

static int bench(struct store *store, unsigned n)
{
	int r = make_snapshots(store, n);

	if (r == 0)
		r = bench_index(store, n);
	if (r == 0)
		r = bench_open(store, n, false);
	if (r == 0)
		r = bench_open(store, n, true);
	if (r == 0)
		r = bench_usage(store);
	if (r == 0)
		r = bench_check(store, false);
	if (r == 0)
		r = bench_check(store, true);
	return r ? r : bench_clone(store);
}

int main(int argc, char **argv)
{
	char root[3000];
	uint64_t n = 1000;
	struct store *store;
	int r;

	if (argc > 3 || (argc > 2 && (str_to_u64(argv[2], &n) < 0 || n < 1 || n > 60000))) {
		(void)fprintf(stderr, "usage: bench-store [DIRECTORY [SNAPSHOTS]]\n");
		return 2;
	}
	r = snprintf(root, sizeof(root), "%s/bench-store.XXXXXX", argc > 1 ? argv[1] : ".");
	if (r < 0 || (size_t)r >= sizeof(root) || !mkdtemp(root)) {
		(void)fprintf(stderr, "bench-store: %s: %s\n", root, strerror(errno));
		return 1;
	}
	r = store_open(root, &problem, &store);
	if (r == 0) {
		r = bench(store, (unsigned)n);
		store_close(store);
	}
	(void)file_remove_tree(AT_FDCWD, root); /* the result matters more */
	return r ? 1 : 0;
}
