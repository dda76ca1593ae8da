/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer.c - reading layer files
 *
 * What is checked when: opening checks everything but the frames' contents: both ends of the file,
 * that they carry the id that is the file's name, the digest of the index, and that each frame by
 * itself is possible (layer_entry_decode()) and lies after its predecessor and before the index.
 * So a decoded index is a fact: layer_read_frame() never computes with an unchecked number, and
 * what it reads from the file it compares with the frame's tag before anything decodes it.
 *
 * A sealed layer has two tags per frame. With the key the one of AES-256-GCM is checked, which
 * covers everything; without, the checksum of the stored bytes, and no frame can be had.
 *
 * A raw layer (layer_open_raw_fd()) is a flat memory file of somebody else's with an index that is
 * made up, so that all who read frames need no second way. It has no tags: nothing is verified.
 *
 * No byte is moved twice: a plain frame is read to where the caller wants it, an encrypted one is
 * decrypted to there, and only what is compressed passes through the scratch buffer. A caller that
 * read the stored bytes itself (many frames in one read) has them verified where they are.
 *
 * Such a caller may want to pass by the page cache. O_DIRECT is a property of an open file, so that
 * takes a second descriptor, made when somebody first asks. It is opened through /proc/self/fd,
 * because the file may have no name any more; without /proc, or on a file system that has no
 * O_DIRECT, there is none.
 *
 * The index is read in pieces and each entry is checked as it comes, so that a file that claims a
 * gigantic index (they may be sparse) costs address space, not memory.
 *
 * The file is read with pread(), never mapped: a file that shrinks under a mapping raises SIGBUS.
 */
#include "image/layer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/aead.h"
#include "image/codec.h"
#include "image/le.h"
#include "image/outcome.h"

#define INDEX_PIECE    4096u /* entries read at once */
#define DIRECT_UNKNOWN (-2)  /* nobody has asked yet */

#define LAYER_WHAT_MAX 119u

#define ull(_v)	       ((unsigned long long)(_v))

struct layer {
	atomic_uint refs;
	int fd;	       /* -1: missing */
	int direct_fd; /* atomic: DIRECT_UNKNOWN, then fixed: a descriptor, or -1 */
	uint64_t bytes;
	uint8_t id[LAYER_ID_BYTES];
	char id_hex[2 * LAYER_ID_BYTES + 1];
	char what[LAYER_WHAT_MAX + 1]; /* "layer <id>", in front of every problem */
	bool raw;		       /* a flat file: the frames have no tags */
	uint8_t digest[DIGEST_BYTES];
	uint32_t n_frames;
	struct layer_frame *frames;
	enum layer_seal seal;
	uint8_t (*seals)[LAYER_SEAL_BYTES]; /* sealed: each frame's tag of AES-256-GCM */
	bool has_key;
	struct aead_key key;
};

struct layer *layer_ref(struct layer *l)
{
	(void)atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
	return l;
}

struct layer *layer_close(struct layer *l)
{
	if (!l || atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) > 1)
		return NULL;
	fd_close(l->fd);
	fd_close(l->direct_fd); /* closes nothing below 0 */
	aead_key_wipe(&l->key);
	free(l->frames);
	free(l->seals);
	free(l);
	return NULL;
}

static int read_at(const struct layer *l, void *buf, size_t len, uint64_t offset, const char *part,
		   struct problem *problem)
{
	int r = fd_pread_full(l->fd, buf, len, offset);

	if (r == -ENODATA)
		return image_corrupt(problem, "%s: %s at offset %llu: the file ends too early",
				     l->what, part, ull(offset));
	if (r < 0)
		problem_errno(problem, r, "%s: reading the %s at offset %llu", l->what, part,
			      ull(offset));
	return r;
}

static int check_id(const struct layer *l, const uint8_t id[LAYER_ID_BYTES], const char *part,
		    struct problem *problem)
{
	char hex[2 * LAYER_ID_BYTES + 1];

