/* SPDX-License-Identifier: Apache-2.0 */
/* dorm exec, dorm run: commands in a sandbox that is there, and in a new one */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "cli/exec-session.h"
#include "cli/http.h"
#include "cli/memory-options.h"
#include "cli/network-options.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/sandbox-call.h"

#define EXIT_TEXT                                                                                  \
	"The exit code is the command's own, 128 + n when signal n ended it. 124: its time "       \
	"limit\n"                                                                                  \
	"passed. 125: dorm or the sandbox failed. 126: it cannot be executed. 127: there is no\n"  \
	"such program. 2: this command line is wrong.\n"

static json_t *pairs_free(json_t *pairs)
{
	json_decref(pairs);
	return NULL;
}
DEFINE_CLEANUP(json_t *, pairs_free)

static int run_exec(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(pairs_freep) json_t *envs = json_object();
	struct exec_options o = {.envs = envs};
	const struct option_spec specs[] = {
		{'i', "interactive", OPTION_FLAG, &o.interactive, NULL,
		 "send standard input to the command"},
		{'t', "tty", OPTION_FLAG, &o.tty, NULL,
		 "give it a terminal; ours, when standard input is one"},
		{'u', "user", OPTION_TEXT, &o.user, "USER", "run as this user of the sandbox"},
		{'w', "workdir", OPTION_TEXT, &o.cwd, "DIR",
		 "directory to run in (default: the user's home)"},
		{0, "cwd", OPTION_TEXT, &o.cwd, "DIR", "the same"},
		{'e', "env", OPTION_PAIRS, &envs, "KEY=VALUE",
		 "set an environment variable; may be repeated"},
		{0, "tag", OPTION_TEXT, &o.tag, "NAME", "a name for it, as good as its process id"},
		{'d', "detach", OPTION_FLAG, &o.detach, NULL,
		 "print its process id and leave it running"},
		{0, "timeout", OPTION_SECONDS, &o.timeout_s, "TIME",
		 "end the command after this time (default: never)", 1, 0},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	o.sandbox_id = args.pos[0];
	if (!sandbox_id_is_valid(o.sandbox_id))
		return options_usage(command, "'%s' is not a sandbox id (see `dorm ps`)",
				     o.sandbox_id);
	if (o.detach && (o.interactive || o.tty))
		return options_usage(command, "--detach makes no sense with -i or -t");
	o.argv = args.cmd;
	o.n_argv = args.n_cmd;
	return exec_session_run(cli, &o);
}

const struct command cmd_exec = {
	.name = "exec",
	.usage = "[OPTIONS] ID -- COMMAND [ARGUMENT...]",
	.summary = "Run a command in a sandbox",
	.details =
		"Output and exit code are the command's. Ctrl-C ends the command (SIGTERM); the "
		"second\n"
		"Ctrl-C kills it (SIGKILL). With -t every key goes to it; Ctrl-] leaves it "
		"running,\n"
		"as the loss of our terminal does, and `dorm attach` returns to it.\n\n" EXIT_TEXT,
	.examples = "  dorm exec i4k2... -- uname -a\n"
		    "  dorm exec -t i4k2... -- bash\n"
		    "  dorm exec -d --tag web i4k2... -- python3 -m http.server\n"
		    "  dorm exec -w /srv -e LANG=C i4k2... -- sh -c 'ls | wc -l'\n"
		    "  tar c src | dorm exec -i i4k2... -- tar x -C /home/user\n",
	.missing = "a sandbox id",
	.min_args = 1,
	.max_args = 1,
	.takes_command = true,
	.needs_command = true,
	.no_json = true,
	.run = run_exec,
};

struct run_options {
	json_t *envs, *metadata; /* owned */
	uint64_t timeout_s;
	bool remove, auto_pause, auto_resume;
	struct memory_options memory;
	struct network_options network;
	struct exec_options exec;
};

static void run_options_deinit(struct run_options *o)
{
	json_decref(o->envs);
	json_decref(o->metadata);
	network_options_deinit(&o->network);
}

static int create(struct cli *cli, struct http *http, const struct run_options *o,
		  const char *template, struct http_reply *ret, struct problem *problem)
{
	json_t *body = json_pack("{s:s, s:I}", "templateID", template, "timeout",
				 (json_int_t)o->timeout_s);
	struct progress progress;
	int r;

	if (!body) {
		problem_set(problem, 400, "'%s' is not the name of a template", template);
		return -EILSEQ;
	}
	if (memory_options_add(&o->memory, body)) {
		problem_set(problem, 400, "--wait, --mode: not valid UTF-8");
		json_decref(body);
		return -EILSEQ;
	}
	if (json_object_size(o->envs))
		(void)json_object_set(body, "envVars", o->envs); /* fails without memory only */
	if (json_object_size(o->metadata))
		(void)json_object_set(body, "metadata", o->metadata);
	if (o->auto_pause)
		(void)json_object_set_new(body, "autoPause", json_true());
	if (o->auto_resume)
		(void)json_object_set_new(body, "autoResume", json_pack("{s:b}", "enabled", 1));
	network_options_create(&o->network, body);
	progress_start(&progress, cli, "waking a sandbox from %s", template);
	http_set_progress(http, &progress);
	r = http_call(http, "POST", "/v2/sandboxes", body, ret, problem);
	http_set_progress(http, NULL);
	progress_end(&progress);
	json_decref(body);
	if (!r && !output_field(ret->body, "sandboxID", NULL)) {
		problem_set(problem, 500, "dormd made a sandbox but did not say its id");
		return -EBADMSG;
	}
	return r;
}

static int remove_sandbox(struct http *http, const char *id)
{
	_cleanup_free_ char *path = http_path("/sandboxes/", id, "");
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem problem = PROBLEM_INIT;

	if (path && !http_call(http, "DELETE", path, NULL, &reply, &problem))
		return 0;
	if (reply.status == 404)
		return 0; /* it is gone, which is what we want */
	output_problem(&problem);
	return -EIO;
}

static void print_created(const struct cli *cli, const json_t *sandbox)
{
	_cleanup_free_ char *wake = output_wake(sandbox);

	if (cli->json) {
		output_json(sandbox);
		return;
	}
	(void)printf("%s\n", output_field(sandbox, "sandboxID", ""));
	if (cli->tty_err && wake && *wake)
		(void)fprintf(stderr, "awake after %s\n", wake);
}

static int run_in_new(struct cli *cli, struct http *http, struct run_options *o,
		      const char *template)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem problem = PROBLEM_INIT;
	int code;

	if (create(cli, http, o, template, &reply, &problem)) {
		output_problem(&problem);
		return o->exec.n_argv ? CLI_OWN : CLI_FAILED;
	}
	if (!o->exec.n_argv) {
		print_created(cli, reply.body);
		return CLI_OK;
	}
	o->exec.sandbox_id = output_field(reply.body, "sandboxID", "");
	code = exec_session_run(cli, &o->exec);
	if (o->remove && remove_sandbox(http, o->exec.sandbox_id) && !code)
		return CLI_OWN;
	return code;
}

