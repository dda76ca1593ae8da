/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pattern - the workload that demos and tests run inside guests
 *
 *     pattern hold MB       fill MB of memory with a pattern, count ten times a second, answer for ever
 *     pattern check         every word of it: "ok pages=16384 bad=0 hash=... count=123"
 *     pattern count         "count=123"
 *     pattern mutate SEED N rewrite N pages chosen by SEED with their next version: "mutated N hash=..."
 *
 * Word j of page i in version v is a function of (i, v, j), so that a page that is missing, stale,
 * zero, or another page's is found. The versions of all pages are held beside them; the hash is over
 * the versions, so two holders that went through the same changes agree.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE   4096
#define WORDS  (PAGE / 8)
#define SOCKET "/tmp/pattern.sock"

struct holder {
	uint64_t *memory;
	uint32_t *versions;
	size_t n_pages;
	unsigned long count;
};

static uint64_t page_seed(const struct holder *h, size_t i)
{
	return (i + 1) * 0x9E3779B97F4A7C15ull + h->versions[i] * 0xD1B54A32D192ED03ull;
}

static void fill(struct holder *h, size_t i)
{
	uint64_t seed = page_seed(h, i), *p = h->memory + i * WORDS;

	for (unsigned j = 0; j < WORDS; j++)
		p[j] = seed + j * 0x2545F4914F6CDD1Dull;
}

static int is_bad(const struct holder *h, size_t i)
{
	const uint64_t *p = h->memory + i * WORDS;
	uint64_t seed = page_seed(h, i);

	for (unsigned j = 0; j < WORDS; j++)
		if (p[j] != seed + j * 0x2545F4914F6CDD1Dull)
			return 1;
	return 0;
}

static uint64_t hash(const struct holder *h)
{
	uint64_t v = 1469598103934665603ull;

	for (size_t i = 0; i < h->n_pages; i++)
		v = (v ^ h->versions[i]) * 1099511628211ull;
	return v;
}

static void answer(struct holder *h, const char *line, char *out, size_t size)
{
	unsigned long long seed;
	unsigned long n;
	size_t bad = 0;

	if (!strcmp(line, "check")) {
		for (size_t i = 0; i < h->n_pages; i++)
			bad += (size_t)is_bad(h, i);
		snprintf(out, size, "%s pages=%zu bad=%zu hash=%016llx count=%lu\n", bad ? "BAD" : "ok",
			 h->n_pages, bad, (unsigned long long)hash(h), h->count);
	} else if (!strcmp(line, "count")) {
		snprintf(out, size, "count=%lu\n", h->count);
	} else if (sscanf(line, "mutate %llu %lu", &seed, &n) == 2) {
		for (unsigned long k = 0; k < n; k++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			h->versions[seed % h->n_pages]++;
			fill(h, seed % h->n_pages);
		}
		snprintf(out, size, "mutated %lu hash=%016llx\n", n, (unsigned long long)hash(h));
	} else {
		snprintf(out, size, "unknown request\n");
	}
}

static int open_socket(int server)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = SOCKET};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (server)
		unlink(SOCKET);
	if (s < 0 || (server ? bind(s, (struct sockaddr *)&sa, sizeof(sa)) || listen(s, 8)
			     : connect(s, (struct sockaddr *)&sa, sizeof(sa)))) {
		perror("pattern: " SOCKET);
		exit(1);
	}
	return s;
}

static void serve_one(struct holder *h, int listener)
{
	char line[256], out[256];
	int s = accept(listener, NULL, NULL);
	ssize_t n = s < 0 ? -1 : read(s, line, sizeof(line) - 1);

	if (n > 0) {
		line[n] = 0;
		line[strcspn(line, "\n")] = 0;
		answer(h, line, out, sizeof(out));
		if (write(s, out, strlen(out)) < 0)
			perror("pattern: answer");
	}
	if (s >= 0)
		close(s);
}

static int hold(size_t mb)
{
	struct itimerspec tick = {.it_value.tv_nsec = 100000000, .it_interval.tv_nsec = 100000000};
	struct holder h = {.n_pages = mb << 20 >> 12};
	struct pollfd p[2];

	h.memory = mmap(NULL, mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	h.versions = calloc(h.n_pages, sizeof(*h.versions));
	if (!h.n_pages || h.memory == MAP_FAILED || !h.versions) {
		perror("pattern: memory");
		return 1;
	}
	for (size_t i = 0; i < h.n_pages; i++)
		fill(&h, i);
	p[0] = (struct pollfd){.fd = open_socket(1), .events = POLLIN};
	p[1] = (struct pollfd){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), .events = POLLIN};
	timerfd_settime(p[1].fd, 0, &tick, NULL);
	for (;;) {
		uint64_t ticks;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return 1;
		if (p[1].revents && read(p[1].fd, &ticks, sizeof(ticks)) == sizeof(ticks))
			h.count++;
		if (p[0].revents)
			serve_one(&h, p[0].fd);
	}
}

static int ask(int argc, char **argv)
{
	char line[256] = "", out[256];
	int s = open_socket(0);
	ssize_t n;

	for (int i = 1; i < argc; i++) {
		strncat(line, i > 1 ? " " : "", sizeof(line) - strlen(line) - 1);
		strncat(line, argv[i], sizeof(line) - strlen(line) - 1);
	}
	strncat(line, "\n", sizeof(line) - strlen(line) - 1);
	if (write(s, line, strlen(line)) < 0 || (n = read(s, out, sizeof(out) - 1)) <= 0) {
		perror("pattern: holder");
		return 1;
	}
	out[n] = 0;
	fputs(out, stdout);
	return strncmp(out, "BAD", 3) ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "hold"))
		return hold(strtoul(argv[2], NULL, 10));
	if (argc >= 2 && (!strcmp(argv[1], "check") || !strcmp(argv[1], "count") ||
			  !strcmp(argv[1], "mutate")))
		return ask(argc, argv);
	fputs("usage: pattern hold MB | check | count | mutate SEED N\n", stderr);
	return 2;
}
