/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * cli.h - what every command of `dorm` shares: its context, its description, its exit codes
 *
 * main() makes one `struct cli`, finds the command in its table and calls run(), whose result is
 * the exit code. A command parses its own options (options.h), talks to dormd (http.h) and prints
 * (output.h, table.h, describe.h). One thread.
 */
#include <stdbool.h>
#include <stddef.h>

/* Exit codes; documented in `dorm --help` and dorm(1). */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1, /* dormd refused, cannot be reached, or something it was asked for failed */
	CLI_USAGE = 2,	/* the command line is wrong; nothing was done */
	CLI_TIMEOUT = 124, /* exec, run: the command's time limit passed */
	CLI_OWN = 125, /* exec, run: the command's fate is unknown, or it could not be asked for */
	CLI_CANNOT_RUN = 126, /* exec, run: found, but cannot be executed */
	CLI_NOT_FOUND = 127,  /* exec, run: no such program in the sandbox */
	CLI_SIGNAL = 128,     /* exec, run: plus the number of the signal that ended the command */
	CLI_ODD_END = 255,    /* exec, run: ended in a way that has no number */
};

struct command;
struct completion;
struct option_spec;

struct cli {
	const char *argv0;
	const char *socket; /* path of dormd's socket, or http://HOST:PORT, https://HOST:PORT */
	bool json;	    /* print the API's JSON */
	bool tty_out;	    /* standard output is a terminal */
	bool tty_err;	    /* standard error is a terminal that can redraw a line */
	bool colour;	    /* standard output may have colours */
	/* options_parse() is to show the options to it, and to parse nothing; NULL */
	void (*look_at_options)(struct completion *c, const struct command *command,
				const struct option_spec *specs, size_t n_specs);
	struct completion *completion; /* for that; cli/complete.c */
};

struct command {
	const char *name;     /* "ps", "template build" */
	const char *usage;    /* what follows the name: "[OPTIONS] ID..." */
	const char *summary;  /* one line for the list of commands */
	const char *details;  /* paragraphs for --help; NULL without */
	const char *examples; /* lines for --help, each indented by two spaces */
	const char *missing;  /* what a missing argument is called: "a sandbox id" */
	size_t min_args;      /* positional arguments before any -- */
	size_t max_args;      /* SIZE_MAX: any number */
	bool takes_command;   /* what follows -- is a command with arguments */
	bool needs_command;   /* ... and there must be one; then -- may be left out */
	bool no_json;	      /* --json makes no sense here */
	int (*run)(struct cli *cli, const struct command *command, int argc, char **argv);
};

extern const struct command cmd_template_build, cmd_template_ls, cmd_template_rm, cmd_template_warm;
extern const struct command cmd_run, cmd_exec, cmd_cp, cmd_attach, cmd_kill;
extern const struct command cmd_ports, cmd_port_forward, cmd_network;
extern const struct command cmd_ps, cmd_sleep, cmd_wake, cmd_fork, cmd_rm, cmd_inspect, cmd_memory;
extern const struct command cmd_metrics, cmd_events, cmd_top, cmd_logs;
extern const struct command cmd_snapshot_create, cmd_snapshot_ls, cmd_snapshot_rm,
	cmd_snapshot_inspect, cmd_snapshot_verify, cmd_snapshot_tree, cmd_snapshot_compact,
	cmd_snapshot_export, cmd_snapshot_import, cmd_snapshot_layers;
extern const struct command cmd_store_df, cmd_store_check, cmd_store_repair, cmd_store_rewrap;
extern const struct command cmd_info, cmd_drain, cmd_undrain;
extern const struct command cmd_key_create, cmd_key_ls, cmd_key_rotate, cmd_key_revoke;
extern const struct command cmd_pager, cmd_pager_upgrade, cmd_doctor, cmd_version;
