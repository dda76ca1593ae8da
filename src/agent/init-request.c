/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/init-request.h"

#include <errno.h>
#include <string.h>

#include "base/base64.h"
#include "base/mem.h"
#include "base/str.h"

#define TOKEN_MAX   512
#define USER_MAX    63
#define WORKDIR_MAX 4095

static const char *const kinds[] = {"boot", "wake", "fork", "resume"};
_Static_assert(ARRAY_SIZE(kinds) == INIT_RESUME + 1, "every kind has a name");

const char *init_kind_name(enum init_kind kind)
{
	return kinds[kind];
}

static int bad_field(struct problem *problem, const char *field, const char *what)
{
	problem_set(problem, 400, "%s must be %s", field, what);
	return -EINVAL;
}

/* Return: the text; NULL when absent, null or "". @ret_r: set when it is something else, or long */
static const char *text_field(json_t *o, const char *name, size_t max, int *ret_r)
{
	json_t *v = json_object_get(o, name);
	const char *text = json_string_value(v);

	if ((v && !json_is_null(v) && !text) || json_string_length(v) > max)
		*ret_r = -EINVAL;
	return text && text[0] ? text : NULL;
}

static int parse_kind(json_t *o, enum init_kind *ret)
{
	const char *text = json_string_value(json_object_get(o, "kind"));

	if (!json_object_get(o, "kind"))
		return 0;
	for (unsigned i = 0; text && i < ARRAY_SIZE(kinds); i++) {
		if (strcmp(text, kinds[i]) != 0)
			continue;
		*ret = (enum init_kind)i;
		return 0;
	}
	return -EINVAL;
}

static int parse_identity(json_t *o, struct identity *ret, struct problem *problem)
{
	const char *text;
	int r = 0;

	text = text_field(o, "sandboxID", sizeof(ret->sandbox_id) - 1, &r);
	if (r < 0 || !text)
		return bad_field(problem, "sandboxID", "a string of 1 to 64 bytes");
	str_copy(ret->sandbox_id, sizeof(ret->sandbox_id), text);
	text = text_field(o, "hostname", sizeof(ret->hostname) - 1, &r);
	if (r < 0 || !text)
		return bad_field(problem, "hostname", "a string of 1 to 64 bytes");
	str_copy(ret->hostname, sizeof(ret->hostname), text);
	text = text_field(o, "templateID", sizeof(ret->template_id) - 1, &r);
	if (r < 0)
		return bad_field(problem, "templateID", "a string of at most 128 bytes");
	str_copy(ret->template_id, sizeof(ret->template_id), text ?: "");
	text = text_field(o, "machineID", sizeof(ret->machine_id) - 1, &r);
	if (r < 0 || (text && (strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32)))
		return bad_field(problem, "machineID", "32 hexadecimal digits");
	str_copy(ret->machine_id, sizeof(ret->machine_id), text ?: "");
	return 0;
}

static bool is_visible(const char *text)
{
	for (; *text; text++)
		if (*text <= ' ' || *text >= 0x7f)
			return false;
	return true;
}

static int parse_access(json_t *o, struct init_request *ret, struct problem *problem)
{
	int r = 0;

	ret->token = text_field(o, "accessToken", TOKEN_MAX, &r);
	if (r < 0 || (ret->token && !is_visible(ret->token)))
		return bad_field(problem, "accessToken", "at most 512 visible ASCII characters");
	ret->default_user = text_field(o, "defaultUser", USER_MAX, &r);
	if (r < 0)
		return bad_field(problem, "defaultUser", "a string of at most 63 bytes");
	ret->default_workdir = text_field(o, "defaultWorkdir", WORKDIR_MAX, &r);
	if (r < 0 || (ret->default_workdir && ret->default_workdir[0] != '/'))
		return bad_field(problem, "defaultWorkdir", "an absolute path");
	return 0;
}

static int parse_entropy(json_t *o, struct init_request *ret, struct problem *problem)
{
	static const char what[] = "base64 text of 32 to 512 bytes";
	const char *text = json_string_value(o);
	size_t len = json_string_length(o);
	ssize_t n;

	if (!text || len > ENTROPY_MAX / 3 * 4)
		return bad_field(problem, "entropy", what);
	n = base64_decode(text, len, ret->entropy.data);
	if (n < ENTROPY_MIN)
		return bad_field(problem, "entropy", what);
	ret->entropy_len = (size_t)n;
	return 0;
}

static int parse_timestamp(json_t *o, uint64_t *ret)
{
	if (json_is_string(o))
		return str_to_u64(json_string_value(o), ret);
	if (!json_is_integer(o) || json_integer_value(o) <= 0)
		return -EINVAL;
	*ret = (uint64_t)json_integer_value(o);
	return 0;
}

static bool env_is_valid(json_t *env)
{
	const char *name;
	json_t *value;

	if (!env || json_is_null(env))
		return true;
	json_object_foreach (env, name, value)
		if (!json_is_string(value) || !name[0] || strchr(name, '='))
			return false;
	return json_is_object(env);
}

int init_request_parse(json_t *o, struct problem *problem, struct init_request *ret)
{
	json_t *env = json_object_get(o, "envVars");
	int r;

	if (parse_kind(o, &ret->kind) < 0)
		return bad_field(problem, "kind", "boot, wake, fork or resume");
	r = parse_identity(o, &ret->identity, problem);
	if (r == 0)
		r = parse_access(o, ret, problem);
	if (r < 0)
		return r;
	if (parse_timestamp(json_object_get(o, "timestampNs"), &ret->timestamp_ns) < 0 ||
	    !ret->timestamp_ns)
		return bad_field(problem, "timestampNs", "nanoseconds since the epoch");
	if (!env_is_valid(env))
		return bad_field(problem, "envVars", "an object of strings");
	ret->env = json_is_object(env) ? env : NULL;
	ret->network = json_object_get(o, "network");
	return parse_entropy(json_object_get(o, "entropy"), ret, problem);
}
