/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-frame.c - frames of a hostile guest, and of its network, one after the other through a gate
 *
 * The input is a series of frames: a byte whose lowest bit is the direction and next bit says that
 * the rules change, two bytes of length (little-endian), the frame. Whatever passes was understood:
 * it is no fragment, has no options, and goes to somebody whom the rules allow.
 */
#include "fuzz.h"

#include <assert.h>
#include <netinet/in.h>
#include <string.h>

#include "net/gate.h"

static struct rules rules[2];

static void make_rules(void)
{
	static const char *const texts[] = {
		"{\"internet\": true, \"allow\": [\"10.0.0.0/8:80\"], \"deny\": [\"1.1.1.0/24\"]}",
		"{\"internet\": false, \"allow\": [\"[2600::/16]:443\", \"1.1.1.1\"]}"};

	for (int i = 0; i < 2; i++) {
		json_t *o = json_loads(texts[i], 0, NULL);

		assert(rules_parse(o, NULL, &rules[i]) == 0);
		json_decref(o);
	}
}

static void check_reset(void *userdata, enum packet_direction direction, const uint8_t *frame,
			size_t len)
{
	struct packet p;

	assert(len <= PACKET_MAX_REFUSAL);
	assert(packet_parse(frame, len, direction, &p) == PACKET_TCP && p.flags & PACKET_RST);
}

static void check(const struct rules *r, enum packet_direction d, const uint8_t *frame, size_t len,
		  const struct gate_result *result)
{
	struct packet p;
	enum packet_kind kind = packet_parse(frame, len, d, &p);
	const struct address *remote = d == PACKET_FROM_GUEST ? &p.target : &p.source;
	uint16_t port = d == PACKET_FROM_GUEST ? p.target_port : p.source_port;

	assert(result->n_forward <= len);
	assert(result->n_back <= PACKET_MAX_REFUSAL && result->n_onward <= PACKET_MAX_REFUSAL);
	if (!result->n_forward)
		return;
	assert(kind != PACKET_BAD);
	if (kind == PACKET_TCP || kind == PACKET_UDP)
		assert(rules_allow(r, remote, p.protocol, port));
	if (kind != PACKET_LINK && p.source.family == 4)
		assert(frame[14] == 0x45 && !(frame[20] & 0x3f) && !frame[21]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_(gate_freep) struct gate *gate = NULL;
	const struct rules *now = &rules[0];

	if (!rules[0].n_allow)
		make_rules();
	assert(gate_new(&gate) == 0);
	gate_set_rules(gate, now, check_reset, NULL);
	while (size >= 3) {
		enum packet_direction d = data[0] & 1 ? PACKET_TO_GUEST : PACKET_FROM_GUEST;
		size_t len = (size_t)data[1] | (size_t)data[2] << 8;
		struct gate_result result;

		len = len < size - 3 ? len : size - 3;
		if (data[0] & 2) {
			now = now == rules ? &rules[1] : &rules[0];
			gate_set_rules(gate, now, check_reset, NULL);
		}
		gate_judge(gate, d, data + 3, len, &result);
		check(now, d, data + 3, len, &result);
		data += 3 + len;
		size -= 3 + len;
	}
	return 0;
}
