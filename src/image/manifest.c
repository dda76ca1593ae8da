/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manifest.c - manifest.json
 *
 * The plain members are one table: name in the file, place in the struct, what is allowed. Writing
 * and reading walk the same table, so they cannot disagree. Lists (layers, disks), the device state
 * and the version follow by hand.
 *
 * Text that becomes a file name is restricted to what cannot leave the directory; every number has
 * a limit that makes later arithmetic safe. Unknown members are ignored: a later minor version may
 * add some.
 *
 * "digest" is XXH3-128 of the rest of the object in compact form with sorted keys. White space and
 * order may change, the content may not.
 */
#include "image/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/str.h"
#include "image/outcome.h"
#include "image/page-map.h"

#define FORMAT_NAME "dormouse-snapshot"
#define MAX_NUMBER  ((uint64_t)INT64_MAX) /* what JSON integers of jansson hold */

#define ull(_v)	    ((unsigned long long)(_v))

void manifest_deinit(struct manifest *m)
{
	json_decref(m->prepare);
	m->prepare = NULL;
	json_decref(m->defaults);
	m->defaults = NULL;
}

void manifest_files_deinit(struct manifest_files *f)
{
	free(f->layers);
	*f = (struct manifest_files){0};
}

/* ---- what is allowed --------------------------------------------------------------------------
 */

