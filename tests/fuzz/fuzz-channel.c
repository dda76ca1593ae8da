/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-channel.c - any bytes on the channel, to both readers of it
 *
 * The frame parser must give the same frames however its input is cut, and must be in step again
 * after the marker. The server gets the bytes twice: raw, as what a snapshot left behind, and as
 * the HTTP/2 of a session. The guest's end is where a corrupt stream can hurt; the host's end
 * parses the same frames, and the rest of it is nghttp2.
 */
#include <stdlib.h>
#include <string.h>

#include "channel/frame.h"
#include "channel/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t marker[FRAME_MARKER_LEN];
static const struct hello hello = {HELLO_VERSION,
				   {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static void require(bool ok)
{
	if (!ok)
		abort();
}

/* --- frames -------------------------------------------------------------------------------------
 */

/* A sum over everything that came out; order counts. */
static uint64_t parse(struct frame_parser *p, const uint8_t *data, size_t size, uint64_t sum)
{
	enum frame_result r;

	while ((r = frame_next(p, &data, &size)) != FRAME_MORE) {
		sum = sum * 31 + (uint64_t)r;
		if (r == FRAME_DROPPED)
			continue;
		require(p->len <= FRAME_PAYLOAD_MAX);
		for (size_t i = 0; i < p->len; i++)
			sum = sum * 31 + p->payload[i];
		sum = sum * 31 + p->type;
	}
	require(size == 0);
	return sum;
}

static void frames(const uint8_t *data, size_t size)
{
	static struct frame_parser whole, cut;
	size_t at = size ? data[0] % size : 0;
	struct fifo f = {0};
	uint64_t sum;

	frame_parser_init(&whole);
	frame_parser_init(&cut);
	sum = parse(&cut, data, at, 0);
	require(parse(&cut, data + at, size - at, sum) == parse(&whole, data, size, 0));
	(void)parse(&whole, marker, sizeof(marker), 0); /* may complete something */
	require(whole.state == FRAME_STATE_BETWEEN);
	require(hello_put(&f, FRAME_HELLO, &hello) == 0);
	(void)parse(&whole, (const uint8_t *)fifo_front(&f), f.len, 0);
	require(whole.type == FRAME_HELLO && whole.len == HELLO_PAYLOAD_LEN);
	fifo_deinit(&f);
}

static void replies(const uint8_t *data, size_t size)
{
	uint8_t version;
	size_t end;

	if (hello_find_reply(data, size, hello.nonce, &version, &end))
		require(end >= HELLO_FRAME_LEN && end <= size);
}

/* --- server -------------------------------------------------------------------------------------
 */

static void on_session(void *userdata)
{
}

static void on_request(void *userdata, struct server_stream *s)
{
	require(server_stream_method(s) && server_stream_path(s));
	require(server_stream_respond(s, 200, NULL, 0) == 0);
}

static void on_body(void *userdata, struct server_stream *s, const void *data, size_t len)
{
	require(server_stream_write(s, data, len) == 0);
	server_stream_consumed(s, len);
}

static void on_body_end(void *userdata, struct server_stream *s)
{
	server_stream_end(s);
}

static void on_closed(void *userdata, struct server_stream *s)
{
}

static void drain(struct server *sv)
{
	const char *out;
	size_t len;

	while ((len = server_output(sv, &out)) > 0)
		server_output_done(sv, len);
}

static void serve(const uint8_t *data, size_t size)
{
	static const struct server_ops ops = {on_session,  on_request, on_body,
					      on_body_end, on_closed,  on_closed};
	struct fifo f = {0};
	struct server *sv;

	require(server_new(&ops, NULL, &sv) == 0);
	require(server_receive(sv, data, size) == 0);
	drain(sv);
	require(fifo_append(&f, marker, sizeof(marker)) == 0);
	require(hello_put(&f, FRAME_HELLO, &hello) == 0);
	require(server_receive(sv, fifo_front(&f), f.len) == 0);
	require(!server_is_sealed(sv));
	drain(sv);
	fifo_deinit(&f);
	require(frame_put_data(&f, data, size) == 0);
	require(server_receive(sv, fifo_front(&f), f.len) == 0);
	drain(sv);
	fifo_deinit(&f);
	server_free(sv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	frames(data, size);
	replies(data, size);
	serve(data, size);
	return 0;
}
