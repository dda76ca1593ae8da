/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dorm snapshot import
 *
 * dormd keeps the layers that arrived whole, so a transfer that broke off is not lost. How many it
 * kept is the difference between what GET /layers says before and after. Asking before has another
 * use: a dormd that cannot be reached is noticed before the sender starts.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/http-transfer.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/raw-file.h"

struct incoming {
	const char *name, *parent;
	bool raw, diff;

	const char *file; /* for messages */
	int fd;
	int64_t len;  /* of the stream; -1: unknown */
	int64_t left; /* of that */
	struct raw_reader *reader;
};

/* ---- what is sent -------------------------------------------------------------------------------
 */

static ssize_t on_pull(void *userdata, void *buf, size_t len, struct problem *problem)
{
	struct incoming *m = userdata;
	ssize_t n;

	if (m->raw)
		return raw_reader_read(m->reader, buf, len, problem);
	/* never more than what was announced: the file may be growing */
	if (m->len >= 0)
		len = MIN(len, (size_t)m->left);
	do
		n = read(m->fd, buf, len);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		problem_errno(problem, -errno, "cannot read %s", m->file);
		return error_errno();
	}
	if (n == 0 && m->left) {
		problem_set(problem, 409, "%s became shorter while it was read", m->file);
		return error_trace(-ENODATA);
	}
	m->left -= m->len >= 0 ? n : 0;
	return n;
}

static int open_input(struct incoming *m, const char *file, struct problem *problem)
{
	struct stat st;
	off_t at;

	m->file = file ? file : "standard input";
	m->fd = file ? open(file, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	if (m->fd < 0 || fstat(m->fd, &st) < 0) {
		problem_errno(problem, -errno, "cannot read %s", m->file);
		return error_errno();
	}
	if (m->raw)
		return raw_reader_new(m->fd, m->file, m->diff, problem, &m->reader);
	if (S_ISDIR(st.st_mode)) {
		problem_set(problem, 400, "%s is a directory", m->file);
		return error_trace(-EISDIR);
	}
	at = S_ISREG(st.st_mode) ? lseek(m->fd, 0, SEEK_CUR) : -1;
	/* a file without a size may have content all the same: those of /proc do */
	if (at >= 0 && st.st_size > at)
		m->len = m->left = st.st_size - at;
	return 0;
}

/* Appends "&KEY=VALUE", or with '?' when it is the first. */
static int add_query(struct buf *path, const char *key, const char *value)
{
	const char *separator = path->data && strchr(path->data, '?') ? "&" : "?";
	_cleanup_free_ char *pair = value ? http_path("=", value, "") : NULL;

	if (!value)
		return 0;
	return pair ? buf_printf(path, "%s%s%s", separator, key, pair) : -ENOMEM;
}

static int import_path(const struct incoming *m, struct buf *ret)
{
	/* Then dormd need not write a memory twice. Of a diff it knows the size: its parent's. */
	const uint64_t bytes = m->raw && !m->parent ? raw_reader_bytes(m->reader) : 0;
	char number[24];
	int r = buf_printf(ret, "/snapshots/import");

	(void)snprintf(number, sizeof(number), "%" PRIu64, bytes); /* always fits */

	if (!r)
		r = add_query(ret, "format", m->raw ? "raw" : NULL);
	if (!r)
		r = add_query(ret, "bytes", bytes ? number : NULL);
	if (!r)
		r = add_query(ret, "parent", m->parent);
	return r ? r : add_query(ret, "name", m->name);
}

static int transfer_in(struct cli *cli, struct incoming *m, struct http_reply *ret,
		       struct problem *problem)
{
	struct http_transfer t = {.socket = cli->socket,
				  .method = "POST",
				  .body_type = m->raw ? "application/x-dormouse-extents"
						      : "application/x-dormouse-snapshot",
				  .body_len = m->len,
				  .body_fd = m->fd,
				  .read = on_pull,
				  .userdata = m};
	_cleanup_buf_ struct buf path = {0};
	struct progress progress;
	int r = import_path(m, &path);

	if (r < 0)
		return error_trace(r);
	progress_start(&progress, cli, "importing %s", m->file);
	t.path = path.data;
	t.progress = &progress;
	r = http_transfer(&t, ret, problem);
	progress_end(&progress);
	return r;
}

/* ---- what is said -------------------------------------------------------------------------------
 */

static void print_imported(const struct incoming *m, const json_t *reply)
{
	char bytes[16];

	(void)printf("%s\n", output_field(reply, "snapshotID", "-"));
	(void)fflush(stdout); /* keep the order; checked by output_finish() */
	if (m->raw)
		(void)fprintf(stderr, "%" PRIu64 " pages stored, %s\n",
			      output_field_number(reply, "pagesStored"),
			      str_format_bytes(output_field_number(reply, "bytesStored"), bytes));
	else
		(void)fprintf(stderr,
			      "%" PRIu64 " layers received, %s; %" PRIu64 " were here already\n",
			      output_field_number(reply, "layersReceived"),
			      str_format_bytes(output_field_number(reply, "bytesReceived"), bytes),
			      output_field_number(reply, "layersPresent"));
	if (m->diff && raw_reader_is_dense(m->reader))
		(void)fprintf(stderr,
			      "note: %s has no holes: every page of it replaces the parent's\n",
			      m->file);
}

/* Return: how many layers dormd has; 0 when it does not say */
static size_t count_layers(struct http *http)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem ignored = PROBLEM_INIT;

	if (http_call(http, "GET", "/layers", NULL, &reply, &ignored))
		return 0;
	return json_array_size(json_object_get(reply.body, "layers"));
}

