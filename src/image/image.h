/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * image.h - a snapshot's memory as a content: a page map over immutable layers
 *
 * An image says for every guest page (gfn 0 .. n_pages-1) exactly one source: a page of a frame of
 * a layer, or zero. It is opened from a snapshot directory, holds its own descriptors (the
 * directory may be deleted afterwards), and never changes. Two images with the same id have the
 * same bytes.
 *
 *     image_open() -> image_lookup(), image_read_frame(), ... -> image_unref()
 *
 * Several guest pages may share one slot (pages with the same content are stored once). The lowest
 * gfn among them owns the slot, see image_owner(); image_frame_pages() names owners only.
 *
 * Threads: everything on an open image is read-only and may be called from any thread at once.
 * Formats: docs/format-image.md.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"
#include "base/problem.h"

#define IMAGE_FRAME_PAGES 16u /* most pages in one frame */
#define IMAGE_FRAME_BYTES (IMAGE_FRAME_PAGES * DORM_PAGE_SIZE)
#define IMAGE_LAYER_ZERO  UINT32_MAX   /* struct page_run.layer of zero pages */
#define IMAGE_ID_LEN	  32	       /* hexadecimal characters of an image id or layer id */
#define IMAGE_MAX_PAGES	  (1ull << 30) /* 4 TiB of guest memory */

/* outcomes */
enum {
	IMAGE_E_CORRUPT = 1, /* a file is truncated, altered or not ours; the problem names it */
	IMAGE_E_VERSION = 2, /* a newer major version wrote it */
	IMAGE_E_KEY = 3,     /* sealed and no key fits, or not sealed although a key was given */
	IMAGE_E_MISSING = 4, /* of a frame: the layer is not there, see image/image-base.h */
	IMAGE_E_ABSENT = 5,  /* of a base: the snapshot has none */
};

struct keyring; /* image/keyring.h */

/* A maximal run of consecutive guest pages with consecutive sources. */
struct page_run {
	uint64_t gfn;	  /* first guest page */
	uint64_t n_pages; /* > 0 */
	uint32_t layer;	  /* index into the image's layers, or IMAGE_LAYER_ZERO */
	uint64_t
		slot; /* first slot: frame * IMAGE_FRAME_PAGES + index in frame; 0 for zero pages */
};

/* One page of a frame that this image uses: where it goes in the guest. */
struct frame_page {
	uint64_t gfn;
	uint32_t index; /* page within the decoded frame */
};

struct image;

/**
 * image_open() - open the image of a snapshot directory
 * @dirfd:   the snapshot directory (holding "map" and "layers/"); borrowed
 * @keys:    the tenant's keys, only used during the call. With keys the snapshot must be sealed by
 *           one of them; NULL: it must not be sealed
 * @problem: names file, offset and reason when the result is not 0
 * @ret:     one reference
 *
 * Checks map, layer footers and indexes; frame contents are verified when they are read.
 * Return: 0; IMAGE_E_CORRUPT; IMAGE_E_VERSION; IMAGE_E_KEY; negative errno
 */
int image_open(int dirfd, const struct keyring *keys, struct problem *problem, struct image **ret);

/**
 * image_open_for_check() - the same without keys, sealed or not: image_check_frame() works, and of
 * a sealed image image_read_frame() answers IMAGE_E_KEY
 */
int image_open_for_check(int dirfd, struct problem *problem, struct image **ret);

/** image_open_zero() - the image of @n_pages zero pages, which a sandbox that boots starts from */
int image_open_zero(uint64_t n_pages, struct image **ret);

/**
 * image_open_raw() - a flat file of guest memory (what Firecracker calls the memory file) as an image
 * @fd:   borrowed and duplicated; a regular file, its size a multiple of 4096 and at most 4 TiB
 * @name: of the file, for problems and image_check_unchanged()
 *
 * One layer, whose frames are the file's blocks of 64 KiB, and one run: page gfn is at gfn * 4096.
 * Holes are read like everything else: where a file has none is not known from asking the file
 * system, and what reads as zeros is a page of zeros.
 *
 * Nothing in it can be verified: there is no checksum to compare with. And nothing keeps the file
 * from changing: whoever gives it must leave it alone while the image is open. The id is made from
 * device, inode, size and time of modification, so that a file that was changed is another image;
 * image_check_unchanged() asks again. Such an image cannot be the parent of an image_writer.
 * Return: 0; -EINVAL not a file of pages; -EFBIG beyond 4 TiB; negative errno; @problem says
 */
int image_open_raw(int fd, const char *name, struct problem *problem, struct image **ret);

/** image_is_raw() - was it opened by image_open_raw()? */
bool image_is_raw(const struct image *image);

