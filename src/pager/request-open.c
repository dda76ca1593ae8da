/* SPDX-License-Identifier: Apache-2.0 */
/* request-open.c - requests that name an image: a session for a VM, or memory to be warmed */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "image/image-base.h"
#include "image/keyring.h"
#include "image/working-set.h"
#include "pager/background.h"
#include "pager/control-internal.h"
#include "pager/ledger.h"
#include "pager/takeover.h"
#include "sys/memfd.h"

/* ---- what a request names ---------------------------------------------------------------------
 */

/* The key ring that came as the second descriptor, if the request speaks of one: or neither. */
static int get_keys(const json_t *request, const int fds[WIRE_MAX_FDS], struct problem *problem,
		    struct keyring **ret)
{
	bool wanted = json_is_true(json_object_get(request, "keys"));

	if (wanted == (fds[1] >= 0))
		return wanted ? keyring_from_fd(fds[1], problem, ret) : 0;
	problem_set(problem, 400,
		    wanted ? "open: no key ring came with the request"
			   : "open: a second descriptor came, but the request has no \"keys\"");
	return -EINVAL;
}

/* What a request names: an image, and what is known of it. */
struct named {
	struct image *image;
	bool wants_base; /* in */
	struct image *base;
	struct working_set set; /* n_pages 0: none; or a session has taken it */
	uint64_t set_pages;	/* how many it had */
};

static void named_deinit(struct named *n)
{
	image_unref(n->base);
	image_unref(n->image);
	working_set_deinit(&n->set);
}

/* Both are optional: without them it is only slower. Who reads the log may want to know. */
static void open_hints(const char *what, int dirfd, const struct keyring *keys, bool base,
		       struct named *n)
{
	struct problem problem = PROBLEM_INIT;
	int r = working_set_read(dirfd, n->image, &problem, &n->set);

	if (r && r != WORKING_SET_E_ABSENT)
		log_warn("%s: its working set is of no use: %s", what, problem.message);
	n->set_pages = n->set.n_pages;
	if (!base)
		return;
	problem = PROBLEM_INIT;
	r = image_open_base(dirfd, n->image, keys, &problem, &n->base);
	if (r && problem_is_set(&problem))
		log_warn("%s: its base is of no use: %s", what, problem.message);
}

static int open_named(const json_t *request, const char *what, const int fds[WIRE_MAX_FDS],
		      uint64_t n_pages, struct problem *problem, struct named *ret)
{
	_cleanup_(keyring_freep) struct keyring *keys = NULL;
	const int dirfd = fds[0];
	struct stat st;
	int r;

	if (dirfd < 0 && !json_is_true(json_object_get(request, "zero"))) {
		problem_set(problem, 400, "%s: no snapshot directory came with the request", what);
		return -EINVAL;
	}
	if (dirfd >= 0 && (fstat(dirfd, &st) < 0 || !S_ISDIR(st.st_mode))) {
		problem_set(problem, 400, "%s: the descriptor is not a directory", what);
		return -ENOTDIR;
	}
	r = get_keys(request, fds, problem, &keys);
	if (r == 0)
		r = dirfd < 0 ? image_open_zero(n_pages, &ret->image)
			      : image_open(dirfd, keys, problem, &ret->image);
	if (r)
		return r;
	if (image_n_pages(ret->image) != n_pages) {
		problem_set(problem, 400, "%s: the image has %llu pages, the VM %llu", what,
			    (unsigned long long)image_n_pages(ret->image),
			    (unsigned long long)n_pages);
		return -EINVAL;
	}
	if (dirfd >= 0)
		open_hints(what, dirfd, keys, ret->wants_base, ret);
	return 0; /* of the keys only the layers' own are here now, inside the image */
}

static int get_pages(const json_t *request, const char *what, struct problem *problem,
		     uint64_t *ret)
{
	json_int_t n = json_integer_value(json_object_get(request, "n_pages"));

	if (n <= 0 || (uint64_t)n > IMAGE_MAX_PAGES) {
		problem_set(problem, 400, "%s: \"n_pages\" must be 1 to %llu", what,
			    (unsigned long long)IMAGE_MAX_PAGES);
		return -EINVAL;
	}
	*ret = (uint64_t)n;
	return 0;
}

/* ---- sessions ---------------------------------------------------------------------------------
 */

static const char *const mode_words[] = {"auto", "shared", "overlay", "copy", "eager", NULL};

/* What to load in the background, by what is asked for and what is there. */
static int get_what(struct control *c, const json_t *request, const struct named *n,
		    struct problem *problem)
{
	const json_t *prefetch = json_object_get(request, "prefetch");
	bool wanted = prefetch ? json_is_true(prefetch) : !c->p->options.no_prefetch;

	return request_word(request, "load", request_load_words,
			    wanted && n->set.n_pages ? JOB_WORKING_SET : JOB_NOTHING, problem);
}

/* The journal's files of that name are the new session's; an older one may not be quite over. */
static int begin_record(struct control *c, struct door *d, int dirfd)
{
	for (struct door *o = c->doors; o; o = o->next)
		if (o->ledger && !strcmp(o->session->name, d->session->name))
			ledger_yield(o->ledger);
	return ledger_new(c->journal, d->session, dirfd, &d->ledger);
}

/* Whoever asks for the name of a session that we have from an earlier pager, and no VM has come to,
 * has not got the answer when it asked that one, or gave it up. */
static void replace_returned(struct control *c, const char *name)
{
	for (struct door *d = c->doors; d; d = d->next) {
		if (!d->returned || session_state(d->session) != SESSION_LISTENING ||
		    strcmp(d->session->name, name) != 0)
			continue;
		control_forget(c, d);
		return;
	}
}

