/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page-dedupe.c - finding identical pages by a keyed hash
 *
 * A page is known by 128 bits and is not compared with the stored one, which is compressed or
 * encrypted by then. So two different pages with the same hash would be one page after the wake,
 * and the hash must hold against a guest that tries. What helps is a key that the guest cannot
 * know: 32 random bytes per writer, made after the guest has stopped.
 *
 * A key is not enough for every hash. XXH3-128 with a random secret is not made for this: pages
 * that differ only in the top two bits of every eighth word collide with a probability near 2^-34
 * whatever the secret, so 2^19 such pages (2 GiB of guest) hold about twenty collisions.
 * test-page-dedupe.c has that very set of pages. Poly1305 costs half as much again and has a proof:
 * over the random key, two given pages of 4096 bytes collide with at most 8 * 256 / 2^106 = 2^-95.
 * For a guest of 8 GiB, 2^21 pages and so 2^41 pairs, all of them chosen by an attacker, that is
 * 2^-54; the hashes never leave this file, so that nothing can be learned about a key.
 *
 * The table: open addressing, linear probing, at most three quarters full, doubled from 1024
 * entries on. 20 bytes per entry. At 2^21 entries (40 MiB, and 20 MiB more while it is being
 * doubled) it no longer grows: the first 1.5 million different pages, 6 GiB, are remembered and
 * what comes later is only compared with those. When there is no memory it stops growing as well.
 *
 * Source: D. J. Bernstein, "The Poly1305-AES message-authentication code", theorem 3.3
 */
#include "image/page-dedupe.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/id.h"

#define FIRST_ENTRIES 1024u
#define NO_SLOT	      UINT32_MAX
#define KEY_BYTES     32
#define HASH_BYTES    16

struct entry {
	uint64_t lo, hi;
	uint32_t slot; /* NO_SLOT: empty */
} __attribute__((packed));

struct page_dedupe {
	EVP_MAC *mac;
	EVP_MAC_CTX *context;
	uint8_t key[KEY_BYTES];
	struct entry *entries;
	uint32_t n_entries; /* a power of two */
	uint32_t n_used;
	/* what the last find looked for */
	uint64_t lo, hi;
};

struct page_dedupe *page_dedupe_free(struct page_dedupe *d)
{
	if (!d)
		return NULL;
	EVP_MAC_CTX_free(d->context);
	EVP_MAC_free(d->mac);
	OPENSSL_cleanse(d->key, sizeof(d->key));
	free(d->entries);
	free(d);
	return NULL;
}

static struct entry *new_entries(uint32_t n)
{
	struct entry *entries = malloc((size_t)n * sizeof(*entries));

	if (entries)
		memset(entries, 0xff, (size_t)n * sizeof(*entries)); /* NO_SLOT */
	return entries;
}

int page_dedupe_new(struct page_dedupe **ret)
{
	_cleanup_(page_dedupe_freep) struct page_dedupe *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->mac = EVP_MAC_fetch(NULL, "POLY1305", NULL);
	d->context = d->mac ? EVP_MAC_CTX_new(d->mac) : NULL;
	d->entries = new_entries(FIRST_ENTRIES);
	if (!d->context || !d->entries)
		return -ENOMEM;
	d->n_entries = FIRST_ENTRIES;
	id_random(d->key, sizeof(d->key));
	*ret = take_ptr(d);
	return 0;
}

/* A bijection of the sum is added by Poly1305's second half of the key: no matter here. */
static int hash_page(struct page_dedupe *d, const void *page)
{
	uint8_t tag[HASH_BYTES];
	size_t len;

	if (!EVP_MAC_init(d->context, d->key, sizeof(d->key), NULL) ||
	    !EVP_MAC_update(d->context, page, DORM_PAGE_SIZE) ||
	    !EVP_MAC_final(d->context, tag, &len, sizeof(tag)))
		return error_trace(-ENOMEM); /* the only way in which hashing memory fails */
	memcpy(&d->lo, tag, sizeof(d->lo));
	memcpy(&d->hi, tag + sizeof(d->lo), sizeof(d->hi));
	return 0;
}

/* Where (@lo, @hi) is, or the empty place where it would be. */
static struct entry *find_entry(struct entry *entries, uint32_t n, uint64_t lo, uint64_t hi)
{
	for (uint32_t i = (uint32_t)lo & (n - 1);; i = (i + 1) & (n - 1)) {
		struct entry *e = &entries[i];

		if (e->slot == NO_SLOT || (e->lo == lo && e->hi == hi))
			return e;
	}
}

int page_dedupe_find(struct page_dedupe *d, const void *page, uint32_t *ret_slot)
{
	const struct entry *e;
	int r = hash_page(d, page);

	if (r < 0)
		return r;
	e = find_entry(d->entries, d->n_entries, d->lo, d->hi);
	if (e->slot == NO_SLOT)
		return 0;
	*ret_slot = e->slot;
	return 1;
}

static bool grow(struct page_dedupe *d)
{
	struct entry *entries;

	if (d->n_entries == PAGE_DEDUPE_MAX_ENTRIES)
		return false;
	entries = new_entries(2 * d->n_entries);
	if (!entries)
		return false;
	for (uint32_t i = 0; i < d->n_entries; i++)
		if (d->entries[i].slot != NO_SLOT)
			*find_entry(entries, 2 * d->n_entries, d->entries[i].lo, d->entries[i].hi) =
				d->entries[i];
	free(d->entries);
	d->entries = entries;
	d->n_entries *= 2;
	return true;
}

void page_dedupe_add(struct page_dedupe *d, uint32_t slot)
{
	if (d->n_used >= d->n_entries / 4 * 3 && !grow(d))
		return;
	*find_entry(d->entries, d->n_entries, d->lo, d->hi) =
		(struct entry){.lo = d->lo, .hi = d->hi, .slot = slot};
	d->n_used++;
}
