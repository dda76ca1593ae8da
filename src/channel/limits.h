/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * limits.h - what both ends of the channel agree on
 *
 * The connection's window is twice the sum of all streams' windows. So readers that have stopped can
 * fill their own streams' windows and nothing else: no stream ever waits for another, and memory is
 * still bounded by CHANNEL_STREAM_WINDOW for each stream that the host itself has opened. Twice,
 * because nghttp2 tells the peer of room only when half of a window has been consumed: with the sum
 * alone, 200 full windows (50 MiB of 64) would leave 14 MiB for the others, and then nothing, as
 * those 14 MiB are less than half.
 */
#define CHANNEL_MAX_STREAMS	  256u
#define CHANNEL_STREAM_WINDOW	  (256 * 1024)	/* of what the guest sends */
#define CHANNEL_UPLOAD_WINDOW	  (1024 * 1024) /* of what the host sends: a guest's answers are slow */
#define CHANNEL_CONNECTION_WINDOW (2 * 256 * 1024 * 1024)
#define CHANNEL_MAX_HEADER_BYTES  (64u * 1024)
#define CHANNEL_MAX_HEADERS	  128u
/* framed bytes that wait for the port; more is made only when these are gone */
#define CHANNEL_OUTPUT_CHUNK (64u * 1024)
