/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * fd.h - descriptors: ownership, whole reads and writes, passing them over unix sockets
 *
 * A descriptor is CLOEXEC from birth and -1 when empty. Unless said otherwise functions borrow.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/mem.h"

/** fd_close() - close, keeping errno; @fd may be -1. Return: -1, for `fd = fd_close(fd)` */
int fd_close(int fd);

static inline void fd_closep(int *fd)
{
	fd_close(*fd);
}
#define _cleanup_fd_ _cleanup_(fd_closep)

/** fd_set_nonblock() - switch O_NONBLOCK on or off */
int fd_set_nonblock(int fd, int on);

/** fd_set_cloexec() - switch FD_CLOEXEC on or off */
int fd_set_cloexec(int fd, int on);

/** fd_read_full() - read exactly @len bytes. Return: 0; -ENODATA at an early end; negative errno */
int fd_read_full(int fd, void *buf, size_t len);

/** fd_pread_full() - the same at @offset. Return: 0; -ENODATA at an early end; negative errno */
int fd_pread_full(int fd, void *buf, size_t len, uint64_t offset);

/** fd_write_full() - write all of @len bytes */
int fd_write_full(int fd, const void *buf, size_t len);

/** fd_sync() - fsync, begun again when a signal interrupted it (FUSE and NFS let signals do that) */
int fd_sync(int fd);

/** fd_truncate() - ftruncate, begun again in the same way */
int fd_truncate(int fd, uint64_t bytes);

/**
 * fd_poll() - wait for @events on one descriptor
 * Return: the poll(2) revents (> 0); 0 when @deadline_ns passed; negative errno
 */
int fd_poll(int fd, short events, uint64_t deadline_ns);

/**
 * fd_write_deadline() - write all to a non-blocking descriptor
 * Return: 0; -ETIMEDOUT; negative errno
 */
int fd_write_deadline(int fd, const void *buf, size_t len, uint64_t deadline_ns);

/**
 * fd_send() - send one message with descriptors over a unix socket
 * @fds: borrowed, at most 8
 */
int fd_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds);

/**
 * fd_recv() - receive one message and up to @max_fds descriptors
 * @ret_fds:   CLOEXEC, owned by the caller; those above @max_fds are closed
 * Return: number of bytes (0: end of stream); negative errno
 */
ssize_t fd_recv(int sock, void *buf, size_t len, int *ret_fds, size_t max_fds, size_t *ret_n_fds);

/**
 * fd_unix_listen() - a listening unix socket at @path (replaced if present), mode @mode
 * @type: SOCK_STREAM or SOCK_SEQPACKET
 * Return: the descriptor; -ENAMETOOLONG when @path exceeds 107 bytes; negative errno
 */
int fd_unix_listen(const char *path, int type, unsigned mode);

/**
 * fd_tcp_listen() - a listening TCP socket, not blocking
 * @text: "ADDRESS:PORT" or "[ADDRESS]:PORT" with a numeric address; port 0: any free one
 * Return: the descriptor; -EINVAL: not such a text; -EADDRINUSE and others of bind(2)
 */
int fd_tcp_listen(const char *text);

/** fd_unix_connect() - connect to a unix socket. Return: the descriptor (blocking); negative errno */
int fd_unix_connect(const char *path, int type);
