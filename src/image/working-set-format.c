/* SPDX-License-Identifier: Apache-2.0 */
/*
 * working-set-format.c - the bytes of the file
 *
 *     0          header     64 bytes: magic, version, bytes of the scores, image id, pages of the
 *                           guest and of the set, runs, bytes of the runs
 *     64         runs       of the set. Two varints each: distance to the run before, pages - 1
 *     ...        scores     since 2.1: how often the pages were needed, and candidates: pages that
 *                           were needed too seldom to be of the set
 *     ...        what a later minor version adds; none now
 *     end - 16   XXH3-128 of everything before
 *
 * A run of the set takes two or three bytes: a guest of 8 GiB that needs 10,000 scattered pages has
 * a file of some 25 KiB. The first run's distance is its gfn. Any other's is the number of pages
 * between the two, less one, so that runs that touch or overlap cannot be said at all.
 *
 *     gfn 3, 4, 5, 10     3, 2   3, 0     (10 - 6 = 4 pages between: 3)
 *
 * Whoever reads only the runs, as 2.0 did, has the set.
 *
 * Source of the design: docs/format-image.md, "Working set".
 */
#include "image/working-set.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/str.h"
#include "base/varint.h"
#include "image/le.h"
#include "image/outcome.h"
#include "image/plain-file.h"
#include "image/working-set-scores.h"

#define HEADER_BYTES  64u
#define ID_BYTES      (IMAGE_ID_LEN / 2)
#define RUN_MIN_BYTES 2u
#define RUN_MAX_BYTES (2u * VARINT_MAX)
#define MINOR	      1

#define ull(_v)	      ((unsigned long long)(_v))

static const char set_magic[] = "DORMSET"; /* eight bytes with its zero */

/* ---- encoding ---------------------------------------------------------------------------------
 */

/*
 * header   0 magic 8 | 8 major 2 | 10 minor 2 | 12 bytes of the scores 4 | 16 image id 16
 *          32 guest pages 8 | 40 pages 8 | 48 runs 8 | 56 bytes of the runs 8
 */
static int put_header(const struct working_set *s, size_t runs_len, size_t scores_len, uint8_t *out)
{
	memset(out, 0, HEADER_BYTES);
	memcpy(out, set_magic, 8);
	le_put16(out + 8, FORMAT_MAJOR);
	le_put16(out + 10, MINOR);
	le_put32(out + 12, (uint32_t)scores_len);
	le_put64(out + 32, s->guest_pages);
	le_put64(out + 40, s->n_pages);
	le_put64(out + 48, s->n_runs);
	le_put64(out + 56, runs_len);
	return str_unhex(s->image_id, out + 16, ID_BYTES);
}

static size_t put_runs(const struct working_set *s, uint8_t *out)
{
	uint64_t next = 0; /* the lowest gfn that the run may have */
	uint8_t *p = out;

	for (size_t i = 0; i < s->n_runs; i++) {
		p += varint_put(p, s->runs[i].gfn - next);
		p += varint_put(p, s->runs[i].n_pages - 1);
		next = s->runs[i].gfn + s->runs[i].n_pages + 1;
	}
	return (size_t)(p - out);
}

int working_set_encode(const struct working_set *s, struct buf *ret)
{
	_cleanup_buf_ struct buf all = {0};
	size_t runs_len, scores_len, len;
	XXH128_canonical_t sum;
	uint8_t *out;
	int r;

	if (!s->n_runs || s->n_runs > WORKING_SET_MAX_RUNS || s->n_weights > WORKING_SET_MAX_RUNS)
		return error_trace(-EINVAL);
	r = buf_reserve(&all, HEADER_BYTES + s->n_runs * RUN_MAX_BYTES +
				      working_set_scores_max_bytes(s) + DIGEST_BYTES + 1);
	if (r < 0)
		return error_trace(r);
	out = (uint8_t *)all.data;
	runs_len = put_runs(s, out + HEADER_BYTES);
	scores_len = working_set_put_scores(s, out + HEADER_BYTES + runs_len);
	len = HEADER_BYTES + runs_len + scores_len;
	if (len + DIGEST_BYTES > WORKING_SET_MAX_BYTES)
		return error_trace(-EFBIG);
	r = put_header(s, runs_len, scores_len, out);
	if (r < 0)
		return error_trace(r);
	XXH128_canonicalFromHash(&sum, XXH3_128bits(out, len));
	memcpy(out + len, sum.digest, DIGEST_BYTES);
	all.len = len + DIGEST_BYTES;
	*ret = all;
	all = (struct buf){0};
	return 0;
}

/* ---- decoding ---------------------------------------------------------------------------------
 */

struct header {
	uint16_t minor;
	uint64_t n_pages, n_runs, runs_len, scores_len;
};

static int check_frame(const uint8_t *data, size_t len, struct problem *problem)
{
	XXH128_canonical_t sum;
	int r;

	if (len < HEADER_BYTES + DIGEST_BYTES)
		return image_corrupt(problem, "working-set: %zu bytes, shorter than any", len);
	if (len > WORKING_SET_MAX_BYTES)
		return image_corrupt(problem, "working-set: %zu bytes, limit %u", len,
				     WORKING_SET_MAX_BYTES);
	if (memcmp(data, set_magic, 8))
		return image_corrupt(problem, "working-set: not a working set (magic at offset 0)");
	r = image_check_version("working-set", le_get16(data + 8), le_get16(data + 10), problem);
	if (r)
		return r;
	if (le_get16(data + 8) < 2)
		return image_corrupt(problem, "working-set: of version 1, which had none");
	XXH128_canonicalFromHash(&sum, XXH3_128bits(data, len - DIGEST_BYTES));
	if (memcmp(sum.digest, data + len - DIGEST_BYTES, DIGEST_BYTES))
		return image_corrupt(problem,
				     "working-set: checksum mismatch over %zu bytes: "
				     "truncated or altered",
				     len - DIGEST_BYTES);
	return 0;
}

