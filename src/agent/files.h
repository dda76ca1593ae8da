/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * files.h - /files and /files/compose: whole files in and out over HTTP
 *
 * GET is download.h, POST receive.h, compose compose.h: this looks who asks, and for which path.
 * GET and POST are open to signed URLs (signature.h).
 */
#include "agent/router.h"

int files_add(struct router *r);
