/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/traffic.h"

#include <stdint.h>

#include "base/id.h"
#include "base/str.h"

void traffic_token_new(char out[TRAFFIC_TOKEN_LEN + 1])
{
	uint8_t random[TRAFFIC_TOKEN_LEN / 2];

	id_random(random, sizeof(random));
	str_hex(random, sizeof(random), out);
}
