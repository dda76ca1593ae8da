/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/*
 * request.h - the two shapes that most commands have: one request, and one request per argument
 *
 * Problems are printed here.
 */
#include <stdbool.h>

#include "cli/cli.h"
#include "cli/http.h"

/** request_one() - one request without a body. Return: 0; -1 after printing why */
int request_one(struct cli *cli, const char *method, const char *path, struct http_reply *ret);

/** request_named() - the same for the path @before @name @after, @name percent-encoded */
int request_named(struct cli *cli, const char *method, const char *before, const char *name,
		  const char *after, struct http_reply *ret);

/* One request for each of several ids. */
struct request_each {
	const char *method;
	const char *before, *after; /* what surrounds the id in the path */
	const char *id_key;	    /* what the API calls such an id */
	const char *doing;	    /* for the progress line, before the id: "waking" */
	const char *doing_after;    /* and behind it: " to sleep"; NULL: nothing */
	/* print that it is done, on standard output; not called with --json */
	void (*done)(const char *id, const struct http_reply *reply, double ms);
	/* is this refusal as good as success? NULL: never. May print a note */
	bool (*forgive)(struct http *http, const char *id, const struct http_reply *reply);
	json_t *body;		/* borrowed; NULL: none */
	const char *trace_file; /* where the trace in the answer is to go; NULL: there is none */
};

/**
 * request_each() - make them all, one after the other, also when some fail
 * With --json prints an array: of each id the answer, {@id_key} when that is empty, or {@id_key,
 * "error": {"code", "message", "hint"?}}. Stops early only when dormd cannot be reached.
 * Return: the exit code
 */
int request_each(struct cli *cli, const struct request_each *each, char *const *ids, size_t n_ids);

/** request_print_id() - a `done` that prints the id */
void request_print_id(const char *id, const struct http_reply *reply, double ms);

/** request_error() - {@id_key: @id, "error": {"code", "message", "hint"?}}; NULL: out of memory */
json_t *request_error(const char *id_key, const char *id, const struct problem *p);
