/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/start-message.h"

#include <stdlib.h>
#include <unistd.h>

#include "cli/sandbox-call.h"
#include "cli/terminal.h"

static json_t *words(char *const *argv, size_t n)
{
	json_t *list = json_array();
	bool ok = list;

	for (size_t i = 0; ok && i < n; i++)
		ok = !json_array_append_new(list, json_string(argv[i]));
	if (ok)
		return list;
	json_decref(list);
	return NULL;
}

/* -e's, and what kind of terminal it is */
static json_t *environment(const struct exec_options *o)
{
	json_t *envs = o->envs ? json_copy(o->envs) : json_object();
	const char *term = getenv("TERM");

	if (envs && o->tty && term && !json_object_get(envs, "TERM") &&
	    json_object_set_new(envs, "TERM", json_string(term))) {
		json_decref(envs);
		return NULL;
	}
	return envs;
}

/* The terminal is as large as ours, standard input or output. */
static int add_pty(json_t *message)
{
	struct terminal_size size;

	if (terminal_size(STDIN_FILENO, &size) < 0)
		(void)terminal_size(STDOUT_FILENO, &size); /* or a usual size */
	return json_object_set_new(
		message, "pty",
		json_pack("{s:{s:i, s:i}}", "size", "cols", size.cols, "rows", size.rows));
}

json_t *start_message_new(const struct exec_options *o, bool with_stdin)
{
	json_t *process, *message;
	bool ok;

	if (o->attach)
		return json_pack("{s:o}", "process", sandbox_selector(o->attach));
	process = json_pack("{s:s, s:o}", "cmd", o->argv[0], "args",
			    words(o->argv + 1, o->n_argv - 1));
	ok = process;
	if (ok && (json_object_size(o->envs) || o->tty))
		ok = !json_object_set_new(process, "envs", environment(o));
	if (ok && o->cwd)
		ok = !json_object_set_new(process, "cwd", json_string(o->cwd));
	message = json_pack("{s:o?, s:b}", "process", process, "stdin", (int)with_stdin);
	if (ok && message && o->tag)
		ok = !json_object_set_new(message, "tag", json_string(o->tag));
	if (ok && message && o->tty)
		ok = !add_pty(message);
	if (ok)
		return message;
	json_decref(message);
	return NULL;
}
