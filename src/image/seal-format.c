/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal-format.c - the text of the file "seal": strict reading, writing
 *
 * Every member has exactly one form: base64 is canonical, lengths are fixed, so that what is read
 * and written again says the same.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/base64.h"
#include "base/error.h"
#include "base/str.h"
#include "image/outcome.h"
#include "image/seal.h"

#define FORMAT_NAME "dormouse-seal"
#define CIPHER_NAME "aes-256-gcm"

/* ---- writing ----------------------------------------------------------------------------------
 */

static json_t *bytes_to_json(const void *data, size_t len)
{
	char text[128];

	(void)base64_encode(data, len, text); /* at most SEAL_WRAPPED_BYTES */
	return json_string(text);
}

static json_t *layers_to_json(const struct seal *s)
{
	json_auto_t *list = json_array();

	for (uint32_t i = 0; i < s->n_layers; i++) {
		char id[2 * LAYER_ID_BYTES + 1];

		str_hex(s->layers[i].id, LAYER_ID_BYTES, id);
		if (json_array_append_new(list, json_pack("{s:s, s:o}", "id", id, "key",
							  bytes_to_json(s->layers[i].wrapped,
									SEAL_WRAPPED_BYTES))) < 0)
			return NULL;
	}
	return take_ptr(list);
}

