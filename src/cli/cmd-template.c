/* SPDX-License-Identifier: Apache-2.0 */
/* dorm template build, ls, rm */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/http.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/request.h"
#include "cli/table.h"
#include "cli/template-recipe.h"

#define POLL_MS	       200
#define BUILD_MS       (60ull * 60 * 1000)
#define DEFAULT_BASE   "debian"
#define DEFAULT_NAME   "base"
#define DEFAULT_MEMORY 512

struct build {
	struct cli *cli;
	struct http *http;
	struct progress progress;
	const char *name;
	char template_id[128], build_id[128];
	uint64_t n_log; /* lines seen so far */
};

/* ---- build
 * --------------------------------------------------------------------------------------- */

static int ask_template(struct build *b, uint64_t memory_mb, uint64_t cpus, uint64_t disk_mb,
			struct problem *problem)
{
	_cleanup_reply_ struct http_reply reply = {0};
	json_t *body = json_pack("{s:s, s:I, s:I}", "name", b->name, "memoryMB",
				 (json_int_t)memory_mb, "cpuCount", (json_int_t)cpus);
	int r;

	if (body && disk_mb)
		(void)json_object_set_new(body, "diskSizeMB", json_integer((json_int_t)disk_mb));
	if (!body) {
		problem_set(problem, 400, "'%s' is not a name: not valid UTF-8", b->name);
		return -EILSEQ;
	}
	r = http_call(b->http, "POST", "/v3/templates", body, &reply, problem);
	json_decref(body);
	if (r)
		return r;
	str_copy(b->template_id, sizeof(b->template_id),
		 output_field(reply.body, "templateID", ""));
	str_copy(b->build_id, sizeof(b->build_id), output_field(reply.body, "buildID", ""));
	if (*b->template_id && *b->build_id)
		return 0;
	problem_set(problem, 500, "dormd did not say the ids of the template and the build");
	return -EBADMSG;
}

/* "/v2/templates/ID/builds/ID" and what follows; NULL without memory */
static char *build_path(const struct build *b, const char *version, const char *after)
{
	_cleanup_free_ char *before = str_printf("%s/templates/", version);
	_cleanup_free_ char *base = before ? http_path(before, b->template_id, "/builds/") : NULL;

	return base ? http_path(base, b->build_id, after) : NULL;
}

/* What E2B's clients say too; new reference, NULL when a text is not UTF-8 */
static json_t *plain_body(const struct template_sources *s)
{
	json_t *body = json_object();

	if ((s->start_cmd &&
	     json_object_set_new(body, "startCmd", json_string(s->start_cmd)) < 0) ||
	    (s->ready_cmd &&
	     json_object_set_new(body, "readyCmd", json_string(s->ready_cmd)) < 0)) {
		json_decref(body);
		return NULL;
	}
	return body;
}

static int make_body(const struct template_sources *s, bool no_working_set,
		     struct problem *problem, json_t **ret)
{
	_cleanup_free_ char *context = NULL;
	json_t *recipe = NULL, *body;
	int r = 0;

	if (template_sources_any(s)) {
		r = template_recipe_make(s, problem, &recipe, &context);
		if (r < 0)
			return r;
		body = json_pack("{s:o, s:s*}", "recipe", recipe, "contextDir", context);
	} else {
		body = plain_body(s);
	}
	if (no_working_set)
		r = json_object_set_new(body, "workingSet", json_false());
	if (body && r == 0) {
		*ret = body;
		return 0;
	}
	json_decref(body);
	problem_set(problem, 400, "the commands or paths are not valid UTF-8");
	return -EILSEQ;
}

static int start_build(struct build *b, json_t *body, struct problem *problem)
{
	_cleanup_free_ char *path = build_path(b, "/v2", "");
	_cleanup_reply_ struct http_reply reply = {0};

	if (!path)
		return -ENOMEM;
	return http_call(b->http, "POST", path, body, &reply, problem);
}

static void show_log(struct build *b, const char *line)
{
	size_t n = strlen(line);

	progress_end(&b->progress);
	(void)fprintf(stderr, "%6.1f s  ", progress_elapsed_ms(&b->progress) / 1e3);
	output_text(stderr, line);
	if (!n || line[n - 1] != '\n')
		(void)fputc('\n', stderr);
}

/* The same lines come as entries and, for older clients, as plain text. */
static void show_new_logs(struct build *b, const json_t *status)
{
	json_t *entries = json_object_get(status, "logEntries"),
	       *logs = json_object_get(status, "logs"), *v;
	size_t i;

	if (!json_array_size(entries))
		entries = logs;
	json_array_foreach (entries, i, v) {
		const char *line =
			json_is_string(v) ? json_string_value(v) : output_field(v, "message", "");

		show_log(b, line);
		b->n_log++;
	}
}

