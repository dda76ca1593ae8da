/* SPDX-License-Identifier: Apache-2.0 */
#include "base/id.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void id_random(void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = getrandom((char *)buf + done, len - done, 0);

		if (n < 0 && errno != EINTR)
			abort(); /* only possible without the system call (kernel < 3.17) */
		if (n > 0)
			done += (size_t)n;
	}
}

void id_new(char prefix, char out[ID_LEN + 1])
{
	static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	int n = 0;

	out[n++] = prefix;
	while (n < ID_LEN) {
		uint8_t b;

		id_random(&b, 1);
		if (b < 252) /* 7 * 36: keeps every character equally likely */
			out[n++] = alphabet[b % 36];
	}
	out[n] = 0;
}

bool id_is_valid(const char *s)
{
	return strlen(s) == ID_LEN && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ID_LEN;
}