static int get_header(const uint8_t *data, size_t len, struct header *h, struct working_set *s,
		      struct problem *problem)
{
	const uint64_t room = len - HEADER_BYTES - DIGEST_BYTES;

	h->minor = le_get16(data + 10);
	str_hex(data + 16, ID_BYTES, s->image_id);
	s->guest_pages = le_get64(data + 32);
	h->n_pages = le_get64(data + 40);
	h->n_runs = le_get64(data + 48);
	h->runs_len = le_get64(data + 56);
	h->scores_len = h->minor ? le_get32(data + 12) : 0; /* reserved in 2.0 */
	if (s->guest_pages == 0 || s->guest_pages > IMAGE_MAX_PAGES)
		return image_corrupt(problem, "working-set: of a guest of %llu pages, limit %llu",
				     ull(s->guest_pages), IMAGE_MAX_PAGES);
	if (h->runs_len > room || h->scores_len > room - h->runs_len ||
	    (h->minor <= MINOR && h->runs_len + h->scores_len != room))
		return image_corrupt(problem,
				     "working-set: %llu bytes of runs and %llu of scores, there is "
				     "room for %llu",
				     ull(h->runs_len), ull(h->scores_len), ull(room));
	if (h->n_runs == 0 || h->n_runs > WORKING_SET_MAX_RUNS ||
	    h->n_runs > h->runs_len / RUN_MIN_BYTES)
		return image_corrupt(problem, "working-set: %llu runs in %llu bytes, limit %u",
				     ull(h->n_runs), ull(h->runs_len), WORKING_SET_MAX_RUNS);
	return 0;
}

static_assert(sizeof(struct working_set_run) == 2 * sizeof(uint64_t),
	      "two numbers, as in the file");

static uint64_t runs_end(const struct working_set *s)
{
	return s->runs[s->n_runs - 1].gfn + s->runs[s->n_runs - 1].n_pages;
}

/* The next run holds the two numbers of the file: make them a place and a length. */
static int place_run(struct working_set *s, uint64_t next, struct problem *problem)
{
	struct working_set_run *run = &s->runs[s->n_runs];
	uint64_t distance = run->gfn, more = run->n_pages;

	if (next >= s->guest_pages || distance >= s->guest_pages - next ||
	    more >= s->guest_pages - next - distance)
		return image_corrupt(problem,
				     "working-set: run %zu is beyond the %llu pages of the guest",
				     s->n_runs, ull(s->guest_pages));
	run->gfn = next + distance;
	run->n_pages = more + 1;
	s->n_pages += run->n_pages;
	s->n_runs++;
	return 0;
}

static int get_runs(const uint8_t *p, const struct header *h, struct working_set *s,
		    struct problem *problem)
{
	const uint8_t *end = p + h->runs_len;
	int r = 0;

	s->runs = calloc(h->n_runs, sizeof(*s->runs));
	if (!s->runs)
		return -ENOMEM;
	s->cap_runs = h->n_runs;
	if (varint_get_many(&p, end, (uint64_t *)(void *)s->runs, 2 * h->n_runs) < 0)
		return image_corrupt(problem, "working-set: its %llu runs are cut off or malformed",
				     ull(h->n_runs));
	for (uint64_t i = 0; r == 0 && i < h->n_runs; i++)
		r = place_run(s, i ? runs_end(s) + 1 : 0, problem);
	if (r)
		return r;
	if (p != end || s->n_pages != h->n_pages)
		return image_corrupt(problem,
				     "working-set: its runs have %llu pages, its header "
				     "says %llu; %zu bytes are left over",
				     ull(s->n_pages), ull(h->n_pages), (size_t)(end - p));
	return 0;
}

/* What 2.0 wrote was recorded once, for all that is known. */
static int give_scores(const struct working_set *plain, struct working_set *s)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < plain->n_runs; i++)
		r = working_set_add(s, plain->runs[i].gfn, plain->runs[i].n_pages);
	return r;
}

static int decode(const uint8_t *data, size_t len, struct problem *problem, struct working_set *s)
{
	_cleanup_(working_set_deinit) struct working_set plain = {0};
	struct header h;
	int r = check_frame(data, len, problem);

	if (r == 0)
		r = get_header(data, len, &h, &plain, problem);
	if (r == 0)
		r = get_runs(data + HEADER_BYTES, &h, &plain, problem);
	if (r)
		return r;
	str_copy(s->image_id, sizeof(s->image_id), plain.image_id);
	s->guest_pages = plain.guest_pages;
	if (h.minor == 0)
		return give_scores(&plain, s);
	return working_set_get_scores(data + HEADER_BYTES + h.runs_len, h.scores_len, &plain, s,
				      problem);
}

int working_set_decode(const void *data, size_t len, struct problem *problem,
		       struct working_set *ret)
{
	_cleanup_(working_set_deinit) struct working_set s = {0};
	int r = decode(data, len, problem, &s);

	if (r)
		return r < 0 ? error_trace(r) : r;
	*ret = s;
	s = (struct working_set){0};
	return 0;
}
