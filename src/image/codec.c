/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.c - compression of frames
 *
 * Frames that do not compress must cost little, since much of a busy guest's memory does not. The
 * fast levels need no help: zstd 1 and lz4 skip faster and faster over what does not match, and
 * pass noise at several GB/s, which is far above what a disk takes. The slow ones do not, so they
 * first ask the fast level of the same codec: what it cannot make smaller by a thirty-second is not
 * going to be smaller by an eighth.
 */
#include "image/codec.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <lz4hc.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/error.h"
#include "base/str.h"

#define ZSTD_DEFAULT 1 /* zstd 1 to 3: a few percent of size for a third of the speed */
#define ZSTD_SLOW    4 /* from here on a try at level 1 is worth its time */
#define LZ4_DEFAULT  1
#define LZ4_SLOW     LZ4HC_CLEVEL_MIN

struct codec_encoder {
	enum image_codec codec;
	int level;
	ZSTD_CCtx *zstd;
	ZSTD_CCtx *probe; /* of its own, so that neither makes the other's tables anew */
	void *lz4;	  /* state of lz4 or lz4hc */
};

static int check_level(enum image_codec codec, int level)
{
	switch (codec) {
	case IMAGE_CODEC_NONE:
		return 0;
	case IMAGE_CODEC_ZSTD:
		return level >= ZSTD_minCLevel() && level <= ZSTD_maxCLevel() ? 0 : -EINVAL;
	case IMAGE_CODEC_LZ4:
		return level >= 0 && level <= LZ4HC_CLEVEL_MAX ? 0 : -EINVAL;
	}
	return -EINVAL;
}

static int allocate(struct codec_encoder *e)
{
	if (e->codec == IMAGE_CODEC_ZSTD) {
		e->zstd = ZSTD_createCCtx();
		e->probe = e->level >= ZSTD_SLOW ? ZSTD_createCCtx() : NULL;
		return e->zstd && (e->probe || e->level < ZSTD_SLOW) ? 0 : -ENOMEM;
	}
	if (e->codec == IMAGE_CODEC_LZ4) {
		e->lz4 = malloc((size_t)MAX(LZ4_sizeofState(), LZ4_sizeofStateHC()));
		return e->lz4 ? 0 : -ENOMEM;
	}
	return 0;
}

int codec_encoder_new(enum image_codec codec, int level, struct codec_encoder **ret)
{
	_cleanup_(codec_encoder_freep) struct codec_encoder *e = NULL;

	if (check_level(codec, level) < 0)
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->codec = codec;
	e->level = level ? level : codec == IMAGE_CODEC_ZSTD ? ZSTD_DEFAULT : LZ4_DEFAULT;
	if (allocate(e) < 0)
		return -ENOMEM;
	*ret = take_ptr(e);
	return 0;
}

struct codec_encoder *codec_encoder_free(struct codec_encoder *e)
{
	if (!e)
		return NULL;
	ZSTD_freeCCtx(e->zstd);
	ZSTD_freeCCtx(e->probe);
	free(e->lz4);
	free(e);
	return NULL;
}

/* Return: the length; 0 when it does not fit into @max; negative errno */
static ssize_t run_zstd(ZSTD_CCtx *zstd, int level, const void *in, size_t len, void *out,
			size_t max)
{
	size_t n = ZSTD_compressCCtx(zstd, out, max, in, len, level);

	if (!ZSTD_isError(n))
		return (ssize_t)n;
	switch (ZSTD_getErrorCode(n)) {
	case ZSTD_error_dstSize_tooSmall:
		return 0;
	case ZSTD_error_memory_allocation:
		return -ENOMEM;
	default:
		return error_trace(-EIO);
	}
}

static ssize_t encode_zstd(struct codec_encoder *e, const void *in, size_t len, void *out)
{
	if (e->probe) {
		ssize_t n = run_zstd(e->probe, ZSTD_DEFAULT, in, len, out, len - len / 32);

		if (n <= 0)
			return n;
	}
	return run_zstd(e->zstd, e->level, in, len, out, len - len / 8);
}

