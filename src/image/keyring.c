/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keyring.c - the tenant's keys in memory
 *
 * The ring is one mapping of its own: locked, so that it does not reach a swap device, left out of
 * core dumps, and wiped before it is unmapped. Text on its way into it lies in a buffer on the
 * stack, which is wiped as well. A key is never printed; its id is derived from it with
 * HKDF-SHA256, which nobody can turn back.
 */
#include "image/keyring.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/keyring-internal.h"
#include "image/le.h"
#include "sys/memfd.h"

#define TEXT_MAX	 256 /* more than any of the forms takes */
#define SALT_BYTES	 32
#define HANDED_MAGIC	 "DORMKEY" /* eight bytes with its zero */
#define HANDED_BYTES(_n) (16 + (_n) * (size_t)KEYRING_KEY_BYTES)

struct keyring {
	size_t n;
	uint8_t keys[KEYRING_MAX_KEYS][KEYRING_KEY_BYTES];
	char ids[KEYRING_MAX_KEYS][KEY_ID_LEN + 1];
};

int keyring_new(struct keyring **ret)
{
	void *k = mmap(NULL, sizeof(struct keyring), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (k == MAP_FAILED)
		return error_errno();
	/* both are best effort: RLIMIT_MEMLOCK may be 0, and a key in swap is better than no key */
	(void)mlock(k, sizeof(struct keyring));
	(void)madvise(k, sizeof(struct keyring), MADV_DONTDUMP);
	*ret = k;
	return 0;
}

struct keyring *keyring_free(struct keyring *k)
{
	if (!k)
		return NULL;
	explicit_bzero(k, sizeof(*k));
	(void)munmap(k, sizeof(*k)); /* cannot fail: it is the whole mapping */
	return NULL;
}

size_t keyring_n_keys(const struct keyring *k)
{
	return k->n;
}

const char *keyring_id(const struct keyring *k, size_t i)
{
	return i < k->n ? k->ids[i] : NULL;
}

int keyring_find(const struct keyring *k, const char *id)
{
	for (size_t i = 0; i < k->n; i++)
		if (!strcmp(k->ids[i], id))
			return (int)i;
	return -ENOKEY;
}

/* ---- deriving: RFC 5869 -----------------------------------------------------------------------
 */

static int hkdf(const uint8_t *key, const uint8_t *salt, const char *info, uint8_t *ret, size_t len)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	char digest[] = "SHA256";
	OSSL_PARAM params[5], *p = params;
	int ok;

	/* OpenSSL takes what it only reads as void * */
	*p++ = OSSL_PARAM_construct_utf8_string("digest", digest, 0);
	*p++ = OSSL_PARAM_construct_octet_string("key", (void *)(uintptr_t)key, KEYRING_KEY_BYTES);
	*p++ = OSSL_PARAM_construct_octet_string("info", (void *)(uintptr_t)info, strlen(info));
	if (salt)
		*p++ = OSSL_PARAM_construct_octet_string("salt", (void *)(uintptr_t)salt,
							 SALT_BYTES);
	*p = OSSL_PARAM_construct_end();
	ok = ctx && EVP_KDF_derive(ctx, ret, len, params) > 0;
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return ok ? 0 : error_trace(-ENOMEM); /* the only way in which this fails */
}

int keyring_derive(const struct keyring *k, size_t i, const uint8_t *salt, const char *info,
		   uint8_t *ret, size_t len)
{
	return hkdf(k->keys[i], salt, info, ret, len);
}

static int append(struct keyring *k, const uint8_t key[KEYRING_KEY_BYTES], struct problem *problem)
{
	uint8_t id[KEY_ID_LEN / 2];
	char hex[KEY_ID_LEN + 1];
	int r;

	if (k->n == KEYRING_MAX_KEYS) {
		problem_set(problem, 400, "keys: more than %d of them", KEYRING_MAX_KEYS);
		return -EINVAL;
	}
	r = hkdf(key, NULL, "dormouse key id", id, sizeof(id));
	if (r < 0)
		return r;
	str_hex(id, sizeof(id), hex);
	if (keyring_find(k, hex) >= 0) {
		problem_set(problem, 400, "key %s is given twice", hex);
		return -EEXIST;
	}
	memcpy(k->keys[k->n], key, KEYRING_KEY_BYTES);
	memcpy(k->ids[k->n++], hex, sizeof(hex));
	return 0;
}

/* ---- sources ----------------------------------------------------------------------------------
 */

