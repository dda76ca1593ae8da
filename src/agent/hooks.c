/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One hook after the other: hook_begin() starts one, and its exit or its timer ends it in
 * hook_end(), which begins the next. Everything else (its output, a failure to execute it) is only
 * collected until then.
 */
#include "agent/hooks.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/report.h"
#include "agent/spawn.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/utf8.h"

#define HOOK_PATH    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define MAX_ENV	     10
#define READS_AT_END 64 /* of what a hook has printed when it ended; more is left out */

struct hooks {
	struct agent *agent;
	const char *base;
	struct cgroup cgroup;
	int kill_fd; /* cgroup.kill; -1: none */
	struct hook_list lists[HOOK_N_EVENTS];
	bool known[HOOK_N_EVENTS];

	/* of the run under way; list NULL: none is */
	const struct hook_list *list;
	size_t next;
	char *env[MAX_ENV + 1];
	json_t *report;
	void (*done)(void *userdata, int r);
	void *userdata;
	uint64_t deadline_ns; /* of all */
	int failed;	      /* 0, or what the first that failed did */

	/* of the one that runs */
	struct spawn child; /* pid 0: none */
	bool reaped;	    /* the child itself is gone; others of its session may not be */
	struct loop_source *sources[2];
	struct loop_timer timer;
	uint64_t begin_ns;
	char output[HOOK_OUTPUT_MAX];
	size_t n_output;
};

static void hook_begin(struct hooks *h);

/* --- output -------------------------------------------------------------------------------------
 */

/* Keep the end of it: that is where programs say why they fail. */
static void keep_output(struct hooks *h, const char *data, size_t len)
{
	size_t keep;

	if (len > sizeof(h->output)) {
		data += len - sizeof(h->output);
		len = sizeof(h->output);
	}
	keep = MIN(h->n_output, sizeof(h->output) - len);
	memmove(h->output, h->output + h->n_output - keep, keep);
	memcpy(h->output + keep, data, len);
	h->n_output = keep + len;
}

/* Return: true when there may be more */
static bool read_some(struct hooks *h, int fd)
{
	char data[4096];
	ssize_t n = fd < 0 ? 0 : read(fd, data, sizeof(data));

	if (n > 0)
		keep_output(h, data, (size_t)n);
	return n > 0;
}

static void on_stdout(void *userdata, uint32_t events)
{
	struct hooks *h = userdata;

	if (!read_some(h, h->child.stdout_fd) && events & EPOLLHUP)
		h->sources[0] = loop_remove(h->sources[0]);
}

static void on_stderr(void *userdata, uint32_t events)
{
	struct hooks *h = userdata;

	if (!read_some(h, h->child.stderr_fd) && events & EPOLLHUP)
		h->sources[1] = loop_remove(h->sources[1]);
}

/* As JSON wants it; what follows a zero byte is left out. */
static json_t *output_text(const struct hooks *h)
{
	char text[HOOK_OUTPUT_MAX + 1];
	_cleanup_free_ char *valid = NULL;

	memcpy(text, h->output, h->n_output);
	text[h->n_output] = 0;
	valid = utf8_from(text);
	return valid ? json_string(valid) : NULL;
}

/* --- one hook -----------------------------------------------------------------------------------
 */

static void child_kill(struct hooks *h)
{
	if (h->child.pid > 0)
		(void)kill(-h->child.pid, SIGKILL); /* its session; gone already is as good */
	if (h->child.pid > 0 && !h->reaped)
		(void)kill(h->child.pid, SIGKILL); /* it may not have one yet */
	if (h->kill_fd >= 0)
		(void)!pwrite(h->kill_fd, "1", 1, 0); /* and whatever left that */
}

static void child_clear(struct hooks *h)
{
	loop_timer_clear(&h->timer);
	for (int i = 0; i < 2; i++)
		h->sources[i] = loop_remove(h->sources[i]);
	h->child.stdout_fd = fd_close(h->child.stdout_fd);
	h->child.stderr_fd = fd_close(h->child.stderr_fd);
	h->child.exec_fd = fd_close(h->child.exec_fd);
	h->child.pid = 0;
	h->reaped = false;
	h->n_output = 0;
}

