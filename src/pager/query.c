/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/query.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "pager/client.h"

#define PATIENCE_MS 10000

static void print(const char *what, json_t *reply)
{
	const char *text = json_string_value(json_object_get(reply, "text"));
	json_t *stats = json_object_get(reply, "stats");

	(void)json_object_del(reply, "ok");
	if (!strcmp(what, "metrics") && text)
		fputs(text, stdout);
	else if (json_dumpf(stats ? stats : reply, stdout, JSON_INDENT(2)) == 0)
		putchar('\n');
}

int query_run(const char *socket, const char *what)
{
	_cleanup_(pager_client_freep) struct pager_client *c = NULL;
	struct problem problem = PROBLEM_INIT;
	json_auto_t *reply = NULL;
	int r;

	if (strcmp(what, "metrics") && strcmp(what, "stats") && strcmp(what, "config")) {
		fputs("dorm-pager: --query SOCKET metrics, stats or config\n", stderr);
		return 2;
	}
	r = pager_client_new(socket, &c);
	if (r == 0)
		r = pager_client_ask(c, what, deadline_after_ms(PATIENCE_MS), &problem, &reply);
	if (r) {
		problem_errno(&problem, r, "no answer from a pager at %s", socket);
		fprintf(stderr, "dorm-pager: %s\n", problem.message);
		return 1;
	}
	print(what, reply);
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