static int check_run(const struct command *command, const struct cli *cli,
		     const struct run_options *o)
{
	if (cli->json && o->exec.n_argv)
		return options_usage(command, "--json makes no sense with a command");
	if (!o->exec.n_argv &&
	    (o->remove || o->exec.interactive || o->exec.tty || o->exec.user || o->exec.cwd))
		return options_usage(command, "-i, -t, -u, -w and --rm need a command (after --)");
	return 0;
}

/* With --rm no signal may end us between making the sandbox and removing it. */
static int run_guarded(struct cli *cli, struct run_options *o, const char *template)
{
	_cleanup_(http_freep) struct http *http = NULL;
	struct problem problem = PROBLEM_INIT;
	sigset_t old;
	int code;

	if (http_new(cli->socket, &problem, &http)) {
		output_problem(&problem);
		return o->exec.n_argv ? CLI_OWN : CLI_FAILED;
	}
	if (!o->remove)
		return run_in_new(cli, http, o, template);
	exec_signals_block(&old);
	code = run_in_new(cli, http, o, template);
	exec_signals_restore(&old);
	return code;
}

static int run_run(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(run_options_deinit) struct run_options o = {
		.envs = json_object(), .metadata = json_object(), .timeout_s = 3600,
		.network = NETWORK_OPTIONS_INIT};
	const struct option_spec specs[] = {
		{0, "timeout", OPTION_SECONDS, &o.timeout_s, "TIME",
		 "how long the sandbox lives (default: 1h)", 1, 0},
		{0, "auto-pause", OPTION_FLAG, &o.auto_pause, NULL,
		 "then put it to sleep instead of deleting it", 0, 0},
		{0, "auto-resume", OPTION_FLAG, &o.auto_resume, NULL,
		 "wake it when there is a request to it while it sleeps", 0, 0},
		{'e', "env", OPTION_PAIRS, &o.envs, "KEY=VALUE",
		 "environment variable for all its commands; may be repeated"},
		{'m', "metadata", OPTION_PAIRS, &o.metadata, "KEY=VALUE",
		 "a note of yours, shown by inspect; may be repeated"},
		MEMORY_OPTIONS(o.memory),
		NETWORK_OPTIONS(o.network),
		{0, "rm", OPTION_FLAG, &o.remove, NULL,
		 "delete the sandbox when the command has ended"},
		{'i', "interactive", OPTION_FLAG, &o.exec.interactive, NULL,
		 "send standard input to the command"},
		{'t', "tty", OPTION_FLAG, &o.exec.tty, NULL,
		 "give it a terminal; ours, when standard input is one"},
		{'u', "user", OPTION_TEXT, &o.exec.user, "USER", "run the command as this user"},
		{'w', "workdir", OPTION_TEXT, &o.exec.cwd, "DIR",
		 "run the command in this directory"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	o.exec.argv = args.cmd;
	o.exec.n_argv = args.n_cmd;
	r = check_run(command, cli, &o);
	return r ? r : run_guarded(cli, &o, args.pos[0]);
}

const struct command cmd_run = {
	.name = "run",
	.usage = "[OPTIONS] TEMPLATE [-- COMMAND [ARGUMENT...]]",
	.summary = "Create a sandbox from a template or a snapshot",
	.details = "Prints the id of the new sandbox. With a COMMAND runs that in it instead, as\n"
		   "`dorm exec` does; the sandbox stays, unless --rm was given.\n\n"
		   "With a COMMAND: " EXIT_TEXT,
	.examples = "  dorm run base\n"
		    "  id=$(dorm run --timeout 10m base)\n"
		    "  dorm run --rm base -- uname -a\n"
		    "  dorm run --network --deny 1.2.3.0/24 base\n"
		    "  dorm run --rm -t base -- bash\n"
		    "  echo 'print(6 * 7)' | dorm run --rm -i python -- python3\n",
	.missing = "a template (see `dorm template ls`)",
	.min_args = 1,
	.max_args = 1,
	.takes_command = true,
	.run = run_run,
};
