/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-fixture.h - what the tests of this folder share: a temporary directory, guest memory as a
 * plain array, and images made from it
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/test.h"
#include "image/image.h"

struct fixture {
	char path[64];
	int dirfd;
};

/** fixture_setup() - a temporary directory; cmocka's setup function */
int fixture_setup(void **state);
int fixture_teardown(void **state);

/** fixture_dir() - make a directory below the fixture's. Return: its descriptor */
int fixture_dir(struct fixture *f, const char *name);

/** fixture_random() - small repeatable random numbers */
uint64_t fixture_random(uint64_t *seed);

/** fixture_page() - fill a page: kind 0 zero, 1 compressible text, 2 noise */
void fixture_page(uint8_t *page, unsigned kind, uint64_t *seed);

/**
 * fixture_image() - an image in directory @name that differs from @parent in the pages that
 * @changed marks (NULL: all), with the content of @memory. Return: opened again from disk
 */
struct image *fixture_image(struct fixture *f, const char *name, struct image *parent,
			    const char *parent_name, enum image_codec codec, const uint8_t *memory,
			    const bool *changed, struct image_writer_stats *ret_stats);

/** fixture_read_all() - every page of an image. Return: 0, or what reading it said */
int fixture_read_all(struct image *image, uint8_t *out, struct problem *problem);

/**
 * fixture_working_set() - write the working set of the image in @dirfd: @n runs of @n_pages pages,
 * the first at @first, then every @step
 */
void fixture_working_set(int dirfd, uint64_t first, uint64_t n_pages, uint64_t step, uint64_t n);

/** fixture_flip() - change one byte of a file */
void fixture_flip(int dirfd, const char *name, uint64_t offset, uint8_t mask);
