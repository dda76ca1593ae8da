/* SPDX-License-Identifier: Apache-2.0 */
/*
 * web - an HTTP/1.1 server with the manners that a proxy has to bear: web PORT [ADDRESS]
 *
 *     /hello      Content-Length          /chunked   chunks            /close   until the end
 *     /head       the request's head, as it came                        /big/N   N MiB, chunked
 *     /events     one event at once, then one each 200 ms, for ever
 *     /count      how many bytes of body came, and their sum
 *     /early      413 at once, the body unread                          /silent  nothing, ever
 *     /interim    103, then 200           /bad       not HTTP           /cut     half of its body
 *     /upgrade    101, then every byte comes back in upper case
 *     /reset      a reset of the connection
 *
 * Every connection is a process; one request each, as many as the client wants on /hello.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static char in[65536];
static size_t in_len, in_at;

static void put(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n <= 0)
			_exit(1);
		p += n;
		len -= (size_t)n;
	}
}

static void say(int fd, const char *text)
{
	put(fd, text, strlen(text));
}

/* Return: a byte, or -1 at the end */
static int next(int fd)
{
	if (in_at == in_len) {
		ssize_t n = read(fd, in, sizeof(in));

		if (n <= 0)
			return -1;
		in_len = (size_t)n;
		in_at = 0;
	}
	return (unsigned char)in[in_at++];
}

static size_t read_head(int fd, char *head, size_t size)
{
	size_t n = 0;
	int c;

	while (n + 1 < size && (c = next(fd)) >= 0) {
		head[n++] = (char)c;
		head[n] = 0;
		if (n >= 4 && !strcmp(head + n - 4, "\r\n\r\n"))
			return n;
	}
	return 0;
}

static const char *field(const char *head, const char *name)
{
	for (const char *line = strchr(head, '\n'); line; line = strchr(line + 1, '\n'))
		if (!strncasecmp(line + 1, name, strlen(name)) && line[1 + strlen(name)] == ':')
			return line + 3 + strlen(name);
	return NULL;
}

static void count_byte(int c, unsigned long long *n, unsigned *sum)
{
	(*n)++;
	*sum = *sum * 31 + (unsigned)c;
}

static void count_body(int fd, const char *head, unsigned long long *n, unsigned *sum)
{
	const char *length = field(head, "content-length");
	unsigned long long left = length ? strtoull(length, NULL, 10) : 0;
	char line[64];
	int c;

	*n = *sum = 0;
	for (; length && left && (c = next(fd)) >= 0; left--)
		count_byte(c, n, sum);
	while (!length && field(head, "transfer-encoding")) {
		size_t at = 0;

		while (at < sizeof(line) - 1 && (c = next(fd)) >= 0 && c != '\n')
			line[at++] = (char)c;
		line[at] = 0;
		left = strtoull(line, NULL, 16);
		for (unsigned long long i = 0; i < left; i++)
			count_byte(next(fd), n, sum);
		next(fd);
		next(fd);
		if (left == 0)
			return;
	}
}

static void answer_text(int fd, const char *text, int with_body)
{
	char out[128];

	snprintf(out, sizeof(out), "HTTP/1.1 200 OK\r\nX-Web: yes\r\nContent-Length: %zu\r\n\r\n",
		 strlen(text));
	say(fd, out);
	if (with_body)
		say(fd, text);
}

static void answer_big(int fd, unsigned long mib)
{
	static char chunk[65536];

	for (size_t i = 0; i < sizeof(chunk); i++)
		chunk[i] = (char)('a' + i % 26);
	say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
	for (unsigned long i = 0; i < mib * 16; i++) {
		say(fd, "10000\r\n");
		put(fd, chunk, sizeof(chunk));
		say(fd, "\r\n");
	}
	say(fd, "0\r\n\r\n");
}

static void answer_events(int fd)
{
	char text[64];

	say(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
	for (int i = 0;; i++) {
		snprintf(text, sizeof(text), "data: %d\n\n", i);
		say(fd, text);
		usleep(200000);
	}
}

static void answer_upgrade(int fd)
{
	char buf[4096];
	ssize_t n;

	say(fd, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: shout\r\nConnection: Upgrade\r\n"
		"X-Web: yes\r\n\r\nREADY\n");
	while (in_at < in_len) {
		buf[0] = (char)toupper((unsigned char)in[in_at++]);
		put(fd, buf, 1);
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			buf[i] = (char)toupper((unsigned char)buf[i]);
		put(fd, buf, (size_t)n);
	}
	say(fd, "BYE\n"); /* half-closed: the other way still works */
}

static void answer(int fd, const char *method, const char *path, const char *head)
{
	const struct linger now = {.l_onoff = 1};
	unsigned long long n;
	unsigned sum;
	char text[128];

	if (!strcmp(path, "/hello")) {
		answer_text(fd, "hello world\n", strcmp(method, "HEAD"));
	} else if (!strcmp(path, "/chunked")) {
		say(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=1\r\n"
			"Set-Cookie: b=2\r\nTrailer: X\r\n\r\n3;x=y\r\none\r\n4\r\n two\r\n0\r\nX: "
			"y\r\n\r\n");
	} else if (!strcmp(path, "/close")) {
		say(fd, "HTTP/1.0 200 OK\r\n\r\nuntil the end");
	} else if (!strncmp(path, "/head", 5)) {
		answer_text(fd, head, 1);
	} else if (!strncmp(path, "/big/", 5)) {
		answer_big(fd, strtoul(path + 5, NULL, 10));
	} else if (!strcmp(path, "/events")) {
		answer_events(fd);
	} else if (!strcmp(path, "/count")) {
		count_body(fd, head, &n, &sum);
		snprintf(text, sizeof(text), "%llu %u", n, sum);
		answer_text(fd, text, 1);
	} else if (!strcmp(path, "/early")) {
		say(fd, "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
			"large");
	} else if (!strcmp(path, "/silent")) {
		pause();
	} else if (!strcmp(path, "/interim")) {
		say(fd, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
		answer_text(fd, "late", 1);
	} else if (!strcmp(path, "/bad")) {
		say(fd, "SSH-2.0-web\r\n\r\n");
	} else if (!strcmp(path, "/cut")) {
		say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
	} else if (!strcmp(path, "/reset")) {
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	} else if (!strcmp(path, "/upgrade") && field(head, "upgrade")) {
		answer_upgrade(fd);
	} else {
		say(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
	}
}

static void serve(int fd)
{
	static char head[65536];
	char method[32], path[256];

	if (!read_head(fd, head, sizeof(head)) || sscanf(head, "%31s %255s", method, path) != 2)
		_exit(0);
	answer(fd, method, path, head);
	close(fd);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in b = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int v6 = argc > 2 && !strcmp(argv[2], "::1"), one = 1, l;

	if (argc < 2)
		return 2;
	if (argc > 2 && !v6)
		inet_pton(AF_INET, argv[2], &b.sin_addr);
	a.sin6_port = b.sin_port = htons((unsigned short)atoi(argv[1]));
	signal(SIGCHLD, SIG_IGN);
	l = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(l, v6 ? (void *)&a : (void *)&b, v6 ? sizeof(a) : sizeof(b)) < 0 ||
	    listen(l, 1024) < 0) {
		perror("web");
		return 1;
	}
	for (;;) {
		int fd = accept(l, NULL, NULL);

		if (fd >= 0 && fork() == 0) {
			close(l);
			serve(fd);
		}
		if (fd >= 0)
			close(fd);
	}
}
