/* SPDX-License-Identifier: Apache-2.0 */
/* images.c - GET /images: the contents of memory that are resident on this host, and who shares
 * them */
#include "sandbox/private.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

#define ASK_MS 5000

static json_int_t number(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

/* The sandboxes that run from it: the pager names its sessions by them. */
static json_t *sharers(const json_t *sessions, const char *image_id)
{
	json_t *all = json_array(), *s;
	size_t i;

	json_array_foreach (sessions, i, s) {
		const char *of = json_string_value(json_object_get(s, "resident_image"));

		if (of && !strcmp(of, image_id)) /* short of memory: left out */
			(void)json_array_append(all, json_object_get(s, "session"));
	}
	return all;
}

static json_t *describe(const json_t *image, const json_t *sessions)
{
	const json_int_t page = (json_int_t)DORM_PAGE_SIZE;
	const char *id = json_string_value(json_object_get(image, "image_id"));

	return json_pack("{s:s, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I}", "imageID", id ? id : "",
			 "memoryBytes", number(image, "n_pages") * page, "residentBytes",
			 number(image, "resident_pages") * page, "sharers",
			 number(image, "sessions"), "sandboxes", sharers(sessions, id ? id : ""),
			 "bytesRead", number(image, "bytes_read"), "framesLoaded",
			 number(image, "frames_loaded"), "evictedBytes",
			 number(image, "pages_evicted") * page, "refaultedBytes",
			 number(image, "pages_refaulted") * page);
}

int host_images(struct host *host, const char *image_id, struct problem *problem, json_t **ret)
{
	json_auto_t *stats = NULL, *all = json_array();
	json_t *image, *sessions;
	pid_t pid;
	size_t i;
	int r = host_pager(host, problem, &pid);

	if (r == 0)
		r = pager_client_stats(host->pager, deadline_after_ms(ASK_MS), &stats);
	if (r) {
		problem_errno(problem, r < 0 ? r : -EIO, "asking the pager for its images");
		return r < 0 ? error_trace(r) : -EIO;
	}
	sessions = json_object_get(stats, "sessions");
	json_array_foreach (json_object_get(stats, "images"), i, image) {
		const char *id = json_string_value(json_object_get(image, "image_id"));

		if (id && (!image_id || !strcmp(id, image_id)) &&
		    json_array_append_new(all, describe(image, sessions)) < 0)
			return -ENOMEM;
	}
	if (image_id && !json_array_size(all)) {
		problem_set(problem, 404, "no image %.64s is resident", image_id);
		return -ENOENT;
	}
	*ret = json_incref(image_id ? json_array_get(all, 0) : all);
	return *ret ? 0 : -ENOMEM;
}