int seal_encode(const struct seal *s, char **ret)
{
	json_auto_t *root = json_pack(
		"{s:s, s:{s:i, s:i}, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "format", FORMAT_NAME,
		"version", "major", FORMAT_MAJOR, "minor", FORMAT_MINOR, "cipher", CIPHER_NAME,
		"key_id", s->key_id, "salt", bytes_to_json(s->salt, SEAL_SALT_BYTES), "layers",
		layers_to_json(s), "device", bytes_to_json(s->device, SEAL_WRAPPED_BYTES),
		"map_mac", bytes_to_json(s->map_mac, SEAL_MAC_BYTES), "manifest_mac",
		s->has_manifest ? bytes_to_json(s->manifest_mac, SEAL_MAC_BYTES) : json_null());

	if (!root)
		return -ENOMEM;
	*ret = json_dumps(root, JSON_INDENT(2));
	return *ret ? 0 : -ENOMEM;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

#define refuse(_problem, _name, _why, ...)                                                         \
	image_corrupt(_problem, "seal: field \"%s\": " _why, _name, ##__VA_ARGS__)

/* A text of exactly @len characters; NULL, with the reason, if it is anything else. */
static const char *get_text(const json_t *in, const char *name, size_t len, struct problem *problem)
{
	const json_t *v = json_object_get(in, name);
	const char *text = json_string_value(v);

	if (!text) {
		(void)refuse(problem, name, "%s", v ? "not a text" : "missing");
		return NULL;
	}
	if (json_string_length(v) != len || strlen(text) != len) {
		(void)refuse(problem, name, "%zu characters instead of %zu", json_string_length(v),
			     len);
		return NULL;
	}
	return text;
}

/* Base64 in its one canonical form. */
static int get_bytes(const json_t *in, const char *name, uint8_t *ret, size_t len,
		     struct problem *problem)
{
	const char *text = get_text(in, name, base64_encoded_len(len), problem);
	uint8_t decoded[128];
	char again[192];

	if (!text)
		return IMAGE_E_CORRUPT;
	if (base64_decode(text, strlen(text), decoded) != (ssize_t)len)
		return refuse(problem, name, "not base64 of %zu bytes", len);
	(void)base64_encode(decoded, len, again);
	if (strcmp(text, again))
		return refuse(problem, name, "not the canonical base64");
	memcpy(ret, decoded, len);
	return 0;
}

static int get_hex(const json_t *in, const char *name, uint8_t *ret, size_t len,
		   struct problem *problem)
{
	const char *text = get_text(in, name, 2 * len, problem);

	if (!text)
		return IMAGE_E_CORRUPT;
	if (strspn(text, "0123456789abcdef") != 2 * len || str_unhex(text, ret, len) < 0)
		return refuse(problem, name, "not hexadecimal");
	return 0;
}

static int get_layers(const json_t *root, struct seal *s, struct problem *problem)
{
	const json_t *list = json_object_get(root, "layers");
	size_t n = json_array_size(list);

	if (!json_is_array(list))
		return refuse(problem, "layers", "%s", list ? "not an array" : "missing");
	if (n > PAGE_MAP_MAX_LAYERS)
		return refuse(problem, "layers", "%zu of them, limit %u", n, PAGE_MAP_MAX_LAYERS);
	s->layers = calloc(MAX(n, 1ul), sizeof(*s->layers));
	if (!s->layers)
		return -ENOMEM;
	for (; s->n_layers < n; s->n_layers++) {
		const json_t *layer = json_array_get(list, s->n_layers);
		struct seal_layer *l = &s->layers[s->n_layers];
		int r = get_hex(layer, "id", l->id, LAYER_ID_BYTES, problem);

		if (r == 0)
			r = get_bytes(layer, "key", l->wrapped, SEAL_WRAPPED_BYTES, problem);
		if (r)
			return r;
	}
	return 0;
}

static int check_format(const json_t *root, struct problem *problem)
{
	const char *format = json_string_value(json_object_get(root, "format"));
	const char *cipher = json_string_value(json_object_get(root, "cipher"));
	const json_t *version = json_object_get(root, "version");
	const json_t *major = json_object_get(version, "major"),
		     *minor = json_object_get(version, "minor");
	int r;

	if (!format || strcmp(format, FORMAT_NAME))
		return refuse(problem, "format", "not a seal of Dormouse");
	if (!json_is_integer(major) || !json_is_integer(minor) || json_integer_value(major) < 0 ||
	    json_integer_value(minor) < 0)
		return refuse(problem, "version", "missing or not two numbers");
	r = image_check_version("seal", (uint64_t)json_integer_value(major),
				(uint64_t)json_integer_value(minor), problem);
	if (r)
		return r;
	if (!cipher || strcmp(cipher, CIPHER_NAME))
		return refuse(problem, "cipher", "not " CIPHER_NAME);
	return 0;
}

static int decode_members(const json_t *root, struct seal *s, struct problem *problem)
{
	uint8_t key_id[KEY_ID_LEN / 2];
	int r = get_hex(root, "key_id", key_id, sizeof(key_id), problem);

	if (r)
		return r;
	str_hex(key_id, sizeof(key_id), s->key_id);
	r = get_bytes(root, "salt", s->salt, SEAL_SALT_BYTES, problem);
	if (r == 0)
		r = get_bytes(root, "device", s->device, SEAL_WRAPPED_BYTES, problem);
	if (r == 0)
		r = get_bytes(root, "map_mac", s->map_mac, SEAL_MAC_BYTES, problem);
	s->has_manifest = !json_is_null(json_object_get(root, "manifest_mac"));
	if (r == 0 && s->has_manifest)
		r = get_bytes(root, "manifest_mac", s->manifest_mac, SEAL_MAC_BYTES, problem);
	return r ? r : get_layers(root, s, problem);
}

int seal_decode(const char *text, size_t len, struct problem *problem, struct seal *ret)
{
	_cleanup_(seal_deinit) struct seal s = {0};
	json_auto_t *root = NULL;
	json_error_t e;
	int r;

	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		return image_corrupt(problem, "seal: offset %d: %s", e.position, e.text);
	if (!json_is_object(root))
		return image_corrupt(problem, "seal: not an object");
	r = check_format(root, problem);
	if (r == 0)
		r = decode_members(root, &s, problem);
	if (r)
		return error_trace(r);
	*ret = s;
	s = (struct seal){0};
	return 0;
}
