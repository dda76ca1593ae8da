/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/port.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define INPUT_LEN 65536u
#define EDGES	  (EPOLLIN | EPOLLOUT | EPOLLET)

struct port {
	struct loop *loop;
	struct server *sv;
	enum port_kind kind;
	int listen_fd;
	struct loop_source *listen_source;
	int fd; /* -1: listening, nobody there */
	struct loop_source *source;
	char input[INPUT_LEN];
};

static void port_hang_up(struct port *p)
{
	p->source = loop_remove(p->source);
	p->fd = fd_close(p->fd);
	if (p->kind == PORT_STREAM)
		loop_stop(p->loop);
}

static void port_deliver(struct port *p, size_t len)
{
	if (len && server_receive(p->sv, p->input, len) < 0)
		log_error("out of memory for a session: input dropped");
}

/*
 * The device gives a page at a time. Full ones are collected, so that frames lie in the input as a
 * whole and need not be put together; less than one means that there is no more for now.
 */
static void port_read(struct port *p)
{
	size_t have = 0;

	while (p->fd >= 0) {
		ssize_t n = read(p->fd, p->input + have, sizeof(p->input) - have);

		if (n < 0 && errno == EINTR)
			continue;
		have += n > 0 ? (size_t)n : 0;
		if (n < (ssize_t)DORM_PAGE_SIZE || have == sizeof(p->input)) {
			int error = errno;

			port_deliver(p, have);
			have = 0;
			errno = error;
		}
		if (n > 0)
			continue;
		if (p->kind != PORT_DEVICE && (n == 0 || errno != EAGAIN))
			port_hang_up(p);
		return;
	}
}

void port_flush(struct port *p)
{
	const char *out;
	size_t len;

	while (p->fd >= 0 && (len = server_output(p->sv, &out)) > 0) {
		ssize_t n = write(p->fd, out, len);

		if (n > 0)
			server_output_done(p->sv, (size_t)n);
		else if (n < 0 && errno != EINTR)
			return; /* full, or nobody there: the next edge */
		else if (n == 0)
			return;
	}
}

static void on_port(void *userdata, uint32_t events)
{
	port_read(userdata); /* output follows after the batch */
}

static void on_listen(void *userdata, uint32_t events)
{
	struct port *p = userdata;
	int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	port_hang_up(p);
	p->fd = fd;
	if (loop_add(p->loop, fd, EDGES, on_port, p, &p->source) < 0)
		port_hang_up(p);
}

int port_new(struct loop *l, struct server *sv, int fd, enum port_kind kind, struct port **ret)
{
	struct port *p = calloc(1, sizeof(*p));
	int r;

	if (!p) {
		fd_close(fd);
		return error_trace(-ENOMEM);
	}
	p->loop = l;
	p->sv = sv;
	p->kind = kind;
	p->fd = p->listen_fd = -1;
	if (kind == PORT_LISTEN) {
		p->listen_fd = fd;
		r = loop_add(l, fd, EPOLLIN, on_listen, p, &p->listen_source);
	} else {
		p->fd = fd;
		r = fd_set_nonblock(fd, 1);
		if (r == 0)
			r = loop_add(l, fd, EDGES, on_port, p, &p->source);
	}
	if (r < 0) {
		port_free(p);
		return error_trace(r);
	}
	*ret = p;
	return 0;
}

struct port *port_free(struct port *p)
{
	if (p) {
		loop_remove(p->source);
		loop_remove(p->listen_source);
		fd_close(p->fd);
		fd_close(p->listen_fd);
		free(p);
	}
	return NULL;
}

static bool port_has_name(const char *device, const char *name)
{
	_cleanup_free_ char *path = str_printf("/sys/class/virtio-ports/%s/name", device);
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (!path || file_read(AT_FDCWD, path, 256, &text, &len) < 0)
		return false;
	text[strcspn(text, "\n")] = 0;
	return !strcmp(text, name);
}

/* Return: descriptor; -ENODEV */
static int port_open(const char *name)
{
	DIR *d = opendir("/sys/class/virtio-ports");
	struct dirent *e;
	int fd = -ENODEV;

	while (d && fd < 0 && (e = readdir(d))) {
		_cleanup_free_ char *path = str_printf("/dev/%s", e->d_name);

		if (path && e->d_name[0] != '.' && port_has_name(e->d_name, name))
			fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd == -1)
			fd = -ENODEV; /* the node may follow */
	}
	if (d)
		closedir(d);
	return fd;
}

int port_find(const char *name, uint64_t deadline_ns)
{
	int fd;

	while ((fd = port_open(name)) < 0 && !deadline_passed(deadline_ns))
		clock_sleep_ms(2); /* while booting: its name comes over the control queue */
	return fd;
}
