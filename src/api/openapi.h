/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * openapi.h - the description of this API, as it is served at /openapi.json
 *
 * openapi.json is written by hand and compiled in. test-openapi.c holds it against routes.c,
 * tests/e2e/test_openapi.py against what dormd answers: a new route needs an entry in "paths", and
 * a step in that test.
 */
#include <stddef.h>

extern const char openapi_json[]; /* ends with a NUL */
extern const size_t openapi_json_len;
