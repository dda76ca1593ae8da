/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * test-vm.h - a pager to test, images for it, and processes that play virtual machines
 *
 * The pager is the real program. A vm is a process that maps an image's resident memory privately,
 * registers it, shakes hands, and then does what the test tells it, one order at a time:
 *
 *     COMPARE seed   read every page in an order that depends on the seed; answer: pages that
 * differ READ gfn       read one page; answer: 1 if it differs from the model SCRIBBLE seed  write
 * every third page; answer: pages that do not hold what was written DISCARD gfn
 * madvise(MADV_DONTNEED) on one page; answer: 0 IS_ZERO gfn    answer: 0 when the page is all zeros
 *     BLOCKING       make the userfaultfd blocking; answer: 0
 *     CHURN ms       for so long, read pages at random and give them back; answer: pages that held
 *                    neither the model nor, once they were given back with somebody told, zeros
 *     STALL percent  how long the reads of all CHURNs took that took more than a millisecond;
 *                    answer: that percentile, in microseconds
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/test.h"
#include "image/image.h"
#include "image/keyring.h"
#include "pager/client.h"

#define TEST_PAGES 4096u /* 16 MiB of guest memory */

enum vm_order {
	VM_COMPARE,
	VM_READ,
	VM_SCRIBBLE,
	VM_DISCARD,
	VM_IS_ZERO,
	VM_BLOCKING,
	VM_CHURN,
	VM_STALL
};

struct rig {
	char dir[64];
	char socket[96];
	pid_t pager;
	struct pager_client *client;
};

struct vm {
	pid_t pid;
	int orders;
	int answers;
	char name[32];
	struct pager_session session; /* of vm_attach() */
};

extern uint8_t *test_model; /* TEST_PAGES pages: text, noise, long and short runs of zeros */

/** rig_make_model() - fill test_model, always with the same pages; once is enough */
void rig_make_model(void);

/** rig_setup() - make model and directory, start the pager; the program is in DORM_PAGER */
int rig_setup(void **state);

/** rig_teardown() - end the pager in order; fails when it does not exit with 0 */
int rig_teardown(void **state);

/** rig_start_pager() - with more arguments, ended by NULL. Return: its exit status if it ended */
int rig_start_pager(struct rig *r, const char *const *more);
int rig_stop_pager(struct rig *r);

/** rig_image() - a snapshot directory with the model's image. Return: its descriptor */
int rig_image(struct rig *r, const char *name, enum image_codec codec);

/** rig_sealed_image() - the same, sealed with the first key of @keys */
int rig_sealed_image(struct rig *r, const char *name, const struct keyring *keys);

/* Pages @gfn .. @gfn + @n - 1 of the model, which are zero, get the content of @of .. @of + @n - 1
 */
struct shared {
	uint64_t gfn;
	uint64_t n;
	uint64_t of;
};

/**
 * rig_shared_image() - the same, with pages that have the same slots as others
 * Changes the model; rig_unshare() changes it back. Return: the directory's descriptor
 */
int rig_shared_image(struct rig *r, const char *name, enum image_codec codec,
		     const struct shared *shared, size_t n);
void rig_unshare(const struct shared *shared, size_t n);

/** rig_find_run() - first gfn from @from on of @n pages that are all zero, or all not */
uint64_t rig_find_run(bool zero, uint64_t n, uint64_t from);

/** rig_stats() - a number from a session's statistics; UINT64_MAX: no such session */
uint64_t rig_stats(struct rig *r, const char *session, const char *what);

/** rig_text() - a text from a session's statistics; @out holds 1024 bytes */
void rig_text(struct rig *r, const char *session, const char *what, char *out);

/** rig_wait_state() - wait until a session is in @state, for at most 10 s */
void rig_wait_state(struct rig *r, const char *session, const char *state);

/** rig_wait_sessions() - wait until the pager has @n sessions, for at most 10 s */
void rig_wait_sessions(struct rig *r, size_t n);

/** rig_pager_fds() - descriptors that the pager has open */
int rig_pager_fds(struct rig *r);

/** vm_start() - open a session and start a process that attaches to it; @features of its uffd */
void vm_start(struct rig *r, struct vm *vm, const char *name, int image_dirfd, uint64_t features);

/** vm_start_sealed() - the same with an image that needs @keys */
void vm_start_sealed(struct rig *r, struct vm *vm, const char *name, int image_dirfd,
		     const struct keyring *keys);

/* How a session is to be, beyond an image; all zero: as vm_start() */
struct vm_options {
	const char *mode; /* "shared"... */
	const char *load; /* "demand"... */
	uint64_t features;
	const struct keyring *keys;
	bool late; /* leave it to vm_attach() to start the machine */
};

/** vm_start_as() - open a session in a mode and start a machine that fits */
void vm_start_as(struct rig *r, struct vm *vm, const char *name, int image_dirfd,
		 const struct vm_options *options);

/** vm_attach() - the second half of vm_start_as() */
void vm_attach(struct rig *r, struct vm *vm, const struct vm_options *options);

/** rig_open_raw() - an "open" of one's own making. Return: 0 or what the pager answered; the reply
 *  in @ret, its descriptor in @ret_fd; both may be NULL */
int rig_open_raw(struct rig *r, const char *name, int image_dirfd, const struct vm_options *options,
		 json_t **ret, int *ret_fd);

/** vm_send() - give an order; vm_answer() - wait for what it answers. Return: false when too late
 */
void vm_send(struct vm *vm, enum vm_order order, uint64_t arg);
bool vm_answer(struct vm *vm, unsigned ms, uint64_t *ret);

/** vm_do() - the answer to an order, which must come within 60 s */
uint64_t vm_do(struct vm *vm, enum vm_order order, uint64_t arg);

/** vm_end() - kill it. vm_wait() - wait for its end. Return: the wait status */
void vm_end(struct vm *vm);
int vm_wait(struct vm *vm);

/** vm_connect() - connect to a session's socket and send @text with @n_fds copies of @fd */
int vm_connect(const char *path, const char *text, size_t len, int fd, size_t n_fds);
