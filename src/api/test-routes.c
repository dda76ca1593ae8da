/* SPDX-License-Identifier: Apache-2.0 */
#include "base/test.h"

#include <string.h>

#include "api/routes.h"

static request_handler find(const char *method, const char *path, struct request *q)
{
	const struct route *route = routes_find(method, path, q, NULL);

	assert_non_null(route);
	assert_null(route->upload);
	return route->handler;
}

/* A word of a path goes before {}, and leaves no argument behind. */
static void test_find_store(void **state)
{
	const struct route *route;
	struct request q = {0};

	assert_ptr_equal(find("GET", "/snapshots/tree", &q), control_snapshot_tree);
	assert_string_equal(q.args[0], "");
	assert_ptr_equal(find("GET", "/snapshots/trees", &q), control_snapshot_get);
	assert_ptr_equal(find("GET", "/snapshots/s1/tree", &q), control_snapshot_tree);
	assert_string_equal(q.args[0], "s1");
	assert_ptr_equal(find("GET", "/snapshots/s2/export", &q), control_snapshot_export);
	assert_string_equal(q.args[0], "s2");
	assert_ptr_equal(find("POST", "/snapshots/s3/compact", &q), control_snapshot_compact);
	assert_ptr_equal(find("POST", "/snapshots/s3/verify", &q), control_snapshot_verify);
	assert_ptr_equal(find("GET", "/layers", &q), control_layers);
	assert_ptr_equal(find("GET", "/store/usage", &q), control_store_usage);
	assert_ptr_equal(find("POST", "/store/check", &q), control_store_check);
	assert_ptr_equal(find("POST", "/store/repair", &q), control_store_repair);
	assert_ptr_equal(find("POST", "/store/rewrap", &q), control_store_rewrap);
	route = routes_find("POST", "/snapshots/import", &q, NULL);
	assert_non_null(route);
	assert_ptr_equal(route->upload, control_snapshot_import);
	assert_null(route->handler);
}

static void test_find(void **state)
{
	struct request q = {0};

	assert_ptr_equal(find("POST", "/v2/sandboxes", &q), control_sandbox_create);
	assert_ptr_equal(find("POST", "/v2/sandboxes/abc/connect", &q), control_sandbox_connect);
	assert_string_equal(q.args[0], "abc");
	assert_ptr_equal(find("GET", "/templates/t1/builds/b2/status", &q),
			 control_template_status);
	assert_string_equal(q.args[0], "t1");
	assert_string_equal(q.args[1], "b2");
}

static void refused(const char *method, const char *path, int status)
{
	struct problem p = PROBLEM_INIT;
	struct request q = {0};

	assert_null(routes_find(method, path, &q, &p));
	assert_int_equal(p.status, status);
}

static void test_refuse(void **state)
{
	char longer[400];

	refused("GET", "/", 404);
	refused("GET", "", 404);
	refused("GET", "/sandboxes/", 404);
	refused("GET", "/sandboxes//memory", 404);
	refused("GET", "/sandboxes/a/b/c", 404);
	refused("PATCH", "/sandboxes/a", 405);
	refused("GET", "/store/check", 405);
	refused("GET", "/snapshots/a/compact", 405);
	refused("POST", "/snapshots/a/export", 405);
	refused("GET", "/store", 404);
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	memcpy(longer, "/sandboxes/", 11);
	refused("GET", longer, 404);
}

/* Whoever adds a route says who may use it. */
static void test_scopes(void **state)
{
	const struct route *table;
	size_t n, n_open = 0;

	table = routes_table(&n);
	for (size_t i = 0; i < n; i++) {
		const struct route *r = &table[i];

		if (r->open == (r->scope != SCOPE_NONE))
			fail_msg("%s %s has no scope, or two", r->method, r->path);
		if (strcmp(r->method, "GET") != 0 && r->scope < SCOPE_USE)
			fail_msg("%s %s changes something for readers", r->method, r->path);
		if (r->upload && r->scope != SCOPE_ADMIN)
			fail_msg("%s %s takes bodies of any size", r->method, r->path);
		n_open += r->open;
	}
	assert_int_equal(n_open, 3); /* /health, /healthz, /openapi.json */
}

/* What is escaped belongs to its segment. */
static void test_escapes(void **state)
{
	struct request q = {0};

	assert_ptr_equal(find("DELETE", "/templates/ns%2Fsnap%3Adefault", &q),
			 control_template_delete);
	assert_string_equal(q.args[0], "ns/snap:default");
	assert_ptr_equal(find("GET", "/sand%62oxes/a%zz%4", &q), control_sandbox_get);
	assert_string_equal(q.args[0], "a%zz%4");
	refused("GET", "/sandboxes/a%00b", 404);
	refused("GET", "/healthz%00", 404);
	refused("GET", "%2Fhealthz", 404);
	assert_ptr_equal(find("GET", "/sandboxes/%c3%bc", &q), control_sandbox_get);
	assert_string_equal(q.args[0], "\xc3\xbc");
}

static void test_methods(void **state)
{
	struct request q = {0};
	char allowed[64];

	assert_ptr_equal(find("HEAD", "/healthz", &q), control_health);
	refused("HEAD", "/store/check", 405);
	assert_true(routes_allowed("/sandboxes/a", allowed));
	assert_string_equal(allowed, "GET, HEAD, DELETE, OPTIONS");
	assert_true(routes_allowed("/store/check", allowed));
	assert_string_equal(allowed, "POST, OPTIONS");
	assert_false(routes_allowed("/nowhere", allowed));
}

TEST_MAIN(cmocka_unit_test(test_scopes), cmocka_unit_test(test_escapes), cmocka_unit_test(test_methods),
	  cmocka_unit_test(test_find), cmocka_unit_test(test_find_store),
	  cmocka_unit_test(test_refuse))
