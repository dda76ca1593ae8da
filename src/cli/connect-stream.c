/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/connect-stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

enum { FLAG_MESSAGE = 0x00, FLAG_COMPRESSED = 0x01, FLAG_END = 0x02 };

void connect_stream_deinit(struct connect_stream *s)
{
	buf_deinit(&s->payload);
}

static uint32_t frame_len(const struct connect_stream *s)
{
	const uint8_t *h = s->header;

	return (uint32_t)h[1] << 24 | (uint32_t)h[2] << 16 | (uint32_t)h[3] << 8 | h[4];
}

static int check_header(const struct connect_stream *s, struct problem *problem)
{
	uint8_t flags = s->header[0];

	if (flags & FLAG_COMPRESSED)
		problem_set(problem, 500,
			    "the sandbox sent a compressed message, which nobody asked for");
	else if (flags != FLAG_MESSAGE && flags != FLAG_END)
		problem_set(problem, 500, "the sandbox sent a message of unknown kind 0x%02x",
			    flags);
	else if (!frame_len(s))
		problem_set(problem, 500, "the sandbox sent an empty message");
	else if (frame_len(s) <= CONNECT_MAX_FRAME)
		return 0;
	else {
		problem_set(problem, 500,
			    "the sandbox sent a message of %u bytes; at most %u are allowed",
			    frame_len(s), CONNECT_MAX_FRAME);
		return error_trace(-EMSGSIZE);
	}
	return error_trace(-EBADMSG);
}

static void take_end(struct connect_stream *s, const json_t *end)
{
	const json_t *error = json_object_get(end, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));

	s->ended = true;
	if (!error)
		return;
	str_copy(s->code, sizeof(s->code), code && *code ? code : "unknown");
	str_copy(s->message, sizeof(s->message), message ? message : "");
}

static int take_frame(struct connect_stream *s, struct problem *problem)
{
	json_t *json = json_loadb(s->payload.data, s->payload.len, 0, NULL);
	int r = 0;

	if (!json_is_object(json)) {
		problem_set(problem, 500, "the sandbox sent a message that is not a JSON object");
		r = error_trace(-EBADMSG);
	} else if (s->header[0] == FLAG_END) {
		take_end(s, json);
	} else {
		r = s->on_message(s->userdata, json, problem);
	}
	json_decref(json);
	buf_consume(&s->payload, s->payload.len);
	s->n_header = 0;
	return r;
}

int connect_stream_feed(struct connect_stream *s, const void *data, size_t len,
			struct problem *problem)
{
	const uint8_t *p = data;
	int r = 0;

	while (len && !r) {
		size_t n;

		if (s->ended) {
			problem_set(problem, 500,
				    "the sandbox sent more after the end of its answer");
			return error_trace(-EBADMSG);
		}
		if (s->n_header < CONNECT_HEADER) {
			s->header[s->n_header++] = *p++;
			len--;
			if (s->n_header == CONNECT_HEADER)
				r = check_header(s, problem);
			continue;
		}
		n = MIN(len, frame_len(s) - s->payload.len);
		r = buf_append(&s->payload, p, n);
		p += n;
		len -= n;
		if (!r && s->payload.len == frame_len(s))
			r = take_frame(s, problem);
	}
	return error_trace(r);
}

int connect_stream_finish(const struct connect_stream *s, struct problem *problem)
{
	if (s->ended)
		return 0;
	problem_set(problem, 502, "the sandbox's answer broke off before its end");
	return -ENODATA;
}

int connect_stream_frame(struct buf *out, const json_t *message)
{
	_cleanup_free_ char *text = json_dumps(message, JSON_COMPACT);
	size_t len = text ? strlen(text) : 0;
	uint8_t header[CONNECT_HEADER] = {FLAG_MESSAGE, (uint8_t)(len >> 24), (uint8_t)(len >> 16),
					  (uint8_t)(len >> 8), (uint8_t)len};
	int r = text ? buf_append(out, header, sizeof(header)) : -ENOMEM;

	return error_trace(r ? r : buf_append(out, text, len));
}
