/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * init-request.h - the body of POST /init, checked
 *
 *     kind            "boot", "wake", "fork" or "resume"; absent: "boot"
 *     sandboxID       1 to 64 bytes
 *     hostname        1 to 64 bytes
 *     machineID       32 hexadecimal digits; optional
 *     templateID      up to 128 bytes; optional
 *     timestampNs     nanoseconds since the epoch, a number or its digits
 *     entropy         base64 of 32 to 512 bytes
 *     accessToken     up to 512 visible ASCII characters; absent or "": clients need none
 *     envVars         object of strings; optional
 *     defaultUser     up to 63 bytes; optional
 *     defaultWorkdir  absolute; optional
 *     network         as network.h has it; absent: none
 */
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/identity.h"
#include "base/problem.h"

#define ENTROPY_MIN 32
#define ENTROPY_MAX 512

enum init_kind { INIT_BOOT, INIT_WAKE, INIT_FORK, INIT_RESUME };

/* Texts are borrowed from the body; NULL: absent or empty. */
struct init_request {
	enum init_kind kind;
	struct identity identity;
	const char *token;
	const char *default_user;
	const char *default_workdir;
	uint64_t timestamp_ns;
	json_t *env;	 /* NULL: none */
	json_t *network; /* not looked at yet; NULL: none */
	size_t entropy_len;
	/* as RNDADDENTROPY wants it */
	struct {
		int bits;
		int len;
		uint8_t data[ENTROPY_MAX];
	} entropy;
};

/** init_kind_name() - "boot" */
const char *init_kind_name(enum init_kind kind);

/** init_request_parse() - @o: NULL is no object. Return: 0; -EINVAL with a 400 in @problem */
int init_request_parse(json_t *o, struct problem *problem, struct init_request *ret);
