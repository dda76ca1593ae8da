/* SPDX-License-Identifier: Apache-2.0 */
/* dorm doctor, version */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"

#define DORMD_MS   120000 /* it measures: KVM by running something */
#define MAX_REPORT (1u << 20)

/* ---- without a daemon: `dormd --doctor`
 * ---------------------------------------------------------- */

/* In the same folder, as in a build, or where it is when dorm is installed. */
static char *beside(const char *path)
{
	static const char *const places[] = {"dormd", "../sbin/dormd"};

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		_cleanup_free_ char *copy = strdup(path);
		char *found = copy ? str_printf("%s/%s", dirname(copy), places[i]) : NULL;

		if (found && !access(found, X_OK))
			return found;
		free(found);
	}
	return NULL;
}

/* Where dormd is: beside us as we were called, beside our file, or on $PATH. */
static char *find_dormd(const char *argv0)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *found = strchr(argv0, '/') ? beside(argv0) : NULL;

	if (!found && n > 0) {
		self[n] = 0;
		found = beside(self);
	}
	return found ? found : strdup("dormd");
}

static int spawn_dormd(const char *path, pid_t *ret_pid, int *ret_fd)
{
	char *const argv[] = {(char *)path, (char *)"--doctor", NULL}; /* not written to */
	posix_spawn_file_actions_t actions;
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_errno();
	r = posix_spawn_file_actions_init(&actions);
	if (!r) {
		r = posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
		if (!r)
			r = posix_spawnp(ret_pid, path, &actions, NULL, argv, environ);
		(void)posix_spawn_file_actions_destroy(&actions); /* always 0 */
	}
	fd_close(fds[1]);
	if (r) {
		fd_close(fds[0]);
		return error_trace(-r);
	}
	*ret_fd = fds[0];
	return 0;
}

static int read_report(int fd, uint64_t deadline_ns, struct buf *out)
{
	char data[4096];

	for (;;) {
		int r = fd_poll(fd, POLLIN, deadline_ns);
		ssize_t n;

		if (r <= 0)
			return error_trace(r ? r : -ETIMEDOUT);
		n = read(fd, data, sizeof(data));
		if (n < 0)
			return error_errno();
		if (!n)
			return 0;
		if (out->len + (size_t)n > MAX_REPORT)
			return error_trace(-EFBIG);
		r = buf_append(out, data, (size_t)n);
		if (r < 0)
			return error_trace(r);
	}
}

static int run_dormd(const char *path, struct problem *problem, json_t **ret)
{
	_cleanup_buf_ struct buf out = {0};
	_cleanup_fd_ int fd = -1;
	pid_t pid = -1;
	int r = spawn_dormd(path, &pid, &fd);

	if (r < 0) {
		problem_errno(problem, r, "cannot run %s --doctor", path);
		problem_hint(problem, "install dormd beside dorm, or on $PATH");
		return r;
	}
	r = read_report(fd, deadline_after_ms(DORMD_MS), &out);
	if (r < 0)
		(void)kill(pid, SIGKILL); /* ours, not reaped yet */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (r < 0) {
		problem_errno(problem, r, "%s --doctor", path);
		return error_trace(r);
	}
	*ret = out.len ? json_loadb(out.data, out.len, 0, NULL) : NULL;
	if (*ret)
		return 0;
	problem_set(problem, 500, "%s --doctor did not print its report", path);
	return error_trace(-EBADMSG);
}

/* Return: 0; anything else with @problem set */
static int get_report(struct cli *cli, struct problem *problem, json_t **ret)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_reply_ struct http_reply reply = {0};
	_cleanup_free_ char *dormd = NULL;
	int r = http_new(cli->socket, problem, &http);

	r = r ? r : http_call(http, "GET", "/doctor", NULL, &reply, problem);
	if (!r) {
		*ret = json_incref(reply.body);
		return 0;
	}
	if (r != -ECONNREFUSED)
		return r;
	(void)fprintf(stderr, "%s: asking `dormd --doctor` instead\n", problem->message);
	*problem = PROBLEM_INIT;
	dormd = find_dormd(cli->argv0);
	return dormd ? run_dormd(dormd, problem, ret) : -ENOMEM;
}

