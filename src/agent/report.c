/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/report.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"

json_t *report_add(json_t *report, const char *name, int r, uint64_t took_ns)
{
	json_t *o = json_pack("{s:s, s:b, s:f}", "name", name, "ok", r >= 0, "ms",
			      (double)took_ns / (double)NSEC_PER_MSEC);

	if (r < 0)
		(void)json_object_set_new(o, "error", json_string(strerrordesc_np(-r)));
	/* short of memory: a shorter report */
	return json_array_append_new(report, o) < 0 ? NULL : o;
}

int report_announce(struct request *rq, unsigned hooks_ms)
{
	char text[16];
	const struct header h[] = {{"content-type", "application/json"}, {HOOKS_HEADER, text}};

	(void)snprintf(text, sizeof(text), "%u", hooks_ms); /* fits */
	return server_stream_respond(rq->stream, 200, h, ARRAY_SIZE(h));
}

void report_reply(struct request *rq, bool announced, int status, json_t *body)
{
	_cleanup_free_ char *text = NULL;

	if (!announced) {
		request_reply_json(rq, status, body);
		return;
	}
	text = json_dumps(body, JSON_COMPACT);
	json_decref(body);
	if (text && server_stream_write(rq->stream, text, strlen(text)) == 0)
		server_stream_end(rq->stream);
	else
		server_stream_reset(rq->stream);
}