/* 0 when it does not fit: lz4 has no other errors. */
static ssize_t encode_lz4(struct codec_encoder *e, const void *in, size_t len, void *out)
{
	const int n = (int)len, max = (int)(len - len / 8);

	if (e->level < LZ4_SLOW)
		return LZ4_compress_fast_extState(e->lz4, in, out, n, max, 1);
	if (!LZ4_compress_fast_extState(e->lz4, in, out, n, (int)(len - len / 32), 1))
		return 0;
	return LZ4_compress_HC_extStateHC(e->lz4, in, out, n, max, e->level);
}

int codec_encode(struct codec_encoder *e, const void *in, size_t len, void *out, size_t *ret_len)
{
	ssize_t n = 0;

	if (e->codec == IMAGE_CODEC_ZSTD)
		n = encode_zstd(e, in, len, out);
	else if (e->codec == IMAGE_CODEC_LZ4)
		n = encode_lz4(e, in, len, out);
	if (n <= 0)
		return n < 0 ? (int)n : IMAGE_CODEC_NONE;
	*ret_len = (size_t)n;
	return (int)e->codec;
}

/* ---- decoding: one context per thread ---------------------------------------------------------
 */

static _Thread_local ZSTD_DCtx *thread_zstd;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key; /* only for its destructor, which runs when a thread ends */
static int thread_key_error;

static void free_thread_zstd(void *zstd)
{
	ZSTD_freeDCtx(zstd);
	thread_zstd = NULL; /* another key's destructor may still decode: it makes a new one */
}

static void make_key(void)
{
	thread_key_error = pthread_key_create(&thread_key, free_thread_zstd);
}

static int get_thread_zstd(ZSTD_DCtx **ret)
{
	int r;

	if (thread_zstd) {
		*ret = thread_zstd;
		return 0;
	}
	(void)pthread_once(&thread_once, make_key); /* cannot fail with a static initializer */
	if (thread_key_error)
		return -thread_key_error;
	thread_zstd = ZSTD_createDCtx();
	if (!thread_zstd)
		return -ENOMEM;
	r = pthread_setspecific(thread_key, thread_zstd);
	if (r) {
		free_thread_zstd(thread_zstd);
		return -r;
	}
	*ret = thread_zstd;
	return 0;
}

int codec_decode(enum image_codec codec, const void *in, size_t len, void *out, size_t out_len)
{
	ZSTD_DCtx *zstd = NULL;
	int r;

	switch (codec) {
	case IMAGE_CODEC_NONE:
		if (len != out_len)
			return -EBADMSG;
		memcpy(out, in, len);
		return 0;
	case IMAGE_CODEC_ZSTD:
		r = get_thread_zstd(&zstd);
		if (r < 0)
			return error_trace(r);
		/* compares false for error codes too: they are near SIZE_MAX */
		return ZSTD_decompressDCtx(zstd, out, out_len, in, len) == out_len ? 0 : -EBADMSG;
	case IMAGE_CODEC_LZ4:
		if (len > INT_MAX || out_len > INT_MAX)
			return -EBADMSG;
		return LZ4_decompress_safe(in, out, (int)len, (int)out_len) == (int)out_len
			       ? 0
			       : -EBADMSG;
	}
	return -EBADMSG;
}

/* ---- as text ----------------------------------------------------------------------------------
 */

static int parse_level(const char *text, int *ret)
{
	bool negative = *text == '-';
	uint64_t n;

	if (str_to_u64(text + negative, &n) < 0 || n > INT_MAX)
		return -EINVAL;
	*ret = negative ? -(int)n : (int)n;
	return 0;
}

int image_codec_parse(const char *text, enum image_codec *ret_codec, int *ret_level)
{
	static const struct {
		const char *name;
		enum image_codec codec;
	} names[] = {
		{"none", IMAGE_CODEC_NONE}, {"lz4", IMAGE_CODEC_LZ4}, {"zstd", IMAGE_CODEC_ZSTD}};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *rest = str_has_prefix(text, names[i].name);
		int level = 0;

		if (!rest || (*rest && *rest != ':'))
			continue;
		if (*rest &&
		    (names[i].codec == IMAGE_CODEC_NONE || parse_level(rest + 1, &level) < 0))
			return -EINVAL;
		if (check_level(names[i].codec, level) < 0)
			return -EINVAL;
		*ret_codec = names[i].codec;
		*ret_level = level;
		return 0;
	}
	return -EINVAL;
}