/* ---- doctor
 * -------------------------------------------------------------------------------------- */

static const char *coloured(const struct cli *cli, const char *status)
{
	if (!cli->colour)
		return "";
	return !strcmp(status, "ok")	 ? "\033[32m"
	       : !strcmp(status, "warn") ? "\033[33m"
					 : "\033[31m";
}

static void print_more(const char *label, const char *text, size_t indent)
{
	if (!*text)
		return;
	(void)printf("%*s%s", (int)indent, "", label);
	output_wrapped(stdout, indent + strlen(label), text);
}

static void print_check(const struct cli *cli, const json_t *check, size_t name_width)
{
	const char *status = output_field(check, "status", "?"),
		   *name = output_field(check, "name", "?");
	size_t indent = 4 + 2 + name_width + 2;

	(void)fputs(coloured(cli, status), stdout);
	output_padded(stdout, status, 4);
	(void)printf("%s  ", cli->colour ? "\033[0m" : "");
	output_padded(stdout, name, name_width + 2);
	output_wrapped(stdout, indent, output_field(check, "found", "-"));
	if (!strcmp(status, "ok"))
		return;
	print_more("cost:   ", output_field(check, "cost", ""), indent);
	print_more("remedy: ", output_field(check, "remedy", ""), indent);
}

/* Return: how many checks have this status */
static unsigned count(const json_t *checks, const char *status)
{
	unsigned n = 0;
	json_t *v;
	size_t i;

	json_array_foreach (checks, i, v)
		n += !strcmp(output_field(v, "status", ""), status);
	return n;
}

static void print_report(const struct cli *cli, const json_t *checks)
{
	size_t i, width = 0;
	json_t *v;

	json_array_foreach (checks, i, v)
		width = MAX(width, strlen(output_field(v, "name", "?")));
	json_array_foreach (checks, i, v)
		print_check(cli, v, MIN(width, (size_t)32));
	(void)printf("\n%zu checks: %u ok, %u to know about, %u failed\n", json_array_size(checks),
		     count(checks, "ok"), count(checks, "warn"), count(checks, "fail"));
}

static int run_doctor(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct problem problem = PROBLEM_INIT;
	json_t *report = NULL, *checks;
	struct args args;
	int code, r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	r = get_report(cli, &problem, &report);
	checks = json_object_get(report, "checks");
	if (!r && !json_is_array(checks)) {
		problem_set(&problem, 500, "the report has no checks in it");
		r = -EBADMSG;
	}
	if (r) {
		output_problem(&problem);
		json_decref(report);
		return CLI_FAILED;
	}
	if (cli->json)
		output_json(report);
	else
		print_report(cli, checks);
	code = count(checks, "fail") ? CLI_FAILED : CLI_OK;
	json_decref(report);
	return code;
}

const struct command cmd_doctor = {
	.name = "doctor",
	.usage = "[OPTIONS]",
	.summary = "Check what this host can do, and what each missing thing costs",
	.details = "Asks dormd; when that is not running, `dormd --doctor`. Exit code 1 when a "
		   "check failed,\n"
		   "that is, when sandboxes cannot work at all; warnings cost speed or comfort.\n",
	.examples = "  dorm doctor\n  dorm doctor --json | jq '.checks[] | select(.status != "
		    "\"ok\")'\n",
	.run = run_doctor,
};

/* ---- version
 * ------------------------------------------------------------------------------------- */

static int run_version(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);
	json_t *json;

	if (r)
		return options_exit(r);
	if (!cli->json) {
		(void)printf("dorm %s\n", DORM_VERSION);
		return CLI_OK;
	}
	json = json_pack("{s:s}", "version", DORM_VERSION);
	output_json(json);
	json_decref(json);
	return CLI_OK;
}

const struct command cmd_version = {
	.name = "version",
	.usage = "[OPTIONS]",
	.summary = "Print the version of dorm",
	.examples = "  dorm version\n",
	.run = run_version,
};