static void describe(json_t *step, const char *key, const char *text)
{
	if (step && text)
		(void)json_object_set_new(step, key, request_text(text)); /* left out then */
}

/* @error: in words; NULL: what @r means. */
static void hook_end(struct hooks *h, int r, const char *error)
{
	const struct hook *hook = &h->list->hooks[h->next];
	json_t *step;

	child_kill(h); /* also what it left running */
	for (int i = 0; i < READS_AT_END && read_some(h, h->child.stdout_fd); i++)
		;
	for (int i = 0; i < READS_AT_END && read_some(h, h->child.stderr_fd); i++)
		;
	step = report_add(h->report, hook->name, r, clock_now_ns() - h->begin_ns);
	describe(step, "error", error);
	if (step && h->n_output)
		(void)json_object_set_new(step, "output", output_text(h)); /* left out then */
	child_clear(h);
	h->failed = h->failed ? h->failed : r;
	h->next++;
	hook_begin(h);
}

static void on_limit(void *userdata)
{
	hook_end(userdata, -ETIMEDOUT, "its time limit passed");
}

static int child_start(struct hooks *h, const struct hook *hook)
{
	const struct user root = {.name = "root", .home = "/", .uid = geteuid(), .gid = getegid()};
	const struct spawn_config config = {.argv = (char *[]){hook->path, NULL},
					    .envp = h->env,
					    .cwd = "/",
					    .cwd_is_default = true,
					    .system = true,
					    .user = &root,
					    .procs_fd = h->cgroup.procs_fd};
	int r = spawn_start(&config, &h->child);

	if (r == 0)
		r = loop_add(h->agent->loop, h->child.stdout_fd, EPOLLIN, on_stdout, h,
			     &h->sources[0]);
	if (r == 0)
		r = loop_add(h->agent->loop, h->child.stderr_fd, EPOLLIN, on_stderr, h,
			     &h->sources[1]);
	return r;
}

static void run_end(struct hooks *h)
{
	void (*done)(void *userdata, int r) = h->done;
	int r = h->failed;

	hooks_cancel(h);
	done(h->userdata, r);
}

static void hook_begin(struct hooks *h)
{
	const struct hook *hook = &h->list->hooks[h->next];
	int r;

	for (; h->next < h->list->n && hook->skip; h->next++, hook++)
		describe(report_add(h->report, hook->name, -EPERM, 0), "skipped", hook->skip);
	if (h->next == h->list->n) {
		run_end(h);
		return;
	}
	h->begin_ns = clock_now_ns();
	if (deadline_passed(h->deadline_ns)) {
		hook_end(h, -ETIMEDOUT, "not run: the time for all hooks had passed");
		return;
	}
	loop_timer_set(h->agent->loop, &h->timer,
		       deadline_min(deadline_after_ms(h->list->each_ms), h->deadline_ns));
	r = child_start(h, hook);
	if (r < 0)
		hook_end(h, r, NULL);
}

/* What came of it, in the words that /process.Process uses. */
static void on_exit_status(struct hooks *h, int status)
{
	struct spawn_failure f;
	char text[64];

	if (read(h->child.exec_fd, &f, sizeof(f)) == sizeof(f)) {
		hook_end(h, f.error ? -f.error : -EIO, NULL);
	} else if (WIFSIGNALED(status)) {
		(void)snprintf(text, sizeof(text), "signal: %s", sigdescr_np(WTERMSIG(status)));
		hook_end(h, -EIO, text);
	} else if (WEXITSTATUS(status)) {
		(void)snprintf(text, sizeof(text), "exit status %d", WEXITSTATUS(status));
		hook_end(h, -EIO, text);
	} else {
		hook_end(h, 0, NULL);
	}
}

bool hooks_reaped(struct hooks *h, pid_t pid, int wait_status)
{
	if (!h->list || !h->child.pid || h->child.pid != pid)
		return false;
	h->reaped = true;
	on_exit_status(h, wait_status);
	return true;
}