	if (!memcmp(l->id, id, LAYER_ID_BYTES))
		return 0;
	str_hex(id, LAYER_ID_BYTES, hex);
	return image_corrupt(problem, "%s: the %s says that this is layer %s", l->what, part, hex);
}

static int read_header(struct layer *l, struct problem *problem)
{
	uint8_t raw[LAYER_HEADER_BYTES], id[LAYER_ID_BYTES];
	int r;

	if (l->bytes < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES)
		return image_corrupt(problem, "%s: %llu bytes are too few for a layer: truncated",
				     l->what, ull(l->bytes));
	r = read_at(l, raw, sizeof(raw), 0, "header", problem);
	if (r)
		return r;
	r = layer_header_decode(raw, l->what, id, &l->seal, problem);
	return r ? r : check_id(l, id, "header", problem);
}

static int read_footer(const struct layer *l, struct layer_footer *ret, struct problem *problem)
{
	uint8_t raw[LAYER_FOOTER_BYTES];
	int r = read_at(l, raw, sizeof(raw), l->bytes - sizeof(raw), "footer", problem);

	if (r)
		return r;
	r = layer_footer_decode(raw, l->bytes, l->what, l->seal, ret, problem);
	return r ? r : check_id(l, ret->id, "footer", problem);
}

/* Where the next frame may begin, and how many pages there were. */
struct index_progress {
	uint64_t end;
	uint64_t n_pages;
};

static int decode_entries(struct layer *l, const uint8_t *raw, uint32_t first, uint32_t n,
			  const struct layer_footer *footer, struct index_progress *progress,
			  struct problem *problem)
{
	const size_t entry_bytes = layer_entry_bytes(l->seal);

	for (uint32_t i = 0; i < n; i++) {
		struct layer_frame *f = &l->frames[first + i];
		const uint8_t *entry = raw + i * entry_bytes;
		const char *why = NULL;
		uint64_t at = footer->index_offset + (first + i) * entry_bytes;

		if (l->seals)
			memcpy(l->seals[first + i], entry + LAYER_ENTRY_BYTES, LAYER_SEAL_BYTES);
		if (layer_entry_decode(entry, f, &why) < 0)
			return image_corrupt(problem, "%s: index entry %u at offset %llu: %s",
					     l->what, first + i, ull(at), why);
		if (f->offset < progress->end || f->offset > footer->index_offset ||
		    f->stored_len > footer->index_offset - f->offset)
			return image_corrupt(problem,
					     "%s: index entry %u at offset %llu: frame at offset "
					     "%llu with %u bytes overlaps what is around it",
					     l->what, first + i, ull(at), ull(f->offset),
					     f->stored_len);
		progress->end = f->offset + f->stored_len;
		progress->n_pages += f->n_pages;
	}
	return 0;
}

static int check_index(const struct layer *l, const struct layer_footer *footer,
		       const struct index_progress *progress, XXH128_hash_t hash,
		       struct problem *problem)
{
	XXH128_canonical_t digest;
	char want[DIGEST_LEN + 1], have[DIGEST_LEN + 1];

	XXH128_canonicalFromHash(&digest, hash);
	if (memcmp(digest.digest, footer->digest, DIGEST_BYTES)) {
		str_hex(footer->digest, DIGEST_BYTES, want);
		str_hex(digest.digest, DIGEST_BYTES, have);
		return image_corrupt(problem,
				     "%s: index at offset %llu: checksum mismatch (stored 0x%s, "
				     "read 0x%s)",
				     l->what, ull(footer->index_offset), want, have);
	}
	if (progress->n_pages != footer->n_pages)
		return image_corrupt(problem, "%s: footer counts %llu pages, the index %llu",
				     l->what, ull(footer->n_pages), ull(progress->n_pages));
	return 0;
}

static void xxh3_freep(XXH3_state_t **state)
{
	XXH3_freeState(*state);
}

