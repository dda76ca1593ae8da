/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/watcher.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "agent/answer.h"
#include "agent/entry.h"
#include "agent/helper.h"
#include "agent/text.h"
#include "base/error.h"
#include "base/str.h"

struct watcher {
	const struct watcher_options *options;
	struct watch watch;
	struct owner owner;
	struct buf event; /* being made */
	struct buf queue; /* polled: events with commas between */
	struct problem problem;
	int error; /* polled: what the problem is about; 0: all is well */
};

static const char *const type_names[] = {
	[WATCH_CREATE] = "CREATE", [WATCH_WRITE] = "WRITE", [WATCH_REMOVE] = "REMOVE",
	[WATCH_RENAME] = "RENAME", [WATCH_CHMOD] = "CHMOD",
};

static int append_entry(struct watcher *wr, const char *name)
{
	_cleanup_free_ char *path =
		str_printf("%s%s%s", wr->watch.options.path,
			   str_has_suffix(wr->watch.options.path, "/") ? "" : "/", name);
	size_t mark = wr->event.len;
	int r = path ? entry_stat(&wr->event, &wr->owner, path, ",\"entry\":", "") : -ENOMEM;

	if (r < 0 && r != -ENOMEM && wr->event.len > mark)
		wr->event.len = mark;
	return r == -ENOMEM ? r : 0; /* it is gone by now: the event without it */
}

/* {"name", "type", "entry"} */
static int make_event(struct watcher *wr, enum watch_event event, const char *name)
{
	bool exists = event != WATCH_REMOVE && event != WATCH_RENAME;
	int r = buf_printf(&wr->event, "{\"name\":");

	if (r == 0)
		r = text_append(&wr->event, name);
	if (r == 0)
		r = buf_printf(&wr->event, ",\"type\":\"EVENT_TYPE_%s\"", type_names[event]);
	if (r == 0 && exists && wr->options->include_entry)
		r = append_entry(wr, name);
	return r < 0 ? r : buf_append(&wr->event, "}", 1);
}

static int emit_to_stream(void *userdata, enum watch_event event, const char *name)
{
	struct watcher *wr = userdata;
	int r;

	wr->event.len = 0;
	r = buf_printf(&wr->event, "{\"filesystem\":");
	if (r == 0)
		r = make_event(wr, event, name);
	if (r == 0)
		r = buf_append(&wr->event, "}", 1);
	return r < 0 ? r : answer_send(200, wr->event.data, wr->event.len);
}

static int emit_to_queue(void *userdata, enum watch_event event, const char *name)
{
	struct watcher *wr = userdata;
	int r;

	wr->event.len = 0;
	r = make_event(wr, event, name);
	if (r == 0 && wr->queue.len + wr->event.len > WATCHER_QUEUE_MAX)
		r = -EOVERFLOW;
	if (r == 0 && wr->queue.len)
		r = buf_append(&wr->queue, ",", 1);
	return r < 0 ? r : buf_append(&wr->queue, wr->event.data, wr->event.len);
}

static enum connect_code code_of(int r)
{
	switch (-r) {
	case ENOENT:
		return CONNECT_NOT_FOUND;
	case ENOTDIR:
	case EXDEV:
		return CONNECT_INVALID_ARGUMENT;
	case ENOSPC:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case EOVERFLOW:
		return CONNECT_RESOURCE_EXHAUSTED;
	case ENODEV:
		return CONNECT_FAILED_PRECONDITION;
	default:
		return CONNECT_INTERNAL;
	}
}

static int answer_problem(const struct watcher *wr)
{
	return answer_fail(code_of(wr->error), "%s", wr->problem.message);
}

static int answer_queue(struct watcher *wr)
{
	_cleanup_buf_ struct buf b = {0};
	int r = buf_printf(&b, "{\"events\":[");

	if (wr->error)
		return answer_problem(wr);
	if (r == 0 && wr->queue.len)
		r = buf_append(&b, wr->queue.data, wr->queue.len);
	if (r == 0)
		r = buf_append(&b, "]}", 2);
	buf_deinit(&wr->queue);
	return r < 0 ? answer_fail(CONNECT_RESOURCE_EXHAUSTED, "out of memory")
		     : answer_send(200, b.data, b.len);
}

/* Something has happened. Return: 0; 1 after an error that is the end of it */
static int on_inotify(struct watcher *wr)
{
	wr->error = watch_read(&wr->watch, &wr->problem);
	owner_deinit(&wr->owner); /* users may come and go while it lives */
	if (!wr->error)
		return 0;
	if (!wr->options->id[0]) {
		(void)answer_problem(wr); /* the end in any case */
		return 1;
	}
	watch_close(&wr->watch); /* poll() passes over -1 */
	buf_deinit(&wr->queue);
	return 0;
}

static int on_agent(struct watcher *wr)
{
	char c;

	return answer_read(&c, 1) < 0 || answer_queue(wr) < 0;
}

static void serve(struct watcher *wr)
{
	int over = 0;

	while (!over) {
		struct pollfd p[2] = {{wr->watch.fd, POLLIN, 0}, {HELPER_FD, POLLIN, 0}};
		int n = poll(p, 2, wr->error ? -1 : watch_timeout_ms(&wr->watch));

		if (n < 0 && errno != EINTR)
			return;
		if (p[0].revents || n == 0)
			over = on_inotify(wr);
		if (!over && n > 0 && p[1].revents)
			over = on_agent(wr);
	}
}

static int begin(struct watcher *wr)
{
	char text[64];
	int n = wr->options->id[0]
			? snprintf(text, sizeof(text), "{\"watcherId\":\"%s\"}", wr->options->id)
			: snprintf(text, sizeof(text), "{\"start\":{}}");

	return answer_send(200, text, (size_t)n);
}

void watcher_work(void *ctx)
{
	struct watcher wr = {.options = ctx, .owner = OWNER_INIT("/etc")};

	wr.watch.options = wr.options->watch;
	wr.watch.emit = wr.options->id[0] ? emit_to_queue : emit_to_stream;
	wr.watch.userdata = &wr;
	wr.error = watch_open(&wr.watch, &wr.problem);
	if (wr.error)
		(void)answer_problem(&wr);
	else if (begin(&wr) == 0)
		serve(&wr);
	watch_close(&wr.watch);
	owner_deinit(&wr.owner);
	buf_deinit(&wr.event);
	buf_deinit(&wr.queue);
}