/* 32 raw bytes, 64 hexadecimal digits, or base64; each with or without a newline. */
static int parse_key(const char *text, size_t len, uint8_t ret[KEYRING_KEY_BYTES])
{
	char copy[TEXT_MAX + 1];
	uint8_t decoded[TEXT_MAX];
	int r = -EINVAL;

	if (len == KEYRING_KEY_BYTES ||
	    (len == KEYRING_KEY_BYTES + 1 && text[KEYRING_KEY_BYTES] == '\n')) {
		memcpy(ret, text, KEYRING_KEY_BYTES);
		return 0;
	}
	while (len && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	memcpy(copy, text, len);
	copy[len] = 0;
	if (strlen(copy) == len && len == 2 * (size_t)KEYRING_KEY_BYTES) {
		r = str_unhex(copy, ret, KEYRING_KEY_BYTES);
	} else if (base64_decode(copy, len, decoded) == KEYRING_KEY_BYTES) {
		memcpy(ret, decoded, KEYRING_KEY_BYTES);
		r = 0;
	}
	explicit_bzero(copy, sizeof(copy));
	explicit_bzero(decoded, sizeof(decoded));
	return r;
}

static int add_text(struct keyring *k, const char *source, const char *text, size_t len,
		    struct problem *problem)
{
	uint8_t key[KEYRING_KEY_BYTES] = {0};
	int r = len <= TEXT_MAX ? parse_key(text, len, key) : -EINVAL;

	if (r < 0) {
		problem_set(problem, 400, "key %s: not 32 bytes, 64 hexadecimal digits or base64",
			    source);
		problem_hint(problem,
			     "make one with: head -c 32 /dev/urandom > FILE; chmod 600 FILE");
	} else {
		r = append(k, key, problem);
	}
	explicit_bzero(key, sizeof(key));
	return r;
}

static int add_fd(struct keyring *k, const char *source, int fd, struct problem *problem)
{
	char text[TEXT_MAX + 1];
	size_t len = 0;
	ssize_t n = 1;
	int r = 0;

	while (len < sizeof(text) && n != 0) {
		n = read(fd, text + len, sizeof(text) - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r = -errno;
			problem_errno(problem, r, "key %s: reading it", source);
			break;
		}
		len += (size_t)n;
	}
	if (r == 0)
		r = add_text(k, source, text, len, problem);
	explicit_bzero(text, sizeof(text));
	return r;
}

static int add_file(struct keyring *k, const char *source, const char *path,
		    struct problem *problem)
{
	/* a FIFO would make open() wait */
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = -errno;

		problem_errno(problem, r, "key %s: opening it", source);
		return r;
	}
	if (!S_ISREG(st.st_mode)) {
		problem_set(problem, 400, "key %s: not a regular file", source);
		return -EINVAL;
	}
	if (st.st_mode & 077) {
		problem_set(problem, 400, "key %s: group or others may use the file (mode %04o)",
			    source, st.st_mode & 07777);
		problem_hint(problem, "chmod 600 %s", path);
		return -EINVAL;
	}
	return add_fd(k, source, fd, problem);
}

static int add_env(struct keyring *k, const char *source, const char *name, struct problem *problem)
{
	char *value = getenv(name);
	int r;

	if (!value) {
		problem_set(problem, 400, "key %s: no such variable in the environment", source);
		return -EINVAL;
	}
	r = add_text(k, source, value, strlen(value), problem);
	explicit_bzero(value, strlen(value)); /* what /proc/PID/environ shows is this memory */
	(void)unsetenv(name);		      /* fails only for a name that getenv() refuses */
	return r;
}

static int add_number(struct keyring *k, const char *source, const char *text,
		      struct problem *problem)
{
	uint64_t number;
	int r;

	if (str_to_u64(text, &number) < 0 || number > INT32_MAX) {
		problem_set(problem, 400, "key %s: not the number of a descriptor", source);
		return -EINVAL;
	}
	r = add_fd(k, source, (int)number, problem);
	fd_close((int)number);
	return r;
}

int keyring_add(struct keyring *k, const char *source, struct problem *problem)
{
	const char *rest;
	int r;

	if ((rest = str_has_prefix(source, "file:")))
		r = add_file(k, source, rest, problem);
	else if ((rest = str_has_prefix(source, "env:")))
		r = add_env(k, source, rest, problem);
	else if ((rest = str_has_prefix(source, "fd:")))
		r = add_number(k, source, rest, problem);
	else {
		/* perhaps somebody gave the key itself: it must not reach a log */
		problem_set(problem, 400, "a key is given as file:PATH, env:NAME or fd:NUMBER");
		r = -EINVAL;
	}
	return r;
}

/* ---- handing over: magic 8 | version 4 | number of keys 4 | keys, 32 each ---------------------
 */

int keyring_to_fd(const struct keyring *k, int *ret_fd)
{
	uint8_t raw[HANDED_BYTES(KEYRING_MAX_KEYS)];
	int fd;

	memcpy(raw, HANDED_MAGIC, 8);
	le_put32(raw + 8, 1);
	le_put32(raw + 12, (uint32_t)k->n);
	memcpy(raw + 16, k->keys, k->n * KEYRING_KEY_BYTES);
	fd = memfd_from_bytes("dorm-keys", raw, HANDED_BYTES(k->n));
	explicit_bzero(raw, sizeof(raw));
	if (fd < 0)
		return error_trace(fd);
	*ret_fd = fd;
	return 0;
}

static int read_handed(const uint8_t *raw, size_t len, struct keyring *k, struct problem *problem)
{
	uint32_t n = le_get32(raw + 12);
	int r = 0;

	if (memcmp(raw, HANDED_MAGIC, 8) || le_get32(raw + 8) != 1 || n < 1 ||
	    n > KEYRING_MAX_KEYS || len != HANDED_BYTES(n))
		return -EINVAL;
	for (uint32_t i = 0; r == 0 && i < n; i++)
		r = append(k, raw + HANDED_BYTES(i), problem);
	return r == -EEXIST ? -EINVAL : r;
}

int keyring_from_fd(int fd, struct problem *problem, struct keyring **ret)
{
	_cleanup_(keyring_freep) struct keyring *k = NULL;
	uint8_t raw[HANDED_BYTES(KEYRING_MAX_KEYS)];
	struct stat st;
	int r = keyring_new(&k);

	if (!k)
		return r;
	r = -EINVAL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= (off_t)HANDED_BYTES(1) &&
	    st.st_size <= (off_t)sizeof(raw) && fd_pread_full(fd, raw, (size_t)st.st_size, 0) == 0)
		r = read_handed(raw, (size_t)st.st_size, k, problem);
	explicit_bzero(raw, sizeof(raw));
	if (r == -EINVAL)
		problem_set(problem, 400, "the descriptor does not hold a key ring");
	if (r < 0)
		return r;
	*ret = take_ptr(k);
	return 0;
}