static bool is_text(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static bool is_label(const char *s)
{
	return is_text(s) && !strchr(s, '/') && !strstr(s, "..");
}

static bool is_optional_id(const char *s)
{
	return !*s || id_is_valid(s);
}

static bool is_digest(const char *s)
{
	return strlen(s) == DIGEST_LEN && strspn(s, "0123456789abcdef") == DIGEST_LEN;
}

static bool is_optional_digest(const char *s)
{
	return !*s || is_digest(s);
}

static bool is_seal(const char *s)
{
	return !*s || !strcmp(s, "xxh3") || !strcmp(s, "aes-256-gcm");
}

static bool is_disk_name(const char *s)
{
	return str_is_name(s) && !strstr(s, "..");
}

/* ---- the table --------------------------------------------------------------------------------
 */

enum field_kind { FIELD_TEXT, FIELD_NUMBER, FIELD_BOOL };

struct field {
	const char *name; /* "object.member" or "member" */
	enum field_kind kind;
	size_t offset;
	size_t size;
	uint64_t max;		     /* numbers */
	bool (*valid)(const char *); /* texts */
	bool optional;		     /* came with format 2: absent is 0 or "" */
	bool omitted;		     /* ... and is not written when it is "" or false */
};

#define TEXT(_name, _member, _valid)                                                               \
	{                                                                                          \
		_name, FIELD_TEXT, offsetof(struct manifest, _member),                             \
			sizeof(((struct manifest *)0)->_member), 0, _valid                         \
	}
#define NUMBER(_name, _member, _max)                                                               \
	{                                                                                          \
		_name, FIELD_NUMBER, offsetof(struct manifest, _member),                           \
			sizeof(((struct manifest *)0)->_member), _max, NULL                        \
	}
#define NUMBER_2(_name, _member, _max)                                                             \
	{                                                                                          \
		_name, FIELD_NUMBER, offsetof(struct manifest, _member),                           \
			sizeof(((struct manifest *)0)->_member), _max, NULL, true                  \
	}

static const struct field fields[] = {
	TEXT("id", id, id_is_valid),
	TEXT("name", name, is_label),
	TEXT("image_id", image_id, is_digest),
	TEXT("parent_id", parent_id, is_optional_id),
	TEXT("template_id", template_id, is_label),
	TEXT("source_id", source_id, is_optional_id),
	NUMBER("created_ns", created_ns, MAX_NUMBER),
	NUMBER("memory.bytes", memory_bytes, IMAGE_MAX_PAGES *DORM_PAGE_SIZE),
	NUMBER("cpus", cpus, 4096),
	TEXT("vmm.name", vmm, is_label),
	TEXT("vmm.version", vmm_version, is_text),
	TEXT("vmm.accel", accel, is_label),
	NUMBER("vmm.tsc_khz", tsc_khz, 1000000000),
	{"vmm.network", FIELD_BOOL, offsetof(struct manifest, network), sizeof(bool), 0, NULL, true,
	 true},
	TEXT("vmm.kernel_version", kernel_version, is_text),
	NUMBER("device.bytes", device_bytes, 1ull << 40),
	TEXT("device.digest", device_digest, is_optional_digest),
	{"prepared", FIELD_BOOL, offsetof(struct manifest, prepared), sizeof(bool), 0, NULL},
	NUMBER("stats.pages_given", stats.pages_given, MAX_NUMBER),
	NUMBER("stats.pages_zero", stats.pages_zero, MAX_NUMBER),
	NUMBER("stats.pages_unchanged", stats.pages_unchanged, MAX_NUMBER),
	NUMBER_2("stats.pages_shared", stats.pages_shared, MAX_NUMBER),
	NUMBER("stats.pages_stored", stats.pages_stored, MAX_NUMBER),
	NUMBER("stats.bytes_stored", stats.bytes_stored, MAX_NUMBER),
	NUMBER("stats.map_bytes", stats.map_bytes, MAX_NUMBER),
	NUMBER_2("lineage.sleeps", lineage_sleeps, UINT32_MAX),
	NUMBER_2("lineage.bytes_stored", lineage_stored, MAX_NUMBER),
	NUMBER_2("lineage.bytes_compacted", lineage_compacted, MAX_NUMBER),
	{"base.image_id", FIELD_TEXT, offsetof(struct manifest, base_image_id),
	 sizeof(((struct manifest *)0)->base_image_id), 0, is_digest, true, true},
	{"seal", FIELD_TEXT, offsetof(struct manifest, seal), sizeof(((struct manifest *)0)->seal),
	 0, is_seal, true},
};

static uint64_t load_number(const struct manifest *m, const struct field *f)
{
	const char *at = (const char *)m + f->offset;
	uint32_t v32;
	uint64_t v64;

	if (f->size == sizeof(v32)) {
		memcpy(&v32, at, sizeof(v32));
		return v32;
	}
	memcpy(&v64, at, sizeof(v64));
	return v64;
}

static void store_number(struct manifest *m, const struct field *f, uint64_t v)
{
	char *at = (char *)m + f->offset;
	uint32_t v32 = (uint32_t)v; /* the field's max was checked */

	if (f->size == sizeof(v32))
		memcpy(at, &v32, sizeof(v32));
	else
		memcpy(at, &v, sizeof(v));
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static json_t *field_to_json(const struct manifest *m, const struct field *f)
{
	switch (f->kind) {
	case FIELD_TEXT:
		return json_string((const char *)m + f->offset);
	case FIELD_NUMBER:
		return json_integer((json_int_t)load_number(m, f));
	case FIELD_BOOL:
		return json_boolean(*(const bool *)((const char *)m + f->offset));
	}
	return NULL;
}

/* Set "object.member" in @root, making the object when it is not there. */
static int set_member(json_t *root, const char *name, json_t *value_take)
{
	const char *dot = strchr(name, '.');
	char object[32];
	json_t *in = root;

	if (dot) {
		(void)snprintf(object, sizeof(object), "%.*s", (int)(dot - name), name);
		in = json_object_get(root, object);
		if (!in) {
			in = json_object();
			if (json_object_set_new(root, object, in) < 0) {
				json_decref(value_take);
				return -ENOMEM;
			}
		}
		name = dot + 1;
	}
	return json_object_set_new(in, name, value_take) < 0 ? -ENOMEM : 0;
}

static json_t *disks_to_json(const struct manifest *m)
{
	json_auto_t *list = json_array();

	for (uint32_t i = 0; i < m->n_disks; i++) {
		const struct snapshot_disk *d = &m->disks[i];
		json_t *disk =
			json_pack("{s:s, s:s, s:b, s:I}", "name", d->name, "format", d->format,
				  "read_only", d->read_only, "bytes", (json_int_t)d->size);

		if (disk && ((d->backing[0] &&
			      json_object_set_new(disk, "backing", json_string(d->backing)) < 0) ||
			     (d->virtual_bytes &&
			      json_object_set_new(disk, "virtual_bytes",
						  json_integer((json_int_t)d->virtual_bytes)) <
				      0) ||
			     (d->digest[0] &&
			      json_object_set_new(disk, "digest", json_string(d->digest)) < 0))) {
			json_decref(disk);
			return NULL;
		}
		if (json_array_append_new(list, disk) < 0)
			return NULL;
	}
	return take_ptr(list);
}

static bool is_omitted(const struct manifest *m, const struct field *f)
{
	return f->omitted && !*((const char *)m + f->offset);
}

json_t *manifest_to_json(const struct manifest *m)
{
	json_auto_t *root = json_pack("{s:s, s:{s:i, s:i}}", "format", FORMAT_NAME, "version",
				      "major", FORMAT_MAJOR, "minor", FORMAT_MINOR);

	if (!root)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (!is_omitted(m, &fields[i]) &&
		    set_member(root, fields[i].name, field_to_json(m, &fields[i])) < 0)
			return NULL;
	if (set_member(root, "memory.pages",
		       json_integer((json_int_t)(m->memory_bytes / DORM_PAGE_SIZE))) < 0 ||
	    set_member(root, "disks", disks_to_json(m)) < 0 ||
	    set_member(root, "prepare", m->prepare ? json_incref(m->prepare) : json_null()) < 0)
		return NULL;
	if (m->defaults && set_member(root, "defaults", json_incref(m->defaults)) < 0)
		return NULL;
	return take_ptr(root);
}

static json_t *layers_to_json(const struct manifest_files *files)
{
	json_auto_t *list = json_array();

	for (uint32_t i = 0; i < files->n_layers; i++) {
		const struct manifest_layer *l = &files->layers[i];
		json_t *layer = json_pack("{s:s, s:I, s:s}", "id", l->id, "bytes",
					  (json_int_t)l->bytes, "digest", l->digest);

		if (json_array_append_new(list, layer) < 0)
			return NULL;
	}
	return take_ptr(list);
}

/* Digest of @root, which has no member "digest". */
static int make_digest(const json_t *root, char ret[DIGEST_LEN + 1])
{
	_cleanup_free_ char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
	XXH128_canonical_t digest;

	if (!text)
		return -ENOMEM;
	XXH128_canonicalFromHash(&digest, XXH3_128bits(text, strlen(text)));
	str_hex(digest.digest, DIGEST_BYTES, ret);
	return 0;
}

static int finish(json_t *root, char **ret)
{
	char digest[DIGEST_LEN + 1];
	int r = make_digest(root, digest);

	if (r == 0)
		r = set_member(root, "digest", json_string(digest));
	if (r < 0)
		return error_trace(r);
	*ret = json_dumps(root, JSON_INDENT(2));
	return *ret ? 0 : -ENOMEM;
}

int manifest_encode(const struct manifest *m, const struct manifest_files *files, char **ret)
{
	json_auto_t *root = manifest_to_json(m);
	int r;

	if (!root)
		return -EINVAL; /* without memory, or a text that is not UTF-8 */
	r = set_member(root, "map.bytes", json_integer((json_int_t)files->map_bytes));
	if (r == 0)
		r = set_member(root, "layers", layers_to_json(files));
	return r < 0 ? error_trace(r) : finish(root, ret);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

#define refuse(_problem, _name, _why, ...)                                                         \
	image_corrupt(_problem, "manifest.json: field \"%s\": " _why, _name, ##__VA_ARGS__)

/* The value of "object.member"; NULL when it is not there. */
static json_t *find_member(const json_t *root, const char *name)
{
	const char *dot = strchr(name, '.');
	const json_t *in = root;
	char object[32];

	if (dot) {
		(void)snprintf(object, sizeof(object), "%.*s", (int)(dot - name), name);
		in = json_object_get(root, object);
	}
	return json_object_get(in, dot ? dot + 1 : name); /* NULL in, NULL out */
}

/* The same if it is of @type. */
static int get_member(const json_t *root, const char *name, json_type type, json_t **ret,
		      struct problem *problem)
{
	json_t *v = find_member(root, name);

	if (!v)
		return refuse(problem, name, "missing");
	if (json_typeof(v) != type && !(type == JSON_TRUE && json_is_false(v)))
		return refuse(problem, name, "wrong type");
	*ret = v;
	return 0;
}

static int get_text(const json_t *root, const char *name, size_t size, bool (*valid)(const char *),
		    char *ret, struct problem *problem)
{
	json_t *v;
	int r = get_member(root, name, JSON_STRING, &v, problem);

	if (r)
		return r;
	if (json_string_length(v) >= size)
		return refuse(problem, name, "%zu characters, limit %zu", json_string_length(v),
			      size - 1);
	if (strlen(json_string_value(v)) != json_string_length(v) || !valid(json_string_value(v)))
		return refuse(problem, name, "not allowed there: \"%.40s\"", json_string_value(v));
	str_copy(ret, size, json_string_value(v));
	return 0;
}

static int get_number(const json_t *root, const char *name, uint64_t max, uint64_t *ret,
		      struct problem *problem)
{
	json_t *v;
	int r = get_member(root, name, JSON_INTEGER, &v, problem);

	if (r)
		return r;
	if (json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return refuse(problem, name, "%lld is not within 0 and %llu",
			      (long long)json_integer_value(v), ull(max));
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int get_field(const json_t *root, const struct field *f, struct manifest *m,
		     struct problem *problem)
{
	char *at = (char *)m + f->offset;
	uint64_t number;
	json_t *v;
	int r;

	if (f->optional && !find_member(root, f->name))
		return 0;
	switch (f->kind) {
	case FIELD_TEXT:
		return get_text(root, f->name, f->size, f->valid, at, problem);
	case FIELD_NUMBER:
		r = get_number(root, f->name, f->max, &number, problem);
		if (r == 0)
			store_number(m, f, number);
		return r;
	case FIELD_BOOL:
		r = get_member(root, f->name, JSON_TRUE, &v, problem);
		if (r == 0)
			*(bool *)at = json_is_true(v);
		return r;
	}
	return -EINVAL;
}

static int check_memory(const json_t *root, const struct manifest *m, struct problem *problem)
{
	uint64_t pages;
	int r = get_number(root, "memory.pages", IMAGE_MAX_PAGES, &pages, problem);

	if (r)
		return r;
	if (m->memory_bytes == 0 || m->memory_bytes % DORM_PAGE_SIZE ||
	    m->memory_bytes / DORM_PAGE_SIZE != pages)
		return refuse(problem, "memory.bytes", "%llu bytes are not %llu pages",
			      ull(m->memory_bytes), ull(pages));
	return 0;
}

static int get_disk(const json_t *disk, const char *name, struct manifest *m,
		    struct problem *problem)
{
	struct snapshot_disk *d = &m->disks[m->n_disks];
	json_t *v;
	int r;

	r = get_text(disk, "name", sizeof(d->name), is_disk_name, d->name, problem);
	if (r == 0)
		r = get_text(disk, "format", sizeof(d->format), str_is_name, d->format, problem);
	if (r == 0)
		r = get_member(disk, "read_only", JSON_TRUE, &v, problem);
	if (r == 0)
		r = get_number(disk, "bytes", MAX_NUMBER, &d->size, problem);
	if (r == 0 && json_object_get(disk, "backing"))
		r = get_text(disk, "backing", sizeof(d->backing), is_disk_name, d->backing,
			     problem);
	if (r == 0 && json_object_get(disk, "virtual_bytes"))
		r = get_number(disk, "virtual_bytes", MAX_NUMBER, &d->virtual_bytes, problem);
	if (r == 0 && json_object_get(disk, "digest"))
		r = get_text(disk, "digest", sizeof(d->digest), is_digest, d->digest, problem);
	if (r)
		return r;
	d->read_only = json_is_true(v);
	for (uint32_t i = 0; i < m->n_disks; i++)
		if (!strcmp(m->disks[i].name, d->name))
			return refuse(problem, name, "\"%s\" is there twice", d->name);
	m->n_disks++;
	return 0;
}

static int get_disks(const json_t *root, struct manifest *m, struct problem *problem)
{
	json_t *list, *disk;
	size_t i;
	int r = get_member(root, "disks", JSON_ARRAY, &list, problem);

	if (r)
		return r;
	if (json_array_size(list) > SNAPSHOT_MAX_DISKS)
		return refuse(problem, "disks", "%zu of them, limit %d", json_array_size(list),
			      SNAPSHOT_MAX_DISKS);
	json_array_foreach (list, i, disk) {
		r = get_disk(disk, "disks", m, problem);
		if (r)
			return r;
	}
	return 0;
}

static int get_layers(const json_t *root, struct manifest_files *files, struct problem *problem)
{
	json_t *list, *layer;
	size_t i;
	int r = get_member(root, "layers", JSON_ARRAY, &list, problem);

	if (r)
		return r;
	if (json_array_size(list) > SNAPSHOT_MAX_LAYERS)
		return refuse(problem, "layers", "%zu of them, limit %d", json_array_size(list),
			      SNAPSHOT_MAX_LAYERS);
	files->layers = calloc(MAX(json_array_size(list), 1ul), sizeof(*files->layers));
	if (!files->layers)
		return -ENOMEM;
	json_array_foreach (list, i, layer) {
		struct manifest_layer *l = &files->layers[i];

		r = get_text(layer, "id", sizeof(l->id), is_digest, l->id, problem);
		if (r == 0)
			r = get_number(layer, "bytes", MAX_NUMBER, &l->bytes, problem);
		if (r == 0)
			r = get_text(layer, "digest", sizeof(l->digest), is_digest, l->digest,
				     problem);
		if (r)
			return r;
		files->n_layers++;
	}
	return 0;
}

static int check_format(const json_t *root, struct problem *problem)
{
	uint64_t major, minor;
	char format[32];
	int r;

	r = get_text(root, "format", sizeof(format), is_label, format, problem);
	if (r)
		return r;
	if (strcmp(format, FORMAT_NAME))
		return refuse(problem, "format", "\"%s\" is not a snapshot of Dormouse", format);
	r = get_number(root, "version.major", UINT16_MAX, &major, problem);
	if (r == 0)
		r = get_number(root, "version.minor", UINT16_MAX, &minor, problem);
	return r ? r : image_check_version("manifest.json", major, minor, problem);
}

/* Removes "digest" from @root. */
static int check_digest(json_t *root, struct problem *problem)
{
	char stored[DIGEST_LEN + 1], made[DIGEST_LEN + 1];
	int r = get_text(root, "digest", sizeof(stored), is_digest, stored, problem);

	if (r)
		return r;
	(void)json_object_del(root, "digest"); /* it is there */
	r = make_digest(root, made);
	if (r < 0)
		return error_trace(r);
	if (strcmp(stored, made))
		return refuse(problem, "digest", "checksum mismatch (stored 0x%s, read 0x%s)",
			      stored, made);
	return 0;
}

static bool is_text_member(json_t *o, const char *name)
{
	json_t *v = json_object_get(o, name);

	return !v || (json_is_string(v) && json_string_length(v) < 4096 &&
		      is_text(json_string_value(v)));
}

/* What was started before the template was saved, and is again when one of it boots. */
static bool is_start(json_t *start)
{
	json_t *command = json_object_get(start, "command");

	return !start || (json_is_string(command) && json_string_length(command) < 65536 &&
			  is_text_member(start, "user") && is_text_member(start, "workdir"));
}

/* What sandboxes get that ask for nothing else; it goes to the guest as it is. */
static int get_defaults(const json_t *root, struct manifest *m, struct problem *problem)
{
	json_t *defaults = json_object_get(root, "defaults"), *env, *value;
	const char *name;

	if (!defaults || json_is_null(defaults))
		return 0;
	env = json_object_get(defaults, "env");
	if (!json_is_object(defaults) || (env && !json_is_object(env)))
		return refuse(problem, "defaults", "wrong type");
	if (!is_text_member(defaults, "user") || !is_text_member(defaults, "workdir"))
		return refuse(problem, "defaults", "user or workdir is not a text");
	if (!is_start(json_object_get(defaults, "start")))
		return refuse(problem, "defaults.start", "not a command");
	json_object_foreach (env, name, value)
		if (!json_is_string(value) || !*name || strchr(name, '='))
			return refuse(problem, "defaults.env", "\"%.40s\" is not allowed there",
				      name);
	m->defaults = json_incref(defaults);
	return 0;
}

static int decode_members(const json_t *root, struct manifest *m, struct manifest_files *files,
			  struct problem *problem)
{
	json_t *prepare;
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(fields); i++)
		r = get_field(root, &fields[i], m, problem);
	if (r == 0)
		r = check_memory(root, m, problem);
	if (r == 0)
		r = get_number(root, "map.bytes", PAGE_MAP_MAX_BYTES, &files->map_bytes, problem);
	if (r == 0)
		r = get_disks(root, m, problem);
	if (r == 0)
		r = get_layers(root, files, problem);
	if (r)
		return r;
	prepare = json_object_get(root, "prepare");
	if (prepare && !json_is_null(prepare))
		m->prepare = json_incref(prepare);
	return get_defaults(root, m, problem);
}

int manifest_decode(const char *text, size_t len, struct problem *problem, struct manifest *ret,
		    struct manifest_files *ret_files)
{
	_cleanup_(manifest_files_deinit) struct manifest_files files = {0};
	_cleanup_(manifest_deinit) struct manifest m = {0};
	json_auto_t *root = NULL;
	json_error_t e;
	int r;

	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		return image_corrupt(problem, "manifest.json: offset %d: %s", e.position, e.text);
	if (!json_is_object(root))
		return image_corrupt(problem, "manifest.json: not an object");
	r = check_format(root, problem);
	if (r == 0)
		r = check_digest(root, problem);
	if (r == 0)
		r = decode_members(root, &m, &files, problem);
	if (r)
		return error_trace(r);
	*ret = m;
	m.prepare = NULL;
	m.defaults = NULL;
	*ret_files = files;
	files = (struct manifest_files){0};
	return 0;
}

int manifest_replace_id(const char *text, size_t len, const char *id, char **ret)
{
	json_auto_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	int r;

	if (!json_is_object(root))
		return error_trace(-EBADMSG);
	(void)json_object_del(root, "digest"); /* made anew */
	r = set_member(root, "id", json_string(id));
	return r < 0 ? error_trace(r) : finish(root, ret);
}

int manifest_read_text(int dirfd, struct problem *problem, char **ret, size_t *ret_len)
{
	_cleanup_fd_ int fd = -1;
	_cleanup_free_ char *text = NULL;
	uint64_t bytes;
	int r;

	if (faccessat(dirfd, "manifest.json", F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT) {
		problem_set(problem, 404, "manifest.json: missing: not a (complete) snapshot");
		return -ENOENT;
	}
	r = plain_file_open(dirfd, "manifest.json", "manifest.json", problem, &fd, &bytes);
	if (r)
		return r;
	if (bytes > MANIFEST_MAX_BYTES)
		return image_corrupt(problem, "manifest.json: %llu bytes, limit %u", ull(bytes),
				     MANIFEST_MAX_BYTES);
	text = malloc((size_t)bytes + 1);
	if (!text)
		return -ENOMEM;
	r = fd_pread_full(fd, text, (size_t)bytes, 0);
	if (r < 0) {
		problem_errno(problem, r, "manifest.json: reading %llu bytes", ull(bytes));
		return error_trace(r);
	}
	text[bytes] = 0;
	*ret = take_ptr(text);
	*ret_len = (size_t)bytes;
	return 0;
}

int manifest_read(int dirfd, struct problem *problem, struct manifest *ret,
		  struct manifest_files *ret_files)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = manifest_read_text(dirfd, problem, &text, &len);

	return r ? r : manifest_decode(text, len, problem, ret, ret_files);
}
