/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * port.h - the server's byte stream: a virtio-serial port, or in tests a socket
 *
 * The port is watched edge-triggered and never tested for hang-up: while no host is connected a
 * virtio-serial port reports POLLHUP and reads 0 bytes for ever, and a host that leaves and comes
 * back quickly is not reported at all. Every wake-up (data, room, open, close) is an edge, and
 * every edge reads and writes until the device has had enough.
 */
#include "agent/loop.h"
#include "channel/server.h"

enum port_kind {
	PORT_DEVICE, /* reading 0 bytes means that no host is there */
	PORT_STREAM, /* reading 0 bytes is the end: the loop stops */
	PORT_LISTEN, /* a listening socket: one connection after the other, like a device */
};

struct port;

/** port_new() - serve @fd; consumed in every case */
int port_new(struct loop *l, struct server *sv, int fd, enum port_kind kind, struct port **ret);
struct port *port_free(struct port *p);
DEFINE_CLEANUP(struct port *, port_free)

/** port_flush() - write what the server has to say, as far as the port takes it */
void port_flush(struct port *p);

/**
 * port_find() - open the virtio-serial port with that name
 * Return: descriptor, non-blocking; -ENODEV when it does not appear before @deadline_ns
 */
int port_find(const char *name, uint64_t deadline_ns);
