/* SPDX-License-Identifier: Apache-2.0 */
#include "image/test-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "image/snapshot.h"
#include "image/store.h"

#define N_PAGES 100u

struct place {
	struct fixture *f;
	struct store *store;
	uint8_t *memory;
	char victim[64];
	uint64_t seed;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	struct problem problem = PROBLEM_INIT;
	void *fixture;
	uint64_t seed = 5;

	assert_non_null(p);
	(void)fixture_setup(&fixture);
	p->f = fixture;
	p->memory = calloc(N_PAGES, DORM_PAGE_SIZE);
	assert_non_null(p->memory);
	for (unsigned i = 0; i < N_PAGES; i += 2)
		fixture_page(p->memory + i * DORM_PAGE_SIZE, 1 + i % 4 / 2, &seed);
	assert_int_equal(store_open(p->f->path, &problem, &p->store), 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;
	void *fixture = p->f;

	store_close(p->store);
	free(p->memory);
	free(p);
	return fixture_teardown(&fixture);
}

static void put_file(int dirfd, const char *name, const char *text)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static void fill_manifest(struct manifest *m, const char *id)
{
	*m = (struct manifest){.created_ns = 1700000000123456789,
			       .memory_bytes = N_PAGES * DORM_PAGE_SIZE,
			       .cpus = 2,
			       .vmm = "qemu",
			       .vmm_version = "7.2.11 (Debian 1:7.2+dfsg-7)",
			       .accel = "tcg",
			       .tsc_khz = 2600000,
			       .kernel_version = "6.1.0-28-cloud-amd64",
			       .name = "first",
			       .template_id = "base:latest",
			       .prepared = true};
	str_copy(m->id, sizeof(m->id), id);
	m->n_disks = 1;
	m->disks[0] = (struct snapshot_disk){
		.name = "scratch.img", .format = "raw", .read_only = true, .size = 9};
}

/* A snapshot's content in a temporary directory, with the manifest that fits. */
static void begin(struct place *p, const char *id, struct snapshot_tmp *tmp, struct manifest *m)
{
	struct problem problem = PROBLEM_INIT;
	struct image_writer *w;
	struct image *zero;

	fill_manifest(m, id);
	assert_int_equal(snapshot_begin(p->store->root_fd, p->store->root, &problem, tmp), 0);
	assert_int_equal(image_open_zero(N_PAGES, &zero), 0);
	assert_int_equal(image_writer_new(tmp->dirfd, zero, -1, NULL, &problem, &w), 0);
	assert_int_equal(image_writer_add(w, 0, N_PAGES, p->memory, &problem), 0);
	assert_int_equal(image_writer_commit(w, &m->stats, m->image_id, &problem), 0);
	image_writer_free(w);
	image_unref(zero);
	put_file(tmp->dirfd, "device", "device state");
	fixture_working_set(tmp->dirfd, 3, 2, 10, 2);
	put_file(tmp->dirfd, "disks/scratch.img", "disk data");
}

/* A committed snapshot. Return: its directory */
static int make(struct place *p, char id[ID_LEN + 1])
{
	struct problem problem = PROBLEM_INIT;
	struct snapshot_tmp tmp;
	struct manifest m;
	char final[64];
	int fd;

	id_new('s', id);
	begin(p, id, &tmp, &m);
	m.prepare = json_pack("{s:s, s:f}", "answer", "yes", "seconds", 0.25);
	(void)snprintf(final, sizeof(final), "snapshots/%s", id);
	assert_int_equal(snapshot_commit(&tmp, p->store->root_fd, final, &m, NULL, &problem), 0);
	snapshot_abort(&tmp, p->store->root_fd);
	manifest_deinit(&m);
	fd = file_open_dir(p->store->root_fd, final);
	assert_true(fd >= 0);
	return fd;
}

static void check_memory(struct place *p, int dirfd)
{
	uint8_t *out = malloc((size_t)N_PAGES * DORM_PAGE_SIZE);
	struct problem problem = PROBLEM_INIT;
	struct image *image;

	assert_non_null(out);
	assert_int_equal(image_open(dirfd, NULL, &problem, &image), 0);
	assert_int_equal(fixture_read_all(image, out, &problem), 0);
	assert_memory_equal(out, p->memory, (size_t)N_PAGES * DORM_PAGE_SIZE);
	image_unref(image);
	free(out);
}

static void assert_tmp_is_empty(struct place *p)
{
	assert_int_equal(unlinkat(p->store->root_fd, "tmp", AT_REMOVEDIR), 0);
	assert_int_equal(mkdirat(p->store->root_fd, "tmp", 0755), 0);
}

static void test_commit_and_open(void **state)
{
	struct place *p = *state;
	struct problem problem = PROBLEM_INIT;
	struct manifest m, want;
	char id[ID_LEN + 1];
	struct stat st;
	int fd = make(p, id);

	assert_int_equal(snapshot_open(fd, NULL, &problem, &m), 0);
	fill_manifest(&want, id);
	assert_string_equal(m.id, id);
	assert_string_equal(m.name, want.name);
	assert_string_equal(m.template_id, want.template_id);
	assert_string_equal(m.vmm, want.vmm);
	assert_string_equal(m.vmm_version, want.vmm_version);
	assert_string_equal(m.accel, want.accel);
	assert_string_equal(m.kernel_version, want.kernel_version);
	assert_int_equal(m.created_ns, want.created_ns);
	assert_int_equal(m.memory_bytes, want.memory_bytes);
	assert_int_equal(m.tsc_khz, want.tsc_khz);
	assert_int_equal(m.cpus, 2);
	assert_true(m.prepared);
	assert_string_equal(json_string_value(json_object_get(m.prepare, "answer")), "yes");
	assert_int_equal(m.device_bytes, 12);
	assert_int_equal(strlen(m.device_digest), 32);
	assert_int_equal(m.n_disks, 1);
	assert_string_equal(m.disks[0].name, "scratch.img");
	assert_true(m.disks[0].read_only);
	assert_int_equal(m.stats.pages_given, N_PAGES);
	assert_int_equal(m.stats.pages_zero, N_PAGES / 2);
	manifest_deinit(&m);
	for (const char *const *name = (const char *const[]){"manifest.json", "map", "device",
							     "disks/scratch.img", NULL};
	     *name; name++) {
		assert_int_equal(fstatat(fd, *name, &st, 0), 0);
		assert_int_equal(st.st_mode & 07777, 0444);
	}
	assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, &problem), 0);
	check_memory(p, fd);
	assert_tmp_is_empty(p);
	close(fd);
}

