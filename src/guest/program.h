/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* program.h - is a program static? What runs in a guest finds no libraries of the host there */
#include <stdbool.h>
#include <stddef.h>

/** program_is_static() - is this an x86-64 ELF program that asks for no interpreter? */
bool program_is_static(const void *data, size_t len);
