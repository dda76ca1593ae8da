/* SPDX-License-Identifier: Apache-2.0 */
#include "vm-client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/str.h"
#include "oracle.h"
#include "pager/wire.h"
#include "sys/memfd.h"
#include "sys/uffd.h"

#define CALL_MS 60000 /* an open may load a whole image first */

int vm_client_call(const char *control, json_t *request_consume, const int *fds, size_t n_fds,
		   struct problem *problem, json_t **ret, int *ret_fd)
{
	json_auto_t *request = request_consume, *reply = NULL;
	_cleanup_fd_ int s = fd_unix_connect(control, SOCK_SEQPACKET);
	int r = s, got[WIRE_MAX_FDS] = {-1, -1};
	const char *message;

	if (r >= 0)
		r = wire_send(s, request, fds, n_fds);
	if (r == 0)
		r = fd_poll(s, POLLIN, deadline_after_ms(CALL_MS));
	if (r >= 0)
		r = r == 0 ? -ETIMEDOUT : wire_receive(s, &reply, got);
	if (r < 0) {
		problem_errno(problem, r, "the pager at %s", control);
		return r;
	}
	fd_close(got[1]);
	if (!json_is_true(json_object_get(reply, "ok"))) {
		message = json_string_value(json_object_get(reply, "message"));
		problem_set(problem, 500, "%s", message ? message : "no reason given");
		fd_close(got[0]);
		return VM_CLIENT_E_REFUSED;
	}
	*ret = take_ptr(reply);
	if (ret_fd)
		*ret_fd = got[0];
	else
		fd_close(got[0]);
	return 0;
}

