/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-layer.c - what layers cost: checksums, encryption, writing
 *
 * Ratios are of two things in the same run that take turns, on the same bytes and the same disk;
 * the median of the rounds' ratios is what counts. Prints one JSON object per line:
 * {"metric", "value", "unit", "min", "median", "max", "n", "from", "to"}.
 *
 *     bench-layer [--dir DIR] [--size MIB] [--read-size MIB] [--rounds N]
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "base/str.h"
#include "image/aead.h"
#include "image/image.h"
#include "image/layer-writer.h"
#include "image/layer.h"

#define MAX_ROUNDS 64u
#define MIB	   (1ull << 20)

struct bench {
	int dirfd;
	uint64_t size;	    /* of what is committed */
	uint64_t read_size; /* of what is read */
	unsigned rounds;
	uint8_t *noise; /* of the larger of the two */
	uint8_t *out;	/* IMAGE_FRAME_BYTES, aligned */
	uint8_t *scratch;
};

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "bench-layer: %s failed: %s\n", what, strerror(errno));
	exit(1);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print(const char *metric, const char *unit, double *values, unsigned n,
		  const char *from, const char *to)
{
	double median;

	qsort(values, n, sizeof(*values), compare);
	median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
	(void)printf(
		"{\"metric\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"min\": %.6g, "
		"\"median\": %.6g, \"max\": %.6g, \"n\": %u, \"from\": \"%s\", \"to\": \"%s\"}\n",
		metric, median, unit, values[0], median, values[n - 1], n, from, to);
	(void)fflush(stdout);
}

static double seconds_since(uint64_t start_ns)
{
	return (double)(clock_now_ns() - start_ns) / 1e9;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static const uint8_t layer_id_bytes[LAYER_ID_BYTES] = {0xbe, 0x7c, 4};

/* A layer of plain frames of 64 KiB, as they are on the disk. */
static struct layer *make_layer(struct bench *b, int *ret_fd)
{
	struct layer_options options = {.codec = IMAGE_CODEC_NONE};
	char name[2 * LAYER_ID_BYTES + 1];
	uint8_t digest[DIGEST_BYTES];
	struct layer_writer *w;
	struct layer *l;
	uint64_t bytes;

	str_hex(layer_id_bytes, LAYER_ID_BYTES, name);
	(void)unlinkat(b->dirfd, name, 0); /* of a run that was interrupted */
	require(layer_writer_new(b->dirfd, layer_id_bytes, &options, NULL, &w) == 0, "a new layer");
	for (uint64_t at = 0; at < b->read_size; at += IMAGE_FRAME_BYTES)
		require(layer_writer_add(w, b->noise + at, IMAGE_FRAME_PAGES, NULL) == 0,
			"writing");
	require(layer_writer_commit(w, digest, &bytes, NULL) == 0, "committing");
	layer_writer_free(w);
	*ret_fd = openat(b->dirfd, name, O_RDONLY | O_CLOEXEC);
	require(*ret_fd >= 0, "opening the layer");
	require(layer_open(b->dirfd, layer_id_bytes, NULL, NULL, &l) == 0, "opening the layer");
	(void)unlinkat(b->dirfd, name, 0); /* descriptors suffice */
	return l;
}

static void drop(int fd)
{
	require(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "dropping the cache");
}

static uint64_t frame_offset(uint32_t frame)
{
	return DORM_PAGE_SIZE + (uint64_t)frame * IMAGE_FRAME_BYTES;
}

static void read_plainly(struct bench *b, int fd, uint32_t frame)
{
	require(fd_pread_full(fd, b->out, IMAGE_FRAME_BYTES, frame_offset(frame)) == 0, "reading");
}

static void read_verified(struct bench *b, const struct layer *l, uint32_t frame)
{
	uint32_t n;

	require(layer_read_frame(l, frame, b->scratch, b->out, &n, NULL) == 0, "reading a frame");
}

static uint32_t *shuffled(uint32_t n)
{
	uint32_t *order = malloc(n * sizeof(*order));
	uint64_t seed = 1;

	require(order, "memory");
	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t j, tmp;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		j = (uint32_t)((seed >> 33) % (i + 1));
		tmp = order[i];
		order[i] = order[j];
		order[j] = tmp;
	}
	return order;
}