static void print_kept(struct http *http, size_t before)
{
	size_t after = count_layers(http);

	if (after <= before)
		return;
	(void)fprintf(stderr,
		      "%zu %s arrived whole and %s kept for a week. To go on, leave out what is "
		      "here:\n"
		      "  dorm snapshot layers | ssh THERE dorm snapshot export --skip-file - ID |\n"
		      "    dorm snapshot import\n",
		      after - before, after - before == 1 ? "layer" : "layers",
		      after - before == 1 ? "is" : "are");
}

/* ---- the command --------------------------------------------------------------------------------
 */

static int import_snapshot(struct cli *cli, struct incoming *m, const char *file)
{
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_reply_ struct http_reply reply = {0}, layers = {0};
	struct problem problem = PROBLEM_INIT;
	int r = open_input(m, file, &problem);

	if (!r)
		r = http_new(cli->socket, &problem, &http);
	if (!r && !m->raw)
		r = http_call(http, "GET", "/layers", NULL, &layers, &problem);
	if (!r)
		r = transfer_in(cli, m, &reply, &problem);
	if (r) {
		problem_set(&problem, 500, "out of memory");
		output_problem(&problem);
		if (layers.body)
			print_kept(http, json_array_size(json_object_get(layers.body, "layers")));
		return CLI_FAILED;
	}
	if (cli->json)
		output_json(reply.body);
	else
		print_imported(m, reply.body);
	return CLI_OK;
}

static int check_options(const struct command *command, const struct incoming *m)
{
	if (m->diff && !m->raw)
		return options_usage(command, "--diff goes with --raw");
	if (m->diff && !m->parent)
		return options_usage(command, "--diff needs --parent: what it differs from");
	if (m->parent && !m->diff)
		return options_usage(command, "--parent goes with --raw --diff");
	return 0;
}

static int run_snapshot_import(struct cli *cli, const struct command *command, int argc,
			       char **argv)
{
	struct incoming m = {.fd = -1, .len = -1};
	const struct option_spec specs[] = {
		{'n', "name", OPTION_TEXT, &m.name, "NAME", "a name to create sandboxes by"},
		{0, "raw", OPTION_FLAG, &m.raw, NULL, "FILE is a guest's memory, byte for byte"},
		{0, "diff", OPTION_FLAG, &m.diff, NULL, "a hole in it means: as in the parent"},
		{0, "parent", OPTION_TEXT, &m.parent, "ID", "the snapshot that a diff applies to"},
	};
	struct args args;
	int code, r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);
	const char *file;

	if (r)
		return options_exit(r);
	file = args.n_pos && strcmp(args.pos[0], "-") != 0 ? args.pos[0] : NULL;
	r = check_options(command, &m);
	if (!r && !file && isatty(STDIN_FILENO))
		r = options_usage(command, "standard input is a terminal: name a FILE, or pipe a "
					   "stream into it");
	if (r)
		return r;
	code = import_snapshot(cli, &m, file);
	raw_reader_free(m.reader);
	if (file)
		fd_close(m.fd);
	return code;
}

const struct command cmd_snapshot_import = {
	.name = "snapshot import",
	.usage = "[OPTIONS] [FILE]",
	.summary = "Take in a snapshot that another host has exported",
	.details = "Reads FILE or standard input, checks everything while it arrives and prints "
		   "the id.\n"
		   "Layers that arrived whole are kept when the stream breaks off; the message "
		   "says how\n"
		   "to go on. --raw takes the plain file of a guest's memory (what Firecracker "
		   "writes):\n"
		   "whole, or with --diff --parent ID only what is not a hole. That gives a "
		   "snapshot of\n"
		   "memory alone.\n",
	.examples = "  ssh there dorm snapshot export s9f3... | dorm snapshot import\n"
		    "  dorm snapshot import -n golden s9f3.dorm\n"
		    "  dorm snapshot import --raw -n loaded memory\n"
		    "  dorm snapshot import --raw --diff --parent s9f3... -n later memory.diff\n",
	.max_args = 1,
	.run = run_snapshot_import,
};
