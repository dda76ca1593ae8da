/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2.c - headers of qcow2 files
 *
 * All numbers are big-endian. The header is in the first cluster: 72 bytes (version 2) or 104 and
 * more (version 3), then the header extensions (type, length, data, padded to 8 bytes) up to one of
 * type 0, then the backing file's name. Everything that is read here must lie in the first cluster
 * and in the file.
 *
 * What a guest could have written into its disk cannot harm: QEMU is told each disk's format and
 * never guesses. The same must hold inside a chain, so an overlay has to state the format of its
 * backing file; without that QEMU looks at its first bytes, which in a raw disk are the guest's.
 */
#include "image/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/plain-file.h"
#include "image/snapshot.h"

#define MAGIC		  0x514649fbu /* "QFI" 0xfb */
#define HEADER_2	  72u
#define HEADER_3	  104u
#define MIN_CLUSTER_BITS  9u
#define MAX_CLUSTER_BITS  21u
#define MAX_HEADER_BYTES  (1u << 16) /* of the first cluster, what is looked at */
#define MAX_BACKING_BYTES 1023u
#define MAX_L1_BYTES	  (32u << 20)
#define MAX_REFCOUNT	  6u /* order: 64 bits */

enum {
	FEATURE_DIRTY = 1u << 0,
	FEATURE_CORRUPT = 1u << 1,
	FEATURE_DATA_FILE = 1u << 2,
	FEATURE_COMPRESSION = 1u << 3,
	FEATURE_EXTENDED_L2 = 1u << 4,
	FEATURES = (1u << 5) - 1,
};

enum {
	EXTENSION_END = 0,
	EXTENSION_BACKING_FORMAT = 0xe2792aca,
	EXTENSION_DATA_FILE = 0x44415441,
};

struct header {
	const uint8_t *data;
	size_t len; /* of data: the first cluster as far as the file has it */
	uint64_t file_bytes;
	uint32_t version;
	uint32_t header_bytes;
	uint32_t cluster_bits;
	uint64_t features;
};

#define refuse(_problem, ...) (problem_set((_problem), 500, "qcow2: " __VA_ARGS__), DISK_E_CORRUPT)
#define ull(_v)		      ((unsigned long long)(_v))

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

/* ---- the fixed part ---------------------------------------------------------------------------
 */

static int read_version(struct header *h, struct problem *problem)
{
	if (h->len < HEADER_2 || get32(h->data) != MAGIC)
		return refuse(problem, "it does not begin with \"QFI\\xfb\"");
	h->version = get32(h->data + 4);
	if (h->version != 2 && h->version != 3)
		return refuse(problem, "version %u, only 2 and 3 are known", h->version);
	h->cluster_bits = get32(h->data + 20);
	if (h->cluster_bits < MIN_CLUSTER_BITS || h->cluster_bits > MAX_CLUSTER_BITS)
		return refuse(problem, "clusters of 2^%u bytes, allowed are 2^%u to 2^%u",
			      h->cluster_bits, MIN_CLUSTER_BITS, MAX_CLUSTER_BITS);
	h->len = MIN(h->len, (size_t)1 << h->cluster_bits);
	h->header_bytes = HEADER_2;
	if (h->version == 2)
		return 0;
	if (h->len < HEADER_3)
		return refuse(problem, "the file ends in its header");
	h->header_bytes = get32(h->data + 100);
	if (h->header_bytes < HEADER_3 || h->header_bytes % 8 || h->header_bytes > h->len)
		return refuse(problem, "a header of %u bytes", h->header_bytes);
	if (get32(h->data + 96) > MAX_REFCOUNT)
		return refuse(problem, "reference counts of 2^%u bits", get32(h->data + 96));
	h->features = get64(h->data + 72);
	return 0;
}

static int check_features(const struct header *h, struct problem *problem)
{
	/* a field that the header is too short for is 0 */
	uint8_t compression = h->header_bytes > HEADER_3 ? h->data[HEADER_3] : 0;

	if (h->features & ~(uint64_t)FEATURES)
		return refuse(problem, "features that nobody here knows (0x%llx)",
			      ull(h->features & ~(uint64_t)FEATURES));
	if (h->features & FEATURE_DATA_FILE)
		return refuse(problem, "its data is in another file");
	if (h->features & (FEATURE_CORRUPT | FEATURE_DIRTY)) {
		problem_hint(problem, "\"qemu-img check -r all\" repairs such a disk");
		return refuse(problem, "marked as %s",
			      h->features & FEATURE_CORRUPT ? "corrupt" : "not closed");
	}
	if (compression > 1 || !!(h->features & FEATURE_COMPRESSION) != !!compression)
		return refuse(problem, "compression type %u", compression);
	if (h->features & FEATURE_EXTENDED_L2 && h->cluster_bits < 14)
		return refuse(problem, "subclusters in clusters of 2^%u bytes", h->cluster_bits);
	if (get32(h->data + 32))
		return refuse(problem, "encrypted (method %u)", get32(h->data + 32));
	return 0;
}