static void test_commit_refuses(void **state)
{
	struct place *p = *state;
	struct problem problem;
	struct snapshot_tmp tmp;
	struct manifest m;
	char id[ID_LEN + 1], final[64];
	struct stat st;

	for (int i = 0; i < 8; i++) {
		problem = PROBLEM_INIT;
		id_new('s', id);
		begin(p, id, &tmp, &m);
		(void)snprintf(final, sizeof(final), "snapshots/%s", id);
		if (i == 0)
			m.disks[0].size++;
		if (i == 1)
			m.image_id[0] ^= 1;
		if (i == 2)
			m.memory_bytes += DORM_PAGE_SIZE;
		if (i == 3)
			str_copy(m.disks[0].name, sizeof(m.disks[0].name), "../map");
		if (i == 4)
			assert_int_equal(unlinkat(tmp.dirfd, "map", 0), 0);
		if (i == 5)
			assert_int_equal(symlinkat("map", tmp.dirfd, "link"), 0);
		if (i == 6)
			m.id[0] = '/';
		if (i == 7) /* the name is taken */
			assert_int_equal(mkdirat(p->store->root_fd, final, 0755), 0);
		assert_true(snapshot_commit(&tmp, p->store->root_fd, final, &m, NULL, &problem) <
			    0);
		assert_true(problem_is_set(&problem));
		snapshot_abort(&tmp, p->store->root_fd);
		assert_int_equal(fstatat(p->store->root_fd, final, &st, 0), i == 7 ? 0 : -1);
		assert_tmp_is_empty(p);
	}
}

