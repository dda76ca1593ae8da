/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/control-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "pager/background.h"
#include "pager/handover.h"
#include "pager/journal.h"
#include "pager/ledger.h"
#include "pager/takeover.h"
#include "pager/watch.h"

#define ACCEPT_REST_MS 100 /* when there are no descriptors left */

/* ---- beginning --------------------------------------------------------------------------------
 */

static int take_lock(struct control *c, struct problem *problem)
{
	_cleanup_free_ char *path = str_printf("%s.lock", c->options.socket_path);

	if (!path)
		return -ENOMEM;
	c->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (c->lock_fd < 0) {
		int r = error_errno();

		problem_errno(problem, r, "cannot open %s", path);
		return r;
	}
	if (flock(c->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	problem_set(problem, 409, "another dorm-pager serves %s", c->options.socket_path);
	problem_hint(problem, "stop it, or choose another --socket");
	return -EADDRINUSE;
}

/* A predecessor that was killed leaves its sessions' sockets behind: names that refuse everybody.
 */
static void remove_dead_sockets(const char *run_dir)
{
	DIR *d = opendir(run_dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		_cleanup_free_ char *path = NULL;
		int fd;

		if (!str_has_prefix(e->d_name, "vm-") || !str_has_suffix(e->d_name, ".sock"))
			continue;
		path = str_printf("%s/%s", run_dir, e->d_name);
		fd = path ? fd_unix_connect(path, SOCK_STREAM) : -ENOMEM;
		if (fd == -ECONNREFUSED)
			(void)unlink(path); /* the next start tries again */
		else if (fd >= 0)
			fd_close(fd);
	}
	if (d)
		closedir(d);
}

/* The control socket: one that was given, one that is made here, or none. */
static int open_socket(struct control *c, struct problem *problem)
{
	if (c->listener < 0)
		c->listener = c->options.listener;
	if (c->listener < 0 && c->options.socket_path) {
		c->listener = fd_unix_listen(c->options.socket_path, SOCK_SEQPACKET, 0600);
		if (c->listener < 0) {
			problem_errno(problem, c->listener, "cannot listen on %s",
				      c->options.socket_path);
			return c->listener;
		}
	}
	return c->listener < 0 ? 0 : fd_set_nonblock(c->listener, 1);
}

/* What takes long is done before the sessions stop being served by the other one. */
static int prepare(struct control *c, struct takeover_images **images, struct problem *problem)
{
	const char *run_dir = c->options.run_dir;
	int r = run_dir ? file_mkdir_p(run_dir, 0700) : 0;

	if (r < 0)
		problem_errno(problem, r, "cannot make the directory %s", run_dir);
	if (r < 0 || !run_dir)
		return r;
	c->journal = journal_open(run_dir, problem);
	if (c->journal < 0)
		return c->journal;
	if (!c->options.takeover || !c->options.socket_path)
		return 0;
	r = takeover_prepare(c->journal, images);
	return r < 0 ? r : handover_ask(c->options.socket_path, problem, &c->listener);
}

/* The lock may be in the run directory, and guards what is in it. */
static int begin(struct control *c, struct problem *problem)
{
	_cleanup_(takeover_images_freep) struct takeover_images *images = NULL;
	int r = prepare(c, &images, problem);

	if (r == 0 && c->options.socket_path)
		r = take_lock(c, problem);
	if (r < 0 || !c->options.run_dir)
		return r;
	r = journal_lock(c->journal, problem);
	if (r < 0)
		return r;
	c->p->options.slate_dirfd = c->journal;
	remove_dead_sockets(c->options.run_dir);
	takeover_run(c, images);
	return 0;
}

static alone_admit_fn admit;

int control_new(struct pager *p, const struct control_options *options, int signal_fd,
		struct problem *problem, struct control **ret)
{
	_cleanup_(control_freep) struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->p = p;
	c->options = *options;
	c->signal_fd = signal_fd;
	c->lock_fd = c->listener = c->journal = -1;
	for (uint32_t i = 0; i < CONTROL_MAX_CLIENTS; i++)
		c->clients[i] = c->waiting[i].fd = -1;
	r = begin(c, problem);
	if (r == 0)
		r = open_socket(c, problem);
	if (r == 0 && options->alone)
		r = alone_new(options->alone, admit, c, &c->alone);
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

static void drop_client(struct control *c, uint32_t client)
{
	c->clients[client] = fd_close(c->clients[client]);
	json_decref(take_ptr(c->waiting[client].reply));
	c->waiting[client].fd = fd_close(c->waiting[client].fd);
}

struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	while (c->doors) {
		struct door *d = c->doors;

		c->doors = d->next;
		door_free(d);
	}
	takeover_free(c);
	for (uint32_t i = 0; i < CONTROL_MAX_CLIENTS; i++)
		drop_client(c, i);
	c->alone = alone_free(c->alone);
	if (c->options.socket_path && c->listener >= 0 && !c->handed_over)
		(void)unlink(c->options.socket_path); /* gone already: as good */
	if (c->listener != c->options.listener)
		fd_close(c->listener);
	fd_close(c->lock_fd);
	c->p->options.slate_dirfd = -1;
	fd_close(c->journal);
	free(c);
	return NULL;
}

/* ---- sessions and their VMs -------------------------------------------------------------------
 */

static void remove_door(struct control *c, struct door *victim)
{
	for (struct door **d = &c->doors; *d; d = &(*d)->next) {
		if (*d != victim)
			continue;
		*d = victim->next;
		door_free(victim);
		return;
	}
}

void control_forget(struct control *c, struct door *d)
{
	if (d->ledger)
		ledger_end(d->ledger);
	pager_retire(c->p, d->session);
	remove_door(c, d);
}

/* Once for every failed session: this is where its story ends for whoever reads the log. */
static void tell_failure(struct door *d)
{
	struct session *s = d->session;
	char text[SESSION_FAILURE_MAX + 1];

	if (d->told)
		return;
	d->told = true;
	session_failure(s, text);
	log_error("session=%s pid=%d failed and was killed: %s", s->name, s->pid, text);
}

static void vm_exited(struct control *c, struct door *d)
{
	if (session_state(d->session) == SESSION_FAILED)
		tell_failure(d);
	log_info("session=%s pid=%d the VM has ended", d->session->name, d->session->pid);
	control_forget(c, d);
}

bool control_has_exited(const struct session *s)
{
	struct pollfd p = {.fd = s->pidfd, .events = POLLIN};

	return s->pidfd < 0 || poll(&p, 1, 0) > 0;
}

/* Fault threads, or the audit, gave sessions up. Those without a VM have nothing to wait for. */
static void look_at_failed(struct control *c)
{
	eventfd_t n;

	(void)eventfd_read(c->p->attention_fd, &n); /* EAGAIN: the audit's, or told twice */
	for (struct door *d = c->doors, *next; d; d = next) {
		struct session *s = d->session;

		next = d->next;
		if (session_state(s) != SESSION_FAILED || d->told)
			continue;
		tell_failure(d);
		pager_stop_serving(c->p, s);
		if (s->pidfd < 0)
			control_forget(c, d);
	}
}

/* Faults that wait for a read that does not end, and background reads that do not. */
static void look_at_stuck_session(struct control *c, struct session *s, uint64_t now_ns)
{
	struct watch_report w;

	if (s->told_stuck || session_state(s) != SESSION_SERVING)
		return;
	watch_look(s, now_ns, WATCH_STUCK_NS, &w);
	if (w.n_stuck)
		log_warn("session=%s image=%s %u faults wait, the oldest for %llu ms, for layer %s "
			 "frame %u: does its storage answer?",
			 s->name, image_id(s->image), w.n_stuck,
			 (unsigned long long)(w.oldest_ns / NSEC_PER_MSEC),
			 image_layer_id(w.direct ? s->image : s->resident->image, w.layer),
			 w.frame);
	else if (s->job && job_stalled_ns(c->p, s->job) > WATCH_STUCK_NS)
		log_warn("session=%s image=%s no read in the background has ended for %llu ms: "
			 "does its storage answer?",
			 s->name, image_id(s->image),
			 (unsigned long long)(job_stalled_ns(c->p, s->job) / NSEC_PER_MSEC));
	else
		return;
	s->told_stuck = true;
}

static void look_at_stuck(struct control *c)
{
	uint64_t now_ns = clock_now_ns();

	if (now_ns < c->look_stuck_ns)
		return;
	c->look_stuck_ns = now_ns + NSEC_PER_SEC;
	for (struct door *d = c->doors; d; d = d->next)
		look_at_stuck_session(c, d->session, now_ns);
}

static void door_event(struct control *c, struct door *d)
{
	struct problem problem = PROBLEM_INIT;
	bool was_listening = session_state(d->session) == SESSION_LISTENING;
	int r = door_ready(d, c->p, c->options.handshake_ms, &problem);

	if (r == -EMFILE || r == -ENFILE) {
		log_warn("session=%s a VM has to wait: no descriptors left", d->session->name);
		c->accept_after_ns = deadline_after_ms(ACCEPT_REST_MS);
	} else if (r < 0) {
		log_warn("session=%s refused a handshake: %s", d->session->name, problem.message);
	} else if (was_listening && session_state(d->session) == SESSION_SERVING) {
		log_info("session=%s image=%s pid=%d serving", d->session->name,
			 image_id(d->session->resident->image), d->session->pid);
	}
}

static void update_records(struct control *c)
{
	for (struct door *d = c->doors; d; d = d->next)
		if (d->ledger)
			ledger_update(d->ledger, d->session);
}

void control_hand_over(struct control *c)
{
	pager_quiesce(c->p);
	update_records(c);
	for (struct door *d = c->doors; d; d = d->next)
		door_abandon(d);
	c->lock_fd = fd_close(c->lock_fd);
	c->journal = fd_close(c->journal);
	c->handed_over = c->stop = true;
}

/* ---- clients ----------------------------------------------------------------------------------
 */

/* A VM without userfaultfd must not begin before its memory is complete: nor does the reply go. */
static bool must_wait(struct control *c, const json_t *request, const json_t *reply)
{
	const char *path = json_string_value(json_object_get(reply, "socket"));

	if (json_is_false(json_object_get(request, "wait")))
		return false; /* it looks itself when loading is done */
	for (struct door *d = c->doors; path && d; d = d->next)
		if (!strcmp(d->path, path))
			return d->session->mode == SESSION_EAGER;
	return false;
}

static void wait_for_memory(struct control *c, uint32_t client, const json_t *request,
			    json_t **reply, int *reply_fd)
{
	struct waiting *w = &c->waiting[client];

	str_copy(w->session, sizeof(w->session),
		 json_string_value(json_object_get(request, "session")));
	w->reply = take_ptr(*reply);
	w->fd = take_fd(*reply_fd);
}

/* Return: 0 go on; negative errno when this client is not to be heard again */
static int end_wait(struct control *c, uint32_t client)
{
	struct waiting *w = &c->waiting[client];
	struct session *s = pager_find(c->p, w->session);
	_cleanup_fd_ int fd = -1;
	json_auto_t *reply = NULL;
	struct problem problem = PROBLEM_INIT;

	if (s && job_state(s->job) == JOB_LOADING)
		return 0;
	reply = take_ptr(w->reply);
	fd = take_fd(w->fd);
	if (!s || job_state(s->job) != JOB_DONE) {
		problem_set(&problem, 500, "the memory of session %s could not be loaded: %s",
			    w->session, s ? job_failure(s->job) : "it was closed");
		json_decref(reply);
		reply = wire_error(-EIO, &problem);
		fd = fd_close(fd);
		for (struct door *d = c->doors; s && d; d = d->next) {
			if (d->session != s)
				continue;
			control_forget(c, d);
			break;
		}
	}
	return reply ? wire_send(c->clients[client], reply, &fd, fd >= 0) : -ENOMEM;
}

static void end_waits(struct control *c)
{
	for (uint32_t i = 0; i < CONTROL_MAX_CLIENTS; i++)
		if (c->waiting[i].reply && end_wait(c, i) < 0)
			drop_client(c, i);
}

/* One request, one reply. Return: 0; negative errno when this client is not to be heard again */
static int client_ready(struct control *c, uint32_t client)
{
	json_auto_t *request = NULL, *reply = NULL;
	_cleanup_fd_ int reply_fd = -1;
	struct problem problem = PROBLEM_INIT;
	int fds[WIRE_MAX_FDS] = {-1, -1}, sock = c->clients[client];
	int r;

	if (c->waiting[client].reply) /* a hang-up: whoever asked is gone */
		return -EPIPE;
	r = wire_receive(sock, &request, fds);
	if (r == -EAGAIN)
		return 0;
	if (r == -EPIPE)
		return r;
	if (r < 0)
		problem_set(&problem, 400, "the message is not one JSON object of at most %u bytes",
			    WIRE_MAX_MESSAGE);
	else
		r = request_serve(c, request, fds, &problem, &reply, &reply_fd);
	if (r == 0 && !reply)
		reply = json_pack("{s:b}", "ok", 1);
	fd_close(fds[0]);
	fd_close(fds[1]);
	if (r)
		reply = wire_error(r, &problem);
	if (r == 0 && reply && must_wait(c, request, reply)) {
		wait_for_memory(c, client, request, &reply, &reply_fd);
		return end_wait(c, client);
	}
	return reply ? wire_send(sock, reply, &reply_fd, reply_fd >= 0) : -ENOMEM;
}

static void refuse_client(int sock)
{
	struct problem problem = PROBLEM_INIT;
	json_auto_t *reply = NULL;

	problem_set(&problem, 503, "%u clients are connected, more are not served",
		    CONTROL_MAX_CLIENTS);
	reply = wire_error(-EBUSY, &problem);
	if (reply)
		(void)wire_send(sock, reply, NULL, 0); /* it is sent away in any case */
	fd_close(sock);
}

static void accept_client(struct control *c)
{
	int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		c->accept_after_ns = deadline_after_ms(ACCEPT_REST_MS);
	if (fd < 0)
		return; /* it went away again, or a signal: poll tells */
	for (uint32_t i = 0; i < CONTROL_MAX_CLIENTS; i++) {
		if (c->clients[i] >= 0)
			continue;
		c->clients[i] = fd;
		return;
	}
	refuse_client(fd);
}

/* A VM came in by the front door: it is a session from the beginning. */
static int admit(void *data, struct image *image, struct alone_vm *vm, struct problem *problem)
{
	struct control *c = data;
	struct pager_request q = {
		.name = vm->name, .image = image, .mode = SESSION_COPY, .what = JOB_NOTHING};
	struct session *s;
	struct door *d;
	int r = pager_open(c->p, &q, problem, &s);

	if (r < 0)
		return r;
	r = pager_attach(c->p, s, &vm->map, take_fd(vm->uffd), take_fd(vm->pidfd), vm->pid,
			 problem);
	if (r == 0)
		r = door_new_inside(s, take_fd(vm->conn), &d);
	if (r) {
		pager_retire(c->p, s);
		return r;
	}
	d->next = c->doors;
	c->doors = d;
	log_info("session=%s image=%s pid=%d serving", s->name, image_id(image), s->pid);
	return 0;
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

/*
 * The poll set: four fixed places, the clients' places, two for each door, the front door's. A
 * negative descriptor keeps its place and is ignored by poll(2).
 */
enum { POLL_SIGNAL, POLL_ATTENTION, POLL_LISTENER, POLL_KEEPER, POLL_CLIENTS };

static void add_poll(struct control *c, nfds_t *n, int fd, struct door *d)
{
	c->polls[*n] = (struct pollfd){.fd = fd, .events = POLLIN};
	c->poll_doors[*n] = d;
	(*n)++;
}

static nfds_t fill_polls(struct control *c, bool resting, int *timeout_ms, nfds_t *n_before_alone)
{
	nfds_t n = 0;

	add_poll(c, &n, c->signal_fd, NULL);
	add_poll(c, &n, c->p->attention_fd, NULL);
	add_poll(c, &n, resting ? -1 : c->listener, NULL);
	add_poll(c, &n, c->options.keeper_sock, NULL);
	for (uint32_t i = 0; i < CONTROL_MAX_CLIENTS; i++) {
		add_poll(c, &n, c->clients[i], NULL);
		if (c->waiting[i].reply)
			c->polls[n - 1].events = 0; /* only its going away */
	}
	for (struct door *d = c->doors; d; d = d->next) {
		add_poll(c, &n, resting && d->conn < 0 ? -1 : door_fd(d), d);
		add_poll(c, &n, d->session->pidfd, d);
		if (d->listener >= 0 && d->conn >= 0)
			*timeout_ms = MIN(*timeout_ms, deadline_poll_ms(d->deadline_ns));
	}
	*n_before_alone = n;
	if (c->alone)
		n += alone_poll(c->alone, c->polls + n, timeout_ms);
	return n;
}

/*
 * A door is freed only when its VM's process has ended, or by a request. So: first what comes in
 * through the doors, then the ends of processes, then the clients, after whom no door is looked at.
 */
static void serve_polls(struct control *c, nfds_t n)
{
	nfds_t doors = POLL_CLIENTS + CONTROL_MAX_CLIENTS;

	if (c->polls[POLL_SIGNAL].revents)
		c->stop = true;
	if (c->polls[POLL_LISTENER].revents)
		accept_client(c);
	if (c->polls[POLL_KEEPER].revents & (POLLHUP | POLLERR)) {
		log_error("the supervisor is gone: should this process die, nobody starts another");
		c->options.keeper_sock = -1;
	}
	for (nfds_t i = doors; i < n; i += 2)
		if (c->polls[i].revents)
			door_event(c, c->poll_doors[i]);
	for (nfds_t i = doors + 1; i < n; i += 2)
		if (c->polls[i].revents)
			vm_exited(c, c->poll_doors[i]);
	for (uint32_t i = 0; i < CONTROL_MAX_CLIENTS && !c->stop; i++)
		if (c->polls[POLL_CLIENTS + i].revents && client_ready(c, i) < 0)
			drop_client(c, i);
}

int control_run(struct control *c)
{
	while (!c->stop) {
		int timeout_ms = pager_tick(c->p);
		bool resting = !deadline_passed(c->accept_after_ns);
		nfds_t n, n_doors;

		look_at_failed(c);
		takeover_tick(c);
		update_records(c);
		end_waits(c);
		look_at_stuck(c);
		for (struct door *d = c->doors; d; d = d->next)
			if (door_expire(d))
				log_warn("session=%s refused a handshake: it took too long",
					 d->session->name);
		n = fill_polls(c, resting, &timeout_ms, &n_doors);
		if (resting)
			timeout_ms = MIN(timeout_ms, ACCEPT_REST_MS);
		if (poll(c->polls, n, timeout_ms) < 0) {
			if (errno != EINTR)
				return error_errno();
			continue;
		}
		serve_polls(c, n_doors);
		if (c->alone)
			alone_serve(c->alone, c->polls + n_doors, n - n_doors);
	}
	return 0;
}
