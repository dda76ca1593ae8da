/* SPDX-License-Identifier: Apache-2.0 */
#include "pager/query.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "pager/client.h"

#define PATIENCE_MS 10000

/* Text as it is, objects for people to read. Return: 0; -EOPNOTSUPP no such question */
static int ask(struct pager_client *c, const char *what)
{
	uint64_t deadline_ns = deadline_after_ms(PATIENCE_MS);
	_cleanup_free_ char *text = NULL;
	json_auto_t *object = NULL;
	int r;

	if (!strcmp(what, "metrics"))
		r = pager_client_metrics(c, deadline_ns, &text);
	else if (!strcmp(what, "stats"))
		r = pager_client_stats(c, deadline_ns, &object);
	else
		r = pager_client_config(c, NULL, deadline_ns, NULL, &object);
	if (r)
		return r;
	if (text)
		fputs(text, stdout);
	else if (json_dumpf(object, stdout, JSON_INDENT(2)) == 0)
		putchar('\n');
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -EIO;
}

int query_run(const char *socket, const char *what)
{
	_cleanup_(pager_client_freep) struct pager_client *c = NULL;
	int r;

	if (strcmp(what, "metrics") != 0 && strcmp(what, "stats") != 0 &&
	    strcmp(what, "config") != 0) {
		fputs("dorm-pager: --query SOCKET metrics, stats or config\n", stderr);
		return 2;
	}
	r = pager_client_new(socket, &c);
	if (r == 0)
		r = ask(c, what);
	if (r == 0)
		return 0;
	fprintf(stderr, "dorm-pager: the pager at %s does not answer: %s\n", socket,
		r < 0 ? strerrordesc_np(-r) : "it makes no sense");
	return 1;
}
