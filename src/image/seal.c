/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal.c - the file "seal"
 *
 * Two keys are derived from the tenant's key with HKDF-SHA256 and the file's own random salt: one
 * wraps, one authenticates. Since no two files share a salt, a wrapping key is used for at most
 * 4097 data keys, whose nonces simply are their numbers. A layer's id is the additional data of its
 * key, so that a wrapped key does not open another layer.
 *
 *     map_mac      = HMAC-SHA256("dormouse map" 0 | SHA-256(map) | ids and wrapped keys)
 *     manifest_mac = HMAC-SHA256("dormouse manifest" 0 | map_mac | SHA-256(manifest.json))
 *
 * The order in which things are believed: the key is found by its id; map_mac is compared; then
 * keys are unwrapped; manifest_mac, when the manifest matters. Comparing takes the same time
 * wherever the difference is.
 */
#include "image/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/id.h"
#include "base/str.h"
#include "image/aead.h"
#include "image/keyring-internal.h"
#include "image/le.h"
#include "image/outcome.h"
#include "image/plain-file.h"

#define DEVICE_NUMBER UINT32_MAX /* the nonce of the device key; layers have 0 .. 4095 */
#define SHA256_BYTES  32

#define ull(_v)	      ((unsigned long long)(_v))

void seal_deinit(struct seal *s)
{
	free(s->layers);
	*s = (struct seal){0};
}

int seal_new_key(uint8_t ret[LAYER_KEY_BYTES])
{
	id_random(ret, LAYER_KEY_BYTES);
	return 0;
}

/* ---- deriving, wrapping, authenticating -------------------------------------------------------
 */

/* The two keys of one file. */
struct file_keys {
	struct aead_key wrap;
	uint8_t mac[32];
};

static void file_keys_wipe(struct file_keys *k)
{
	explicit_bzero(k, sizeof(*k));
}

static int derive(const struct keyring *keys, size_t i, const uint8_t salt[SEAL_SALT_BYTES],
		  struct file_keys *ret)
{
	uint8_t wrap[AEAD_KEY_BYTES];
	int r = keyring_derive(keys, i, salt, "dormouse seal wrap", wrap, sizeof(wrap));

	if (r == 0)
		r = keyring_derive(keys, i, salt, "dormouse seal mac", ret->mac, sizeof(ret->mac));
	if (r == 0)
		aead_key_init(&ret->wrap, wrap);
	explicit_bzero(wrap, sizeof(wrap));
	return r;
}

/* The keys of @s, if the ring has its tenant key. */
static int find_keys(const struct seal *s, const struct keyring *keys, struct problem *problem,
		     struct file_keys *ret)
{
	int i = keyring_find(keys, s->key_id);

	if (i >= 0)
		return derive(keys, (size_t)i, s->salt, ret);
	problem_set(problem, 403, "seal: sealed with key %s, not with key %s%s", s->key_id,
		    keyring_n_keys(keys) ? keyring_id(keys, 0) : "(none)",
		    keyring_n_keys(keys) > 1 ? " or the others that were given" : "");
	problem_hint(problem,
		     "start dormd with the key it was sealed with as well: --seal-key, after "
		     "the first");
	return IMAGE_E_KEY;
}

static struct aead_about wrap_about(uint32_t number, const uint8_t id[LAYER_ID_BYTES])
{
	struct aead_about about = {.data = id, .len = LAYER_ID_BYTES};

	le_put32(about.nonce, number);
	return about;
}

static const uint8_t device_id[LAYER_ID_BYTES] =
	"dormouse device"; /* no layer's: those are random */

static int wrap(const struct file_keys *k, uint32_t number, const uint8_t id[LAYER_ID_BYTES],
		const uint8_t key[LAYER_KEY_BYTES], uint8_t out[SEAL_WRAPPED_BYTES])
{
	struct aead_about about = wrap_about(number, id);

	return aead_seal(&k->wrap, &about, key, LAYER_KEY_BYTES, out, out + LAYER_KEY_BYTES);
}

static int unwrap(const struct file_keys *k, uint32_t number, const uint8_t id[LAYER_ID_BYTES],
		  const uint8_t in[SEAL_WRAPPED_BYTES], uint8_t ret[LAYER_KEY_BYTES])
{
	struct aead_about about = wrap_about(number, id);

	return aead_open(&k->wrap, &about, in, LAYER_KEY_BYTES, ret, in + LAYER_KEY_BYTES);
}

