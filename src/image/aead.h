/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * aead.h - AES-256-GCM over one buffer
 *
 * Each thread keeps one context per direction until it ends, with the key schedule of the last key
 * it used, so that later calls allocate nothing and frames of one layer cost no key setup. Any
 * thread.
 */
#include <stddef.h>
#include <stdint.h>

#define AEAD_KEY_BYTES	 32
#define AEAD_NONCE_BYTES 12
#define AEAD_TAG_BYTES	 16

/* A key, with a number that no other key of this process has: how a context knows its last one. */
struct aead_key {
	uint8_t bytes[AEAD_KEY_BYTES];
	uint64_t serial;
};

/** aead_key_init() - copy 32 bytes; release with aead_key_wipe() */
void aead_key_init(struct aead_key *k, const uint8_t bytes[AEAD_KEY_BYTES]);
void aead_key_wipe(struct aead_key *k);

/* What goes along with a buffer: authenticated, not stored with it. */
struct aead_about {
	uint8_t nonce[AEAD_NONCE_BYTES]; /* never twice with one key */
	const void *data;		 /* additional data */
	size_t len;
};

/**
 * aead_seal() - encrypt @len bytes (up to 2 GiB) of @in to as many at @out, and make the tag
 * Return: 0; -ENOMEM, only at a thread's first call
 */
int aead_seal(const struct aead_key *k, const struct aead_about *about, const void *in, size_t len,
	      void *out, uint8_t ret_tag[AEAD_TAG_BYTES]);

/**
 * aead_open() - the opposite; on failure nothing of the plain text stays at @out
 * Return: 0; -EBADMSG when anything is not what was sealed; -ENOMEM, only at a thread's first call
 */
int aead_open(const struct aead_key *k, const struct aead_about *about, const void *in, size_t len,
	      void *out, const uint8_t tag[AEAD_TAG_BYTES]);
