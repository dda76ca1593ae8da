/* SPDX-License-Identifier: Apache-2.0 */
/*
 * warm.c - a sandbox that was kept ready (pool.h) becomes somebody's
 *
 * What it has of its own stays: its id, its directory, its VM. What a client says of a sandbox it
 * gets now; its guest learns all that by the repair, like any copy of the template.
 */
#include "sandbox/private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "sandbox/pool.h"

/* Whoever adds a member to struct record decides whether become() takes it over from the client's,
 * and sets its new size here. */
#define RECORD_BYTES 1704
static_assert(sizeof(struct record) == RECORD_BYTES, "does become() know all members?");

static void replace(json_t **slot, json_t *value)
{
	json_incref(value);
	json_decref(*slot);
	*slot = value;
}

static void become(struct sandbox *sb, const struct record *like)
{
	struct record *r = &sb->record;
	LOCK_SCOPE(&sb->info);

	memcpy(r->template_id, like->template_id, sizeof(r->template_id));
	r->created_ns = clock_real_ns();
	r->end_ns = like->end_ns;
	r->timeout_s = like->timeout_s;
	r->auto_pause = like->auto_pause;
	r->auto_pause_disk = like->auto_pause_disk;
	r->auto_resume = like->auto_resume;
	memcpy(r->owner, like->owner, sizeof(r->owner));
	memcpy(r->request, like->request, sizeof(r->request));
	memcpy(r->token, like->token, sizeof(r->token));
	memcpy(r->traffic_token, like->traffic_token, sizeof(r->traffic_token));
	memcpy(r->mask_host, like->mask_host, sizeof(r->mask_host));
	replace(&r->metadata, like->metadata);
	replace(&r->envs, like->envs);
	replace(&r->network, like->network);
}

/* How its memory gets there was decided when it was made. Sleeping without memory needs a disk,
 * which is looked at where one is made from the beginning. */
static bool is_usual(const struct sandbox_memory_options *o, const struct record *like)
{
	return !like->auto_pause_disk && o->mode == PAGER_MODE_AUTO &&
	       o->wait == SANDBOX_WAIT_READY && !o->no_prefetch && !o->no_record &&
	       !o->reboot;
}

int sandbox_create_warm(struct host *host, int from, const struct record *like,
			const struct sandbox_memory_options *memory, char ret_id[ID_LEN + 1],
			struct sandbox_timings *timings)
{
	struct problem p = PROBLEM_INIT;
	struct sandbox *sb =
		is_usual(memory, like) ? pool_take(host->pool, like->template_id, from) : NULL;
	int r;

	if (!sb)
		return 0;
	op_begin(sb, OP_CREATE);
	become(sb, like);
	sandbox_event(sb, "sandbox.state",
		      json_pack("{s:s, s:s}", "state", "creating", "templateID",
				sb->record.template_id));
	sandbox_move_to_end(sb);
	r = quota_take(sb, &p);
	if (r == 0)
		r = sandbox_go(sb, &p, timings);
	if (r == 0)
		r = sandbox_come_to_life(sb, false, &p);
	if (r == 0) {
		memcpy(ret_id, sb->record.id, ID_LEN + 1);
	} else {
		/* if that is not the VM's fault, the one that is brought up instead says so, too */
		log_warn("sandbox=%s was kept ready and could not be used: %s", sb->record.id,
			 p.message);
		sandbox_discard(sb);
	}
	op_unlock(sb);
	sandbox_unref(sb);
	return r == 0;
}

int host_keep_warm(struct host *host, const char *id_or_name, unsigned n, struct problem *problem)
{
	char id[ID_LEN + 1];
	int r = snapshot_resolve(host, id_or_name, problem, id);

	return r < 0 ? r : pool_pin(host->pool, id_or_name, n, problem);
}