/* Cold frames in random order: how much of the time is the checksum? */
static void bench_cold_frames(struct bench *b, struct layer *l, int fd)
{
	double plain[MAX_ROUNDS], checked[MAX_ROUNDS], share[MAX_ROUNDS];
	uint32_t n = layer_n_frames(l), *order = shuffled(n);
	uint64_t tags = 0;

	require(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) == 0, "fadvise");
	for (unsigned r = 0; r < b->rounds; r++) {
		uint64_t start, hashing = 0;

		drop(fd);
		start = clock_now_ns();
		for (uint32_t i = 0; i < n; i++) {
			uint64_t before;

			read_plainly(b, fd, order[i]);
			before = clock_now_ns();
			tags += layer_tag(layer_id_bytes, order[i], b->out, IMAGE_FRAME_BYTES);
			hashing += clock_now_ns() - before;
		}
		checked[r] = seconds_since(start) / n * 1e6;
		share[r] = (double)hashing / 1e3 / n / checked[r] * 100;
		drop(fd);
		start = clock_now_ns();
		for (uint32_t i = 0; i < n; i++)
			read_plainly(b, fd, order[i]);
		plain[r] = seconds_since(start) / n * 1e6;
	}
	require(tags != 1, "hashing"); /* so that it is not left out */
	free(order);
	print("layer_cold_frame", "us", plain, b->rounds, "pread of 64 KiB that are not cached",
	      "bytes in memory, not verified");
	print("layer_cold_frame_xxh3", "us", checked, b->rounds,
	      "pread of 64 KiB that are not cached", "bytes in memory, XXH3 compared");
	print("layer_xxh3_share", "percent", share, b->rounds, "XXH3 of a frame that was just read",
	      "of the time of the cold read and XXH3");
}

static double sequential(struct bench *b, struct layer *l, int fd, bool verified, bool cold)
{
	uint32_t n = layer_n_frames(l);
	uint64_t start;

	if (cold)
		drop(fd);
	start = clock_now_ns();
	for (uint32_t i = 0; i < n; i++)
		if (verified)
			read_verified(b, l, i);
		else
			read_plainly(b, fd, i);
	return (double)b->read_size / 1e9 / seconds_since(start);
}

static void bench_sequential(struct bench *b, struct layer *l, int fd, bool cold)
{
	double plain[MAX_ROUNDS], verified[MAX_ROUNDS], ratio[MAX_ROUNDS];
	const char *from = cold ? "frames in order, not cached" : "frames in order, all cached";
	char metric[64];

	require(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0, "fadvise");
	(void)sequential(b, l, fd, true, false); /* warm up, and fill the cache */
	for (unsigned r = 0; r < b->rounds; r++) {
		bool first = r % 2; /* whoever comes first may have it harder */

		if (first)
			verified[r] = sequential(b, l, fd, true, cold);
		plain[r] = sequential(b, l, fd, false, cold);
		if (!first)
			verified[r] = sequential(b, l, fd, true, cold);
		ratio[r] = verified[r] / plain[r];
	}
#define METRIC(_name)                                                                              \
	((void)snprintf(metric, sizeof(metric), "layer_%s_%s", cold ? "cold" : "hot", _name),      \
	 metric)
	print(METRIC("read"), "GB/s", plain, b->rounds, from, "pread alone");
	print(METRIC("read_verified"), "GB/s", verified, b->rounds, from, "layer_read_frame");
	print(METRIC("verified_ratio"), "ratio", ratio, b->rounds, "layer_read_frame in order",
	      "pread alone, taking turns");
#undef METRIC
}

/* ---- encryption -------------------------------------------------------------------------------
 */

static void bench_aead(struct bench *b)
{
	const unsigned n = 8192; /* 512 MiB */
	double open[MAX_ROUNDS], seal[MAX_ROUNDS];
	uint8_t bytes[AEAD_KEY_BYTES], tag[AEAD_TAG_BYTES], about_data[LAYER_ABOUT_BYTES] = {0};
	struct aead_about about = {.data = about_data, .len = sizeof(about_data)};
	struct aead_key key;

	id_random(bytes, sizeof(bytes));
	aead_key_init(&key, bytes);
	for (unsigned r = 0; r < b->rounds; r++) {
		uint64_t start = clock_now_ns();

		for (unsigned i = 0; i < n; i++)
			require(aead_seal(&key, &about, b->noise, IMAGE_FRAME_BYTES, b->scratch,
					  tag) == 0,
				"encrypting");
		seal[r] = (double)n * IMAGE_FRAME_BYTES / 1e9 / seconds_since(start);
		start = clock_now_ns();
		for (unsigned i = 0; i < n; i++)
			require(aead_open(&key, &about, b->scratch, IMAGE_FRAME_BYTES, b->out,
					  tag) == 0,
				"decrypting");
		open[r] = (double)n * IMAGE_FRAME_BYTES / 1e9 / seconds_since(start);
	}
	print("layer_aes_gcm_open", "GB/s", open, b->rounds, "64 KiB frames in memory, one thread",
	      "decrypted and verified");
	print("layer_aes_gcm_seal", "GB/s", seal, b->rounds, "64 KiB frames in memory, one thread",
	      "encrypted and tagged");
}

/* ---- committing -------------------------------------------------------------------------------
 */

