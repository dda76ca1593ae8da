/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device-file.c - encrypting the device state
 *
 *     0  magic 8 | 8 major 2 | 10 minor 2 | 12 zero 4 | 16 plain length 8 | 24 nonce 12 | 36 zero 4
 *     40 the encrypted bytes, as many as plain ones | tag 16
 *
 * The header is authenticated along with the bytes. The nonce is random although the key is the
 * snapshot's own: a commit that failed and is tried again encrypts a second time.
 */
#include "image/device-file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "image/aead.h"
#include "image/le.h"
#include "image/outcome.h"
#include "sys/memfd.h"

#define OVERHEAD (DEVICE_FILE_HEADER_BYTES + AEAD_TAG_BYTES)

#define ull(_v)	 ((unsigned long long)(_v))

static const char magic[] = "DORMDEV"; /* eight bytes with its zero */

static void encode_header(uint64_t len, uint8_t out[DEVICE_FILE_HEADER_BYTES])
{
	memset(out, 0, DEVICE_FILE_HEADER_BYTES);
	memcpy(out, magic, 8);
	le_put16(out + 8, FORMAT_MAJOR);
	le_put16(out + 10, FORMAT_MINOR);
	le_put64(out + 16, len);
	id_random(out + 24, AEAD_NONCE_BYTES);
}

static struct aead_about about_of(const uint8_t *header)
{
	struct aead_about about = {.data = header, .len = DEVICE_FILE_HEADER_BYTES};

	memcpy(about.nonce, header + 24, AEAD_NONCE_BYTES);
	return about;
}

static int encrypt(const uint8_t *key_bytes, const void *in, size_t len, uint8_t *out)
{
	struct aead_about about;
	struct aead_key key;
	int r;

	encode_header(len, out);
	about = about_of(out);
	aead_key_init(&key, key_bytes);
	r = aead_seal(&key, &about, in, len, out + DEVICE_FILE_HEADER_BYTES,
		      out + DEVICE_FILE_HEADER_BYTES + len);
	aead_key_wipe(&key);
	return error_trace(r);
}

static int read_plain(int fd, uint8_t **ret, size_t *ret_len)
{
	uint8_t *data;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return error_errno();
	if (st.st_size > (off_t)DEVICE_FILE_MAX_BYTES)
		return error_trace(-EFBIG);
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	r = fd_pread_full(fd, data, (size_t)st.st_size, 0);
	if (r < 0) {
		free(data);
		return error_trace(r);
	}
	*ret = data;
	*ret_len = (size_t)st.st_size;
	return 0;
}

int device_file_seal(int dirfd, int fd, const uint8_t key[LAYER_KEY_BYTES], struct problem *problem)
{
	_cleanup_free_ uint8_t *in = NULL, *out = NULL;
	size_t len = 0;
	int r = read_plain(fd, &in, &len);

	if (r == 0) {
		out = malloc(len + OVERHEAD);
		r = out ? encrypt(key, in, len, out) : -ENOMEM;
	}
	if (r == 0)
		r = file_write_atomic(dirfd, "device", out, len + OVERHEAD, 0444);
	if (in)
		explicit_bzero(in, len);
	if (r < 0)
		problem_errno(problem, r, "device: encrypting it");
	return error_trace(r);
}

static int check_header(const uint8_t *raw, uint64_t bytes, struct problem *problem)
{
	int r;

	if (memcmp(raw, magic, 8))
		return image_corrupt(problem, "device: not an encrypted device state");
	r = image_check_version("device", le_get16(raw + 8), le_get16(raw + 10), problem);
	if (r)
		return r;
	if (le_get64(raw + 16) != bytes - OVERHEAD)
		return image_corrupt(problem, "device: says %llu bytes, has %llu",
				     ull(le_get64(raw + 16)), ull(bytes - OVERHEAD));
	return 0;
}

/* In place. */
static int decrypt(uint8_t *raw, uint64_t bytes, const uint8_t *key_bytes, struct problem *problem)
{
	uint8_t *data = raw + DEVICE_FILE_HEADER_BYTES;
	size_t len = (size_t)bytes - OVERHEAD;
	struct aead_about about = about_of(raw);
	struct aead_key key;
	int r;

	aead_key_init(&key, key_bytes);
	r = aead_open(&key, &about, data, len, data, data + len);
	aead_key_wipe(&key);
	if (r == -EBADMSG)
		return image_corrupt(problem, "device: its seal does not hold: altered, or another "
					      "snapshot's");
	return error_trace(r);
}

static int open_in_memory(uint8_t *raw, uint64_t bytes, const uint8_t *key, struct problem *problem,
			  int *ret)
{
	int r = check_header(raw, bytes, problem);

	if (r == 0)
		r = decrypt(raw, bytes, key, problem);
	if (r)
		return r;
	r = memfd_from_bytes("dorm-device", raw + DEVICE_FILE_HEADER_BYTES,
			     (size_t)bytes - OVERHEAD);
	if (r < 0)
		return error_trace(r);
	*ret = r;
	return 0;
}

int device_file_open(int fd, uint64_t bytes, const uint8_t key[LAYER_KEY_BYTES],
		     struct problem *problem, int *ret)
{
	_cleanup_free_ uint8_t *raw = NULL;
	int r;

	if (bytes < OVERHEAD || bytes - OVERHEAD > DEVICE_FILE_MAX_BYTES)
		return image_corrupt(problem, "device: %llu bytes, limits %u to %u", ull(bytes),
				     OVERHEAD, DEVICE_FILE_MAX_BYTES);
	raw = malloc((size_t)bytes);
	if (!raw)
		return -ENOMEM;
	r = fd_pread_full(fd, raw, (size_t)bytes, 0);
	if (r == 0)
		r = open_in_memory(raw, bytes, key, problem, ret);
	if (r < 0)
		problem_errno(problem, r, "device: opening it");
	OPENSSL_cleanse(raw, (size_t)bytes);
	return error_trace(r);
}
