/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/oci.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define BLOB_MAX   (4u << 20) /* of JSON: indexes, manifests, configurations */
#define MAX_ENV	   500
#define MAX_ARGS   1000
#define MAX_NESTED 4 /* an index of indexes of ... */
#define REF_NAME   "org.opencontainers.image.ref.name"

static int refuse(struct problem *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int refuse(struct problem *p, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* cut is fine */
	va_end(ap);
	problem_set(p, 400, "%s", text);
	return -EINVAL;
}

/* ---- configuration ----------------------------------------------------------------------------
 */

void oci_config_deinit(struct oci_config *c)
{
	json_decref(c->env);
	free(c->workdir);
	free(c->user);
	free(c->command);
	*c = (struct oci_config){0};
}

char *oci_quote(const char *arg)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				    "@%_+=:,./-";
	size_t n = strlen(arg), at = 0;
	char *out;

	if (n && arg[strspn(arg, plain)] == 0)
		return strdup(arg);
	out = malloc(4 * n + 3); /* a quote becomes '\'' */
	if (!out)
		return NULL;
	out[at++] = '\'';
	for (; *arg; arg++) {
		if (*arg == '\'') {
			memcpy(out + at, "'\\'", 3);
			at += 3;
		}
		out[at++] = *arg;
	}
	out[at++] = '\'';
	out[at] = 0;
	return out;
}

