/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* fuzz.h - the one function of a fuzz target; libFuzzer or replay.c calls it */
#include <stddef.h>
#include <stdint.h>

/** LLVMFuzzerTestOneInput() - feed @size bytes to a decoder; abort on anything wrong. Return: 0 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