static int read_index(struct layer *l, const struct layer_footer *footer, struct problem *problem)
{
	_cleanup_(xxh3_freep) XXH3_state_t *hash = XXH3_createState();
	const size_t entry_bytes = layer_entry_bytes(l->seal);
	_cleanup_free_ uint8_t *raw = malloc(INDEX_PIECE * entry_bytes);
	struct index_progress progress = {.end = LAYER_HEADER_BYTES};
	int r;

	l->frames = malloc((size_t)footer->n_frames * sizeof(*l->frames));
	if (l->seal == LAYER_SEAL_AES256)
		l->seals = malloc((size_t)footer->n_frames * sizeof(*l->seals));
	if (!hash || !raw || !l->frames || (l->seal == LAYER_SEAL_AES256 && !l->seals))
		return -ENOMEM;
	(void)XXH3_128bits_reset(hash); /* fails only for NULL */
	for (uint32_t first = 0; first < footer->n_frames; first += INDEX_PIECE) {
		uint32_t n = MIN(footer->n_frames - first, INDEX_PIECE);
		size_t len = n * entry_bytes;

		r = read_at(l, raw, len, footer->index_offset + first * entry_bytes, "index",
			    problem);
		if (r)
			return r;
		(void)XXH3_128bits_update(hash, raw, len); /* fails only for NULL */
		r = decode_entries(l, raw, first, n, footer, &progress, problem);
		if (r)
			return r;
	}
	l->n_frames = footer->n_frames;
	memcpy(l->digest, footer->digest, DIGEST_BYTES);
	return check_index(l, footer, &progress, XXH3_128bits_digest(hash), problem);
}

static int take_key(struct layer *l, const uint8_t *key, struct problem *problem)
{
	if (!key)
		return 0;
	if (l->seal == LAYER_SEAL_XXH3) {
		problem_set(problem, 403, "%s: not sealed although the snapshot is", l->what);
		return IMAGE_E_KEY;
	}
	aead_key_init(&l->key, key);
	l->has_key = true;
	return 0;
}

/* @fd is consumed. */
static struct layer *layer_new(int fd, uint64_t bytes, const uint8_t id[LAYER_ID_BYTES])
{
	struct layer *l = calloc(1, sizeof(*l));

	if (!l) {
		fd_close(fd);
		return NULL;
	}
	atomic_init(&l->refs, 1);
	l->fd = fd;
	l->direct_fd = DIRECT_UNKNOWN;
	l->bytes = bytes;
	memcpy(l->id, id, LAYER_ID_BYTES);
	str_hex(id, LAYER_ID_BYTES, l->id_hex);
	(void)snprintf(l->what, sizeof(l->what), "layer %s", l->id_hex); /* always fits */
	return l;
}

int layer_new_missing(const uint8_t id[LAYER_ID_BYTES], const uint8_t digest[DIGEST_BYTES],
		      struct layer **ret)
{
	struct layer *l = layer_new(-1, 0, id);

	if (!l)
		return -ENOMEM;
	memcpy(l->digest, digest, DIGEST_BYTES);
	*ret = l;
	return 0;
}

bool layer_is_missing(const struct layer *l)
{
	return l->fd < 0;
}

int layer_open_fd_consume(int fd, uint64_t bytes, const uint8_t id[LAYER_ID_BYTES],
			  const uint8_t *key, struct problem *problem, struct layer **ret)
{
	_cleanup_(layer_closep) struct layer *l = layer_new(fd, bytes, id);
	struct layer_footer footer;
	int r;

	if (!l)
		return -ENOMEM;
	r = read_header(l, problem);
	if (r == 0)
		r = take_key(l, key, problem);
	if (r)
		return r;
	r = read_footer(l, &footer, problem);
	if (r)
		return r;
	r = read_index(l, &footer, problem);
	if (r)
		return r;
	*ret = take_ptr(l);
	return 0;
}

int layer_open(int layers_dirfd, const uint8_t id[LAYER_ID_BYTES], const uint8_t *key,
	       struct problem *problem, struct layer **ret)
{
	char what[2 * LAYER_ID_BYTES + 8] = "layer ", *hex = what + 6;
	uint64_t bytes;
	int fd, r;

	str_hex(id, LAYER_ID_BYTES, hex);
	r = plain_file_open(layers_dirfd, hex, what, problem, &fd, &bytes);
	return r ? r : layer_open_fd_consume(fd, bytes, id, key, problem, ret);
}

