/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include <string.h>

#include "base/mem.h"

/* The first that matches counts: a word goes before {}. */
static const struct route routes[] = {
	{"POST", "/v2/sandboxes", control_sandbox_create},
	{"POST", "/sandboxes", control_sandbox_create_1},
	{"GET", "/v2/sandboxes", control_sandbox_list},
	{"GET", "/sandboxes", control_sandbox_list},
	{"GET", "/sandboxes/usage", control_sandbox_usage},
	{"GET", "/sandboxes/{}", control_sandbox_get},
	{"DELETE", "/sandboxes/{}", control_sandbox_delete},
	{"POST", "/sandboxes/{}/pause", control_sandbox_pause},
	{"POST", "/v2/sandboxes/{}/connect", control_sandbox_connect},
	{"POST", "/sandboxes/{}/connect", control_sandbox_connect},
	{"POST", "/sandboxes/{}/resume", control_sandbox_connect},
	{"POST", "/sandboxes/{}/timeout", control_sandbox_timeout},
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
	{"POST", "/v2/templates/{}/builds/{}", control_template_build},
	{"GET", "/templates/{}/builds/{}/status", control_template_status},
	{"POST", "/templates/{}/warm", control_template_warm},
	{"DELETE", "/templates/{}", control_template_delete},
	{"GET", "/healthz", control_health},
	{"GET", "/health", control_health},
	{"GET", "/readyz", control_ready},
	{"GET", "/doctor", control_doctor},
	{"GET", "/pager", control_pager},
	{"POST", "/pager/upgrade", control_pager_upgrade},
	{"GET", "/metrics", control_metrics},
	{"GET", "/events", control_events},
	{"GET", "/sandboxes/{}/events", control_sandbox_events},
	{"GET", "/sandboxes/{}/logs", control_sandbox_logs},
	{"GET", "/v2/sandboxes/{}/logs", control_sandbox_logs_2},
};

/* One segment of @path after its '/', and its length. */
static const char *segment(const char *path, size_t *ret_len)
{
	*ret_len = strcspn(path + 1, "/");
	return path + 1;
}

static bool matches(const char *pattern, const char *path, struct request *q)
{
	unsigned n_args = 0;

	while (*pattern == '/' && *path == '/') {
		size_t a, b;
		const char *want = segment(pattern, &a), *got = segment(path, &b);

		if (a == 2 && !memcmp(want, "{}", 2)) {
			if (b == 0 || b >= sizeof(q->args[0]) || n_args == REQUEST_MAX_ARGS)
				return false;
			memcpy(q->args[n_args], got, b);
			q->args[n_args++][b] = 0;
		} else if (a != b || memcmp(want, got, a)) {
			return false;
		}
		pattern = want + a;
		path = got + b;
	}
	return !*pattern && !*path;
}

const struct route *routes_find(const char *method, const char *path, struct request *q,
				struct problem *problem)
{
	bool known = false;

	for (unsigned i = 0; i < ARRAY_SIZE(routes); i++) {
		if (!matches(routes[i].path, path, q))
			continue;
		if (!strcmp(routes[i].method, method))
			return &routes[i];
		known = true;
	}
	problem_set(problem, known ? 405 : 404,
		    known ? "%s is not a method of %.200s" : "there is no %s %.200s", method, path);
	return NULL;
}