/* The first table must be there and be large enough for the size that is claimed. */
static int check_size(const struct header *h, struct problem *problem, uint64_t *ret)
{
	uint64_t size = get64(h->data + 24), l1_offset = get64(h->data + 40);
	uint64_t l1_bytes = get32(h->data + 36) * 8ull;
	uint32_t entry = h->features & FEATURE_EXTENDED_L2 ? 4 : 3;
	uint32_t reach = 2 * h->cluster_bits - entry; /* one L1 entry covers 2^reach bytes */

	if (size == 0 || size > QCOW2_MAX_VIRTUAL_BYTES)
		return refuse(problem, "a virtual disk of %llu bytes", ull(size));
	if (l1_bytes > MAX_L1_BYTES || l1_offset % (1ull << h->cluster_bits) || l1_offset == 0 ||
	    l1_bytes > h->file_bytes || l1_offset > h->file_bytes - l1_bytes)
		return refuse(problem, "an L1 table of %llu bytes at %llu in a file of %llu",
			      ull(l1_bytes), ull(l1_offset), ull(h->file_bytes));
	if (((size - 1) >> reach) >= l1_bytes / 8)
		return refuse(problem, "a virtual disk of %llu bytes with an L1 table of %llu",
			      ull(size), ull(l1_bytes));
	*ret = size;
	return 0;
}

/* ---- extensions and the backing file ----------------------------------------------------------
 */

/* Text of @len bytes at @p, which must be shorter than @size and without a zero byte. */
static bool copy_text(char *dst, size_t size, const uint8_t *p, size_t len)
{
	if (len == 0 || len >= size || memchr(p, 0, len))
		return false;
	memcpy(dst, p, len);
	dst[len] = 0;
	return true;
}

static int read_format(const uint8_t *p, size_t len, struct problem *problem, char ret[8])
{
	char text[8];

	if (!copy_text(text, sizeof(text), p, len) ||
	    (strcmp(text, "raw") && strcmp(text, "qcow2")))
		return refuse(problem, "a backing file that is neither raw nor qcow2");
	if (ret[0])
		return refuse(problem, "two formats of one backing file");
	memcpy(ret, text, sizeof(text));
	return 0;
}

static int read_extensions(const struct header *h, uint64_t end, struct problem *problem,
			   char ret_format[8])
{
	uint64_t at = h->header_bytes;

	while (end - at >= 8) {
		uint32_t type = get32(h->data + at), len = get32(h->data + at + 4);
		int r = 0;

		at += 8;
		if (type == EXTENSION_END)
			return 0;
		if (len > end - at)
			return refuse(problem, "a header extension of %u bytes at %llu", len,
				      ull(at));
		if (type == EXTENSION_DATA_FILE)
			return refuse(problem, "its data is in another file");
		if (type == EXTENSION_BACKING_FORMAT)
			r = read_format(h->data + at, len, problem, ret_format);
		if (r)
			return r;
		at = MIN(at + (len + 7ull) / 8 * 8, end);
	}
	return 0;
}

static int read_backing(const struct header *h, struct problem *problem, struct qcow2_info *ret)
{
	uint64_t offset = get64(h->data + 8), len = get32(h->data + 16), end = h->len;
	char name[MAX_BACKING_BYTES + 1];
	int r;

	if (offset) {
		if (len > MAX_BACKING_BYTES || offset < h->header_bytes || offset > h->len ||
		    len > h->len - offset)
			return refuse(problem, "a backing file's name of %llu bytes at %llu",
				      ull(len), ull(offset));
		end = offset;
	}
	r = read_extensions(h, end, problem, ret->backing_format);
	if (r || !offset) {
		ret->backing_format[0] = 0; /* of nothing */
		return r;
	}
	if (!copy_text(name, sizeof(name), h->data + offset, len) || !str_is_name(name) ||
	    strstr(name, ".."))
		return refuse(problem, "its backing file is not a disk beside it");
	if (!ret->backing_format[0]) {
		problem_hint(problem, "\"qemu-img rebase -u -b %s -F FORMAT\" states it", name);
		return refuse(problem, "the format of its backing file %s is not stated", name);
	}
	str_copy(ret->backing, sizeof(ret->backing), name);
	return 0;
}

