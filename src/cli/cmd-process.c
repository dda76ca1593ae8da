/* SPDX-License-Identifier: Apache-2.0 */
/* dorm attach, dorm kill, and dorm ps with a sandbox: programs that run in one */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "cli/exec-session.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/process-list.h"
#include "cli/sandbox-call.h"
#include "cli/table.h"
#include "cli/terminal.h"

static int check_id(const struct command *command, const char *id)
{
	if (sandbox_id_is_valid(id))
		return 0;
	return options_usage(command, "'%s' is not a sandbox id (see `dorm ps`)", id);
}

/* ---- ps
 * ------------------------------------------------------------------------------------------ */

/* Words with blanks in them are quoted, so that one can see where they end. */
static int add_word(struct buf *line, const json_t *word)
{
	const char *text = json_string_value(word) ? json_string_value(word) : "?";
	bool plain = *text && !strpbrk(text, " \t\n'\"");

	return buf_printf(line, plain ? "%s%s" : "%s'%s'", line->len ? " " : "", text);
}

static void add_row(struct table *t, const json_t *process)
{
	const json_t *config = json_object_get(process, "config"), *arg;
	_cleanup_buf_ struct buf line = {0};
	size_t i;

	table_row(t);
	table_cell(t, "%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(process, "pid")));
	table_cell(t, "%s", output_field(process, "tag", "-"));
	table_cell(t, "%s", output_field(config, "cwd", "-"));
	(void)add_word(&line, json_object_get(config, "cmd")); /* short of memory: a shorter line */
	json_array_foreach (json_object_get(config, "args"), i, arg)
		(void)add_word(&line, arg);
	table_cell(t, "%s", line.data ? line.data : "?");
}

static int print_processes(struct cli *cli, const json_t *list)
{
	static const struct table_column columns[] = {
		{"PID", TABLE_RIGHT}, {"TAG", 0}, {"DIRECTORY", TABLE_CUT}, {"COMMAND", TABLE_CUT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	json_t *v;
	size_t i;

	json_array_foreach (list, i, v)
		add_row(t, v);
	return table_print(t);
}

int process_list_show(struct cli *cli, const char *id)
{
	struct problem problem = PROBLEM_INIT;
	json_t *answer = NULL, *list;
	int code;

	if (sandbox_call(cli, id, "/process.Process/List", json_object(), &answer, &problem)) {
		output_problem(&problem);
		return CLI_FAILED;
	}
	list = json_object_get(answer, "processes");
	if (!json_is_array(list)) {
		list = json_array();
		(void)json_object_set_new(answer, "processes", list);
	}
	if (cli->json) {
		output_json(list);
		code = CLI_OK;
	} else {
		code = print_processes(cli, list);
	}
	json_decref(answer);
	return code;
}

/* ---- attach
 * -------------------------------------------------------------------------------------- */

/* Has it a terminal? We ask by giving it the size of ours. Return: 1, 0; -1 after printing why */
static int take_terminal(struct cli *cli, const char *id, const char *process)
{
	struct problem problem = PROBLEM_INIT;
	struct terminal_size size;
	json_t *body;

	if (terminal_size(STDIN_FILENO, &size) < 0)
		return 0;
	body = json_pack("{s:o, s:{s:{s:i, s:i}}}", "process", sandbox_selector(process), "pty",
			 "size", "cols", size.cols, "rows", size.rows);
	if (!sandbox_call(cli, id, "/process.Process/Update", body, NULL, &problem))
		return 1;
	/* without one, or ended a moment ago, which Connect knows more about */
	if (problem.status == 400 || problem.status == 404)
		return 0;
	output_problem(&problem);
	return -1;
}

static int run_attach(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct exec_options o = {0};
	const struct option_spec specs[] = {
		{'i', "interactive", OPTION_FLAG, &o.interactive, NULL,
		 "send standard input to a program without a terminal"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	r = check_id(command, args.pos[0]);
	if (r)
		return r;
	o.sandbox_id = args.pos[0];
	o.attach = args.pos[1];
	r = take_terminal(cli, o.sandbox_id, o.attach);
	if (r < 0)
		return CLI_OWN;
	o.tty = r;
	return exec_session_run(cli, &o);
}

const struct command cmd_attach = {
	.name = "attach",
	.usage = "[OPTIONS] ID PID|TAG",
	.summary = "Follow a program that runs in a sandbox",
	.details =
		"Shows its output from now on; the exit code is the program's, also of one that "
		"ended\n"
		"less than 30 s ago. If it has a terminal, and standard input is one, the two are\n"
		"connected: keys go to it, Ctrl-] leaves. Otherwise Ctrl-C leaves. The program "
		"goes on\n"
		"either way; several may follow it at once.\n",
	.examples = "  dorm attach i4k2... 734\n"
		    "  dorm attach i4k2... build >build.log\n",
	.missing = "a sandbox id and a process id or tag (see `dorm ps ID`)",
	.min_args = 2,
	.max_args = 2,
	.no_json = true,
	.run = run_attach,
};

/* ---- kill
 * ---------------------------------------------------------------------------------------- */

static int kill_one(struct cli *cli, const char *id, const char *process, const char *name)
{
	struct problem problem = PROBLEM_INIT;
	json_t *body =
		json_pack("{s:o, s:s}", "process", sandbox_selector(process), "signal", name);

	if (!sandbox_call(cli, id, "/process.Process/SendSignal", body, NULL, &problem))
		return CLI_OK;
	output_problem(&problem);
	return CLI_FAILED;
}

static int run_kill(struct cli *cli, const struct command *command, int argc, char **argv)
{
	const char *name = "KILL";
	const struct option_spec specs[] = {
		{'s', "signal", OPTION_TEXT, &name, "SIGNAL",
		 "KILL (the default): all that it has started, too; TERM: its process group"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);
	int code = CLI_OK;

	if (r)
		return options_exit(r);
	r = check_id(command, args.pos[0]);
	if (r)
		return r;
	if (strcmp(name, "KILL") != 0 && strcmp(name, "TERM") != 0)
		return options_usage(command, "--signal must be KILL or TERM, not '%s'", name);
	for (size_t i = 1; i < args.n_pos; i++)
		if (kill_one(cli, args.pos[0], args.pos[i],
			     *name == 'K' ? "SIGNAL_SIGKILL" : "SIGNAL_SIGTERM"))
			code = CLI_FAILED;
	return code;
}

const struct command cmd_kill = {
	.name = "kill",
	.usage = "[OPTIONS] ID PID|TAG...",
	.summary = "End programs that run in a sandbox",
	.details =
		"The sandbox itself stays (`dorm rm` deletes one). What a program has left running "
		"when it\n"
		"ended can still be killed by its process id.\n",
	.examples = "  dorm kill i4k2... 734\n"
		    "  dorm kill -s TERM i4k2... server\n",
	.missing = "a sandbox id and a process id or tag (see `dorm ps ID`)",
	.min_args = 2,
	.max_args = SIZE_MAX,
	.no_json = true,
	.run = run_kill,
};
