/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * bench-pager-raw.h - the loops that the pager is measured against
 *
 * Each is the least that does the work at all: no checks, no bookkeeping, no sharing.
 */
#include <stdint.h>
#include <sys/types.h>

#include "image/image.h"

/** raw_memfd() - a memfd of so many bytes of noise, every page there. Ends the program on failure
 */
int raw_memfd(uint64_t len);

/** raw_registered() - private memory, or all of a new memfd (@shared), registered for missing pages
 */
uint8_t *raw_registered(uint64_t len, bool shared, int *ret_uffd);

/**
 * raw_handler() - a process with one thread: poll, read one event, UFFDIO_COPY of that page
 * @source: as long as the memory. Return: its pid, to be killed
 */
pid_t raw_handler(int uffd, const uint8_t *memory, const uint8_t *source);

/** raw_fill() - UFFDIO_COPYs of 2 MiB, one after the other */
void raw_fill(int uffd, uint8_t *memory, const uint8_t *source, uint64_t len);

/** raw_decompress() - read and decode every frame of an image on all cores, and forget it */
void raw_decompress(const struct image *image);

/** raw_require() - end the program if not @ok, saying what failed */
void raw_require(bool ok, const char *what);