int qcow2_read_info(int fd, struct problem *problem, struct qcow2_info *ret)
{
	_cleanup_free_ uint8_t *data = malloc(MAX_HEADER_BYTES);
	struct qcow2_info info = {0};
	struct header h = {.data = data};
	struct stat st;
	int r;

	if (!data)
		return -ENOMEM;
	r = fstat(fd, &st) < 0 ? error_errno() : 0;
	if (r == 0) {
		h.file_bytes = (uint64_t)st.st_size;
		h.len = MIN(h.file_bytes, (uint64_t)MAX_HEADER_BYTES);
		r = fd_pread_full(fd, data, h.len, 0);
	}
	if (r < 0) {
		problem_errno(problem, r, "qcow2: reading the header");
		return error_trace(r);
	}
	r = read_version(&h, problem);
	if (r == 0)
		r = check_features(&h, problem);
	if (r == 0)
		r = check_size(&h, problem, &info.virtual_bytes);
	if (r == 0)
		r = read_backing(&h, problem, &info);
	if (r == 0)
		*ret = info;
	return r;
}

/* ---- chains -----------------------------------------------------------------------------------
 */

static int read_disk(int disks_dirfd, const struct snapshot_disk *disk, struct problem *problem,
		     struct qcow2_info *ret)
{
	_cleanup_fd_ int fd = -1;
	struct problem cause = PROBLEM_INIT;
	char what[sizeof(disk->name) + 8];
	int r;

	(void)snprintf(what, sizeof(what), "disks/%s", disk->name);
	r = plain_file_open(disks_dirfd, disk->name, what, problem, &fd, NULL);
	if (r)
		return r > 0 ? DISK_E_CORRUPT : r;
	r = qcow2_read_info(fd, &cause, ret);
	if (r == 0)
		return 0;
	problem_set(problem, 500, "%s: %s", what, cause.message);
	if (cause.hint[0])
		problem_hint(problem, "%s", cause.hint);
	return r;
}

/* The disk of the list that backs @disk. Return: its number; -1 with a problem */
static int find_backing(const struct snapshot_disk *disks, size_t n, size_t i,
			const struct qcow2_info *info, struct problem *problem)
{
	for (size_t k = 0; k < n; k++) {
		if (strcmp(disks[k].name, info->backing))
			continue;
		if (strcmp(disks[k].format, info->backing_format)) {
			problem_set(problem, 500,
				    "disks/%s: takes its backing file %s for %s, it is %s",
				    disks[i].name, info->backing, info->backing_format,
				    disks[k].format);
			return -1;
		}
		return (int)k;
	}
	problem_set(problem, 500, "disks/%s: its backing file %s is not a disk of this snapshot",
		    disks[i].name, info->backing);
	return -1;
}

/* @next: for each disk the number of its backing one, -1 at an end. */
static int check_cycles(const struct snapshot_disk *disks, const int *next, size_t n,
			struct problem *problem)
{
	for (size_t i = 0; i < n; i++) {
		size_t steps = 0;

		for (int k = next[i]; k >= 0 && steps <= n; k = next[k])
			steps++;
		if (steps > n)
			return refuse(problem, "disks/%s: its chain of backing files has no end",
				      disks[i].name);
	}
	return 0;
}

int disk_check_chain(int disks_dirfd, const struct snapshot_disk *disks, size_t n,
		     struct problem *problem)
{
	int next[SNAPSHOT_MAX_DISKS], r;

	if (n > SNAPSHOT_MAX_DISKS)
		return refuse(problem, "%zu disks, limit %d", n, SNAPSHOT_MAX_DISKS);
	for (size_t i = 0; i < n; i++) {
		struct qcow2_info info;

		next[i] = -1;
		if (!strcmp(disks[i].format, "raw") && !disks[i].backing[0])
			continue;
		if (!strcmp(disks[i].format, "raw"))
			return refuse(problem, "disks/%s: a raw disk with a backing file",
				      disks[i].name);
		if (strcmp(disks[i].format, "qcow2")) {
			problem_set(problem, 500,
				    "disks/%s: format \"%s\", known are raw and qcow2",
				    disks[i].name, disks[i].format);
			return DISK_E_CORRUPT;
		}
		r = read_disk(disks_dirfd, &disks[i], problem, &info);
		if (r == 0 && disks[i].backing[0] && strcmp(disks[i].backing, info.backing)) {
			problem_set(problem, 500,
				    "disks/%s: its backing file is %s, the manifest says %s",
				    disks[i].name, info.backing[0] ? info.backing : "none",
				    disks[i].backing);
			return DISK_E_CORRUPT;
		}
		if (r == 0 && info.backing[0]) {
			next[i] = find_backing(disks, n, i, &info, problem);
			r = next[i] < 0 ? DISK_E_CORRUPT : 0;
		}
		if (r)
			return error_trace(r);
	}
	return check_cycles(disks, next, n, problem);
}
