/* SPDX-License-Identifier: Apache-2.0 */
/*
 *     0   u8   op
 *     1   u8   0
 *     2   u16  length of the name
 *     4   u32  length of the text
 *     8   u32  number of the request
 *     12  u32  value
 *     16  name, text
 */
#include "pager/keeper-wire.h"

#include <errno.h>
#include <string.h>

#include "image/le.h"

size_t keeper_encode(const struct keeper_message *m, uint8_t out[KEEPER_MESSAGE_BYTES])
{
	out[0] = m->op;
	out[1] = 0;
	le_put16(out + 2, (uint16_t)m->name_len);
	le_put32(out + 4, m->json_len);
	le_put32(out + 8, m->seq);
	le_put32(out + 12, m->value);
	if (m->name_len)
		memcpy(out + KEEPER_HEADER_BYTES, m->name, m->name_len);
	if (m->json_len)
		memcpy(out + KEEPER_HEADER_BYTES + m->name_len, m->json, m->json_len);
	return KEEPER_HEADER_BYTES + m->name_len + m->json_len;
}

int keeper_decode(const uint8_t *data, size_t len, struct keeper_message *ret)
{
	struct keeper_message m;

	if (len < KEEPER_HEADER_BYTES || data[1] != 0)
		return -EPROTO;
	m = (struct keeper_message){.op = data[0],
				    .name_len = le_get16(data + 2),
				    .json_len = le_get32(data + 4),
				    .seq = le_get32(data + 8),
				    .value = le_get32(data + 12),
				    .name = (const char *)data + KEEPER_HEADER_BYTES};
	if (m.op < KEEPER_PUT || m.op > KEEPER_ANSWER || m.name_len > KEEPER_MAX_NAME ||
	    m.json_len > KEEPER_MAX_JSON || len != KEEPER_HEADER_BYTES + m.name_len + m.json_len)
		return -EPROTO;
	m.json = m.name + m.name_len;
	if ((m.op == KEEPER_PUT || m.op == KEEPER_REMOVE) && m.name_len == 0)
		return -EPROTO;
	if (memchr(m.name, 0, m.name_len + m.json_len))
		return -EPROTO;
	*ret = m;
	return 0;
}
