/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/ledger.h"

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
#include "sys/proc.h"
#include "sys/uffd.h"

struct ledger {
	int journal;
	bool ended;
	struct journal_entry e;
};

static void write_record(struct ledger *rec)
{
	int r = journal_write(rec->journal, &rec->e);

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

int ledger_new(int journal, const struct session *s, int dirfd, struct ledger **ret)
{
	_cleanup_free_ struct journal_entry *e = calloc(1, sizeof(*e));
	struct stat st = {0};
	int r;

	if (!e)
		return -ENOMEM;
	str_copy(e->name, sizeof(e->name), s->name);
	str_copy(e->why, sizeof(e->why), s->why);
	str_copy(e->image_id, sizeof(e->image_id), image_id(s->image));
	str_copy(e->memory_id, sizeof(e->memory_id), image_id(s->resident->image));
	e->n_pages = image_n_pages(s->image);
	e->mode = s->mode;
	e->zero = dirfd < 0;
	e->sealed = image_is_sealed(s->image);
	if (dirfd >= 0)
		name_directory(e, dirfd);
	if (fstat(s->resident->memfd, &st) == 0) {
		e->memory_dev = st.st_dev;
		e->memory_ino = st.st_ino;
	}
	r = ledger_resume(journal, e, ret);
	if (r == 0)
		write_record(*ret);
	return r;
}

struct ledger *ledger_free(struct ledger *rec)
{
	free(rec);
	return NULL;
}

void ledger_attach(struct ledger *rec, const struct handshake *map, int pid, int uffd)
{
	if (proc_start_time(pid, &rec->e.start_time) < 0)
		return; /* it is gone already */
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
	if (!rec->ended)
		journal_remove(rec->journal, rec->e.name);
	rec->ended = true;
}

void ledger_yield(struct ledger *rec)
{
	rec->ended = true;
}