/* Its index: frames of IMAGE_FRAME_BYTES, one after the other, the last one as long as it is. */
static void make_up_index(struct layer *l)
{
	for (uint32_t i = 0; i < l->n_frames; i++) {
		uint64_t offset = (uint64_t)i * IMAGE_FRAME_BYTES;
		uint32_t len = (uint32_t)MIN(l->bytes - offset, (uint64_t)IMAGE_FRAME_BYTES);

		l->frames[i] = (struct layer_frame){.offset = offset,
						    .stored_len = len,
						    .codec = IMAGE_CODEC_NONE,
						    .n_pages = (uint8_t)(len / DORM_PAGE_SIZE)};
	}
}

int layer_open_raw_fd(int fd, uint64_t bytes, const uint8_t id[LAYER_ID_BYTES], const char *what,
		      struct layer **ret)
{
	_cleanup_(layer_closep) struct layer *l = NULL;

	if (bytes == 0 || bytes % DORM_PAGE_SIZE || bytes / DORM_PAGE_SIZE > IMAGE_MAX_PAGES)
		return -EINVAL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	atomic_init(&l->refs, 1);
	l->direct_fd = DIRECT_UNKNOWN;
	l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (l->fd < 0)
		return error_errno();
	l->raw = true;
	l->bytes = bytes;
	memcpy(l->id, id, LAYER_ID_BYTES);
	str_hex(id, LAYER_ID_BYTES, l->id_hex);
	str_copy(l->what, sizeof(l->what), what);
	l->n_frames = (uint32_t)((bytes + IMAGE_FRAME_BYTES - 1) / IMAGE_FRAME_BYTES);
	l->frames = malloc((size_t)l->n_frames * sizeof(*l->frames));
	if (!l->frames)
		return -ENOMEM;
	make_up_index(l);
	*ret = take_ptr(l);
	return 0;
}

bool layer_is_raw(const struct layer *l)
{
	return l->raw;
}

const char *layer_id(const struct layer *l)
{
	return l->id_hex;
}

const uint8_t *layer_digest(const struct layer *l)
{
	return l->digest;
}

uint64_t layer_bytes(const struct layer *l)
{
	return l->bytes;
}

uint32_t layer_n_frames(const struct layer *l)
{
	return l->n_frames;
}

uint32_t layer_frame_pages(const struct layer *l, uint32_t frame)
{
	assert(frame < l->n_frames);
	return l->frames[frame].n_pages;
}

static int frame_io_error(const struct layer *l, uint32_t frame, int r, struct problem *problem)
{
	const struct layer_frame *f = &l->frames[frame];

	if (r == -ENODATA)
		return image_corrupt(
			problem, "%s: frame %u at offset %llu: the file ends within its %u bytes",
			l->what, frame, ull(f->offset), f->stored_len);
	problem_errno(problem, r, "%s: reading frame %u, %u bytes at offset %llu", l->what, frame,
		      f->stored_len, ull(f->offset));
	return error_trace(r);
}

static int read_stored(const struct layer *l, uint32_t frame, void *buf, struct problem *problem)
{
	const struct layer_frame *f = &l->frames[frame];
	int r = fd_pread_full(l->fd, buf, f->stored_len, f->offset);

	return r < 0 ? frame_io_error(l, frame, r, problem) : 0;
}

/* @stored: as it is in the file, encrypted or not */
static int check_tag(const struct layer *l, uint32_t frame, const void *stored,
		     struct problem *problem)
{
	const struct layer_frame *f = &l->frames[frame];
	uint64_t tag;

	if (l->raw)
		return 0; /* it has none */
	tag = layer_tag(l->id, frame, stored, f->stored_len);
	if (tag == f->tag)
		return 0;
	return image_corrupt(problem,
			     "%s: frame %u at offset %llu: checksum mismatch (stored 0x%016llx, "
			     "read 0x%016llx)",
			     l->what, frame, ull(f->offset), ull(f->tag), ull(tag));
}

