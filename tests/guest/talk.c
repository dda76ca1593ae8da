/* SPDX-License-Identifier: Apache-2.0 */
/*
 * talk - what the network tests do inside guests
 *
 *     talk tcp ADDRESS PORT        connect, say "hello", print what comes back: "ok hello 3 ms"
 *     talk udp ADDRESS PORT [FROM] the same with a datagram, from port FROM
 *     talk hold ADDRESS PORT       connect, then "tick" ten times a second, each answered; ends
 * with the error that the socket had
 *
 * Whatever fails ends it with status 1 and one line: "Connection refused 2 ms". Nothing waits
 * longer than five seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct timespec began;

static long elapsed_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000;
}

static int fail(void)
{
	int e = errno;

	printf("%s %ld ms\n", e == EAGAIN || e == EINPROGRESS ? "no answer" : strerror(e),
	       elapsed_ms());
	return 1;
}

/* Connected, with five seconds for each call; -1 with errno. */
static int dial(int type, const char *address, int port, int from)
{
	const struct timeval limit = {5, 0};
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons((uint16_t)from)};
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	int is_v6 = strchr(address, ':') != NULL;
	int fd = socket(is_v6 ? AF_INET6 : AF_INET, type, 0);

	if (fd < 0 || inet_pton(is_v6 ? AF_INET6 : AF_INET, address,
				is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr) != 1)
		return -1;
	if (from && bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (is_v6)
		return connect(fd, (struct sockaddr *)&v6, sizeof(v6)) < 0 ? -1 : fd;
	return connect(fd, (struct sockaddr *)&v4, sizeof(v4)) < 0 ? -1 : fd;
}

/* Return: bytes that came back; -1 with errno */
static ssize_t exchange(int fd, const char *text, char *reply, size_t size)
{
	ssize_t n;

	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		return -1;
	n = recv(fd, reply, size - 1, 0);
	if (n == 0)
		errno = EPIPE;
	reply[n > 0 ? n : 0] = 0;
	return n > 0 ? n : -1;
}

static int once(int type, const char *address, int port, int from)
{
	int fd = dial(type, address, port, from);
	char reply[256];

	if (fd < 0 || exchange(fd, "hello", reply, sizeof(reply)) < 0)
		return fail();
	printf("ok %s %ld ms\n", reply, elapsed_ms());
	return 0;
}

static int hold(const char *address, int port)
{
	int fd = dial(SOCK_STREAM, address, port, 0);
	char reply[256];

	if (fd < 0)
		return fail();
	for (;;) {
		struct timespec pause = {0, 100000000};

		clock_gettime(CLOCK_MONOTONIC, &began);
		if (exchange(fd, "tick", reply, sizeof(reply)) < 0)
			return fail();
		nanosleep(&pause, NULL);
	}
}

int main(int argc, char **argv)
{
	clock_gettime(CLOCK_MONOTONIC, &began);
	if (argc == 4 && !strcmp(argv[1], "tcp"))
		return once(SOCK_STREAM, argv[2], atoi(argv[3]), 0);
	if ((argc == 4 || argc == 5) && !strcmp(argv[1], "udp"))
		return once(SOCK_DGRAM, argv[2], atoi(argv[3]), argc == 5 ? atoi(argv[4]) : 0);
	if (argc == 4 && !strcmp(argv[1], "hold"))
		return hold(argv[2], atoi(argv[3]));
	fprintf(stderr, "usage: talk tcp|udp|hold ADDRESS PORT [FROM]\n");
	return 2;
}