static int open_session(struct control *c, const struct pager_request *q, int dirfd,
			struct problem *problem, struct door **ret)
{
	struct session *s;
	struct door *d = NULL;
	int r;

	replace_returned(c, q->name);
	takeover_offer(c, q->image);
	r = pager_open(c->p, q, problem, &s);
	if (r < 0)
		return r;
	r = door_new(c->options.run_dir, s, problem, &d);
	if (r == 0)
		r = begin_record(c, d, dirfd);
	if (r < 0) {
		pager_retire(c->p, s);
		door_free(d);
		return r;
	}
	d->next = c->doors;
	c->doors = d;
	*ret = d;
	return 0;
}

static json_t *open_reply(const struct door *d, uint64_t working_set_pages)
{
	static const char *const registers[] = {
		[SESSION_SHARED] = "missing",
		[SESSION_OVERLAY] = "missing,minor",
		[SESSION_COPY] = "missing",
		[SESSION_EAGER] = "none",
	};
	const struct session *s = d->session;

	return json_pack("{s:b, s:s, s:s, s:s, s:s, s:s, s:I}", "ok", 1, "socket", d->path,
			 "image_id", image_id(s->image), "mode", session_mode_name(s->mode), "why",
			 s->why, "register", registers[s->mode], "working_set_pages",
			 (json_int_t)working_set_pages);
}

static int adopt(struct control *c, struct orphan *o, const struct named *n,
		 struct problem *problem, json_t **reply)
{
	struct session *s;
	int r = takeover_adopt(c, o, n->image, n->base, n->set.n_pages ? &n->set : NULL, problem,
			       &s);

	if (r < 0)
		return r;
	*reply = json_pack("{s:b, s:b, s:s, s:s, s:s, s:I}", "ok", 1, "adopted", 1, "image_id",
			   image_id(s->image), "mode", session_mode_name(s->mode), "why", s->why,
			   "working_set_pages", (json_int_t)n->set_pages);
	log_info("session=%s image=%s pid=%d adopted, serving", s->name, image_id(s->image),
		 s->pid);
	return 0;
}

static bool is_word(const json_t *value, const char *word)
{
	return json_is_string(value) && !strcmp(json_string_value(value), word);
}

int request_open(struct control *c, const json_t *request, const int fds[WIRE_MAX_FDS],
		 struct problem *problem, json_t **reply, int *reply_fd)
{
	_cleanup_(named_deinit) struct named n = {0};
	struct pager_request q = {.name = json_string_value(json_object_get(request, "session"))};
	struct orphan *orphan;
	uint64_t n_pages;
	struct door *d;
	int r, mode, what;

	if (!c->options.run_dir) {
		problem_set(problem, 400, "open: this pager serves one image, alone");
		problem_hint(problem, "connect the VM to the socket that it listens on");
		return -EOPNOTSUPP;
	}
	if (!q.name || !str_is_name(q.name)) {
		problem_set(problem, 400, "open: \"session\" must be a name of [a-z0-9._-]");
		return -EINVAL;
	}
	orphan = takeover_find(c, q.name);
	n.wants_base = json_is_true(json_object_get(request, "private")) ||
		       is_word(json_object_get(request, "mode"), "overlay") ||
		       (orphan && takeover_needs_base(orphan));
	r = get_pages(request, "open", problem, &n_pages);
	if (r == 0)
		r = open_named(request, "open", fds, n_pages, problem, &n);
	if (r)
		return r;
	if (orphan)
		return adopt(c, orphan, &n, problem, reply);
	mode = request_word(request, "mode", mode_words, SESSION_AUTO, problem);
	what = mode < 0 ? mode : get_what(c, request, &n, problem);
	if (what < 0)
		return what;
	q.image = n.image;
	q.base = n.base;
	q.set = n.set.n_pages ? &n.set : NULL;
	q.prefetch = what != JOB_NOTHING;
	q.mode = (enum session_mode)mode;
	q.what = (enum job_what)what;
	q.exclusive = json_is_true(json_object_get(request, "private"));
	q.no_record = json_is_false(json_object_get(request, "record"));
	r = open_session(c, &q, fds[0], problem, &d);
	if (r < 0)
		return r;
	if (d->session->mode != SESSION_COPY) {
		*reply_fd = memfd_reopen_readonly(d->session->resident->memfd);
		if (*reply_fd < 0) {
			control_forget(c, d);
			return *reply_fd;
		}
	}
	*reply = open_reply(d, n.set_pages);
	log_info("session=%s image=%s opened mode=%s (%s)", q.name, image_id(n.image),
		 session_mode_name(d->session->mode), d->session->why);
	return 0;
}

/* ---- warming ----------------------------------------------------------------------------------
 */

int request_warm(struct control *c, const json_t *request, const int fds[WIRE_MAX_FDS],
		 struct problem *problem, json_t **reply)
{
	_cleanup_(named_deinit) struct named n = {0};
	uint64_t n_pages;
	int r = get_pages(request, "warm", problem, &n_pages), what;

	if (r == 0)
		r = open_named(request, "warm", fds, n_pages, problem, &n);
	if (r)
		return r;
	what = request_word(request, "what", request_load_words, JOB_WORKING_SET, problem);
	if (what < 0)
		return what;
	r = pager_warm(c->p, n.image, n.set.n_pages ? &n.set : NULL, (enum job_what)what, problem);
	if (r == 0)
		*reply = json_pack("{s:b, s:s, s:I}", "ok", 1, "image_id", image_id(n.image),
				   "working_set_pages", (json_int_t)n.set_pages);
	return r;
}