static int decrypt(const struct layer *l, uint32_t frame, const void *stored, void *out,
		   struct problem *problem)
{
	const struct layer_frame *f = &l->frames[frame];
	uint8_t data[LAYER_ABOUT_BYTES];
	struct aead_about about = {.data = data, .len = sizeof(data)};
	int r;

	layer_about(l->id, frame, f, data);
	le_put32(about.nonce, frame);
	r = aead_open(&l->key, &about, stored, f->stored_len, out, l->seals[frame]);
	if (r == -EBADMSG)
		return image_corrupt(
			problem,
			"%s: frame %u at offset %llu: its seal does not hold: altered, "
			"or another frame",
			l->what, frame, ull(f->offset));
	if (r < 0)
		problem_errno(problem, r, "%s: decrypting frame %u", l->what, frame);
	return error_trace(r);
}

static int decode(const struct layer *l, uint32_t frame, const void *encoded, void *out,
		  struct problem *problem)
{
	const struct layer_frame *f = &l->frames[frame];
	int r = codec_decode(f->codec, encoded, f->stored_len, out, f->n_pages * DORM_PAGE_SIZE);

	if (r == -EBADMSG)
		return image_corrupt(problem,
				     "%s: frame %u at offset %llu: does not decode to %u "
				     "pages",
				     l->what, frame, ull(f->offset), f->n_pages);
	if (r < 0)
		problem_errno(problem, r, "%s: decoding frame %u", l->what, frame);
	return error_trace(r);
}

/*
 * What the page cache has, without waiting. A short read is no news either: the rest is not there,
 * or the file has become shorter, and then reading with waiting says so.
 */
static int read_cached(const struct layer *l, uint32_t frame, void *buf, struct problem *problem)
{
	const struct layer_frame *f = &l->frames[frame];
	struct iovec iov = {.iov_base = buf, .iov_len = f->stored_len};
	ssize_t n = preadv2(l->fd, &iov, 1, (off_t)f->offset, RWF_NOWAIT);

	if (n == (ssize_t)f->stored_len)
		return 0;
	if (n > 0)
		memset(buf, 0, (size_t)n); /* it was not verified */
	if (n >= 0 || errno == EAGAIN || errno == EINTR || errno == EOPNOTSUPP || errno == ENOSYS)
		return -EAGAIN;
	return frame_io_error(l, frame, -errno, problem);
}

/* @work: where to decrypt what is compressed as well; may be @stored; on failure @out may have
 * anything */
static int decode_stored(const struct layer *l, uint32_t frame, const void *stored, void *work,
			 void *out, struct problem *problem)
{
	const bool sealed = l->seal == LAYER_SEAL_AES256;
	const bool plain = l->frames[frame].codec == IMAGE_CODEC_NONE;
	int r;

	if (sealed)
		r = decrypt(l, frame, stored, plain ? out : work, problem);
	else
		r = check_tag(l, frame, stored, problem);
	if (r == 0 && !plain)
		return decode(l, frame, sealed ? work : stored, out, problem);
	if (r == 0 && !sealed && out != stored)
		memcpy(out, stored, l->frames[frame].stored_len);
	return r;
}

static int refuse_missing(const struct layer *l, uint32_t frame, struct problem *problem)
{
	problem_set(problem, 500, "%s: frame %u cannot be read: the snapshot has no such layer",
		    l->what, frame);
	problem_hint(problem, "it is one of its base only; pages of the snapshot itself are in the "
			      "layers that its own map names");
	return IMAGE_E_MISSING;
}

static int check_key(const struct layer *l, struct problem *problem)
{
	if (l->seal != LAYER_SEAL_AES256 || l->has_key)
		return 0;
	problem_set(problem, 403, "%s: sealed, and open for checking only: no key was given",
		    l->what);
	return IMAGE_E_KEY;
}

/* Nobody shall make use of what does not hold. */
static int finish_frame(const struct layer *l, uint32_t frame, int r, void *out,
			uint32_t *ret_n_pages)
{
	if (r)
		memset(out, 0, l->frames[frame].n_pages * DORM_PAGE_SIZE);
	else
		*ret_n_pages = l->frames[frame].n_pages;
	return r;
}

