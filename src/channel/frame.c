/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser is a state machine over bytes; payload bytes are taken in runs. The payload is held
 * back until the trailer is seen, so that a frame which a snapshot cut in two can never be
 * half-believed.
 *
 * Why the marker is long enough: the longest way from any state to "between frames" on zeros alone
 * is a DATA frame whose length 16384 has just arrived: 16384 payload bytes, 1 trailer. With only a
 * type pending the length becomes 0 and the trailer comes after 3 zeros. "Lost" needs 16384 zeros,
 * and is entered only on a byte that is not zero, so the whole marker is still to come. 7 zeros are
 * spare.
 *
 * Example: the stream was cut inside DATA of 5 bytes, "D3 05 00 68 65"; then the host reconnects
 * and sends 16392 zeros and HELLO. Zeros 1 to 3 fill the payload, zero 4 is read as the trailer:
 * dropped; the other 16388 are padding; HELLO is parsed.
 */
#include "channel/frame.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"

static const uint8_t hello_magic[8] = {'D', 'O', 'R', 'M', 'C', 'H', 'A', 'N'};

void frame_parser_init(struct frame_parser *p)
{
	p->state = FRAME_STATE_BETWEEN;
	p->len = p->have = p->zeros = 0;
	p->type = 0;
}

static bool type_is_known(uint8_t type)
{
	return type == FRAME_HELLO || type == FRAME_HELLO_REPLY || type == FRAME_DATA;
}

static enum frame_result parser_lose(struct frame_parser *p)
{
	p->state = FRAME_STATE_LOST;
	p->zeros = 0;
	return FRAME_DROPPED;
}

static enum frame_result parser_type(struct frame_parser *p, uint8_t c)
{
	if (c == FRAME_PADDING)
		return FRAME_MORE;
	if (!type_is_known(c))
		return parser_lose(p);
	p->type = c;
	p->state = FRAME_STATE_LEN_LOW;
	return FRAME_MORE;
}

static enum frame_result parser_length(struct frame_parser *p, uint8_t c)
{
	if (p->state == FRAME_STATE_LEN_LOW) {
		p->len = c;
		p->state = FRAME_STATE_LEN_HIGH;
		return FRAME_MORE;
	}
	p->len |= (size_t)c << 8;
	p->have = 0;
	if (p->len > FRAME_PAYLOAD_MAX)
		return parser_lose(p);
	p->state = p->len ? FRAME_STATE_PAYLOAD : FRAME_STATE_TRAILER;
	return FRAME_MORE;
}

/* A zero in the trailer's place is the resync marker at work: in step again at once. */
/* Return: bytes used */
static size_t parser_payload(struct frame_parser *p, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, p->len - p->have);

	if (n == p->len && len > n) { /* its trailer is here, too: it need not outlive the input */
		p->payload = data;
	} else {
		p->payload = p->store;
		memcpy(p->store + p->have, data, n);
	}
	p->have += n;
	return n;
}

static enum frame_result parser_trailer(struct frame_parser *p, uint8_t c)
{
	p->state = FRAME_STATE_BETWEEN;
	if (c == FRAME_TRAILER)
		return FRAME_READY;
	return c == 0 ? FRAME_DROPPED : parser_lose(p);
}

static void parser_lost(struct frame_parser *p, uint8_t c)
{
	p->zeros = c ? 0 : p->zeros + 1;
	if (p->zeros == FRAME_PAYLOAD_MAX)
		p->state = FRAME_STATE_BETWEEN;
}

enum frame_result frame_next(struct frame_parser *p, const uint8_t **data, size_t *len)
{
	enum frame_result r = FRAME_MORE;

	while (*len && r == FRAME_MORE) {
		size_t n = 1;
		uint8_t c = **data;

		switch (p->state) {
		case FRAME_STATE_BETWEEN:
			r = parser_type(p, c);
			break;
		case FRAME_STATE_LEN_LOW:
		case FRAME_STATE_LEN_HIGH:
			r = parser_length(p, c);
			break;
		case FRAME_STATE_PAYLOAD:
			n = parser_payload(p, *data, *len);
			if (p->have == p->len)
				p->state = FRAME_STATE_TRAILER;
			break;
		case FRAME_STATE_TRAILER:
			r = parser_trailer(p, c);
			break;
		case FRAME_STATE_LOST:
			parser_lost(p, c);
			break;
		}
		*data += n;
		*len -= n;
	}
	return r;
}

int frame_put(struct fifo *out, enum frame_type type, const void *payload, size_t len)
{
	const uint8_t head[3] = {(uint8_t)type, (uint8_t)len, (uint8_t)(len >> 8)};
	const uint8_t trailer = FRAME_TRAILER;
	int r;

	assert(len <= FRAME_PAYLOAD_MAX);
	r = fifo_append(out, head, sizeof(head));
	if (r == 0)
		r = fifo_append(out, payload, len);
	if (r == 0)
		r = fifo_append(out, &trailer, 1);
	return error_trace(r);
}

int frame_put_data(struct fifo *out, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		size_t n = MIN(len, (size_t)FRAME_PAYLOAD_MAX);
		int r = frame_put(out, FRAME_DATA, p, n);

		if (r < 0)
			return r;
		p += n;
		len -= n;
	}
	return 0;
}

int hello_put(struct fifo *out, enum frame_type type, const struct hello *h)
{
	uint8_t payload[HELLO_PAYLOAD_LEN];

	memcpy(payload, hello_magic, 8);
	payload[8] = h->version;
	memcpy(payload + 9, h->nonce, HELLO_NONCE_LEN);
	return frame_put(out, type, payload, sizeof(payload));
}

int hello_parse(const void *payload, size_t len, struct hello *ret)
{
	const uint8_t *p = payload;

	if (len != HELLO_PAYLOAD_LEN || memcmp(p, hello_magic, 8))
		return -EBADMSG;
	ret->version = p[8];
	memcpy(ret->nonce, p + 9, HELLO_NONCE_LEN);
	return 0;
}

bool hello_find_reply(const void *data, size_t len, const uint8_t nonce[HELLO_NONCE_LEN],
		      uint8_t *ret_version, size_t *ret_end)
{
	const uint8_t head[3] = {FRAME_HELLO_REPLY, HELLO_PAYLOAD_LEN, 0}, *p = data;
	struct hello h;

	while (len >= HELLO_FRAME_LEN) {
		const uint8_t *at = memchr(p, FRAME_HELLO_REPLY, len - (HELLO_FRAME_LEN - 1));

		if (!at)
			return false;
		len -= (size_t)(at - p);
		p = at;
		if (!memcmp(p, head, 3) && p[HELLO_FRAME_LEN - 1] == FRAME_TRAILER &&
		    hello_parse(p + 3, HELLO_PAYLOAD_LEN, &h) == 0 &&
		    !memcmp(h.nonce, nonce, HELLO_NONCE_LEN)) {
			*ret_version = h.version;
			*ret_end = (size_t)(p - (const uint8_t *)data) + HELLO_FRAME_LEN;
			return true;
		}
		p++;
		len--;
	}
	return false;
}
