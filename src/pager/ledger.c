/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/ledger.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/str.h"
#include "pager/background.h"
#include "pager/keeper.h"
#include "sys/proc.h"
#include "sys/uffd.h"

struct ledger {
	int journal;
	const int *keeper; /* NULL: nothing is kept */
	struct ledger_fds fds;
	bool ended;
	struct journal_entry e;
};

static int keep_record(const struct ledger *rec)
{
	const int fds[] = {rec->fds.uffd, rec->fds.pidfd, rec->fds.slate, rec->fds.conn};
	_cleanup_free_ char *text = journal_encode(&rec->e);
	size_t n = ARRAY_SIZE(fds) - (rec->fds.conn < 0); /* the last */

	static_assert(ARRAY_SIZE(fds) <= KEEPER_MAX_FDS, "a record has room for them");
	return text ? keeper_put(*rec->keeper, rec->e.name, text, fds, n) : -ENOMEM;
}

static void write_record(struct ledger *rec)
{
	int r = rec->journal >= 0 ? journal_write(rec->journal, &rec->e) : 0;

	/* that it is full, its slate says */
	if (rec->keeper && *rec->keeper >= 0 && rec->fds.uffd >= 0 && !rec->e.full) {
		int kept = keep_record(rec);

		r = kept < 0 ? kept : r;
	}
	if (r < 0)
		log_warn("session=%s its record cannot be written (%s): it could not be taken back",
			 rec->e.name, strerrordesc_np(-r));
}

/* A path that is no UTF-8 does not go into JSON: then the directory is not known. */
static void name_directory(struct journal_entry *e, int dirfd)
{
	char link[64];
	json_t *text;
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
	n = readlink(link, e->directory, sizeof(e->directory) - 1);
	e->directory[n > 0 ? n : 0] = 0;
	text = json_string(e->directory);
	if (!text || e->directory[0] != '/')
		e->directory[0] = 0;
	json_decref(text);
}

int ledger_resume(int journal, const struct journal_entry *e, struct ledger **ret)
{
	struct ledger *rec = malloc(sizeof(*rec));

	if (!rec)
		return -ENOMEM;
	*rec = (struct ledger){.journal = journal, .e = *e};
	*ret = rec;
	return 0;
}

static int make(int journal, const struct session *s, int dirfd, bool zero, struct ledger **ret)
{
	_cleanup_free_ struct journal_entry *e = calloc(1, sizeof(*e));
	struct stat st = {0};

	if (!e)
		return -ENOMEM;
	str_copy(e->name, sizeof(e->name), s->name);
	str_copy(e->why, sizeof(e->why), s->why);
	str_copy(e->image_id, sizeof(e->image_id), image_id(s->image));
	str_copy(e->memory_id, sizeof(e->memory_id), image_id(s->resident->image));
	e->n_pages = image_n_pages(s->image);
	e->mode = s->mode;
	e->zero = zero;
	e->sealed = image_is_sealed(s->image);
	if (dirfd >= 0)
		name_directory(e, dirfd);
	if (fstat(s->resident->memfd, &st) == 0) {
		e->memory_dev = st.st_dev;
		e->memory_ino = st.st_ino;
	}
	return ledger_resume(journal, e, ret);
}

int ledger_new(int journal, const struct session *s, int dirfd, struct ledger **ret)
{
	int r = make(journal, s, dirfd, dirfd < 0, ret);

	if (r == 0)
		write_record(*ret);
	return r;
}

int ledger_new_kept(int journal, const int *keeper, const struct session *s,
		    const struct ledger_fds *fds, struct ledger **ret)
{
	int r = make(journal, s, -1, false, ret);

	if (r == 0)
		ledger_keep(*ret, keeper, fds, false);
	return r;
}

void ledger_keep(struct ledger *rec, const int *keeper, const struct ledger_fds *fds, bool put)
{
	rec->keeper = keeper;
	rec->fds = *fds;
	if (put)
		write_record(rec);
}

struct ledger *ledger_free(struct ledger *rec)
{
	free(rec);
	return NULL;
}

void ledger_attach(struct ledger *rec, const struct handshake *map, int pid, int uffd)
{
	/* it is gone already, or not to be seen in /proc: a descriptor of it will do */
	if (proc_start_time(pid, &rec->e.start_time) < 0 && !rec->keeper)
		return;
	rec->e.pid = pid;
	rec->e.map = *map;
	rec->e.features = uffd >= 0 ? uffd_features(uffd) : 0;
	write_record(rec);
}

void ledger_detach(struct ledger *rec)
{
	rec->e.pid = 0;
	rec->e.start_time = rec->e.features = 0;
	rec->e.map.n_regions = 0;
	write_record(rec);
}

void ledger_update(struct ledger *rec, const struct session *s)
{
	bool full = __atomic_load_n(&s->full, __ATOMIC_ACQUIRE);
	enum job_what load = job_state(s->job) == JOB_LOADING ? job_what(s->job) : JOB_NOTHING;

	if (session_state(s) > SESSION_SERVING) {
		ledger_end(rec);
		return;
	}
	if (rec->ended || (rec->e.full == full && rec->e.load == load))
		return;
	rec->e.full = full;
	rec->e.load = load;
	write_record(rec);
}

void ledger_end(struct ledger *rec)
{
	if (!rec->ended && rec->journal >= 0)
		journal_remove(rec->journal, rec->e.name);
	if (!rec->ended && rec->keeper && *rec->keeper >= 0)
		(void)keeper_remove(*rec->keeper, rec->e.name); /* a successor finds it over */
	rec->ended = true;
}

void ledger_yield(struct ledger *rec)
{
	rec->ended = true;
}