static void build_failed(const json_t *status, const char *name, struct problem *problem)
{
	const json_t *reason = json_object_get(status, "reason");
	const char *step = output_field(reason, "step", NULL),
		   *hint = output_field(reason, "hint", NULL);

	problem_set(problem, 500, "template %s could not be built%s%s: %s", name,
		    step ? " at step " : "", step ? step : "",
		    output_field(reason, "message", "no reason was given"));
	if (hint)
		problem_hint(problem, "%s", hint);
}

/* Return: 0 built; 1 goes on; HTTP_E_STATUS and negative errno are told apart by the problem */
static int poll_build(struct build *b, struct http_reply *reply, struct problem *problem)
{
	char query[64];
	_cleanup_free_ char *path = NULL;
	const char *status;

	(void)snprintf(query, sizeof(query), "/status?logsOffset=%" PRIu64, b->n_log); /* fits */
	path = build_path(b, "", query);
	http_reply_deinit(reply);
	if (!path) {
		problem_set(problem, 500, "out of memory");
		return -ENOMEM;
	}
	if (http_call(b->http, "GET", path, NULL, reply, problem))
		return -EIO;
	show_new_logs(b, reply->body);
	status = output_field(reply->body, "status", "");
	if (!strcmp(status, "ready"))
		return 0;
	if (strcmp(status, "error") != 0)
		return 1;
	build_failed(reply->body, b->name, problem);
	return -EIO;
}

static int watch_build(struct build *b, struct http_reply *reply, struct problem *problem)
{
	uint64_t deadline_ns = deadline_after_ms(BUILD_MS);
	int r;

	while ((r = poll_build(b, reply, problem)) == 1) {
		if (deadline_passed(deadline_ns)) {
			problem_set(problem, 504, "template %s is still not built after an hour",
				    b->name);
			return -ETIMEDOUT;
		}
		progress_tick(&b->progress);
		clock_sleep_ms(POLL_MS);
	}
	return r;
}

/* At most one source; one way to be ready. Return: 0; CLI_USAGE, said why */
static int check_sources(const struct command *command, const struct template_sources *s)
{
	int n = !!s->base + !!s->dir + !!s->tar + !!s->oci + !!s->image;

	if (n > 1)
		return options_usage(command, "only one of --base and --from-... can be given");
	if (s->ready_cmd && s->ready_port)
		return options_usage(command, "only one of --ready-cmd and --ready-port can be "
					      "given");
	return 0;
}

static int run_template_build(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct template_sources s = {.file = NULL};
	bool no_working_set = false;
	const struct option_spec specs[] = {
		{'f', "file", OPTION_TEXT, &s.file, "RECIPE",
		 "make it as this recipe says: a JSON file"},
		{0, "base", OPTION_TEXT, &s.base, "NAME",
		 "root file system: debian (default), or busybox, which is small and has no more"},
		{0, "from-dir", OPTION_TEXT, &s.dir, "DIR", "root file system: what is in DIR"},
		{0, "from-tar", OPTION_TEXT, &s.tar, "FILE", "root file system: a tar archive"},
		{0, "from-oci", OPTION_TEXT, &s.oci, "LAYOUT[:TAG]",
		 "root file system and defaults: an image in an OCI layout directory"},
		{0, "from-image", OPTION_TEXT, &s.image, "REFERENCE",
		 "root file system and defaults: an image of a registry"},
		{'m', "memory", OPTION_MIB, &s.memory_mb, "SIZE",
		 "memory of its sandboxes (default: 512M)", 1, 0},
		{'c', "cpus", OPTION_NUMBER, &s.cpus, "N",
		 "processors of its sandboxes (default: 1)", 1, 255},
		{'d', "disk", OPTION_MIB, &s.disk_mb, "SIZE",
		 "a disk that its sandboxes write to (default: 4G; with the base busybox none)", 64,
		 1 << 20},
		{0, "start-cmd", OPTION_TEXT, &s.start_cmd, "COMMAND",
		 "started before the snapshot; every sandbox wakes with it running"},
		{0, "ready-cmd", OPTION_TEXT, &s.ready_cmd, "COMMAND",
		 "repeated until it succeeds; then the snapshot is taken"},
		{0, "ready-port", OPTION_NUMBER, &s.ready_port, "PORT",
		 "the snapshot is taken when something listens there", 1, 65535},
		{0, "no-working-set", OPTION_FLAG, &no_working_set, NULL,
		 "do not restore it once to learn what that needs"},
	};
	json_auto_t *body = NULL;
	_cleanup_(http_freep) struct http *http = NULL;
	_cleanup_reply_ struct http_reply reply = {0};
	struct problem problem = PROBLEM_INIT;
	struct build b = {.cli = cli, .name = DEFAULT_NAME};
	char text[32];
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);

	if (r)
		return options_exit(r);
	r = check_sources(command, &s);
	if (r)
		return r;
	if (!s.base && !s.file && !s.dir && !s.tar && !s.oci && !s.image)
		s.base = DEFAULT_BASE;
	if (args.n_pos)
		b.name = args.pos[0];
	progress_start(&b.progress, cli, "building %s", b.name);
	r = make_body(&s, no_working_set, &problem, &body);
	r = r ? r : http_new(cli->socket, &problem, &http);
	b.http = http;
	r = r ? r
	      : ask_template(&b, s.memory_mb ? s.memory_mb : DEFAULT_MEMORY, s.cpus ? s.cpus : 1,
			     s.disk_mb, &problem);
	r = r ? r : start_build(&b, body, &problem);
	r = r ? r : watch_build(&b, &reply, &problem);
	progress_end(&b.progress);
	if (cli->json && reply.body)
		output_json(reply.body);
	if (r) {
		output_problem(&problem);
		return CLI_FAILED;
	}
	if (!cli->json)
		(void)printf("%s is ready after %s (template %s)\n", b.name,
			     output_duration(progress_elapsed_ms(&b.progress), text),
			     b.template_id);
	return CLI_OK;
}

