/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * client.h - the host's end of a guest's byte stream: many HTTP/2 streams over one virtio-serial port
 *
 * channel_connect() connects to the VMM's socket, opens a session with a fresh nonce (everything that
 * was in the pipe before is discarded by both ends: docs/format-channel.md) and starts one thread for
 * its I/O. Streams are then used from any thread, each by one that writes and one that reads at a
 * time (which may be the same), with blocking calls that take deadlines; flow control is end to end,
 * memory per stream is bounded.
 *
 * When the connection breaks every call gives -EPIPE; make a new channel.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/problem.h"

struct channel;
struct channel_stream;

/**
 * channel_dial() - connect without saying anything yet
 * A port that was connected when its VM was snapshotted, and is connected again before the device
 * state is loaded, looks to the guest as if nothing had happened: it is spared the events.
 * Return: a descriptor for channel_connect(); negative errno
 */
int channel_dial(const char *socket_path);

/**
 * channel_connect() - connect and agree on a session
 * @socket_path: unix socket of the VMM's character device
 * @first_fd: from channel_dial(), used for the first attempt; consumed in every case; or -1
 * Keeps trying (resync, reconnect) until @deadline_ns: a guest that is still booting is normal.
 * @alive_fd: a pidfd of the VMM, to give up at once with -ECONNRESET when it dies; or -1
 * Return: 0; -ETIMEDOUT; -ECONNRESET; negative errno
 */
int channel_connect(const char *socket_path, int first_fd, int alive_fd, uint64_t deadline_ns,
		    struct channel **ret);

/** channel_cut() - every call, under way or later, gives -EPIPE; the guest notices nothing yet */
void channel_cut(struct channel *ch);

/** channel_shutdown() - break the connection: every call, under way or later, gives -EPIPE, and the
 *  guest's side sees the end at once, whoever still holds the channel */
void channel_shutdown(struct channel *ch);

/** channel_ref() - one more holder: the channel lives until each has called channel_free() */
struct channel *channel_ref(struct channel *ch);

/** channel_free() - give up a reference; the last one closes the connection and ends the thread, and
 *  then no stream may be in use */
struct channel *channel_free(struct channel *ch);
DEFINE_CLEANUP(struct channel *, channel_free)

/** channel_close() - channel_shutdown() and channel_free(); @ch may be NULL */
struct channel *channel_close(struct channel *ch);

/** channel_is_open() - has nothing broken it so far? */
bool channel_is_open(struct channel *ch);

/** channel_active_streams() - how many are open right now */
unsigned channel_active_streams(struct channel *ch);

struct channel_header {
	const char *name; /* lower case, not a pseudo-header */
	const char *value;
};

/**
 * channel_stream_open() - send a request's head
 * @end: no body will follow
 * Return: 0; -EPIPE; -EAGAIN when too many streams are open; negative errno
 */
int channel_stream_open(struct channel *ch, const char *method, const char *path,
			const struct channel_header *headers, size_t n_headers, bool end,
			struct channel_stream **ret);

/** channel_stream_write() - part of the request's body; waits for flow control */
int channel_stream_write(struct channel_stream *s, const void *data, size_t len, bool end,
			 uint64_t deadline_ns);

/**
 * channel_stream_head() - wait for the response's head
 * @ret_status: HTTP status
 */
int channel_stream_head(struct channel_stream *s, uint64_t deadline_ns, int *ret_status);

/** channel_stream_header() - a header of the response (after channel_stream_head()), or NULL */
const char *channel_stream_header(struct channel_stream *s, const char *name);

/** channel_stream_each_header() - all headers of the response */
void channel_stream_each_header(struct channel_stream *s,
				void (*visit)(void *userdata, const char *name, const char *value),
				void *userdata);

/**
 * channel_stream_read() - some of the response's body
 * Return: bytes (> 0); 0 at the end; -ETIMEDOUT; -EPIPE; -ECONNRESET when the guest reset the stream
 */
ssize_t channel_stream_read(struct channel_stream *s, void *buf, size_t len, uint64_t deadline_ns);

/**
 * channel_stream_cancel() - from any thread: whoever waits on the stream, now or later, gets
 * -ECANCELED; what has arrived can still be read. It still has to be closed
 */
void channel_stream_cancel(struct channel_stream *s);

/** channel_stream_close() - done; resets the stream when it had not ended */
struct channel_stream *channel_stream_close(struct channel_stream *s);
DEFINE_CLEANUP(struct channel_stream *, channel_stream_close)

/**
 * channel_call() - one whole small request: body in, body out
 * @content_type: NULL with an empty body
 * @ret_body: appended to; at most 1 MiB, else -EFBIG
 */
int channel_call(struct channel *ch, const char *method, const char *path, const char *content_type,
		 const void *body, size_t len, uint64_t deadline_ns, int *ret_status,
		 struct buf *ret_body);
