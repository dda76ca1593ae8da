/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe - what tests ask of a guest that its shell cannot tell
 *
 *     probe time                  nanoseconds since the epoch
 *     probe hog SECONDS           take the CPU from everybody, the agent too, and then give it back
 *     probe connection FROM TO    connect two addresses of this guest and wait: "connected", and
 * when something happens to the connection, what: "ended: ..."
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

static int print_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	printf("%lld\n", ts.tv_sec * 1000000000ll + ts.tv_nsec);
	return 0;
}

static int hog(long seconds)
{
	struct sched_param p = {.sched_priority = 99};
	struct timespec now, end;

	if (sched_setscheduler(0, SCHED_FIFO, &p) < 0)
		return fail("sched_setscheduler");
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while (now.tv_sec < end.tv_sec);
	return 0;
}

static socklen_t address(const char *text, struct sockaddr_storage *ret)
{
	struct sockaddr_in *a = (void *)ret;
	struct sockaddr_in6 *b = (void *)ret;

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, text, &a->sin_addr) == 1) {
		a->sin_family = AF_INET;
		return sizeof(*a);
	}
	b->sin6_family = AF_INET6;
	return inet_pton(AF_INET6, text, &b->sin6_addr) == 1 ? sizeof(*b) : 0;
}

static int connection(const char *from, const char *to)
{
	struct sockaddr_storage a, b;
	socklen_t len_a = address(from, &a), len_b = address(to, &b);
	int server = socket(b.ss_family, SOCK_STREAM, 0), client, peer, error = 0;
	socklen_t len = sizeof(error);
	struct pollfd p = {.events = POLLIN};
	char byte;

	if (!len_a || !len_b || bind(server, (void *)&b, len_b) < 0 || listen(server, 1) < 0 ||
	    getsockname(server, (void *)&b, &len_b) < 0)
		return fail(to);
	client = socket(a.ss_family, SOCK_STREAM, 0);
	if (bind(client, (void *)&a, len_a) < 0 || connect(client, (void *)&b, len_b) < 0)
		return fail(from);
	peer = accept(server, NULL, NULL);
	if (peer < 0)
		return fail("accept");
	printf("connected\n");
	fflush(stdout);
	p.fd = client;
	poll(&p, 1, -1);
	getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &len);
	if (!error && read(client, &byte, 1) < 0)
		error = errno;
	printf("ended: %s\n", strerror(error));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "time"))
		return print_time();
	if (argc == 3 && !strcmp(argv[1], "hog"))
		return hog(atol(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "connection"))
		return connection(argv[2], argv[3]);
	fprintf(stderr, "usage: probe time | hog SECONDS | connection FROM TO\n");
	return 2;
}