/* As dd conv=fsync: one file, 1 MiB at a time, fsync at the end. */
static double write_plainly(struct bench *b)
{
	uint64_t start;
	double rate;
	int fd;

	(void)unlinkat(b->dirfd, "plain", 0);
	sync(); /* what others left to write is not ours */
	start = clock_now_ns();
	fd = openat(b->dirfd, "plain", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	require(fd >= 0, "creating a file");
	for (uint64_t at = 0; at < b->size; at += MIB)
		require(fd_write_full(fd, b->noise + at, MIB) == 0, "writing");
	require(fsync(fd) == 0, "fsync");
	rate = (double)b->size / 1e9 / seconds_since(start);
	close(fd);
	require(unlinkat(b->dirfd, "plain", 0) == 0, "removing a file");
	return rate;
}

static double write_image(struct bench *b)
{
	struct image_writer_options options = {.codec = IMAGE_CODEC_ZSTD};
	struct image_writer_stats stats;
	struct image_writer *w;
	struct image *zero;
	char id[IMAGE_ID_LEN + 1];
	uint64_t start;
	double rate;
	int fd;

	require(file_remove_tree(b->dirfd, "image") == 0, "removing an image");
	require(mkdirat(b->dirfd, "image", 0700) == 0, "mkdir");
	fd = file_open_dir(b->dirfd, "image");
	require(image_open_zero(b->size / DORM_PAGE_SIZE, &zero) == 0, "an image of zeros");
	sync();
	start = clock_now_ns();
	require(image_writer_new(fd, zero, -1, &options, NULL, &w) == 0, "an image writer");
	for (uint64_t at = 0; at < b->size; at += MIB)
		require(image_writer_add(w, at / DORM_PAGE_SIZE, MIB / DORM_PAGE_SIZE,
					 b->noise + at, NULL) == 0,
			"adding pages");
	require(image_writer_commit(w, &stats, id, NULL) == 0, "committing");
	rate = (double)b->size / 1e9 / seconds_since(start);
	require(stats.pages_stored == b->size / DORM_PAGE_SIZE, "storing every page");
	image_writer_free(w);
	image_unref(zero);
	close(fd);
	require(file_remove_tree(b->dirfd, "image") == 0, "removing an image");
	return rate;
}

static void bench_commit(struct bench *b)
{
	double plain[MAX_ROUNDS], image[MAX_ROUNDS], ratio[MAX_ROUNDS];

	(void)write_plainly(b); /* both find the file system warmed up */
	for (unsigned r = 0; r < b->rounds; r++) {
		bool first = r % 2;

		if (first)
			image[r] = write_image(b);
		plain[r] = write_plainly(b);
		if (!first)
			image[r] = write_image(b);
		ratio[r] = image[r] / plain[r];
	}
	print("layer_plain_write", "GB/s", plain, b->rounds, "open of a new file",
	      "fsync after write() of 1 MiB each");
	print("layer_commit", "GB/s", image, b->rounds,
	      "image_writer_new, pages that do not compress", "image_writer_commit has returned");
	print("layer_commit_ratio", "ratio", ratio, b->rounds,
	      "commit of pages that do not compress",
	      "write() and fsync of the same bytes, taking turns");
}

/* ---- */

static void fill_noise(uint8_t *p, uint64_t len)
{
	uint64_t x = 88172645463325252ull;

	for (uint64_t i = 0; i < len; i += 8) { /* xorshift64 */
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static uint64_t parse_number(const char *text, uint64_t max)
{
	uint64_t n;

	if (str_to_u64(text, &n) == 0 && n >= 1 && n <= max)
		return n;
	(void)fprintf(stderr, "bench-layer: \"%s\" is not a number from 1 to %llu\n", text,
		      (unsigned long long)max);
	exit(2);
}

static void parse(int argc, char **argv, struct bench *b)
{
	static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
						{"size", required_argument, NULL, 's'},
						{"read-size", required_argument, NULL, 'r'},
						{"rounds", required_argument, NULL, 'n'},
						{0}};
	const char *dir = ".";
	int c;

	*b = (struct bench){.size = 1024 * MIB, .read_size = 256 * MIB, .rounds = 5};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'd')
			dir = optarg;
		else if (c == 's')
			b->size = parse_number(optarg, 1 << 20) * MIB;
		else if (c == 'r')
			b->read_size = parse_number(optarg, 1 << 20) * MIB;
		else if (c == 'n')
			b->rounds = (unsigned)parse_number(optarg, MAX_ROUNDS);
		else
			exit(2);
	}
	b->dirfd = file_open_dir(AT_FDCWD, dir);
	require(b->dirfd >= 0, "opening the directory");
}

int main(int argc, char **argv)
{
	struct bench b;
	struct layer *l;
	int fd;

	parse(argc, argv, &b);
	b.noise = mmap(NULL, MAX(b.size, b.read_size), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b.out = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES);
	b.scratch = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES + DORM_PAGE_SIZE);
	require(b.noise != MAP_FAILED && b.out && b.scratch, "memory");
	fill_noise(b.noise, MAX(b.size, b.read_size));
	bench_aead(&b);
	l = make_layer(&b, &fd);
	bench_sequential(&b, l, fd, false);
	bench_sequential(&b, l, fd, true);
	bench_cold_frames(&b, l, fd);
	layer_close(l);
	close(fd);
	bench_commit(&b);
	(void)munmap(b.noise, MAX(b.size, b.read_size));
	free(b.out);
	free(b.scratch);
	close(b.dirfd);
	return 0;
}