/* Append the words of an array of texts. */
static int add_words(json_t *array, const char *name, struct buf *line, struct problem *p)
{
	json_t *v;
	size_t i;

	if (!array || json_is_null(array))
		return 0;
	if (!json_is_array(array) || json_array_size(array) > MAX_ARGS)
		return refuse(p, "OCI configuration: %s is not an array of texts", name);
	json_array_foreach (array, i, v) {
		_cleanup_free_ char *word = NULL;

		if (!json_is_string(v))
			return refuse(p, "OCI configuration: %s is not an array of texts", name);
		word = oci_quote(json_string_value(v));
		if (!word || buf_printf(line, "%s%s", line->len ? " " : "", word) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int parse_env(json_t *array, struct problem *p, struct oci_config *c)
{
	json_t *v;
	size_t i;

	if (!array || json_is_null(array))
		return 0;
	if (!json_is_array(array) || json_array_size(array) > MAX_ENV)
		return refuse(p, "OCI configuration: %s is not an array of NAME=VALUE", "Env");
	c->env = json_object();
	json_array_foreach (array, i, v) {
		const char *s = json_string_value(v), *eq = s ? strchr(s, '=') : NULL;
		_cleanup_free_ char *name = NULL;

		if (!eq || eq == s)
			return refuse(p, "OCI configuration: %s is not an array of NAME=VALUE",
				      "Env");
		name = strndup(s, (size_t)(eq - s));
		if (!name || json_object_set_new(c->env, name, json_string(eq + 1)) < 0)
			return -ENOMEM;
	}
	return c->env ? 0 : -ENOMEM;
}

/* A text that may be absent, null or empty: all the same. */
static int parse_text(json_t *o, const char *name, struct problem *p, char **ret)
{
	json_t *v = json_object_get(o, name);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_string(v) || json_string_length(v) >= 4096)
		return refuse(p, "OCI configuration: %s is not a text of at most 4095 bytes", name);
	if (!json_string_length(v))
		return 0;
	*ret = strdup(json_string_value(v));
	return *ret ? 0 : -ENOMEM;
}

static int parse_config(json_t *o, struct problem *p, struct oci_config *c)
{
	_cleanup_buf_ struct buf line = {0};
	int r;

	if (!o || json_is_null(o))
		return 0;
	if (!json_is_object(o))
		return refuse(p, "OCI configuration: %s is not an object", "config");
	r = parse_env(json_object_get(o, "Env"), p, c);
	if (r == 0)
		r = parse_text(o, "WorkingDir", p, &c->workdir);
	if (r == 0 && c->workdir && c->workdir[0] != '/')
		r = refuse(p, "OCI configuration: WorkingDir \"%.100s\" is not absolute",
			   c->workdir);
	if (r == 0)
		r = parse_text(o, "User", p, &c->user);
	if (r == 0 && c->user)
		c->user[strcspn(c->user, ":")] = 0;
	if (r == 0)
		r = add_words(json_object_get(o, "Entrypoint"), "Entrypoint", &line, p);
	if (r == 0)
		r = add_words(json_object_get(o, "Cmd"), "Cmd", &line, p);
	if (r == 0 && line.len)
		c->command = take_ptr(line.data);
	return r;
}

int oci_config_parse(const char *text, size_t len, struct problem *problem, struct oci_config *ret)
{
	_cleanup_oci_config_ struct oci_config c = {0};
	json_auto_t *root = json_loadb(text, len, 0, NULL);
	int r;

	if (!json_is_object(root))
		return refuse(problem, "OCI configuration: %s", "not a JSON object");
	r = parse_config(json_object_get(root, "config"), problem, &c);
	if (r < 0)
		return r;
	*ret = c;
	c = (struct oci_config){0};
	return 0;
}

/* ---- layout -----------------------------------------------------------------------------------
 */

static int read_json(int fd, const char *path, struct problem *p, json_t **ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = file_read(fd, path, BLOB_MAX, &text, &len);

	if (r < 0) {
		problem_errno(p, r, "OCI layout: %s", path);
		return r;
	}
	*ret = json_loadb(text, len, 0, NULL);
	return json_is_object(*ret) ? 0 : refuse(p, "OCI layout: %s is not a JSON object", path);
}

/* The path of a blob from its descriptor: "sha256:<64 hex>", nothing that leads elsewhere. */
static int blob_path(json_t *descriptor, struct problem *p, char ret[128])
{
	const char *digest = json_string_value(json_object_get(descriptor, "digest"));
	const char *hex = digest ? str_has_prefix(digest, "sha256:") : NULL;

	if (!hex || strlen(hex) != 64 || strspn(hex, "0123456789abcdef") != 64)
		return refuse(p, "OCI layout: \"%.80s\" is not a sha256 digest",
			      digest ? digest : "");
	(void)snprintf(ret, 128, "blobs/sha256/%s", hex);
	return 0;
}

static const char *ref_name(json_t *descriptor)
{
	return json_string_value(
		json_object_get(json_object_get(descriptor, "annotations"), REF_NAME));
}

static bool fits_here(json_t *descriptor)
{
	json_t *platform = json_object_get(descriptor, "platform");
	const char *os = json_string_value(json_object_get(platform, "os"));
	const char *arch = json_string_value(json_object_get(platform, "architecture"));

	return !platform || ((!os || !strcmp(os, "linux")) && (!arch || !strcmp(arch, "amd64")));
}

/* Which manifest of an index? By its tag, or the only one for this kind of machine. */
static int choose(json_t *index, const char *tag, struct problem *p, json_t **ret)
{
	json_t *list = json_object_get(index, "manifests"), *v, *found = NULL;
	size_t i, n = 0;

	json_array_foreach (list, i, v) {
		const char *name = ref_name(v);

		if (tag ? name && !strcmp(name, tag) : fits_here(v)) {
			found = v;
			n++;
		}
	}
	if (!n && tag)
		return refuse(p, "OCI layout: there is no image with the tag \"%.100s\"", tag);
	if (!n)
		return refuse(p, "OCI layout: %s", "there is no image for linux/amd64");
	if (n > 1 && !tag) {
		(void)refuse(p, "OCI layout: %s", "it holds several images");
		problem_hint(p, "say which: LAYOUT:TAG");
		return -EINVAL;
	}
	*ret = found;
	return 0;
}

/* From the layout's index down to a manifest; images for several machines have an index below. */
static int find_manifest(int fd, const char *tag, struct problem *p, char ret_tag[128],
			 json_t **ret)
{
	json_auto_t *at = NULL;
	char path[128];
	int r = read_json(fd, "index.json", p, &at);

	for (int depth = 0; r == 0 && depth < MAX_NESTED; depth++) {
		json_t *chosen = NULL, *next = NULL;

		r = choose(at, depth ? NULL : tag, p, &chosen);
		if (r == 0 && !depth) {
			const char *name = ref_name(chosen);

			if (name && strlen(name) >= 128)
				return refuse(p, "OCI layout: the tag \"%.100s...\" is too long",
					      name);
			str_copy(ret_tag, 128, name ? name : "");
		}
		if (r == 0)
			r = blob_path(chosen, p, path);
		if (r == 0)
			r = read_json(fd, path, p, &next);
		if (r < 0) {
			json_decref(next);
			return r;
		}
		json_decref(at);
		at = next;
		if (json_object_get(at, "config")) {
			*ret = take_ptr(at);
			return 0;
		}
	}
	return r < 0 ? r : refuse(p, "OCI layout: %s", "its indexes do not lead to an image");
}

int oci_config_read(const char *dir, const char *tag, struct problem *problem, char ret_tag[128],
		    struct oci_config *ret)
{
	_cleanup_fd_ int fd = file_open_dir(AT_FDCWD, dir);
	_cleanup_free_ char *text = NULL;
	json_auto_t *manifest = NULL;
	char path[128];
	size_t len;
	int r;

	if (fd < 0) {
		problem_errno(problem, fd, "OCI layout %s", dir);
		return fd;
	}
	r = find_manifest(fd, tag, problem, ret_tag, &manifest);
	if (r == 0)
		r = blob_path(json_object_get(manifest, "config"), problem, path);
	if (r < 0)
		return r;
	r = file_read(fd, path, BLOB_MAX, &text, &len);
	if (r < 0) {
		problem_errno(problem, r, "OCI layout %s: %s", dir, path);
		return r;
	}
	return oci_config_parse(text, len, problem, ret);
}

/* ---- programs ---------------------------------------------------------------------------------
 */

int oci_fetch(const struct runner *r, const char *source, const char *dir)
{
	_cleanup_free_ char *to = str_printf("oci:%s:image", dir);
	const char *const argv[] = {"skopeo", "--override-os", "linux", "--override-arch",
				    "amd64",  "copy",	       source,	to,
				    NULL};

	if (!to)
		return -ENOMEM;
	runner_say(r, "fetching %s", source);
	return runner_run(r, &(struct runner_command){.what = "fetching the image", .argv = argv});
}

int oci_unpack(const struct runner *r, const char *dir, const char *tag, const char *bundle)
{
	_cleanup_free_ char *image = str_printf("%s:%s", dir, tag);
	const char *const argv[] = {"umoci", "unpack", "--image", image, bundle, NULL};

	if (!image)
		return -ENOMEM;
	runner_say(r, "unpacking the image's layers");
	return runner_run(r, &(struct runner_command){
				     .what = "unpacking the image", .argv = argv, .quiet = true});
}
