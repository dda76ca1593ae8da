/* SPDX-License-Identifier: Apache-2.0 */
#include "guest-ram.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/mem.h"

#define STRIDE                                                                                     \
	1021u /* prime, so that it goes round every number of pages that is no multiple of it */

const char *const page_order_names[N_PAGE_ORDERS] = {"ascending", "descending", "strided",
						     "shuffled"};

/* Keep the lines of @maps that show the memory file. */
static int find_pieces(FILE *maps, const struct stat *st, struct ram *ram)
{
	char line[4352];

	while (fgets(line, sizeof(line), maps)) {
		unsigned long long start, end, offset, inode;
		unsigned major, minor;

		if (sscanf(line, "%llx-%llx %*s %llx %x:%x %llu", &start, &end, &offset, &major,
			   &minor, &inode) != 6)
			return -EBADMSG;
		if (inode != st->st_ino || makedev(major, minor) != st->st_dev)
			continue;
		if (ram->n_pieces == RAM_MAX_PIECES)
			return -E2BIG;
		ram->pieces[ram->n_pieces++] =
			(struct ram_piece){.start = start, .end = end, .offset = offset};
	}
	return ferror(maps) ? -EIO : 0;
}

static const struct ram_piece *piece_at(const struct ram *ram, uint64_t offset)
{
	const struct ram_piece *found = NULL;

	for (unsigned i = 0; i < ram->n_pieces; i++) {
		const struct ram_piece *p = &ram->pieces[i];

		if (offset < p->offset || offset - p->offset >= p->end - p->start)
			continue;
		if (found)
			return NULL; /* mapped twice: which one does the guest see? */
		found = p;
	}
	return found;
}

static bool is_covered(const struct ram *ram, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += DORM_PAGE_SIZE)
		if (!piece_at(ram, at))
			return false;
	return true;
}

int ram_find(pid_t pid, int memory_fd, uint64_t bytes, struct problem *problem, struct ram *ret)
{
	struct ram ram = {.pid = pid};
	struct stat st;
	char path[64];
	FILE *maps;
	int r;

	if (fstat(memory_fd, &st) < 0)
		return error_errno();
	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid); /* fits */
	maps = fopen(path, "re");
	r = maps ? find_pieces(maps, &st, &ram) : error_errno();
	if (maps)
		(void)fclose(maps); /* only read */
	if (r == 0 && !is_covered(&ram, bytes)) {
		problem_set(problem, 500,
			    "process %d maps its guest's memory %u times, but not every page once",
			    (int)pid, ram.n_pieces);
		r = -EBADMSG;
	}
	if (r < 0) {
		problem_errno(problem, r, "looking into %s", path);
		return error_trace(r);
	}
	*ret = ram;
	return 0;
}

int ram_read(const struct ram *ram, uint64_t gfn, uint64_t n_pages, void *out)
{
	uint64_t offset = gfn * DORM_PAGE_SIZE, end = offset + n_pages * DORM_PAGE_SIZE;
	char *to = out;

	while (offset < end) {
		const struct ram_piece *p = piece_at(ram, offset);
		struct iovec local = {.iov_base = to}, remote;
		ssize_t n;

		if (!p)
			return error_trace(-EFAULT);
		remote.iov_base = (void *)(p->start + (offset - p->offset));
		remote.iov_len = MIN(end - offset, p->end - p->start - (offset - p->offset));
		local.iov_len = remote.iov_len;
		n = process_vm_readv(ram->pid, &local, 1, &remote, 1, 0);
		if (n <= 0) /* less than asked for is fine; nothing is not */
			return n < 0 ? error_errno() : error_trace(-EFAULT);
		to += n;
		offset += (uint64_t)n;
	}
	return 0;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, DORM_PAGE_SIZE - 1) == 0;
}

static void note_place(struct diff *diff, uint64_t gfn, const uint8_t *expected,
		       const uint8_t *found)
{
	unsigned at = 0;

	while (expected[at] == found[at])
		at++;
	diff->places[diff->n_places++] = (struct diff_place){.gfn = gfn,
							     .at = at,
							     .expected = expected[at],
							     .found = found[at],
							     .expected_zero = is_zero(expected),
							     .found_zero = is_zero(found)};
}

void diff_pages(struct diff *diff, uint64_t gfn, uint64_t n_pages, const void *expected,
		const void *found)
{
	const uint8_t *e = expected, *f = found;

	for (uint64_t i = 0; i < n_pages; i++, e += DORM_PAGE_SIZE, f += DORM_PAGE_SIZE) {
		diff->n_compared++;
		if (memcmp(e, f, DORM_PAGE_SIZE) == 0)
			continue;
		diff->n_pages++;
		if (diff->n_places < DIFF_MAX_PLACES)
			note_place(diff, gfn + i, e, f);
	}
}

/* Fisher and Yates, with a small generator of its own so that every run has the same order. */
static void shuffle(uint32_t *a, uint32_t n)
{
	uint64_t state = 88172645463325252ull;

	for (uint32_t i = n; i > 1; i--) {
		uint32_t k, t;

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		k = (uint32_t)(state % i);
		t = a[i - 1];
		a[i - 1] = a[k];
		a[k] = t;
	}
}

uint32_t *page_order_new(enum page_order order, uint32_t n_pages)
{
	uint32_t *a = calloc(n_pages, sizeof(*a));

	if (!a)
		return NULL;
	for (uint32_t i = 0; i < n_pages; i++) {
		if (order == ORDER_DESCENDING)
			a[i] = n_pages - 1 - i;
		else if (order == ORDER_STRIDED)
			a[i] = (uint32_t)((uint64_t)i * STRIDE % n_pages);
		else
			a[i] = i;
	}
	if (order == ORDER_SHUFFLED)
		shuffle(a, n_pages);
	return a;
}
