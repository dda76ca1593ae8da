/* SPDX-License-Identifier: Apache-2.0 */
#include "api/signed-url.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/base64.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"
#include "sandbox/sandbox.h"

#define SHA256_BYTES 32

struct search {
	const struct signed_url *url;
	EVP_MD_CTX *head; /* what comes before the token has been hashed */
	EVP_MD_CTX *copy;
	char *id;
	int result;
};

static const char *or_empty(const char *text)
{
	return text ? text : "";
}

static bool hash_text(EVP_MD_CTX *ctx, const char *text)
{
	return EVP_DigestUpdate(ctx, text, strlen(text)) == 1;
}

static bool hash_head(EVP_MD_CTX *ctx, const struct signed_url *u)
{
	return ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
	       hash_text(ctx, or_empty(u->path)) &&
	       hash_text(ctx, u->write ? ":write:" : ":read:") &&
	       hash_text(ctx, or_empty(u->user)) && hash_text(ctx, ":");
}

static bool hash_tail(EVP_MD_CTX *ctx, const struct signed_url *u, const char *token,
		      char ret[SIGNED_URL_SIGNATURE_SIZE])
{
	unsigned char digest[SHA256_BYTES];
	char coded[SHA256_BYTES / 3 * 4 + 5];

	if (!hash_text(ctx, token) || (u->expiration && !hash_text(ctx, ":")) ||
	    (u->expiration && !hash_text(ctx, u->expiration)) ||
	    EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
		return false;
	base64_encode(digest, sizeof(digest), coded);
	coded[strcspn(coded, "=")] = 0;
	memcpy(ret, "v1_", 3);
	str_copy(ret + 3, SIGNED_URL_SIGNATURE_SIZE - 3, coded);
	return true;
}

static void search_deinit(struct search *s)
{
	EVP_MD_CTX_free(s->head);
	EVP_MD_CTX_free(s->copy);
}

static int search_init(struct search *s, const struct signed_url *u)
{
	*s = (struct search){.url = u, .result = -ENOENT};
	if (strlen(or_empty(u->path)) > SIGNED_URL_MAX_PATH ||
	    strlen(or_empty(u->user)) > SIGNED_URL_MAX_PATH || strlen(or_empty(u->expiration)) > 32)
		return -ENAMETOOLONG;
	s->head = EVP_MD_CTX_new();
	s->copy = EVP_MD_CTX_new();
	return s->copy && hash_head(s->head, u) ? 0 : -ENOMEM;
}

static int sign(struct search *s, const char *token, char ret[SIGNED_URL_SIGNATURE_SIZE])
{
	if (EVP_MD_CTX_copy_ex(s->copy, s->head) != 1 || !hash_tail(s->copy, s->url, token, ret))
		return -ENOMEM;
	return 0;
}

int signed_url_sign(const struct signed_url *u, const char *token,
		    char ret[SIGNED_URL_SIGNATURE_SIZE])
{
	_cleanup_(search_deinit) struct search s;
	int r = search_init(&s, u);

	return r < 0 ? r : sign(&s, token, ret);
}

/* All are tried, also after it was found: how long this takes tells nothing of whose it is. */
static void try_sandbox(void *userdata, const struct sandbox_info *info)
{
	struct search *s = userdata;
	char signature[SIGNED_URL_SIGNATURE_SIZE];

	if (!info->token[0] || sign(s, info->token, signature) < 0)
		return;
	if (!str_equal_secret(signature, s->url->signature))
		return;
	memcpy(s->id, info->id, sizeof(info->id));
	s->result = 0;
}

int signed_url_find(struct host *host, const struct signed_url *u, char ret_id[ID_LEN + 1])
{
	_cleanup_(search_deinit) struct search s;
	int r = search_init(&s, u);

	if (r < 0)
		return error_trace(r);
	s.id = ret_id;
	r = sandbox_each(host, try_sandbox, &s);
	return r < 0 ? error_trace(r) : s.result;
}