static int sha256(const void *data, size_t len, uint8_t ret[SHA256_BYTES])
{
	return EVP_Digest(data, len, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

static int hmac(const struct file_keys *k, const struct buf *text, uint8_t ret[SEAL_MAC_BYTES])
{
	return HMAC(EVP_sha256(), k->mac, sizeof(k->mac), (const uint8_t *)text->data, text->len,
		    ret, NULL)
		       ? 0
		       : -ENOMEM;
}

static int map_mac(const struct file_keys *k, const struct seal *s, const void *map, size_t len,
		   uint8_t ret[SEAL_MAC_BYTES])
{
	_cleanup_buf_ struct buf text = {0};
	uint8_t digest[SHA256_BYTES];
	int r = sha256(map, len, digest);

	if (r == 0)
		r = buf_append(&text, "dormouse map", 13);
	if (r == 0)
		r = buf_append(&text, digest, sizeof(digest));
	for (uint32_t i = 0; r == 0 && i < s->n_layers; i++) {
		r = buf_append(&text, s->layers[i].id, LAYER_ID_BYTES);
		if (r == 0)
			r = buf_append(&text, s->layers[i].wrapped, SEAL_WRAPPED_BYTES);
	}
	if (r == 0)
		r = buf_append(&text, s->device, SEAL_WRAPPED_BYTES);
	return error_trace(r < 0 ? r : hmac(k, &text, ret));
}

static int manifest_mac(const struct file_keys *k, const struct seal *s, const char *manifest,
			size_t len, uint8_t ret[SEAL_MAC_BYTES])
{
	_cleanup_buf_ struct buf text = {0};
	uint8_t digest[SHA256_BYTES];
	int r = sha256(manifest, len, digest);

	if (r == 0)
		r = buf_append(&text, "dormouse manifest", 18);
	if (r == 0)
		r = buf_append(&text, s->map_mac, SEAL_MAC_BYTES);
	if (r == 0)
		r = buf_append(&text, digest, sizeof(digest));
	return error_trace(r < 0 ? r : hmac(k, &text, ret));
}

static int check_map(const struct file_keys *k, const struct seal *s, const void *map, size_t len,
		     struct problem *problem)
{
	uint8_t mac[SEAL_MAC_BYTES];
	int r = map_mac(k, s, map, len, mac);

	if (r < 0 || !CRYPTO_memcmp(mac, s->map_mac, sizeof(mac)))
		return r;
	return image_corrupt(problem,
			     "seal: map or seal is not what key %s sealed: one of them was altered "
			     "or replaced",
			     s->key_id);
}

static int check_manifest(const struct file_keys *k, const struct seal *s, const char *text,
			  size_t len, struct problem *problem)
{
	uint8_t mac[SEAL_MAC_BYTES];
	int r;

	if (!s->has_manifest)
		return image_corrupt(problem, "seal: no manifest was sealed yet");
	r = manifest_mac(k, s, text, len, mac);
	if (r < 0 || !CRYPTO_memcmp(mac, s->manifest_mac, sizeof(mac)))
		return r;
	return image_corrupt(problem,
			     "manifest.json: not the one that key %s sealed: it was altered, or an "
			     "older one was put in its place",
			     s->key_id);
}

/* ---- making one -------------------------------------------------------------------------------
 */

/* Salt, key id and wrapped keys under the first key of @keys; the MACs are to follow. */
static int make(const struct keyring *keys, const struct layer_name *names,
		const uint8_t (*layer_keys)[LAYER_KEY_BYTES], uint32_t n,
		const uint8_t device_key[LAYER_KEY_BYTES], struct seal *s, struct file_keys *ret_k)
{
	int r;

	str_copy(s->key_id, sizeof(s->key_id), keyring_id(keys, 0));
	id_random(s->salt, sizeof(s->salt));
	s->layers = calloc(MAX(n, 1u), sizeof(*s->layers));
	if (!s->layers)
		return -ENOMEM;
	s->n_layers = n;
	r = derive(keys, 0, s->salt, ret_k);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		memcpy(s->layers[i].id, names[i].id, LAYER_ID_BYTES);
		r = wrap(ret_k, i, names[i].id, layer_keys[i], s->layers[i].wrapped);
	}
	return r < 0 ? r : wrap(ret_k, DEVICE_NUMBER, device_id, device_key, s->device);
}

int seal_write(int dirfd, const struct keyring *keys, const struct layer_name *names,
	       const uint8_t (*layer_keys)[LAYER_KEY_BYTES], uint32_t n, const void *map,
	       size_t map_len, struct problem *problem)
{
	_cleanup_(file_keys_wipe) struct file_keys k = {0};
	_cleanup_(seal_deinit) struct seal s = {0};
	uint8_t device_key[LAYER_KEY_BYTES];
	int r;

	if (!keyring_n_keys(keys)) {
		problem_set(problem, 400, "seal: the key ring is empty");
		return -EINVAL;
	}
	r = seal_new_key(device_key);
	if (r == 0)
		r = make(keys, names, layer_keys, n, device_key, &s, &k);
	explicit_bzero(device_key, sizeof(device_key));
	if (r == 0)
		r = map_mac(&k, &s, map, map_len, s.map_mac);
	return error_trace(r < 0 ? r : seal_put(&s, dirfd, problem));
}

int seal_put(const struct seal *s, int dirfd, struct problem *problem)
{
	_cleanup_free_ char *text = NULL;
	int r = seal_encode(s, &text);

	if (r == 0)
		r = file_write_atomic(dirfd, "seal", text, strlen(text), 0444);
	if (r < 0)
		problem_errno(problem, r, "seal: writing it");
	return error_trace(r);
}

int seal_put_manifest(struct seal *s, int dirfd, const struct keyring *keys, const char *text,
		      size_t len, struct problem *problem)
{
	_cleanup_(file_keys_wipe) struct file_keys k = {0};
	int r = find_keys(s, keys, problem, &k);

	if (r == 0)
		r = manifest_mac(&k, s, text, len, s->manifest_mac);
	if (r)
		return r;
	s->has_manifest = true;
	return seal_put(s, dirfd, problem);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

int seal_match(const struct seal *s, const struct layer_name *names, uint32_t n,
	       struct problem *problem)
{
	if (s->n_layers != n)
		return image_corrupt(problem, "seal: %u layers, the map has %u", s->n_layers, n);
	for (uint32_t i = 0; i < n; i++)
		if (memcmp(s->layers[i].id, names[i].id, LAYER_ID_BYTES))
			return image_corrupt(
				problem, "seal: layer %u is not the one that the map has there", i);
	return 0;
}

/* Released by unwrap_layers()'s caller, on failure here. */
static void keys_free(uint8_t (*keys)[LAYER_KEY_BYTES], uint32_t n)
{
	explicit_bzero(keys, (size_t)n * sizeof(*keys));
	free(keys);
}

static int unwrap_layers(const struct file_keys *k, const struct seal *s, struct problem *problem,
			 uint8_t (**ret_keys)[LAYER_KEY_BYTES])
{
	uint8_t(*keys)[LAYER_KEY_BYTES] = calloc(MAX(s->n_layers, 1u), sizeof(*keys));
	int r = keys ? 0 : -ENOMEM;

	for (uint32_t i = 0; r == 0 && i < s->n_layers; i++)
		r = unwrap(k, i, s->layers[i].id, s->layers[i].wrapped, keys[i]);
	if (r == 0) {
		*ret_keys = keys;
		return 0;
	}
	if (keys)
		keys_free(keys, s->n_layers);
	return r == -EBADMSG ? image_corrupt(problem, "seal: a layer's key cannot be unwrapped")
			     : r;
}

int seal_unwrap(const struct seal *s, const struct keyring *keys, const void *map, size_t map_len,
		struct problem *problem, uint8_t (**ret_keys)[LAYER_KEY_BYTES])
{
	_cleanup_(file_keys_wipe) struct file_keys k = {0};
	int r = find_keys(s, keys, problem, &k);

	if (r == 0)
		r = check_map(&k, s, map, map_len, problem);
	return error_trace(r ? r : unwrap_layers(&k, s, problem, ret_keys));
}

int seal_device_key(const struct seal *s, const struct keyring *keys, struct problem *problem,
		    uint8_t ret[LAYER_KEY_BYTES])
{
	_cleanup_(file_keys_wipe) struct file_keys k = {0};
	int r = find_keys(s, keys, problem, &k);

	if (r == 0)
		r = unwrap(&k, DEVICE_NUMBER, device_id, s->device, ret);
	if (r == -EBADMSG)
		return image_corrupt(problem, "seal: the key of the device state was altered");
	return error_trace(r);
}

int seal_check_manifest(const struct seal *s, const struct keyring *keys, const char *text,
			size_t len, struct problem *problem)
{
	_cleanup_(file_keys_wipe) struct file_keys k = {0};
	int r = find_keys(s, keys, problem, &k);

	return error_trace(r ? r : check_manifest(&k, s, text, len, problem));
}

/* ---- rotation ---------------------------------------------------------------------------------
 */

/* Wrap the unwrapped keys of @s again. */
static int make_again(const struct seal *s, const struct keyring *keys,
		      const uint8_t (*layer_keys)[LAYER_KEY_BYTES],
		      const uint8_t device_key[LAYER_KEY_BYTES], struct seal *ret,
		      struct file_keys *ret_k)
{
	_cleanup_free_ struct layer_name *names = calloc(MAX(s->n_layers, 1u), sizeof(*names));

	if (!names)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_layers; i++)
		memcpy(names[i].id, s->layers[i].id, LAYER_ID_BYTES);
	return make(keys, names, layer_keys, s->n_layers, device_key, ret, ret_k);
}

int seal_rewrap(const struct seal *s, const struct keyring *keys, const void *map, size_t map_len,
		const char *manifest, size_t manifest_len, struct problem *problem,
		struct seal *ret)
{
	_cleanup_(file_keys_wipe) struct file_keys k = {0};
	_cleanup_(seal_deinit) struct seal made = {.has_manifest = s->has_manifest};
	uint8_t device_key[LAYER_KEY_BYTES], (*layer_keys)[LAYER_KEY_BYTES] = NULL;
	int r = seal_device_key(s, keys, problem, device_key);

	if (r == 0 && s->has_manifest)
		r = seal_check_manifest(s, keys, manifest, manifest_len, problem);
	if (r == 0)
		r = seal_unwrap(s, keys, map, map_len, problem, &layer_keys);
	if (r == 0)
		r = make_again(s, keys, layer_keys, device_key, &made, &k);
	explicit_bzero(device_key, sizeof(device_key));
	if (layer_keys)
		keys_free(layer_keys, s->n_layers);
	if (r == 0)
		r = map_mac(&k, &made, map, map_len, made.map_mac);
	if (r == 0 && made.has_manifest)
		r = manifest_mac(&k, &made, manifest, manifest_len, made.manifest_mac);
	if (r)
		return error_trace(r);
	*ret = made;
	made = (struct seal){0};
	return 0;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

int seal_read(int dirfd, struct problem *problem, struct seal *ret)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_fd_ int fd = -1;
	uint64_t bytes;
	int r;

	if (faccessat(dirfd, "seal", F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return SEAL_E_ABSENT;
	r = plain_file_open(dirfd, "seal", "seal", problem, &fd, &bytes);
	if (r)
		return r;
	if (bytes > SEAL_MAX_BYTES)
		return image_corrupt(problem, "seal: %llu bytes, limit %u", ull(bytes),
				     SEAL_MAX_BYTES);
	text = malloc((size_t)bytes + 1);
	if (!text)
		return -ENOMEM;
	r = fd_pread_full(fd, text, (size_t)bytes, 0);
	if (r < 0) {
		problem_errno(problem, r, "seal: reading %llu bytes", ull(bytes));
		return error_trace(r);
	}
	return seal_decode(text, (size_t)bytes, problem, ret);
}

int seal_open(int dirfd, const struct keyring *keys, bool check_only, struct problem *problem,
	      struct seal *ret)
{
	_cleanup_(seal_deinit) struct seal s = {0};
	int r = seal_read(dirfd, problem, &s);

	if (r == SEAL_E_ABSENT && keys) {
		problem_set(problem, 403,
			    "seal: missing: the snapshot is not sealed, but a key was given");
		problem_hint(
			problem,
			"if it never was: start dormd without --seal-key, or make it anew under "
			"the key");
		return IMAGE_E_KEY;
	}
	if (r)
		return r;
	if (!keys && !check_only) {
		problem_set(problem, 403, "seal: sealed with key %s, but no key was given",
			    s.key_id);
		problem_hint(problem, "start dormd with it: --seal-key");
		return IMAGE_E_KEY;
	}
	*ret = s;
	s = (struct seal){0};
	return 0;
}
