/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw-port - PID 1 of a guest that moves bytes through the agent's port and does nothing else
 *
 * What the channel is measured against (tests/bench/agent.py). The host sends one letter and a
 * 64-bit number, both little-endian; 'P': one byte comes back; 'S': so many bytes come; 'R': so many
 * bytes follow, then one byte comes back.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/boot.h"
#include "agent/port.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

#define CHUNK (256u << 10)

static char chunk[CHUNK];

/* Without a host reading gives 0 bytes at once. */
static void read_all(int fd, char *to, size_t len)
{
	while (len) {
		ssize_t n = read(fd, to, len);

		if (n > 0) {
			to += n;
			len -= (size_t)n;
		} else {
			struct pollfd p = {.fd = fd, .events = POLLIN};

			(void)poll(&p, 1, -1);
			if (n == 0)
				clock_sleep_ms(1);
		}
	}
}

static void write_all(int fd, const char *from, size_t len)
{
	while (len) {
		ssize_t n = write(fd, from, len);

		if (n > 0) {
			from += n;
			len -= (size_t)n;
		} else {
			struct pollfd p = {.fd = fd, .events = POLLOUT};

			(void)poll(&p, 1, -1);
		}
	}
}

static void serve(int fd)
{
	for (;;) {
		char op;
		uint64_t n;

		read_all(fd, &op, 1);
		read_all(fd, (char *)&n, sizeof(n));
		for (; op != 'P' && n; n -= n < CHUNK ? n : CHUNK) {
			size_t len = n < CHUNK ? (size_t)n : CHUNK;

			if (op == 'S')
				write_all(fd, chunk, len);
			else
				read_all(fd, chunk, len);
		}
		if (op != 'S')
			write_all(fd, "!", 1);
	}
}

int main(void)
{
	int fd;

	log_init("raw-port", LOG_LEVEL_INFO);
	if (boot_kernel() < 0)
		return 1;
	fd = port_find("agent", deadline_after_ms(10000));
	if (fd < 0)
		return 1;
	memset(chunk, 'x', sizeof(chunk));
	serve(fd);
	return 0;
}
