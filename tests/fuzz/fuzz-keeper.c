/* SPDX-License-Identifier: Apache-2.0 */
/* A message between worker and keeper: what is accepted is what would have been written. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "pager/keeper-wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t out[KEEPER_MESSAGE_BYTES];
	struct keeper_message m;

	if (keeper_decode(data, size, &m) < 0)
		return 0;
	if (keeper_encode(&m, out) != size || memcmp(out, data, size) != 0)
		abort();
	return 0;
}
