/* SPDX-License-Identifier: Apache-2.0 */
/* dorm snapshot export, layers */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/http-transfer.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/part-file.h"
#include "cli/raw-file.h"
#include "cli/request.h"

#define MISSING_SNAPSHOT "a snapshot id (see `dorm snapshot ls`)"

/* dormd reads a head of 64 KiB. */
#define MAX_SKIP_TEXT (32u << 10)
#define MAX_SKIP_FILE (64u << 20)

/* ---- layers that need not be sent
 * ----------------------------------------------------------------
 */

/* Adds the words of @text, which may be separated by commas, spaces and newlines. */
static int add_words(json_t *set, char *text, struct problem *problem)
{
	char *state = NULL;

	for (char *word = strtok_r(text, ", \t\r\n", &state); word;
	     word = strtok_r(NULL, ", \t\r\n", &state)) {
		if (word[strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789")]) {
			problem_set(problem, 400, "'%s' is not the id of a layer", word);
			problem_hint(problem, "`dorm snapshot layers` prints those of a host");
			return error_trace(-EINVAL);
		}
		if (json_object_set_new(set, word, json_true()))
			return error_trace(-ENOMEM);
	}
	return 0;
}

static int read_all(const char *name, struct buf *ret)
{
	bool standard = !strcmp(name, "-");
	_cleanup_fd_ int opened = standard ? -1 : open(name, O_RDONLY | O_CLOEXEC);
	int fd = standard ? STDIN_FILENO : opened;
	char data[65536];
	ssize_t n;

	if (fd < 0)
		return error_errno();
	while ((n = read(fd, data, sizeof(data))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno();
		if (ret->len + (size_t)n > MAX_SKIP_FILE)
			return error_trace(-EFBIG);
		if (buf_append(ret, data, (size_t)n))
			return error_trace(-ENOMEM);
	}
	return 0;
}

/* The layers in both options, as the keys of an object. */
static int collect_skip(const char *list, const char *file, json_t *set, struct problem *problem)
{
	_cleanup_free_ char *copy = strdup(list ? list : "");
	_cleanup_buf_ struct buf text = {0};
	int r = copy && set ? add_words(set, copy, problem) : -ENOMEM;

	if (r < 0 || !file)
		return r;
	r = read_all(file, &text);
	if (r < 0)
		problem_errno(problem, r, "cannot read %s", file);
	return r < 0 || !text.len ? r : add_words(set, text.data, problem);
}

/*
 * Appends "?skip=A,B" with those of @set that the snapshot has: the other host may have thousands,
 * and a URL is short. Nothing without any.
 */
static int skip_query(struct cli *cli, const char *id, const json_t *set, struct buf *ret)
{
	_cleanup_reply_ struct http_reply reply = {0};
	const char *separator = "?skip=";
	json_t *layer;
	size_t i;

	if (!json_object_size(set))
		return 0;
	if (request_named(cli, "GET", "/snapshots/", id, "", &reply))
		return -1;
	json_array_foreach (json_object_get(reply.body, "layers"), i, layer) {
		const char *layer_id = output_field(layer, "id", "");

		if (!json_object_get(set, layer_id) || ret->len > MAX_SKIP_TEXT)
			continue;
		/* one that is left out is sent once more, which is no mistake */
		if (!buf_printf(ret, "%s%s", separator, layer_id))
			separator = ",";
	}
	return 0;
}

/* ---- export -------------------------------------------------------------------------------------
 */

struct outgoing {
	const char *id;
	const char *skip, *skip_file;
	const char *output; /* NULL: standard output */
	bool raw;

	struct part_file file;
	int fd; /* borrowed from there, or 1 */
	struct raw_writer writer;
};

static int on_stream(void *userdata, const void *data, size_t len, struct problem *problem)
{
	struct outgoing *x = userdata;
	int r;

	if (x->raw)
		return raw_writer_write(&x->writer, data, len, problem);
	r = fd_write_full(x->fd, data, len);
	if (r < 0)
		problem_errno(problem, r, "cannot write %s", x->writer.name);
	return error_trace(r);
}

static int open_output(struct outgoing *x, struct problem *problem)
{
	int r = x->output ? part_file_open(x->output, &x->file, problem) : 0;

	if (r < 0)
		return error_trace(r);
	x->fd = x->output ? x->file.fd : STDOUT_FILENO;
	x->writer = (struct raw_writer){.fd = x->fd,
					.name = x->output ? x->output : "to standard output",
					.sparse = x->file.regular};
	return 0;
}

static int transfer_out(struct cli *cli, struct outgoing *x, const char *path,
			struct problem *problem)
{
	struct http_transfer t = {.socket = cli->socket,
				  .method = "GET",
				  .path = path,
				  .answer_type = x->raw ? "application/x-dormouse-extents"
							: "application/x-dormouse-snapshot",
				  .need_length = !x->raw, /* extents have an end of their own */
				  .write = on_stream,
				  .userdata = x};
	_cleanup_reply_ struct http_reply reply = {0};
	struct progress progress;
	int r;

	progress_start(&progress, cli, "exporting %s", x->id);
	t.progress = &progress;
	r = http_transfer(&t, &reply, problem);
	if (!r && x->raw)
		r = raw_writer_finish(&x->writer, problem);
	if (!r && x->output)
		r = part_file_commit(&x->file, problem);
	progress_end(&progress);
	return r;
}

static int export_snapshot(struct cli *cli, struct outgoing *x, json_t *set)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_buf_ struct buf after = {0};
	struct problem problem = PROBLEM_INIT;
	int r = collect_skip(x->skip, x->skip_file, set, &problem);

	(void)signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error with a message */
	if (!r)
		r = buf_printf(&after, "/export%s", x->raw ? "?format=raw" : "");
	if (!r && skip_query(cli, x->id, set, &after))
		return CLI_FAILED; /* it has said why */
	if (!r)
		path = http_path("/snapshots/", x->id, after.data);
	if (!r)
		r = path ? open_output(x, &problem) : -ENOMEM;
	if (!r)
		r = transfer_out(cli, x, path, &problem);
	part_file_deinit(&x->file);
	if (!r)
		return CLI_OK;
	problem_set(&problem, 500, "out of memory");
	output_problem(&problem);
	return CLI_FAILED;
}

static int run_snapshot_export(struct cli *cli, const struct command *command, int argc,
			       char **argv)
{
	struct outgoing x = {.file = PART_FILE_INIT};
	const struct option_spec specs[] = {
		{'o', "output", OPTION_TEXT, &x.output, "FILE", "write FILE, whole or not at all"},
		{0, "skip", OPTION_TEXT, &x.skip, "LAYER,...", "layers that the receiver has"},
		{0, "skip-file", OPTION_TEXT, &x.skip_file, "FILE",
		 "the same, from FILE (-: stdin)"},
		{0, "raw", OPTION_FLAG, &x.raw, NULL, "the memory alone, as a flat file"},
	};
	struct args args;
	json_t *set;
	int code, r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	x.id = args.pos[0];
	if (x.output && !strcmp(x.output, "-"))
		x.output = NULL;
	if (x.raw && (x.skip || x.skip_file))
		return options_usage(command, "--raw sends no layers that could be skipped");
	if (!x.output && cli->tty_out)
		return options_usage(command, "standard output is a terminal: give it a file with "
					      "-o, or a pipe");
	set = json_object();
	code = export_snapshot(cli, &x, set);
	json_decref(set);
	return code;
}

const struct command cmd_snapshot_export = {
	.name = "snapshot export",
	.usage = "[OPTIONS] ID",
	.summary = "Write a snapshot, with all it needs, as one stream",
	.details =
		"For `dorm snapshot import` on another host, or to keep. With --skip or "
		"--skip-file\n"
		"without layers that the other host has. --raw writes the memory alone, as a file\n"
		"in which byte n is byte n of the guest (what Firecracker loads); a FILE becomes\n"
		"sparse, a pipe gets zeros. The stream is not encrypted, unless the snapshot is\n"
		"sealed; raw memory never is.\n",
	.examples =
		"  dorm snapshot export s9f3... | ssh there dorm snapshot import\n"
		"  ssh there dorm snapshot layers |\n"
		"    dorm snapshot export --skip-file - s9f3... | ssh there dorm snapshot import\n"
		"  dorm snapshot export -o s9f3.dorm s9f3...\n"
		"  dorm snapshot export --raw -o memory s9f3...\n",
	.missing = MISSING_SNAPSHOT,
	.min_args = 1,
	.max_args = 1,
	.no_json = true,
	.run = run_snapshot_export,
};

/* ---- layers -------------------------------------------------------------------------------------
 */

static int run_snapshot_layers(struct cli *cli, const struct command *command, int argc,
			       char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	json_t *layer;
	size_t i;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_one(cli, "GET", "/layers", &reply))
		return CLI_FAILED;
	if (cli->json) {
		output_json(reply.body);
		return CLI_OK;
	}
	json_array_foreach (json_object_get(reply.body, "layers"), i, layer) {
		output_text(stdout, json_is_string(layer) ? json_string_value(layer) : "-");
		(void)putchar('\n');
	}
	return CLI_OK;
}

const struct command cmd_snapshot_layers = {
	.name = "snapshot layers",
	.usage = "[OPTIONS]",
	.summary = "List the layers that are here and need not be sent again",
	.details = "One id a line, for `dorm snapshot export --skip-file` on another host. Layers\n"
		   "that a broken import has left are among them.\n",
	.examples =
		"  dorm snapshot layers | ssh there dorm snapshot export --skip-file - s9f3... |\n"
		"    dorm snapshot import\n",
	.run = run_snapshot_layers,
};