static void test_clone(void **state)
{
	struct place *p = *state;
	struct problem problem = PROBLEM_INIT;
	struct manifest m;
	char id[ID_LEN + 1], clone_id[ID_LEN + 1], path[64], final[64];
	struct stat st;
	int fd = make(p, id), clone;

	id_new('s', clone_id);
	(void)snprintf(final, sizeof(final), "snapshots/%s", clone_id);
	(void)snprintf(path, sizeof(path), "snapshots/%s", id);
	assert_int_equal(snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, final,
					clone_id, &problem),
			 0);
	assert_int_equal(snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, final,
					clone_id, &problem),
			 -EEXIST);
	assert_int_equal(fstatat(fd, "map", &st, 0), 0);
	assert_int_equal(st.st_nlink, 2);
	/* the same id: the manifest is linked too */
	problem = PROBLEM_INIT;
	assert_int_equal(snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, "sandboxes/x",
					NULL, &problem),
			 0);
	assert_int_equal(fstatat(fd, "manifest.json", &st, 0), 0);
	assert_int_equal(st.st_nlink, 2);
	/* the source goes; the clone is whole */
	assert_int_equal(snapshot_delete(p->store->root_fd, path, &problem), 0);
	assert_int_equal(fstatat(p->store->root_fd, path, &st, 0), -1);
	clone = file_open_dir(p->store->root_fd, final);
	assert_int_equal(snapshot_open(clone, NULL, &problem, &m), 0);
	assert_string_equal(m.id, clone_id);
	assert_string_equal(m.name, "first");
	assert_string_equal(json_string_value(json_object_get(m.prepare, "answer")), "yes");
	manifest_deinit(&m);
	assert_int_equal(snapshot_verify(clone, NULL, NULL, NULL, &problem), 0);
	assert_int_equal(fstatat(clone, "working-set", &st, 0), 0);
	check_memory(p, clone);
	/* a deleted source cannot be cloned, and leaves nothing */
	problem = PROBLEM_INIT;
	assert_true(snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, "sandboxes/y", NULL,
				   &problem) < 0);
	assert_int_equal(fstatat(p->store->root_fd, "sandboxes/y", &st, 0), -1);
	assert_int_equal(snapshot_delete(p->store->root_fd, path, NULL), -ENOENT);
	assert_tmp_is_empty(p);
	close(clone);
	close(fd);
}

static void *delete_in_thread(void *userdata)
{
	struct place *p = userdata;

	usleep((useconds_t)(fixture_random(&p->seed) % 600)); /* anywhere in the clone */
	return (void *)(intptr_t)snapshot_delete(p->store->root_fd, p->victim, NULL);
}

/* A clone of a snapshot that is being deleted is whole, or it is not there. */
static void test_clone_against_delete(void **state)
{
	struct place *p = *state;

	for (int i = 0; i < 60; i++) {
		char id[ID_LEN + 1], clone_id[ID_LEN + 1], final[64];
		int fd = make(p, id), clone, r;
		pthread_t thread;
		void *deleted;

		id_new('s', clone_id);
		(void)snprintf(final, sizeof(final), "snapshots/%s", clone_id);
		(void)snprintf(p->victim, sizeof(p->victim), "snapshots/%s", id);
		assert_int_equal(pthread_create(&thread, NULL, delete_in_thread, p), 0);
		r = snapshot_clone(p->store->root_fd, p->store->root, fd, NULL, final, clone_id,
				   NULL);
		assert_int_equal(pthread_join(thread, &deleted), 0);
		assert_int_equal((intptr_t)deleted, 0);
		clone = file_open_dir(p->store->root_fd, final);
		if (r == 0)
			assert_int_equal(snapshot_verify(clone, NULL, NULL, NULL, NULL), 0);
		else
			assert_int_equal(clone, -ENOENT);
		fd_close(clone);
		close(fd);
	}
	assert_tmp_is_empty(p);
}

