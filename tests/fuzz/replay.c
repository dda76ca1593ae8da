/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - a main() for fuzz targets without libFuzzer: every file of a corpus, and its prefixes
 *
 * So each input that was ever found stays a test, in every build. Prefixes are cheap and find what
 * a truncated file does.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "fuzz.h"

#define INPUT_MAX_BYTES (16u << 20)
#define PREFIXES	64

/* A copy of exactly @len bytes, so that AddressSanitizer sees a read past them. */
static void feed(const char *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		abort();
	for (size_t i = 0; i < len; i++)
		copy[i] = (uint8_t)data[i];
	(void)LLVMFuzzerTestOneInput(copy, len);
	free(copy);
}

static void replay(const char *data, size_t len)
{
	size_t step = len / PREFIXES + 1;

	for (size_t n = 0; n < len; n += step)
		feed(data, n);
	feed(data, len);
}

int main(int argc, char **argv)
{
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	d = argc == 2 ? opendir(argv[1]) : NULL;
	if (!d) {
		(void)fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
		return 2;
	}
	while ((e = readdir(d))) {
		_cleanup_free_ char *data = NULL;
		size_t len;

		if (e->d_name[0] == '.')
			continue;
		if (file_read(dirfd(d), e->d_name, INPUT_MAX_BYTES, &data, &len) < 0) {
			(void)fprintf(stderr, "cannot read %s\n", e->d_name);
			return 1;
		}
		replay(data, len);
		n++;
	}
	closedir(d);
	(void)printf("%u inputs\n", n);
	return n > 0 ? 0 : 1;
}
