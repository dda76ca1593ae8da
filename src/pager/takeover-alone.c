/* SPDX-License-Identifier: Apache-2.0 */
/*
 * takeover-alone.c - a worker that goes on where the one before it was killed
 *
 * The supervisor keeps a record for each VM: what the journal would say of it, and its userfaultfd,
 * pidfd, slate and connection, in this order. It was put there before the VM was served, and is
 * removed when the VM is gone. So nothing has to be taken out of a VM, and no privilege is needed.
 * The one before has ended, with all of its threads, when the supervisor starts the next: two never
 * serve the same VM.
 *
 * One more record, "alone", which no VM can be called, has how many VMs were named and, if it is
 * there, the image's resident memory. It is worth keeping because what is in it need not be read
 * and decoded again, not because a VM would depend on it: these have their memory to themselves.
 *
 * And one that nobody takes anything out of: "pressure" has the descriptors that tell when the host
 * is short of memory (psi.h). The last one of these that is closed waits for an RCU grace period,
 * on a busy host the longest part of a worker's death, and all VMs would wait for that. As the
 * supervisor has them, too, it is the one that waits, once the next worker has put its own.
 *
 * What is believed: the record is from a worker that VMs talked to, and that died of something. So
 * it is decoded like one of the journal; the process is that of the pidfd, and started when it
 * did; the userfaultfd is registered at all regions; the slate has the image's number of pages;
 * the image is the same, and of a raw file its size and time. Where something is not so, the VM is
 * killed.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "pager/evict.h"
#include "pager/keeper.h"
#include "pager/takeover-internal.h"
#include "sys/pidfd.h"
#include "sys/proc.h"
#include "sys/uffd.h"

#define RECORD_ALONE	"alone"
#define RECORD_PRESSURE "pressure"

enum { FD_UFFD, FD_PIDFD, FD_SLATE, FD_CONN, N_FDS };
static_assert(N_FDS <= KEEPER_MAX_FDS, "a record has room for them");

struct kept {
	struct kept *next;
	char name[KEEPER_MAX_NAME + 1];
	char *json;
	int fds[N_FDS];
};

struct kept_list {
	struct kept *first, **last;
};

static void list_deinit(struct kept_list *list)
{
	while (list->first) {
		struct kept *k = list->first;

		list->first = k->next;
		for (size_t i = 0; i < N_FDS; i++)
			fd_close(k->fds[i]);
		free(k->json);
		free(k);
	}
}

/* Nothing may be put or removed while records are received: they are noted first. */
static int note(void *data, const char *name, const char *json, int *fds, size_t n_fds)
{
	struct kept_list *list = data;
	struct kept *k = calloc(1, sizeof(*k));

	if (k)
		k->json = strdup(json);
	if (!k || !k->json) {
		free(k);
		return -ENOMEM;
	}
	str_copy(k->name, sizeof(k->name), name);
	for (size_t i = 0; i < N_FDS; i++)
		k->fds[i] = i < n_fds ? take_fd(fds[i]) : -1;
	*list->last = k;
	list->last = &k->next;
	return 0;
}

/* ---- the image's memory, and the numbers ------------------------------------------------------
 */

void takeover_count_name(struct control *c, const char *name)
{
	uint64_t n;

	if (str_has_prefix(name, "vm-") && str_to_u64(name + 3, &n) == 0)
		c->n_named = MAX(c->n_named, n);
}

static void put_alone(struct control *c, int memfd)
{
	char text[64];
	int r;

	(void)snprintf(text, sizeof(text), "{\"named\":%llu}", (unsigned long long)c->n_named);
	r = keeper_put(c->options.keeper_sock, RECORD_ALONE, text, &memfd, memfd >= 0);
	if (r < 0)
		log_warn("the supervisor does not keep the image's memory (%s): should this "
			 "process die, it is read again",
			 strerrordesc_np(-r));
}

void takeover_keep_memory(struct control *c, const struct resident *memory)
{
	struct stat st;

	c->keeps_memory = memory && fstat(memory->memfd, &st) == 0;
	if (c->keeps_memory) {
		c->memory_dev = st.st_dev;
		c->memory_ino = st.st_ino;
	}
	put_alone(c, c->keeps_memory ? memory->memfd : -1);
}

void takeover_keep_pressure(struct control *c)
{
	int fds[KEEPER_MAX_FDS];
	size_t n = evict_watched(c->p, fds, ARRAY_SIZE(fds));

	/* what is not kept is only closed later */
	(void)keeper_put(c->options.keeper_sock, RECORD_PRESSURE, "{}", fds, n);
}

static void take_alone(struct control *c, struct kept *k)
{
	struct problem problem = PROBLEM_INIT;
	struct image *image = c->options.alone->image;
	struct resident *memory;
	json_auto_t *o = json_loads(k->json, 0, NULL);
	json_int_t named = json_integer_value(json_object_get(o, "named"));
	int r;

	c->n_named = MAX(c->n_named, named > 0 ? (uint64_t)named : 0);
	if (k->fds[0] < 0 || image_check_unchanged(image, NULL) != 0)
		return;
	r = pager_take_memory(c->p, image, take_fd(k->fds[0]), &problem, &memory);
	if (r < 0)
		log_warn("the image's memory is read again: %s", problem.message);
	else
		takeover_keep_memory(c, memory);
}

/* ---- one VM -----------------------------------------------------------------------------------
 */