/* Every byte of every file, with three bits changed: found, or nothing is different. */
static void flip_everything(struct place *p, int dirfd, const char *name, unsigned step)
{
	uint8_t *out = malloc((size_t)N_PAGES * DORM_PAGE_SIZE);
	unsigned found = 0, harmless = 0;
	struct stat st;

	assert_non_null(out);
	assert_int_equal(fstatat(dirfd, name, &st, 0), 0);
	for (off_t i = 0; i < st.st_size; i += i < 300 || i > st.st_size - 400 ? 1 : step) {
		struct problem problem = PROBLEM_INIT;
		struct image *image = NULL;
		int r;

		fixture_flip(dirfd, name, (uint64_t)i, (uint8_t)(1u << i % 8));
		r = image_open(dirfd, NULL, &problem, &image);
		if (r == 0)
			r = fixture_read_all(image, out, &problem);
		image_unref(image);
		if (r) {
			assert_true(r > 0); /* an outcome, not an errno */
			assert_non_null(
				strstr(problem.message, strcmp(name, "map") ? "layer " : "map"));
			found++;
		} else { /* the gap before an aligned frame */
			assert_memory_equal(out, p->memory, (size_t)N_PAGES * DORM_PAGE_SIZE);
			harmless++;
		}
		fixture_flip(dirfd, name, (uint64_t)i, (uint8_t)(1u << i % 8));
	}
	assert_true(found > 100 && (harmless == 0 || strcmp(name, "map")));
	free(out);
}

static void only_layer(int dirfd, char path[80])
{
	struct image *image;

	assert_int_equal(image_open(dirfd, NULL, NULL, &image), 0);
	(void)snprintf(path, 80, "layers/%s", image_layer_id(image, 0));
	image_unref(image);
}

static void test_flipped_bytes(void **state)
{
	struct place *p = *state;
	char id[ID_LEN + 1], layer[80];
	int fd = make(p, id);

	only_layer(fd, layer);
	flip_everything(p, fd, "map", 1);
	flip_everything(p, fd, layer, 373);
	check_memory(p, fd);
	close(fd);
}

static void test_flipped_manifest(void **state)
{
	struct place *p = *state;
	char id[ID_LEN + 1];
	struct manifest m;
	struct stat st;
	int fd = make(p, id);
	json_t *before, *after;

	assert_int_equal(snapshot_open(fd, NULL, NULL, &m), 0);
	before = manifest_to_json(&m);
	manifest_deinit(&m);
	assert_int_equal(fstatat(fd, "manifest.json", &st, 0), 0);
	for (off_t i = 0; i < st.st_size; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			struct problem problem = PROBLEM_INIT;
			int r;

			fixture_flip(fd, "manifest.json", (uint64_t)i, (uint8_t)(1u << bit));
			r = snapshot_open(fd, NULL, &problem, &m);
			if (r == 0) { /* white space */
				after = manifest_to_json(&m);
				assert_true(json_equal(before, after));
				json_decref(after);
				manifest_deinit(&m);
			} else {
				assert_true(r > 0);
				assert_non_null(strstr(problem.message, "manifest.json: "));
			}
			fixture_flip(fd, "manifest.json", (uint64_t)i, (uint8_t)(1u << bit));
		}
	json_decref(before);
	close(fd);
}

/* Cut a file to @len, expect damage to be found, and put it back. */
static void expect_truncated(int dirfd, const char *name, off_t len, off_t whole)
{
	struct problem problem = PROBLEM_INIT;
	struct image *image = NULL;
	struct manifest m;
	char *data;
	size_t n;
	int fd;

	assert_int_equal(file_read(dirfd, name, 1u << 24, &data, &n), 0);
	assert_int_equal(n, whole);
	fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC); /* root may, in spite of 0444 */
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, len), 0);
	assert_int_equal(snapshot_open(dirfd, NULL, &problem, &m), IMAGE_E_CORRUPT);
	assert_true(problem_is_set(&problem));
	if (strcmp(name, "manifest.json")) {
		assert_int_equal(image_open(dirfd, NULL, &problem, &image), IMAGE_E_CORRUPT);
		assert_null(image);
	}
	assert_int_equal(pwrite(fd, data, n, 0), (ssize_t)n);
	close(fd);
	free(data);
}

