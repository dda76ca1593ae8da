/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * vm-client.h - a process that is a VM to a pager
 *
 * Opens a session, maps memory in the way the session's mode wants it, hands over a userfaultfd in
 * 1 to 64 regions that lie in no order, and then has guest memory to touch:
 *
 *     vm_client_attach() -> vm_client_page(), ... -> vm_client_detach()
 *
 *     mode      memory                              userfaultfd
 *     shared    MAP_PRIVATE of the image's memfd    MISSING
 *     overlay   MAP_PRIVATE of the base's memfd     MISSING | MINOR
 *     copy      private and anonymous               MISSING, UFFD_FEATURE_EVENT_REMOVE
 *     eager     MAP_PRIVATE of the complete memfd   none
 *
 * A session ends with the process that attached, so one process attaches one VM for good: after
 * vm_client_detach() another session of the same process is a VM of its own.
 * Protocol: docs/format-pager.md.
 */
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/keyring.h"

#define VM_CLIENT_MAX_REGIONS 64u

/* outcomes */
enum {
	VM_CLIENT_E_REFUSED = 1, /* the pager said no, or gave another mode; the problem says why */
};

struct vm_client_options {
	const char *control;  /* the pager's control socket, or */
	const char *listener; /* the socket of a pager that runs alone: always copy mode */
	const char *session;
	const char *image; /* snapshot directory; NULL: zeros */
	const struct keyring *keys;
	uint64_t n_pages;
	const char *mode;     /* "auto", ... */
	const char *load;     /* NULL: as the pager likes */
	const char *prefetch; /* NULL, "no" */
	bool is_private;
	unsigned n_regions; /* 0: 1 */
	uint64_t seed;	    /* where the regions lie */
	bool wrong_memory;  /* map something else than what the pager gave */
	uint64_t features;  /* of the userfaultfd, besides those of the mode */
	bool page_size_kib; /* say it with the older name */
};

struct vm_client {
	struct vm_client_options options;
	char mode[16];
	uint64_t register_mode; /* UFFDIO_REGISTER_MODE_*; 0: none */
	int memory_fd;		/* -1 in copy mode */
	int uffd;
	int socket; /* of the session; stays open */
	char socket_path[108];
	json_t *opened; /* the pager's reply; NULL with a listener */
	uint8_t *reserved;
	uint64_t reserved_len;
	uint64_t region_pages; /* of each, the last one may have fewer */
	unsigned n_regions;
	uint8_t *regions[VM_CLIENT_MAX_REGIONS];
};

/** vm_client_open() - the first half: ask for a session. Return: as vm_client_attach() */
int vm_client_open(const struct vm_client_options *options, struct problem *problem,
		   struct vm_client *ret);

/** vm_client_map() - the second: map, register, shake hands. Return: 0; negative errno */
int vm_client_map(struct vm_client *c, struct problem *problem);

/**
 * vm_client_attach() - both
 * @options: the texts must outlive the client
 * Return: 0; VM_CLIENT_E_REFUSED; negative errno
 */
int vm_client_attach(const struct vm_client_options *options, struct problem *problem,
		     struct vm_client *ret);

/** vm_client_detach() - unmap, close, and close the session */
void vm_client_detach(struct vm_client *c);

/** vm_client_page() - where a page is in this process; @gfn < n_pages */
static inline uint8_t *vm_client_page(const struct vm_client *c, uint64_t gfn)
{
	return c->regions[gfn / c->region_pages] + gfn % c->region_pages * DORM_PAGE_SIZE;
}

/** vm_client_removes() - is the pager asked about every page that was given back, so that it reads
 * as zeros for ever? (Where what is there comes back without an event, nobody can say so.) */
static inline bool vm_client_removes(const struct vm_client *c)
{
	return c->memory_fd < 0 || ((c->register_mode & UFFDIO_REGISTER_MODE_MINOR) &&
				    (c->options.features & UFFD_FEATURE_EVENT_REMOVE));
}

/**
 * vm_client_call() - one request of the control socket
 * @fds: at most 2
 * Return: 0 and @ret, a new reference; VM_CLIENT_E_REFUSED; negative errno
 */
int vm_client_call(const char *control, json_t *request_consume, const int *fds, size_t n_fds,
		   struct problem *problem, json_t **ret, int *ret_fd);

/** vm_client_stats() - of a session. Return: new reference; NULL */
json_t *vm_client_stats(const char *control, const char *session);