/**
 * image_check_unchanged() - has the file of a raw image still the size and time that it had?
 * One fstat(); of other images, whose files never change, always 0. (Bytes that are written through
 * a mapping change the time only when the kernel writes them back: a change can be seen late.)
 * Return: 0; IMAGE_E_CORRUPT: it changed, @problem says what; negative errno
 */
int image_check_unchanged(const struct image *image, struct problem *problem);

struct image *image_ref(struct image *image);
struct image *image_unref(struct image *image);
DEFINE_CLEANUP(struct image *, image_unref)

/** image_id() - IMAGE_ID_LEN hexadecimal digits; digest of the map and the layers it names */
const char *image_id(const struct image *image);
uint64_t image_n_pages(const struct image *image);
uint32_t image_n_layers(const struct image *image);
const char *image_layer_id(const struct image *image, uint32_t layer);
/** image_layer_bytes() - size of the layer's file */
uint64_t image_layer_bytes(const struct image *image, uint32_t layer);
uint32_t image_layer_frames(const struct image *image, uint32_t layer);
/** image_stored_pages() - pages whose source is not zero */
uint64_t image_stored_pages(const struct image *image);

/**
 * image_lookup() - the source of one page
 * @gfn: < image_n_pages()
 * @ret: the whole run of the map that @gfn lies in (it may start before @gfn)
 *
 * Allocates nothing, does no I/O. O(log runs).
 */
void image_lookup(const struct image *image, uint64_t gfn, struct page_run *ret);

/** image_owner() - the lowest gfn whose source is this slot. Some gfn must have it as its source */
uint64_t image_owner(const struct image *image, uint32_t layer, uint64_t slot);

/**
 * image_frame_pages() - the pages of one frame that this image uses, each with its owner
 * @out: in ascending order of index; pages of the frame that a later layer replaced are left out
 * Return: how many. Allocates nothing, does no I/O.
 */
uint32_t image_frame_pages(const struct image *image, uint32_t layer, uint32_t frame,
			   struct frame_page out[IMAGE_FRAME_PAGES]);

/**
 * image_read_frame() - read, verify and decode one frame
 * @scratch: IMAGE_FRAME_BYTES + 4096 bytes, used for the stored form; contents undefined after
 * @out:     IMAGE_FRAME_BYTES bytes, page-aligned; nothing of the frame stays there unless the
 * result is 0. Not memory that anybody else sees: it may hold unverified bytes for a moment
 * @ret_n_pages: pages decoded
 *
 * Nothing of a frame whose seal does not hold reaches @out's caller as success (invariant 5).
 * Blocks for the read. Allocates nothing.
 * Return: 0; IMAGE_E_CORRUPT (@problem names layer, frame, offset); IMAGE_E_KEY of a sealed image
 * that was opened for checking; IMAGE_E_MISSING in a base; negative errno
 */
int image_read_frame(const struct image *image, uint32_t layer, uint32_t frame, void *scratch,
		     void *out, uint32_t *ret_n_pages, struct problem *problem);

/**
 * image_read_frame_nowait() - the same of what the page cache has
 * Return: as image_read_frame(), and -EAGAIN when that would wait for the disk (@problem is left
 * alone), or when the file system cannot tell (tmpfs before Linux 6.11 among them)
 */
int image_read_frame_nowait(const struct image *image, uint32_t layer, uint32_t frame,
			    void *scratch, void *out, uint32_t *ret_n_pages,
			    struct problem *problem);

/* Where a frame is stored, for those who read it themselves. */
struct frame_extent {
	int fd; /* of the layer's file; borrowed, valid as long as the image. -1, and the rest
		   zero: the layer is missing, see IMAGE_E_MISSING */
	int direct_fd; /* the same file, opened with O_DIRECT; -1 where that cannot be had */
	uint64_t offset;
	uint32_t stored_bytes; /* 1 .. IMAGE_FRAME_BYTES */
	bool plain;	       /* neither compressed nor sealed; @offset is a multiple of 4096 */
};

/**
 * image_frame_extent() - where a frame is stored
 *
 * The frames of a layer lie in its file in ascending order and do not overlap, so a run of them is
 * one read, from the first one's offset to the last one's end. There may be gaps before plain
 * frames, of less than a page in what is written here and of any size in what is read: whoever
 * joins frames into one read looks at the length that comes out.
 *
 * Blocks at a layer's first call, which opens its @direct_fd. Allocates nothing.
 */
void image_frame_extent(const struct image *image, uint32_t layer, uint32_t frame,
			struct frame_extent *ret);

/**
 * image_decode_frame() - verify and decode the stored bytes of a frame that the caller has read
 * @stored: frame_extent.stored_bytes of them, anywhere (not aligned); private to the caller until
 *          this returns, or what is decoded would not be what was verified
 * @out:    as for image_read_frame(). May be @stored itself when the frame is plain: then it is
 *          verified where it is
 *
 * Does no I/O. Needs IMAGE_FRAME_BYTES of stack. Allocates nothing, but for a thread's first call,
 * as image_read_frame() does.
 * Return: as image_read_frame()
 */
