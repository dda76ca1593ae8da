/* SPDX-License-Identifier: Apache-2.0 */
/* Is every route in the description, and the other way round? Does it hold together by itself? */
#include "base/test.h"

#include <stdio.h>
#include <string.h>

#include "api/openapi.h"
#include "api/routes.h"
#include "base/mem.h"

static json_t *load(void)
{
	json_error_t err;
	json_t *doc = json_loadb(openapi_json, openapi_json_len, JSON_REJECT_DUPLICATES, &err);

	if (!doc)
		fail_msg("openapi.json: line %d: %s", err.line, err.text);
	return doc;
}

/* "/sandboxes/{sandboxID}" -> "/sandboxes/{}" */
static void plain(const char *path, char ret[256])
{
	size_t n = 0;
	bool inside = false;

	for (; *path; path++) {
		assert_true(n < 255);
		if (!inside || *path == '}')
			ret[n++] = *path;
		inside = *path == '{' || (inside && *path != '}');
	}
	ret[n] = 0;
}

static bool is_described(json_t *doc, const struct route *r)
{
	json_t *item, *paths = json_object_get(doc, "paths");
	char path[256], method[16];
	const char *key;
	size_t n = strlen(r->method);

	for (size_t i = 0; i <= n; i++)
		method[i] = (char)(r->method[i] | (i < n ? 0x20 : 0)); /* lower case */
	json_object_foreach (paths, key, item) {
		plain(key, path);
		if (!strcmp(path, r->path) && json_object_get(item, method))
			return true;
	}
	return false;
}

static void test_routes(void **state)
{
	json_t *doc = load();
	size_t n;
	const struct route *routes = routes_table(&n);

	for (size_t i = 0; i < n; i++)
		if (!is_described(doc, &routes[i]))
			fail_msg("openapi.json: no %s %s", routes[i].method, routes[i].path);
	json_decref(doc);
}

static bool is_a_route(const char *method, const char *path)
{
	size_t n;
	const struct route *routes = routes_table(&n);

	for (size_t i = 0; i < n; i++)
		if (!strcasecmp(routes[i].method, method) && !strcmp(routes[i].path, path))
			return true;
	return false;
}

static void check_operation(json_t *ids, const char *method, const char *path, json_t *op)
{
	const char *id = json_string_value(json_object_get(op, "operationId"));

	if (!id || json_object_get(ids, id))
		fail_msg("openapi.json: %s %s: it has no operationId of its own", method, path);
	(void)json_object_set_new(ids, id, json_true());
	if (!json_is_string(json_object_get(op, "summary")) ||
	    !json_object_size(json_object_get(op, "responses")))
		fail_msg("openapi.json: %s %s: no summary or no responses", method, path);
}

static void test_operations(void **state)
{
	json_t *doc = load(), *item, *op, *ids = json_object();
	const char *key, *method;
	char path[256];

	json_object_foreach (json_object_get(doc, "paths"), key, item) {
		plain(key, path);
		json_object_foreach (item, method, op) {
			if (!is_a_route(method, path))
				fail_msg("openapi.json: %s %s is no route", method, key);
			check_operation(ids, method, key, op);
		}
	}
	json_decref(ids);
	json_decref(doc);
}

/* "#/components/schemas/Error" */
static json_t *follow(json_t *doc, const char *ref)
{
	char name[128];

	if (strncmp(ref, "#/", 2))
		return NULL;
	for (ref += 2; doc && *ref; ref += *ref == '/') {
		size_t len = strcspn(ref, "/");

		assert_true(len < sizeof(name));
		memcpy(name, ref, len);
		name[len] = 0;
		doc = json_object_get(doc, name);
		ref += len;
	}
	return doc;
}

/* @used: what is referred to */
static void check_refs(json_t *doc, json_t *at, json_t *used)
{
	const char *key, *ref = json_string_value(json_object_get(at, "$ref"));
	json_t *v;
	size_t i;

	if (ref && !follow(doc, ref))
		fail_msg("openapi.json: %s leads nowhere", ref);
	if (ref)
		(void)json_object_set_new(used, ref, json_true());
	json_object_foreach (at, key, v)
		check_refs(doc, v, used);
	json_array_foreach (at, i, v)
		check_refs(doc, v, used);
}

static void test_references(void **state)
{
	static const char *const kinds[] = {"schemas", "responses", "parameters"};
	json_t *doc = load(), *used = json_object(), *v;
	const char *key;
	char ref[256];

	check_refs(doc, doc, used);
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		json_object_foreach (json_object_get(json_object_get(doc, "components"), kinds[i]),
				     key, v) {
			(void)snprintf(ref, sizeof(ref), "#/components/%s/%s", kinds[i], key);
			if (!json_object_get(used, ref))
				fail_msg("openapi.json: nothing refers to %s", ref);
		}
	json_decref(used);
	json_decref(doc);
}

TEST_MAIN(cmocka_unit_test(test_routes), cmocka_unit_test(test_operations),
	  cmocka_unit_test(test_references))
