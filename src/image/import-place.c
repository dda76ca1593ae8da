/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import-place.c - what may come next in the stream of a snapshot
 *
 * Once the manifest is there, the kinds of all items that must follow are known by their number,
 * and of most of them the exact length. An item that is not the expected one is refused at its
 * head.
 */
#include <string.h>

#include "base/str.h"
#include "image/import-internal.h"

#define ull(_v) ((unsigned long long)(_v))

bool import_is_sealed(const struct importer *m)
{
	return !strcmp(m->manifest.seal, "aes-256-gcm");
}

/*
 * The items of a snapshot in their order: manifest, map, then what the manifest says. @ret_index:
 * among the items of its kind. Return: the kind; 0 beyond the last one that must be there
 */
static uint32_t expected_kind(const struct importer *m, uint32_t number, uint32_t *ret_index)
{
	const struct {
		uint32_t kind, n;
	} order[] = {{TRANSFER_MANIFEST, 1},
		     {TRANSFER_MAP, 1},
		     {TRANSFER_SEAL, import_is_sealed(m)},
		     {TRANSFER_DEVICE, m->manifest.device_bytes > 0},
		     {TRANSFER_LAYER, m->files.n_layers},
		     {TRANSFER_DISK, m->manifest.n_disks}};

	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		*ret_index = number;
		if (number < order[i].n)
			return order[i].kind;
		number -= order[i].n;
	}
	*ret_index = number;
	return 0;
}

uint32_t import_layer_number(const struct importer *m)
{
	uint32_t index;

	(void)expected_kind(m, m->item.number, &index);
	return index;
}

/* Most and least that an item of this kind may be long. */
static void limits(const struct importer *m, const struct transfer_item *item, uint32_t index,
		   uint64_t *ret_min, uint64_t *ret_max)
{
	uint64_t exact = m->manifest.device_bytes;

	*ret_min = 0;
	switch (item->kind) {
	case TRANSFER_MANIFEST:
		*ret_max = MANIFEST_MAX_BYTES;
		return;
	case TRANSFER_SEAL:
		*ret_max = TRANSFER_MAX_SEAL_BYTES;
		return;
	case TRANSFER_WORKING_SET:
		*ret_max = TRANSFER_MAX_SET_BYTES;
		return;
	case TRANSFER_DEVICE:
		break;
	case TRANSFER_MAP:
		exact = m->files.map_bytes;
		break;
	case TRANSFER_LAYER:
		exact = m->files.layers[index].bytes;
		break;
	case TRANSFER_DISK:
		exact = m->manifest.disks[index].size;
		break;
	default:
		exact = TRANSFER_MAX_ITEM_BYTES;
		*ret_max = exact;
		return;
	}
	*ret_min = *ret_max = exact;
}

static int check_length(struct importer *m, const struct transfer_item *item, uint32_t index)
{
	uint64_t min, max;

	limits(m, item, index, &min, &max);
	if (item->bytes >= min && item->bytes <= max)
		return 0;
	return transfer_fault(
		&m->problem, "stream: item %u (%s): %llu bytes, it must have %llu to %llu",
		item->number, transfer_kind_name(item->kind), ull(item->bytes), ull(min), ull(max));
}

static int check_layer_id(struct importer *m, const struct transfer_item *item, uint32_t index)
{
	char id[IMAGE_ID_LEN + 1];

	str_hex(item->layer, LAYER_ID_BYTES, id);
	if (!strcmp(id, m->files.layers[index].id))
		return 0;
	return transfer_fault(&m->problem, "stream: item %u: layer %s comes where layer %s belongs",
			      item->number, id, m->files.layers[index].id);
}

/* Behind what must be there: the working set, and what a later minor version has added. */
static bool may_follow(const struct transfer_item *item, uint32_t index)
{
	if (item->kind == TRANSFER_END)
		return true;
	if (item->kind == TRANSFER_WORKING_SET)
		return index == 0;
	return item->kind > TRANSFER_WORKING_SET && (item->flags & TRANSFER_IGNORABLE);
}

int import_check_place(struct importer *m, const struct transfer_item *item, uint32_t *ret_index)
{
	uint32_t index, expected = expected_kind(m, item->number, &index);

	if (expected ? item->kind != expected : !may_follow(item, index))
		return transfer_fault(&m->problem,
				      "stream: item %u is %s (kind %u), where %s belongs",
				      item->number, transfer_kind_name(item->kind), item->kind,
				      expected ? transfer_kind_name(expected) : "the end");
	*ret_index = index;
	if (item->kind == TRANSFER_LAYER && check_layer_id(m, item, index))
		return TRANSFER_E_STREAM;
	return item->kind == TRANSFER_END ? 0 : check_length(m, item, index);
}
