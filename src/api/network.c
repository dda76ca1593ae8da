/* SPDX-License-Identifier: Apache-2.0 */
#include "api/network.h"

#include <errno.h>

#include "api/fields.h"
#include "sandbox/sandbox.h"

/* Members of E2B's that would change what may be reached, and are not there. */
static int check_unsupported(json_t *o, struct problem *problem)
{
	static const char *const names[] = {"rules", "egressProxy"};

	for (unsigned i = 0; i < 2; i++) {
		json_t *v = json_object_get(o, names[i]);

		if (!v || json_is_null(v) || (json_is_object(v) && !json_object_size(v)) ||
		    (json_is_array(v) && !json_array_size(v)))
			continue;
		problem_set(problem, 400, "network.%s: is not supported", names[i]);
		problem_hint(problem, "allowOut and denyOut take addresses, networks and ports");
		return -EINVAL;
	}
	return 0;
}

/* Return: is it there (and not null)? */
static json_t *list_of(json_t *o, const char *name)
{
	json_t *v = json_object_get(o, name);

	return json_is_null(v) ? NULL : v;
}

/* What the host would say of it has the host's names. */
static int check_list(const char *name, json_t *list, struct problem *problem)
{
	json_t *v;
	size_t i;

	if (list && !json_is_array(list)) {
		problem_set(problem, 400, "%s: must be an array of texts", name);
		return -EINVAL;
	}
	json_array_foreach (list, i, v)
		if (!json_is_string(v)) {
			problem_set(problem, 400, "%s[%zu]: must be a text", name, i);
			return -EINVAL;
		}
	return 0;
}

static int make(bool internet, json_t *allow, json_t *deny, struct problem *problem, json_t **ret)
{
	json_t *policy =
		json_pack("{s:b, s:O*, s:O*}", "internet", internet, "allow", allow, "deny", deny);
	int r = policy ? check_list("allowOut", allow, problem) : -ENOMEM;

	if (r == 0)
		r = check_list("denyOut", deny, problem);
	if (r == 0)
		r = sandbox_network_check(policy, problem);
	if (r < 0)
		json_decref(policy);
	else
		*ret = policy;
	return r;
}

int network_from_body(json_t *body, bool wanted, struct problem *problem, json_t **ret)
{
	json_t *o = json_object_get(body, "network"), *allow, *deny;
	json_t *said = json_object_get(body, "allow_internet_access");
	bool internet = true;
	int r = fields_bool(body, "allow_internet_access", problem, &internet);

	if (r < 0)
		return r;
	if (o && !json_is_null(o) && !json_is_object(o)) {
		problem_set(problem, 400, "network: must be an object");
		return -EINVAL;
	}
	r = check_unsupported(o, problem);
	if (r < 0)
		return r;
	allow = list_of(o, "allowOut");
	deny = list_of(o, "denyOut");
	if (allow || deny || (said && !json_is_null(said) && internet && wanted))
		return make(internet, allow, deny, problem, ret);
	if (json_is_false(said))
		*ret = json_null();
	return 0;
}

int network_from_change(json_t *body, struct problem *problem, json_t **ret)
{
	json_t *allow = list_of(body, "allowOut"), *deny = list_of(body, "denyOut");
	bool internet = true;
	int r = fields_bool(body, "allow_internet_access", problem, &internet);

	if (r == 0)
		r = check_unsupported(body, problem);
	if (r < 0)
		return r;
	if (!internet && !allow && !deny) {
		*ret = NULL;
		return 0;
	}
	return make(internet, allow, deny, problem, ret);
}

static json_t *list_or_empty(json_t *policy, const char *name)
{
	json_t *list = json_object_get(policy, name);

	return list ? json_incref(list) : json_array();
}

void network_describe(json_t *sandbox, json_t *policy)
{
	/* what cannot be added for want of memory is left out */
	(void)json_object_set_new(sandbox, "allowInternetAccess",
				  json_boolean(json_is_true(json_object_get(policy, "internet"))));
	if (policy)
		(void)json_object_set_new(sandbox, "network",
					  json_pack("{s:o, s:o}", "allowOut",
						    list_or_empty(policy, "allow"), "denyOut",
						    list_or_empty(policy, "deny")));
}