const struct command cmd_template_build = {
	.name = "template build",
	.usage = "[OPTIONS] [NAME]",
	.summary = "Boot a guest once and keep it, asleep, as a template",
	.details =
		"NAME is base by default; building a name again replaces it. What happens is "
		"shown on\n"
		"standard error. Ctrl-C stops watching, not the build. At its end the template is\n"
		"restored once, to record its working set: what is loaded first from then on.\n"
		"A recipe names base, packages, files, commands, environment, start command and "
		"more:\n"
		"docs/templates.md. Options count before what it says. dormd reads the files, as "
		"root.\n",
	.examples = "  dorm template build --base debian\n"
		    "  dorm template build -f app/recipe.json app\n"
		    "  dorm template build --from-image python:3.12-slim --memory 1G py\n"
		    "  dorm template build --memory 1G --cpus 2 --disk 4G big\n"
		    "  dorm template build --start-cmd 'python3 -m http.server' "
		    "--ready-cmd 'nc -z 127.0.0.1 8000' web\n",
	.max_args = 1,
	.run = run_template_build,
};

/* ---- ls, rm
 * -------------------------------------------------------------------------------------- */

static const char *template_name(const json_t *template)
{
	const char *name = output_field_first(template, "names", NULL);

	return name ? name : output_field_first(template, "aliases", "-");
}

static int print_templates(struct cli *cli, const json_t *templates)
{
	static const struct table_column columns[] = {
		{"NAME", TABLE_CUT},	 {"ID", 0},
		{"MEMORY", TABLE_RIGHT}, {"CPUS", TABLE_RIGHT},
		{"STORED", TABLE_RIGHT}, {"WORKING SET", TABLE_RIGHT},
		{"AGE", TABLE_RIGHT},	 {"SNAPSHOT", TABLE_CUT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	char stored[16], age[32];
	json_t *v;
	size_t i;

	json_array_foreach (templates, i, v) {
		uint64_t working_set = output_field_number(v, "workingSetBytes");

		table_row(t);
		table_cell(t, "%s", template_name(v));
		table_cell(t, "%s", output_field(v, "templateID", "-"));
		table_cell(t, "%" PRIu64 " MiB", output_field_number(v, "memoryMB"));
		table_cell(t, "%" PRIu64, output_field_number(v, "cpuCount"));
		table_cell(t, "%s",
			   str_format_bytes(output_field_number(v, "storedBytes"), stored));
		table_cell(t, "%s", working_set ? str_format_bytes(working_set, stored) : "-");
		table_cell(t, "%s", output_age(v, "createdAt", age));
		table_cell(t, "%s", output_field(v, "snapshotID", "-"));
	}
	return table_print(t);
}

static int run_template_ls(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_one(cli, "GET", "/templates", &reply))
		return CLI_FAILED;
	if (cli->json)
		output_json(reply.body);
	else if (!json_array_size(reply.body))
		(void)fputs("no templates yet: make one with `dorm template build`\n", stderr);
	else
		return print_templates(cli, reply.body);
	return CLI_OK;
}

const struct command cmd_template_ls = {
	.name = "template ls",
	.usage = "[OPTIONS]",
	.summary = "List templates",
	.examples = "  dorm template ls\n  dorm template ls --json | jq -r '.[].names[0]'\n",
	.run = run_template_ls,
};

static const struct request_each remove_template = {
	.method = "DELETE",
	.before = "/templates/",
	.after = "",
	.id_key = "templateID",
	.doing = "deleting",
	.done = request_print_id,
};

static int run_template_rm(struct cli *cli, const struct command *command, int argc, char **argv)
{
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	return r ? options_exit(r) : request_each(cli, &remove_template, args.pos, args.n_pos);
}

const struct command cmd_template_rm = {
	.name = "template rm",
	.usage = "[OPTIONS] NAME|ID...",
	.summary = "Delete templates",
	.details = "Sandboxes and snapshots that came from a template go on without it.\n",
	.examples = "  dorm template rm base\n",
	.missing = "a template (see `dorm template ls`)",
	.min_args = 1,
	.max_args = SIZE_MAX,
	.run = run_template_rm,
};