json_t *vm_client_stats(const char *control, const char *session)
{
	json_auto_t *reply = NULL;

	if (vm_client_call(control, json_pack("{s:s, s:s}", "op", "session", "session", session),
			   NULL, 0, NULL, &reply, NULL) != 0)
		return NULL;
	return json_incref(json_object_get(reply, "stats"));
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static json_t *open_request(const struct vm_client_options *o)
{
	json_t *q = json_pack("{s:s, s:s, s:I, s:b, s:b}", "op", "open", "session", o->session,
			      "n_pages", (json_int_t)o->n_pages, "zero", o->image == NULL, "keys",
			      o->keys != NULL);

	if (o->mode)
		(void)json_object_set_new(q, "mode", json_string(o->mode));
	if (o->load)
		(void)json_object_set_new(q, "load", json_string(o->load));
	if (o->prefetch)
		(void)json_object_set_new(q, "prefetch", json_boolean(strcmp(o->prefetch, "no")));
	if (o->is_private)
		(void)json_object_set_new(q, "private", json_true());
	return q;
}

static uint64_t register_mode(const char *text)
{
	if (!text || !strcmp(text, "missing"))
		return UFFDIO_REGISTER_MODE_MISSING;
	if (!strcmp(text, "missing,minor"))
		return UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
	return 0;
}

static int take_reply(struct vm_client *c, struct problem *problem)
{
	const char *mode = json_string_value(json_object_get(c->opened, "mode"));
	const char *wanted = c->options.mode, *path;

	if (!mode || (wanted && strcmp(wanted, "auto") && strcmp(wanted, mode))) {
		problem_set(problem, 500, "asked for %s mode, got %s", wanted ? wanted : "any",
			    mode ? mode : "none");
		return VM_CLIENT_E_REFUSED;
	}
	str_copy(c->mode, sizeof(c->mode), mode);
	c->register_mode = register_mode(json_string_value(json_object_get(c->opened, "register")));
	path = json_string_value(json_object_get(c->opened, "socket"));
	str_copy(c->socket_path, sizeof(c->socket_path), path ? path : "");
	return 0;
}

int vm_client_open(const struct vm_client_options *options, struct problem *problem,
		   struct vm_client *ret)
{
	struct vm_client c = {.options = *options, .memory_fd = -1, .uffd = -1, .socket = -1};
	_cleanup_fd_ int dirfd = -1, keys_fd = -1;
	int fds[2], n_fds = 0, r = 0;

	if (options->listener) {
		str_copy(c.mode, sizeof(c.mode), "copy");
		str_copy(c.socket_path, sizeof(c.socket_path), options->listener);
		c.register_mode = UFFDIO_REGISTER_MODE_MISSING;
		*ret = c;
		return 0;
	}
	if (options->image) {
		dirfd = file_open_dir(AT_FDCWD, options->image);
		if (dirfd < 0) {
			problem_errno(problem, dirfd, "%s", options->image);
			return dirfd;
		}
		fds[n_fds++] = dirfd;
	}
	if (options->keys)
		r = keyring_to_fd(options->keys, &keys_fd);
	if (r < 0)
		return r;
	if (keys_fd >= 0)
		fds[n_fds++] = keys_fd;
	r = vm_client_call(options->control, open_request(options), fds, (size_t)n_fds, problem,
			   &c.opened, &c.memory_fd);
	if (r == 0)
		r = take_reply(&c, problem);
	if (r) {
		vm_client_detach(&c);
		return r;
	}
	*ret = c;
	return 0;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static void shuffle(unsigned *order, unsigned n, uint64_t seed)
{
	for (unsigned i = 0; i < n; i++)
		order[i] = i;
	for (unsigned i = n; i > 1; i--) {
		unsigned j = (unsigned)(oracle_next(&seed) % i), x = order[i - 1];

		order[i - 1] = order[j];
		order[j] = x;
	}
}

static uint64_t region_pages(const struct vm_client *c, unsigned region)
{
	return MIN(c->region_pages, c->options.n_pages - region * c->region_pages);
}

static int take_wrong_memory(struct vm_client *c)
{
	int fd = memfd_new("wrong", c->options.n_pages * DORM_PAGE_SIZE);

	if (fd < 0)
		return fd;
	fd_close(c->memory_fd);
	c->memory_fd = fd;
	return 0;
}

static int map_region(struct vm_client *c, unsigned region, uint8_t *at)
{
	uint64_t len = region_pages(c, region) * DORM_PAGE_SIZE;
	off_t offset = (off_t)(region * c->region_pages * DORM_PAGE_SIZE);
	int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
	uint8_t *p;

	if (c->memory_fd < 0)
		p = mmap(at, len, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	else
		p = mmap(at, len, PROT_READ | PROT_WRITE, flags, c->memory_fd, offset);
	if (p == MAP_FAILED)
		return error_errno();
	/* huge pages of the client's own would hide faults: what is measured are pages */
	(void)madvise(p, len, MADV_NOHUGEPAGE);
	c->regions[region] = p;
	return c->register_mode ? uffd_register(c->uffd, (uintptr_t)p, len, c->register_mode) : 0;
}

/* The regions lie in random order, a page between any two of them. */
static int map_regions(struct vm_client *c, const unsigned *order)
{
	uint8_t *at;

	c->reserved_len = (c->options.n_pages + c->n_regions) * DORM_PAGE_SIZE;
	c->reserved = mmap(NULL, c->reserved_len, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->reserved == MAP_FAILED) {
		c->reserved = NULL;
		return error_errno();
	}
	at = c->reserved;
	for (unsigned i = 0; i < c->n_regions; i++) {
		int r = map_region(c, order[i], at);

		if (r < 0)
			return r;
		at += (region_pages(c, order[i]) + 1) * DORM_PAGE_SIZE;
	}
	return 0;
}

static int describe_regions(const struct vm_client *c, const unsigned *order, struct buf *out)
{
	int r = buf_printf(out, "[");

	for (unsigned i = 0; i < c->n_regions && r == 0; i++) {
		unsigned region = order[c->n_regions - 1 - i];

		r = buf_printf(
			out,
			"%s{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"%s\":%u}",
			i ? "," : "", (unsigned long long)(uintptr_t)c->regions[region],
			(unsigned long long)(region_pages(c, region) * DORM_PAGE_SIZE),
			(unsigned long long)(region * c->region_pages * DORM_PAGE_SIZE),
			c->options.page_size_kib ? "page_size_kib" : "page_size",
			c->options.page_size_kib ? 4u : 4096u);
	}
	return r < 0 ? r : buf_printf(out, "]");
}

static int shake_hands(struct vm_client *c, const unsigned *order)
{
	_cleanup_buf_ struct buf text = {0};
	int r = describe_regions(c, order, &text);

	if (r < 0)
		return r;
	c->socket = fd_unix_connect(c->socket_path, SOCK_STREAM);
	if (c->socket < 0)
		return c->socket;
	return fd_send(c->socket, text.data, text.len, &c->uffd, 1);
}

static uint64_t features(const struct vm_client *c)
{
	uint64_t f = c->options.features;

	if (!strcmp(c->mode, "copy"))
		f |= UFFD_FEATURE_EVENT_REMOVE;
	if (c->register_mode & UFFDIO_REGISTER_MODE_MINOR)
		f |= UFFD_FEATURE_MINOR_SHMEM;
	return f;
}

int vm_client_map(struct vm_client *c, struct problem *problem)
{
	unsigned order[VM_CLIENT_MAX_REGIONS], n = MAX(1u, c->options.n_regions);
	int r = 0;

	c->region_pages = (c->options.n_pages + n - 1) / n;
	c->n_regions = (unsigned)((c->options.n_pages + c->region_pages - 1) / c->region_pages);
	shuffle(order, c->n_regions, c->options.seed);
	if (c->register_mode) {
		c->uffd = uffd_new(features(c));
		if (c->uffd < 0)
			r = c->uffd;
	}
	if (r == 0 && c->options.wrong_memory)
		r = take_wrong_memory(c);
	if (r == 0)
		r = map_regions(c, order);
	if (r == 0 && c->register_mode)
		r = shake_hands(c, order);
	if (r < 0)
		problem_errno(problem, r, "handing over the memory of session %s",
			      c->options.session);
	return r;
}

int vm_client_attach(const struct vm_client_options *options, struct problem *problem,
		     struct vm_client *ret)
{
	int r = vm_client_open(options, problem, ret);

	if (r == 0) {
		r = vm_client_map(ret, problem);
		if (r)
			vm_client_detach(ret);
	}
	return r;
}

void vm_client_detach(struct vm_client *c)
{
	json_auto_t *reply = NULL;

	/* the mappings first: what is missing in them must not be seen any more */
	if (c->reserved)
		(void)munmap(c->reserved, c->reserved_len);
	if (c->opened)
		(void)vm_client_call(
			c->options.control,
			json_pack("{s:s, s:s}", "op", "close", "session", c->options.session), NULL,
			0, NULL, &reply, NULL);
	fd_close(c->socket);
	fd_close(c->uffd);
	fd_close(c->memory_fd);
	json_decref(c->opened);
	*c = (struct vm_client){.memory_fd = -1, .uffd = -1, .socket = -1};
}
