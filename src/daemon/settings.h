/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * settings.h - what dormd can be told: one table for all the places where it can be told
 *
 * A row of settings_table[] is one setting. From it come the option of that name, the variable of
 * the environment, the line of the configuration file, --help, the commented example file, the
 * lists in the manual pages and the completion of shells. To add a setting is to add a row.
 *
 *     settings_init()   the defaults
 *     settings_load()   what the file says, then the environment, then the command line: the later
 *                       counts more. A list that is given again replaces what came before.
 *     settings_free()   texts that the configuration points to go
 *
 * Used before there is any thread.
 */
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "api/listeners.h"
#include "sandbox/host.h"

#define SETTINGS_DEFAULT_FILE "/etc/dormouse/dormd.conf"
#define SETTINGS_MAX_FILE     (1u << 20)
#define SETTINGS_MAX_LIST     KEYRING_MAX_KEYS

/* An exit status: the command line or the file is wrong, nothing was started. */
#define SETTINGS_E_USAGE 2

enum setting_kind {
	SETTING_TEXT,	 /* const char *: a path, an address, where a key is */
	SETTING_FLAG,	 /* bool */
	SETTING_NUMBER,	 /* unsigned or int, min to max */
	SETTING_SECONDS, /* unsigned, min to max; kept in milliseconds */
	SETTING_BYTES,	 /* uint64_t, at least min */
	SETTING_CHOICE,	 /* one of choices; take() */
	SETTING_OWN,	 /* take(), whose refusal is "not " + allowed */
	SETTING_LIST,	 /* struct settings_list: may be given several times */
};

struct settings_list {
	const char *item[SETTINGS_MAX_LIST];
	unsigned n;
};

/* Who set a value last. */
enum setting_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_OPTION };

struct setting_value {
	char *text[SETTINGS_MAX_LIST]; /* as it was given; one, but for a list */
	unsigned n;
	enum setting_origin origin;
	unsigned line; /* of the file */
};

struct settings {
	struct host_config config;
	struct listeners_config listeners;
	struct settings_list listen;	/* becomes listeners.tcp */
	struct settings_list seal_keys; /* their sources */

	/* of this run alone; not in the file */
	const char *file;
	const char *describe;
	bool check_config, print_config, doctor, version, help;

	char libexec[PATH_MAX];	      /* found beside the program */
	struct setting_value *values; /* one for each row */
};

struct setting {
	const char *head; /* begins a group with this title */
	const char *name;
	const char *arg; /* what the value is called; NULL for a flag */
	enum setting_kind kind;
	size_t offset;		    /* in struct settings */
	const char *def;	    /* the default, as one would write it; NULL without */
	const char *example;	    /* for the commented file, where there is no default */
	const char *zero;	    /* the word that stands for 0, which may be written, too */
	uint64_t min, max;	    /* of a list: how many, at most SETTINGS_MAX_LIST */
	const char *const *choices; /* NULL at the end */
	const char *env;	    /* a variable that says the same; NULL: none */
	const char *env_on;	    /* of a flag: the variable sets it by this text */
	/* Return: 0; -EINVAL: not what it must be */
	int (*take)(struct settings *s, const char *value);
	const char *allowed;
	bool this_run; /* on the command line alone */
	const char *help;
};

extern const struct setting settings_table[];
extern const size_t settings_count;

/** settings_init() - the defaults; @s: to be released with settings_free(). Return: 0; -ENOMEM */
int settings_init(struct settings *s);
void settings_free(struct settings *s);

/**
 * settings_load() - file, environment, command line
 * Complains to standard error, with the file and line, the variable or the option that is wrong,
 * and what would be right.
 * Return: 0; SETTINGS_E_USAGE; -ENOMEM
 */
int settings_load(struct settings *s, int argc, char **argv);

/* ---- the parts, for settings_load() and its tests ----------------------------------------------
 */

/** settings_find() - the row of that name; NULL: there is none */
const struct setting *settings_find(const char *name);

/** settings_allowed() - what its value may be: "a number from 1 to 19"; @buf holds 256 bytes */
const char *settings_allowed(const struct setting *o, char buf[256]);

/**
 * settings_take() - one value from one place
 * @where: for complaints: "--codec", "/etc/dormouse/dormd.conf:12: codec"
 * Return: 0; SETTINGS_E_USAGE, the complaint printed; -ENOMEM
 */
int settings_take(struct settings *s, const struct setting *o, const char *value,
		  enum setting_origin origin, unsigned line, const char *where);

/** settings_read_file() - @must_exist: it was asked for. Return: as settings_load() */
int settings_read_file(struct settings *s, const char *path, bool must_exist);

/* ---- settings-print.c --------------------------------------------------------------------------
 */

void settings_print_help(FILE *f);

/** settings_print_values() - every value and where it is from; is itself a configuration file */
void settings_print_values(const struct settings *s, FILE *f);

/** settings_describe() - the table as "conf", "man", "man-conf", "markdown" or "words" */
void settings_describe(const char *format, FILE *f);
