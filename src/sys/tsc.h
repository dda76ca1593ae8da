/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* tsc.h - the rate of the processor's time stamp counter, which a guest inherits from its host */
#include <stdint.h>

/**
 * tsc_khz() - cycles per millisecond, measured once against CLOCK_MONOTONIC_RAW, right to 0.1 %
 * The first call takes about 20 ms, later ones nothing. Any thread.
 * Return: 0; -ENOTSUP when the counter does not run at a steady rate
 */
int tsc_khz(uint64_t *ret);
