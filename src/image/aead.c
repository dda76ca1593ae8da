/* SPDX-License-Identifier: Apache-2.0 */
#include "image/aead.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum direction { DECRYPT, ENCRYPT, N_DIRECTIONS };

struct thread_state {
	EVP_CIPHER_CTX *ctx[N_DIRECTIONS];
	uint64_t serial[N_DIRECTIONS]; /* of the key that is set up; 0: none */
};

static _Thread_local struct thread_state *thread_state;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key; /* only for its destructor, which runs when a thread ends */
static int once_error;
static EVP_CIPHER *cipher; /* fetched once, which takes longer than a frame; never given back */
static atomic_uint_least64_t last_serial;

static void free_state(void *userdata)
{
	struct thread_state *s = userdata;

	for (int i = 0; i < N_DIRECTIONS; i++)
		EVP_CIPHER_CTX_free(s->ctx[i]); /* wipes the key schedule */
	free(s);
	thread_state = NULL; /* another key's destructor may still decrypt: it makes a new one */
}

static void fetch(void)
{
	once_error = pthread_key_create(&thread_key, free_state);
	cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
}

/* With their cipher: a context that gets one later allocates each time. */
static bool make_contexts(struct thread_state *s)
{
	for (int i = 0; i < N_DIRECTIONS; i++) {
		s->ctx[i] = EVP_CIPHER_CTX_new();
		if (!s->ctx[i] ||
		    EVP_CipherInit_ex2(s->ctx[i], cipher, NULL, NULL, i == ENCRYPT, NULL) != 1)
			return false;
	}
	return true;
}

static int get_state(struct thread_state **ret)
{
	struct thread_state *s = thread_state;
	int r;

	if (s) {
		*ret = s;
		return 0;
	}
	(void)pthread_once(&once, fetch); /* cannot fail with a static initializer */
	if (once_error || !cipher)
		return once_error ? -once_error : -ENOMEM;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	r = make_contexts(s) ? pthread_setspecific(thread_key, s) : ENOMEM;
	if (r) {
		free_state(s);
		return -r;
	}
	*ret = thread_state = s;
	return 0;
}

void aead_key_init(struct aead_key *k, const uint8_t bytes[AEAD_KEY_BYTES])
{
	memcpy(k->bytes, bytes, AEAD_KEY_BYTES);
	k->serial = 1 + atomic_fetch_add_explicit(&last_serial, 1, memory_order_relaxed);
}

void aead_key_wipe(struct aead_key *k)
{
	explicit_bzero(k, sizeof(*k));
}

/* A context with key and nonce set; the key only when it is another one than last time. */
static int begin(const struct aead_key *k, const struct aead_about *about, enum direction d,
		 EVP_CIPHER_CTX **ret)
{
	struct thread_state *s = NULL;
	bool same;
	int n, r = get_state(&s);

	if (!s)
		return error_trace(r);
	same = s->serial[d] == k->serial;
	s->serial[d] = 0;
	if (EVP_CipherInit_ex2(s->ctx[d], NULL, same ? NULL : k->bytes, about->nonce, d == ENCRYPT,
			       NULL) != 1)
		return error_trace(-ENOMEM);
	s->serial[d] = k->serial;
	if (about->len && EVP_CipherUpdate(s->ctx[d], NULL, &n, about->data, (int)about->len) != 1)
		return error_trace(-EIO);
	*ret = s->ctx[d];
	return 0;
}

int aead_seal(const struct aead_key *k, const struct aead_about *about, const void *in, size_t len,
	      void *out, uint8_t ret_tag[AEAD_TAG_BYTES])
{
	EVP_CIPHER_CTX *ctx = NULL;
	int n, r;

	if (len > INT_MAX)
		return error_trace(-EFBIG);
	r = begin(k, about, ENCRYPT, &ctx);
	if (r < 0)
		return r;
	if (EVP_EncryptUpdate(ctx, out, &n, in, (int)len) != 1 ||
	    EVP_EncryptFinal_ex(ctx, (uint8_t *)out + len, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, ret_tag) != 1)
		return error_trace(-EIO);
	return 0;
}

int aead_open(const struct aead_key *k, const struct aead_about *about, const void *in, size_t len,
	      void *out, const uint8_t tag[AEAD_TAG_BYTES])
{
	uint8_t expected[AEAD_TAG_BYTES];
	EVP_CIPHER_CTX *ctx = NULL;
	int n, r;

	if (len > INT_MAX)
		return error_trace(-EFBIG);
	r = begin(k, about, DECRYPT, &ctx);
	if (r < 0)
		return r;
	memcpy(expected, tag, AEAD_TAG_BYTES); /* OpenSSL wants one that is not const */
	if (EVP_DecryptUpdate(ctx, out, &n, in, (int)len) != 1 ||
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, expected) != 1 ||
	    EVP_DecryptFinal_ex(ctx, (uint8_t *)out + len, &n) != 1) {
		explicit_bzero(out, len);
		return -EBADMSG;
	}
	return 0;
}