static void test_truncated(void **state)
{
	struct place *p = *state;
	char id[ID_LEN + 1], layer[80];
	const char *const names[] = {"manifest.json", "map", layer};
	struct stat st;
	int fd = make(p, id);

	if (geteuid()) {
		print_message("needs root to write into read-only files\n");
		close(fd);
		skip();
	}
	only_layer(fd, layer);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_int_equal(fstatat(fd, names[i], &st, 0), 0);
		for (off_t len = 0; len < MIN(st.st_size, (off_t)200); len++)
			expect_truncated(fd, names[i], len, st.st_size);
		for (off_t cut = 1; cut < MIN(st.st_size, (off_t)200); cut++)
			expect_truncated(fd, names[i], st.st_size - cut, st.st_size);
		for (off_t len = 4096; len < st.st_size; len += 4096)
			expect_truncated(fd, names[i], len, st.st_size);
	}
	check_memory(p, fd);
	assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, NULL), 0);
	close(fd);
}

static void expect_open(int dirfd, int outcome, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	struct image *image = NULL;

	assert_int_equal(image_open(dirfd, NULL, &problem, &image), outcome);
	assert_null(image);
	if (!strstr(problem.message, text))
		fail_msg("\"%s\" is not in \"%s\"", text, problem.message);
}

static void expect_in_place_of(int dirfd, const char *name, const char *what)
{
	char text[128], saved[96];

	(void)snprintf(saved, sizeof(saved), "%s.saved", name);
	assert_int_equal(renameat(dirfd, name, dirfd, saved), 0);
	(void)snprintf(text, sizeof(text), "%s: missing", what);
	expect_open(dirfd, IMAGE_E_CORRUPT, text);
	assert_int_equal(symlinkat(saved, dirfd, name), 0);
	(void)snprintf(text, sizeof(text), "%s: is a symbolic link", what);
	expect_open(dirfd, IMAGE_E_CORRUPT, text);
	assert_int_equal(unlinkat(dirfd, name, 0), 0);
	assert_int_equal(mkfifoat(dirfd, name, 0644), 0);
	(void)snprintf(text, sizeof(text), "%s: not a regular file", what);
	expect_open(dirfd, IMAGE_E_CORRUPT, text);
	assert_int_equal(unlinkat(dirfd, name, 0), 0);
	assert_int_equal(mkdirat(dirfd, name, 0755), 0);
	expect_open(dirfd, IMAGE_E_CORRUPT, text);
	assert_int_equal(unlinkat(dirfd, name, AT_REMOVEDIR), 0);
	/* foreign: long enough, but something else */
	assert_int_equal(file_write_atomic(dirfd, name, text, 0, 0644), 0);
	expect_open(dirfd, IMAGE_E_CORRUPT, what);
	assert_int_equal(unlinkat(dirfd, name, 0), 0);
	assert_int_equal(linkat(AT_FDCWD, "/proc/self/exe", dirfd, name, AT_SYMLINK_FOLLOW), 0);
	expect_open(dirfd, IMAGE_E_CORRUPT, what);
	assert_int_equal(renameat(dirfd, saved, dirfd, name), 0);
}

