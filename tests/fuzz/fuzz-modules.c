/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz-modules.c - modules.dep: whatever it says, the answer is an error or a list without doubles
 */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "guest/modules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *const wanted[] = {"a", "erofs", "virtio_mmio", NULL};
	struct module_list l = {0};
	char *text;

	if (size > 4096)
		return 0; /* deep circles of long lines take long and show nothing new */
	text = malloc(size + 1);
	assert(text);
	memcpy(text, data, size);
	text[size] = 0;
	if (modules_resolve(text, "k/virtio_mmio.ko\nk/erofs.ko\n", wanted, NULL, &l) == 0)
		for (unsigned i = 0; i < l.n; i++)
			for (unsigned k = 0; k < i; k++)
				assert(strcmp(l.paths[i], l.paths[k]) != 0);
	module_list_deinit(&l);
	free(text);
	return 0;
}