/* --- all of them --------------------------------------------------------------------------------
 */

int hooks_look(struct hooks *h, enum hook_event event, unsigned *ret_ms)
{
	int r = 0;

	if (!h->known[event] && h->base) {
		hook_list_deinit(&h->lists[event]);
		r = hook_list_read(h->base, event, &h->lists[event]);
	}
	h->known[event] = r == 0;
	if (r == 0)
		*ret_ms = h->lists[event].total_ms;
	return r;
}

void hooks_forget(struct hooks *h)
{
	memset(h->known, 0, sizeof(h->known));
}

static int make_env(struct hooks *h, enum hook_event event, const struct hooks_env *env)
{
	size_t n = 0;

	h->env[n++] = strdup(HOOK_PATH);
	h->env[n++] = strdup("HOME=/root");
	h->env[n++] = str_printf("DORM_EVENT=%s", hook_event_name(event));
	h->env[n++] = str_printf("DORM_SANDBOX_ID=%s", env->sandbox_id);
	h->env[n++] = str_printf("DORM_TEMPLATE_ID=%s", env->template_id);
	if (env->kind) {
		h->env[n++] = str_printf("DORM_KIND=%s", env->kind);
		h->env[n++] = str_printf("DORM_OLD_SANDBOX_ID=%s", env->old_sandbox_id);
	}
	for (size_t i = 0; i < n; i++)
		if (!h->env[i])
			return -ENOMEM;
	return 0;
}

int hooks_start(struct hooks *h, enum hook_event event, const struct hooks_env *env, json_t *report,
		void (*done)(void *userdata, int r), void *userdata)
{
	const struct hook_list *l = &h->lists[event];
	int r;

	if (!l->n)
		return 1;
	r = make_env(h, event, env);
	h->list = l;
	if (r < 0) {
		hooks_cancel(h);
		return r;
	}
	h->next = 0;
	h->failed = 0;
	h->report = json_incref(report);
	h->done = done;
	h->userdata = userdata;
	h->deadline_ns = deadline_after_ms(l->total_ms);
	if (l->too_many) {
		h->failed = -E2BIG;
		describe(report_add(report, hook_event_name(event), -E2BIG, 0), "error",
			 "more hooks than are run");
	}
	hook_begin(h);
	return 0;
}

void hooks_cancel(struct hooks *h)
{
	if (!h->list)
		return;
	child_kill(h);
	child_clear(h);
	for (size_t i = 0; i < MAX_ENV; i++) {
		free(h->env[i]);
		h->env[i] = NULL;
	}
	json_decref(h->report);
	h->report = NULL;
	h->list = NULL;
}

static int open_cgroup(struct hooks *h, const char *path)
{
	_cleanup_free_ char *kill = str_printf("%s/cgroup.kill", path);
	int r = kill ? cgroup_open(&h->cgroup, path) : -ENOMEM;

	if (r < 0)
		return r;
	h->kill_fd = open(kill, O_WRONLY | O_CLOEXEC);
	return h->kill_fd < 0 ? error_errno() : 0;
}

int hooks_new(struct agent *a, const char *base, const char *cgroup, struct hooks **ret)
{
	_cleanup_(hooks_freep) struct hooks *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return error_trace(-ENOMEM);
	h->agent = a;
	h->base = base;
	h->cgroup = CGROUP_INIT;
	h->kill_fd = -1;
	h->child = (struct spawn){0, -1, -1, -1, -1};
	h->timer = (struct loop_timer){.fire = on_limit, .userdata = h};
	r = cgroup ? open_cgroup(h, cgroup) : 0;
	if (r < 0)
		return error_trace(r);
	*ret = take_ptr(h);
	return 0;
}

struct hooks *hooks_free(struct hooks *h)
{
	if (!h)
		return NULL;
	hooks_cancel(h);
	for (int i = 0; i < HOOK_N_EVENTS; i++)
		hook_list_deinit(&h->lists[i]);
	cgroup_close(&h->cgroup);
	fd_close(h->kill_fd);
	free(h);
	return NULL;
}
