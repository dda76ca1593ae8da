/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/psi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#define HOST	"/proc/pressure/memory"
#define CGROUPS "/sys/fs/cgroup"

/* 150 ms of 1 s; and the same share of the shortest window that needs no privilege. */
static const char *const triggers[] = {"some 150000 1000000", "some 300000 2000000"};

static int open_trigger(const char *path)
{
	int r = -ENOENT;

	for (unsigned i = 0; i < sizeof(triggers) / sizeof(*triggers); i++) {
		_cleanup_fd_ int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		if (fd < 0)
			return error_errno();
		/* with the terminating zero: the kernel overwrites the last byte */
		r = fd_write_full(fd, triggers[i], strlen(triggers[i]) + 1);
		if (r == 0)
			return take_fd(fd);
	}
	return r;
}

static bool read_text(const char *path, char *out, size_t size)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

	if (n < 0)
		return false;
	out[n] = 0;
	return true;
}

/* This process's place in the one tree of version 2; "/" is its root, which has no limit. */
static bool own_cgroup(char *out, size_t size)
{
	char text[4096];
	const char *line;

	if (!read_text("/proc/self/cgroup", text, sizeof(text)))
		return false;
	line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (!line)
		return false;
	line = strchr(line, '/');
	if (!line || strcspn(line, "\n") >= size)
		return false;
	(void)snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
	return true;
}

/* The innermost cgroup with a limit, @path being ours; shortened to it. */
static bool find_limited(char *path)
{
	char file[4096 + 64], text[64];

	while (path[0] && strcmp(path, "/") != 0) {
		(void)snprintf(file, sizeof(file), CGROUPS "%s/memory.max", path);
		if (read_text(file, text, sizeof(text)) && strncmp(text, "max", 3) != 0)
			return true;
		*strrchr(path, '/') = 0;
	}
	return false;
}

int psi_open(struct psi *p)
{
	char path[2048], file[4096];
	int host, group;

	*p = (struct psi){0};
	host = open_trigger(HOST);
	if (host >= 0)
		p->fds[p->n++] = host;
	if (own_cgroup(path, sizeof(path)) && find_limited(path)) {
		(void)snprintf(file, sizeof(file), CGROUPS "%s/memory.pressure", path);
		group = open_trigger(file);
		if (group >= 0)
			p->fds[p->n++] = group;
	}
	if (!p->n) {
		(void)snprintf(p->text, sizeof(p->text), HOST ": %s", strerrordesc_np(-host));
		return host;
	}
	(void)snprintf(p->text, sizeof(p->text), "PSI of %s%s%.100s", host >= 0 ? "the host" : "",
		       p->n > 1	   ? " and of the cgroup "
		       : host >= 0 ? ""
				   : "the cgroup ",
		       p->n > 1 || host < 0 ? path : "");
	return 0;
}

void psi_drop(struct psi *p, unsigned i)
{
	fd_close(p->fds[i]);
	p->fds[i] = p->fds[--p->n];
}

void psi_close(struct psi *p)
{
	while (p->n)
		psi_drop(p, p->n - 1);
}

static uint64_t field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

bool psi_is_short(void)
{
	char text[4096];

	if (!read_text("/proc/meminfo", text, sizeof(text)) || !strstr(text, "MemAvailable:"))
		return false;
	return field(text, "MemAvailable:") < field(text, "MemTotal:") / 20;
}

double psi_some_avg10(void)
{
	char text[512];
	const char *at;

	if (!read_text(HOST, text, sizeof(text)))
		return -1;
	at = strstr(text, "avg10=");
	return at ? strtod(at + 6, NULL) : -1;
}
