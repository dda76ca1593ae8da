/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* The first that matches counts: a word goes before {}. */
static const struct route routes[] = {
	{"POST", "/v2/sandboxes", control_sandbox_create, .scope = SCOPE_USE},
	{"POST", "/sandboxes", control_sandbox_create_1, .scope = SCOPE_USE},
	{"GET", "/v2/sandboxes", control_sandbox_list, .scope = SCOPE_READ},
	{"GET", "/sandboxes", control_sandbox_list_1, .scope = SCOPE_READ},
	{"GET", "/sandboxes/metrics", control_sandboxes_metrics, .scope = SCOPE_READ},
	{"GET", "/sandboxes/usage", control_sandbox_usage, .scope = SCOPE_READ},
	{"GET", "/sandboxes/{}", control_sandbox_get, .scope = SCOPE_READ},
	{"DELETE", "/sandboxes/{}", control_sandbox_delete, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/pause", control_sandbox_pause, .scope = SCOPE_USE},
	{"POST", "/v2/sandboxes/{}/connect", control_sandbox_connect, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/connect", control_sandbox_connect, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/resume", control_sandbox_connect, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/timeout", control_sandbox_timeout, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/refreshes", control_sandbox_refresh, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/fork", control_sandbox_fork, .scope = SCOPE_USE},
	{"POST", "/sandboxes/{}/snapshots", control_sandbox_snapshot, .scope = SCOPE_USE},
	{"GET", "/sandboxes/{}/memory", control_sandbox_memory, .scope = SCOPE_READ},
	{"GET", "/sandboxes/{}/ports", control_port_list, .scope = SCOPE_READ},
	{"GET", "/sandboxes/{}/ports/{}", control_port_raw, .raw = true, .scope = SCOPE_USE},
	{"PUT", "/sandboxes/{}/network", control_sandbox_network, .scope = SCOPE_USE},
	{"GET", "/sandboxes/{}/network", control_sandbox_network_get, .scope = SCOPE_READ},
	{"GET", "/sandboxes/{}/metrics", control_sandbox_metrics, .scope = SCOPE_READ},
	{"GET", "/snapshots", control_snapshot_list, .scope = SCOPE_READ},
	{"GET", "/snapshots/tree", control_snapshot_tree, .scope = SCOPE_READ, .of_all = true},
	{"POST", "/snapshots/import", .upload = control_snapshot_import, .scope = SCOPE_ADMIN},
	{"GET", "/snapshots/{}", control_snapshot_get, .scope = SCOPE_READ},
	{"POST", "/snapshots/{}/verify", control_snapshot_verify, .scope = SCOPE_ADMIN},
	{"POST", "/snapshots/{}/compact", control_snapshot_compact, .scope = SCOPE_ADMIN},
	{"GET", "/snapshots/{}/export", control_snapshot_export, .scope = SCOPE_ADMIN},
	{"GET", "/snapshots/{}/tree", control_snapshot_tree, .scope = SCOPE_READ, .of_all = true},
	{"GET", "/layers", control_layers, .scope = SCOPE_ADMIN},
	{"POST", "/store/check", control_store_check, .scope = SCOPE_ADMIN},
	{"POST", "/store/repair", control_store_repair, .scope = SCOPE_ADMIN},
	{"GET", "/store/usage", control_store_usage, .scope = SCOPE_READ, .of_all = true},
	{"POST", "/store/rewrap", control_store_rewrap, .scope = SCOPE_ADMIN},
	{"GET", "/templates", control_template_list, .scope = SCOPE_READ},
	{"POST", "/v3/templates", control_template_new, .scope = SCOPE_ADMIN},
	{"POST", "/v2/templates", control_template_new, .scope = SCOPE_ADMIN},
	{"GET", "/templates/{}", control_template_get, .scope = SCOPE_READ},
	{"GET", "/templates/aliases/{}", control_template_alias, .scope = SCOPE_READ},
	{"GET", "/templates/{}/files/{}", control_template_files, .scope = SCOPE_ADMIN},
	{"POST", "/v2/templates/{}/builds/{}", control_template_build, .scope = SCOPE_ADMIN},
	{"GET", "/templates/{}/builds/{}/status", control_template_status, .scope = SCOPE_READ},
	{"POST", "/templates/{}/warm", control_template_warm, .scope = SCOPE_ADMIN},
	{"DELETE", "/templates/{}", control_template_delete, .scope = SCOPE_USE},
	{"GET", "/keys", control_key_list, .scope = SCOPE_ADMIN},
	{"POST", "/keys", control_key_create, .scope = SCOPE_ADMIN},
	{"POST", "/keys/{}/rotate", control_key_rotate, .scope = SCOPE_ADMIN},
	{"DELETE", "/keys/{}", control_key_revoke, .scope = SCOPE_ADMIN},
	{"GET", "/healthz", control_health, .open = true},
	{"GET", "/health", control_health, .open = true},
	{"GET", "/readyz", control_ready, .scope = SCOPE_READ},
	{"GET", "/openapi.json", control_openapi, .open = true},
	{"GET", "/doctor", control_doctor, .scope = SCOPE_READ},
	{"GET", "/pager", control_pager, .scope = SCOPE_READ, .of_all = true},
	{"GET", "/images", control_image_list, .scope = SCOPE_READ, .of_all = true},
	{"GET", "/images/{}", control_image_get, .scope = SCOPE_READ, .of_all = true},
	{"POST", "/pager/upgrade", control_pager_upgrade, .scope = SCOPE_ADMIN},
	{"GET", "/metrics", control_metrics, .scope = SCOPE_READ, .of_all = true},
	{"GET", "/host", control_host, .scope = SCOPE_READ, .of_all = true},
	{"POST", "/host/drain", control_host_drain, .scope = SCOPE_ADMIN},
	{"DELETE", "/host/drain", control_host_undrain, .scope = SCOPE_ADMIN},
	{"GET", "/events", control_events, .scope = SCOPE_READ},
	{"GET", "/sandboxes/{}/events", control_sandbox_events, .scope = SCOPE_READ},
	{"GET", "/sandboxes/{}/logs", control_sandbox_logs, .scope = SCOPE_READ},
	{"GET", "/v2/sandboxes/{}/logs", control_sandbox_logs_2, .scope = SCOPE_READ},
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
