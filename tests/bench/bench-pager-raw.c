/* SPDX-License-Identifier: Apache-2.0 */
#include "bench-pager-raw.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#include "sys/memfd.h"
#include "sys/uffd.h"

#define BULK	  (2ull << 20)
#define MAX_CORES 64

void raw_require(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "bench-pager: %s failed: %s\n", what, strerror(errno));
	exit(1);
}

int raw_memfd(uint64_t len)
{
	int fd = memfd_new("bench", len);
	uint64_t *p, x = 88172645463325252ull;

	raw_require(fd >= 0, "a memfd");
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	raw_require(p != MAP_FAILED, "mapping a memfd");
	for (uint64_t i = 0; i < len / sizeof(*p); i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = x;
	}
	/* stays mapped, as the pager has it: mapping a page for the first time costs more */
	return fd;
}

uint8_t *raw_registered(uint64_t len, bool shared, int *ret_uffd)
{
	int uffd = uffd_new(0), fd = shared ? memfd_new("bench", len) : -1;
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
			  shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd, 0);

	raw_require(uffd >= 0 && p != MAP_FAILED, "memory with a userfaultfd");
	(void)madvise(p, len, MADV_NOHUGEPAGE);
	raw_require(uffd_register(uffd, (uintptr_t)p, len, UFFDIO_REGISTER_MODE_MISSING) == 0,
		    "registering");
	if (fd >= 0)
		close(fd);
	*ret_uffd = uffd;
	return p;
}

static void handle(int uffd, const uint8_t *memory, const uint8_t *source)
{
	struct pollfd wait = {.fd = uffd, .events = POLLIN};
	struct uffd_msg m;

	for (;;) {
		struct uffdio_copy c = {.len = DORM_PAGE_SIZE};

		if (poll(&wait, 1, -1) <= 0 || read(uffd, &m, sizeof(m)) != sizeof(m))
			continue;
		c.dst = m.arg.pagefault.address & ~(DORM_PAGE_SIZE - 1);
		c.src = (uintptr_t)source + (c.dst - (uintptr_t)memory);
		(void)ioctl(uffd, UFFDIO_COPY, &c);
	}
}

pid_t raw_handler(int uffd, const uint8_t *memory, const uint8_t *source)
{
	pid_t pid = fork();

	raw_require(pid >= 0, "a process");
	if (pid)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	handle(uffd, memory, source);
	_exit(0);
}

void raw_fill(int uffd, uint8_t *memory, const uint8_t *source, uint64_t len)
{
	for (uint64_t at = 0; at < len; at += BULK) {
		struct uffdio_copy c = {.dst = (uintptr_t)memory + at,
					.src = (uintptr_t)source + at,
					.len = MIN(BULK, len - at)};

		raw_require(ioctl(uffd, UFFDIO_COPY, &c) == 0, "UFFDIO_COPY");
	}
}

struct decoder {
	const struct image *image;
	uint64_t *next; /* shared, atomic: frame of the only layer */
	pthread_t thread;
};

static void *decode(void *arg)
{
	struct decoder *d = arg;
	_cleanup_free_ uint8_t *out = aligned_alloc(DORM_PAGE_SIZE, IMAGE_FRAME_BYTES);
	_cleanup_free_ uint8_t *scratch = malloc(IMAGE_FRAME_BYTES + 4096);
	uint64_t n = image_layer_frames(d->image, 0), i;
	uint32_t pages;

	raw_require(out && scratch, "memory");
	while ((i = __atomic_fetch_add(d->next, 1, __ATOMIC_RELAXED)) < n)
		raw_require(
			image_read_frame(d->image, 0, (uint32_t)i, scratch, out, &pages, NULL) == 0,
			"decoding");
	return NULL;
}

void raw_decompress(const struct image *image)
{
	long n = MIN(sysconf(_SC_NPROCESSORS_ONLN), (long)MAX_CORES);
	struct decoder d[MAX_CORES];
	uint64_t next = 0;

	for (long i = 0; i < n; i++) {
		d[i] = (struct decoder){.image = image, .next = &next};
		raw_require(pthread_create(&d[i].thread, NULL, decode, &d[i]) == 0, "a thread");
	}
	for (long i = 0; i < n; i++)
		pthread_join(d[i].thread, NULL);
}