typedef int read_stored_func(const struct layer *l, uint32_t frame, void *buf,
			     struct problem *problem);

static int read_frame(const struct layer *l, uint32_t frame, read_stored_func *read, void *scratch,
		      void *out, uint32_t *ret_n_pages, struct problem *problem)
{
	void *stored;
	int r;

	if (layer_is_missing(l))
		return refuse_missing(l, frame, problem);
	assert(frame < l->n_frames);
	r = check_key(l, problem);
	if (r)
		return r;
	stored = layer_frame_is_plain(l, frame) ? out : scratch;
	r = read(l, frame, stored, problem);
	if (r == -EAGAIN)
		return r; /* nothing was read */
	if (r == 0)
		r = decode_stored(l, frame, stored, scratch, out, problem);
	return finish_frame(l, frame, r, out, ret_n_pages);
}

int layer_read_frame(const struct layer *l, uint32_t frame, void *scratch, void *out,
		     uint32_t *ret_n_pages, struct problem *problem)
{
	return read_frame(l, frame, read_stored, scratch, out, ret_n_pages, problem);
}

int layer_read_frame_nowait(const struct layer *l, uint32_t frame, void *scratch, void *out,
			    uint32_t *ret_n_pages, struct problem *problem)
{
	return read_frame(l, frame, read_cached, scratch, out, ret_n_pages, problem);
}

int layer_decode_frame(const struct layer *l, uint32_t frame, const void *stored, void *out,
		       uint32_t *ret_n_pages, struct problem *problem)
{
	uint8_t work[IMAGE_FRAME_BYTES];
	int r;

	if (layer_is_missing(l))
		return refuse_missing(l, frame, problem);
	assert(frame < l->n_frames);
	r = check_key(l, problem);
	if (r)
		return r;
	r = decode_stored(l, frame, stored, work, out, problem);
	return finish_frame(l, frame, r, out, ret_n_pages);
}

bool layer_frame_is_plain(const struct layer *l, uint32_t frame)
{
	assert(frame < l->n_frames);
	return l->frames[frame].codec == IMAGE_CODEC_NONE && l->seal == LAYER_SEAL_XXH3;
}

uint64_t layer_frame_offset(const struct layer *l, uint32_t frame)
{
	assert(frame < l->n_frames);
	return l->frames[frame].offset;
}

int layer_fd(const struct layer *l)
{
	return l->fd;
}

/* Two threads may both be first: one descriptor stays, the other one's is closed again. */
int layer_direct_fd(struct layer *l)
{
	int fd = __atomic_load_n(&l->direct_fd, __ATOMIC_ACQUIRE), unknown = DIRECT_UNKNOWN;
	char path[32];

	if (fd != DIRECT_UNKNOWN)
		return fd;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", l->fd); /* always fits */
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		fd = -1;
	if (__atomic_compare_exchange_n(&l->direct_fd, &unknown, fd, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return fd;
	fd_close(fd);
	return unknown; /* what the other thread stored */
}

bool layer_is_sealed(const struct layer *l)
{
	return l->seal == LAYER_SEAL_AES256;
}

uint32_t layer_frame_bytes(const struct layer *l, uint32_t frame)
{
	assert(frame < l->n_frames);
	return l->frames[frame].stored_len;
}

int layer_check_frame(const struct layer *l, uint32_t frame, void *scratch, struct problem *problem)
{
	uint8_t *stored = (uint8_t *)scratch + IMAGE_FRAME_BYTES;
	int r;

	if (layer_is_missing(l))
		return refuse_missing(l, frame, problem);
	assert(frame < l->n_frames);
	r = read_stored(l, frame, stored, problem);
	if (r == 0)
		r = check_tag(l, frame, stored, problem);
	if (r == 0 && l->seal == LAYER_SEAL_XXH3 && l->frames[frame].codec != IMAGE_CODEC_NONE)
		r = decode(l, frame, stored, scratch, problem);
	return r;
}
