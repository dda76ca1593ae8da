/* SPDX-License-Identifier: Apache-2.0 */
#include "image/aead.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/test.h"

/* McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16 (256-bit key). */
static void test_vector(void **state)
{
	static const char plain_hex[] = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a"
					"318a721c3c0c95956809532fcf0e24"
					"49a6b525b16aedf5aa0de657ba637b39";
	static const char sealed_hex[] = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2"
					 "555d1aa8cb08e48590dbb3da7b08b10"
					 "56828838c5f61e6393ba7a0abcc9f662";
	uint8_t key[32], data[20], plain[60], sealed[60], out[60], tag[16], want_tag[16];
	struct aead_about about = {.data = data, .len = sizeof(data)};
	struct aead_key k;

	assert_int_equal(str_unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f946730830"
				   "8",
				   key, 32),
			 0);
	assert_int_equal(str_unhex("cafebabefacedbaddecaf888", about.nonce, 12), 0);
	assert_int_equal(str_unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2", data, 20), 0);
	assert_int_equal(str_unhex(plain_hex, plain, 60), 0);
	assert_int_equal(str_unhex(sealed_hex, sealed, 60), 0);
	assert_int_equal(str_unhex("76fc6ece0f4e1768cddf8853bb2d551b", want_tag, 16), 0);
	aead_key_init(&k, key);
	for (int again = 0; again < 2; again++) { /* the second time with the key set up */
		assert_int_equal(aead_seal(&k, &about, plain, 60, out, tag), 0);
		assert_memory_equal(out, sealed, 60);
		assert_memory_equal(tag, want_tag, 16);
		assert_int_equal(aead_open(&k, &about, sealed, 60, out, tag), 0);
		assert_memory_equal(out, plain, 60);
	}
	aead_key_wipe(&k);
}

static void test_refused(void **state)
{
	static const uint8_t zero[100];
	uint8_t bytes[32] = {1}, data[4] = "abc", in[100] = "plain", sealed[100], out[100], tag[16];
	struct aead_about about = {.data = data, .len = sizeof(data)};
	struct aead_key a, b;

	aead_key_init(&a, bytes);
	bytes[31] = 1;
	aead_key_init(&b, bytes);
	assert_int_equal(aead_seal(&a, &about, in, sizeof(in), sealed, tag), 0);
	assert_int_equal(aead_open(&b, &about, sealed, sizeof(in), out, tag), -EBADMSG);
	assert_memory_equal(out, zero, sizeof(out)); /* nothing stays */
	assert_int_equal(aead_open(&a, &about, sealed, sizeof(in), out, tag), 0);
	assert_memory_equal(out, in, sizeof(in));
	for (size_t i = 0; i < sizeof(sealed); i++) {
		sealed[i] ^= 4;
		assert_int_equal(aead_open(&a, &about, sealed, sizeof(in), out, tag), -EBADMSG);
		sealed[i] ^= 4;
	}
	for (size_t i = 0; i < sizeof(tag); i++) {
		tag[i] ^= 4;
		assert_int_equal(aead_open(&a, &about, sealed, sizeof(in), out, tag), -EBADMSG);
		tag[i] ^= 4;
	}
	assert_int_equal(aead_open(&a, &about, sealed, sizeof(in) - 1, out, tag), -EBADMSG);
	data[0]++;
	assert_int_equal(aead_open(&a, &about, sealed, sizeof(in), out, tag), -EBADMSG);
	data[0]--;
	about.nonce[11]++;
	assert_int_equal(aead_open(&a, &about, sealed, sizeof(in), out, tag), -EBADMSG);
	about.nonce[11]--;
	assert_int_equal(aead_open(&a, &about, sealed, sizeof(in), out, tag), 0);
}

static void *use_in_thread(void *userdata)
{
	test_vector(NULL);
	return NULL;
}

/* Threads come and go; what each of them kept goes with it (the leak checker watches). */
static void test_threads(void **state)
{
	for (int i = 0; i < 8; i++) {
		pthread_t t;

		assert_int_equal(pthread_create(&t, NULL, use_in_thread, NULL), 0);
		assert_int_equal(pthread_join(t, NULL), 0);
	}
}

TEST_MAIN(cmocka_unit_test(test_vector), cmocka_unit_test(test_refused),
	  cmocka_unit_test(test_threads))
