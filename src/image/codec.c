/* SPDX-License-Identifier: Apache-2.0 */
#include "image/codec.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/error.h"

#define DEFAULT_LEVEL 1 /* zstd 1 to 3: a few percent of size for a third of the speed */

struct codec_encoder {
	enum image_codec codec;
	int level;
	ZSTD_CCtx *zstd;
};

int codec_encoder_new(enum image_codec codec, int level, struct codec_encoder **ret)
{
	_cleanup_(codec_encoder_freep) struct codec_encoder *e = NULL;

	if (codec != IMAGE_CODEC_NONE && codec != IMAGE_CODEC_ZSTD)
		return -EINVAL;
	if (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->codec = codec;
	e->level = level ? level : DEFAULT_LEVEL;
	if (codec == IMAGE_CODEC_ZSTD) {
		e->zstd = ZSTD_createCCtx();
		if (!e->zstd)
			return -ENOMEM;
	}
	*ret = take_ptr(e);
	return 0;
}

struct codec_encoder *codec_encoder_free(struct codec_encoder *e)
{
	if (!e)
		return NULL;
	ZSTD_freeCCtx(e->zstd);
	free(e);
	return NULL;
}

int codec_encode(struct codec_encoder *e, const void *in, size_t len, void *out, size_t *ret_len)
{
	size_t n;

	if (e->codec == IMAGE_CODEC_NONE)
		return IMAGE_CODEC_NONE;
	n = ZSTD_compressCCtx(e->zstd, out, len - len / 8, in, len, e->level);
	if (!ZSTD_isError(n)) {
		*ret_len = n;
		return IMAGE_CODEC_ZSTD;
	}
	switch (ZSTD_getErrorCode(n)) {
	case ZSTD_error_dstSize_tooSmall:
		return IMAGE_CODEC_NONE;
	case ZSTD_error_memory_allocation:
		return -ENOMEM;
	default:
		return error_trace(-EIO);
	}
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
		break;
	}
	return -EBADMSG;
}

int image_codec_parse(const char *text, enum image_codec *ret_codec, int *ret_level)
{
	return -EINVAL;
}