int image_decode_frame(const struct image *image, uint32_t layer, uint32_t frame,
		       const void *stored, void *out, uint32_t *ret_n_pages,
		       struct problem *problem);

/**
 * image_check_frame() - read a frame and compare its checksum; decode it too where no key is needed
 * @scratch: 2 * IMAGE_FRAME_BYTES + 4096 bytes, page-aligned
 * Return: 0; IMAGE_E_CORRUPT; negative errno
 */
int image_check_frame(const struct image *image, uint32_t layer, uint32_t frame, void *scratch,
		      struct problem *problem);

/**
 * image_layer_live() - frames and pages of a layer that this image still refers to
 * @ret_pages:        different pages; how many gfns have each does not matter
 * @ret_stored_bytes: of each such frame the share of its stored bytes that its live pages have
 */
void image_layer_live(const struct image *image, uint32_t layer, uint32_t *ret_frames,
		      uint64_t *ret_pages, uint64_t *ret_stored_bytes);

/** image_is_sealed() - are its layers encrypted? */
bool image_is_sealed(const struct image *image);

/**
 * image_read_page() - one page by gfn, for comparing and exporting (not for the fault path)
 * @out: DORM_PAGE_SIZE bytes
 */
int image_read_page(const struct image *image, uint64_t gfn, void *out, struct problem *problem);

/* ---- writing ----------------------------------------------------------------------------------
 */

enum image_codec { IMAGE_CODEC_NONE = 0, IMAGE_CODEC_ZSTD = 1, IMAGE_CODEC_LZ4 = 2 };

struct image_writer_options {
	enum image_codec codec; /* frames that do not shrink are stored plain whatever this says */
	int level;		/* of zstd or lz4hc; 0: the codec's default (zstd 1, fast lz4) */
	uint32_t frame_pages; /* most pages in a frame, 1 .. IMAGE_FRAME_PAGES; 0: IMAGE_FRAME_PAGES
			       */
	const struct keyring *keys; /* seal with the first of them; must outlive the writer */
};

/** image_codec_parse() - "none", "lz4", "lz4:9", "zstd", "zstd:3". Return: 0; -EINVAL */
int image_codec_parse(const char *text, enum image_codec *ret_codec, int *ret_level);

struct image_writer_stats {
	uint64_t pages_given;	  /* handed to image_writer_add() */
	uint64_t pages_zero;	  /* of those: all zero, kept as explicit zero in the map */
	uint64_t pages_unchanged; /* of those: equal to the parent's, not stored again */
	uint64_t pages_shared;	  /* of those: equal to another page stored by this writer */
	uint64_t pages_stored;
	uint64_t bytes_stored; /* of the new layer file; 0 when no layer was needed */
	uint64_t map_bytes;
};

struct image_writer;

/**
 * image_writer_new() - begin an image that differs from @parent in the pages that will be added
 * @dirfd:  a temporary snapshot directory, empty, which gets "layers/<id>" and "map"; borrowed
 * @parent: what unchanged pages refer to; referenced. For a first image: image_open_zero()
 * @parent_dirfd: the directory whose layers/ are hard-linked from; -1 when the parent has no layers
 *
 * One thread. image_writer_free() without commit leaves files behind in @dirfd for the caller, who
 * owns the directory, to remove.
 * Return: 0; -EINVAL when @parent has layers and is sealed but there are no keys in @options, or
 * the other way round; negative errno
 */
int image_writer_new(int dirfd, struct image *parent, int parent_dirfd,
		     const struct image_writer_options *options, struct problem *problem,
		     struct image_writer **ret);
struct image_writer *image_writer_free(struct image_writer *w);
DEFINE_CLEANUP(struct image_writer *, image_writer_free)

/**
 * image_writer_add() - the present content of pages @gfn .. @gfn + @n_pages - 1
 *
 * Every page at most once, in any order: the order of the calls is the order in the layer, so what
 * a wake needs first is added first (ascending within that is best). Pages that are zero, equal to
 * the parent's, or equal to one added before cost no storage. Return: 0; IMAGE_E_CORRUPT when the
 * parent cannot be read for comparison; negative errno
 */
int image_writer_add(struct image_writer *w, uint64_t gfn, uint64_t n_pages, const void *pages,
		     struct problem *problem);

/**
 * image_writer_commit() - finish the layer, link the parent's layers that are still used, write the
 * map; everything fsynced, including @dirfd and layers/ (but @dirfd's own name is the caller's)
 * @ret_id: IMAGE_ID_LEN + 1 bytes
 */
int image_writer_commit(struct image_writer *w, struct image_writer_stats *ret_stats,
			char ret_id[IMAGE_ID_LEN + 1], struct problem *problem);