static void test_other_files(void **state)
{
	struct place *p = *state;
	char id[ID_LEN + 1], layer[80], what[80];
	struct problem problem = PROBLEM_INIT;
	struct manifest m;
	int fd = make(p, id);

	only_layer(fd, layer);
	(void)snprintf(what, sizeof(what), "layer %s", layer + strlen("layers/"));
	expect_in_place_of(fd, "map", "map");
	expect_in_place_of(fd, layer, what);
	assert_int_equal(renameat(fd, "layers", fd, "elsewhere"), 0);
	expect_open(fd, IMAGE_E_CORRUPT, "layers: missing");
	assert_int_equal(symlinkat("elsewhere", fd, "layers"), 0);
	expect_open(fd, IMAGE_E_CORRUPT, "layers: ");
	assert_int_equal(unlinkat(fd, "layers", 0), 0);
	assert_int_equal(renameat(fd, "elsewhere", fd, "layers"), 0);
	check_memory(p, fd);
	assert_int_equal(unlinkat(fd, "manifest.json", 0), 0);
	assert_int_equal(snapshot_open(fd, NULL, &problem, &m), -ENOENT);
	assert_int_equal(problem.status, 404);
	close(fd);
}

static void test_newer_versions(void **state)
{
	static const char want[] =
		"written by a newer Dormouse (format 3.0, this program reads 2.x)";
	struct place *p = *state;
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1], layer[80], *text;
	struct manifest m;
	char *at;
	int fd = make(p, id);

	only_layer(fd, layer);
	fixture_flip(fd, "map", 8, 0x2 ^ 0x3);
	expect_open(fd, IMAGE_E_VERSION, want);
	fixture_flip(fd, "map", 8, 0x2 ^ 0x3);
	fixture_flip(fd, layer, 8, 0x2 ^ 0x3);
	expect_open(fd, IMAGE_E_VERSION, want);
	fixture_flip(fd, layer, 8, 0x2 ^ 0x3);
	assert_int_equal(file_read(fd, "manifest.json", 1u << 20, &text, NULL), 0);
	at = strstr(text, "\"major\": 2");
	assert_non_null(at);
	fixture_flip(fd, "manifest.json", (uint64_t)(at - text) + 9, '2' ^ '3');
	assert_int_equal(snapshot_open(fd, NULL, &problem, &m), IMAGE_E_VERSION);
	assert_non_null(strstr(problem.message, want));
	free(text);
	close(fd);
}

static void count_progress(void *userdata, uint64_t done, uint64_t total)
{
	assert_true(done <= total);
	*(uint64_t *)userdata = done == total ? total : 0;
}

static void test_verify_finds(void **state)
{
	struct place *p = *state;
	struct problem problem = PROBLEM_INIT;
	char id[ID_LEN + 1], layer[80];
	uint64_t frames = 0;
	int fd = make(p, id);

	only_layer(fd, layer);
	assert_int_equal(snapshot_verify(fd, NULL, count_progress, &frames, &problem), 0);
	assert_true(frames > 0);
	fixture_flip(fd, "device", 3, 0x10);
	assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, "device: checksum mismatch (stored 0x"));
	fixture_flip(fd, "device", 3, 0x10);
	problem = PROBLEM_INIT;
	fixture_flip(fd, layer, 4096 + 77, 0x40);
	assert_int_equal(snapshot_verify(fd, NULL, NULL, NULL, &problem), IMAGE_E_CORRUPT);
	assert_non_null(strstr(problem.message, ": frame "));
	assert_non_null(strstr(problem.message, " at offset "));
	assert_non_null(strstr(problem.message, ": checksum mismatch (stored 0x"));
	close(fd);
}

#define SNAPSHOT_TEST(_f) cmocka_unit_test_setup_teardown(_f, setup, teardown)
TEST_MAIN(SNAPSHOT_TEST(test_commit_and_open), SNAPSHOT_TEST(test_commit_refuses),
	  SNAPSHOT_TEST(test_clone), SNAPSHOT_TEST(test_clone_against_delete),
	  SNAPSHOT_TEST(test_flipped_bytes), SNAPSHOT_TEST(test_flipped_manifest),
	  SNAPSHOT_TEST(test_truncated), SNAPSHOT_TEST(test_other_files),
	  SNAPSHOT_TEST(test_newer_versions), SNAPSHOT_TEST(test_verify_finds))
