/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* The first that matches counts: a word goes before {}. */
static const struct route routes[] = {
	{"POST", "/v2/sandboxes", control_sandbox_create},
	{"POST", "/sandboxes", control_sandbox_create_1},
	{"GET", "/v2/sandboxes", control_sandbox_list},
	{"GET", "/sandboxes", control_sandbox_list_1},
	{"GET", "/sandboxes/metrics", control_sandboxes_metrics},
	{"GET", "/sandboxes/{}", control_sandbox_get},
	{"DELETE", "/sandboxes/{}", control_sandbox_delete},
	{"POST", "/sandboxes/{}/pause", control_sandbox_pause},
	{"POST", "/v2/sandboxes/{}/connect", control_sandbox_connect},
	{"POST", "/sandboxes/{}/connect", control_sandbox_connect},
	{"POST", "/sandboxes/{}/resume", control_sandbox_connect},
	{"POST", "/sandboxes/{}/timeout", control_sandbox_timeout},
	{"POST", "/sandboxes/{}/refreshes", control_sandbox_refresh},
	{"POST", "/sandboxes/{}/fork", control_sandbox_fork},
	{"POST", "/sandboxes/{}/snapshots", control_sandbox_snapshot},
	{"GET", "/sandboxes/{}/memory", control_sandbox_memory},
	{"GET", "/sandboxes/{}/ports", control_port_list},
	{"GET", "/sandboxes/{}/ports/{}", control_port_raw, .raw = true},
	{"PUT", "/sandboxes/{}/network", control_sandbox_network},
	{"GET", "/sandboxes/{}/network", control_sandbox_network_get},
	{"GET", "/sandboxes/{}/metrics", control_sandbox_metrics},
	{"GET", "/snapshots", control_snapshot_list},
	{"GET", "/snapshots/tree", control_snapshot_tree},
	{"POST", "/snapshots/import", .upload = control_snapshot_import},
	{"GET", "/snapshots/{}", control_snapshot_get},
	{"POST", "/snapshots/{}/verify", control_snapshot_verify},
	{"POST", "/snapshots/{}/compact", control_snapshot_compact},
	{"GET", "/snapshots/{}/export", control_snapshot_export},
	{"GET", "/snapshots/{}/tree", control_snapshot_tree},
	{"GET", "/layers", control_layers},
	{"POST", "/store/check", control_store_check},
	{"POST", "/store/repair", control_store_repair},
	{"GET", "/store/usage", control_store_usage},
	{"POST", "/store/rewrap", control_store_rewrap},
	{"GET", "/templates", control_template_list},
	{"POST", "/v3/templates", control_template_new},
	{"POST", "/v2/templates", control_template_new},
	{"GET", "/templates/{}", control_template_get},
	{"GET", "/templates/aliases/{}", control_template_alias},
	{"GET", "/templates/{}/files/{}", control_template_files},
	{"POST", "/v2/templates/{}/builds/{}", control_template_build},
	{"GET", "/templates/{}/builds/{}/status", control_template_status},
	{"POST", "/templates/{}/warm", control_template_warm},
	{"DELETE", "/templates/{}", control_template_delete},
	{"GET", "/healthz", control_health},
	{"GET", "/health", control_health},
	{"GET", "/readyz", control_ready},
	{"GET", "/openapi.json", control_openapi},
	{"GET", "/doctor", control_doctor},
	{"GET", "/pager", control_pager},
	{"GET", "/images", control_image_list},
	{"GET", "/images/{}", control_image_get},
	{"POST", "/pager/upgrade", control_pager_upgrade},
	{"GET", "/metrics", control_metrics},
};

const struct route *routes_table(size_t *ret_n)
{
	*ret_n = ARRAY_SIZE(routes);
	return routes;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/*
 * The segment after the '/' at @path, unescaped. Return: its length as it is written; 0 when it is
 * empty, too long, or has a NUL: then it is no route's
 */
static size_t segment(const char *path, char *ret, size_t size)
{
	size_t len = strcspn(path + 1, "/"), n = 0;

	for (size_t i = 0; i < len && n + 1 < size; i++) {
		const char *c = path + 1 + i;
		bool escaped = *c == '%' && i + 2 < len && hex(c[1]) >= 0 && hex(c[2]) >= 0;

		ret[n] = escaped ? (char)(hex(c[1]) << 4 | hex(c[2])) : *c;
		i += escaped ? 2 : 0;
		if (!ret[n++])
			return 0;
	}
	ret[n] = 0;
	return n + 1 < size ? len : 0;
}

static bool matches(const char *pattern, const char *path, struct request *q)
{
	unsigned n_args = 0;

	while (*pattern == '/' && *path == '/') {
		size_t want = strcspn(pattern + 1, "/"), got;
		char text[sizeof(q->args[0])];

		got = segment(path, text, sizeof(text));
		if (!got)
			return false;
		if (want == 2 && !memcmp(pattern + 1, "{}", 2)) {
			if (n_args == REQUEST_MAX_ARGS)
				return false;
			memcpy(q->args[n_args++], text, sizeof(text));
		} else if (strlen(text) != want || memcmp(pattern + 1, text, want)) {
			return false;
		}
		pattern += 1 + want;
		path += 1 + got;
	}
	return !*pattern && !*path;
}

bool routes_allowed(const char *path, char ret[64])
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};
	struct request q = {0};
	size_t n = 0;

	ret[0] = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(methods); i++)
		if (routes_find(methods[i], path, &q, NULL))
			n += (size_t)snprintf(ret + n, 64 - n, "%s, ", methods[i]); /* fits */
	if (n)
		(void)snprintf(ret + n, 64 - n, "OPTIONS"); /* 45 at most */
	return n > 0;
}

const struct route *routes_find(const char *method, const char *path, struct request *q,
				struct problem *problem)
{
	const char *as = strcmp(method, "HEAD") ? method : "GET";
	bool known = false;

	for (unsigned i = 0; i < ARRAY_SIZE(routes); i++) {
		if (!matches(routes[i].path, path, q))
			continue;
		if (!strcmp(routes[i].method, as))
			return &routes[i];
		known = true;
	}
	problem_set(problem, known ? 405 : 404,
		    known ? "%s is not a method of %.200s" : "there is no %s %.200s", method, path);
	if (!known)
		problem_hint(problem, "GET /openapi.json says what there is");
	return NULL;
}