static int check_process(const struct kept *k, const struct journal_entry *e,
			 struct problem *problem)
{
	uint64_t started;
	int r = pidfd_is_gone(k->fds[FD_PIDFD]);

	if (r == 1) {
		problem_set(problem, 410, "its process (pid %d) has ended", e->pid);
		return -ESRCH;
	}
	/* 0: it could not be seen in /proc then, and the pidfd says enough */
	if (r < 0 || !e->start_time || proc_start_time(e->pid, &started) < 0 ||
	    started == e->start_time)
		return r;
	problem_set(problem, 500, "its process (pid %d) started at another time", e->pid);
	return -ESTALE;
}

static int check_image(const struct control *c, const struct journal_entry *e,
		       struct problem *problem)
{
	const struct image *image = c->options.alone->image;
	int r = image_check_unchanged(image, problem);

	if (r)
		return r < 0 ? r : -ESTALE;
	if (e->mode == SESSION_COPY && !strcmp(e->image_id, image_id(image)) &&
	    e->n_pages == image_n_pages(image))
		return 0;
	problem_set(problem, 409,
		    "it runs from %llu pages of image %s in mode %s, not from %llu of %s",
		    (unsigned long long)e->n_pages, e->image_id, session_mode_name(e->mode),
		    (unsigned long long)image_n_pages(image), image_id(image));
	return -ESTALE;
}

/* All of it, or, of one that was being left alone, whatever is left of it: that is let go. */
static int check_uffd(struct taking *t, struct problem *problem)
{
	const struct handshake *map = &t->e->map;

	for (uint32_t i = 0; i < map->n_regions; i++) {
		const struct handshake_region *g = &map->regions[i];

		if (uffd_owns(t->uffd, g->hva) != 1) {
			if (t->full)
				continue;
			problem_set(problem, 500, "its userfaultfd is not registered at 0x%llx",
				    (unsigned long long)g->hva);
			return -EINVAL;
		}
		if (t->full) {
			int r = uffd_unregister(t->uffd, g->hva, g->n_pages * DORM_PAGE_SIZE);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int take(struct control *c, struct kept *k, struct taking *t, struct problem *problem)
{
	struct session *s;
	int r;

	if (k->fds[FD_SLATE] < 0 || !uffd_is(k->fds[FD_UFFD])) {
		problem_set(problem, 500, "its descriptors were not kept");
		return -EBADF;
	}
	r = check_process(k, t->e, problem);
	if (r == 0)
		r = check_image(c, t->e, problem);
	if (r == 0)
		r = slate_adopt(take_fd(k->fds[FD_SLATE]), t->e->n_pages, problem, &t->slate);
	if (r < 0)
		return r;
	t->full = t->e->full || slate_is_full(&t->slate);
	t->uffd = take_fd(k->fds[FD_UFFD]);
	t->pidfd = take_fd(k->fds[FD_PIDFD]);
	t->conn = take_fd(k->fds[FD_CONN]);
	t->image = c->options.alone->image;
	t->kept = true;
	r = check_uffd(t, problem);
	if (r == 0 && t->full)
		t->uffd = fd_close(t->uffd);
	if (r == 0)
		r = taking_finish(c, t, problem, &s);
	if (r == 0)
		c->taken_back++;
	return r;
}

static void take_vm(struct control *c, struct kept *k, struct journal_entry *e)
{
	_cleanup_(taking_deinit) struct taking t = {
		.e = e, .pidfd = -1, .uffd = -1, .memfd = -1, .conn = -1};
	struct problem problem = PROBLEM_INIT;
	int pidfd, r = journal_decode(k->json, strlen(k->json), &problem, e);

	if (r != 0 || e->pid == 0 || strcmp(e->name, k->name) != 0) {
		problem_set(&problem, 500, "its record is not that of a VM of this name");
		*e = (struct journal_entry){.mode = SESSION_COPY};
		str_copy(e->name, sizeof(e->name), k->name);
		r = -EBADMSG;
	} else {
		r = take(c, k, &t, &problem);
	}
	takeover_count_name(c, k->name);
	if (r == 0)
		return;
	problem_errno(&problem, r, "taking session %s back", e->name);
	pidfd = t.pidfd >= 0 ? t.pidfd : k->fds[FD_PIDFD];
	if (pidfd >= 0 && pidfd_is_gone(pidfd) == 1)
		r = -ESRCH; /* whatever went wrong, this was why */
	takeover_give_up(c, e, pidfd, r, &problem);
	(void)keeper_remove(c->options.keeper_sock, k->name); /* else the next one does the same */
}

void takeover_kept(struct control *c)
{
	struct kept_list list = {.last = &list.first};
	_cleanup_free_ struct journal_entry *e = calloc(1, sizeof(*e));
	uint64_t t0 = clock_now_ns();
	int r = e ? keeper_receive_all(c->options.keeper_sock, note, &list) : -ENOMEM;

	c->took.descriptors_ns += clock_now_ns() - t0;
	if (r < 0)
		log_error("the supervisor does not give back all of what it keeps (%s)",
			  strerrordesc_np(-r));
	for (struct kept *k = list.first; e && k; k = k->next)
		if (!strcmp(k->name, RECORD_ALONE))
			take_alone(c, k);
	for (struct kept *k = list.first; e && k; k = k->next)
		if (str_has_prefix(k->name, "vm-"))
			take_vm(c, k, e);
	list_deinit(&list);
}
