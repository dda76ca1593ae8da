/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * codec.h - how the pages of a frame are stored: as they are, or compressed
 *
 * The encoder is an object of one writer (one thread). Decoding has no object: each thread that
 * ever decodes zstd keeps one context until it ends, made at its first call, so that later calls
 * allocate nothing. lz4 needs none.
 */
#include <stddef.h>

#include "base/mem.h"
#include "image/image.h"

struct codec_encoder;

/**
 * codec_encoder_new() - @level 0 is the codec's default: zstd 1, fast lz4. lz4 from 3 on is lz4hc
 * Return: 0; -EINVAL; -ENOMEM
 */
int codec_encoder_new(enum image_codec codec, int level, struct codec_encoder **ret);
struct codec_encoder *codec_encoder_free(struct codec_encoder *e);
DEFINE_CLEANUP(struct codec_encoder *, codec_encoder_free)

/**
 * codec_encode() - choose the stored form of a frame
 * @out: at least @len bytes; used when the result is not IMAGE_CODEC_NONE
 * Return: IMAGE_CODEC_NONE when @in itself is to be stored, which is so whenever compression would
 * save less than an eighth; the codec with *@ret_len bytes at @out; negative errno
 */
int codec_encode(struct codec_encoder *e, const void *in, size_t len, void *out, size_t *ret_len);

/**
 * codec_decode() - the opposite; the result must have exactly @out_len bytes
 * Return: 0; -EBADMSG when @in is not that; -ENOMEM, only at a thread's first call
 */
int codec_decode(enum image_codec codec, const void *in, size_t len, void *out, size_t out_len);
