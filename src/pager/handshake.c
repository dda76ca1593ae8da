/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/handshake.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define HVA_MAX (1ull << 56) /* user addresses end at 2^47, or 2^56 with five-level page tables */

#define bad(_p, ...)                                                                               \
	({                                                                                         \
		problem_set(_p, 400, "handshake: " __VA_ARGS__);                                   \
		HANDSHAKE_E_BAD;                                                                   \
	})

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/*
 * Where does the array end? Brackets outside of strings are counted, which is all that is needed to
 * know whether the message is whole; whether it is good JSON is the parser's question. (The parser
 * cannot say: for it a number or a literal cut in two is an error, not a beginning.)
 */
static int find_end(const char *data, size_t len, size_t *ret_end, struct problem *problem)
{
	bool in_string = false, begun = false;
	size_t depth = 0;

	for (size_t i = 0; i < len; i++) {
		char c = data[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
			continue;
		}
		if (!begun && is_space(c))
			continue;
		if (!begun && c != '[')
			return bad(problem, "a JSON array of regions was expected");
		begun = true;
		if (c == '"')
			in_string = true;
		else if (c == '[' || c == '{')
			depth++;
		else if ((c == ']' || c == '}') && --depth == 0) {
			*ret_end = i + 1;
			return 0;
		}
	}
	if (len >= HANDSHAKE_MAX_BYTES)
		return bad(problem, "longer than %u bytes", HANDSHAKE_MAX_BYTES);
	return HANDSHAKE_E_MORE;
}

/* A whole number that is not negative; @required or else *@ret stays as it is. */
static int get_u64(const json_t *o, const char *name, bool required, uint64_t *ret,
		   struct problem *problem)
{
	const json_t *v = json_object_get(o, name);

	if (!v && !required)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return bad(problem, "\"%s\" must be a whole number, 0 or more", name);
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int parse_region(const json_t *o, uint64_t n_pages, struct handshake_region *ret,
			struct problem *problem)
{
	uint64_t base = 0, size = 0, offset = 0, page_size = DORM_PAGE_SIZE;
	uint64_t page_kib = DORM_PAGE_SIZE / 1024, image = n_pages * DORM_PAGE_SIZE;
	int r;

	if (!json_is_object(o))
		return bad(problem, "a region must be an object");
	if ((r = get_u64(o, "base_host_virt_addr", true, &base, problem)) ||
	    (r = get_u64(o, "size", true, &size, problem)) ||
	    (r = get_u64(o, "offset", true, &offset, problem)) ||
	    (r = get_u64(o, "page_size", false, &page_size, problem)))
		return r;
	/* Firecracker's older "page_size_kib" came to hold bytes for a while: both mean 4 KiB */
	if ((r = get_u64(o, "page_size_kib", false, &page_kib, problem)))
		return r;
	if (page_size != DORM_PAGE_SIZE ||
	    (page_kib != DORM_PAGE_SIZE / 1024 && page_kib != DORM_PAGE_SIZE))
		return bad(problem, "only pages of %lu bytes are served", DORM_PAGE_SIZE);
	if (base % DORM_PAGE_SIZE || size % DORM_PAGE_SIZE || offset % DORM_PAGE_SIZE)
		return bad(problem, "base, size and offset must be multiples of the page size");
	if (base == 0 || size == 0 || base >= HVA_MAX || size > HVA_MAX - base)
		return bad(problem, "a region of %llu bytes at 0x%llx is impossible",
			   (unsigned long long)size, (unsigned long long)base);
	if (offset > image || size > image - offset)
		return bad(problem,
			   "a region of %llu bytes at offset %llu is outside of the image's %llu",
			   (unsigned long long)size, (unsigned long long)offset,
			   (unsigned long long)image);
	*ret = (struct handshake_region){
		.hva = base, .gfn = offset / DORM_PAGE_SIZE, .n_pages = size / DORM_PAGE_SIZE};
	return 0;
}

static int compare_hva(const void *a, const void *b)
{
	const struct handshake_region *x = a, *y = b;

	return x->hva < y->hva ? -1 : x->hva > y->hva;
}

static int check_disjoint(struct handshake *h, struct problem *problem)
{
	qsort(h->regions, h->n_regions, sizeof(h->regions[0]), compare_hva);
	for (uint32_t i = 0; i < h->n_regions; i++) {
		const struct handshake_region *x = &h->regions[i];

		for (uint32_t j = i + 1; j < h->n_regions; j++) {
			const struct handshake_region *y = &h->regions[j];

			if (y->hva - x->hva < x->n_pages * DORM_PAGE_SIZE)
				return bad(problem, "two regions share the address 0x%llx",
					   (unsigned long long)y->hva);
			if (x->gfn < y->gfn + y->n_pages && y->gfn < x->gfn + x->n_pages)
				return bad(problem, "two regions show the same guest memory");
		}
	}
	return 0;
}

int handshake_parse(const char *data, size_t len, uint64_t n_pages, struct handshake *ret,
		    struct problem *problem)
{
	json_auto_t *array = NULL;
	struct handshake h = {0};
	json_error_t error;
	size_t end;
	int r = find_end(data, len, &end, problem);

	if (r)
		return r;
	for (size_t i = end; i < len; i++)
		if (!is_space(data[i]))
			return bad(problem, "something follows the array of regions");
	if (end > HANDSHAKE_MAX_BYTES)
		return bad(problem, "longer than %u bytes", HANDSHAKE_MAX_BYTES);
	array = json_loadb(data, end, JSON_REJECT_DUPLICATES, &error);
	if (!array)
		return json_error_code(&error) == json_error_out_of_memory
			       ? -ENOMEM
			       : bad(problem, "not JSON: %s", error.text);
	if (json_array_size(array) == 0 || json_array_size(array) > HANDSHAKE_MAX_REGIONS)
		return bad(problem, "%zu regions; 1 to %u are served", json_array_size(array),
			   HANDSHAKE_MAX_REGIONS);
	h.n_regions = (uint32_t)json_array_size(array);
	for (uint32_t i = 0; i < h.n_regions; i++) {
		r = parse_region(json_array_get(array, i), n_pages, &h.regions[i], problem);
		if (r)
			return r;
	}
	r = check_disjoint(&h, problem);
	if (r)
		return r;
	*ret = h;
	return 0;
}
